"""The rules of durability, each tested once, for every file that keeps them."""

from __future__ import annotations

import logging
import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from common.sqlite_file import DurableFile, FileError

SCHEMA = ["CREATE TABLE notes (text TEXT)"]
OWNER = {"application_id": 0x6E6F7465, "version": 3}
COMPLAINT = "The notes in {path} cannot be used ({reason}); set NOTES to another file."


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notes.db"


@pytest.fixture
def open_file(path: Path) -> Iterator[Callable[..., DurableFile]]:
    """Makes the object for the file; several for one file are like several runs of a program."""
    made: list[DurableFile] = []

    def make(**options: Any) -> DurableFile:
        made.append(DurableFile(path, SCHEMA, COMPLAINT, **{**OWNER, **options}))
        return made[-1]

    yield make
    for file in made:
        file.close()


@pytest.fixture
def file(open_file: Callable[..., DurableFile]) -> DurableFile:
    return open_file()


def write(file: DurableFile, *texts: str, durable: bool = True) -> None:
    with file.transaction(durable) as database:
        database.executemany("INSERT INTO notes VALUES (?)", [(text,) for text in texts])


def read(file: DurableFile) -> list[str]:
    with file.reading() as database:
        return [text for (text,) in database.execute("SELECT text FROM notes ORDER BY rowid")]


def damage(path: Path) -> None:
    path.write_bytes(b"no database, but long enough" * 200)


# On disk means on disk


@pytest.mark.parametrize(("durable", "synchronous"), [(True, 2), (False, 1)])
def test_a_transaction_waits_for_the_disk_if_it_is_durable(
    file: DurableFile, durable: bool, synchronous: int
) -> None:
    write(file, "before", durable=not durable)
    statements: list[str] = []
    with file.reading() as database:
        database.set_trace_callback(statements.append)
    write(file, "a", durable=durable)
    assert statements[-1] == "COMMIT"
    with file.reading() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (synchronous,)
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA fullfsync").fetchone() == (1,)


def test_what_was_committed_is_there_after_a_kill(
    file: DurableFile, open_file: Callable[..., DurableFile]
) -> None:
    write(file, "a")
    assert read(open_file()) == ["a"]  # the first one was never closed


# All or nothing


def test_a_transaction_that_fails_changes_nothing(file: DurableFile) -> None:
    write(file, "a")

    def insert_and_then(more: Callable[[sqlite3.Connection], object]) -> None:
        with file.transaction() as database:
            database.execute("INSERT INTO notes VALUES ('b')")
            more(database)

    with pytest.raises(ZeroDivisionError):
        insert_and_then(lambda _: 1 / 0)
    with pytest.raises(FileError):
        insert_and_then(lambda database: database.execute("INSERT INTO nowhere VALUES ('c')"))
    assert read(file) == ["a"]
    write(file, "d")
    assert read(file) == ["a", "d"]


def test_a_new_file_is_made_whole_or_not_at_all(
    path: Path, open_file: Callable[..., DurableFile]
) -> None:
    def fail(database: sqlite3.Connection, is_new: bool) -> None:
        assert is_new
        database.execute("INSERT INTO nowhere VALUES (1)")

    with pytest.raises(FileError):
        read(open_file(prepare=fail))
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM sqlite_master").fetchall() == []
    assert read(open_file()) == []


def test_threads_take_turns(file: DurableFile) -> None:
    def work() -> None:
        for _ in range(20):
            with file.transaction(durable=False) as database:
                count = database.execute("SELECT count(*) FROM notes").fetchone()[0]
                database.execute("INSERT INTO notes VALUES (?)", (str(count),))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(file) == [str(number) for number in range(80)]


# Deleted means overwritten


def test_what_is_deleted_is_nowhere_once_the_log_is_erased(file: DurableFile, path: Path) -> None:
    write(file, "FACE" * 500)
    with file.transaction() as database:
        database.execute("DELETE FROM notes")
    assert any(b"FACE" in part.read_bytes() for part in path.parent.iterdir())
    file.erase_log()
    assert not any(b"FACE" in part.read_bytes() for part in path.parent.iterdir())


# Damage


def test_a_damaged_file_is_set_aside_when_it_is_opened(
    path: Path, open_file: Callable[..., DurableFile], caplog: pytest.LogCaptureFixture
) -> None:
    damage(path)
    found: list[Path] = []
    file = open_file(rescue=found.append)
    write(file, "a")
    assert read(file) == ["a"]
    (aside,) = path.parent.glob("notes.db.damaged-*")
    assert found == [aside]
    assert aside.read_bytes().startswith(b"no database")
    assert f"It is now {aside}" in caplog.text


def test_damage_that_is_found_later_asks_for_another_try(
    path: Path, open_file: Callable[..., DurableFile]
) -> None:
    rescued: list[str] = []

    def prepare(database: sqlite3.Connection, is_new: bool) -> None:
        if is_new:
            database.executemany("INSERT INTO notes VALUES (?)", [(name,) for name in rescued])

    file = open_file(rescue=lambda aside: rescued.append(aside.name), prepare=prepare)
    write(file, *["long " * 200] * 60)
    file.erase_log()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with file.reading() as database:
        database.execute("PRAGMA shrink_memory")  # what SQLite holds in memory would hide it
    with pytest.raises(FileError, match="try again"):
        read(file)
    assert len(rescued) == 1
    assert read(file) == rescued  # the new file, with what its owner has put in


def test_the_log_of_a_damaged_file_goes_with_it(
    path: Path, file: DurableFile, open_file: Callable[..., DurableFile]
) -> None:
    write(file, "a")
    file.erase_log()
    write(file, "b")  # this row is in the log alone
    damage(path)
    assert read(open_file()) == []
    aside = sorted(other.name for other in path.parent.glob("notes.db.damaged-*"))
    assert [name.rpartition("Z")[2] for name in aside] == ["", "-shm", "-wal"]


def test_no_damaged_file_takes_the_place_of_another(
    path: Path, open_file: Callable[..., DurableFile], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.sqlite_file.time.strftime", lambda *_: "NOW")
    for _ in range(3):
        damage(path)
        file = open_file()
        read(file)
        file.close()
    aside = sorted(other.name for other in path.parent.glob("notes.db.damaged-*"))
    assert aside == [f"notes.db.damaged-NOW{number}" for number in ("", "-2", "-3")]


def test_damage_that_cannot_be_set_aside(
    path: Path, file: DurableFile, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage(path)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(FileError, match=r"cannot be set aside: Permission denied.*set NOTES"):
        read(file)
    assert "cannot be set aside" in caplog.text


def test_damaged_text_harms_only_its_row(file: DurableFile) -> None:
    with file.transaction() as database:
        database.execute("INSERT INTO notes VALUES (CAST(x'61ff62' AS TEXT))")
    write(file, "next")
    assert read(file) == ["a\ufffdb", "next"]


# Other programs, other users


@pytest.mark.parametrize("pragma", ["application_id = 1", "user_version = 4"])
def test_a_file_of_another_program_or_version_is_left_alone(
    path: Path, file: DurableFile, pragma: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(f"PRAGMA application_id = {OWNER['application_id']}")
        database.execute(f"PRAGMA user_version = {OWNER['version']}")
        database.execute(f"PRAGMA {pragma}")
        database.execute("CREATE TABLE treasure (x)")
    content = path.read_bytes()
    with pytest.raises(FileError, match=r"another program.*set NOTES"):
        write(file, "a")
    assert [other.name for other in path.parent.iterdir()] == ["notes.db"]
    assert path.read_bytes() == content


def test_other_users_cannot_read_it(file: DurableFile, path: Path) -> None:
    write(file, "a")
    for part in path.parent.iterdir():
        assert stat.S_IMODE(part.stat().st_mode) & 0o077 == 0, part


# Trouble


def test_trouble_is_logged_once_and_so_is_its_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    file = DurableFile(tmp_path / "later" / "notes.db", SCHEMA, COMPLAINT)
    for _ in range(3):
        with pytest.raises(FileError, match=r"later/notes.db cannot be used .*No such file"):
            write(file, "a")
    assert len(caplog.records) == 1
    (tmp_path / "later").mkdir()
    for _ in range(3):
        write(file, "a")
    assert [record.getMessage().rpartition("notes.db ")[2] for record in caplog.records[1:]] == [
        "can be written again."
    ]
    assert read(file) == ["a"] * 3
    file.close()


def test_the_folder_is_made_on_request(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "notes.db"
    file = DurableFile(path, SCHEMA, COMPLAINT, make_folder=True)
    write(file, "a")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    file.close()


def test_a_full_disk_leaves_what_is_there_readable(file: DurableFile) -> None:
    write(file, "a")
    with file.reading() as database:
        pages = database.execute("PRAGMA page_count").fetchone()[0]
        database.execute(f"PRAGMA max_page_count = {pages}")  # the file may not grow any more
    with pytest.raises(FileError, match="full"):
        write(file, "b" * 50_000)
    assert read(file) == ["a"]
    with pytest.raises(FileError, match="full"):  # the same connection: a new one might not open
        write(file, "b" * 50_000)


def test_another_program_that_holds_the_file_is_waited_for_briefly(
    file: DurableFile, path: Path
) -> None:
    write(file, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(FileError, match="locked"):
            write(file, "b")
        assert read(file) == ["a"]
        other.execute("ROLLBACK")
    write(file, "c")
    assert read(file) == ["a", "c"]
