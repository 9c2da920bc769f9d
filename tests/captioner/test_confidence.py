"""Confidence: from a caption's probability, and from where the features are near a subspace."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from captioner import Captioner, model_folder
from captioner.confidence import ConfidenceEstimator
from captioner.errors import ModelFolderError
from captioner.model_folder import ModelFolder
from captioner.training.calibration import FAMILIAR_SHARE, fit_confidence, separation

DIMENSIONS = 40


def features(photos: int, seed: int) -> np.ndarray:
    """In three of forty dimensions, with a little of all."""
    rng = np.random.default_rng(seed)
    plane = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSIONS, 3)))[0].T
    around = 0.05 * rng.normal(size=(photos, DIMENSIONS))
    return (2 + rng.normal(size=(photos, 3)) @ plane + around).astype(np.float32)


def outcomes(of: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of captions, which are right, and how likely that was.

    The first plane direction and the probability decide, and chance.
    """
    rng = np.random.default_rng(seed)
    probabilities = rng.uniform(0.2, 0.9, len(of))
    direction = np.linalg.qr(np.random.default_rng(0).normal(size=(DIMENSIONS, 3)))[0].T[0]
    likely = 1 / (1 + np.exp(-2.0 * (of - 2) @ direction - 2 * np.log(probabilities / 0.5)))
    return probabilities, rng.random(len(of)) < likely, likely


def test_it_learns_how_likely_a_caption_is_right() -> None:
    photos = features(1000, 1)
    probabilities, right, _ = outcomes(photos, 2)
    found = fit_confidence(features(2000, 3), photos, probabilities, right)
    assert found is not None
    confidence, of_others = found
    fresh = features(1000, 4)
    probabilities, right, likely = outcomes(fresh, 5)
    chances = np.array(
        [confidence.p_correct(f, p) for f, p in zip(fresh, probabilities, strict=True)]
    )
    familiar = chances > 0
    assert familiar.mean() == pytest.approx(FAMILIAR_SHARE, abs=0.03)
    # Drawn towards their mean, since it trusts a thousand photos only so far.
    assert np.abs(chances - likely)[familiar].mean() < 0.15
    auroc = separation(chances[familiar], right[familiar])["auroc"]
    best = separation(likely[familiar], right[familiar])["auroc"]
    alone = separation(probabilities[familiar], right[familiar])["auroc"]
    assert alone < best - 0.1
    assert auroc > best - 0.02
    # What it says of the photos that it learned from is what it would say of others.
    assert of_others[of_others > 0].mean() == pytest.approx(chances[familiar].mean(), abs=0.05)


def test_what_points_out_of_the_plane_is_not_sure() -> None:
    photos = features(400, 1)
    probabilities, right, _ = outcomes(photos, 2)
    found = fit_confidence(features(1000, 3), photos, probabilities, right)
    assert found is not None
    aside = np.random.default_rng(6).normal(size=DIMENSIONS)
    strange = features(400, 7) + 3 * aside.astype(np.float32)
    assert [found[0].p_correct(f, 0.9) for f in strange] == [0.0] * 400


def test_the_signs_of_a_case_reckoned_by_hand() -> None:
    confidence = ConfidenceEstimator(
        np.array([1.0, 1.0], np.float32), np.array([[1.0, 0.0]], np.float32), 0.7,
        np.array([0.5, 1.0, 0.0, 0.0, 2.0]),
    )  # fmt: skip
    log, residual, length, first = confidence.features(np.array([5.0, 4.0], np.float32), 0.5)
    assert (log, residual, length, first) == pytest.approx((math.log(0.5), 0.6, 5.0, 4.0))
    chance = confidence.p_correct(np.array([5.0, 4.0], np.float32), 0.5)
    assert chance == pytest.approx(1 / (1 + math.exp(-(0.5 + math.log(0.5) + 8))))
    assert confidence.p_correct(np.array([1.0, 4.0], np.float32), 0.5) == 0
    assert confidence.p_correct(np.array([1.0, 1.0], np.float32), 0.5) > 0, "no direction at all"
    assert confidence.p_correct(np.array([-1000.0, 1.0], np.float32), 0.0) == 0


def test_too_few_photos_tell_nothing() -> None:
    photos = features(400, 1)
    probabilities, right, _ = outcomes(photos, 2)
    assert fit_confidence(photos[:3], photos, probabilities, right) is None
    assert fit_confidence(np.array([]), photos, probabilities, right) is None
    assert fit_confidence(photos, photos[:250], probabilities[:250], right[:250]) is None
    assert fit_confidence(photos, photos, probabilities, np.ones(400, bool)) is None
    assert fit_confidence(photos, photos, probabilities, np.arange(400) < 40) is None


def test_features_that_say_nothing_are_not_believed() -> None:
    rng = np.random.default_rng(8)
    photos, probabilities = features(400, 1), rng.uniform(0.2, 0.9, 400)
    right = rng.random(400) < probabilities
    assert fit_confidence(features(1000, 3), photos, probabilities, right) is None


def kept(path: Path) -> list[str]:
    """The files of that kind in a model folder."""
    return sorted(file.name for file in path.glob("confidence*"))


def test_it_is_kept_in_the_model_folder(tiny_model: Path, tmp_path: Path) -> None:
    """A caption is confident by its chance, and by its probability where nothing more is known."""
    path = shutil.copytree(tiny_model, tmp_path / "model")
    folder = ModelFolder.open(path)
    picture = np.full((40, 50, 3), 200, np.uint8)
    channels = folder.manifest.encoder.channels
    mean, nothing = np.zeros(channels), np.zeros((1, channels))
    for limit, bias, chance in ((1.0, 5.0, 0.9933), (1.0, -5.0, 0.0067), (-1.0, 5.0, 0.0)):
        folder = folder.with_confidence(
            0.5, ConfidenceEstimator(mean, nothing, limit, np.array([bias, 0, 0, 0]))
        )
        assert kept(path) == [ModelFolder.open(path).manifest.calibration.estimator]
        caption = Captioner.load(path).caption(picture)
        assert caption.confidence == pytest.approx(chance, abs=1e-4)
        assert caption.to_dict()["confidence"] == pytest.approx(chance, abs=1e-4)
        assert caption.confident is (chance >= 0.5)

    folder.amend(calibration=replace(folder.manifest.calibration, threshold=0.0))
    assert not Captioner.load(path).caption(picture).confident, "unfamiliar"

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
    first, second = (
        ConfidenceEstimator(
            np.zeros(channels), np.zeros((1, channels)), 1.0, np.array([bias, 0, 0, 0.0])
        )
        for bias in (5.0, -5.0)
    )
    folder = ModelFolder.open(path).with_confidence(0.5, first)
    picture = np.full((40, 50, 3), 200, np.uint8)
    before = Captioner.load(path).caption(picture)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_folder, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.with_confidence(0.001, second)
    after = Captioner.load(path).caption(picture)
    assert (after.confidence, after.confident) == (before.confidence, before.confident)


TWO_CHANNELS = ConfidenceEstimator(np.zeros(2), np.eye(2), 1.0, np.zeros(4)).to_bytes()
TOO_MANY_WEIGHTS = ConfidenceEstimator(np.zeros(3), np.eye(3), 1.0, np.zeros(8)).to_bytes()
NO_NUMBER = ConfidenceEstimator(np.zeros(3), np.eye(3), float("nan"), np.zeros(4)).to_bytes()


@pytest.mark.parametrize("content", [b"", b"no zip", TWO_CHANNELS, TOO_MANY_WEIGHTS, NO_NUMBER])
def test_anything_else_is_refused(content: bytes) -> None:
    with pytest.raises(ModelFolderError, match=r"calibration file sure\.npz is invalid"):
        ConfidenceEstimator.from_bytes(content, "sure.npz", channels=3)
