"""How likely a caption is right, by what the decoder says of it and what the encoder sees.

A decoder that has learned to please a scorer is sure of nearly everything: the probability that it
gives a caption says little about whether the caption is right. The encoder knows more. Its features
of photos like those of training lie near a plane through these; what of a picture points out of
that plane is something that the model has not learned to speak of. A picture that points out of it
farther than nearly all photos of a collection like that of training (a drawing, a page of text, the
moon) is unfamiliar, and nothing that is said of it is sure. Of a familiar one, where it lies in the
plane tells what it shows, and of some things the model speaks better than of others.

Sources: Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal
Component Analysis", 1979, for what points out of a plane; Cox, "The Regression Analysis of Binary
Sequences", 1958, for the chance.
"""

from __future__ import annotations

import io
import math
import zipfile
from dataclasses import dataclass

import numpy as np

from captioner.errors import ModelFolderError

OTHER_SIGNS = 3  # what comes before the coordinates in `Sureness.signs`


@dataclass(frozen=True)
class Sureness:
    """A plane through the features of training photos, and what a picture's place says.

    Attributes:
        mean: of the features, (channels,) float32.
        components: directions of the plane, the strongest first, (components, channels) float32
            with orthonormal rows.
        limit: the greatest `away` of a familiar picture, from 0 to 1.
        weights: of a constant and of `signs`, (1 + OTHER_SIGNS + coordinates,) float64.
    """

    mean: np.ndarray
    components: np.ndarray
    limit: float
    weights: np.ndarray

    def chance(self, features: np.ndarray, probability: float) -> float:
        """How likely a caption is right, in [0, 1]; 0, which is none, for an unfamiliar picture.

        Args:
            features: (channels,), the mean over the picture's grid.
            probability: that of the caption, the geometric mean of its words'.
        """
        signs = self.signs(features, probability)
        if signs[1] > self.limit:
            return 0.0
        return _logistic(float(self.weights[0] + self.weights[1:] @ signs))

    def signs(self, features: np.ndarray, probability: float) -> np.ndarray:
        """What the chance is reckoned from, (OTHER_SIGNS + coordinates,).

        The logarithm of the probability; how far the features point out of the plane (the sine of
        that angle: 0 in it, 1 at right angles to it); their distance from the mean; and the first
        coordinates in the plane.
        """
        off = features - self.mean
        # Not `@`: the threads of a matrix library wait busily for more work for a while after it,
        # on the very cores that the next picture's encoder wants.
        inside = np.einsum("ij,j->i", self.components, off)
        whole = float(off @ off)
        out = max(0.0, whole - float(inside @ inside))
        away = math.sqrt(out / whole) if whole else 0.0
        coordinates = inside[: len(self.weights) - 1 - OTHER_SIGNS]
        return np.array([math.log(max(probability, 1e-9)), away, math.sqrt(whole), *coordinates])

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
    def from_bytes(cls, content: bytes, name: str, channels: int | None = None) -> Sureness:
        """What `to_bytes` wrote.

        Raises:
            ModelFolderError: it is something else, or of another number of channels.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                mean, components = (
                    np.asarray(file[key], np.float32) for key in ("mean", "components")
                )
                limit, weights = float(file["limit"]), np.asarray(file["weights"], np.float64)
            if components.shape != (len(components), *mean.shape) or channels not in (
                None,
                len(mean),
            ):
                raise ValueError(f"components of the shape {components.shape}")
            if not all(np.isfinite(a).all() for a in (mean, components, limit, weights)):
                raise ValueError("it holds what is no number")
            most = 1 + OTHER_SIGNS + len(components)
            if weights.ndim != 1 or not 1 + OTHER_SIGNS <= len(weights) <= most:
                raise ValueError(f"weights of the shape {weights.shape}")
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"{name} does not say when this model is sure ({error}); "
                "run 'captioner evaluate --calibrate' again."
            ) from error
        return cls(mean, components, limit, weights)


def _logistic(x: float) -> float:
    return 0.5 + 0.5 * math.tanh(x / 2)
