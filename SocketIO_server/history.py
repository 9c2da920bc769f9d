"""The history: captions in an SQLite file, numbered in the order in which they came.

One object, one file, one process. Not thread-safe: whoever shares a `History` holds one lock around
every call (see `events.Relay`). It knows messages and no web. Two relays on one file would number
captions together but not hear of each other's; several relays share a `redis_history.RedisHistory`.

What it promises: `add` and `forget` return only when the change is on disk (a crash or a power cut
loses nothing that was acknowledged); the same `id` is kept once, also when it comes again after it
was forgotten or after it made room for newer ones; `seq` never goes back, not even when a damaged
file had to be replaced. What it does not: a file that is removed by hand begins again at 1; and so
does, nearly, one that is damaged beyond all reading while the machine's clock stands at 1970. Then
viewers are told to begin anew (`reset`).
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.sqlite_file import DurableFile
from SocketIO_server.messages import Message, Thumbnail

# Ids of captions that left the history: a publisher that sends one again, since its acknowledgement
# got lost, must not bring it back, and a viewer that was away must learn what was forgotten.
IDS_REMEMBERED = 100_000
FORGOTTEN_TOLD = 1_000

_SCHEMA = (
    """
CREATE TABLE captions (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,  -- AUTOINCREMENT: a number is never given twice
    id TEXT UNIQUE,                         -- NULL where the publisher gave none
    fields TEXT NOT NULL,                   -- JSON of the message without its thumbnail
    words TEXT NOT NULL,                    -- of the caption: " two dogs run", see _AFTER
    thumbnail BLOB,
    thumbnail_kind TEXT
)
""",
    """
CREATE TABLE gone (
    id TEXT PRIMARY KEY,
    seq INTEGER NOT NULL,
    forgotten INTEGER NOT NULL              -- 1: on request; 0: it made room for newer ones
)
""",
    "CREATE INDEX gone_forgotten ON gone (seq) WHERE forgotten",
)

# The condition in both: each word of the JSON list begins a word of the caption.
_AFTER = """
SELECT seq, fields, thumbnail, thumbnail_kind FROM captions
WHERE NOT EXISTS (SELECT 1 FROM json_each(:words) WHERE instr(captions.words, ' ' || value) = 0)
AND seq > :seq ORDER BY seq LIMIT :limit
"""
_BEFORE_LAST = """
SELECT seq FROM captions
WHERE NOT EXISTS (SELECT 1 FROM json_each(:words) WHERE instr(captions.words, ' ' || value) = 0)
AND seq < :before ORDER BY seq DESC LIMIT 1 OFFSET :count
"""


class HistoryError(Exception):
    """The history cannot be read or written now; `str(error)` is a sentence that says why."""


def search_words(text: str) -> list[str]:
    """The words of a caption, or of a search, in lower case and without punctuation."""
    return re.findall(r"\w+", text.casefold())


class History:
    """Captions in a file.

    Args:
        path: the SQLite file; it and its folder are made when needed.
        keep: captions kept; the oldest go first.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self.keep = keep
        self._file = DurableFile(
            path,
            _SCHEMA,
            "The history in {path} cannot be used now ({reason}); make room on the disk, or set "
            "RELAY_DB to another file that can be written.",
            application_id=0x63617074,  # "capt"
            version=1,
            error=HistoryError,
            make_folder=True,
            prepare=self._prepare,
            rescue=self._begin_after_those_in,
        )
        self._count = 0
        self._begins_after = 0  # number after which a new file begins: the highest known here

    # Each of these raises HistoryError.

    def open(self) -> None:
        """Make sure that the file can be used; anything else opens it too, when it is needed."""
        with self._file.reading():
            pass

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        self._file.close()

    def add(self, message: Message) -> tuple[int, bool]:
        """Keep a caption: its number, and whether it is new (else its `id` was there before)."""
        identifier = message.fields.get("id")
        with self._file.transaction() as database:
            if identifier is not None and (seq := self._seq_of(database, identifier)) is not None:
                return seq, False
            picture = message.thumbnail
            seq = database.execute(
                "INSERT INTO captions (id, fields, words, thumbnail, thumbnail_kind)"
                " VALUES (?, ?, ?, ?, ?)",
                (
                    identifier,
                    json.dumps(message.fields, ensure_ascii=False),
                    "".join(f" {word}" for word in search_words(message.fields["caption"])),
                    picture and picture.data,
                    picture and picture.kind,
                ),
            ).lastrowid
            if self._count + 1 > self.keep:
                self._drop_oldest(database, self._count + 1 - self.keep)
        self._count = min(self._count + 1, self.keep)
        self._begins_after = int(seq or 0)
        return self._begins_after, True

    def forget(self, identifier: str) -> None:
        """Remove a caption for good, and never take it again; an unknown `id` is remembered too."""
        with self._file.transaction() as database:
            seq = self._seq_of(database, identifier)
            removed = database.execute("DELETE FROM captions WHERE id = ?", (identifier,)).rowcount
            database.execute(
                "INSERT INTO gone (id, seq, forgotten) VALUES (?, ?, 1)"
                " ON CONFLICT (id) DO UPDATE SET forgotten = 1",
                (identifier, self._last_seq(database) if seq is None else seq),
            )
            self._forget_old_ids(database)
        self._count -= removed
        if removed:
            self._file.erase_log()

    def knows(self, identifier: str) -> bool:
        """Whether a caption of this `id` is or was here, or was forgotten before it came."""
        with self._file.reading() as database:
            return self._seq_of(database, identifier) is not None

    def last_seq(self) -> int:
        """The number of the newest caption that there ever was; 0 for none."""
        with self._file.reading() as database:
            return self._last_seq(database)

    def count(self) -> int:
        """Captions that are here now."""
        with self._file.reading():
            return self._count

    def after(
        self, seq: int, limit: int, max_bytes: int | None = None, words: Iterable[str] = ()
    ) -> tuple[list[dict[str, Any]], bool]:
        """Captions after number `seq`, oldest first, as viewers get them; and if there are more.

        Args:
            limit: captions at most.
            max_bytes: stop after the caption that takes the sum of their sizes beyond this.
            words: each of them, in lower case, has to begin a word of the caption.
        """
        captions: list[dict[str, Any]] = []
        size = 0
        with self._file.reading() as database:
            rows = database.execute(
                _AFTER, {"seq": seq, "words": json.dumps(list(words)), "limit": limit + 1}
            )
            for number, fields, data, kind in rows:
                if len(captions) == limit or (max_bytes is not None and size > max_bytes):
                    rows.close()
                    return captions, True
                try:
                    message = Message(json.loads(fields), data and Thumbnail(data, kind))
                except ValueError:  # it keeps its place, so that counting and paging go on
                    message = Message({"caption": "(This caption is damaged on the disk.)"})
                captions.append(message.payload(seq=number))
                size += len(data or b"") + len(fields.encode())
        return captions, False

    def before_last(self, count: int, words: Iterable[str] = (), before: int = 2**62) -> int:
        """The number after which the newest `count` captions (that hold `words`) come.

        Args:
            before: leave out those from this number on.
        """
        with self._file.reading() as database:
            row = database.execute(
                _BEFORE_LAST,
                {"words": json.dumps(list(words)), "count": count, "before": before},
            ).fetchone()
        return int(row[0]) if row else 0

    def forgotten(self, seq: int) -> list[str]:
        """Ids of captions up to number `seq` that were forgotten on request, the newest of them."""
        with self._file.reading() as database:
            rows = database.execute(
                "SELECT id FROM gone WHERE forgotten AND seq <= ? ORDER BY seq DESC LIMIT ?",
                (seq, FORGOTTEN_TOLD),
            )
            return [row[0] for row in rows]

    # Inside

    def _prepare(self, database: sqlite3.Connection, is_new: bool) -> None:
        """Begin after all numbers seen; drop the oldest if RELAY_KEEP is smaller than it was."""
        if is_new:
            database.execute(
                "INSERT INTO sqlite_sequence (name, seq) VALUES ('captions', ?)",
                (self._begins_after,),
            )
        self._count = database.execute("SELECT count(*) FROM captions").fetchone()[0]
        if self._count > self.keep:
            self._drop_oldest(database, self._count - self.keep)
            self._count = self.keep

    def _begin_after_those_in(self, damaged: Path) -> None:
        """Remember with which number to go on, since viewers know those in the damaged file.

        The last one may be unreadable, but is smaller than the time in seconds since 1970; unless
        the clock is wrong, and so the clock counts only if it is ahead of what is known otherwise.
        """
        self._begins_after = max(self._begins_after, _last_readable(damaged), int(time.time()))

    def _seq_of(self, database: sqlite3.Connection, identifier: str) -> int | None:
        row = database.execute(
            "SELECT seq FROM captions WHERE id = :id UNION ALL SELECT seq FROM gone WHERE id = :id",
            {"id": identifier},
        ).fetchone()
        return int(row[0]) if row else None

    def _last_seq(self, database: sqlite3.Connection) -> int:
        row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'captions'").fetchone()
        return int(row[0])

    def _drop_oldest(self, database: sqlite3.Connection, number: int) -> None:
        last = database.execute(
            "SELECT seq FROM captions ORDER BY seq LIMIT 1 OFFSET ?", (number - 1,)
        ).fetchone()[0]
        database.execute(
            "INSERT INTO gone (id, seq, forgotten)"
            " SELECT id, seq, 0 FROM captions WHERE seq <= ? AND id IS NOT NULL",
            (last,),
        )
        database.execute("DELETE FROM captions WHERE seq <= ?", (last,))
        self._forget_old_ids(database)

    def _forget_old_ids(self, database: sqlite3.Connection) -> None:
        database.execute(
            "DELETE FROM gone WHERE rowid <= (SELECT max(rowid) FROM gone) - ?", (IDS_REMEMBERED,)
        )


def _last_readable(damaged: Path) -> int:
    """The highest number of a damaged history, as far as it can be read; 0 if it cannot."""
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(damaged)) as database,
    ):
        last = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'captions'")
        seq = last.fetchone()[0]
        # some 35,000 years of a caption a second; beyond it, the number itself is damaged
        return seq if isinstance(seq, int) and 0 <= seq < 2**40 else 0
    return 0
