"""How well captions fit a picture: both become vectors of one space, where those that belong
together are close.

A decoder gives a caption its probability word by word. A matcher sees all of it, and has learned to
tell a photo's own captions from those of other photos.

Source: Kiros et al., "Unifying Visual-Semantic Embeddings with Multimodal Neural Language Models",
2014; here the vector of a caption is the sum of its words'.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np


def in_bytes(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(rows, columns) -> int8 of that shape, and the scale of each row, (rows,) float32."""
    scale = np.maximum(np.abs(matrix).max(1, initial=0), 1e-12) / 127
    return np.rint(matrix / scale[:, None]).astype(np.int8), scale.astype(np.float32)


@dataclass(frozen=True)
class CaptionMatcher:
    """Linear maps of pictures and of words into one space.

    Attributes:
        picture: (size, channels) int8.
        picture_scale: of the rows, (size,) float32.
        picture_bias: (size,) float32.
        words: (vocabulary, size) int8.
        words_scale: of the rows, (vocabulary,) float32.
    """

    picture: np.ndarray
    picture_scale: np.ndarray
    picture_bias: np.ndarray
    words: np.ndarray
    words_scale: np.ndarray

    @classmethod
    def rounded(cls, picture: np.ndarray, bias: np.ndarray, words: np.ndarray) -> CaptionMatcher:
        """From float matrices (size, channels) and (vocabulary, size), and a bias (size,)."""
        return cls(*in_bytes(picture), np.asarray(bias, np.float32), *in_bytes(words))

    def match(
        self, pooled: np.ndarray, captions: Sequence[Sequence[int]]
    ) -> list[tuple[float, float, float]]:
        """Of each caption: the cosine of its vector and the picture's; and of its words, the least
        and the mean product with the picture's direction. Zeros for a caption without words.

        Words that a model has learned after its matcher do not count.

        Args:
            pooled: features, (channels,).
            captions: ids of words.
        """
        # Not `@`, see `WordDetectors.detect`.
        seen = np.einsum("ij,j->i", self._picture, pooled) + self.picture_bias
        seen /= np.linalg.norm(seen) + 1e-9
        found = []
        for caption in captions:
            ids = [word for word in caption if word < len(self.words)]
            if not ids:
                found.append((0.0, 0.0, 0.0))
                continue
            vectors = self.words[ids].astype(np.float32) * self.words_scale[ids, None]
            products = np.einsum("ij,j->i", vectors, seen)
            length = float(np.linalg.norm(vectors.sum(0))) + 1e-9
            total = float(products.sum())
            found.append((total / length, float(products.min()), total / len(ids)))
        return found

    def check(self, channels: int) -> None:
        """Raises ValueError unless the arrays fit each other and that number of channels."""
        size, vocabulary = len(self.picture_bias), len(self.words_scale)
        shapes = [getattr(self, field.name).shape for field in fields(self)]
        if shapes != [(size, channels), (size,), (size,), (vocabulary, size), (vocabulary,)]:
            raise ValueError(f"a matcher of the shapes {shapes}")
        if not self.picture.dtype == self.words.dtype == np.int8:
            raise ValueError(f"a matcher of the type {self.picture.dtype}")
        floats = (self.picture_scale, self.picture_bias, self.words_scale)
        if not all(np.isfinite(array).all() for array in floats):
            raise ValueError("a value of the matcher is not finite")

    @cached_property
    def _picture(self) -> np.ndarray:
        return self.picture.astype(np.float32) * self.picture_scale[:, None]
