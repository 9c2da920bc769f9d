"""`captioner calibrate`: learns how likely a model's captions are correct, and from when on it is
confident.

A caption counts as correct when it agrees with people's captions at least half as well as these
agree with each other, both measured by CIDEr-D. Photos that the model was not trained on give
examples of correct and wrong captions; photos that it was trained on give the subspace of familiar
features.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from captioner.confidence import OTHER_FEATURES, ConfidenceEstimator
from captioner.errors import CaptionerError
from captioner.model_folder import ModelFolder, write_text
from captioner.tokenizer import Tokenizer
from captioner.training.datasets import Photo, add_data_arguments, read_data
from captioner.training.rewards import CiderD

if TYPE_CHECKING:
    from captioner.captioner import Captioner

COMPONENTS = 512
COORDINATES = 64
FAMILIAR_SHARE = 0.95  # of the photos that the model is calibrated on
RIDGE = 100.0
FOLDS = 5
# With fewer photos, or fewer correct or wrong captions, a regression would fit noise.
LEAST_PHOTOS, LEAST_OF_A_KIND = 300, 50


class CalibrationError(CaptionerError):
    """A model cannot be calibrated with these photos."""

    title = "The model cannot be calibrated"


def is_correct(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Which captions are correct, (photos,) bool.

    Args:
        captions: one a photo.
        references: two or more a photo.
    """
    words = [[tuple(Tokenizer.split(r)) for r in own] for own in references]
    scorer = CiderD(words)
    scores = np.array([scorer.score(i, Tokenizer.split(c)) for i, c in enumerate(captions)])
    first = CiderD([own[1:] for own in words], corpus=words)
    people = np.array([first.score(i, own[0]) for i, own in enumerate(words)])
    return scores >= people.mean() / 2


def fit_confidence(
    trained_on: np.ndarray, pooled: np.ndarray, probabilities: np.ndarray, correct: np.ndarray
) -> tuple[ConfidenceEstimator, np.ndarray] | None:
    """Fits an estimator, and estimates how well it does on photos that it was not fitted on.

    Args:
        trained_on: pooled grids of photos that the model was trained on, (photos, channels).
        pooled: likewise, of other photos.
        probabilities: of the captions of the other photos.
        correct: which of these captions are correct.

    Returns:
        The estimator, and each caption's confidence by an estimator that was fitted on the other
        four fifths. None where there are too few photos or too few captions of a kind, or where
        the caption's probability alone separates correct from wrong ones as well.
    """
    components = min(
        COMPONENTS, len(trained_on) // 4, pooled.shape[1] // 4 if pooled.ndim > 1 else 0
    )
    enough = min(correct.sum(), (~correct).sum()) >= LEAST_OF_A_KIND
    if not components or len(pooled) < LEAST_PHOTOS or not enough:
        return None
    mean = trained_on.mean(0)
    directions = np.linalg.svd(trained_on - mean, full_matrices=False)[2][:components]
    coordinates = min(COORDINATES, components)
    empty = ConfidenceEstimator(mean, directions, 1.0, np.zeros(1 + OTHER_FEATURES + coordinates))
    empty = ConfidenceEstimator.from_bytes(empty.to_bytes(), "")  # rounded, as it will be read
    features = np.stack([empty.features(x, p) for x, p in zip(pooled, probabilities, strict=True)])
    limit = float(np.quantile(features[:, 1], FAMILIAR_SHARE))

    def fitted(chosen: np.ndarray) -> ConfidenceEstimator:
        weights = _logistic_regression(features[chosen], correct[chosen])
        return replace(empty, limit=limit, weights=weights)

    # Every fold has the same share of correct captions; otherwise its share shifts its estimates.
    fold = np.empty(len(pooled), int)
    fold[np.argsort(correct, kind="stable")] = np.arange(len(pooled)) % FOLDS
    confidence = np.zeros(len(pooled))
    for own in range(FOLDS):
        of_others = fitted(fold != own)
        for i in np.flatnonzero(fold == own):
            confidence[i] = of_others.p_correct(pooled[i], probabilities[i])
    if separation(confidence, correct)["auroc"] <= separation(probabilities, correct)["auroc"]:
        return None
    return fitted(np.ones(len(pooled), bool)), confidence


def _logistic_regression(features: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """Weights of a constant and of `features`, by Newton's method with a ridge penalty.

    Le Cessie and van Houwelingen, "Ridge Estimators in Logistic Regression", 1992.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-9
    x = np.concatenate([np.ones((len(features), 1)), (features - mean) / deviation], 1)
    ridge = np.diag([1e-6, *np.full(features.shape[1], RIDGE)])
    weights = np.zeros(x.shape[1])
    for _ in range(20):
        p = 1 / (1 + np.exp(-x @ weights))
        gradient = x.T @ (correct - p) - ridge @ weights
        weights += np.linalg.solve((x * (p * (1 - p))[:, None]).T @ x + ridge, gradient)
    own = weights[1:] / deviation
    return np.array([weights[0] - own @ mean, *own])


def choose_threshold(confidence: np.ndarray, correct: np.ndarray) -> float:
    """The confidence that separates correct captions from wrong ones best.

    It maximises the share of correct captions above it minus the share of wrong ones above it
    (Youden 1950). 0 where all captions are correct, or none is.
    """
    if correct.all() or not correct.any():
        return 0.0
    candidates = np.unique(confidence)
    gain = [
        (confidence[correct] >= c).mean() - (confidence[~correct] >= c).mean() for c in candidates
    ]
    # Rounded down, or the caption that it comes from would be below it.
    return math.floor(1e4 * float(candidates[int(np.argmax(gain))])) / 1e4


def reliability(
    confidence: np.ndarray, probabilities: np.ndarray, correct: np.ndarray, threshold: float
) -> dict[str, Any]:
    """How often captions are correct, by their confidence.

    Returns:
        `curve` and `auroc` of the confidence, as `separation` gives them; the same under
        `by_probability` for the captions' probabilities; and in `confident` and `not_confident`
        the captions on either side of the threshold.
    """
    above = confidence >= threshold
    return {
        **separation(confidence, correct),
        "by_probability": separation(probabilities, correct),
        **{
            name: _about(confidence, correct, np.flatnonzero(side))
            for name, side in (("confident", above), ("not_confident", ~above))
            if side.any()
        },
    }


def separation(scores: np.ndarray, correct: np.ndarray, parts: int = 5) -> dict[str, Any]:
    """How well scores separate correct captions from wrong ones.

    Returns:
        `curve`: equal parts of the captions by score, each with its mean score and its share of
        correct ones. `auroc`: how often a correct caption has a higher score than a wrong one;
        0.5 is no better than a coin.
    """
    order = np.argsort(scores, kind="stable")
    curve = [_about(scores, correct, part) for part in np.array_split(order, parts) if len(part)]
    yes, no = scores[correct], scores[~correct]
    auroc = None
    if len(yes) and len(no):
        higher = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
        auroc = round(float(higher), 4)
    return {"curve": curve, "auroc": auroc}


def _about(scores: np.ndarray, correct: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    return {
        "photos": len(part),
        "mean": round(float(scores[part].mean()), 4),
        "correct": round(float(correct[part].mean()), 4),
    }


def calibrate(
    folder: ModelFolder,
    captioner: Captioner,
    trained_on: Sequence[Photo],
    photos: Sequence[Photo],
    probabilities: np.ndarray,
    correct: np.ndarray,
) -> tuple[np.ndarray, ModelFolder]:
    """Fits the confidence and stores it in the model folder.

    Args:
        trained_on: photos that the model was trained on.
        photos: others; `probabilities` of their captions, and which of these are `correct`.

    Returns:
        Each caption's confidence by an estimator fitted on the other photos, since a report on the
        same photos would be too good; and the folder.

    Raises:
        CalibrationError: a photo cannot be read.
    """

    def pooled(of: Sequence[Photo]) -> np.ndarray:
        found = []
        for photo in tqdm(of, desc="features", unit="photo", disable=None):
            try:
                rgb = captioner.preprocessor.load(photo.path)
            except CaptionerError as error:
                raise CalibrationError(f"{photo.path}: {error}") from error
            found.append(captioner.encode(rgb).mean((0, 1)))
        return np.array(found)

    fitted = None
    if len(photos) >= LEAST_PHOTOS:
        fitted = fit_confidence(pooled(trained_on), pooled(photos), probabilities, correct)
    confidence = fitted[1] if fitted else probabilities
    threshold = choose_threshold(confidence, correct)
    print(f"{'confidence by':<15}{'probability and features' if fitted else 'probability alone'}")
    print(f"{'threshold':<15}{threshold:>8g}")
    return confidence, folder.with_confidence(threshold, fitted[0] if fitted else None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: the default model)"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--beam-size", type=int, default=3, choices=range(1, 11), metavar="1..10",
        help="hypotheses that the beam search keeps (default: 3; 1 is greedy)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Calibrates a model on the dev photos, with those for training as the familiar ones.

    Writes `calibration.json` to the model folder: for each collection, how well the confidence
    separates correct captions from wrong ones. There each caption has the confidence that the
    other photos give it.

    Raises:
        CaptionerError: the data, the model or a photo cannot be read, or a photo has one caption.
    """
    from captioner.captioner import Captioner

    data = read_data(args)
    trained_on, photos = data.of("train"), data.of("dev")
    if not trained_on or not photos:
        raise CalibrationError(
            f"Calibration needs photos for training and for dev, but has: {data}."
        )
    if lonely := [photo for photo in photos if len(photo.captions) < 2]:
        raise CalibrationError(
            f"{lonely[0].path.name} has one caption, and two are needed to compare people with "
            "each other; name other photos with --dev."
        )
    folder = ModelFolder.open(args.model)
    captioner = Captioner.load(folder.path)
    captions = []
    for photo in tqdm(photos, desc="captions", unit="photo", disable=None):
        try:
            captions.append(captioner.caption(photo.path, beam_size=args.beam_size))
        except CaptionerError as error:
            raise CalibrationError(f"{photo.path}: {error}") from error
    probabilities = np.array([caption.probability for caption in captions])
    correct, collections = np.zeros(len(photos), bool), np.array([p.collection for p in photos])
    for name in np.unique(collections):
        own = np.flatnonzero(collections == name)
        references = [photos[i].captions for i in own]
        correct[own] = is_correct([captions[i].text for i in own], references)
    confidence, folder = calibrate(folder, captioner, trained_on, photos, probabilities, correct)
    threshold = folder.manifest.calibration.threshold
    report = {
        name: reliability(confidence[own], probabilities[own], correct[own], threshold)
        for name in np.unique(collections)
        for own in [collections == name]
    }
    for name, about in report.items():
        print(f"{name + ' AUROC':<15}{about['auroc'] or float('nan'):>8g}")
    write_text(folder.path / "calibration.json", json.dumps(report, indent=1) + "\n")
    return 0
