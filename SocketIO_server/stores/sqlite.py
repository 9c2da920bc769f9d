"""Captions in an SQLite file, for one relay.

`common.sqlite_file` has the rules of durability. The log is in memory: one process changes the
file, and when it begins it has no viewers. Two relays on one file would share numbers, but not
broadcast each other's captions; several relays share a `redis.RedisStore`.

What is not guaranteed: numbers begin again at 1 when the file was removed by hand, and nearly so
when it is unreadable while the machine's clock is at 1970. Viewers then begin
anew (`reset`).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from common.sqlite_file import DurableFile
from SocketIO_server.messages import Message, Thumbnail
from SocketIO_server.stores import protocol
from SocketIO_server.stores.protocol import Beginning, Change, StoreError, Work

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
# Files of earlier versions lack it.
_CORRECTED = "CREATE TABLE IF NOT EXISTS corrected (seq INTEGER PRIMARY KEY)"

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


class SqliteStore:
    """A `protocol.Store` in a file.

    Args:
        path: the SQLite file; it and its folder are made when needed.
        keep: captions kept; the oldest go first.
        sleep: for some seconds, in the server's async mode.
    """

    def __init__(self, path: Path, keep: int, sleep: Callable[[float], object]) -> None:
        self.keep = keep
        self._file = DurableFile(
            path,
            _SCHEMA,
            "The history in {path} cannot be used now ({reason}); make room on the disk, or set "
            "RELAY_DB to another file that can be written.",
            application_id=0x63617074,  # "capt"
            version=1,
            error=StoreError,
            make_folder=True,
            prepare=self._prepare,
            rescue=self._begin_after_those_in,
        )
        self._count = 0
        self._begins_after = 0  # number after which a new file begins: the highest one seen
        self._log: deque[Change] = deque()  # those that the relay has not broadcast yet
        self._position = 0  # of the newest change
        self._working: dict[str, Work] = {}
        self._sleep = sleep

    def open(self) -> None:
        with self._file.reading():
            pass

    def close(self) -> None:
        self._file.close()

    # What publishers change

    def append(self, message: Message) -> tuple[int, bool]:
        identifier = message.fields.get("id")
        with self._file.lock:
            with self._file.transaction() as database:
                if identifier is not None:
                    known = self._seq_of(database, identifier)
                    if known is not None:
                        return known, False
                picture = message.thumbnail
                seq = database.execute(
                    "INSERT INTO captions (id, fields, words, thumbnail, thumbnail_kind)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (
                        identifier,
                        json.dumps(message.fields, ensure_ascii=False),
                        protocol.words_column(message.fields),
                        picture and picture.data,
                        picture and picture.kind,
                    ),
                ).lastrowid
                if self._count + 1 > self.keep:
                    self._drop_oldest(database, self._count + 1 - self.keep)
            self._count = min(self._count + 1, self.keep)
            self._begins_after = int(seq or 0)
            self._working.pop(identifier or "", None)
            payload = message.payload(seq=self._begins_after)
            self._log_change("prediction", identifier or "", payload, seq=self._begins_after)
            return self._begins_after, True

    def forget(self, identifier: str) -> None:
        with self._file.lock:
            with self._file.transaction() as database:
                seq = self._seq_of(database, identifier)
                removed = database.execute(
                    "DELETE FROM captions WHERE id = ?", (identifier,)
                ).rowcount
                database.execute("DELETE FROM corrected WHERE seq = ?", (seq,))
                database.execute(
                    "INSERT INTO gone (id, seq, forgotten) VALUES (?, ?, 1)"
                    " ON CONFLICT (id) DO UPDATE SET forgotten = 1",
                    (identifier, self._last_seq(database) if seq is None else seq),
                )
                self._forget_old_ids(database)
            self._count -= removed
            self._working.pop(identifier, None)
            self._log_change("forget", identifier, {"id": identifier})
            if removed:
                self._file.erase_log()

    def correct(self, identifier: str, correction: Mapping[str, Any]) -> dict[str, Any] | None:
        with self._file.lock:
            with self._file.transaction() as database:
                row = database.execute(
                    "SELECT seq, fields, thumbnail, thumbnail_kind FROM captions WHERE id = ?",
                    (identifier,),
                ).fetchone()
                if row is None:
                    return None
                seq, text, data, kind = row
                fields = protocol.corrected(protocol.fields_of(text), correction)
                fields["id"] = identifier
                database.execute(
                    "UPDATE captions SET fields = ?, words = ? WHERE seq = ?",
                    (json.dumps(fields, ensure_ascii=False), protocol.words_column(fields), seq),
                )
                database.execute("INSERT OR IGNORE INTO corrected VALUES (?)", (seq,))
            self._file.erase_log()  # of the words that were replaced
            event = protocol.correction_of(fields)
            self._log_change("corrected", identifier, event)
            picture = Thumbnail(data, kind) if data else None
            return Message(fields, picture).payload(seq=seq)

    def begin_work(self, identifier: str, work: Work, instead_of: str = "") -> None:
        with self._file.lock:
            if not self.has_seen(identifier):
                self._working.pop(instead_of, None)
                self._working[identifier] = work
                self._log_change("captioning", identifier, work.payload, owner=work.owner)

    def fail_work(self, identifier: str, error: str, only_if_begun: bool = False) -> None:
        with self._file.lock:
            was_begun = self._working.pop(identifier, None) is not None
            if was_begun or not only_if_begun:
                self._log_change(
                    "captioning_failed", identifier, {"id": identifier, "error": error}
                )

    # What viewers read

    def after(
        self, seq: int, limit: int, max_bytes: int | None = None, words: Iterable[str] = ()
    ) -> tuple[list[dict[str, Any]], bool]:
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
                picture = Thumbnail(data, kind) if data else None
                captions.append(protocol.payload_of(number, fields, picture))
                size += len(data or b"") + len(fields.encode())
        return captions, False

    def before_last(self, count: int, words: Iterable[str] = (), before: int = 2**62) -> int:
        with self._file.reading() as database:
            row = database.execute(
                _BEFORE_LAST,
                {"words": json.dumps(list(words)), "count": count, "before": before},
            ).fetchone()
        return int(row[0]) if row else 0

    def forgotten(self, seq: int) -> list[str]:
        with self._file.reading() as database:
            rows = database.execute(
                "SELECT id FROM gone WHERE forgotten AND seq <= ? ORDER BY seq DESC LIMIT ?",
                (seq, protocol.FORGOTTEN_LISTED),
            )
            return [row[0] for row in rows]

    def corrections(self, seq: int) -> list[dict[str, Any]]:
        with self._file.reading() as database:
            rows = database.execute(
                "SELECT captions.id, fields FROM corrected JOIN captions USING (seq)"
                " WHERE seq <= ? ORDER BY seq DESC LIMIT ?",
                (seq, protocol.CORRECTIONS_LISTED),
            )
            return [
                protocol.correction_of({**protocol.fields_of(fields), "id": identifier})
                for identifier, fields in rows
            ]

    def has_seen(self, identifier: str) -> bool:
        with self._file.reading() as database:
            return self._seq_of(database, identifier) is not None

    def last_seq(self) -> int:
        with self._file.reading() as database:
            return self._last_seq(database)

    def oldest_seq(self) -> int:
        with self._file.reading() as database:
            (oldest,) = database.execute("SELECT min(seq) FROM captions").fetchone()
            return oldest or self._last_seq(database) + 1

    def count(self) -> int:
        with self._file.reading():
            return self._count

    # What the relay follows

    def beginning(self) -> Beginning:
        with self._file.lock:
            return Beginning(str(self._position), self.last_seq(), dict(self._working))

    def changes(self, position: str) -> list[Change]:
        with self._file.lock:
            # one relay follows the log, and has broadcast what comes before its position
            while self._log and int(self._log[0].position) <= int(position):
                self._log.popleft()
            return list(self._log)

    def wait(self, position: str, seconds: float) -> None:
        self._sleep(seconds)  # no other process changes the file

    def heartbeat(self, relay: str, seconds: int, others: set[str]) -> set[str]:
        return set()  # there is no other relay

    # Inside

    def _log_change(
        self, kind: str, identifier: str, payload: dict[str, Any], seq: int = 0, owner: str = ""
    ) -> None:
        """Put a change into the log, under the lock under which it was made, for the order."""
        self._position += 1
        self._log.append(Change(str(self._position), kind, identifier, payload, seq, owner))

    def _prepare(self, database: sqlite3.Connection, is_new: bool) -> None:
        """Begin after all numbers seen; drop the oldest if RELAY_KEEP is smaller than it was."""
        database.execute(_CORRECTED)
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
        """Let the next file begin after the numbers in a damaged one, which viewers have.

        The last number may be unreadable, but it is smaller than the seconds since 1970. The clock
        may be wrong, so it counts only where it is ahead of all else.
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
        database.execute("DELETE FROM corrected WHERE seq <= ?", (last,))
        self._forget_old_ids(database)

    def _forget_old_ids(self, database: sqlite3.Connection) -> None:
        database.execute(
            "DELETE FROM gone WHERE rowid <= (SELECT max(rowid) FROM gone) - ?",
            (protocol.IDS_REMEMBERED,),
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
