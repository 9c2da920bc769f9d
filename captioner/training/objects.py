"""Objects in photos, found by a pretrained detector: labels that need no captions.

A detector has learned from boxes that people drew around things. What it finds in a photo, and how
surely, becomes a label for each cell of the encoder's grid: see `objectives/recognition.py`.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from captioner.training.plan import TrainingError

THREADS = 2
SIDE = 300  # pixels of a side of what the detector gets
CLASSES = 91  # COCO's numbers of classes are below this
LEAST_SCORE = 0.02


class ObjectDetector:
    """A single-shot detector in a format of OpenCV's dnn, with COCO's classes.

    Made for TensorFlow's `ssd_mobilenet_v2_coco_2018_03_29`. Source: Liu et al., "SSD: Single Shot
    MultiBox Detector", 2016.

    Args:
        network: the file with the weights.
        config: the file that describes the network.

    Raises:
        TrainingError: they cannot be read, or hold another kind of network.
    """

    def __init__(self, network: Path, config: Path) -> None:
        try:
            # One for each thread: a network holds what it works on.
            self._networks = [cv2.dnn.readNet(str(network), str(config)) for _ in range(THREADS)]
            self.detect(np.zeros((SIDE, SIDE, 3), np.float32))
        except cv2.error as error:
            raise TrainingError(
                f"{network} and {config} cannot be read as a detector of objects ({error})."
            ) from error
        content = network.read_bytes() + config.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        self._pool = ThreadPoolExecutor(THREADS)

    def detect(self, image: np.ndarray, thread: int = 0) -> np.ndarray:
        """Objects, surest first: (objects, 6) float32.

        The columns are class, score in [0, 1], left, top, right and bottom as shares of the sides.

        Args:
            image: RGB (height, width, 3) float32 in [0, 255].
            thread: the number of the calling thread.

        Raises:
            TrainingError: the network gives something else, or has other classes.
        """
        network = self._networks[thread]
        network.setInput(cv2.dnn.blobFromImage(image, size=(SIDE, SIDE)))
        found = network.forward()
        if found.ndim != 4 or found.shape[-1] != 7:
            raise TrainingError(f"The detector gives an output of the shape {found.shape}.")
        objects: np.ndarray = found[0, 0, :, 1:]
        if len(objects) and not 0 <= objects[:, 0].min() <= objects[:, 0].max() < CLASSES:
            raise TrainingError("The detector has other classes than COCO's, numbers up to 90.")
        return objects[objects[:, 1] >= LEAST_SCORE]

    def cells(self, images: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """How surely each cell holds a part of an object of each class.

        Args:
            images: (photos, height, width, 3) float32 in [-1, 1].

        Returns:
            (photos, rows, columns, CLASSES) float16 in [0, 1].
        """

        def cells(thread: int) -> list[np.ndarray]:
            found = (
                self.detect((image + 1) * np.float32(127.5), thread)
                for image in images[thread::THREADS]
            )
            return [object_cells(objects, rows, columns) for objects in found]

        all_cells = np.empty((len(images), rows, columns, CLASSES), np.float16)
        for thread, own in enumerate(self._pool.map(cells, range(THREADS))):
            if own:
                all_cells[thread::THREADS] = own
        return all_cells


def object_cells(objects: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Objects, as `ObjectDetector.detect` gives them, as (rows, columns, CLASSES) float16.

    An object counts in a cell by its score, times the share of the cell that its box covers; where
    the box is smaller than a cell, times the share of the box.
    """
    cells = np.zeros((rows, columns, CLASSES), np.float32)
    for number, score, left, top, right, bottom in objects.tolist():
        heights = _overlaps(top, bottom, rows)
        widths = _overlaps(left, right, columns)
        smaller = min((right - left) * (bottom - top), 1 / (rows * columns))
        covered = np.outer(heights, widths) / max(smaller, 1e-6)
        own = cells[:, :, int(number)]
        np.maximum(own, score * np.minimum(covered, 1), out=own)
    return cells.astype(np.float16)


def _overlaps(start: float, end: float, count: int) -> np.ndarray:
    """The lengths that an interval shares with each of `count` equal parts of [0, 1]."""
    edges = np.arange(count + 1) / count
    return np.clip(np.minimum(end, edges[1:]) - np.maximum(start, edges[:-1]), 0, None)
