"""An SQLite file that keeps what it has acknowledged.

The rules:

- **On disk means on disk.** When `transaction` ends, the change has reached the disk itself, and
  neither a crash nor a power cut takes it. The file is in WAL mode with `synchronous = FULL`, which
  is one fsync a transaction, a few milliseconds. With `NORMAL`, a power cut would take every
  transaction since the last checkpoint, dozens of them. `durable=False` chooses that, for a change
  that may be lost and made again.
- **All or nothing.** A transaction that fails has changed nothing and raises an error.
- **Deleted means overwritten** (`secure_delete`). `erase_log` also removes copies from the
  write-ahead log.
- **A damaged file does not stop the program.** It is renamed, with its log, and a new file begins.
  The owner of the file may rescue rows from the old one.
- **Damaged text harms only its row.** SQLite does not notice a flipped bit in a text; what is not
  UTF-8 is read with replacement characters.
- **Another program's file is left alone**, and so is one of a newer version.
- **Only the user can read it** (mode 0600).
- **Trouble is logged once**, not with each call, and so is its end.

Safe to use from several threads: one block is in the file at a time. In an event loop, a block must
not give way to other tasks.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

LOCK_TIMEOUT = 1.0  # seconds to wait for another program's lock; the caller's server waits with it


class FileError(Exception):
    """The file cannot be used now; `str(error)` is a sentence with the reason and a remedy."""


class DurableFile:
    """A file as described at the top. It is opened when needed, and again after trouble.

    Attributes:
        lock: held in each block; reentrant, to keep several blocks together.

    Args:
        path: of the file.
        schema: statements that make its tables.
        complaint: the sentence of an error, with `{path}` and `{reason}` in it.
        application_id, version: a file that has others is not ours.
        error: the class of errors that the methods raise.
        make_folder: make the folder too, if there is none.
        prepare: called with the file each time it is opened, in a transaction, and with whether it
            is new.
        rescue: called with the path of a damaged file that has just been set aside.
    """

    def __init__(
        self,
        path: Path,
        schema: Sequence[str],
        complaint: str,
        *,
        application_id: int = 0,
        version: int = 0,
        error: type[Exception] = FileError,
        make_folder: bool = False,
        prepare: Callable[[sqlite3.Connection, bool], None] = lambda _, is_new: None,
        rescue: Callable[[Path], None] = lambda _: None,
    ) -> None:
        self.path = path
        self.lock = threading.RLock()
        self._schema = schema
        self._owner = {"application_id": application_id, "user_version": version}
        self._complaint, self._error = complaint, error
        self._make_folder = make_folder
        self._prepare, self._rescue = prepare, rescue
        self._connection: sqlite3.Connection | None = None
        self._in_trouble = False

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The open file, to read from.

        Raises:
            FileError: (or the class given) it cannot be used, here and in the methods below. It was
                damaged, perhaps, and the next call uses a new one.
        """
        with self.lock, self._errors("full", "locked"):
            yield self._opened()

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """The open file, in a transaction that is committed at the end of the block.

        Args:
            durable: wait until the change is on the disk itself.
        """
        with self.lock, self._errors("full", "locked", "I/O"):
            database = self._opened()
            # before the transaction: within one it has no effect
            database.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            database.execute("BEGIN IMMEDIATE")
            with database:  # which commits, or rolls back after an error
                yield database
            if self._in_trouble:
                log.warning("%s can be written again.", self.path)
                self._in_trouble = False

    def erase_log(self) -> None:
        """Empty the write-ahead log, which may hold copies of deleted rows, into the file."""
        with self.reading() as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        """Close the file; the next call opens it again. Raises nothing."""
        with self.lock, suppress(sqlite3.Error):
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    @contextmanager
    def _errors(self, *harmless: str) -> Iterator[None]:
        """Turn errors into ours.

        After some, which have one of these words in them, the open file can still be read, but
        perhaps not be opened again. After all others a new connection has better chances.
        """
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if not any(word in str(error) for word in harmless):
                self.close()
            if _is_damage(error):
                self._set_aside(error)
                raise self._error(
                    f"{self.path} was damaged and has been set aside ({error}); try again."
                ) from error
            raise self._failure(error) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._open()
            except sqlite3.Error as error:
                if not _is_damage(error):
                    raise
                self._set_aside(error)
                self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        if self._make_folder:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not self.path.exists():  # SQLite would let others read it; its logs get the same mode
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        # isolation_level: transactions are begun by hand. check_same_thread: we have a lock.
        database = sqlite3.connect(
            self.path, timeout=LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
        )
        try:
            database.text_factory = lambda raw: raw.decode("utf-8", "replace")
            is_new = not database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
            if not is_new and any(
                database.execute(f"PRAGMA {name}").fetchone()[0] != value
                for name, value in self._owner.items()
            ):
                raise self._failure(
                    "it is a database of another program, or of a newer version of this one"
                )
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA fullfsync = ON")  # macOS: through the disk's own cache too
            database.execute("PRAGMA secure_delete = ON")
            database.execute("BEGIN")
            with database:
                if is_new:
                    marks = (f"PRAGMA {name} = {value}" for name, value in self._owner.items())
                    for statement in (*self._schema, *marks):
                        database.execute(statement)
                self._prepare(database, is_new)
        except BaseException:
            database.close()
            raise
        return database

    def _failure(self, reason: object) -> Exception:
        """The error to raise; the first since the file could be used is logged."""
        failure = self._error(self._complaint.format(path=self.path, reason=reason))
        if not self._in_trouble:
            log.error("%s", failure)
            self._in_trouble = True
        return failure

    def _set_aside(self, damage: Exception) -> None:
        """Rename a damaged file and its log. Raises an error if that is not possible either."""
        self.close()
        moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        aside, number = self.path.with_name(f"{self.path.name}.damaged-{moment}"), 1
        while aside.exists():
            number += 1
            aside = self.path.with_name(f"{self.path.name}.damaged-{moment}-{number}")
        try:
            # The log first: beside a new file, SQLite would write it into that.
            for suffix in ("-wal", "-shm", ""):
                with suppress(FileNotFoundError):
                    self.path.with_name(self.path.name + suffix).rename(f"{aside}{suffix}")
        except OSError as error:
            raise self._failure(
                f"{damage}; it is damaged and cannot be set aside: {error.strerror}"
            ) from error
        log.error(
            "%s is damaged (%s). It is now %s, which may still hold captions and photos: delete it "
            "when you do not need it. A new file begins.",
            *(self.path, damage, aside),
        )
        self._rescue(aside)


def _is_damage(error: Exception) -> bool:
    """Whether SQLite found that the file is not, or no longer, a database.

    It raises DatabaseError itself for these two cases only. A full disk, a read-only file and the
    like are OperationalError, one of its subclasses.
    """
    return type(error) is sqlite3.DatabaseError
