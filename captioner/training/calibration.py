"""`captioner calibrate`: learns how likely a model's captions are correct, from when on it is
confident, and which pictures are not photos.

A caption counts as correct when it agrees with people's captions at least half as well as these
agree with each other, both measured by CIDEr-D. Photos that the model was not trained on give
examples of correct and wrong captions. Photos that it was trained on give the word detectors.
Pictures that are not photos are drawn at random (`non_photos.py`).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from captioner.confidence import ConfidenceEstimator, WordDetectors
from captioner.errors import CaptionerError
from captioner.model_folder import ModelFolder, write_text
from captioner.tokenizer import Tokenizer
from captioner.training.concepts import concept_shares, content_words
from captioner.training.datasets import Photo, add_data_arguments, read_data
from captioner.training.non_photos import non_photo
from captioner.training.rewards import CiderD

if TYPE_CHECKING:
    from captioner.captioner import Captioner

NON_PHOTOS = 3000  # to be drawn
PHOTO_SHARE = 0.999  # of the photos that the model is calibrated on, to be called photos
PHOTOS_OF_A_WORD = 15  # whose captions have it, for a detector
DETECTOR_RIDGE, RIDGE = 100.0, 30.0
CONFIDENT_SHARE = 0.8  # of the captions that are confident, to be correct
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


@dataclass(frozen=True)
class Described:
    """What the model made of a photo.

    Attributes:
        pooled: the mean of its grid, (channels,) float32.
        words: of its best caption, as ids.
        log_probabilities: of the words and of the end.
    """

    pooled: np.ndarray
    words: tuple[int, ...]
    log_probabilities: tuple[float, ...]

    @property
    def probability(self) -> float:
        """The geometric mean of its words', as `Candidate.probability`."""
        own = self.log_probabilities[: len(self.words)]
        return math.exp(sum(own) / max(len(own), 1))


def fit_detectors(
    pooled: np.ndarray, captions: Sequence[Sequence[Sequence[int]]], tokenizer: Tokenizer
) -> WordDetectors:
    """A detector for each content word that enough photos have.

    Args:
        pooled: features of photos, (photos, channels).
        captions: of each photo, as ids of words.
    """
    ids = np.array(content_words(tokenizer))
    shares = concept_shares(captions, ids.tolist())
    is_common = (shares > 0).sum(0) >= PHOTOS_OF_A_WORD
    ids, shares = ids[is_common], shares[:, is_common]
    mean, frequency = pooled.mean(0), shares.mean(0)
    x = pooled - mean
    gram = x.T @ x + DETECTOR_RIDGE * np.eye(x.shape[1], dtype=x.dtype)
    kernel = np.linalg.solve(gram, x.T @ (shares - frequency)).T
    return WordDetectors.rounded(ids, kernel, frequency - kernel @ mean, frequency)


def fit_photo(pooled: np.ndarray, others: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """A constant and a weight for each channel; the weighted sum is below 0 if it is not a photo.

    Args:
        pooled: features of photos, (photos, channels).
        others: likewise, of pictures that are not photos.
        held_out: likewise, of other photos; all but a few of them are above 0.
    """
    is_photo = np.arange(len(pooled) + len(others)) < len(pooled)
    weights = _logistic_regression(np.concatenate([pooled, others]).astype(float), is_photo)
    weights[0] -= min(0.0, np.quantile(weights[0] + held_out @ weights[1:], 1 - PHOTO_SHARE))
    return weights.astype(np.float32)


def fit_confidence(
    photo: np.ndarray, detectors: WordDetectors, described: Sequence[Described], correct: np.ndarray
) -> tuple[ConfidenceEstimator, np.ndarray] | None:
    """Fits an estimator, and estimates how well it does on photos that it was not fitted on.

    Args:
        photo: as `fit_photo` returns it.
        detectors: fitted on other photos than these.
        described: photos that the model was not trained on.
        correct: which of their captions are correct.

    Returns:
        The estimator, and each caption's confidence by an estimator that was fitted on the other
        four fifths. None where there are too few photos or too few captions of a kind, or where
        the caption's probability alone separates correct from wrong ones as well.
    """
    enough = min(correct.sum(), (~correct).sum()) >= LEAST_OF_A_KIND
    if len(described) < LEAST_PHOTOS or not enough:
        return None
    empty = ConfidenceEstimator(photo, detectors, np.zeros(1))
    signs = np.stack([empty.signs(d.pooled, d.words, d.log_probabilities) for d in described])

    def fitted(chosen: np.ndarray) -> ConfidenceEstimator:
        return replace(empty, weights=_logistic_regression(signs[chosen], correct[chosen]))

    # Every fold has the same share of correct captions; otherwise its share shifts its estimates.
    fold = np.empty(len(described), int)
    fold[np.argsort(correct, kind="stable")] = np.arange(len(described)) % FOLDS
    confidence = np.zeros(len(described))
    for own in range(FOLDS):
        of_others = fitted(fold != own)
        for i in np.flatnonzero(fold == own):
            d = described[int(i)]
            confidence[i] = of_others.p_correct(d.pooled, d.words, d.log_probabilities)
    probabilities = np.array([d.probability for d in described])
    if separation(confidence, correct)["auroc"] <= separation(probabilities, correct)["auroc"]:
        return None
    return fitted(np.ones(len(described), bool)), confidence


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
    """The least confidence at which captions are correct often enough, CONFIDENT_SHARE of them.

    1 where they never are.
    """
    order = np.argsort(-confidence, kind="stable")
    shares = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    least = min(len(order), LEAST_OF_A_KIND)
    enough = np.flatnonzero(shares[least - 1 :] >= CONFIDENT_SHARE)
    if not len(enough):
        return 1.0
    # Rounded down, or the caption that it comes from would be below it.
    return math.floor(1e4 * float(confidence[order][least - 1 + enough[-1]])) / 1e4


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


def describe(captioner: Captioner, photos: Sequence[Photo], beam_size: int) -> list[Described]:
    """What the model makes of photos.

    Raises:
        CalibrationError: a photo cannot be read.
    """
    described = []
    for grid in _grids(captioner, photos, "captions"):
        best = captioner.search(grid, beam_size)[0]
        described.append(Described(grid.mean((0, 1)), best.words, best.log_probabilities))
    return described


def _grids(captioner: Captioner, photos: Sequence[Photo], name: str) -> Iterator[np.ndarray]:
    for photo in tqdm(photos, desc=name, unit="photo", disable=None):
        try:
            rgb = captioner.preprocessor.load(photo.path)
        except CaptionerError as error:
            raise CalibrationError(f"{photo.path}: {error}") from error
        yield captioner.encode(rgb)


def calibrate(
    folder: ModelFolder,
    captioner: Captioner,
    trained_on: Sequence[Photo],
    described: Sequence[Described],
    correct: np.ndarray,
) -> tuple[np.ndarray, ModelFolder]:
    """Fits the confidence and stores it in the model folder.

    Args:
        trained_on: photos that the model was trained on.
        described: others, and which of their captions are `correct`.

    Returns:
        Each caption's confidence by an estimator fitted on the other photos, since a report on the
        same photos would be too good; and the folder.

    Raises:
        CalibrationError: a photo cannot be read.
    """
    fitted = None
    if len(described) >= LEAST_PHOTOS:
        tokenizer = folder.tokenizer()
        pooled = np.stack([grid.mean((0, 1)) for grid in _grids(captioner, trained_on, "words")])
        drawn = tqdm(range(NON_PHOTOS), desc="no photos", unit="picture", disable=None)
        others = np.stack([captioner.encode(non_photo(seed)).mean((0, 1)) for seed in drawn])
        captions = [[tokenizer.encode(c) for c in photo.captions] for photo in trained_on]
        detectors = fit_detectors(pooled, captions, tokenizer)
        photo = fit_photo(pooled, others, np.stack([d.pooled for d in described]))
        fitted = fit_confidence(photo, detectors, described, correct)
    confidence = fitted[1] if fitted else np.array([d.probability for d in described])
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
    """Calibrates a model on the dev photos; those for training give the word detectors.

    Writes `calibration.json` to the model folder: for each collection, how well the confidence
    separates correct captions from wrong ones. There each caption has the confidence that the
    other photos give it.

    Raises:
        CaptionerError: the data, the model or a photo cannot be read, or a photo has one caption.
    """
    from captioner.captioner import Captioner, sentence
    from captioner.engine import Engine

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
    # Without the calibration that is there: it may be one that cannot be read.
    captioner = Captioner(Engine(*folder.serving()), folder.tokenizer(), folder.manifest)
    described = describe(captioner, photos, args.beam_size)
    probabilities = np.array([made.probability for made in described])
    vocabulary = folder.tokenizer().words
    captions = [sentence([vocabulary[word] for word in made.words]) for made in described]
    correct, collections = np.zeros(len(photos), bool), np.array([p.collection for p in photos])
    for name in np.unique(collections):
        own = np.flatnonzero(collections == name)
        references = [photos[i].captions for i in own]
        correct[own] = is_correct([captions[i] for i in own], references)
    confidence, folder = calibrate(folder, captioner, trained_on, described, correct)
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
