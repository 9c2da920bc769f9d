"""`captioner ray` on a real cluster of two nodes; a test kills one. Its rules, without Ray."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import psutil
import pytest

from benchmarks.photos import photos
from captioner.cli import main
from captioner.collection import cluster
from captioner.collection.cluster import RAY, Job, PartCaptioner
from captioner.collection.parts import SMALLEST, Parts, PartsError
from captioner.collection.storage import Folder
from captioner.collection.walk import Walk
from tests.kit import ROOT
from tests.kit.servers import free_port, wait_until

PHOTOS, FOLDERS = 300, 8

Output = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """The command sets variables for Ray, which reads them from there."""
    with patch.dict(os.environ):
        yield


def rows_of(output: Path) -> list[dict[str, Any]]:
    """All entries of a folder of results, in the order of their pictures."""
    lines = [x for path in output.glob("jsonl/*.jsonl") for x in path.read_text().splitlines()]
    return sorted(map(json.loads, lines), key=lambda row: str(row["image"]))


def columns_of(output: Path) -> list[dict[str, Any]]:
    """The same from Parquet, without what is empty."""
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(path) for path in output.glob("parquet/*.parquet")]
    rows = [row for table in tables for row in table.to_pylist()]
    rows = [{key: value for key, value in row.items() if value is not None} for row in rows]
    return sorted(rows, key=lambda row: str(row["image"]))


class Command:
    """`captioner ray` as a process of its own."""

    def __init__(self, *arguments: object) -> None:
        self._mark = f"OF_A_TEST={secrets.token_hex(16)}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "captioner", "ray", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **dict([self._mark.split("=")])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def ended(self, status: int = 0) -> str:
        """What it has written to stderr; its stdout stays empty."""
        out, err = self.process.communicate()
        assert (self.process.returncode, out) == (status, ""), err
        return err

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()

    def left(self) -> list[psutil.Process]:
        """The processes that it has started and that are still there."""
        name, value = self._mark.split("=")
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(name) == value:
                    found.append(process)
        return found


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred photos, each in several folders, so that there is time for a death."""
    album = tmp_path_factory.mktemp("album")
    for number, photo in enumerate(photos(PHOTOS)):
        first = album / "0" / f"{number:04}.jpg"
        first.parent.mkdir(exist_ok=True)
        first.write_bytes(photo)
        for folder in range(1, FOLDERS):
            (album / str(folder)).mkdir(exist_ok=True)
            os.link(first, album / str(folder) / first.name)
    return album


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A Ray cluster whose first node has one core."""
    with pytest.MonkeyPatch.context() as environment:
        # Ray reads these as it is loaded.
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        environment.setenv("RAY_worker_niceness", "0")  # other tests run at the same time
        # A dead node is found dead within seconds.
        environment.setenv("RAY_health_check_period_ms", "500")
        environment.setenv("RAY_health_check_failure_threshold", "4")
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args=node())
        yield nodes
        nodes.shutdown()


def node() -> dict[str, Any]:
    return {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


def works(node: Any) -> bool:
    """Whether an actor of ours is at work on a node."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return any("MapWorker" in " ".join(child.cmdline()) for child in raylet.children())


def parts_in(output: Path) -> int:
    return len([*output.glob("jsonl/0*.jsonl")])


def planned_in(output: Path) -> int:
    return sum(len(json.loads(path.read_bytes())) for path in output.glob("plan/*.json"))


def test_a_node_that_dies_costs_no_photo(
    nodes: Any, album: Path, tiny_model: Path, tmp_path: Path
) -> None:
    second = nodes.add_node(**node())
    nodes.wait_for_nodes()
    output = tmp_path / "out"
    command = Command(album, "--output", output, "--address", nodes.address,
                      "--model", tiny_model)  # fmt: skip
    wait_until(lambda: parts_in(output) >= 3 and works(second), 60)
    nodes.remove_node(second, allow_graceful=False)
    assert parts_in(output) < planned_in(output)  # it was in the middle
    assert f"captioner: {PHOTOS * FOLDERS} captioned\n" in command.ended()
    everything = sorted(str(path) for path in album.rglob("*.jpg"))
    assert [row["image"] for row in rows_of(output)] == everything
    assert [row["image"] for row in columns_of(output)] == everything


def test_a_driver_that_is_killed_goes_on(
    nodes: Any, album: Path, tiny_model: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = (album, "--output", output, "--address", nodes.address, "--model", tiny_model)
    command = Command(*arguments)
    wait_until(lambda: parts_in(output) >= 3, 60)
    command.kill()
    first = {path.name: path.stat().st_ino for path in output.glob("jsonl/0*.jsonl")}
    assert len(first) < planned_in(output)
    counts = re.search(r"captioner: (\d+) captioned, (\d+) known", Command(*arguments).ended())
    assert counts
    assert sum(map(int, counts.groups())) == PHOTOS * FOLDERS
    assert int(counts[2]) >= 3 * SMALLEST
    assert {name: (output / "jsonl" / name).stat().st_ino for name in first} == first
    everything = sorted(str(path) for path in album.rglob("*.jpg"))
    assert [row["image"] for row in rows_of(output)] == everything
    assert [row["image"] for row in columns_of(output)] == everything


def test_from_an_object_store_into_it_with_a_ray_of_its_own(
    tiny_model: Path, tmp_path: Path
) -> None:
    from moto.server import ThreadedMotoServer
    from pyarrow.fs import FileSelector, S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", free_port(), verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    access = {
        "AWS_ACCESS_KEY_ID": "of-the-test", "AWS_SECRET_ACCESS_KEY": "of-the-test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    options = f"?scheme=http&endpoint_override={host}:{port}"
    with patch.dict(os.environ, access):
        store = S3FileSystem(endpoint_override=f"http://{host}:{port}", allow_bucket_creation=True)
        store.create_dir("holiday")
        files = {f"holiday/2026/{n}.jpg": photo for n, photo in enumerate(photos(10))}
        files |= {"holiday/2026/beach/broken.jpg": b"broken", "holiday/2026/@eaDir/1.jpg": b""}
        for path, content in files.items():
            with store.open_output_stream(path) as stream:
                stream.write(content)
        try:
            arguments = (f"s3://holiday/2026{options}", "--output", f"s3://holiday/out{options}",
                         "--model", tiny_model, "--workers", 2)  # fmt: skip
            command = Command(*arguments)
            err = command.ended(status=1)
            assert err.splitlines()[0].startswith(
                "captioner: s3://holiday/2026/beach/broken.jpg: This is text, not a picture"
            )
            assert err.splitlines()[1:] == [
                "captioner: 10 captioned, 1 failed; passed over: @eaDir folders (1)"
            ]
            wait_until(lambda: not command.left())  # the Ray that was started for it
            rows = []
            for info in store.get_file_info(FileSelector("holiday/out/jsonl")):
                text = store.open_input_stream(info.path).read()
                rows += [json.loads(line) for line in text.splitlines()]
            assert sorted(row["image"] for row in rows) == [
                *(f"s3://holiday/2026/{n}.jpg" for n in range(10)),
                "s3://holiday/2026/beach/broken.jpg",
            ]
            assert main(["ray", f"s3://nosuch/2026{options}", "--output", str(tmp_path)]) == 1
            assert main(["ray", f"s3://holiday/2026{options}", "--output", str(tmp_path),
                         "--write", "xmp"]) == 1  # fmt: skip
        finally:
            server.stop()


@pytest.fixture
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The actors' work is done in this process."""

    def on_ray(
        job: Job, todo: Mapping[str, Sequence[str]], address: str | None, workers: int
    ) -> Iterator[dict[str, Any]]:
        actor = PartCaptioner(job)
        for part, images in todo.items():
            yield json.loads(actor({"part": part, "images": json.dumps(images)})["result"])

    monkeypatch.setattr(cluster, "_import_ray", lambda here: None)
    monkeypatch.setattr(cluster, "_on_ray", on_ray)


@pytest.fixture
def caption(
    _inline: None, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Runs the command on `album`, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "album").mkdir()

    def run(*arguments: str, paths: Sequence[str] = ("album",)) -> int:
        return main(["ray", *paths, "--output", "out", "--model", str(tiny_model), *arguments])

    return run


def test_errors_are_in_their_place_and_are_tried_again(
    caption: Callable[..., int], tmp_path: Path, picture: Callable[..., bytes], capsys: Output
) -> None:
    album, out = tmp_path / "album", tmp_path / "out"
    for name in ("a", "b", "c"):
        (album / f"{name}.jpg").write_bytes(picture())
    (album / "b.jpg").write_bytes(b"broken")
    assert caption("--beam-size", "2") == 1
    a, b, c = rows_of(out)
    assert [*b] == ["image", "error"]
    assert b["error"].startswith("This is text, not a picture that we read")
    assert [*a] == ["image", "sha256", "caption", "candidates", "words", "confidence", "confident",
                    "photo", "model"]  # fmt: skip
    assert (a["model"], len(a["candidates"])) == ("tiny", 2)
    assert capsys.readouterr().err.splitlines() == [
        f"captioner: {album}/b.jpg: {b['error']}", "captioner: 2 captioned, 1 failed",
    ]  # fmt: skip

    (album / "b.jpg").write_bytes(picture(colour=(0, 0, 255)))
    (album / "aa.jpg").write_bytes(picture())
    assert caption() == 0
    assert capsys.readouterr().err == "captioner: 2 captioned, 2 known already\n"
    rows = rows_of(out)
    assert [row["image"] for row in rows] == [f"{album}/{n}.jpg" for n in ("a", "aa", "b", "c")]
    assert (rows[0], rows[3]) == (a, c)
    assert "caption" in rows[2]
    assert columns_of(out) == [
        {key: value for key, value in row.items() if value is not None} for row in rows
    ]
    assert caption() == 0
    assert capsys.readouterr().err == "captioner: 4 known already\n"


def test_sidecars_spare_a_persons_words(
    caption: Callable[..., int], tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    album = tmp_path / "album"
    for name in ("a", "b"):
        (album / f"{name}.jpg").write_bytes(picture())
    (album / "b.txt").write_text("Grandmother.")
    assert caption("--write", "txt", "--write", "xmp") == 0
    rows = rows_of(tmp_path / "out")
    assert (album / "a.txt").read_text() == f"{rows[0]['caption']}\n"
    assert rows[0]["caption"] in (album / "a.jpg.xmp").read_text()
    assert (album / "b.txt").read_text() == "Grandmother."
    assert (album / "b.jpg.xmp").exists()


def test_a_part_that_was_done_by_a_lost_actor_counts_once(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    image = tmp_path / "a.jpg"
    image.write_bytes(picture())
    parts = Parts(Folder(tmp_path / "out"))
    job = Job(
        parts=parts, buckets=(), model=str(tiny_model), words="", max_pixels=10**6, beam_size=3,
        style="caption", write=(), if_exists="skip",
    )  # fmt: skip
    row = {"part": "00001-000000", "images": json.dumps([str(image)])}
    answers = {PartCaptioner(job)(row)["result"] for _ in range(2)}
    assert answers == {json.dumps({"captioned": 1, "failed": []})}
    assert [*parts.entries("00001-000000")] == [str(image)]


def test_a_name_that_is_no_text(
    caption: Callable[..., int], tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    name = os.fsdecode(b"a\xff.jpg")
    try:
        (tmp_path / "album" / name).write_bytes(picture())
    except OSError:
        pytest.skip("this file system has no such names")
    assert caption() == 0
    assert caption() == 0
    assert [row["image"] for row in rows_of(tmp_path / "out")] == [f"{tmp_path}/album/{name}"]
    assert columns_of(tmp_path / "out")[0]["image"] == f"{tmp_path}/album/a\\udcff.jpg"


def test_the_model_and_the_output_are_tried_first(
    caption: Callable[..., int], tmp_path: Path, capsys: Output
) -> None:
    assert caption("--model", "nosuch") == 1
    assert "nosuch" in capsys.readouterr().err
    (tmp_path / "out").write_text("")
    assert caption() == 1
    assert "out cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["plan", "parquet"])
def test_what_cannot_be_written_ends_the_run(
    folder: str, caption: Callable[..., int], tmp_path: Path, picture: Callable[..., bytes],
    capsys: Output,
) -> None:  # fmt: skip
    (tmp_path / "album" / "a.jpg").write_bytes(picture())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / folder).write_text("In the way.")
    assert caption() == 1
    assert re.fullmatch(rf"captioner: .*/{folder}.* cannot be (read|written) \(.*\); .*\.\n",
                        capsys.readouterr().err)  # fmt: skip
    assert not (tmp_path / "out" / "jsonl").exists()


def test_a_folder_without_pictures_and_a_path_that_is_not_there(
    caption: Callable[..., int], tmp_path: Path, capsys: Output
) -> None:
    assert caption(paths=["album", "nowhere.jpg"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"captioner: {tmp_path}/album: There is no picture in this folder.",
        f"captioner: {tmp_path}/nowhere.jpg: There is no file '{tmp_path}/nowhere.jpg'; check the "
        "name.",
        "captioner: 2 failed",
    ]


def test_two_runs_do_not_write_one_folder(
    caption: Callable[..., int], tmp_path: Path, picture: Callable[..., bytes], capsys: Output
) -> None:
    with cluster._opened(str(tmp_path / "out")):
        assert caption() == 1
    assert "Another captioner is writing out" in capsys.readouterr().err


def test_a_plan_stays(tmp_path: Path) -> None:
    parts = Parts(Folder(tmp_path))
    first = parts.plan(f"{n:04}" for n in range(20))
    assert [len(images) for images in first.values()] == [SMALLEST, SMALLEST, 4]
    second = parts.plan(f"{n:04}" for n in range(0, 30, 2))
    assert [*second] == [*first, "00002-000000"]
    assert second["00002-000000"] == [f"{n:04}" for n in range(20, 30, 2)]
    assert parts.plan(f"{n:04}" for n in range(20)) == first
    assert max(map(len, parts.plan(map(str, range(100, 40_000))).values())) == 256


def test_a_plan_that_is_lost_or_damaged_is_not_made_again(tmp_path: Path) -> None:
    parts = Parts(Folder(tmp_path))
    (part,) = parts.plan(["a"])
    parts.write(part, [{"image": "a", "error": "No."}])
    (tmp_path / "plan" / "00001.json").write_text("[")
    with pytest.raises(PartsError, match=r"plan/00001\.json .* is damaged; put it right"):
        parts.plan(["a"])
    (tmp_path / "plan" / "00001.json").unlink()
    with pytest.raises(PartsError, match="in none of its plans"):
        parts.plan(["a"])
    (tmp_path / "jsonl" / f"{part}.jsonl").write_text("[")
    with pytest.raises(PartsError, match="is damaged; remove it"):
        parts.entries(part)


def test_the_pictures_of_an_object_store() -> None:
    walk = Walk(())
    files = ["b/2.jpg", "a.PNG", "notes.doc", ".trash/x/1.jpg", ".trash/2.jpg", "b/@eaDir/2.jpg"]
    assert [*walk.among(files)] == ["a.PNG", "b/2.jpg"]
    assert walk.passed_over == {".doc files": 1, "hidden folders": 1, "@eaDir folders": 1}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch://bucket"], "nosuch://bucket cannot be used (Protocol not known: nosuch)"),
        (["s3://me:secret@:/"], "s3://:/ cannot be used ("),
        (["--address", "127.0.0.1:{port}"], "No Ray cluster can be used at 127.0.0.1:"),
    ],
)
def test_what_cannot_be_reached(
    arguments: list[str], message: str, tmp_path: Path, tiny_model: Path,
    picture: Callable[..., bytes], capsys: Output,
) -> None:  # fmt: skip
    (tmp_path / "a.jpg").write_bytes(picture())
    options = [text.format(port=free_port()) for text in arguments]
    output = ["--output", str(tmp_path / "out"), "--model", str(tiny_model)]
    assert main(["ray", str(tmp_path / "a.jpg"), *output, *options]) == 1
    assert message in capsys.readouterr().err


def test_without_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Output) -> None:
    for name in [*sys.modules]:
        if name.partition(".")[0] == "ray":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["ray", "album", "--output", str(tmp_path / "out")]) == 1
    assert f'run: pip install "{RAY}"' in capsys.readouterr().err
    assert RAY in (ROOT / "requirements-ray.txt").read_text().splitlines()
    assert not (tmp_path / "out").exists()
