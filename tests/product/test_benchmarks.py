"""The benchmarks measure what they say. No figure is tested: those are the machine's."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import (
    cluster,
    collection,
    corrections,
    durability,
    full_size,
    live,
    machine,
    noun_probe,
    table,
    wall_memory,
)
from benchmarks.captions import Clock, TimedEngine, staged
from benchmarks.original import Original
from benchmarks.photos import photo_of_12_megapixels, photos
from benchmarks.servers import MemoryWatch, Viewer, settings
from benchmarks.serving import Photos, crowded, in_a_loop, one_at_a_time
from captioner import Captioner
from captioner.model_folder import ModelFolder
from captioner.pictures.decode import read_picture
from captioner.training.datasets import Photo, read_corrections
from tests.kit import ROOT
from tests.kit.servers import Server


def test_ways_take_turns_and_the_first_turn_does_not_count() -> None:
    called: list[str] = []
    ways = {
        "a": machine.Way(lambda: called.append("a"), calls=2),
        "b": machine.Way(lambda: called.append("b")),
    }
    milliseconds = machine.in_turns(ways, turns=2)
    assert "".join(called) == "aab" + "baa" + "aab"
    assert {name: len(values) for name, values in milliseconds.items()} == {"a": 4, "b": 2}


@pytest.mark.parametrize(
    ("count", "percent", "expected"), [(100, 99, 99), (100, 100, 100), (20, 95, 19), (1, 50, 1)]
)
def test_percentile(count: int, percent: float, expected: int) -> None:
    assert machine.percentile(list(range(count, 0, -1)), percent) == expected


def test_the_description_says_nothing_of_whose_machine_it_is() -> None:
    text = json.dumps(machine.describe())
    assert platform.node() not in text
    assert str(Path.home()) not in text


def test_photos_differ_and_stay_the_same() -> None:
    four = photos(4)
    assert len({*four}) == 4
    assert four == photos(4)
    assert [read_picture(photo).shape for photo in four] == [(375, 500, 3)] * 4
    assert read_picture(photo_of_12_megapixels()).shape == (3000, 4000, 3)


def test_each_part_of_a_caption_is_timed_once_a_photo(tiny_model: Path) -> None:
    folder = ModelFolder.open(tiny_model)
    encoder, init, step = folder.serving()
    engine = TimedEngine(encoder, init, step, threads=1)
    engine.clock = Clock()
    captioner = Captioner(engine, folder.tokenizer(), folder.manifest)
    for photo in photos(3):
        staged(captioner, engine.clock, photo)
    parts = engine.clock.milliseconds
    assert {*parts} == {
        "read and decode", "resize", "encoder", "decoder start", "decoder steps",
        "number of steps", "search and words",
    }  # fmt: skip
    assert {len(values) for values in parts.values()} == {3}
    assert all(steps >= 2 for steps in parts["number of steps"])


@pytest.fixture
def servers(tiny_model: Path, tmp_path: Path) -> Any:
    environment = settings(tmp_path / "state", CAPTIONER_MODEL=str(tiny_model))
    started = {name: Server(name, environment) for name in ("relay", "app1")}
    for server in started.values():
        server.wait_ready()
    yield started
    for server in started.values():
        server.stop()


def test_the_servers_are_measured(servers: dict[str, Server], tiny_model: Path) -> None:
    captioner, new = Captioner.load(tiny_model), Photos()
    workers = Captioner.load_several(2, tiny_model)
    viewer = Viewer(servers["relay"].port)
    _, results = one_at_a_time(2, captioner, workers, servers["app1"], viewer, new)
    assert all(times["number"] == 2 for times in results["milliseconds, one at a time"].values())
    assert viewer.seen == 3, "an upload a turn, and one turn to warm up"
    _, results = crowded(0.2, workers, servers, servers["app1"], viewer, new)
    assert results["crowd"]["answers"].keys() == {200}
    too_many = results["more than the line can take"]
    assert too_many["answers"].keys() <= {200, 503}
    assert not too_many["without Retry-After"]
    assert not results["crowd"]["broken connections"] + too_many["broken connections"]
    assert results["app1's memory"]["peak, MB"] > 20
    viewer.close()


def test_a_loop_ends(tiny_model: Path) -> None:
    assert in_a_loop(Captioner.load_several(2, tiny_model), 0.05, Photos()) > 0


def test_memory_is_sampled_until_it_is_closed() -> None:
    watch = MemoryWatch(os.getpid(), every=0.001)
    while len(watch.samples) < 3:
        pass
    watch.close()
    assert watch.peak == max(megabytes for _, megabytes in watch.samples) > 1


def test_the_tables_are_made_of_the_result_files(tmp_path: Path) -> None:
    goal = machine.Goal("speed of light", "fast", "1.2", False, "sound: 3")
    machine.write(tmp_path / "light.json", "python -m light", [goal], {})
    made = table.tables(tmp_path)
    assert (
        "| speed of light | fast | **1.2** | falls short | sound: 3 | [light](light.json) |" in made
    )
    assert "`python -m light`" in made


def test_the_readme_has_the_tables_of_the_committed_files() -> None:
    readme = (table.FOLDER / "README.md").read_text(encoding="utf-8")
    assert f"{table.START}\n{table.tables()}\n{table.END}" in readme


@pytest.mark.browser
def test_live_mode_is_measured(tiny_model: Path, tmp_path: Path) -> None:
    found = live.milliseconds(tmp_path, captions=2, model=str(tiny_model))
    assert len(found) == 2
    assert all(0 < each < 60_000 for each in found)


@pytest.mark.browser
def test_the_memory_of_a_wall_is_measured(tmp_path: Path) -> None:
    rows = wall_memory.measure(tmp_path, "?show=grid", captions=20, marks=[10, 20])
    assert [row["captions"] for row in rows] == [10, 20]
    assert all(row["javascript_heap_mb"] > 0 and row["nodes"] > 50 for row in rows)


def test_corrections_are_in_the_form_of_app1(tmp_path: Path) -> None:
    learned = []
    for number, picture in enumerate(photos(10)):
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(picture)
        learned.append(Photo(path, ("A bus.", "A street."), "train"))
    assert all(corrections.is_of_subject(photo) for photo in learned)
    file = tmp_path / "corrections.json"
    file.write_text(json.dumps(corrections.corrections_of(learned)))
    found = read_corrections(file, tmp_path / "pictures")
    assert [photo.captions for photo in found.photos] == [("A bus.",)] * 10


def test_a_folder_is_captioned_with_sidecars_and_without(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAPTIONER_MODEL", str(tiny_model))
    (tmp_path / "a.jpg").write_bytes(photos(1)[0])
    collection.caption_folder(tmp_path)
    collection.caption_folder(tmp_path, "--write", "xmp")
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"], "it works on copies"
    large = collection.large_photos()
    assert {kind: read_picture(picture).shape for kind, picture in large.items()} == dict.fromkeys(
        ("JPEG", "HEIF", "AVIF"), (3000, 4000, 3)
    )


def test_the_rate_of_a_cluster_is_without_its_start() -> None:
    milliseconds = {"ray, 10 photos": [9_000, 9_500, 20_000], "ray, 110 photos": [14_500]}
    assert cluster.rate_and_start(milliseconds, "ray", 10, 110) == (20, 9)


def test_waiting_for_the_disk_is_measured(tmp_path: Path) -> None:
    with ExitStack() as stack:
        found = machine.in_turns(durability.ways(tmp_path, stack), turns=1)
    assert {len(values) for values in found.values()} == {durability.CALLS}
    assert [*found] == [
        "outbox, FULL", "outbox, NORMAL", "history, FULL", "history, NORMAL",
        "written plainly and synced",
    ]  # fmt: skip


def captioned(folder: Path, count: int) -> Path:
    """A collection of so many photos, in our layout: dogs and cats in turns."""
    (folder / "images").mkdir(parents=True)
    for number, picture in enumerate(photos(count)):
        (folder / "images" / f"{number}.jpg").write_bytes(picture)
    animals = [("A dog runs.", "The dog."), ("A cat sits.", "The cat.")]
    captions = {f"{number}.jpg": animals[number % 2] for number in range(count)}
    (folder / "captions.json").write_text(json.dumps(captions))
    (folder / "split.json").write_text(json.dumps(dict.fromkeys(captions, "dev")))
    return folder


def written(module: Any, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> Any:
    """The result file of a benchmark."""
    output = Path(str(arguments[-1]))
    command = [module.__name__, *map(str, arguments[:-1]), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", command)
    module.main()
    return json.loads(output.read_text())


def test_sharp_photos_are_compared_with_small_ones(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, full = captioned(tmp_path / "small", 4), captioned(tmp_path / "full", 4)
    found = written(
        full_size, monkeypatch, "--small", small, "--full", full, "--model", tiny_model,
        tmp_path / "result.json",
    )  # fmt: skip
    assert (found["photos"], found["difference"]) == (4, 0)


def test_nouns_are_read_from_features(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = captioned(tmp_path / "data", 36)
    names = tmp_path / "names.json"
    names.write_text(json.dumps([f"{number}.jpg" for number in range(12)]))
    monkeypatch.setattr(noun_probe, "FOLDS", 2)
    found = written(
        noun_probe, monkeypatch, "--data", data, "--test", names, "--model", tiny_model,
        tmp_path / "result.json",
    )  # fmt: skip
    assert (found["learned_from"], found["scored_on"], found["nouns"]) == (24, 12, 2)
    assert 0 < found["mean_average_precision"] <= 100


def test_the_originals_way_is_timed(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(photos(1)[0])
    original = Original(photo)
    original.caption()
    original.close()
    assert original.encoder[0] > 0


# A network of few filters, and a step of one photo.
TINY_STEP = """
import functools, json
from benchmarks import training
from captioner.training.network import encoder
training.PHOTOS = training.CAPTIONS = training.STEPS = 1
training.WORDS, training.VOCABULARY = 4, 20
encoder.build_encoder = functools.partial(encoder.build_encoder, input_size=139, width=0.05)
print(json.dumps(training.measure()))
"""


@pytest.mark.timeout(240)
def test_a_training_step_is_timed() -> None:
    pytest.importorskip("tensorflow")
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", TINY_STEP], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["seconds_a_step"] > 0
    assert len(found["losses"]) == 2
