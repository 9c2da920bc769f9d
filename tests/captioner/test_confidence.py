"""Confidence: from a caption's probabilities, and from what the features show of its words."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner, model_folder
from captioner.confidence import LEAST_SHARE, SIGNS, ConfidenceEstimator, WordDetectors
from captioner.errors import ModelFolderError
from captioner.model_folder import ModelFolder
from captioner.tokenizer import Tokenizer
from captioner.training.calibration import (
    Described,
    fit_confidence,
    fit_detectors,
    fit_photo,
    separation,
)
from captioner.training.non_photos import KINDS, non_photo

CHANNELS = 12
WORDS = Tokenizer(["a", "dog", "cat", "bird"])
A, DOG, CAT, BIRD = range(len(Tokenizer.SPECIALS), len(WORDS))
ALWAYS = np.array([1.0, *np.zeros(CHANNELS)], np.float32)  # every picture is a photo


def photos(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features, and the animal in each photo: one of three directions is longer."""
    rng = np.random.default_rng(seed)
    animals = rng.integers(DOG, BIRD + 1, count)
    pooled = rng.normal(0, 0.5, (count, CHANNELS))
    pooled[np.arange(count), animals - DOG] += 1.5
    return (2 + pooled).astype(np.float32), animals


def detectors(count: int = 600) -> WordDetectors:
    pooled, animals = photos(count, 1)
    return fit_detectors(pooled, [[(A, int(animal)), (A,)] for animal in animals], WORDS)


def described(count: int, seed: int) -> tuple[list[Described], np.ndarray]:
    """Captions that name an animal, the right one or not, and which are correct."""
    pooled, animals = photos(count, seed)
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(count) < 0.6, animals, rng.integers(DOG, BIRD + 1, count))
    logs = np.log(rng.uniform(0.3, 0.9, (count, 3)))
    made = [
        Described(features, (A, int(word)), tuple(map(float, log)))
        for features, word, log in zip(pooled, said, logs, strict=True)
    ]
    return made, said == animals


def test_a_detector_finds_its_word_and_function_words_have_none() -> None:
    found = detectors()
    assert sorted(found.words) == [DOG, CAT, BIRD]
    pooled, animals = photos(300, 2)
    shares = np.array([found.detect(x, [DOG, CAT, BIRD])[0] for x in pooled])
    assert np.mean(shares.argmax(1) + DOG == animals) > 0.8
    # Half of a photo's captions name the animal, and a third of the photos show each.
    assert shares.sum(1).mean() == pytest.approx(0.5, abs=0.06)
    assert found.frequency == pytest.approx([1 / 6] * 3, abs=0.03)
    assert len(found.detect(pooled[0], [A, 999])[0]) == 0


def test_eight_bits_are_enough_for_a_detector() -> None:
    kernel = np.random.default_rng(3).normal(size=(3, CHANNELS))
    found = WordDetectors.rounded(np.arange(3), kernel, np.full(3, 0.5), np.full(3, 0.1))
    pooled = np.full(CHANNELS, 0.01, np.float32)
    assert found.detect(pooled, range(3))[0] == pytest.approx(kernel @ pooled + 0.5, abs=1e-3)


def test_a_word_of_few_photos_has_no_detector() -> None:
    pooled, animals = photos(600, 1)
    captions = [[(int(animal) if animal != BIRD or number < 20 else A,)]
                for number, animal in enumerate(animals)]  # fmt: skip
    assert sorted(fit_detectors(pooled, captions, WORDS).words) == [DOG, CAT]


def test_it_learns_how_likely_a_caption_is_correct() -> None:
    made, correct = described(1000, 3)
    fitted = fit_confidence(ALWAYS, detectors(), made, correct)
    assert fitted is not None
    confidence, of_others = fitted
    fresh, correct = described(1000, 4)
    chances = np.array(
        [confidence.p_correct(d.pooled, d.words, d.log_probabilities) for d in fresh]
    )
    alone = np.array([d.probability for d in fresh])
    assert separation(alone, correct)["auroc"] == pytest.approx(0.5, abs=0.06)
    assert separation(chances, correct)["auroc"] > 0.85
    assert chances.mean() == pytest.approx(correct.mean(), abs=0.05)
    # What it says of the photos that it learned from is what it would say of others.
    assert of_others.mean() == pytest.approx(chances.mean(), abs=0.05)


def test_the_signs_of_a_case_reckoned_by_hand() -> None:
    kernel = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = WordDetectors.rounded(np.array([DOG, CAT]), kernel, np.zeros(2), np.full(2, 0.1))
    weights = np.array([0.5, 1.0, *np.zeros(SIGNS - 1)])
    estimator = ConfidenceEstimator(np.array([-1.0, 1.0, 1.0], np.float32), found, weights)
    pooled = np.array([0.8, 0.4], np.float32)
    logs = (math.log(0.5), math.log(0.25), math.log(0.5), math.log(0.25))
    mean = math.log(0.5) * 1.5
    expected = [
        mean, 4 * mean, math.log(0.25), 0.4, 0.6, math.log(4), math.log(4 * math.sqrt(2)), 2,
        math.log(0.32),
    ]  # fmt: skip
    signs = estimator.signs(pooled, (A, DOG, CAT), logs)
    assert signs == pytest.approx(expected, abs=1e-5)
    chance = estimator.p_correct(pooled, (A, DOG, CAT), logs)
    assert chance == pytest.approx(1 / (1 + math.exp(-0.5 - mean)))
    assert estimator.p_correct(np.array([0.5, 0.4], np.float32), (DOG,), logs) == 0, "no photo"
    never = replace(estimator, weights=np.array([-1000.0, *np.zeros(SIGNS)]))
    assert 0 < never.p_correct(pooled, (DOG,), logs) < 0.01, "0 is for pictures that are not photos"
    nothing = estimator.signs(pooled, (), ())
    assert nothing[3:8] == pytest.approx([LEAST_SHARE, LEAST_SHARE, 0, 0, 0])
    assert np.isfinite(estimator.signs(pooled, (A,), (-math.inf,))).all()


def test_too_few_captions_tell_nothing() -> None:
    made, correct = described(400, 5)
    found = detectors()
    assert fit_confidence(ALWAYS, found, made, correct) is not None
    assert fit_confidence(ALWAYS, found, made[:250], correct[:250]) is None
    assert fit_confidence(ALWAYS, found, made, np.ones(400, bool)) is None
    assert fit_confidence(ALWAYS, found, made, np.arange(400) < 40) is None


def test_signs_that_say_nothing_are_not_believed() -> None:
    made, _ = described(400, 5)
    rng = np.random.default_rng(8)
    correct = rng.random(400) < np.array([d.probability for d in made])
    assert fit_confidence(ALWAYS, detectors(), made, correct) is None


def test_what_is_no_photo_is_told_from_photos() -> None:
    rng = np.random.default_rng(6)
    others = rng.normal(2, 0.5, (300, CHANNELS)) + 2 * np.eye(CHANNELS)[-1]
    weights = fit_photo(photos(600, 1)[0], others[:200], photos(500, 2)[0])
    estimator = ConfidenceEstimator(weights, detectors(), np.zeros(1 + SIGNS))
    assert np.mean([estimator.is_photo(x) for x in others[200:]]) < 0.1
    assert np.mean([estimator.is_photo(x) for x in photos(500, 7)[0]]) > 0.98


@pytest.mark.parametrize("kind", range(len(KINDS)))
def test_what_is_drawn_is_a_picture_and_the_same_again(kind: int) -> None:
    drawn = [non_photo(kind + turn * len(KINDS)) for turn in range(12)]
    for picture in drawn:
        assert picture.dtype == np.uint8
        assert picture.shape[2] == 3
        assert min(picture.shape[:2]) >= 200
    assert len({picture.tobytes() for picture in drawn}) == 12
    np.testing.assert_array_equal(drawn[0], non_photo(kind))


def kept(path: Path) -> list[str]:
    """The files of that kind in a model folder."""
    return sorted(file.name for file in path.glob("confidence*"))


def constant(channels: int, bias: float, photo: float = 1.0) -> ConfidenceEstimator:
    """The same confidence for all captions, where `photo` is not below 0."""
    words = WordDetectors.rounded(
        np.array([5]), np.zeros((1, channels)), np.array([0.1]), np.array([0.1])
    )
    is_photo = np.array([photo, *np.zeros(channels)], np.float32)
    return ConfidenceEstimator(is_photo, words, np.array([bias, *np.zeros(SIGNS)]))


def test_it_is_kept_in_the_model_folder(tiny_model: Path, tmp_path: Path) -> None:
    """A caption is confident by its chance, and by its probability where nothing more is known."""
    path = shutil.copytree(tiny_model, tmp_path / "model")
    folder = ModelFolder.open(path)
    picture = np.full((40, 50, 3), 200, np.uint8)
    channels = folder.manifest.encoder.channels
    for photo, bias, chance in ((1.0, 5.0, 0.9933), (1.0, -5.0, 0.0067), (-1.0, 5.0, 0.0)):
        folder = folder.with_confidence(0.5, constant(channels, bias, photo))
        assert kept(path) == [ModelFolder.open(path).manifest.calibration.estimator]
        caption = Captioner.load(path).caption(picture)
        assert caption.confidence == pytest.approx(chance, abs=1e-4)
        assert caption.to_dict()["confidence"] == pytest.approx(chance, abs=1e-4)
        assert caption.confident is (chance >= 0.5)
        assert caption.photo is (photo > 0)

    folder.amend(calibration=replace(folder.manifest.calibration, threshold=0.0))
    assert not Captioner.load(path).caption(picture).confident, "no photo"

    file = path / kept(path)[0]
    content = file.read_bytes()
    file.write_bytes(b"x" * len(content))
    with pytest.raises(ModelFolderError, match="SHA-256"):
        Captioner.load(path)

    folder.with_confidence(0.0, None)
    caption = Captioner.load(path).caption(picture)
    assert caption.confidence is None
    assert caption.confident, "by its probability"
    assert kept(path) == []


def test_a_killed_calibration_leaves_what_was_there(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = shutil.copytree(tiny_model, tmp_path / "model")
    channels = ModelFolder.open(path).manifest.encoder.channels
    folder = ModelFolder.open(path).with_confidence(0.5, constant(channels, 5.0))
    picture = np.full((40, 50, 3), 200, np.uint8)
    before = Captioner.load(path).caption(picture)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_folder, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.with_confidence(0.001, constant(channels, -5.0))
    after = Captioner.load(path).caption(picture)
    assert (after.confidence, after.confident) == (before.confidence, before.confident)


GOOD = constant(3, 0.0)
BROKEN = [
    b"",
    b"no zip",
    constant(2, 0.0).to_bytes(),
    replace(GOOD, weights=np.zeros(8)).to_bytes(),
    replace(GOOD, weights=np.full(1 + SIGNS, np.nan)).to_bytes(),
    replace(GOOD, photo=np.zeros(3, np.float32)).to_bytes(),
    *(
        replace(GOOD, detectors=replace(GOOD.detectors, **{name: value})).to_bytes()
        for name, value in (
            ("kernel", np.zeros((1, 3), np.float32)),
            ("kernel", np.zeros((2, 3), np.int8)),
            ("words", np.zeros((1, 1), np.int32)),
            ("bias", np.zeros(2, np.float32)),
            ("frequency", np.zeros(1, np.float32)),
            ("scale", np.full(1, np.inf, np.float32)),
        )
    ),
]


@pytest.mark.parametrize("content", BROKEN)
def test_anything_else_is_refused(content: bytes) -> None:
    assert ConfidenceEstimator.from_bytes(GOOD.to_bytes(), "sure.npz", channels=3)
    with pytest.raises(ModelFolderError, match=r"calibration file sure\.npz is invalid"):
        ConfidenceEstimator.from_bytes(content, "sure.npz", channels=3)
