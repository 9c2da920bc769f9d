"""How far a picture is from what a model was tried on.

A decoder is sure of the wrong things: of a black frame or a page of text it says "a man is standing
in the snow" as firmly as of a photo of that. The encoder sees the difference. Features of photos
like those of training lie near a plane of few dimensions; what is left over beyond that plane is
small for them and large for drawings, screens, patterns and blank frames. (Principal components'
residual: Jackson and Mudholkar, "Control Procedures for Residuals Associated With Principal
Component Analysis", 1979.)
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass

import numpy as np

from captioner.errors import ModelFolderError

COMPONENTS = 32
FAMILIAR_SHARE = 0.98  # of the photos it is fitted on


@dataclass(frozen=True)
class Familiarity:
    """The plane, and how far from it a picture may be.

    `mean` is (channels,), `components` (components, channels) with orthonormal rows, both float32;
    `limit` is a squared distance.
    """

    mean: np.ndarray
    components: np.ndarray
    limit: float

    @classmethod
    def fit(cls, features: np.ndarray) -> Familiarity | None:
        """From (photos, channels), the means over the grids of familiar photos; None for too few.

        Half of them make the plane and the other half the limit, since the photos that a plane is
        laid through are nearer to it than any other.
        """
        plane, others = features[::2], features[1::2]
        count = min(COMPONENTS, len(plane) // 4, features.shape[1] // 4)
        if not count:
            return None
        mean = plane.mean(0)
        components = np.linalg.svd(plane - mean, full_matrices=False)[2][:count]
        fitted = cls(mean, components, 0.0)
        # As they will be read again.
        fitted = cls.from_bytes(fitted.to_bytes(), "")
        distances = [fitted.distance(other) for other in others]
        return cls(fitted.mean, fitted.components, float(np.quantile(distances, FAMILIAR_SHARE)))

    def distance(self, features: np.ndarray) -> float:
        """Squared distance of (channels,), the mean over a grid, from the plane."""
        off = features - self.mean
        return max(0.0, float(off @ off - np.square(self.components @ off).sum()))

    def __contains__(self, grid: np.ndarray) -> bool:
        """Whether a picture with this grid (rows, columns, channels) is near enough."""
        return self.distance(grid.mean((0, 1))) <= self.limit

    def to_bytes(self) -> bytes:
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            mean=self.mean.astype(np.float16),
            components=self.components.astype(np.float16),
            limit=np.float64(self.limit),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, name: str, channels: int | None = None) -> Familiarity:
        """What `to_bytes` wrote.

        Raises:
            ModelFolderError: it is something else, or of another number of channels.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as file:
                arrays = [np.asarray(file[key], np.float32) for key in ("mean", "components")]
                mean, components = arrays
                limit = float(file["limit"])
            if components.shape != (len(components), len(mean)) or channels not in (
                None,
                len(mean),
            ):
                raise ValueError(f"components of the shape {components.shape}")
        except (ValueError, KeyError, OSError, EOFError, TypeError, zipfile.BadZipFile) as error:
            raise ModelFolderError(
                f"{name} does not say what is familiar to this model ({error}); "
                "run 'captioner evaluate --calibrate' again."
            ) from error
        return cls(mean, components, limit)
