"""How likely a caption is correct, and whether a picture is a photo at all.

After training on a score, a decoder gives nearly every caption a high probability, correct or not.
The encoder's features say more. A linear classifier tells photos from pages, screens, charts,
drawings and blanks, which no caption can describe; their confidence is 0. Word detectors estimate
how many of people's captions of a photo have a word. Logistic regression on the probabilities of a
caption's words, and on the detectors' estimates for them, gives how likely the caption is correct.

Sources: Fang et al., "From Captions to Visual Concepts and Back", 2015 (word detectors, here a
ridge regression for each word); Cox, "The Regression Analysis of Binary Sequences", 1958.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from captioner.errors import ModelFolderError

SIGNS = 9  # the length of what `ConfidenceEstimator.signs` returns
LEAST_SHARE = 1e-3  # a detector's estimate is at least this
LEAST_CONFIDENCE = 1e-6  # of a photo's caption; 0 means that the picture is not a photo


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
        scale = np.maximum(np.abs(kernel).max(1, initial=0), 1e-12) / 127
        whole = np.rint(kernel / scale[:, None]).astype(np.int8)
        floats = (np.asarray(array, np.float32) for array in (scale, bias, frequency))
        return cls(np.asarray(words, np.int32), whole, *floats)

    def detect(self, pooled: np.ndarray, words: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Of those words that have a detector: shares in [LEAST_SHARE, 1], and their frequencies.

        Args:
            pooled: features, (channels,).
        """
        rows = [self._rows[word] for word in words if word in self._rows]
        # Not `@`: after it, the threads of a matrix library spin for a while, on the cores that
        # the next picture's encoder needs.
        products = np.einsum("ij,j->i", self.kernel[rows].astype(np.float32), pooled)
        shares = products * self.scale[rows] + self.bias[rows]
        return np.clip(shares, LEAST_SHARE, 1), self.frequency[rows]

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {int(word): row for row, word in enumerate(self.words)}


@dataclass(frozen=True)
class ConfidenceEstimator:
    """A classifier of photos, word detectors, and a logistic regression.

    Attributes:
        photo: a constant and a weight for each channel, (1 + channels,) float32; the weighted sum
            of the features is below 0 if the picture is not a photo.
        detectors: of words.
        weights: of a constant and of the signs, (1 + SIGNS,) float64.
    """

    photo: np.ndarray
    detectors: WordDetectors
    weights: np.ndarray

    def is_photo(self, pooled: np.ndarray) -> bool:
        """Args: pooled: the mean of the picture's grid, (channels,)."""
        return float(self.photo[0] + self.photo[1:] @ pooled) >= 0

    def p_correct(
        self, pooled: np.ndarray, words: Sequence[int], log_probabilities: Sequence[float]
    ) -> float:
        """How likely a caption is correct, in [0, 1]; 0 if the picture is not a photo.

        Args:
            pooled: the mean of the picture's grid, (channels,).
            words: of the caption, as ids.
            log_probabilities: of the words and of the end.
        """
        if not self.is_photo(pooled):
            return 0.0
        signs = self.signs(pooled, words, log_probabilities)
        likely = _logistic(float(self.weights[0] + self.weights[1:] @ signs))
        return max(likely, LEAST_CONFIDENCE)

    def signs(
        self, pooled: np.ndarray, words: Sequence[int], log_probabilities: Sequence[float]
    ) -> np.ndarray:
        """The regression's inputs, (SIGNS,).

        They are the mean, the sum and the least of the log probabilities; of the words that have a
        detector, the least and the mean share, the least and the mean logarithm of share over
        frequency, their number, and the sum of the shares' logarithms.
        """
        logs = np.maximum(log_probabilities, -20) if len(log_probabilities) else np.zeros(1)
        shares, frequencies = self.detectors.detect(pooled, words)
        number = len(shares)
        if not number:
            shares = frequencies = np.full(1, LEAST_SHARE, np.float32)
        lifts = np.log(shares / frequencies)
        return np.array(
            [
                logs.mean(), logs.sum(), logs.min(), shares.min(), shares.mean(), lifts.min(),
                lifts.mean(), number, np.log(np.maximum(shares, 1e-2)).sum(),
            ]
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, photo=self.photo, weights=self.weights, **vars(self.detectors))
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
                weights = np.asarray(file["weights"], np.float64)
            expected = len(photo) - 1 if channels is None else channels
            if kernel.shape != (len(words), expected) or photo.shape != (1 + expected,):
                raise ValueError(f"detectors of the shape {kernel.shape}")
            if kernel.dtype != np.int8 or words.dtype != np.int32 or words.ndim != 1:
                raise ValueError(f"detectors of the type {kernel.dtype}")
            if not {scale.shape, bias.shape, frequency.shape} == {words.shape}:
                raise ValueError(f"biases of the shape {bias.shape}")
            if weights.shape != (1 + SIGNS,):
                raise ValueError(f"weights of the shape {weights.shape}")
            if not all(np.isfinite(a).all() for a in (scale, bias, photo, weights)):
                raise ValueError("a value is not finite")
            if not (frequency > 0).all():
                raise ValueError("a frequency is not above 0")
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"The calibration file {name} is invalid ({error}); run 'captioner calibrate' "
                "again."
            ) from error
        return cls(photo, WordDetectors(words, kernel, scale, bias, frequency), weights)


def _logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)
