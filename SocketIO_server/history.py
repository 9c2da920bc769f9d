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
import logging
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from SocketIO_server.messages import Message, Thumbnail

log = logging.getLogger("relay")

APPLICATION_ID = 0x63617074  # "capt": marks a file as ours
SCHEMA_VERSION = 1
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
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
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
        self.path = path
        self.keep = keep
        self._connection: sqlite3.Connection | None = None
        self._count = 0
        self._begins_after = 0  # number after which a new file begins: the highest known here

    # Each of these raises HistoryError.

    def open(self) -> None:
        """Make sure that the file can be used; anything else opens it too, when it is needed."""
        with self._database():
            pass

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        connection, self._connection = self._connection, None
        if connection:
            with contextlib.suppress(sqlite3.Error):
                connection.close()

    def add(self, message: Message) -> tuple[int, bool]:
        """Keep a caption: its number, and whether it is new (else its `id` was there before)."""
        identifier = message.fields.get("id")
        with self._database(write=True) as database:
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
        with self._database(write=True) as database:
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
            # the picture still stands in the write-ahead log; secure_delete has cleared the rest
            with self._database() as database:
                database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def knows(self, identifier: str) -> bool:
        """Whether a caption of this `id` is or was here, or was forgotten before it came."""
        with self._database() as database:
            return self._seq_of(database, identifier) is not None

    def last_seq(self) -> int:
        """The number of the newest caption that there ever was; 0 for none."""
        with self._database() as database:
            return self._last_seq(database)

    def count(self) -> int:
        """Captions that are here now."""
        with self._database():
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
        with self._database() as database:
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
        with self._database() as database:
            row = database.execute(
                _BEFORE_LAST,
                {"words": json.dumps(list(words)), "count": count, "before": before},
            ).fetchone()
        return int(row[0]) if row else 0

    def forgotten(self, seq: int) -> list[str]:
        """Ids of captions up to number `seq` that were forgotten on request, the newest of them."""
        with self._database() as database:
            rows = database.execute(
                "SELECT id FROM gone WHERE forgotten AND seq <= ? ORDER BY seq DESC LIMIT ?",
                (seq, FORGOTTEN_TOLD),
            )
            return [row[0] for row in rows]

    # Inside

    @contextlib.contextmanager
    def _database(self, write: bool = False) -> Iterator[sqlite3.Connection]:
        """The open file, in a transaction if `write`; turns what SQLite raises into sentences.

        A damaged file is set aside, so that the next call begins a new one.
        """
        try:
            if self._connection is None:
                self._connection = self._open()
            database = self._connection
            if not write:
                yield database
                return
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
                database.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    database.execute("ROLLBACK")
                raise
        except (sqlite3.Error, OSError) as error:
            # On a full disk the open file can still be read, but perhaps not be opened again; after
            # all other errors a new connection has the better chances.
            if "full" not in str(error) and "locked" not in str(error):
                self.close()
            if _is_damage(error):
                self._set_aside(error)
                raise HistoryError(
                    f"The history was damaged and has been set aside ({error}); send again."
                ) from error
            raise HistoryError(
                f"The history in {self.path} cannot be used now ({error}); make room on the "
                "disk, or set RELAY_DB to a file that can be written."
            ) from error

    def _open(self) -> sqlite3.Connection:
        """Open the file; one that is damaged is set aside, and a new one begun."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return self._open_file()
        except sqlite3.Error as error:
            if not _is_damage(error):
                raise
            self._set_aside(error)
        return self._open_file()

    def _open_file(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=1,  # seconds to wait for another program's lock; the whole relay waits with it
            isolation_level=None,  # transactions are begun by hand
            check_same_thread=False,  # the callers' lock sees to it
        )
        try:
            # damaged text is a matter of its caption, see `after`, and not of the whole answer
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            is_new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            if not is_new and (owner, version) != (APPLICATION_ID, SCHEMA_VERSION):
                raise HistoryError(
                    f"{self.path} is a database of another program, or of a newer version of "
                    "this one; set RELAY_DB to another file."
                )
            connection.execute("PRAGMA journal_mode = WAL")
            # On disk means on disk: NORMAL, in WAL mode, syncs at checkpoints only, and a power cut
            # would take dozens of captions whose publishers were told that they are safe. FULL is
            # an fsync a caption, a few milliseconds where a caption takes tens to make.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache too
            connection.execute("PRAGMA secure_delete = ON")  # what is forgotten is overwritten
            if is_new:
                connection.execute("BEGIN IMMEDIATE")
                for statement in _SCHEMA:
                    connection.execute(statement)
                connection.execute(
                    "INSERT INTO sqlite_sequence (name, seq) VALUES ('captions', ?)",
                    (self._begins_after,),
                )
                connection.execute("COMMIT")
            self._count = connection.execute("SELECT count(*) FROM captions").fetchone()[0]
            if self._count > self.keep:  # RELAY_KEEP is smaller than it was
                connection.execute("BEGIN IMMEDIATE")
                self._drop_oldest(connection, self._count - self.keep)
                connection.execute("COMMIT")
                self._count = self.keep
        except BaseException:
            connection.close()
            raise
        return connection

    def _set_aside(self, error: Exception) -> None:
        """Give a damaged file another name and say so; HistoryError if even that fails."""
        moment = time.strftime("%Y%m%d-%H%M%S")
        aside = self.path.with_name(f"{self.path.name}.damaged-{moment}")
        number = 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{moment}-{number}")
        try:
            self.path.rename(aside)
            for suffix in ("-wal", "-shm"):  # a log of the old file would spoil the new one
                log_file = self.path.with_name(self.path.name + suffix)
                if log_file.exists():
                    log_file.rename(aside.with_name(aside.name + suffix))
        except OSError as cause:
            raise HistoryError(
                f"The history in {self.path} is damaged ({error}) and cannot be set aside "
                f"({cause.strerror}); set RELAY_DB to another file."
            ) from cause
        # Viewers know captions of the damaged file by number, and no number must come again. Its
        # last one may be unreadable, but is smaller than the time in seconds since 1970; unless the
        # clock is wrong, and so it counts only if it is ahead of what is known otherwise.
        self._begins_after = max(self._begins_after, _last_readable(aside), int(time.time()))
        log.error(
            "The history was damaged (%s). It is now %s, which still holds captions and photos: "
            "delete it when you do not need it. A new history begins.",
            error,
            aside,
        )

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


def _is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is not, or not any more, a database.

    It raises DatabaseError itself for these two cases only; a full disk, a read-only file and the
    like are OperationalError, one of its subclasses.
    """
    return type(error) is sqlite3.DatabaseError


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
