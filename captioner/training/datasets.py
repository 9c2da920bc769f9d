"""Readers of the usual collections of captioned photos, each in the form in which it is published.

`read_dataset(path)` recognises the form by its files:

| files                                   | what it is                                          |
|-----------------------------------------|-----------------------------------------------------|
| `captions.json`, `split.json`           | our layout: {file: [captions]} and {file: split}    |
| `Flickr8k.token.txt`                    | official Flickr8k, with `Flickr_8k.*Images.txt`     |
| `results_20130124.token`                | official Flickr30k                                  |
| `captions.txt`                          | Kaggle's Flickr8k and Flickr30k, commas between     |
| `results.csv`                           | Kaggle's other Flickr30k, bars between              |
| `captions_train2017.json` and its like  | MS COCO                                             |
| `dataset_flickr8k.json` and its like    | Karpathy's splits of Flickr8k, Flickr30k and COCO   |

The photos may be in any folder below the one that is given. Captions stay as they were written.
This file opens no photo and needs no TensorFlow.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from captioner.errors import CaptionerError

SPLITS = ("train", "dev", "test", "unassigned")
_SPLIT_NAMES = {**{name: name for name in SPLITS}, "val": "dev", "restval": "train"}

# What a folder is searched for, in this order. Flickr8k's lemmatised captions are not captions.
_CAPTION_FILES = {
    "captions.json": "our layout",
    "dataset_*.json": "Karpathy's splits",
    "captions_*.json": "MS COCO",
    "*.token.txt": "official Flickr8k",
    "*.token": "official Flickr30k",
    "captions.txt": "Kaggle's Flickr8k or Flickr30k",
    "results.csv": "Kaggle's Flickr30k",
}
_IMAGE_DEPTH = 3  # folders below the collection's own: flickr30k_images/flickr30k_images/*.jpg


class DatasetError(CaptionerError):
    """A collection of photos and captions is not there, or is not in a form that we read."""

    title = "The collection cannot be read"


@dataclass(frozen=True)
class Photo:
    """One photo, what people wrote about it, its split (one of `SPLITS`), its collection's name."""

    path: Path
    captions: tuple[str, ...]
    split: str
    collection: str = ""


@dataclass(frozen=True)
class Dataset:
    """A collection; `missing` counts the photos that have captions but no file."""

    photos: tuple[Photo, ...]
    missing: int = 0

    def of(self, split: str) -> list[Photo]:
        """The photos of one split, in the collection's order; all of them for "all"."""
        return [photo for photo in self.photos if split in (photo.split, "all")]

    def without(self, names: Container[str]) -> Dataset:
        """Without the photos of those file names."""
        kept = tuple(photo for photo in self.photos if photo.path.name not in names)
        return replace(self, photos=kept)

    def as_dev(self, names: Container[str]) -> Dataset:
        """With the photos of those file names in the split "dev"."""
        photos = tuple(
            replace(photo, split="dev") if photo.path.name in names else photo
            for photo in self.photos
        )
        return replace(self, photos=photos)

    def __str__(self) -> str:
        counts = Counter(photo.split for photo in self.photos)
        parts = [f"{counts[split]} {split}" for split in SPLITS if counts[split]]
        if self.missing:
            parts.append(f"{self.missing} without a file")
        return f"{len(self.photos)} photos ({', '.join(parts)})"


# What a reader finds about one photo: file name, captions, split.
_Entry = tuple[str, list[str], str]


def read_dataset(path: str | Path) -> Dataset:
    """Read the collection in a folder, or the one that a captions file belongs to.

    Photos without a split of their own are "train" where the collection has no lists of splits, and
    "unassigned" where it has. Photos whose file is missing are left out and counted.

    Raises:
        DatasetError: nothing is recognised there, more than one thing is, or a file is malformed.
    """
    path = Path(path)
    if path.is_file():
        files, folder = [path], path.parent
    elif path.is_dir():
        files, folder = _caption_files(path), path
    else:
        raise DatasetError(f"There is no file or folder {path}; name a collection's folder.")

    found: dict[str, tuple[list[str], str]] = {}
    for file in files:
        try:
            for name, captions, split in _entries(file):
                kept = [caption.strip() for caption in captions if caption.strip()]
                found.setdefault(name, ([], split))[0].extend(kept)
        except OSError as error:
            raise DatasetError(f"{file} cannot be read: {error.strerror or error}.") from error
        except (AttributeError, KeyError, TypeError, ValueError, csv.Error) as error:
            why = f"{type(error).__name__}: {error}"
            raise DatasetError(f"{file} is in no form that is read here ({why}).") from error

    collection = folder.resolve().name
    images = _images(folder)
    if path.is_file() and not any(Path(name).name in images for name in found):
        images = _images(folder.parent)  # annotations/captions_train2017.json beside train2017/
    photos = tuple(
        Photo(images[Path(name).name], tuple(captions), split, collection)
        for name, (captions, split) in found.items()
        if Path(name).name in images and captions
    )
    if not photos:
        example = next(iter(found), "no photo")
        raise DatasetError(
            f"{files[0]} lists {len(found)} photos (for example {example}), but none were found "
            f"under {folder}. Copy the photos there."
        )
    return Dataset(photos, missing=len(found) - len(photos))


def combine(datasets: Iterable[Dataset]) -> Dataset:
    """Several collections as one, with every photo in it once.

    Flickr8k is a part of Flickr30k, and COCO's photos have other names each year; a photo that is
    for testing in one collection must not be for training in another. So a photo that several hold
    is taken from where it is test, else dev, else train, and from the first of equals.
    """
    datasets = list(datasets)
    rank = {split: i for i, split in enumerate(("test", "dev", "train", "unassigned"))}
    kept: dict[str, Photo] = {}
    for photo in (photo for dataset in datasets for photo in dataset.photos):
        known = kept.get(_identity(photo))
        if known is None or rank[photo.split] < rank[known.split]:
            kept[_identity(photo)] = photo
    return Dataset(tuple(kept.values()), missing=sum(dataset.missing for dataset in datasets))


def more_captions(dataset: Dataset, files: Iterable[Path]) -> Dataset:
    """The collection with further captions of its photos, those that it has already left out.

    Args:
        files: JSON objects of file names and lists of captions.

    Raises:
        DatasetError: one cannot be read, or is something else.
    """
    more: dict[str, list[str]] = {}
    for file in files:
        try:
            for name, captions, _ in _ours(json.loads(file.read_text("utf-8")), Path()):
                more.setdefault(name, []).extend(captions)
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise DatasetError(f"{file} is no JSON object of captions ({error}).") from error
    photos = tuple(
        replace(photo, captions=tuple(dict.fromkeys((*photo.captions, *more[photo.path.name]))))
        if photo.path.name in more
        else photo
        for photo in dataset.photos
    )
    return replace(dataset, photos=photos)


def uncaptioned_photos(folders: Sequence[Path], named: Container[str]) -> list[Photo]:
    """The JPEG and PNG files below the folders whose names are not in `named`, by name.

    Raises:
        DatasetError: a folder is not there.
    """
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise DatasetError(f"There is no folder {folder}.")
        found.update(_images(folder))
    return [
        Photo(path, (), "train")
        for name, path in sorted(found.items())
        if name not in named and path.suffix.lower() in (".jpg", ".jpeg", ".png")
    ]


def hold_out(dataset: Dataset, share: float = 0.05) -> Dataset:
    """Make a share of the training photos dev, for a collection without splits of its own.

    The choice depends on the file names alone, so it stays when photos are added.
    """

    def chosen(photo: Photo) -> bool:
        digest = hashlib.sha256(photo.path.name.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") < share * 2**64

    return replace(
        dataset,
        photos=tuple(
            replace(photo, split="dev") if photo.split == "train" and chosen(photo) else photo
            for photo in dataset.photos
        ),
    )


def read_corrections(file: Path, folder: Path) -> Dataset:
    """What people corrected, as app1's `GET /api/corrections` gives it; every tenth photo is dev.

    Args:
        folder: where the pictures in the file are put.

    Raises:
        DatasetError: the file cannot be read, or is something else.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
        captions, images = content["captions"], content["images"]
        folder.mkdir(parents=True, exist_ok=True)
        photos = []
        for number, (name, own) in enumerate(sorted(captions.items())):
            if not re.fullmatch(r"[\w.-]+", name) or not images[name]:
                raise ValueError(f"no picture {name!r}")
            path = folder / name
            path.write_bytes(base64.b64decode(images[name], validate=True))
            split = "dev" if number % 10 == 9 else "train"
            photos.append(Photo(path, tuple(own), split, "corrections"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise DatasetError(f"{file} holds no corrections of app1 ({error}).") from error
    if len(photos) < 10:
        raise DatasetError(f"{file} holds {len(photos)} corrections; at least 10 are needed.")
    return Dataset(tuple(photos))


def add_data_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """The arguments that `read_data` reads."""
    parser.add_argument(
        "--data", type=Path, action="append", required=required, default=None if required else [],
        help="data set of captioned photos; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--more-captions", type=Path, action="append", default=[], metavar="FILE",
        help="JSON object of file names and additional captions of photos in --data",
    )  # fmt: skip
    parser.add_argument(
        "--dev", type=Path, metavar="FILE",
        help="JSON list of file names to use for dev besides the data sets' own",
    )  # fmt: skip
    parser.add_argument(
        "--leave-out", type=Path, metavar="FILE", help="JSON list of file names to exclude"
    )


def read_data(arguments: argparse.Namespace, more: Sequence[Dataset] = ()) -> Dataset:
    """The collections as the arguments name them; with photos for dev, whatever they have.

    Args:
        more: further collections.

    Raises:
        DatasetError: one cannot be read.
    """
    data = combine([*(read_dataset(path) for path in arguments.data), *more])
    data = more_captions(data, arguments.more_captions)
    if arguments.leave_out:
        data = data.without(file_names(arguments.leave_out))
    if arguments.dev:
        data = data.as_dev(file_names(arguments.dev))
    return data if data.of("dev") else hold_out(data)


def file_names(file: str | Path) -> frozenset[str]:
    """The file names in a JSON list.

    Raises:
        DatasetError: it cannot be read, or is something else.
    """
    try:
        names = json.loads(Path(file).read_text(encoding="utf-8"))
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("something else")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{file} is no JSON list of file names ({error}).") from error
    return frozenset(names)


def _identity(photo: Photo) -> str:
    """What a photo is called in every collection that holds it: Flickr's or COCO's own number."""
    stem = photo.path.stem
    flickr = re.fullmatch(r"([0-9]+)_[0-9a-f]{10}", stem)  # Flickr30k has the number alone
    coco = re.fullmatch(r"COCO_(?:train|val|test)[0-9]{4}_([0-9]{12})", stem)  # 2017 too
    match = flickr or coco
    return match[1] if match else stem


def _caption_files(folder: Path) -> list[Path]:
    """The captions files of the one collection in `folder` or one folder below."""
    below = sorted(entry for entry in folder.iterdir() if entry.is_dir() and _is_ours(entry.name))
    for places in ([folder], below):
        hits = {
            pattern: [
                file
                for place in places
                for file in sorted(place.glob(pattern))
                if file.is_file() and _is_ours(file.name) and ".lemma." not in file.name
            ]
            for pattern in _CAPTION_FILES
        }
        files = [file for found in hits.values() for file in found]
        if len(files) == 1 or files == hits["captions_*.json"] != []:  # COCO: a file for each split
            return files
        if files:
            names = ", ".join(str(file.relative_to(folder)) for file in files)
            raise DatasetError(f"{folder} holds several collections ({names}); name one file.")
    looked_for = "; ".join(f"{pattern} ({what})" for pattern, what in _CAPTION_FILES.items())
    raise DatasetError(f"There are no captions in {folder}; looked for {looked_for}.")


def _is_ours(name: str) -> bool:
    """Not hidden, and not what macOS leaves behind in archives."""
    return not name.startswith((".", "__MACOSX"))


def _images(folder: Path) -> dict[str, Path]:
    """Every file below `folder` by its name; the alphabetically first where two share one."""
    images: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(f for f in folders if _is_ours(f)) if depth < _IMAGE_DEPTH else []
        for name in names:
            images.setdefault(name, Path(place, name))
    return images


def _entries(file: Path) -> Iterator[_Entry]:
    """The reader that fits the file's content."""
    if file.suffix == ".json":
        return _json_entries(file)
    return _line_entries(file)


# JSON: our layout, MS COCO, Karpathy


def _json_entries(file: Path) -> Iterator[_Entry]:
    data = json.loads(file.read_text(encoding="utf-8"))
    if "annotations" in data and "images" in data:
        yield from _coco(data, _coco_split(file.stem))
    elif "images" in data and isinstance(data["images"], list):
        yield from _karpathy(data)
    else:
        yield from _ours(data, file.with_name("split.json"))


def _ours(captions: dict[str, list[str]], split_file: Path) -> Iterator[_Entry]:
    """{"a.jpg": ["A dog runs .", ...]}, and {"a.jpg": "train"} in `split.json`, if it is there."""
    has_splits = split_file.is_file()
    splits = json.loads(split_file.read_text(encoding="utf-8")) if has_splits else {}
    otherwise = "unassigned" if has_splits else "train"
    for name, own in captions.items():
        if not isinstance(own, list):
            raise TypeError(f"the captions of {name} are not a list")
        yield name, own, _split(splits.get(name, otherwise))


def _coco(data: dict[str, Any], split: str) -> Iterator[_Entry]:
    """{"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}."""
    names = {image["id"]: image["file_name"] for image in data["images"]}
    for annotation in data["annotations"]:
        yield names[annotation["image_id"]], [annotation["caption"]], split


def _coco_split(stem: str) -> str:
    """The split that the name of COCO's file says: captions_val2017 is dev."""
    return next((s for word, s in _SPLIT_NAMES.items() if f"_{word}" in stem), "train")


def _karpathy(data: dict[str, Any]) -> Iterator[_Entry]:
    """{"images": [{"filename", "split", "sentences": [{"raw", "tokens"}]}], "dataset": "flickr8k"}.

    `restval`, the part of COCO's val that nobody keeps for later, is train, as everywhere.
    """
    for image in data["images"]:
        captions = [sentence["raw"] for sentence in image["sentences"]]
        yield image["filename"], captions, _split(image["split"])


def _split(name: str) -> str:
    if name not in _SPLIT_NAMES:
        raise ValueError(f'"{name}" is not a split; those are {", ".join(_SPLIT_NAMES)}')
    return _SPLIT_NAMES[name]


# Lines of text: the official Flickr files, and Kaggle's tables


def _line_entries(file: Path) -> Iterator[_Entry]:
    splits = _split_lists(file.parent)
    otherwise = "unassigned" if splits else "train"
    with open(file, encoding="utf-8-sig") as lines:
        first = lines.readline()
        lines.seek(0)
        rows = _token_rows(lines) if re.match(r"[^\t]+#\d+\t", first) else _table_rows(lines)
        for name, caption in rows:
            yield name, [caption], splits.get(name, otherwise)


def _split_lists(folder: Path) -> dict[str, str]:
    """{file: split} from `Flickr_8k.trainImages.txt` and its like, empty where there are none."""
    return {
        name.strip(): split
        for split in ("train", "dev", "test")
        for file in sorted(folder.glob(f"*.{split}Images.txt"))
        for name in file.read_text(encoding="utf-8-sig").splitlines()
        if name.strip()
    }


def _token_rows(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """`1234567890_0123456789.jpg#0`, a tab, the caption."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            match = re.match(r"(.+)#\d+\t(.*)", line)
            if not match:
                raise ValueError(f"line {number} is not a photo, #, a number, a tab and a caption")
            yield match[1], match[2]


def _table_rows(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Two columns (photo, caption) or three (photo, number, caption), with commas or bars between.

    The first line names the columns: `image,caption`, `image_name,comment_number,comment` or
    `image_name| comment_number| comment`. A caption with commas may be in quotes or not. Lines
    are parsed one by one, so that a lost quotation mark spoils one caption and not all that follow.
    """
    lines = iter(lines)
    header = next(lines, "")
    bar = "|" if "|" in header else ","
    columns = header.count(bar) + 1
    if not header.startswith("image") or columns not in (2, 3):
        raise ValueError(f'the first line is "{header.strip()[:60]}", not the names of the columns')
    for number, line in enumerate(lines, 2):
        if not line.strip():
            continue
        if bar == "|":
            fields = [field.strip() for field in line.split(bar, columns - 1)]
            if len(fields) == 2 and (lost := re.match(r"\d+\s+(.*)", fields[1])):
                fields = [fields[0], "", lost[1]]  # Kaggle's file lost one bar: `...| 4   A dog`
        else:
            fields = next(csv.reader([line]))
            if len(fields) > columns:
                fields[columns - 1 :] = [",".join(fields[columns - 1 :])]
        if len(fields) != columns:
            raise ValueError(f"line {number} does not have {columns} columns")
        yield fields[0], fields[-1]
