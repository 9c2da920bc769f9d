"""Where a cluster's files are: a folder that all its machines see, or an object store.

An object store is what Ray reads: what pyarrow opens by a URL (`s3://bucket/prefix`, `gs://...`,
options such as `?endpoint_override=...` after it), and what fsspec opens where its package is
installed. Access comes from the environment of each machine, as pyarrow or fsspec define it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from captioner.collection.atomic import write_whole
from captioner.errors import CaptionerError, NoPictureError, PictureTooLargeError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem


class StorageError(CaptionerError):
    """A folder or an object store cannot be used."""

    title = "The storage cannot be used"


class Place(Protocol):
    """A folder of results. Its methods raise StorageError where it cannot be used."""

    def names(self, folder: str) -> list[str]:
        """The files of a folder in it, in order; none where there is no such folder."""

    def read(self, name: str) -> bytes:
        """The content of a file; raises FileNotFoundError where there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole or not at all, in place of one that is there."""


@dataclass(frozen=True)
class Folder:
    """A folder on a disk."""

    path: Path

    def names(self, folder: str) -> list[str]:
        try:
            with self._reported(folder, "read; check its disk"):
                return sorted(os.listdir(self.path / folder))
        except FileNotFoundError:
            return []

    def read(self, name: str) -> bytes:
        with self._reported(name, "read; check its disk"):
            return (self.path / name).read_bytes()

    def write(self, name: str, content: bytes) -> None:
        path = self.path / name
        with self._reported(name, "written; make room and run this again"):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, content)

    @contextlib.contextmanager
    def _reported(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            done, _, remedy = what.partition("; ")
            raise StorageError(
                f"{self.path / name} cannot be {done} ({error.strerror}); {remedy}."
            ) from None


@dataclass(frozen=True)
class Bucket:
    """A prefix in an object store. It may be sent to other processes.

    Attributes:
        root: its path there, such as "bucket/prefix".
        scheme: such as "s3".
    """

    filesystem: FileSystem
    root: str
    scheme: str

    @classmethod
    def open(cls, url: str) -> Bucket:
        """Opens a URL.

        Raises:
            StorageError: there is no such kind of store, or its package is missing.
        """
        import pyarrow
        from pyarrow.fs import FileSystem, FSSpecHandler, PyFileSystem

        try:
            try:
                filesystem, root = FileSystem.from_uri(url)
            except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError):
                import fsspec

                other, root = fsspec.core.url_to_fs(url)
                filesystem = PyFileSystem(FSSpecHandler(other))
        except (OSError, ValueError, ImportError) as error:
            raise _unusable(url, error) from None
        return cls(filesystem, root.rstrip("/"), urlsplit(url).scheme)

    def url(self, path: str = "") -> str:
        """The address of a file below the root, without what gives access to it."""
        whole = f"{self.root}/{path}".rstrip("/")
        return whole if "://" in whole else f"{self.scheme}://{whole}"

    def files(self) -> list[str]:
        """The paths of all files below the root; [""] where the root is a file itself.

        Raises:
            StorageError: they cannot be listed.
        """
        from pyarrow.fs import FileSelector, FileType

        try:
            if self.filesystem.get_file_info(self.root).type == FileType.File:
                return [""]
            found = self.filesystem.get_file_info(FileSelector(self.root, recursive=True))
        except (OSError, ValueError) as error:
            raise _unusable(self.url(), error) from None
        return [info.path[len(self.root) + 1 :] for info in found if info.type == FileType.File]

    def picture(self, url: str) -> bytes:
        """The content of a picture by its address.

        Raises:
            NoPictureError: there is none, or it may not be read.
            PictureTooLargeError: it has more than `MAX_BYTES` of `captioner.pictures.decode`.
        """
        from captioner.pictures.decode import MAX_BYTES  # NumPy, which the driver does not need

        path = (self.root + url.removeprefix(self.url())).rstrip("/")
        try:
            with self.filesystem.open_input_stream(path) as stream:
                content: bytes = stream.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            raise NoPictureError(f"{url!r} cannot be read ({_brief(error)}).") from None
        if len(content) > MAX_BYTES:
            raise PictureTooLargeError(f"{url!r} has more than {MAX_BYTES} bytes; make it smaller.")
        return content

    def names(self, folder: str) -> list[str]:
        from pyarrow.fs import FileSelector, FileType

        with self._reported():
            selector = FileSelector(f"{self.root}/{folder}", allow_not_found=True)
            found = self.filesystem.get_file_info(selector)
        return sorted(info.base_name for info in found if info.type == FileType.File)

    def read(self, name: str) -> bytes:
        with self._reported(), self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
            content: bytes = stream.read()
        return content

    def write(self, name: str, content: bytes) -> None:
        # A store shows an object when all of it is there.
        with self._reported(), self.filesystem.open_output_stream(f"{self.root}/{name}") as stream:
            stream.write(content)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            raise _unusable(self.url(), error) from None


def is_url(path: str) -> bool:
    return "://" in path


def local(path: str) -> str:
    """A path on a disk, whole; of a `file://` URL the path that it names."""
    if path.startswith("file://"):
        path = url2pathname(urlsplit(path).path)
    return path if is_url(path) else os.path.abspath(path)


def place(path: str) -> Folder | Bucket:
    """A folder of results by its path or URL."""
    path = local(path)
    return Bucket.open(path) if is_url(path) else Folder(Path(path))


def _unusable(url: str, error: Exception) -> StorageError:
    parts = urlsplit(url)
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    return StorageError(
        f"{shown} cannot be used ({_brief(error)}); check its name, its region and your access "
        "to it."
    )


def _brief(error: Exception) -> str:
    """The first sentence of what pyarrow says, without the details of its request."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].split(". Detail:")[0].rstrip(".")
