"""`captioner calibrate`: learns which of the captions that a model finds is best, how likely it is
correct, from when on the model is confident, and which pictures are not photos.

A caption counts as correct when it agrees with people's captions at least half as well as these
agree with each other, both measured by CIDEr-D. Photos that the model was not trained on give
examples of correct and wrong captions. Photos that it was trained on give the word detectors and
the matcher. Pictures that are not photos are drawn at random (`non_photos.py`).
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

from captioner.confidence import CHOICES, SIGNS, ConfidenceEstimator, Said, WordDetectors
from captioner.errors import CaptionerError
from captioner.model_folder import ModelFolder, write_text
from captioner.tokenizer import Tokenizer
from captioner.training.concepts import concept_shares, content_words
from captioner.training.datasets import Photo, add_data_arguments, read_data
from captioner.training.non_photos import non_photo
from captioner.training.rewards import CiderD, Reward

if TYPE_CHECKING:
    from captioner.captioner import Captioner

NON_PHOTOS = 3000  # to be drawn
PHOTO_SHARE = 0.999  # of the photos that the model is calibrated on, to be called photos
PHOTOS_OF_A_WORD = 15  # whose captions have it, for a detector
DETECTOR_RIDGE, RIDGE, RANKING_RIDGE = 100.0, 30.0, 100.0
RANKING_BLEU = 2.0  # weight of BLEU-4 beside CIDEr-D, which alone chooses wordy captions
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
        captions: that the search found, best first.
    """

    pooled: np.ndarray
    captions: Sequence[Said]


def probability(caption: Said) -> float:
    """The geometric mean of its words', as `Candidate.probability`."""
    own = caption.log_probabilities[: len(caption.words)]
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


def fit_ranking(signs: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> np.ndarray:
    """The signs' weights in the choice among captions, (SIGNS,).

    Ridge regression: where a caption differs in its signs from the mean of its photo's captions,
    how does it differ in its score?

    Args:
        signs: of each photo, (captions, SIGNS).
        scores: of each photo, (captions,).
    """
    x = np.concatenate([own - own.mean(0) for own in signs])
    y = np.concatenate([own - own.mean() for own in scores])
    deviation = x.std(0) + 1e-9
    x = x / deviation
    weights: np.ndarray = np.linalg.solve(x.T @ x + RANKING_RIDGE * np.eye(SIGNS), x.T @ y)
    return weights / deviation


def fit_confidence(
    signs: np.ndarray, probabilities: np.ndarray, correct: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fits a logistic regression, and estimates how well it does on captions that it has not seen.

    Args:
        signs: of captions of photos that the model was not trained on, (captions, SIGNS).
        probabilities: of the captions.
        correct: which of the captions are.

    Returns:
        The weights of a constant and of the signs, and each caption's confidence by weights that
        were fitted on the other four fifths. None where there are too few captions or too few of a
        kind, or where the probability alone separates correct from wrong ones as well.
    """
    enough = min(correct.sum(), (~correct).sum()) >= LEAST_OF_A_KIND
    if len(signs) < LEAST_PHOTOS or not enough:
        return None
    # Every fold has the same share of correct captions; otherwise its share shifts its estimates.
    fold = np.empty(len(signs), int)
    fold[np.argsort(correct, kind="stable")] = np.arange(len(signs)) % FOLDS
    confidence = np.zeros(len(signs))
    for own in range(FOLDS):
        weights = _logistic_regression(signs[fold != own], correct[fold != own])
        x = weights[0] + signs[fold == own] @ weights[1:]
        confidence[fold == own] = 1 / (1 + np.exp(-x))
    if separation(confidence, correct)["auroc"] <= separation(probabilities, correct)["auroc"]:
        return None
    return _logistic_regression(signs, correct), confidence


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
    return [
        Described(grid.mean((0, 1)), captioner.search(grid, beam_size))
        for grid in _grids(captioner, photos, "captions")
    ]


def _grids(captioner: Captioner, photos: Sequence[Photo], name: str) -> Iterator[np.ndarray]:
    for photo in tqdm(photos, desc=name, unit="photo", disable=None):
        try:
            rgb = captioner.preprocessor.load(photo.path)
        except CaptionerError as error:
            raise CalibrationError(f"{photo.path}: {error}") from error
        yield captioner.encode(rgb)


@dataclass(frozen=True)
class Judged:
    """The captions of photos that the model was not trained on.

    Attributes:
        probabilities, confidence: of each photo's caption. The confidence is one that the other
            photos give it, since that of its own would be too good.
        correct: which captions are.
        estimator: None where it brings nothing, or there are too few photos.
    """

    probabilities: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray
    estimator: ConfidenceEstimator | None


def judge(
    captioner: Captioner,
    trained_on: Sequence[Photo],
    photos: Sequence[Photo],
    described: Sequence[Described],
    tokenizer: Tokenizer,
) -> Judged:
    """Learns to choose among captions, and how likely the chosen ones are correct.

    Args:
        trained_on: photos that the model was trained on.
        photos: others, each with two captions by people or more.
        described: what the model made of these.

    Raises:
        CalibrationError: a photo cannot be read.
    """
    if len(described) >= LEAST_PHOTOS:
        learned = _fit_to_photos(captioner, trained_on, described, tokenizer)
        signs = [learned.signs(made.pooled, made.captions) for made in described]
        ranking = fit_ranking(signs, _scores(photos, described, tokenizer))
        best = [int((own @ ranking).argmax()) for own in signs]
        chosen = [made.captions[i] for made, i in zip(described, best, strict=True)]
        probabilities, correct = _about_captions(photos, chosen, tokenizer)
        of_best = np.stack([own[i] for own, i in zip(signs, best, strict=True)])
        if fitted := fit_confidence(of_best, probabilities, correct):
            weights, confidence = fitted
            estimator = replace(learned, ranking=ranking, weights=weights)
            is_photo = np.array([estimator.is_photo(made.pooled) for made in described])
            return Judged(probabilities, confidence * is_photo, correct, estimator)
    first = [made.captions[0] for made in described]
    probabilities, correct = _about_captions(photos, first, tokenizer)
    return Judged(probabilities, probabilities, correct, None)


def _fit_to_photos(
    captioner: Captioner,
    trained_on: Sequence[Photo],
    described: Sequence[Described],
    tokenizer: Tokenizer,
) -> ConfidenceEstimator:
    """What photos with captions and drawn pictures teach; the regressions have weights of 0."""
    from captioner.training.matching import fit_matcher  # Keras, which `--help` does not need

    pooled = np.stack([grid.mean((0, 1)) for grid in _grids(captioner, trained_on, "words")])
    captions = [[tokenizer.encode(c) for c in photo.captions] for photo in trained_on]
    drawn = tqdm(range(NON_PHOTOS), desc="no photos", unit="picture", disable=None)
    others = np.stack([captioner.encode(non_photo(seed)).mean((0, 1)) for seed in drawn])
    return ConfidenceEstimator(
        fit_photo(pooled, others, np.stack([made.pooled for made in described])),
        fit_detectors(pooled, captions, tokenizer),
        fit_matcher(pooled, captions, len(tokenizer)),
        np.zeros(SIGNS),
        np.zeros(1 + SIGNS),
    )


def _by_collection(photos: Sequence[Photo]) -> Iterator[tuple[list[int], list[Sequence[str]]]]:
    """The indices of each collection's photos, and people's captions of them."""
    collections = np.array([photo.collection for photo in photos])
    for name in np.unique(collections):
        own = np.flatnonzero(collections == name).tolist()
        yield own, [photos[i].captions for i in own]


def _scores(
    photos: Sequence[Photo], described: Sequence[Described], tokenizer: Tokenizer
) -> list[np.ndarray]:
    """CIDEr-D and BLEU-4 of each caption of each photo, together."""
    scores = [np.zeros(0)] * len(photos)
    for own, references in _by_collection(photos):
        words = [[tuple(Tokenizer.split(r)) for r in people] for people in references]
        scorer = Reward(words, bleu=RANKING_BLEU)
        for place, i in enumerate(own):
            said = [[tokenizer.words[word] for word in c.words] for c in described[i].captions]
            scores[i] = np.array([scorer.score(place, caption) for caption in said])
    return scores


def _about_captions(
    photos: Sequence[Photo], captions: Sequence[Said], tokenizer: Tokenizer
) -> tuple[np.ndarray, np.ndarray]:
    """The captions' probabilities, and which are correct."""
    from captioner.captioner import sentence

    correct = np.zeros(len(photos), bool)
    for own, references in _by_collection(photos):
        texts = [sentence([tokenizer.words[word] for word in captions[i].words]) for i in own]
        correct[own] = is_correct(texts, references)
    return np.array([probability(caption) for caption in captions]), correct


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: the default model)"
    )
    add_data_arguments(parser)
    parser.add_argument(
        "--beam-size", type=int, default=CHOICES, choices=range(2, 11), metavar="2..10",
        help=f"captions that the model learns to choose among (default: {CHOICES})",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Calibrates a model on the dev photos; those for training give the word detectors.

    Writes `calibration.json` to the model folder: for each collection, how well the confidence
    separates correct captions from wrong ones. There each caption has the confidence that the
    other photos give it.

    Raises:
        CaptionerError: the data, the model or a photo cannot be read, or a photo has one caption.
    """
    from captioner.captioner import Captioner
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
    judged = judge(captioner, trained_on, photos, described, folder.tokenizer())
    threshold = choose_threshold(judged.confidence, judged.correct)
    print(f"{'confidence by':<15}{'all signs' if judged.estimator else 'probability alone'}")
    print(f"{'threshold':<15}{threshold:>8g}")
    folder = folder.with_confidence(threshold, judged.estimator)
    report = {}
    for own, _ in _by_collection(photos):
        about = reliability(
            judged.confidence[own], judged.probabilities[own], judged.correct[own], threshold
        )
        name = photos[own[0]].collection
        report[name] = about
        print(f"{name + ' AUROC':<15}{about['auroc'] or float('nan'):>8g}")
    write_text(folder.path / "calibration.json", json.dumps(report, indent=1) + "\n")
    return 0
