"""Confidence: from a caption's probabilities, and from what the features show of its words."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from captioner import Captioner, model_folder
from captioner.confidence import LEAST_SHARE, SIGNS, ConfidenceEstimator, WordDetectors
from captioner.errors import ModelFolderError
from captioner.matching import CaptionMatcher
from captioner.model_folder import ModelFolder
from captioner.search import Hypothesis, Sampling
from captioner.tokenizer import Tokenizer
from captioner.training.calibration import (
    fit_confidence,
    fit_detectors,
    fit_photo,
    fit_ranking,
    separation,
)
from captioner.training.matching import fit_matcher
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


def matcher(count: int = 600, epochs: int = 15) -> CaptionMatcher:
    pooled, animals = photos(count, 1)
    return fit_matcher(pooled, [[(A, int(animal))] for animal in animals], len(WORDS), epochs)


NO_MATCHER = CaptionMatcher.rounded(np.zeros((2, CHANNELS)), np.zeros(2), np.zeros((len(WORDS), 2)))


def estimator(**parts: Any) -> ConfidenceEstimator:
    """One that has learned nothing, but these parts."""
    unlearned = ConfidenceEstimator(
        ALWAYS, detectors(), NO_MATCHER, np.zeros(SIGNS), np.zeros(1 + SIGNS)
    )
    return replace(unlearned, **parts)


def described(count: int, seed: int) -> tuple[np.ndarray, list[Hypothesis], np.ndarray]:
    """Features, captions that name an animal, the right one or not, and which are correct."""
    pooled, animals = photos(count, seed)
    rng = np.random.default_rng(seed)
    said = np.where(rng.random(count) < 0.6, animals, rng.integers(DOG, BIRD + 1, count))
    logs = np.log(rng.uniform(0.3, 0.9, (count, 3)))
    made = [
        Hypothesis((A, int(word)), tuple(map(float, log)))
        for word, log in zip(said, logs, strict=True)
    ]
    return pooled, made, said == animals


def probabilities(made: list[Hypothesis]) -> np.ndarray:
    return np.array([math.exp(np.mean(caption.log_probabilities[:2])) for caption in made])


def signs(of: ConfidenceEstimator, pooled: np.ndarray, made: list[Hypothesis]) -> np.ndarray:
    return np.concatenate([of.signs(x, [y]) for x, y in zip(pooled, made, strict=True)])


def test_a_detector_finds_its_word_and_function_words_have_none() -> None:
    found = detectors()
    assert sorted(found.words) == [DOG, CAT, BIRD]
    pooled, animals = photos(300, 2)
    detected = [found.detect(x, [DOG, CAT, BIRD]) for x in pooled]
    shares = np.array([[d[word][0] for word in (DOG, CAT, BIRD)] for d in detected])
    assert np.mean(shares.argmax(1) + DOG == animals) > 0.8
    # Half of a photo's captions name the animal, and a third of the photos show each.
    assert shares.sum(1).mean() == pytest.approx(0.5, abs=0.06)
    assert [frequency for _, frequency in detected[0].values()] == pytest.approx(
        [1 / 6] * 3, abs=0.03
    )
    assert found.detect(pooled[0], [A, 999]) == {}


def test_eight_bits_are_enough_for_a_detector() -> None:
    kernel = np.random.default_rng(3).normal(size=(3, CHANNELS))
    found = WordDetectors.rounded(np.arange(3), kernel, np.full(3, 0.5), np.full(3, 0.1))
    pooled = np.full(CHANNELS, 0.01, np.float32)
    shares = [share for share, _ in found.detect(pooled, range(3)).values()]
    assert shares == pytest.approx(kernel @ pooled + 0.5, abs=1e-3)


def test_a_word_of_few_photos_has_no_detector() -> None:
    pooled, animals = photos(600, 1)
    captions = [[(int(animal) if animal != BIRD or number < 20 else A,)]
                for number, animal in enumerate(animals)]  # fmt: skip
    assert sorted(fit_detectors(pooled, captions, WORDS).words) == [DOG, CAT]


def test_a_matcher_finds_the_caption_of_a_photo() -> None:
    found = matcher()
    pooled, animals = photos(300, 2)
    captions = [(A, word) for word in (DOG, CAT, BIRD)]
    cosines = np.array([[cosine for cosine, _, _ in found.match(x, captions)] for x in pooled])
    assert np.mean(cosines.argmax(1) + DOG == animals) > 0.8
    assert np.abs(cosines).max() <= 1.001
    assert found.match(pooled[0], [(), (999,)]) == [(0, 0, 0)] * 2, "words that it has not learned"


def test_a_match_reckoned_by_hand() -> None:
    words = np.zeros((len(WORDS), 2))
    words[DOG], words[CAT] = (3, 4), (1, 0)
    found = CaptionMatcher.rounded(np.eye(2), np.array([0.0, -1.0]), words)
    ((cosine, least, mean),) = found.match(np.array([2.0, 1.0], np.float32), [(DOG, CAT)])
    # The picture is (1, 0), the caption (4, 4).
    assert (cosine, least, mean) == pytest.approx((math.sqrt(0.5), 1, 2), abs=0.05)


def test_the_better_caption_comes_first() -> None:
    """It learns to choose from what other captions scored, though all are equally probable."""
    of = estimator(matcher=matcher())
    logs = (math.log(0.5),) * 3
    choices = [Hypothesis((A, word), logs) for word in (DOG, CAT, BIRD)]
    pooled, animals = photos(300, 5)
    scores = [(np.arange(DOG, BIRD + 1) == animal).astype(float) for animal in animals]
    of = replace(of, ranking=fit_ranking([of.signs(x, choices) for x in pooled], scores))
    pooled, animals = photos(300, 6)
    orders = [of.judge(x, choices)[0] for x in pooled]
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2)}
    assert np.mean([order[0] + DOG for order in orders] == animals) > 0.8


def test_it_learns_how_likely_a_caption_is_correct() -> None:
    of = estimator(matcher=matcher())
    pooled, made, correct = described(1000, 3)
    fitted = fit_confidence(signs(of, pooled, made), probabilities(made), correct)
    assert fitted is not None
    weights, of_others = fitted
    of = replace(of, weights=weights)
    pooled, made, correct = described(1000, 4)
    chances = np.array([of.judge(x, [y])[1] for x, y in zip(pooled, made, strict=True)])
    assert separation(probabilities(made), correct)["auroc"] == pytest.approx(0.5, abs=0.06)
    assert separation(chances, correct)["auroc"] > 0.85
    assert chances.mean() == pytest.approx(correct.mean(), abs=0.05)
    # What it says of the photos that it learned from is what it would say of others.
    assert of_others.mean() == pytest.approx(chances.mean(), abs=0.05)


def test_the_signs_of_a_case_reckoned_by_hand() -> None:
    kernel = np.array([[1.0, 0.0], [0.0, 1.0]])
    found = WordDetectors.rounded(np.array([DOG, CAT]), kernel, np.zeros(2), np.full(2, 0.1))
    words = np.zeros((len(WORDS), 2))
    words[DOG], words[CAT] = (1, 0), (0, 1)
    of = ConfidenceEstimator(
        np.array([-1.0, 1.0, 1.0], np.float32),
        found,
        CaptionMatcher.rounded(np.eye(2), np.zeros(2), words),
        np.zeros(SIGNS),
        np.array([0.5, 1.0, *np.zeros(SIGNS - 1)]),
    )
    pooled = np.array([0.8, 0.4], np.float32)
    logs = (math.log(0.5), math.log(0.25), math.log(0.5), math.log(0.25))
    mean = math.log(0.5) * 1.5
    expected = [
        mean, 4 * mean, math.log(0.25), 0.4, 0.6, math.log(4), math.log(4 * math.sqrt(2)), 2,
        math.log(0.32), 3 / math.sqrt(10), 0, 1 / math.sqrt(5),
    ]  # fmt: skip
    caption = Hypothesis((A, DOG, CAT), logs)
    assert of.signs(pooled, [caption])[0] == pytest.approx(expected, abs=1e-2)
    order, chance = of.judge(pooled, [caption])
    assert order == [0]
    assert chance == pytest.approx(1 / (1 + math.exp(-0.5 - mean)))
    dog = Hypothesis((DOG,), logs)
    assert of.judge(np.array([0.5, 0.4], np.float32), [dog])[1] == 0, "no photo"
    never = replace(of, weights=np.array([-1000.0, *np.zeros(SIGNS)]))
    assert 0 < never.judge(pooled, [dog])[1] < 0.01, "0 is for pictures that are not photos"
    nothing = of.signs(pooled, [Hypothesis()])[0]
    assert nothing[3:8] == pytest.approx([LEAST_SHARE, LEAST_SHARE, 0, 0, 0])
    assert np.isfinite(of.signs(pooled, [Hypothesis((A,), (-math.inf,))])).all()


def test_too_few_captions_tell_nothing() -> None:
    pooled, made, correct = described(400, 5)
    found, chances = signs(estimator(), pooled, made), probabilities(made)
    assert fit_confidence(found, chances, correct) is not None
    assert fit_confidence(found[:250], chances[:250], correct[:250]) is None
    assert fit_confidence(found, chances, np.ones(400, bool)) is None
    assert fit_confidence(found, chances, np.arange(400) < 40) is None


def test_signs_that_say_nothing_are_not_believed() -> None:
    pooled, made, _ = described(400, 5)
    rng = np.random.default_rng(8)
    correct = rng.random(400) < probabilities(made)
    assert fit_confidence(signs(estimator(), pooled, made), probabilities(made), correct) is None


def test_what_is_no_photo_is_told_from_photos() -> None:
    rng = np.random.default_rng(6)
    others = rng.normal(2, 0.5, (300, CHANNELS)) + 2 * np.eye(CHANNELS)[-1]
    weights = fit_photo(photos(600, 1)[0], others[:200], photos(500, 2)[0])
    of = estimator(photo=weights)
    assert np.mean([of.is_photo(x) for x in others[200:]]) < 0.1
    assert np.mean([of.is_photo(x) for x in photos(500, 7)[0]]) > 0.98


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
    match = CaptionMatcher.rounded(np.zeros((2, channels)), np.zeros(2), np.zeros((6, 2)))
    weights = np.array([bias, *np.zeros(SIGNS)])
    return ConfidenceEstimator(is_photo, words, match, np.zeros(SIGNS), weights)


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


def test_a_captioner_answers_with_the_best_of_five(tiny_model: Path, tmp_path: Path) -> None:
    path = shutil.copytree(tiny_model, tmp_path / "model")
    picture = np.full((40, 50, 3), 200, np.uint8)
    found = Captioner.load(path).caption(picture, beam_size=5).candidates
    assert len(found) == 5
    channels = ModelFolder.open(path).manifest.encoder.channels
    backwards = replace(constant(channels, 0.0), ranking=np.array([-1.0, *np.zeros(SIGNS - 1)]))
    ModelFolder.open(path).with_confidence(0.5, backwards)
    captioner = Captioner.load(path)
    chosen = captioner.caption(picture).candidates
    by_probability = sorted(found, key=lambda candidate: candidate.probability)
    assert [c.text for c in chosen] == [c.text for c in by_probability[:3]]
    greedy = Captioner.load(tiny_model).caption(picture, beam_size=1).text
    assert captioner.caption(picture, beam_size=1).text == greedy, "greedy stays greedy"
    sampling = Sampling(samples=4, seed=1)
    drawn = [c.text for c in captioner.caption(picture, strategy=sampling).candidates]
    assert drawn == [
        c.text for c in Captioner.load(tiny_model).caption(picture, strategy=sampling).candidates
    ]


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
    replace(GOOD, ranking=np.zeros(8)).to_bytes(),
    replace(GOOD, ranking=np.full(SIGNS, np.nan)).to_bytes(),
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
    *(
        replace(GOOD, matcher=replace(GOOD.matcher, **{name: value})).to_bytes()
        for name, value in (
            ("picture", np.zeros((2, 4), np.int8)),
            ("words", np.zeros((6, 2), np.float32)),
            ("words", np.zeros((6, 3), np.int8)),
            ("picture_bias", np.full(2, np.nan, np.float32)),
        )
    ),
]


@pytest.mark.parametrize("content", BROKEN)
def test_anything_else_is_refused(content: bytes) -> None:
    assert ConfidenceEstimator.from_bytes(GOOD.to_bytes(), "sure.npz", channels=3)
    with pytest.raises(ModelFolderError, match=r"calibration file sure\.npz is invalid"):
        ConfidenceEstimator.from_bytes(content, "sure.npz", channels=3)
