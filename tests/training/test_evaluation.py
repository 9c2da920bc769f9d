"""Scores, reports, and what is said where something is missing. One test needs Java itself."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import stat
from collections.abc import Callable
from importlib import util
from pathlib import Path

import pytest

from captioner import Captioner, cli
from captioner.manifest import (
    DecoderSpec,
    EncoderSpec,
    FileEntry,
    JpegNormalizationSpec,
    Manifest,
    ServingFiles,
)
from captioner.model_folder import ModelFolder
from captioner.training import evaluation
from captioner.training.datasets import Dataset, Photo
from captioner.training.evaluation import (
    EvaluationError,
    check_scorers,
    chosen,
    data_sha256,
    evaluate,
    protocol,
    write_report,
)

REFERENCES = {
    "a.jpg": ("A dog runs over the wet grass .", "The dog is running ."),
    "b.jpg": ("Two men mend a bicycle .", "A bicycle , upside down , and two men ."),
}
MODEL = Manifest(
    name="tiny",
    files={"encoder.tflite": FileEntry(sha256="00ff" * 16, bytes=1)},
    encoder=EncoderSpec(
        architecture="tiny", output_layer="end", input_size=32, grid=(4, 4), channels=8,
        jpeg_normalization=JpegNormalizationSpec(side=24, quality=75),
    ),
    decoder=DecoderSpec(architecture="tiny", units=8, vocabulary_size=9, max_words=20),
    serving=ServingFiles(encoder="a", decoder_init="b", decoder_step="c"),
    tokenizer="tokenizer.p",
)  # fmt: skip

needs_scorers = pytest.mark.skipif(
    util.find_spec("pycocoevalcap") is None, reason="pycocoevalcap is not installed"
)


@pytest.mark.java
@needs_scorers
@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_scores_are_those_of_the_literature(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    scores = evaluate(
        {"a.jpg": "A dog runs!", "b.jpg": "A dog runs!"}, REFERENCES, ["A DOG RUNS", "A café\nfull"]
    )
    # a.jpg has 3 of 3 words, b.jpg 1 of 3; the closest references have 4 and 5 words, so the
    # brevity penalty is exp(1 - 9/6): Papineni et al. 2002, section 2.3.
    assert scores["BLEU-1"] == pytest.approx(100 * 4 / 6 * math.exp(1 - 9 / 6), abs=0.01)
    # Precision, recall of the longest common subsequence: 1, 3/7 and 1/3, 1/5; beta is 1.2 (Lin
    # 2004, equation 4).
    rouge = [2.44 * p * r / (r + 1.44 * p) for p, r in ((1, 3 / 7), (1 / 3, 1 / 5))]
    assert scores["ROUGE-L"] == pytest.approx(100 * sum(rouge) / 2, abs=0.01)
    assert 0 < scores["METEOR"] < 100
    assert scores["CIDEr"] > 0
    assert scores["distinct_share"] == 0.5
    assert scores["mean_length"] == 3
    assert scores["seen_share"] == 1
    assert os.environ["LC_ALL"] == "C"
    assert "reflen" not in capfd.readouterr().out


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ({}, {}, "0 captions to score and references for 0 photos"),
        ({"a.jpg": "A dog."}, REFERENCES, "1 captions to score and references for 2 photos"),
        ({"a.jpg": "A dog."}, {"a.jpg": []}, r"a\.jpg has no reference caption"),
    ],
)
def test_what_cannot_be_scored(
    predictions: dict[str, str], references: dict[str, list[str]], message: str
) -> None:
    with pytest.raises(EvaluationError, match=message):
        evaluate(predictions, references)


@needs_scorers
def test_without_java_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EvaluationError, match="apt-get install default-jre-headless"):
        check_scorers()


def test_without_the_scorers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(util, "find_spec", lambda name: None)
    with pytest.raises(EvaluationError, match=r"pip install .* pycocoevalcap"):
        check_scorers()


@needs_scorers
def test_a_failing_scorer_is_said_in_a_sentence_and_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    java = tmp_path / "java"
    java.write_text(
        "#!/bin/sh\n"
        'case "$1" in\n'
        '-cp) for file; do :; done; cat "$file";;\n'  # a tokenizer of sorts
        '-jar) echo "Could not reserve enough space" >&2; exit 1;;\n'
        "esac\n"
    )
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EvaluationError, match=r"failed \(Could not reserve enough space\)"):
        evaluate(dict.fromkeys(REFERENCES, "A dog ."), REFERENCES)


def photos(folder: Path, *names: str) -> list[Photo]:
    found = []
    for name in names:
        (folder / name).write_bytes(name.encode())
        found.append(Photo(folder / name, (f"{name} .", "Twice ."), "test"))
    return found


@needs_scorers
def test_the_report_says_what_the_scores_depend_on(tmp_path: Path) -> None:
    two = photos(tmp_path, "b.jpg", "a.jpg")
    file = tmp_path / "results" / "report.json"
    details = protocol("flickr8k", "test", two, MODEL, beam_size=3)
    write_report(file, {"CIDEr": 52.5}, details, {"b.jpg": "B.", "a.jpg": "A."})
    report = json.loads(file.read_text())
    assert report["scores"] == {"CIDEr": 52.5}
    assert list(report["predictions"]) == ["a.jpg", "b.jpg"]
    assert report["protocol"]["data"] == {
        "name": "flickr8k",
        "split": "test",
        "photos": 2,
        "references": 4,
        "references_a_photo": [2],
        "sha256": data_sha256(two),
    }
    assert report["protocol"]["decoder"]["strategy"] == "beam search"
    assert report["protocol"]["decoder"]["beam_size"] == 3
    assert report["protocol"]["encoder"]["jpeg_normalization"] == {"side": 24, "quality": 75}
    assert report["protocol"]["model"]["files"] == {"encoder.tflite": "00ff" * 16}
    assert [entry.name for entry in file.parent.iterdir()] == ["report.json"]


def test_the_hash_of_the_data_knows_photos_and_captions_but_no_order(tmp_path: Path) -> None:
    first, second = photos(tmp_path, "a.jpg", "b.jpg")
    whole = data_sha256([first, second])
    assert data_sha256([second, first]) == whole
    assert data_sha256([first]) != whole
    assert data_sha256([first, Photo(second.path, ("Other .",), "test")]) != whole
    second.path.write_bytes(b"another photo")
    assert data_sha256([first, second]) != whole


def test_photos_are_chosen_by_name(tmp_path: Path) -> None:
    dataset = Dataset(tuple(photos(tmp_path, "c.jpg", "a.jpg", "b.jpg")))
    assert [photo.path.name for photo in chosen(dataset, "test", 2)] == ["a.jpg", "b.jpg"]
    assert len(chosen(dataset, "all")) == 3
    with pytest.raises(EvaluationError, match=r"no photo in the split dev: 3 photos \(3 test\)"):
        chosen(dataset, "dev")


def test_the_command_needs_data() -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    evaluation.add_arguments(parser)
    args = parser.parse_args(["--data", "flickr8k"])
    assert (args.split, args.beam_size, args.limit) == ("test", 3, None)


@pytest.mark.java
@needs_scorers
@pytest.mark.skipif(shutil.which("java") is None, reason="Java is not installed")
def test_the_command_keeps_its_report_in_a_model_folder(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    """Report, metrics.json and manifest say the same."""
    folder, data = tmp_path / "model", tmp_path / "data"
    shutil.copytree(tiny_model, folder)
    (data / "images").mkdir(parents=True)
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "black": (0, 0, 0)}
    captions = {}
    for name, colour in colours.items():
        (data / "images" / f"{name}.png").write_bytes(picture("png", colour))
        captions[f"{name}.png"] = [f"A {name} picture .", f"Nothing but {name} is here ."]
    # one caption is what the model says, so that one is correct
    said = Captioner.load(folder).caption(data / "images" / "red.png").text
    captions["red.png"] = [said, said]
    (data / "captions.json").write_text(json.dumps(captions))
    only = tmp_path / "only.json"
    only.write_text(json.dumps(["red.png", "green.png", "blue.png"]))

    arguments = ["--data", str(data), "--split", "train", "--model", str(folder)]
    arguments += ["--only", str(only), "--record", "colours"]
    assert cli.main(["evaluate", *arguments]) == 0

    report = json.loads((folder / "colours.json").read_text())
    metrics = json.loads((folder / "metrics.json").read_text())["colours"]
    manifest = ModelFolder.open(folder).manifest
    assert sorted(report["predictions"]) == ["blue.png", "green.png", "red.png"]
    assert manifest.scores["colours"]["CIDEr"] == report["scores"]["CIDEr"] == metrics["CIDEr"]
    assert metrics["curve"] == report["reliability"]["curve"]
    assert manifest.calibration == ModelFolder.open(tiny_model).manifest.calibration


def test_two_photos_of_one_name_cannot_be_reported() -> None:
    two = tuple(Photo(Path(folder) / "a.jpg", ("One .",), "test") for folder in ("x", "y"))
    with pytest.raises(EvaluationError, match=r"more than one a\.jpg"):
        chosen(Dataset(two), "test")
