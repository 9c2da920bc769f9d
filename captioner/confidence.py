"""How likely a caption is correct, from its probability and from the encoder's features.

After training on a score, a decoder gives nearly every caption a high probability, correct or not.
The encoder's features say more. Features of photos like those of training are close to a subspace
of few dimensions, found by principal component analysis. The residual outside that subspace
measures how unfamiliar a picture is: a drawing, a page of text or a black frame has a large one.
Above `limit` the confidence is 0. Below it, logistic regression on the caption's probability, the
residual and the position in the subspace estimates how likely the caption is correct.

Sources: Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal
Component Analysis", 1979; Cox, "The Regression Analysis of Binary Sequences", 1958.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass

import numpy as np

from captioner.errors import ModelFolderError

OTHER_FEATURES = 3  # before the coordinates in `ConfidenceEstimator.features`


@dataclass(frozen=True)
class ConfidenceEstimator:
    """A subspace of the training photos' features, and a logistic regression.

    Attributes:
        mean: of the pooled features, (channels,) float32.
        components: directions of the subspace, the strongest first, (components, channels) float32
            with orthonormal rows.
        limit: the greatest residual of a familiar picture, in [0, 1].
        weights: of a constant and of `features`, (1 + OTHER_FEATURES + coordinates,) float64.
    """

    mean: np.ndarray
    components: np.ndarray
    limit: float
    weights: np.ndarray

    def p_correct(self, pooled: np.ndarray, probability: float) -> float:
        """How likely a caption is correct, in [0, 1]; 0 for an unfamiliar picture.

        Args:
            pooled: the mean of the picture's grid, (channels,).
            probability: of the caption, the geometric mean of its words' probabilities.
        """
        features = self.features(pooled, probability)
        if features[1] > self.limit:
            return 0.0
        return _logistic(float(self.weights[0] + self.weights[1:] @ features))

    def features(self, pooled: np.ndarray, probability: float) -> np.ndarray:
        """The regression's inputs, (OTHER_FEATURES + coordinates,).

        They are the logarithm of the probability; the residual, as the sine of the angle to the
        subspace (0 inside it, 1 at a right angle to it); the distance from the mean; and the first
        coordinates in the subspace.
        """
        centred = pooled - self.mean
        # Not `@`: after it, the threads of a matrix library spin for a while, on the cores that
        # the next picture's encoder needs.
        inside = np.einsum("ij,j->i", self.components, centred)
        whole = float(centred @ centred)
        outside = max(0.0, whole - float(inside @ inside))
        residual = math.sqrt(outside / whole) if whole else 0.0
        coordinates = inside[: len(self.weights) - 1 - OTHER_FEATURES]
        log_probability = math.log(max(probability, 1e-9))
        return np.array([log_probability, residual, math.sqrt(whole), *coordinates])

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            mean=self.mean.astype(np.float16),
            components=self.components.astype(np.float16),
            limit=np.float64(self.limit),
            weights=self.weights.astype(np.float64),
        )
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
                mean, components = (
                    np.asarray(file[key], np.float32) for key in ("mean", "components")
                )
                limit, weights = float(file["limit"]), np.asarray(file["weights"], np.float64)
            expected = len(mean) if channels is None else channels
            if mean.shape != (expected,) or components.shape != (len(components), expected):
                raise ValueError(f"components of the shape {components.shape}")
            if not all(np.isfinite(a).all() for a in (mean, components, limit, weights)):
                raise ValueError("a value is not finite")
            most = 1 + OTHER_FEATURES + len(components)
            if weights.ndim != 1 or not 1 + OTHER_FEATURES <= len(weights) <= most:
                raise ValueError(f"weights of the shape {weights.shape}")
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"The calibration file {name} is invalid ({error}); run 'captioner calibrate' "
                "again."
            ) from error
        return cls(mean, components, limit, weights)


def _logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)
