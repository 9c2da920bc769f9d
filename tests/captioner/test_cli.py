"""The command line: `captioner caption` with a stand-in for the model, and once with a real one."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from captioner.captioner import Candidate, Caption, Captioner
from captioner.cli import main
from captioner.collection.writers import TextFile
from captioner.errors import BrokenPictureError, ModelFolderError
from tests.kit import ROOT


class StandIn:
    """Captions a file with its own content, and calls it broken when that is "broken"."""

    def __init__(self, model: str | None) -> None:
        self.model = model
        self.manifest = SimpleNamespace(name="stand-in")
        self.asked: list[tuple[str, int, int]] = []

    def caption(self, content: bytes, beam_size: int, *, style: str, max_pixels: int) -> Caption:
        text = content.decode()
        self.asked.append((text, beam_size, max_pixels))
        if text == "broken":
            raise BrokenPictureError("The picture is broken; send another.")
        candidate = Candidate(text, 0.5, ())
        return Caption((candidate,), 0.0 if text == "A guess." else 0.5, confident=True)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[StandIn]:
    """The captioners that were loaded so far."""
    all_: list[StandIn] = []

    def load(count: int, model: str | None, words: str = "") -> list[StandIn]:
        if model == "nosuch":
            raise ModelFolderError("There is no model folder 'nosuch'; give the path of one.")
        all_.append(StandIn(model))
        return count * [all_[-1]]

    monkeypatch.setattr(Captioner, "load_several", load)
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
    (album / "@eaDir").mkdir()
    (album / "@eaDir" / "e.jpg").write_text("A thumbnail.")
    (album / "clip.mp4").write_text("A film.")
    return album


Output = pytest.CaptureFixture[str]


PASSED_OVER = (
    "passed over: .mp4 files (1), @eaDir folders (1), hidden files (1), hidden folders (1)"
)


def test_one_picture_is_one_line(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album/b.JPG"]) == 0
    assert capsys.readouterr() == ("A dog runs.\n", "")
    assert loaded[0].asked == [("A dog runs.", 3, 50_000_000)]
    assert loaded[0].model is None


def test_folders_are_walked_and_a_broken_file_is_not_the_end(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    assert main(["caption", "album", "album/notes.txt"]) == 1
    out, err = capsys.readouterr()
    assert out == (
        "album/b.JPG\tA dog runs.\nalbum/beach/c.webp\tTwo boys.\nalbum/notes.txt\tNot a picture.\n"
    )
    assert err.splitlines() == [
        "captioner: album/a.png: The picture is broken; send another.",
        f"captioner: 3 captioned, 1 failed; {PASSED_OVER}",
    ]


def test_json_lines(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album", "--jsonl", "--beam-size", "5", "nowhere"]) == 1
    out, _ = capsys.readouterr()
    entries = [json.loads(line) for line in out.splitlines()]
    assert entries[0] == {"image": "album/a.png", "error": "The picture is broken; send another."}
    assert entries[1] == {
        "image": "album/b.JPG", "sha256": hashlib.sha256(b"A dog runs.").hexdigest(),
        "caption": "A dog runs.", "candidates": [{"caption": "A dog runs.", "probability": 0.5}],
        "words": [], "confidence": 0.5, "confident": True, "photo": True, "model": "stand-in",
    }  # fmt: skip
    assert [entry["image"] for entry in entries[2:]] == ["album/beach/c.webp", "nowhere"]
    assert "There is no file 'nowhere'" in entries[3]["error"]
    assert {beam_size for _, beam_size, _ in loaded[0].asked} == {5}


def test_a_folder_without_pictures_is_an_error(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    (album / "empty").mkdir()
    assert main(["caption", "album/empty"]) == 1
    assert "captioner: album/empty: There is no picture in this folder." in capsys.readouterr().err
    assert loaded == [], "no model is needed for that"


def test_a_folder_that_cannot_be_read_is_an_error(
    loaded: list[StandIn], album: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the system's answer is put in place."""
    scandir = os.scandir

    def refused(path: str) -> Any:
        if Path(path).name == "beach":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert main(["caption", "album"]) == 1
    out, err = capsys.readouterr()
    assert out == "album/b.JPG\tA dog runs.\n" or out == "A dog runs.\n"
    assert "The folder 'album/beach' cannot be read (Permission denied)." in err


def test_a_line_break_in_a_name_breaks_no_line(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    (album / "two\nlines\t.jpg").write_text("A cat.")
    main(["caption", "album"])
    lines = capsys.readouterr().out.splitlines()
    assert '"album/two\\nlines\\t.jpg"\tA cat.' in lines
    assert len(lines) == 3


ODD_NAMES = [
    b"two\nlines", b"tab\t", b"\x1b[31mred", b"delete\x7f", "next\x85line".encode(),
    "\x9b31m".encode(), "\u2028 and \u2029".encode(), "\u202egpj.exe".encode(),
    "\u2066\u2069".encode(), b"bad \xff\xfe",
]  # fmt: skip
PLAIN_NAMES = [
    "caf\xe9 \u72ac",
    "\U0001f468\u200d\U0001f469",
    "100 % $a @b # 'c'",
    "\u0627\u0644\u0628\u062d\u0631",
    "\xa0",
]


def test_no_name_breaks_a_line_or_looks_like_another(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    """In the caption's line, in an error's and in the summary."""
    shutil.rmtree(album)
    for name in [*map(os.fsdecode, ODD_NAMES), *PLAIN_NAMES]:
        for folder, text in (("good", "A cat."), ("bad", "broken")):
            Path(folder).mkdir(exist_ok=True)
            Path(folder, f"{name}.jpg").write_text(text)
        Path("good", f"a.{name}").touch()
        Path("good", f"{name}.xmp").mkdir()  # cannot be read
    assert main(["caption", "good", "bad"]) == 1
    out, err = capsys.readouterr()
    for folder, lines in (("good", out.split("\n")), ("bad", err.split("\n"))):
        assert len(lines) == len(ODD_NAMES) + len(PLAIN_NAMES) + 1 + (folder == "bad")
        for odd in ODD_NAMES:
            name = json.dumps(f"{folder}/{os.fsdecode(odd)}.jpg")
            assert [line for line in lines if name in line], name
        for name in PLAIN_NAMES:
            assert [line for line in lines if f"{folder}/{name}.jpg" in line], name
    assert main(["caption", "good", "--write", "xmp"]) == 1
    for text in (out, err, capsys.readouterr().err):
        assert not re.search(
            r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text
        )
        text.encode()


def test_what_is_no_photo_is_marked(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    (album / "a.png").write_text("A guess.")
    marked = "Not a photo that I can describe. A guess: A guess.\n"
    assert main(["caption", "album/a.png"]) == 0
    assert capsys.readouterr().out == marked
    assert main(["caption", "album/a.png", "album/b.JPG"]) == 0
    assert capsys.readouterr().out == f"album/a.png\t{marked}album/b.JPG\tA dog runs.\n"


def test_stores_and_litter_are_passed_over_unless_they_are_named(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    shutil.rmtree(album / "@eaDir")
    names = [
        "@eaDir", "#recycle", "#snapshot", "@tmp", "@Recycle", "@__thumb", ".@__thumb", "__MACOSX",
        "$RECYCLE.BIN", "System Volume Information", "lost+found",
    ]  # fmt: skip
    stores = ["Photos Library.photoslibrary", "Old.aplibrary", "Catalog Previews.lrdata"]
    for name in names + stores:
        (album / name / "deep").mkdir(parents=True)
        (album / name / "deep" / "a.jpg").write_text(name)
    main(["caption", "album"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    for name in [*names, ".photoslibrary", ".aplibrary", ".lrdata"]:
        assert f"{name} folders (1)" in err
    main(["caption", *(str(album / name) for name in stores)])
    assert [text for text, _, _ in loaded[-1].asked] == stores


def test_every_suffix_of_a_jpeg(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    shutil.rmtree(album)
    album.mkdir()
    for suffix in ("jpg", "JPEG", "jpe", "jfif", "jif", "jfi", "pjpeg", "pjp", "mpo"):
        (album / f"a.{suffix}").write_text("A dog runs.")
    assert main(["caption", "album"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 9


def test_names_that_begin_with_a_dash(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    for name in ("-a.jpg", "--jsonl", "--"):
        Path(name).write_text(f"Photo {name}.")
    assert main(["caption", "--beam-size", "1", "--", "-a.jpg"]) == 0
    assert capsys.readouterr().out == "Photo -a.jpg.\n"
    assert main(["caption", "--", "album/b.JPG", "--jsonl", "-a.jpg"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_links_to_folders_are_counted(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    (album / "again").symlink_to(album)
    main(["caption", "album"])
    out, err = capsys.readouterr()
    assert out.count("A dog runs.") == 1
    assert "links to folders (1)" in err


def test_a_hidden_folder_that_is_named_is_walked(
    loaded: list[StandIn], album: Path, capsys: Output
) -> None:
    assert main(["caption", "album/.trash"]) == 0
    assert capsys.readouterr().out == "Deleted.\n"


def test_settings_hold_here_too(
    loaded: list[StandIn], album: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("CAPTIONER_MODEL", "other")
    monkeypatch.setenv("CAPTIONER_MAX_UPLOAD_MB", "1")
    monkeypatch.setenv("CAPTIONER_MAX_PIXELS", "1000")
    assert main(["caption", "album/b.JPG"]) == 0
    assert loaded[0].model == "other"
    assert loaded[0].asked == [("A dog runs.", 3, 1000)]
    (album / "large.jpg").write_bytes(b"x" * (2**20 + 1))
    assert main(["caption", "album/large.jpg"]) == 0, "that limit is one of uploads"
    capsys.readouterr()
    monkeypatch.setenv("APP1_PROT", "5001")
    assert main(["caption", "album/b.JPG"]) == 2
    assert "did you mean APP1_PORT?" in capsys.readouterr().err


def test_a_model_that_cannot_be_used(loaded: list[StandIn], album: Path, capsys: Output) -> None:
    assert main(["caption", "album", "--model", "nosuch"]) == 1
    assert capsys.readouterr() == (
        "",
        "captioner: There is no model folder 'nosuch'; give the path of one.\n",
    )


def test_shards_take_every_picture_once(loaded: list[StandIn], album: Path) -> None:
    """By the path below the named folder, so that the mount point does not matter."""
    for number in range(30):
        (album / f"{number}.jpg").write_text(f"Photo {number}.")
    moved = shutil.copytree(album, album.parent / "mounted elsewhere")
    taken = []
    for place in (album, moved):
        shards = []
        for own in (1, 2, 3):
            main(["caption", str(place), "--shard", f"{own}/3"])
            shards.append({text for text, _, _ in loaded[-1].asked})
        assert sum(map(len, shards)) == len(set().union(*shards)) == 33
        assert min(map(len, shards)) > 3
        taken.append(shards)
    assert taken[0] == taken[1]


class TestResults:
    """`--output` and `--csv`: a collection in several goes."""

    def run(self, *paths: str, to: str = "captions.jsonl") -> int:
        return main(["caption", *paths, "--csv" if to.endswith(".csv") else "--output", to])

    def entries(self, file: str = "captions.jsonl") -> list[dict[str, Any]]:
        text = Path(file).read_bytes().decode()
        if file.endswith(".csv"):
            rows = csv.DictReader(io.StringIO(text, newline=""))
            return [{column: cell for column, cell in row.items() if cell} for row in rows]
        return [json.loads(line) for line in text.splitlines()]

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    def test_what_is_there_is_not_done_again_but_what_failed_is(
        self, loaded: list[StandIn], album: Path, capsys: Output, file: str
    ) -> None:
        assert self.run("album/b.JPG", to=file) == 0
        assert self.run("album", to=file) == 1
        (album / "a.png").write_text("A drive that was away.")
        assert self.run("album", to=file) == 0
        entries = self.entries(file)
        assert [(Path(e["image"]).name, "error" in e) for e in entries] == [
            ("b.JPG", False), ("a.png", True), ("c.webp", False), ("a.png", False),
        ]  # fmt: skip
        assert [len(captioner.asked) for captioner in loaded] == [1, 2, 1]
        out, err = capsys.readouterr()
        assert out == ""
        assert "captioner: 1 captioned, 2 known already; " in err

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    def test_a_picture_is_known_by_its_content(
        self, loaded: list[StandIn], album: Path, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        (album / "a.png").write_text("A cat.")
        self.run("album", to=file)
        place = album.parent / "mounted elsewhere"
        shutil.move(album, place / "album")
        (place / "album" / "b.JPG").rename(place / "album" / "renamed.jpg")
        monkeypatch.chdir(place)
        assert self.run(".", to=f"../{file}") == 0
        assert loaded[-1].asked == []
        (place / "album" / "copy.jpg").write_text("A cat.")
        self.run(".", to=f"../{file}")
        assert [text for text, _, _ in loaded[-1].asked] == ["A cat."], "each file has its entry"

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    def test_wherever_a_kill_has_cut_the_file_off_the_rest_is_done(
        self, loaded: list[StandIn], album: Path, file: str
    ) -> None:
        (album / "a.png").write_text("A cat, with a comma\nand a line break.")
        self.run("album", to=file)
        whole = Path(file).read_bytes()
        for end in range(len(whole)):
            Path(file).write_bytes(whole[:end])
            assert self.run("album", to=file) == 0
            assert Path(file).read_bytes() == whole

    @pytest.mark.parametrize(
        "row",
        [
            'x.jpg,0,"My "own" words.",0.5,true,true,m,',
            'x.jpg,0,"My words.,0.5,true,true,m,',
            "x.jpg,0,My words, of two parts.,0.5,true,true,m,",
            "x.jpg,0,My\rwords.,0.5,true,true,m,",
            "My own line.",
            '"My own line."x',
        ],
    )
    @pytest.mark.parametrize("place", ["before others", "last"])
    def test_what_a_person_made_of_a_row_is_never_cut_off(
        self, loaded: list[StandIn], album: Path, capsys: Output, row: str, place: str
    ) -> None:
        self.run("album", to="captions.csv")
        header, first, *others = Path("captions.csv").read_text().splitlines()
        lines = [header, first, row, *others] if place == "before others" else [header, first, row]
        # An open quote in the last row cannot be told from a kill, so a whole one is after it.
        lines += [first] if row.count('"') == 1 else []
        for end in ("\n", "") if row.endswith("x") else ("\n",):
            content = ("\n".join(lines) + end).encode()
            Path("captions.csv").write_bytes(content)
            assert self.run("album", to="captions.csv") == 1
            assert "captions.csv holds something else in line 3" in capsys.readouterr().err
            assert Path("captions.csv").read_bytes() == content

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    def test_a_last_line_without_its_end_and_empty_lines_are_kept(
        self, loaded: list[StandIn], album: Path, file: str
    ) -> None:
        self.run("album/b.JPG", to=file)
        edited = Path(file).read_text().replace("A dog runs.", "My dog runs.")
        for content in (edited, edited.removesuffix("\n"), edited + "\n\n"):
            Path(file).write_text(content)
            self.run("album/b.JPG", "album/beach", to=file)
            assert Path(file).read_text().startswith(content)
            assert len(loaded[-1].asked) == 1

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    def test_every_character_of_a_name_comes_back(
        self, loaded: list[StandIn], album: Path, file: str
    ) -> None:
        codes = [*range(1, 256), 0x2028, 0x2029, 0x202E, 0xDC80, 0xDCFF, 0x1F600]
        for code in set(codes) - {ord("/"), 0xDC80 - 0xDC00}:
            (album / f"_{chr(code)}_.jpg").write_text(f"Photo {code}.")
        self.run("album", to=file)
        before = Path(file).read_bytes()
        self.run("album", to=file)
        again = Path(file).read_bytes()
        assert again.startswith(before)
        text = again.decode("utf-8", "surrogateescape")
        names = (
            [row[0] for row in csv.reader(io.StringIO(text, newline=""))]
            if file.endswith(".csv")
            else [json.loads(line)["image"] for line in text.splitlines()]
        )
        assert {f"_{chr(code)}_.jpg" for code in codes if code not in (47, 128)} <= {
            Path(name).name for name in names
        }

    @pytest.mark.parametrize("option", ["--output", "--csv"])
    def test_pipes_and_devices_are_only_written_to(
        self, loaded: list[StandIn], album: Path, capsys: Output, option: str
    ) -> None:
        assert main(["caption", "album/b.JPG", option, "/dev/full"]) == 1
        assert "/dev/full cannot be written (No space left on device)" in capsys.readouterr().err
        assert main(["caption", "album/b.JPG", option, "/dev/null"]) == 0
        os.mkfifo("pipe")
        reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
        assert main(["caption", "album/b.JPG", option, "pipe"]) == 0
        assert b"A dog runs." in os.read(reader, 10_000)
        os.close(reader)

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

    @pytest.mark.parametrize("file", ["captions.jsonl", "captions.csv"])
    @pytest.mark.parametrize(
        "content", ["Dear diary,\n", "Dear diary,", "[1]\n", '{"a": 1}\n', '{"a": 1}', '"x"\n']
    )
    def test_other_files_are_left_alone(
        self, loaded: list[StandIn], album: Path, capsys: Output, content: str, file: str
    ) -> None:
        Path(file).write_text(content)
        assert self.run("album", to=file) == 1
        assert f"{file} holds something else in line 1" in capsys.readouterr().err
        assert Path(file).read_text() == content

    def test_a_place_that_cannot_be_written(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        assert self.run("album", to="nowhere/captions.jsonl") == 1
        assert "cannot be written (No such file or directory)" in capsys.readouterr().err
        assert loaded == [], "that is found out before the model is loaded"


class TestWrite:
    """`--write`: captions beside the photos."""

    def test_text_files_and_what_has_words_already(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        (album / "b.txt").write_text("My own words.\n")
        (album / "a.png").write_text("A guess.")
        assert main(["caption", "album", "--write", "txt"]) == 0
        assert (album / "b.txt").read_text() == "My own words.\n"
        assert (album / "beach" / "c.txt").read_text() == "Two boys.\n"
        assert not (album / "a.txt").exists(), "what is no photo gets no sentence"
        out, err = capsys.readouterr()
        assert out == ""
        assert "1 captioned, 1 no photo, 1 described already; " in err
        assert [text for text, _, _ in loaded[0].asked] == ["A guess.", "Two boys."]

    @pytest.mark.parametrize(
        ("policy", "text"),
        [("replace", "A dog runs.\n"), ("append", "My own words.\nA dog runs.\n")],
    )
    def test_only_when_asked_words_are_changed(
        self, loaded: list[StandIn], album: Path, policy: str, text: str
    ) -> None:
        (album / "b.txt").write_text("My own words.\n")
        for _ in range(2):
            arguments = ["caption", "album/b.JPG", "--write", "txt", "--if-exists", policy]
            assert main(arguments) == 0
            assert (album / "b.txt").read_text() == text

    @pytest.mark.parametrize("error", [OSError(5, "Input/output error"), UnicodeError("odd")])
    @pytest.mark.parametrize("method", ["existing", "write"])
    def test_no_failure_of_one_picture_ends_the_run(
        self, loaded: list[StandIn], album: Path, capsys: Output,
        monkeypatch: pytest.MonkeyPatch, error: Exception, method: str,
    ) -> None:  # fmt: skip
        own = getattr(TextFile, method)

        def failing(self: TextFile, picture: Path, *args: Any) -> Any:
            if picture.name == "b.JPG":
                raise error
            return own(self, picture, *args)

        monkeypatch.setattr(TextFile, method, failing)
        assert main(["caption", "album", "--write", "txt"]) == 1
        assert "album/b.JPG: This picture cannot be done (" in capsys.readouterr().err
        assert (album / "beach" / "c.txt").exists()

    @pytest.mark.parametrize("kind", ["xmp", "txt", "embed"])
    @pytest.mark.parametrize("name", [b"bad \xff.jpg", b"x" * 251 + b".jpg"])
    def test_no_name_ends_the_run(
        self, loaded: list[StandIn], album: Path, capsys: Output, kind: str, name: bytes
    ) -> None:
        if kind == "embed" and not shutil.which("exiftool"):
            pytest.skip("exiftool is not installed")
        shutil.rmtree(album)
        album.mkdir()
        for file in (name, b"z.jpg"):
            (album / os.fsdecode(file)).write_text("A dog runs.")
        main(["caption", "album", "--write", kind])
        assert [text for text, _, _ in loaded[-1].asked] == ["A dog runs.", "A dog runs."]

    def test_a_write_that_fails_is_an_error_of_that_picture(
        self, loaded: list[StandIn], album: Path, capsys: Output
    ) -> None:
        (album / "b.txt").mkdir()
        arguments = ["caption", "album/b.JPG", "album/beach", "--write", "txt", "--output", "o"]
        assert main(arguments) == 1
        assert (album / "beach" / "c.txt").exists()
        assert "b.txt cannot be written" in capsys.readouterr().err
        assert "error" in Path("o").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["caption"], "PATH"),
        (["caption", "a.jpg", "--beam-size", "11"], "--beam-size"),
        (["caption", "a.jpg", "--shard", "5/4"], "is not I/N"),
        (["caption", "a.jpg", "--write", "wall"], "invalid choice: 'wall'"),
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
    assert [*red] == [
        "image", "sha256", "caption", "candidates", "words", "confidence", "confident", "photo",
        "model",
    ]  # fmt: skip
    assert red["image"] == str(tmp_path / "red.jpg")
    assert len(red["candidates"]) == 3
    assert red["caption"] == red["candidates"][0]["caption"]


class TestWorkers:
    """Several pictures at the same time."""

    @pytest.mark.parametrize("number", [1, 2, 7])
    def test_captions_are_in_the_order_of_the_pictures(
        self, loaded: list[StandIn], tmp_path: Path, capsys: Output, number: int,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """Whichever is done first, and a broken one in its place."""
        for n in range(20):
            (tmp_path / f"{n:02}.jpg").write_text("broken" if n == 11 else f"Number {n}.")
        at_work, most = [], []
        real = StandIn.caption

        def slowly(self: StandIn, content: bytes, *args: Any, **options: Any) -> Caption:
            at_work.append(1)
            most.append(len(at_work))
            time.sleep(0.001 * (int.from_bytes(hashlib.sha256(content).digest()[:1], "big") % 9))
            at_work.pop()
            return real(self, content, *args, **options)

        monkeypatch.setattr(StandIn, "caption", slowly)
        assert main(["caption", "--workers", str(number), "--jsonl", str(tmp_path)]) == 1
        entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [Path(entry["image"]).name for entry in entries] == [
            f"{n:02}.jpg" for n in range(20)
        ]
        assert [entry.get("caption") for entry in entries] == [
            None if n == 11 else f"Number {n}." for n in range(20)
        ]
        assert max(most) <= number

    def test_each_of_several_files_with_one_content_gets_an_entry(
        self, loaded: list[StandIn], tmp_path: Path
    ) -> None:
        for name in ("a.jpg", "b.jpg", "c.jpg"):
            (tmp_path / name).write_text("A dog.")
        out = tmp_path / "out.jsonl"
        for _ in range(2):
            assert main(["caption", "--workers", "3", "--output", str(out), str(tmp_path)]) == 0
            assert len(out.read_text().splitlines()) == 3

    @pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
    def test_what_is_no_number_of_workers(self, tmp_path: Path, capsys: Output, text: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["caption", f"--workers={text}", str(tmp_path)])
        assert ended.value.code == 2
        assert "must be a whole number from 1 to 256, or auto" in capsys.readouterr().err
