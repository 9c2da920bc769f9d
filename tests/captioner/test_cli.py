"""The command line: `captioner caption` with a stand-in for the model, and once with a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captioner.captioner import Captioner
from captioner.cli import main
from captioner.errors import BrokenPictureError, ModelFolderError
from tests.kit import ROOT


class StandIn:
    """Captions a file with its own content, and calls it broken when that is "broken"."""

    def __init__(self, model: str | None) -> None:
        self.model = model
        self.asked: list[tuple[str, int, int, int]] = []

    def caption(self, path: str, beam_size: int, *, max_bytes: int, max_pixels: int) -> StandIn:
        self.asked.append((path, beam_size, max_bytes, max_pixels))
        self.content = Path(path).read_text() if Path(path).is_file() else "broken"
        if self.content == "broken":
            raise BrokenPictureError("The picture is broken; send another.")
        return self

    def to_dict(self) -> dict[str, Any]:
        return {"caption": self.content, "candidates": [], "words": [], "confident": True}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The captioners that were loaded so far."""
    all_: list[StandIn] = []

    def load(model: str | None) -> StandIn:
        if model == "nosuch":
            raise ModelFolderError("There is no model folder 'nosuch'; give the path of one.")
        all_.append(StandIn(model))
        return all_[-1]

    monkeypatch.setattr(Captioner, "load", load)
    return all_


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder `album` in the working directory, with pictures and other things."""
    monkeypatch.chdir(tmp_path)
    album = tmp_path / "album"
    (album / "beach").mkdir(parents=True)
    (album / ".trash").mkdir()
    (album / "b.JPG").write_text("A dog runs.")
    (album / "a.png").write_text("broken")
    (album / "beach" / "c.webp").write_text("Two boys.")
    (album / "notes.txt").write_text("Not a picture.")
    (album / ".hidden.jpg").write_text("Hidden.")
    (album / ".trash" / "d.jpg").write_text("Deleted.")
    return album


Output = pytest.CaptureFixture[str]


def test_one_picture_is_one_line(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album/b.JPG"]) == 0
    assert capsys.readouterr() == ("A dog runs.\n", "")
    assert loaded[0].asked == [("album/b.JPG", 3, 20 * 2**20, 50_000_000)]
    assert loaded[0].model is None


def test_folders_are_walked_and_a_broken_file_is_not_the_end(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    assert main(["caption", "album", "album/notes.txt"]) == 1
    out, err = capsys.readouterr()
    assert out == (
        "album/b.JPG\tA dog runs.\nalbum/beach/c.webp\tTwo boys.\nalbum/notes.txt\tNot a picture.\n"
    )
    assert err == "captioner: album/a.png: The picture is broken; send another.\n"


def test_json_lines(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album", "--jsonl", "--beam-size", "5", "nowhere"]) == 1
    out, err = capsys.readouterr()
    broken = "The picture is broken; send another."
    good = {"candidates": [], "words": [], "confident": True}
    assert [json.loads(line) for line in out.splitlines()] == [
        {"image": "album/a.png", "error": broken},
        {"image": "album/b.JPG", "caption": "A dog runs.", **good},
        {"image": "album/beach/c.webp", "caption": "Two boys.", **good},
        {"image": "nowhere", "error": broken},
    ]
    assert err == ""
    assert {beam_size for _, beam_size, _, _ in loaded[0].asked} == {5}


def test_a_folder_without_pictures_is_an_error(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    (album / "empty").mkdir()
    assert main(["caption", "album/empty"]) == 1
    assert capsys.readouterr().err.startswith("captioner: album/empty: ")


def test_settings_hold_here_too(
    loaded: list[StandIn], album: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("CAPTIONER_MODEL", "other")
    monkeypatch.setenv("CAPTIONER_MAX_UPLOAD_MB", "1")
    monkeypatch.setenv("CAPTIONER_MAX_PIXELS", "1000")
    assert main(["caption", "album/b.JPG"]) == 0
    assert loaded[0].model == "other"
    assert loaded[0].asked == [("album/b.JPG", 3, 2**20, 1000)]
    monkeypatch.setenv("APP1_PROT", "5001")
    assert main(["caption", "album/b.JPG"]) == 2
    assert "did you mean APP1_PORT?" in capsys.readouterr().err


def test_a_model_that_cannot_be_used(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album", "--model", "nosuch"]) == 1
    assert capsys.readouterr() == (
        "",
        "captioner: There is no model folder 'nosuch'; give the path of one.\n",
    )


class TestOutput:
    """`--output`: a collection in several goes."""

    def run(self, *paths: str) -> int:
        return main(["caption", *paths, "--output", "captions.jsonl"])

    def entries(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in Path("captions.jsonl").read_text().splitlines()]

    def test_what_is_there_is_not_done_again(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        assert self.run("album/b.JPG") == 0
        assert self.run("album") == 1
        assert self.run("album") == 1  # the broken one still is
        assert [entry["image"] for entry in self.entries()] == [
            "album/b.JPG", "album/a.png", "album/beach/c.webp",
        ]  # fmt: skip
        assert [len(captioner.asked) for captioner in loaded] == [1, 2]
        assert capsys.readouterr() == ("", "")

    def test_a_picture_is_the_same_however_its_path_is_written(
        self, loaded: list[StandIn], album: Path
    ) -> None:
        self.run("album/b.JPG", "./album/b.JPG", str(album / "b.JPG"))
        self.run(".//album/../album", str(album))
        assert [Path(entry["image"]).name for entry in self.entries()] == [
            "b.JPG", "a.png", "c.webp",
        ]  # fmt: skip

    def test_wherever_a_kill_has_cut_the_file_off_the_rest_is_done(
        self, loaded: list[StandIn], album: Path
    ) -> None:
        self.run("album")
        whole = Path("captions.jsonl").read_bytes()
        for end in range(len(whole)):
            Path("captions.jsonl").write_bytes(whole[:end])
            assert self.run("album") == 1
            assert Path("captions.jsonl").read_bytes() == whole
            assert len(loaded[-1].asked) == 3 - whole[:end].count(b"\n")

    def test_two_at_once_do_not_get_in_each_others_way(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        fcntl = pytest.importorskip("fcntl")
        self.run("album/b.JPG")
        content = Path("captions.jsonl").read_bytes()
        with Path("captions.jsonl").open("a") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            assert self.run("album") == 1
        assert "Another captioner is writing captions.jsonl" in capsys.readouterr().err
        assert Path("captions.jsonl").read_bytes() == content
        assert self.run("album") == 1
        assert len(self.entries()) == 3

    @pytest.mark.parametrize(
        "content", ["Dear diary,\n", "Dear diary,", "[1]\n", '{"a": 1}\n', '{"a": 1}', '"x"\n']
    )
    def test_other_files_are_left_alone(
        self, loaded: list[StandIn], album: Path, capsys: Output, content: str
    ) -> None:
        Path("captions.jsonl").write_text(content)
        assert self.run("album") == 1
        assert "captions.jsonl holds something else in line 1" in capsys.readouterr().err
        assert Path("captions.jsonl").read_text() == content

    def test_a_place_that_cannot_be_written(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        assert main(["caption", "album", "--output", "nowhere/captions.jsonl"]) == 1
        assert "cannot be written (No such file or directory)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["caption"], "PATH"),
        (["caption", "a.jpg", "--beam-size", "11"], "--beam-size"),
        (["evaluate"], "--data"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def in_the_checkout(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["", "caption", "evaluate", "up"])
def test_help_loads_no_model_runtime(command: str) -> None:
    code = (
        "import sys; from captioner.cli import main\n"
        f"try: main({[*command.split(), '--help']!r})\n"
        "except SystemExit: pass\n"
        "print(sorted({'numpy', 'cv2', 'ai_edge_litert', 'keras', 'tensorflow'} & {*sys.modules}))"
    )
    ended = in_the_checkout("-c", code)
    assert ended.stdout.splitlines()[0].startswith(f"usage: captioner {command}".rstrip())
    assert ended.stdout.splitlines()[-1] == "[]"


def test_from_the_checkout_with_a_model(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    (tmp_path / "red.jpg").write_bytes(picture("jpeg"))
    (tmp_path / "cut.png").write_bytes(picture("png")[:-30])
    ended = in_the_checkout(
        "-m", "captioner", "caption", str(tmp_path), "--jsonl", "--model", str(tiny_model)
    )
    assert ended.returncode == 1, ended.stderr
    cut, red = (json.loads(line) for line in ended.stdout.splitlines())
    assert [*cut] == ["image", "error"]
    assert [*red] == ["image", "caption", "candidates", "words", "confidence", "confident"]
    assert red["image"] == str(tmp_path / "red.jpg")
    assert len(red["candidates"]) == 3
    assert red["caption"] == red["candidates"][0]["caption"]
