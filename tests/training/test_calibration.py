"""The threshold of `confident`, and the reliability curve, on cases with known answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner, cli
from captioner.model_folder import ModelFolder
from captioner.search import Hypothesis
from captioner.training import calibration
from captioner.training.calibration import (
    CalibrationError,
    choose_threshold,
    describe,
    is_correct,
    judge,
    reliability,
    separation,
)
from captioner.training.concepts import content_words
from captioner.training.datasets import Photo


def test_above_the_threshold_captions_are_correct_often_enough():
    rng = np.random.default_rng(0)
    confidence = rng.random(2000)
    correct = rng.random(2000) < confidence  # above 0.6, four of five
    assert choose_threshold(confidence, correct) == pytest.approx(0.6, abs=0.05)
    assert choose_threshold(confidence, np.zeros(2000, bool)) == 1
    assert choose_threshold(confidence, rng.random(2000) < 0.5) == 1


def test_scores_that_separate():
    confidence = np.array([0.1, 0.2, 0.3, 0.6, 0.7, 0.9])
    right = np.array([False, False, False, True, True, True])
    found = separation(confidence, right, parts=2)
    assert found["auroc"] == 1
    assert [part["correct"] for part in found["curve"]] == [0, 1]
    assert found["curve"][0]["mean"] == pytest.approx(0.2)


def test_the_report_tells_the_sure_from_the_others():
    confidence, right = np.array([0.1, 0.6, 0.7, 0.9]), np.array([False, False, True, True])
    found = reliability(confidence, 1 - confidence, right, 0.6)
    assert found["confident"] == {"photos": 3, "mean": 0.7333, "correct": 0.6667}
    assert found["not_confident"] == {"photos": 1, "mean": 0.1, "correct": 0.0}
    assert (found["auroc"], found["by_probability"]["auroc"]) == (1, 0)
    assert "not_confident" not in reliability(confidence, confidence, right, 0.0)


def test_where_nothing_can_be_separated_nothing_is_unsure():
    confidence = np.array([0.1, 0.2])
    assert choose_threshold(confidence, np.array([True, True])) == 0.1
    assert separation(confidence, np.array([True, True]))["auroc"] is None


def test_auroc_counts_ties_half():
    confidence = np.array([0.5, 0.5, 0.5, 0.5])
    right = np.array([True, False, True, False])
    assert separation(confidence, right)["auroc"] == 0.5


def test_a_caption_is_right_when_it_says_what_people_say():
    references = [
        ["a dog runs on the grass", "a brown dog runs on grass", "the dog is running on the grass"],
        ["two kids play with a ball", "two children play with a red ball", "kids playing ball"],
        ["a man rides a bike", "a man riding a bike down a hill", "a man on a bike"],
        ["a woman in a red coat walks", "a woman wearing a red coat", "a lady in a red coat"],
    ]
    captions = ["a dog runs on the grass", "a rocket at night", "a man rides a bike", "a red dog"]
    assert is_correct(captions, references).tolist() == [True, False, True, False]


def test_a_calibration_is_stored_and_served(
    tiny_model: Path,
    tmp_path: Path,
    picture: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """People name one word for reddish photos, another for bluish ones; the model always one."""
    monkeypatch.setattr(calibration, "NON_PHOTOS", 60)
    path = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = ModelFolder.open(path).tokenizer()
    red, blue = content_words(tokenizer)[:2]
    rng = np.random.default_rng(0)
    shots, correct = [], []
    for number in range(700):
        reddish = bool(number % 2)
        colour = rng.integers(0, 100, 3) + np.array([150 * reddish, 0, 150 * (not reddish)])
        file = tmp_path / f"{number}.png"
        file.write_bytes(picture("png", tuple(int(c) for c in colour)))
        word = tokenizer.words[red if reddish else blue]
        shots.append(Photo(file, (word, word), "train"))
        correct.append(reddish)
    known, own = shots[300:], shots[:300]
    captioner = Captioner.load(path)
    always_red = Hypothesis((red,), tuple(np.log([0.5, 0.5])))
    described = [replace(made, captions=[always_red]) for made in describe(captioner, own, 2)]
    judged = judge(captioner, known, own, described, tokenizer)
    assert judged.correct.tolist() == correct[:300]
    assert np.mean((judged.confidence >= 0.5) == correct[:300]) > 0.9
    assert judged.estimator is not None
    others = describe(captioner, known, 2)
    sure = [judged.estimator.judge(made.pooled, [always_red])[1] >= 0.5 for made in others]
    assert np.mean(np.array(sure) == correct[300:]) > 0.8

    # Of the two words, both as probable, it chooses the one that the photo shows, if it is there.
    right, wrong = (
        [
            replace(always_red, words=(red if reddish is said else blue,))
            for reddish in correct[:300]
        ]
        for said in (True, False)
    )
    described = [
        replace(made, captions=[wrong[i], right[i] if i % 5 else wrong[i]])
        for i, made in enumerate(described)
    ]
    judged = judge(captioner, known, own, described, tokenizer)
    assert judged.estimator is not None
    assert np.mean(judged.correct == (np.arange(300) % 5 > 0)) > 0.9

    shots[300].path.write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match=r"300\.png"):
        judge(captioner, known, own, described, tokenizer)


def data_set(folder: Path, captions: dict[str, list[str]], picture: bytes) -> Path:
    """Photos in our layout; those whose names begin with "dev" are for dev."""
    (folder / "images").mkdir(parents=True)
    for name in captions:
        (folder / "images" / name).write_bytes(picture)
    (folder / "captions.json").write_text(json.dumps(captions))
    split = {name: "dev" if name.startswith("dev") else "train" for name in captions}
    (folder / "split.json").write_text(json.dumps(split))
    return folder


def test_the_command_writes_threshold_and_report(
    tiny_model: Path, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    """Three photos are too few for a regression, so the threshold is one of the probability."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    red = picture("png", (255, 0, 0))
    said = Captioner.load(model).caption(red).text
    captions = {"dev-1.png": [said, said], "dev-2.png": ["Two dogs .", "A dog ."], "a.png": ["A ."]}
    data = data_set(tmp_path / "pets", captions, red)
    assert cli.main(["calibrate", "--model", str(model), "--data", str(data)]) == 0
    report = json.loads((model / "calibration.json").read_text())
    assert sorted(part["correct"] for part in report["pets"]["curve"]) == [0, 1]
    caption = Captioner.load(model).caption(red)
    assert caption.confidence is None
    # One of two captions is correct, which is not often enough.
    assert ModelFolder.open(model).manifest.calibration.threshold == 1


@pytest.mark.parametrize(
    ("captions", "message"),
    [
        ({"dev-1.png": ["A dog ."], "a.png": ["A ."]}, "dev-1.png has one caption"),
        ({"dev-1.png": ["A dog .", "A cat ."]}, "needs photos for training and for dev"),
    ],
)
def test_the_command_says_which_photos_it_needs(
    captions: dict[str, list[str]],
    message: str,
    tiny_model: Path,
    tmp_path: Path,
    picture: Callable[..., bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = data_set(tmp_path / "pets", captions, picture("png", (0, 0, 0)))
    assert cli.main(["calibrate", "--model", str(tiny_model), "--data", str(data)]) == 1
    assert message in capsys.readouterr().err
