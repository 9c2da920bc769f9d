"""A persistent queue (SQLite) of events to publish; survives restarts of app1.

An event goes in before the uploader has the answer, and out when the relay has acknowledged it.
Between the two, app1 may be killed and the relay may be away for days. Events leave in the order in
which they came in. An event may be sent twice, when its acknowledgement is lost; the relay drops
the second one by its id.

A full disk or a folder that cannot be written does not stop the captions. What the file does not
take waits in memory, and moves to the file as soon as that can be written again. What can be read
of a damaged file moves to a new one. `common.sqlite_file` has the rules of durability.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from common.sqlite_file import DurableFile, FileError

log = logging.getLogger(__name__)
T = TypeVar("T")

KEPT_IN_MEMORY = 500  # captions, some 60 kB each

# state: 'waiting' to be sent, or 'refused' by the relay and tried once more when app1 starts again
_SCHEMA = (
    """
CREATE TABLE events (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL,
    event TEXT NOT NULL,
    id TEXT NOT NULL,
    payload TEXT NOT NULL,
    thumbnail BLOB,
    UNIQUE (event, id)
)
""",
    # without it, counting what waits would read all its pictures
    "CREATE INDEX events_by_state ON events (state, position)",
)
_INSERT = """
INSERT INTO events (event, id, payload, thumbnail, state) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (event, id) DO UPDATE SET state = excluded.state, payload = excluded.payload
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
    """An event that waits.

    Attributes:
        name: of the event.
        payload: what the relay gets.
        position: in the queue.
        in_file: whether it is in the file, or only in memory.
    """

    name: str
    payload: dict[str, Any]
    position: int
    in_file: bool

    @property
    def id(self) -> str:
        return str(self.payload["id"])


class Outbox:
    """A queue of events on disk, first in first out, safe to use from several threads.

    No method raises when the disk fails; the top of this file describes what happens then.

    Args:
        path: the file; made if it is not there, and tried again until that succeeds.
        keep: captions kept at most; the oldest go first, as in the relay's history (RELAY_KEEP).
    """

    def __init__(self, path: Path, keep: int = 10_000) -> None:
        self._keep = keep
        self._memory = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        for statement in _SCHEMA:
            self._memory.execute(statement)
        self._gone: set[int] = set()  # positions of rows that could not be deleted from the file
        self._rescued: list[tuple[Any, ...]] = []  # rows of a damaged file
        self._file = DurableFile(
            path,
            _SCHEMA,
            "{path} cannot be used ({reason}): captions that wait for the relay are in memory for "
            f"now, the newest {min(keep, KEPT_IN_MEMORY)} of them, and lost when app1 ends; make "
            "room on the disk, or set CAPTIONER_STATE to a folder to write in.",
            prepare=self._bring_in_rescued,
            rescue=self._rescue,
        )
        self._lock = self._file.lock
        # Refused by the relay as it was then; it may have other settings now, or be a newer one.
        self._write(("UPDATE events SET state = 'waiting' WHERE state != 'waiting'", ()))

    def close(self) -> None:
        with self._lock:
            self._file.close()
            self._memory.close()

    def __len__(self) -> int:
        """How many events wait to be sent."""
        with self._lock:
            count = f"SELECT count(*) {_WAITING}"
            there = self._read(lambda file: _one(file, f"{count} {self._but_gone()}"))
            here = _one(self._memory, count)
            return sum(int(number) for (number,) in filter(None, (there, here)))

    def add(self, name: str, payload: dict[str, Any]) -> None:
        """Put an event last in the queue; on disk when this returns.

        An event of the same name and id that is there already keeps its place and gets this
        payload: the last of several corrections counts.
        """
        row = _row(name, payload)
        with self._lock:
            written = self._write((_INSERT, row), (_DROP_OLDEST, (self._keep,)), durable=True)
            if not written:
                self._memory.execute(_INSERT, row)
                self._memory.execute(_DROP_OLDEST, (min(self._keep, KEPT_IN_MEMORY),))

    def forget(self, id_: str) -> None:
        """Drop what waits about a photo, and have the relay forget what may have reached it."""
        drop = "DELETE FROM events WHERE id = ?"
        row = _row("forget", {"id": id_})
        with self._lock:
            self._memory.execute(drop, (id_,))
            if self._write((drop, (id_,)), (_INSERT, row), durable=True):
                self._try(self._file.erase_log)
            else:
                find = f"SELECT position {_WAITING} AND id = ?"
                found = self._read(lambda file: file.execute(find, (id_,)).fetchall())
                self._gone.update(position for (position,) in found or ())
                self._memory.execute(_INSERT, row)

    def first(self) -> Event | None:
        """The event whose turn it is."""
        columns = f"SELECT position, event, payload, thumbnail {_WAITING}"
        order = "ORDER BY position LIMIT 1"
        with self._lock:
            while row := self._read(
                lambda file: _one(file, f"{columns} {self._but_gone()} {order}")
            ):
                try:
                    return _event(row, in_file=True)
                except (ValueError, KeyError, TypeError) as error:
                    # SQLite does not notice a bit that has flipped within a text
                    log.error(
                        "An event in %s is damaged and left out (%s).", self._file.path, error
                    )
                    self._gone.add(row[0])
            row = _one(self._memory, f"{columns} {order}")
            return _event(row, in_file=False) if row else None

    def remove(self, event: Event) -> None:
        """The relay has acknowledged the event."""
        self._leave(event, "DELETE FROM events WHERE event = ? AND id = ? AND payload = ?")

    def put_aside(self, event: Event) -> None:
        """The relay rejected this event: skip it, and retry when app1 restarts."""
        change = "UPDATE events SET state = 'refused' WHERE event = ? AND id = ? AND payload = ?"
        self._leave(event, change)

    def _leave(self, event: Event, statement: str) -> None:
        with self._lock:
            # by name, not by position: it may have moved from memory to the file meanwhile; by
            # its payload, which may be another by now
            which = _row(event.name, event.payload)[:3]
            self._memory.execute(statement, which)
            # not durable: at worst it is sent a second time
            if not self._write((statement, which)) and event.in_file:
                self._gone.add(event.position)

    # The file

    def _write(self, *operations: tuple[str, tuple[Any, ...]], durable: bool = False) -> bool:
        """Write to the file, all or nothing, with what it did not take before; True on success."""

        def change() -> bool:
            with self._file.transaction(durable) as file:
                file.executemany(
                    "DELETE FROM events WHERE position = ?", [(p,) for p in self._gone]
                )
                file.executemany(_INSERT, self._memory.execute(_ROWS))
                for statement, values in operations:
                    file.execute(statement, values)
            return True

        with self._lock:
            if not self._try(change):
                return False
            self._gone.clear()
            self._rescued.clear()
            self._memory.execute("DELETE FROM events")
            return True

    def _read(self, question: Callable[[sqlite3.Connection], T]) -> T | None:
        """What `question` returns about the file; None when it cannot be read."""

        def ask() -> T:
            with self._file.reading() as file:
                return question(file)

        with self._lock:
            return self._try(ask)

    def _try(self, action: Callable[[], T]) -> T | None:
        """What `action` returns; None when the file cannot be used."""
        for _ in range(2):  # it may have been damaged; then there is a new one now
            with contextlib.suppress(FileError):
                return action()
        return None

    def _but_gone(self) -> str:
        return f"AND position NOT IN ({','.join(map(str, self._gone))})"

    def _rescue(self, damaged: Path) -> None:
        """Read what can be read of a damaged file, but for what is gone."""
        self._rescued = _readable(damaged, self._keep, self._gone)
        self._gone.clear()

    def _bring_in_rescued(self, file: sqlite3.Connection, is_new: bool) -> None:
        if is_new and self._rescued:
            file.executemany(_INSERT, self._rescued)
            log.error("%d events could be read of the damaged outbox.", len(self._rescued))


def _one(db: sqlite3.Connection, query: str) -> Any:
    """The only row of a query, or None."""
    return db.execute(query).fetchone()


def _row(name: str, payload: dict[str, Any]) -> tuple[Any, ...]:
    rest = {key: value for key, value in payload.items() if key != "thumbnail"}
    return name, payload["id"], json.dumps(rest), payload.get("thumbnail"), "waiting"


def _event(row: tuple[int, str, str, bytes | None], in_file: bool) -> Event:
    """An event from its row; ValueError, KeyError or TypeError if the row makes no sense."""
    position, name, payload, thumbnail = row
    content = json.loads(payload)
    if not isinstance(content["id"], str):
        raise TypeError("an id that is no text")
    if thumbnail is not None:
        content["thumbnail"] = thumbnail
    return Event(name, content, position, in_file)


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
