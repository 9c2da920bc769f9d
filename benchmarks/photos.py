"""Photos for the benchmarks, cut from those that come with scikit-image: JPEG files in memory."""

from __future__ import annotations

import cv2
import numpy as np
import skimage.data

WIDTH, HEIGHT = 500, 375  # as those of Flickr8k


def photos(count: int) -> list[bytes]:
    """So many different photos of WIDTH x HEIGHT pixels, some 50 kB each, the same every time."""
    rng = np.random.default_rng(0)
    sources = [
        getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")
    ]
    found = []
    for number in range(count):
        source = sources[number % len(sources)]
        height = int(min(source.shape[0], source.shape[1] * HEIGHT / WIDTH) * rng.uniform(0.6, 1))
        width = height * WIDTH // HEIGHT
        top = int(rng.integers(source.shape[0] - height + 1))
        left = int(rng.integers(source.shape[1] - width + 1))
        found.append(_jpeg(source[top : top + height, left : left + width], WIDTH, HEIGHT))
    return found


def photo_of_12_megapixels() -> bytes:
    """4000 x 3000 pixels with a sensor's noise, since what a JPEG costs is in its bytes: 3.4 MB."""
    return _jpeg(skimage.data.coffee(), 4000, 3000, noise=8)


def _jpeg(rgb: np.ndarray, width: int, height: int, noise: float = 0) -> bytes:
    rgb = cv2.resize(rgb, (width, height), interpolation=cv2.INTER_CUBIC)
    if noise:
        rgb = rgb + np.random.default_rng(0).normal(0, noise, rgb.shape).astype(np.float32)
        rgb = np.clip(rgb, 0, 255).astype(np.uint8)
    _, jpeg = cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return jpeg.tobytes()
