"""Finds the pictures below folders, and counts what is passed over.

Names decide here: a folder may hold a hundred thousand files. A file that is named itself is tried
whatever its name.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

RAW_SUFFIXES = (
    *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".dng", ".raf", ".orf"),
    *(".rw2", ".pef", ".srw", ".3fr", ".iiq", ".rwl", ".x3f"),
)
# Kinds that are not read are among them, so that no photo is passed over in silence.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".jfi", ".pjpeg", ".pjp", ".mpo", ".png", ".webp"),
    *(".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpf", ".jxl", ".ppm", ".pgm", ".pnm"),
    *(".tga", ".psd", *RAW_SUFFIXES),
)
# What Synology, QNAP, macOS, Windows and Linux put beside photos.
_LITTER_FOLDERS = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot", "@tmp", "@recycle", "@__thumb", ".@__thumb"),
        *("__macosx", "$recycle.bin", "system volume information", "lost+found"),
    )
)
# A program's own store: of each photo it holds several sizes, and nothing is to be written there.
_LIBRARIES = (".photoslibrary", ".photolibrary", ".aplibrary", ".lrdata")
_LITTER_FILES = ("._", "synophoto_thumb", "thumbs.db", "desktop.ini", ".ds_store")
# Files that belong to a picture.
_BESIDE = (".xmp", ".txt")


class Picture(NamedTuple):
    """A picture: its path as a person would type it, and its path below the folder that was named.

    The second is the same wherever the collection is mounted, with "/" between its parts.
    """

    path: str
    relative: str


class Walk:
    """The pictures of some paths, in order of their names; each path that is no folder itself.

    Iterate over it once. Links to folders are not followed.

    Attributes:
        passed_over: what was passed over, in words, and how often.
        unreadable: a sentence for each folder that cannot be read.
        empty: the named folders without any picture.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = paths
        self.passed_over: Counter[str] = Counter()
        self.unreadable: list[str] = []
        self.empty: list[str] = []

    def __iter__(self) -> Iterator[Picture]:
        for path in self._paths:
            if not os.path.isdir(path):
                yield Picture(path, os.path.basename(path))
                continue
            before = len(self.unreadable)
            found = False
            for picture in self._below(path):
                found = True
                yield picture
            if not found and len(self.unreadable) == before:
                self.empty.append(path)

    def _below(self, root: str) -> Iterator[Picture]:
        for place, folders, names in os.walk(root, onerror=self._cannot_read):
            folders[:] = [name for name in sorted(folders) if self._enters(place, name)]
            for name in sorted(names):
                if self.is_picture(name):
                    path = os.path.join(place, name)
                    yield Picture(path, Path(os.path.relpath(path, root)).as_posix())

    def _cannot_read(self, error: OSError) -> None:
        name, reason = os.fsdecode(error.filename or ""), error.strerror or error
        self.unreadable.append(f"The folder {name!r} cannot be read ({reason}).")

    def among(self, files: Iterable[str]) -> Iterator[str]:
        """The pictures among the files of an object store, whose folders are "/" in their names."""
        entered = {"": True}

        def enters(folder: str) -> bool:
            if folder not in entered:
                above, _, name = folder.rpartition("/")
                entered[folder] = enters(above) and self._enters_name(name)
            return entered[folder]

        for file in sorted(files):
            folder, _, name = file.rpartition("/")
            if enters(folder) and self.is_picture(name):
                yield file

    def _enters(self, place: str, name: str) -> bool:
        if not self._enters_name(name):
            return False
        if os.path.islink(os.path.join(place, name)):
            self.passed_over["links to folders"] += 1
            return False
        return True

    def _enters_name(self, name: str) -> bool:
        if name.lower() in _LITTER_FOLDERS:
            self.passed_over[f"{name} folders"] += 1
        elif (suffix := os.path.splitext(name)[1].lower()) in _LIBRARIES:
            self.passed_over[f"{suffix} folders"] += 1
        elif name.startswith("."):
            self.passed_over["hidden folders"] += 1
        else:
            return True
        return False

    def is_picture(self, name: str) -> bool:
        """Whether a file of this name is a picture; counts it as passed over if not."""
        if name.lower().startswith(_LITTER_FILES):
            self.passed_over["files of macOS, Windows or a NAS"] += 1
        elif name.startswith("."):
            self.passed_over["hidden files"] += 1
        elif (suffix := os.path.splitext(name)[1].lower()) in PICTURE_SUFFIXES:
            return True
        elif suffix not in _BESIDE:
            self.passed_over[f"{suffix} files" if suffix else "files without a suffix"] += 1
        return False
