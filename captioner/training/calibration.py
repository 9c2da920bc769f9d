"""When is a caption sure enough? Compares what a model says of its captions with how good they are.

A caption counts as right here when it agrees with what people wrote at least half as well as the
people agree with each other. CIDEr-D measures both, each person's caption against the others'.
From captions of photos that the model has not learned from, and from those that it has,
`fit_sureness` learns to tell right ones from wrong ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from captioner.sureness import OTHER_SIGNS, Sureness
from captioner.tokenizer import Tokenizer
from captioner.training.rewards import CiderD

COMPONENTS = 512
COORDINATES = 64
FAMILIAR_SHARE = 0.95  # of the photos that it is calibrated on
RIDGE = 100.0
FOLDS = 5
# Fewer photos than these to calibrate on, or fewer right or wrong captions, tell nothing.
LEAST_PHOTOS, LEAST_OF_A_KIND = 300, 50


def rightness(captions: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """Which of the captions are right; (photos,) bool.

    Args:
        captions: one a photo.
        references: two or more a photo.
    """
    words = [[tuple(Tokenizer.split(r)) for r in own] for own in references]
    scorer = CiderD(words)
    given = np.array([scorer.score(i, Tokenizer.split(c)) for i, c in enumerate(captions)])
    first = CiderD([own[1:] for own in words], corpus=words)
    people = np.array([first.score(i, own[0]) for i, own in enumerate(words)])
    return given >= people.mean() / 2


def fit_sureness(
    known: np.ndarray, features: np.ndarray, probabilities: np.ndarray, right: np.ndarray
) -> tuple[Sureness, np.ndarray] | None:
    """Learns when a model is sure, and how well that can be told.

    Args:
        known: features of photos that the model has learned from, (photos, channels); the means
            over their grids.
        features: likewise, of other photos.
        probabilities: of the captions of these.
        right: which of them are right, as `rightness` says.

    Returns:
        What it learned, and the chance of each of the captions by what was learned from the other
        four fifths. None where there are too few photos or too few captions of a kind, or where
        that tells right from wrong no better than the probabilities alone.
    """
    components = min(COMPONENTS, len(known) // 4, features.shape[1] // 4)
    enough = min(right.sum(), (~right).sum()) >= LEAST_OF_A_KIND
    if not components or len(features) < LEAST_PHOTOS or not enough:
        return None
    mean = known.mean(0)
    directions = np.linalg.svd(known - mean, full_matrices=False)[2][:components]
    coordinates = min(COORDINATES, components)
    nothing = Sureness(mean, directions, 1.0, np.zeros(1 + OTHER_SIGNS + coordinates))
    nothing = Sureness.from_bytes(nothing.to_bytes(), "")  # rounded as it will be read again
    signs = np.stack([nothing.signs(f, p) for f, p in zip(features, probabilities, strict=True)])
    limit = float(np.quantile(signs[:, 1], FAMILIAR_SHARE))

    def learned(chosen: np.ndarray) -> Sureness:
        return replace(nothing, limit=limit, weights=_logistic_fit(signs[chosen], right[chosen]))

    # As many right ones in each fold, or a fold's own share of them would shift its chances.
    fold = np.empty(len(features), int)
    fold[np.argsort(right, kind="stable")] = np.arange(len(features)) % FOLDS
    chances = np.zeros(len(features))
    for own in range(FOLDS):
        of_others = learned(fold != own)
        for i in np.flatnonzero(fold == own):
            chances[i] = of_others.chance(features[i], probabilities[i])
    if separation(chances, right)["auroc"] <= separation(probabilities, right)["auroc"]:
        return None
    return learned(np.ones(len(features), bool)), chances


def _logistic_fit(signs: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Weights of a constant and of `signs`, by Newton's method, those of standardised signs small.

    Le Cessie and van Houwelingen, "Ridge Estimators in Logistic Regression", 1992.
    """
    middle, spread = signs.mean(0), signs.std(0) + 1e-9
    x = np.concatenate([np.ones((len(signs), 1)), (signs - middle) / spread], 1)
    ridge = np.diag([1e-6, *np.full(signs.shape[1], RIDGE)])
    weights = np.zeros(x.shape[1])
    for _ in range(20):
        chance = 1 / (1 + np.exp(-x @ weights))
        slope = x.T @ (right - chance) - ridge @ weights
        weights += np.linalg.solve((x * (chance * (1 - chance))[:, None]).T @ x + ridge, slope)
    own = weights[1:] / spread
    return np.array([weights[0] - own @ middle, *own])


def choose_threshold(sureness: np.ndarray, right: np.ndarray) -> float:
    """The sureness that separates right captions from wrong ones best.

    That is where the share of right captions above it less the share of wrong ones above it is
    greatest (Youden 1950). 0 where all are right or none is.
    """
    if right.all() or not right.any():
        return 0.0
    candidates = np.unique(sureness)
    gain = [(sureness[right] >= p).mean() - (sureness[~right] >= p).mean() for p in candidates]
    # Rounded down, or the caption that it comes from would fall below it.
    return math.floor(1e4 * float(candidates[int(np.argmax(gain))])) / 1e4


def reliability(
    sureness: np.ndarray, probabilities: np.ndarray, right: np.ndarray, threshold: float
) -> dict[str, Any]:
    """How right captions are, from the least sure to the surest.

    Returns:
        `curve` and `auroc` of the sureness, as `separation` gives them; likewise, under
        `by_probability`, of the captions' probabilities alone; and in `sure` and `not_sure` the
        captions on either side of the threshold.
    """
    sure = sureness >= threshold
    return {
        **separation(sureness, right),
        "by_probability": separation(probabilities, right),
        **{
            name: _about(sureness, right, np.flatnonzero(side))
            for name, side in (("sure", sure), ("not_sure", ~sure))
            if side.any()
        },
    }


def separation(scores: np.ndarray, right: np.ndarray, parts: int = 5) -> dict[str, Any]:
    """How well scores tell right captions from wrong ones.

    Returns:
        `curve`: equal parts of the captions by score, each with its mean score and its share of
        right ones. `auroc`: how often a right caption has a higher score than a wrong one; 0.5 is
        chance.
    """
    order = np.argsort(scores, kind="stable")
    curve = [_about(scores, right, part) for part in np.array_split(order, parts) if len(part)]
    yes, no = scores[right], scores[~right]
    auroc = None
    if len(yes) and len(no):
        higher = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
        auroc = round(float(higher), 4)
    return {"curve": curve, "auroc": auroc}


def _about(scores: np.ndarray, right: np.ndarray, part: np.ndarray) -> dict[str, Any]:
    return {
        "photos": len(part),
        "mean": round(float(scores[part].mean()), 4),
        "right": round(float(right[part].mean()), 4),
    }
