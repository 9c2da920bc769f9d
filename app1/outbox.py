"""What waits to be published, kept in a small SQLite file so that it survives the end of app1.

An event goes in before the uploader has the answer, and out when the relay has acknowledged it.
Between the two, app1 may be killed and the relay may be away for days. Events leave in the order in
which they came in; an event may be sent twice (the acknowledgement may be lost), which the relay
tells by its id.

A disk that is full or a folder that cannot be written does not stop the captions: what the file
does not take waits in memory, with a warning in words, and moves to the file as soon as it can.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sqlite3
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

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
        path: the file; made if it is not there. A damaged one is set aside and a new one begun.
        keep: captions kept at most. Beyond it the oldest go, as they would go from the relay's
            history (RELAY_KEEP) the moment they got there.
    """

    def __init__(self, path: Path, keep: int = 10_000) -> None:
        self._keep = keep
        self._lock = threading.RLock()
        self._memory = _open(":memory:")
        self._gone: set[int] = set()  # positions in the file that it would not let us delete
        self._complained = False
        try:
            self._file = _open_file(path)
        except (sqlite3.Error, OSError) as error:
            log.warning(
                "%s cannot be written (%s): captions that wait for the relay are lost when app1 "
                "ends; set CAPTIONER_STATE to a folder to write in",
                path,
                error,
            )
            self._file = _open(":memory:")
            self._keep = min(keep, KEPT_IN_MEMORY)

    def close(self) -> None:
        with self._lock:
            self._file.close()
            self._memory.close()

    def __len__(self) -> int:
        """How many events wait to be sent."""
        with self._lock:
            try:
                in_file = int(self._file.execute(f"SELECT count(*) {_WAITING}").fetchone()[0])
            except sqlite3.Error:
                in_file = 0
            return (
                in_file
                - len(self._gone)
                + int(self._memory.execute(f"SELECT count(*) {_WAITING}").fetchone()[0])
            )

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
                with contextlib.suppress(sqlite3.Error):
                    positions = self._file.execute(f"SELECT position {_WAITING} AND id = ?", (id_,))
                    self._gone.update(position for (position,) in positions)
                self._memory.execute(_INSERT, row)

    def first(self) -> Event | None:
        """The event whose turn it is."""
        columns = "SELECT position, event, payload, thumbnail"
        with self._lock:
            gone = ",".join(map(str, self._gone))
            order = f"AND position NOT IN ({gone}) ORDER BY position LIMIT 1"
            try:
                row = self._file.execute(f"{columns} {_WAITING} {order}").fetchone()
            except sqlite3.Error as error:
                self._complain(error)
                row = None
            in_file = row is not None
            if not in_file:
                row = self._memory.execute(
                    f"{columns} {_WAITING} ORDER BY position LIMIT 1"
                ).fetchone()
        if row is None:
            return None
        position, name, payload, thumbnail = row
        content = json.loads(payload)
        if thumbnail is not None:
            content["thumbnail"] = thumbnail
        return Event(name, content, position, in_file)

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

        With `durable` it is on the disk itself, power cut or not, when this returns. Taking an
        event out need not be: at worst it is sent a second time.
        """
        file = self._file
        with self._lock:
            try:
                # before the transaction: within one it has no effect
                file.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                file.execute("BEGIN IMMEDIATE")
                self._move_to_file()
                for statement, values in operations:
                    file.execute(statement, values)
                file.execute("COMMIT")
            except sqlite3.Error as error:
                if file.in_transaction:
                    with contextlib.suppress(sqlite3.Error):
                        file.execute("ROLLBACK")
                self._complain(error)
                return False
            self._gone.clear()
            self._memory.execute("DELETE FROM events")
            if self._complained:
                log.warning("the outbox can be written again")
                self._complained = False
            return True

    def _move_to_file(self) -> None:
        """Within a transaction: make up for what the file did not take before."""
        for position in self._gone:
            self._file.execute("DELETE FROM events WHERE position = ?", (position,))
        rows = self._memory.execute(
            "SELECT event, id, payload, thumbnail, state FROM events ORDER BY position"
        )
        self._file.executemany(_INSERT, rows)

    def _complain(self, error: Exception) -> None:
        if not self._complained:  # once, not with every photo
            log.warning("the outbox cannot be used (%s): what waits is in memory for now", error)
            self._complained = True


def _row(name: str, payload: dict[str, Any]) -> tuple[Any, ...]:
    rest = {key: value for key, value in payload.items() if key != "thumbnail"}
    return name, payload["id"], json.dumps(rest), payload.get("thumbnail"), "waiting"


def _open(path: str) -> sqlite3.Connection:
    # the lock of the outbox takes the place of SQLite's check that threads do not meet
    db = sqlite3.connect(path, timeout=5, isolation_level=None, check_same_thread=False)
    try:
        # WAL: one fsync a transaction, and reading goes on meanwhile
        db.execute("PRAGMA journal_mode = WAL")
        # a photo that is to be forgotten is overwritten, not only unlinked
        db.execute("PRAGMA secure_delete = ON")
        db.executescript(_SCHEMA)
        # refused for good, but by a relay with other settings, perhaps, or an older one
        db.execute("UPDATE events SET state = 'waiting' WHERE state != 'waiting'")
    except BaseException:
        db.close()
        raise
    return db


def _open_file(path: Path) -> sqlite3.Connection:
    """The outbox in `path`, private to its owner."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    try:
        return _open(str(path))
    except sqlite3.OperationalError:
        raise  # the disk or its rights, not the file's content
    except sqlite3.DatabaseError as error:
        aside = path.with_name(
            f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
        )
        log.warning("%s is damaged (%s): set aside as %s, and a new one begun", path, error, aside)
        path.replace(aside)
        for leftover in ("-wal", "-shm"):  # of the old file; they would damage the new one
            path.with_name(path.name + leftover).unlink(missing_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        return _open(str(path))
