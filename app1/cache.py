"""Remembers what came of the last photos, so that the same photo again costs no work.

In memory alone, and bounded in number, bytes and time: people's pictures must not stay. A process
has one model and one set of limits, so neither is part of a key.
"""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

ENTRIES = 512
BYTES = 32 * 2**20  # some 400 photos, most of it thumbnails
SECONDS = 3600
# uploads answered with one entry, each of which leaves its id there; the next is done anew
USES = 100


@dataclass(frozen=True)
class Key:
    """All that a caption depends on; `sha256` is of the uploaded bytes."""

    sha256: bytes
    beam_size: int
    max_candidates: int


@dataclass(frozen=True)
class Content:
    """What came of a photo, the same for each upload of it.

    Attributes:
        caption: `Caption.to_dict` with attention, and the model's name, as JSON; many times smaller
            than the arrays, and its size is known.
        thumbnail: JPEG bytes.
    """

    caption: bytes
    thumbnail: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return len(self.caption) + len(self.thumbnail)

    def members(self, attention: bool) -> dict[str, Any]:
        """The members of an answer; `attention` keeps each word's weights."""
        members: dict[str, Any] = json.loads(self.caption)
        if not attention:
            for word in members["words"]:
                del word["attention"]
        return members


@dataclass
class _Entry:
    content: Content
    until: float
    ids: set[str] = dataclasses.field(default_factory=set)  # of the captions made of it


class CaptionCache:
    """The last photos by their content, the oldest first to go. Safe to use from several threads.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: dict[Key, _Entry] = {}  # in the order in which they came
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def bytes(self) -> int:
        """Bytes of all captions and thumbnails here."""
        return self._bytes

    def get(self, key: Key, id_: str) -> Content | None:
        """What came of this photo before, for the caption `id_`; None if it is not known."""
        with self._lock:
            self._drop_old()
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.ids.add(id_)
            if len(entry.ids) > USES:
                self._drop(key)
                return None
            return entry.content

    def put(self, key: Key, content: Content, id_: str) -> None:
        """Remember what came of a photo, made for the caption `id_`."""
        with self._lock:
            self._drop_old()
            self._drop(key)
            self._entries[key] = _Entry(content, self._clock() + SECONDS, {id_})
            self._bytes += content.size
            while len(self._entries) > ENTRIES or self._bytes > BYTES:
                self._drop(next(iter(self._entries)))

    def forget(self, id_: str) -> None:
        """Drop the photo of a caption, whoever else has sent the same one."""
        with self._lock:
            for key in [key for key, entry in self._entries.items() if id_ in entry.ids]:
                self._drop(key)

    def _drop_old(self) -> None:
        now = self._clock()
        while self._entries and (oldest := next(iter(self._entries.items())))[1].until <= now:
            self._drop(oldest[0])

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.content.size
