"""When is a caption sure enough? Compares what a model says of its captions with how good they are.

A caption counts as right here when it agrees with what people wrote at least half as well as the
people agree with each other. CIDEr-D measures both, each person's caption against the others'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from captioner.tokenizer import Tokenizer
from captioner.training.rewards import CiderD


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


def choose_threshold(probabilities: np.ndarray, right: np.ndarray) -> float:
    """The probability that separates right captions from wrong ones best.

    That is where the share of right captions above it less the share of wrong ones above it is
    greatest (Youden 1950). 0 where all are right or none is.
    """
    if right.all() or not right.any():
        return 0.0
    candidates = np.unique(probabilities)
    gain = [
        (probabilities[right] >= p).mean() - (probabilities[~right] >= p).mean() for p in candidates
    ]
    # Rounded down, or the caption that it comes from would fall below it.
    return math.floor(1e4 * float(candidates[int(np.argmax(gain))])) / 1e4


def reliability(probabilities: np.ndarray, right: np.ndarray, parts: int = 5) -> dict[str, Any]:
    """How right captions are, from the least sure to the surest.

    Returns:
        `curve`: equal parts of the captions by probability, each with its mean probability and its
        share of right ones. `auroc`: how often a right caption has a higher probability than a
        wrong one; 0.5 is chance.
    """
    order = np.argsort(probabilities, kind="stable")
    curve = [
        {
            "photos": len(part),
            "probability": round(float(probabilities[part].mean()), 4),
            "right": round(float(right[part].mean()), 4),
        }
        for part in np.array_split(order, parts)
        if len(part)
    ]
    yes, no = probabilities[right], probabilities[~right]
    auroc = None
    if len(yes) and len(no):
        higher = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
        auroc = round(float(higher), 4)
    return {"curve": curve, "auroc": auroc}
