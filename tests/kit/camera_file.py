"""A file from which Chromium's fake camera plays: real photos, some frames each, without end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np


def write_y4m(
    path: Path, photos: Sequence[Path], seconds: float = 3, size: tuple[int, int] = (640, 480)
) -> list[str]:
    """Writes the file; returns Chromium's flags for it.

    Args:
        path: of the file to write.
        seconds: for which each photo is seen.
        size: width and height, both even.
    """
    rate, (width, height) = 10, size
    with path.open("wb") as file:
        file.write(f"YUV4MPEG2 W{width} H{height} F{rate}:1 Ip A1:1 C420jpeg\n".encode())
        for photo in photos:
            pixels = cv2.resize(np.asarray(cv2.imread(str(photo))), size)
            frame = cv2.cvtColor(pixels, cv2.COLOR_BGR2YUV_I420).tobytes()
            for _ in range(int(rate * seconds)):
                file.write(b"FRAME\n" + frame)
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={path}",
    ]
