"""`Preprocessor`: from a picture file to what a model's encoder takes.

A model folder describes it and `Captioner` owns it. Training, calibration, command line and servers
use it, so a model is served what it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from captioner.pictures.decode import MAX_BYTES, MAX_PIXELS, Source, read_picture
from captioner.pictures.opencv import cv2

if TYPE_CHECKING:
    from captioner.manifest import Manifest

# Twice the encoder's input, and a thumbnail's.
DECODE_SIDE = 600


@dataclass(frozen=True)
class JpegNormalization:
    """Makes large photos small JPEGs, as the photos were that a model learned from.

    A model learns the traces that rounding and JPEG leave in its training photos, and describes a
    photo without them differently (docs/experiments.md, full-size photos).

    Attributes:
        side: of the squashed JPEG, in pixels.
        quality: of the JPEG, from 1 to 100.
        above: photos of more pixels than a square of this side are normalised; others are left.
    """

    side: int
    quality: int
    above: int

    def apply(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """RGB (height, width, 3) uint8 -> RGB (side, side, 3), or itself if it is small."""
        height, width = rgb.shape[:2]
        if height * width <= self.above**2:
            return rgb
        small = cv2.imdecode(_jpeg(_squashed(rgb, self.side), self.quality), cv2.IMREAD_COLOR)
        return cv2.cvtColor(small, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)


class Preprocessor:
    """From a picture to a tensor.

    Args:
        input_size: pixels of a side of the encoder's input.
        normalization: None to take photos as they are.
    """

    def __init__(self, input_size: int, normalization: JpegNormalization | None = None) -> None:
        self.input_size, self._normalization = input_size, normalization

    @classmethod
    def from_manifest(cls, manifest: Manifest) -> Preprocessor:
        """That of a model."""
        encoder = manifest.encoder
        jpeg = encoder.jpeg_normalization
        if jpeg is None:
            return cls(encoder.input_size)
        above = encoder.input_size
        return cls(encoder.input_size, JpegNormalization(jpeg.side, jpeg.quality, above))

    @staticmethod
    def load(
        source: Source, *, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS
    ) -> NDArray[np.uint8]:
        """Reads a picture at the size that is needed: see `read_picture`, also for the errors."""
        return read_picture(
            source, max_bytes=max_bytes, max_pixels=max_pixels, shortest_side_at_least=DECODE_SIDE
        )

    def tensor(self, rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB (height, width, 3) uint8 -> (size, size, 3) float32 in [-1, 1].

        The picture is squashed, not cropped: nothing that a caption could name is cut away.
        """
        if self._normalization:
            rgb = self._normalization.apply(rgb)
        rgb = _squashed(rgb, self.input_size)
        return rgb.astype(np.float32) / np.float32(127.5) - np.float32(1)

    @staticmethod
    def thumbnail(rgb: NDArray[np.uint8], longest_side: int) -> bytes:
        """RGB (height, width, 3) uint8 -> a JPEG file, no side longer than that, in pixels.

        The shape is kept, a small picture is not enlarged, and the file has no metadata.
        """
        height, width = rgb.shape[:2]
        scale = min(1.0, longest_side / max(height, width))
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        return _jpeg(_resized(rgb, *size, cv2.INTER_AREA), 80).tobytes()


def _squashed(rgb: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Resized to a square.

    What is too long is averaged down first (area), what is too short then drawn out (linear):
    OpenCV's area mode does not average when one side shrinks and the other grows.
    """
    height, width = rgb.shape[:2]
    rgb = _resized(rgb, min(width, side), min(height, side), cv2.INTER_AREA)
    return _resized(rgb, side, side, cv2.INTER_LINEAR)


def _resized(
    rgb: NDArray[np.uint8], width: int, height: int, interpolation: int
) -> NDArray[np.uint8]:
    if rgb.shape[:2] == (height, width):
        return rgb
    return cv2.resize(rgb, (width, height), interpolation=interpolation)


def _jpeg(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return jpeg.astype(np.uint8, copy=False)
