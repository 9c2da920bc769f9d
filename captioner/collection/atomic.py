"""Writing a file beside a photo: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A path for a new file, which takes the place of `path` at the end.

    The new file keeps the permissions of the one that it replaces. It is on disk before it takes
    the place, so a kill or a power cut at any moment leaves the old file or the new one. An error
    leaves the old one.
    """
    path = Path(os.path.realpath(path))  # a link stays a link
    # Without the old name, which may be as long as a name can be.
    new = path.with_name(f".captioner-{uuid.uuid4().hex}{path.suffix}")
    try:
        yield new
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(path, new)
        with new.open("rb+") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, as `replaced` does it."""
    with replaced(path) as new:
        new.write_bytes(content)
