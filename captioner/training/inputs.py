"""What the networks read in training: photos, augmented anew each time, or grids stored once.

Reading goes through a `Preprocessor`, as in serving. A frozen encoder is run once a photo and
once on its mirror image, and its grids are kept in a memory-mapped file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import cv2
import keras
import numpy as np
from tqdm import tqdm

from captioner.engine import Network
from captioner.pictures.preprocess import Preprocessor

Inputs = dict[str, np.ndarray]


class InputSource(Protocol):
    """Gives the networks' inputs for photos by index."""

    def read(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> Inputs:
        """Inputs by name, "inputs" for the model's own; augmented where `rng` is given."""


class Photos:
    """Photos from disk -> (photos, size, size, 3) float32 in [-1, 1].

    Args:
        paths: of the photos.
        preprocessor: of the model.
        crop: least share of each side that a random crop keeps.
        brightness: greatest random change of brightness and contrast, as a share. Hues stay, since
            captions name colours.
        quality: share of photos that get another sharpness and JPEG quality at random, so that the
            small and soft ones of a collection teach what is in large and sharp ones.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        preprocessor: Preprocessor,
        crop: float = 1.0,
        brightness: float = 0.0,
        quality: float = 0.0,
    ) -> None:
        self.paths, self._preprocessor = paths, preprocessor
        self._crop, self._brightness, self._quality = crop, brightness, quality
        self.augmentation = f"crop {crop}, brightness {brightness}, quality {quality}"
        self._pool = ThreadPoolExecutor(2)

    def read(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> Inputs:
        return {"inputs": self.images(indices, rng)}

    def images(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> np.ndarray:
        """(photos, size, size, 3) float32 in [-1, 1]."""
        chances = [rng.random(10) if rng is not None else None for _ in indices]
        paths = [self.paths[i] for i in indices]
        return np.stack(list(self._pool.map(self._read, paths, chances)))

    def _read(self, path: Path, chance: np.ndarray | None) -> np.ndarray:
        rgb = self._preprocessor.load(path)
        if chance is None:
            return self._preprocessor.tensor(rgb)
        height, width = rgb.shape[:2]
        # Sides are cropped apart: the photos of Flickr8k here are squashed already.
        rows, columns = (
            int(side * (self._crop + (1 - self._crop) * share))
            for side, share in ((height, chance[0]), (width, chance[1]))
        )
        top, left = int(chance[2] * (height - rows)), int(chance[3] * (width - columns))
        rgb = rgb[top : top + rows, left : left + columns]
        if chance[4] < 0.5:
            rgb = rgb[:, ::-1]
        if chance[6] < self._quality:
            rgb = _of_another_quality(rgb, sharper=1.5 * chance[7] - 0.5, jpeg=chance[8])
        x = self._preprocessor.tensor(np.ascontiguousarray(rgb))
        gain, shift = 1 + self._brightness * (2 * chance[[5, 9]] - 1)
        return np.clip(x * np.float32(gain) + np.float32(shift - 1), -1, 1)


def _of_another_quality(rgb: np.ndarray, sharper: float, jpeg: float) -> np.ndarray:
    """rgb uint8, sharper (softer below 0), through JPEG of quality 50 (`jpeg` 0) to 95 (1)."""
    soft = cv2.GaussianBlur(rgb, (0, 0), 1.0)
    rgb = cv2.addWeighted(rgb, 1 + sharper, soft, -sharper, 0)
    parameters = [cv2.IMWRITE_JPEG_QUALITY, int(50 + 45 * jpeg)]
    _, coded = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), parameters)
    return cv2.cvtColor(cv2.imdecode(coded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


class StoredGrids:
    """Grids that `store_grids` wrote, of one encoder or of several.

    Args:
        grids: by input name, each (photos, views, rows, columns, channels) float16. A random
            view is the same one of each.
    """

    def __init__(self, grids: Mapping[str, np.ndarray]) -> None:
        self._grids = dict(grids)

    def read(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> Inputs:
        views = next(iter(self._grids.values())).shape[1]
        view = rng.integers(0, views, len(indices)) if rng is not None else 0
        return {name: grids[np.asarray(indices), view] for name, grids in self._grids.items()}


class Subset:
    """The photos of a source from some index on, as a source of their own."""

    def __init__(self, source: InputSource, first: int) -> None:
        self._source, self._first = source, first

    def read(self, indices: Sequence[int], rng: np.random.Generator | None = None) -> Inputs:
        return self._source.read([self._first + i for i in indices], rng)


Encode = Callable[[np.ndarray], np.ndarray]


def keras_encode(encoder: keras.Model) -> Encode:
    """An encoder as a function: images (photos, size, size, 3) -> grids, float16."""
    return lambda images: np.asarray(encoder.predict_on_batch(images)).astype(np.float16)


def litert_encode(encoder: bytes) -> Encode:
    """An exported encoder as a function, likewise, one photo at a time."""
    network = Network("encoder", encoder, threads=2)
    return lambda images: np.stack([network.run(image=x[None])["grid"][0] for x in images])


def digest_of(encoder: keras.Model) -> str:
    """SHA-256 over the weights."""
    digest = hashlib.sha256()
    for variable in encoder.variables:
        digest.update(keras.ops.convert_to_numpy(variable).tobytes())
    return digest.hexdigest()


def store_grids(
    encode: Encode,
    of: str,
    photos: Photos,
    grid: tuple[int, ...],
    file: Path,
    views: int = 2,
    batch: int = 32,
) -> np.ndarray:
    """Encodes photos and their mirror images once; goes on where it was stopped.

    Args:
        of: says which encoder it is; grids of another are made again.
        grid: rows, columns, channels.
        file: an .npy file; beside it a .json says what it was made from and how far it is.
        views: of each photo; those after the first two are augmented as `photos` does it.

    Returns:
        (photos, views, rows, columns, channels) float16, memory-mapped; the first are of the photos
        as they are, the second of their mirror images.
    """
    names = "\n".join(path.name for path in photos.paths)
    how = f"{views} views" + (f" {photos.augmentation}" if views > 2 else "")
    made_from = f"{of} {hashlib.sha256(names.encode()).hexdigest()} {how}"
    count = len(photos.paths)
    note = file.with_suffix(".json")
    state = json.loads(note.read_text()) if note.exists() and file.exists() else {}
    if state.get("made_from") == made_from:
        grids, done = np.load(file, mmap_mode="r+"), state["done"]
    else:
        note.unlink(missing_ok=True)
        file.parent.mkdir(parents=True, exist_ok=True)
        grids, done = np.lib.format.open_memmap(file, "w+", np.float16, (count, views, *grid)), 0
    starts = range(done, count, batch)

    def read(start: int) -> list[np.ndarray]:
        chunk = range(start, min(start + batch, count))
        x = photos.images(chunk)
        augmented = (
            photos.images(chunk, np.random.default_rng([start, v])) for v in range(2, views)
        )
        return [x, np.ascontiguousarray(x[:, :, ::-1]), *augmented]

    images = _ahead(starts, read)
    for start, ways in tqdm(images, total=len(starts), desc="grids", unit="batch", disable=None):
        for view, x in enumerate(ways[:views]):
            grids[start : start + len(x), view] = encode(x)
        if (start // batch) % 20 == 19 or start + batch >= count:
            grids.flush()
            note.write_text(json.dumps({"made_from": made_from, "done": start + len(x)}))
    return grids


def _ahead(keys, make) -> Iterator:  # type: ignore[no-untyped-def]
    """(key, make(key)) for each key, the next one being made meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for key in keys:
            following = (key, pool.submit(make, key))
            if coming:
                yield coming[0], coming[1].result()
            coming = following
        if coming:
            yield coming[0], coming[1].result()


def batches(
    source: InputSource, order: Sequence[int], size: int, rng: np.random.Generator | None = None
) -> Iterator[tuple[Sequence[int], Inputs]]:
    """(indices, inputs) in that order, `size` at a time; augmented where `rng` is given."""
    chunks = [order[start : start + size] for start in range(0, len(order), size)]
    # Each batch has a generator of its own, so that reading ahead changes nothing.
    seeds = rng.integers(0, 2**63, len(chunks)) if rng is not None else None

    def make(number: int) -> Inputs:
        own = np.random.default_rng(seeds[number]) if seeds is not None else None
        return source.read(chunks[number], own)

    for number, inputs in _ahead(range(len(chunks)), make):
        yield chunks[number], inputs


cv2.setNumThreads(1)  # the pool above is the parallel part; the networks want the cores
