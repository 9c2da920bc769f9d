"""How likely a caption is correct, and whether a picture is a photo at all.

After training on a score, a decoder gives nearly every caption a high probability, correct or not.
The encoder's features say more. A linear classifier tells photos from pages, screens, charts,
drawings and blanks, which no caption can describe; their confidence is 0. Word detectors estimate
how many of people's captions of a photo have a word, and a matcher compares a whole caption with
the picture. Two regressions on the probabilities of a caption's words, and on what detectors and
matcher make of them, give which of the search's captions is best, and how likely it is correct.

Sources: Fang et al., "From Captions to Visual Concepts and Back", 2015 (word detectors, here a
ridge regression for each word; and the choice among captions); Cox, "The Regression Analysis of
Binary Sequences", 1958.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from captioner.errors import ModelFolderError
from captioner.matching import CaptionMatcher, in_bytes

# What a search has to find for the best to be chosen. XNNPACK computes up to seven rows of a step
# at once, so that five cost hardly more than three.
CHOICES = 5
SIGNS = 12  # the length of what `ConfidenceEstimator.signs` returns
LEAST_SHARE = 1e-3  # a detector's estimate is at least this
LEAST_CONFIDENCE = 1e-6  # of a photo's caption; 0 means that the picture is not a photo


def choices(beam_size: int) -> int:
    """Captions that a search has to find for a model that chooses among them."""
    return max(beam_size, CHOICES) if beam_size > 1 else beam_size


class Said(Protocol):
    """A caption: ids of its words, and the log probabilities of these and of the end."""

    @property
    def words(self) -> Sequence[int]: ...

    @property
    def log_probabilities(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class WordDetectors:
    """Linear regressions from pooled features to the share of people's captions with a word.

    Attributes:
        words: ids, (detectors,) int32.
        kernel: (detectors, channels) int8.
        scale: of the kernel's rows, (detectors,) float32.
        bias: (detectors,) float32.
        frequency: the mean share over the training photos, (detectors,) float32, above 0.
    """

    words: np.ndarray
    kernel: np.ndarray
    scale: np.ndarray
    bias: np.ndarray
    frequency: np.ndarray

    @classmethod
    def rounded(
        cls, words: np.ndarray, kernel: np.ndarray, bias: np.ndarray, frequency: np.ndarray
    ) -> WordDetectors:
        """From a float kernel."""
        whole, scale = in_bytes(kernel)
        floats = (np.asarray(array, np.float32) for array in (bias, frequency))
        return cls(np.asarray(words, np.int32), whole, scale, *floats)

    def detect(self, pooled: np.ndarray, words: Sequence[int]) -> dict[int, tuple[float, float]]:
        """The share in [LEAST_SHARE, 1] and the frequency of each word that has a detector, by id.

        Args:
            pooled: features, (channels,).
        """
        found = [word for word in words if word in self._rows]
        rows = [self._rows[word] for word in found]
        # Not `@`: after it, the threads of a matrix library spin for a while, on the cores that
        # the next picture's encoder needs.
        products = np.einsum("ij,j->i", self.kernel[rows].astype(np.float32), pooled)
        shares = np.clip(products * self.scale[rows] + self.bias[rows], LEAST_SHARE, 1)
        pairs = zip(shares.tolist(), self.frequency[rows].tolist(), strict=True)
        return dict(zip(found, pairs, strict=True))

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {int(word): row for row, word in enumerate(self.words)}


@dataclass(frozen=True)
class ConfidenceEstimator:
    """A classifier of photos, word detectors, a matcher, and two regressions.

    Attributes:
        photo: a constant and a weight for each channel, (1 + channels,) float32; the weighted sum
            of the features is below 0 if the picture is not a photo.
        detectors: of words.
        matcher: of captions.
        ranking: the signs' weights in the choice among captions, (SIGNS,) float64.
        weights: of a constant and of the signs, in how likely a caption is correct, (1 + SIGNS,)
            float64.
    """

    photo: np.ndarray
    detectors: WordDetectors
    matcher: CaptionMatcher
    ranking: np.ndarray
    weights: np.ndarray

    def is_photo(self, pooled: np.ndarray) -> bool:
        """Args: pooled: the mean of the picture's grid, (channels,)."""
        return float(self.photo[0] + self.photo[1:] @ pooled) >= 0

    def judge(self, pooled: np.ndarray, captions: Sequence[Said]) -> tuple[list[int], float]:
        """The order of a picture's captions, best first, and how likely the best is correct.

        Args:
            pooled: the mean of the picture's grid, (channels,).

        Returns:
            Indices, and a number in [0, 1], which is 0 if the picture is not a photo.
        """
        signs = self.signs(pooled, captions)
        order = np.argsort(-(signs @ self.ranking), kind="stable").tolist()
        if not self.is_photo(pooled):
            return order, 0.0
        likely = _logistic(float(self.weights[0] + self.weights[1:] @ signs[order[0]]))
        return order, max(likely, LEAST_CONFIDENCE)

    def signs(self, pooled: np.ndarray, captions: Sequence[Said]) -> np.ndarray:
        """The regressions' inputs, (captions, SIGNS).

        They are the mean, the sum and the least of the log probabilities; of the words that have a
        detector, the least and the mean share, the least and the mean logarithm of share over
        frequency, their number, and the sum of the shares' logarithms; how well the caption
        matches, and the least and the mean of how well its words do.
        """
        distinct = sorted({int(word) for caption in captions for word in caption.words})
        detected = self.detectors.detect(pooled, distinct)
        matched = self.matcher.match(pooled, [caption.words for caption in captions])
        return np.array(
            [
                [*_of_probabilities(caption), *_of_shares(caption, detected), *match]
                for caption, match in zip(captions, matched, strict=True)
            ]
        )

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {
            "photo": self.photo,
            "weights": self.weights,
            "ranking": self.ranking,
        }
        for prefix, owner in (("", self.detectors), ("match_", self.matcher)):
            for field in fields(owner):
                arrays[prefix + field.name] = getattr(owner, field.name)
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(
        cls, content: bytes, name: str, channels: int | None = None
    ) -> ConfidenceEstimator:
        """Reads what `to_bytes` wrote.

        Raises:
            ModelFolderError: the content is something else, or has another number of channels.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                kernel, words = (np.asarray(file[key]) for key in ("kernel", "words"))
                scale, bias, frequency, photo = (
                    np.asarray(file[key], np.float32)
                    for key in ("scale", "bias", "frequency", "photo")
                )
                weights, ranking = (
                    np.asarray(file[key], np.float64) for key in ("weights", "ranking")
                )
                matcher = CaptionMatcher(
                    **{field.name: np.asarray(file[f"match_{field.name}"])
                       for field in fields(CaptionMatcher)}
                )  # fmt: skip
            expected = len(photo) - 1 if channels is None else channels
            if kernel.shape != (len(words), expected) or photo.shape != (1 + expected,):
                raise ValueError(f"detectors of the shape {kernel.shape}")
            if kernel.dtype != np.int8 or words.dtype != np.int32 or words.ndim != 1:
                raise ValueError(f"detectors of the type {kernel.dtype}")
            if not {scale.shape, bias.shape, frequency.shape} == {words.shape}:
                raise ValueError(f"biases of the shape {bias.shape}")
            if weights.shape != (1 + SIGNS,) or ranking.shape != (SIGNS,):
                raise ValueError(f"weights of the shapes {weights.shape} and {ranking.shape}")
            matcher.check(expected)
            if not all(np.isfinite(a).all() for a in (scale, bias, photo, weights, ranking)):
                raise ValueError("a value is not finite")
            if not (frequency > 0).all():
                raise ValueError("a frequency is not above 0")
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"The calibration file {name} is invalid ({error}); run 'captioner calibrate' "
                "again."
            ) from error
        detectors = WordDetectors(words, kernel, scale, bias, frequency)
        return cls(photo, detectors, matcher, ranking, weights)


def _of_probabilities(caption: Said) -> list[float]:
    logs = [max(log, -20.0) for log in caption.log_probabilities] or [0.0]
    return [sum(logs) / len(logs), sum(logs), min(logs)]


def _of_shares(caption: Said, detected: Mapping[int, tuple[float, float]]) -> list[float]:
    found = [detected[word] for word in caption.words if word in detected]
    pairs = found or [(LEAST_SHARE, LEAST_SHARE)]
    shares = [share for share, _ in pairs]
    lifts = [math.log(share / frequency) for share, frequency in pairs]
    logs = [math.log(max(share, 1e-2)) for share in shares]
    return [
        min(shares), sum(shares) / len(pairs), min(lifts), sum(lifts) / len(pairs), len(found),
        sum(logs),
    ]  # fmt: skip


def _logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)
