"""What waits to be published, kept in a small SQLite file so that it survives the end of app1.

An event goes in before the uploader has the answer, and out when the relay has acknowledged it.
Between the two, app1 may be killed and the relay may be away for days. Events leave in the order in
which they came in; an event may be sent twice (the acknowledgement may be lost), which the relay
tells by its id.

A disk that is full or a folder that cannot be written does not stop the captions: what the file
does not take waits in memory, with a warning in words, and moves to the file as soon as it can. A
file that turns out to be damaged is set aside, and what can still be read of it moves to a new one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_IN_MEMORY = 500  # captions, some 60 kB each

# state: 'waiting' to be sent, or 'refused' by the relay and tried once more when app1 starts again
_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    event TEXT NOT NULL,
    id TEXT NOT NULL,
    payload TEXT NOT NULL,
    thumbnail BLOB,
    UNIQUE (event, id)
);
-- or counting what waits would read all its pictures
CREATE INDEX IF NOT EXISTS events_by_state ON events (state, position);
"""
_INSERT = """
INSERT INTO events (event, id, payload, thumbnail, state) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (event, id) DO UPDATE SET state = excluded.state
"""
_DROP_OLDEST = """
DELETE FROM events WHERE event = 'predict' AND position <= (
    SELECT position FROM events WHERE event = 'predict' ORDER BY position DESC LIMIT 1 OFFSET ?
)
"""
_ROWS = "SELECT event, id, payload, thumbnail, state FROM events ORDER BY position"
_ROW_AT = "SELECT event, id, payload, thumbnail, state FROM events WHERE position = ?"
_WAITING = "FROM events WHERE state = 'waiting'"


@dataclass(frozen=True)
class Event:
    """An event that waits: its name, and its payload as the relay is to get it."""

    name: str
    payload: dict[str, Any]
    position: int
    in_file: bool

    @property
    def id(self) -> str:
        return str(self.payload["id"])


class Outbox:
    """A line of events on disk, first in first out, safe to use from several threads.

    Nothing here raises when the disk does; see the head of this file.

    Args:
        path: the file; made if it is not there. Opened again and again until that succeeds.
        keep: captions kept at most. Beyond it the oldest go, as they would go from the relay's
            history (RELAY_KEEP) the moment they got there.
    """

    def __init__(self, path: Path, keep: int = 10_000) -> None:
        self._path = path
        self._keep = keep
        self._lock = threading.RLock()
        self._memory = _open(":memory:")
        self._file: sqlite3.Connection | None = None
        self._gone: set[int] = set()  # positions in the file that it would not let us delete
        self._complained = False
        self._ask(lambda file: None)  # to say now what is wrong

    def close(self) -> None:
        with self._lock:
            self._close_file()
            self._memory.close()

    def __len__(self) -> int:
        """How many events wait to be sent."""
        with self._lock:
            count = f"SELECT count(*) {_WAITING}"
            there = self._ask(lambda file: _one(file, f"{count} {self._but_gone()}"))
            here = _one(self._memory, count)
            return sum(int(number) for (number,) in filter(None, (there, here)))

    def add(self, name: str, payload: dict[str, Any]) -> None:
        """Put an event last in the line; on disk when this returns.

        An event of the same name and id that is there already is not added twice.
        """
        row = _row(name, payload)
        with self._lock:
            written = self._write(
                (_INSERT, row),
                (_DROP_OLDEST, (self._keep,)),
                durable=True,
            )
            if not written:
                self._memory.execute(_INSERT, row)
                self._memory.execute(_DROP_OLDEST, (min(self._keep, KEPT_IN_MEMORY),))

    def forget(self, id_: str) -> None:
        """Drop what waits about a photo, and tell the relay to forget what may have reached it."""
        drop = "DELETE FROM events WHERE id = ?"
        row = _row("forget", {"id": id_})
        with self._lock:
            self._memory.execute(drop, (id_,))
            if not self._write((drop, (id_,)), (_INSERT, row), durable=True):
                find = f"SELECT position {_WAITING} AND id = ?"
                found = self._ask(lambda file: file.execute(find, (id_,)).fetchall())
                self._gone.update(position for (position,) in found or ())
                self._memory.execute(_INSERT, row)

    def first(self) -> Event | None:
        """The event whose turn it is."""
        columns = f"SELECT position, event, payload, thumbnail {_WAITING}"
        order = "ORDER BY position LIMIT 1"
        with self._lock:
            while row := self._ask(
                lambda file: _one(file, f"{columns} {self._but_gone()} {order}")
            ):
                try:
                    return _event(row, in_file=True)
                except (ValueError, KeyError, TypeError) as error:
                    # SQLite does not notice a bit that has flipped within a text
                    log.error("an event in %s is damaged and left out (%s)", self._path, error)
                    self._gone.add(row[0])
            row = _one(self._memory, f"{columns} {order}")
            return _event(row, in_file=False) if row else None

    def remove(self, event: Event) -> None:
        """The relay has it."""
        self._leave(event, "DELETE FROM events WHERE event = ? AND id = ?")

    def put_aside(self, event: Event) -> None:
        """The relay will not have it: let the others pass, and try again when app1 starts again."""
        self._leave(event, "UPDATE events SET state = 'refused' WHERE event = ? AND id = ?")

    def _leave(self, event: Event, statement: str) -> None:
        with self._lock:
            # told by name, not by position: it may have moved from memory to the file meanwhile
            which = (event.name, event.id)
            self._memory.execute(statement, which)
            if not self._write((statement, which)) and event.in_file:
                self._gone.add(event.position)

    def _write(self, *operations: tuple[str, tuple[Any, ...]], durable: bool = False) -> bool:
        """Change the file, all or nothing; False, and nothing done, when the disk does not let us.

        With `durable` it is on the disk itself, power cut or not, when this returns. That takes an
        fsync, a few milliseconds once for each caption, which took longer to make. Without it, in
        WAL mode, a power cut would take all that came since the last checkpoint, dozens of them.
        Taking an event out need not be durable: at worst it is sent a second time.
        """

        def change(file: sqlite3.Connection) -> bool:
            # before the transaction: within one it has no effect
            file.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            file.execute("BEGIN IMMEDIATE")
            try:
                self._move_to(file)
                for statement, values in operations:
                    file.execute(statement, values)
                file.execute("COMMIT")
            except BaseException:
                if file.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        file.execute("ROLLBACK")
                raise
            return True

        with self._lock:
            if not self._ask(change):
                return False
            self._gone.clear()
            self._memory.execute("DELETE FROM events")
            if self._complained:
                log.warning("the outbox can be written again")
                self._complained = False
            return True

    def _move_to(self, file: sqlite3.Connection) -> None:
        """Within a transaction: make up for what the file did not take before."""
        file.executemany("DELETE FROM events WHERE position = ?", [(p,) for p in self._gone])
        file.executemany(_INSERT, self._memory.execute(_ROWS))

    def _but_gone(self) -> str:
        return f"AND position NOT IN ({','.join(map(str, self._gone))})"

    # The file, and what can be wrong with it

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `question` returns about the file; None, with a warning, when the disk refuses."""
        with self._lock:
            for last_attempt in (False, True):
                try:
                    if self._file is None:
                        self._file = _open_private(self._path)
                    return question(self._file)
                except (sqlite3.Error, OSError) as error:
                    # the file's content; a disk, or a right to write, gives an OperationalError
                    damaged = type(error) is sqlite3.DatabaseError
                    if last_attempt or not (damaged and self._set_aside(error)):
                        self._complain(error)
                        return None
            raise AssertionError("not reached")

    def _set_aside(self, damage: Exception) -> bool:
        """Replace a damaged file by one with what can still be read; False if nothing helps."""
        self._close_file()
        rows = _readable(self._path, self._keep, self._gone)
        self._gone.clear()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside, number = self._path.with_name(f"{self._path.name}.damaged-{moment}"), 1
        while aside.exists():
            number += 1
            aside = self._path.with_name(f"{self._path.name}.damaged-{moment}-{number}")
        try:
            for suffix in ("-wal", "-shm", ""):  # a log of the old file would spoil the new one
                with contextlib.suppress(FileNotFoundError):
                    self._path.with_name(self._path.name + suffix).rename(f"{aside}{suffix}")
            self._file = _open_private(self._path)
            self._file.execute("BEGIN")
            self._file.executemany(_INSERT, rows)
            self._file.execute("COMMIT")
        except (sqlite3.Error, OSError):
            self._close_file()
            return False
        log.error(
            "%s is damaged (%s): it is now %s, which may still hold captions and photos; a new one "
            "begins with the %d events that can be read",
            self._path,
            damage,
            aside,
            len(rows),
        )
        return True

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _complain(self, error: Exception) -> None:
        if not self._complained:  # once, not with every photo
            log.warning(
                "%s cannot be used (%s): captions that wait for the relay are in memory for now, "
                "the newest %d of them, and lost when app1 ends; make room on the disk, or set "
                "CAPTIONER_STATE to a folder to write in",
                self._path,
                error,
                min(self._keep, KEPT_IN_MEMORY),
            )
            self._complained = True


def _one(db: sqlite3.Connection, query: str) -> Any:
    """The only row of a query, or None."""
    return db.execute(query).fetchone()


def _row(name: str, payload: dict[str, Any]) -> tuple[Any, ...]:
    rest = {key: value for key, value in payload.items() if key != "thumbnail"}
    return name, payload["id"], json.dumps(rest), payload.get("thumbnail"), "waiting"


def _event(row: tuple[int, str, str, bytes | None], in_file: bool) -> Event:
    """Raises ValueError, KeyError or TypeError if the row makes no sense."""
    position, name, payload, thumbnail = row
    content = json.loads(payload)
    if not isinstance(content["id"], str):
        raise TypeError("an id that is no text")
    if thumbnail is not None:
        content["thumbnail"] = thumbnail
    return Event(name, content, position, in_file)


def _open(path: str) -> sqlite3.Connection:
    # the lock of the outbox takes the place of SQLite's check that threads do not meet
    db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        # damaged text is a matter of its event, and not of those behind it
        db.text_factory = lambda raw: raw.decode("utf-8", "replace")
        # WAL: one fsync a transaction, and reading goes on meanwhile
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache too
        # a photo that is to be forgotten is overwritten, not only unlinked
        db.execute("PRAGMA secure_delete = ON")
        db.executescript(_SCHEMA)
        # refused for good, but by a relay with other settings, perhaps, or an older one
        db.execute("UPDATE events SET state = 'waiting' WHERE state != 'waiting'")
    except BaseException:
        db.close()
        raise
    return db


def _open_private(path: Path) -> sqlite3.Connection:
    """The outbox in `path`, which nobody but its owner can read."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    return _open(str(path))


def _readable(path: Path, keep: int, gone: set[int]) -> list[tuple[Any, ...]]:
    """The rows of a damaged outbox that can be read, but for those that are `gone`, in order."""
    rows = []
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        last = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()[0]
        # one by one, each by the way to it from the root: a damaged page costs only what is on it
        for position in range(max(1, last - 2 * keep), last + 1):
            with contextlib.suppress(sqlite3.Error):
                row = db.execute(_ROW_AT, (position,)).fetchone()
                if row and position not in gone:
                    rows.append(row)
    return rows
