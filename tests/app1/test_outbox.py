"""The outbox: order, ids, what survives the end of the process, and disks that refuse."""

from __future__ import annotations

import logging
import sqlite3
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app1.outbox import Event, Outbox


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.db"


@pytest.fixture
def outbox(path: Path) -> Iterator[Outbox]:
    box = Outbox(path)
    yield box
    box.close()


def caption(id_: str, **more: object) -> dict[str, Any]:
    return {"id": id_, "caption": f"Photo {id_}.", **more}


def take_all(outbox: Outbox) -> list[Event]:
    events = []
    while event := outbox.first():
        events.append(event)
        outbox.remove(event)
    return events


def names_and_ids(outbox: Outbox) -> list[tuple[str, str]]:
    return [(event.name, event.id) for event in take_all(outbox)]


def test_first_in_first_out(outbox: Outbox) -> None:
    for id_ in ("c", "a", "b"):
        outbox.add("predict", caption(id_))
    assert len(outbox) == 3
    assert names_and_ids(outbox) == [("predict", "c"), ("predict", "a"), ("predict", "b")]
    assert len(outbox) == 0
    assert outbox.first() is None


def test_the_payload_comes_out_as_it_went_in(outbox: Outbox) -> None:
    payload = caption("1", thumbnail=b"\xff\xd8\x00", image_path="Grüße <b>.jpg", confident=True)
    outbox.add("predict", payload)
    event = outbox.first()
    assert event is not None
    assert event.payload == payload


def test_the_first_stays_until_it_is_removed(outbox: Outbox) -> None:
    outbox.add("predict", caption("1"))
    assert outbox.first() == outbox.first()


def test_what_waits_survives_the_process(path: Path) -> None:
    first = Outbox(path)
    first.add("predict", caption("1", thumbnail=b"jpeg"))
    first.add("forget", {"id": "0"})
    # no close: the process was killed
    second = Outbox(path)
    assert names_and_ids(second) == [("predict", "1"), ("forget", "0")]
    second.close()
    first.close()


def test_an_id_is_kept_once(outbox: Outbox) -> None:
    outbox.add("predict", caption("1"))
    outbox.add("predict", caption("1"))
    assert len(outbox) == 1


def test_forget_drops_what_waits_and_tells_the_relay(outbox: Outbox) -> None:
    outbox.add("predict", caption("1"))
    outbox.add("predict", caption("2"))
    outbox.forget("1")
    assert names_and_ids(outbox) == [("predict", "2"), ("forget", "1")]


def test_a_forgotten_photo_leaves_no_trace_on_disk(path: Path) -> None:
    outbox = Outbox(path)
    outbox.add("predict", caption("1", thumbnail=b"FACE" * 500))
    outbox.forget("1")
    outbox.close()
    assert b"FACE" not in path.read_bytes()


def test_an_event_put_aside_lets_others_pass_and_comes_again_after_a_restart(path: Path) -> None:
    outbox = Outbox(path)
    outbox.add("predict", caption("1"))
    outbox.add("predict", caption("2"))
    event = outbox.first()
    assert event is not None
    outbox.put_aside(event)
    assert names_and_ids(outbox) == [("predict", "2")]
    outbox.close()
    again = Outbox(path)
    assert names_and_ids(again) == [("predict", "1")]
    again.close()


def test_only_so_many_captions_are_kept(path: Path) -> None:
    outbox = Outbox(path, keep=3)
    outbox.forget("old")
    for id_ in "abcde":
        outbox.add("predict", caption(id_))
    assert names_and_ids(outbox) == [("forget", "old"), *(("predict", id_) for id_ in "cde")]
    outbox.close()


def test_others_cannot_read_it(outbox: Outbox, path: Path) -> None:
    outbox.add("predict", caption("1"))
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file


def test_what_was_added_is_on_the_disk_itself(outbox: Outbox) -> None:
    """No power cut takes it: SQLite is told to wait for the disk before it is told to write."""
    statements: list[str] = []
    file_of(outbox).set_trace_callback(statements.append)
    for change in (lambda: outbox.add("predict", caption("1")), lambda: outbox.forget("1")):
        statements.clear()
        change()
        order = [s for s in statements if s.startswith(("PRAGMA sync", "BEGIN", "COMMIT"))]
        assert order == ["PRAGMA synchronous = FULL", "BEGIN IMMEDIATE", "COMMIT"]


class TestDamage:
    """A damaged file is set aside, what can be read of it goes on, and a new one begins."""

    def test_no_database_at_all(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        path.write_bytes(b"not a database, but long enough to look at" * 100)
        outbox = Outbox(path)
        outbox.add("predict", caption("1"))
        outbox.close()
        assert "is damaged" in caplog.text
        (aside,) = path.parent.glob("outbox.db.damaged-*")
        assert str(aside) in caplog.text
        assert aside.read_bytes().startswith(b"not a database")
        again = Outbox(path)
        assert names_and_ids(again) == [("predict", "1")]
        again.close()

    def test_twice_at_the_same_time(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A second damaged file, by a clock that was set back, does not replace the first."""
        monkeypatch.setattr(
            "common.sqlite_file.time.gmtime", lambda: time.struct_time((2026,) + (1,) * 8)
        )
        for content in (b"the first " * 1000, b"the second " * 1000):
            path.write_bytes(content)
            Outbox(path).close()
        aside = sorted(path.parent.glob("outbox.db.damaged-*"))
        assert [file.read_bytes()[:9] for file in aside] == [b"the first", b"the secon"]

    @pytest.mark.parametrize("running", [False, True])
    def test_some_pages(self, path: Path, caplog: pytest.LogCaptureFixture, running: bool) -> None:
        outbox = Outbox(path)
        for i in range(60):
            outbox.add("predict", caption(f"{i:02}", thumbnail=bytes(3000)))
        gone = outbox.first()
        assert gone is not None
        outbox.remove(gone)
        file_of(outbox).execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if not running:
            outbox.close()
        content = bytearray(path.read_bytes())
        page = content.index(b'"id": "30"') // 4096
        content[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
        path.write_bytes(content)
        if running:  # what SQLite holds in memory would hide it
            file_of(outbox).execute("PRAGMA shrink_memory")
        else:
            outbox = Outbox(path)
        outbox.add("predict", caption("new"))
        ids = [event.id for event in take_all(outbox)]
        readable = [f"{i:02}" for i in range(1, 60)]
        assert ids == [id_ for id_ in [*readable, "new"] if id_ in ids]
        assert len(ids) >= 55, "more is lost than was on the page"
        assert "30" not in ids
        assert "is damaged" in caplog.text
        outbox.close()

    @pytest.mark.parametrize("damage", [b'{"id": "1"]', b"\xff\xff\xff\xff\xff", b'{"id": [1]}'])
    def test_a_text_in_which_a_bit_has_flipped(
        self, path: Path, caplog: pytest.LogCaptureFixture, damage: bytes
    ) -> None:
        """SQLite does not see it; the event is left out, and the others do not wait behind it."""
        outbox = Outbox(path)
        for id_ in ("0", "1", "2"):
            outbox.add("forget", {"id": id_})
        outbox.close()
        damaged = path.read_bytes().replace(b'{"id": "1"}', damage.ljust(11))
        assert damaged != path.read_bytes()
        path.write_bytes(damaged)
        outbox = Outbox(path)
        assert names_and_ids(outbox) == [("forget", "0"), ("forget", "2")]
        assert len(outbox) == 0
        assert caplog.text.count("left out") == 1
        outbox.close()


def test_a_file_that_cannot_be_made_is_replaced_by_memory_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "not yet" / "outbox.db"
    outbox = Outbox(path)
    assert "set CAPTIONER_STATE" in caplog.text
    outbox.add("predict", caption("1"))
    outbox.forget("0")
    assert len(outbox) == 2
    path.parent.mkdir()
    outbox.add("predict", caption("2"))
    assert "can be written again" in caplog.text
    assert in_file(path) == ["1", "0", "2"]
    assert names_and_ids(outbox) == [("predict", "1"), ("forget", "0"), ("predict", "2")]
    outbox.close()


class TestFullDisk:
    """The disk is full for a while: SQLite is told that the file may not grow any more."""

    @staticmethod
    def fill(outbox: Outbox) -> None:
        pages = file_of(outbox).execute("PRAGMA page_count").fetchone()[0]
        file_of(outbox).execute(f"PRAGMA max_page_count = {pages}")

    @staticmethod
    def empty(outbox: Outbox) -> None:
        file_of(outbox).execute("PRAGMA max_page_count = 1000000")

    def test_captions_wait_in_memory_and_move_to_the_file_later(
        self, path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        big = b"x" * 20_000
        outbox = Outbox(path)
        outbox.add("predict", caption("1", thumbnail=big))
        self.fill(outbox)
        outbox.add("predict", caption("2", thumbnail=big))
        outbox.add("predict", caption("3", thumbnail=big))
        assert len(outbox) == 3
        assert caplog.text.count("cannot be used") == 1, "said once, not with each photo"
        assert in_file(path) == ["1"]
        self.empty(outbox)
        outbox.add("predict", caption("4"))
        assert "can be written again" in caplog.text
        assert in_file(path) == ["1", "2", "3", "4"]
        assert [event.id for event in take_all(outbox)] == ["1", "2", "3", "4"]
        outbox.close()

    def test_memory_is_bounded(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("app1.outbox.KEPT_IN_MEMORY", 2)
        outbox = Outbox(path)
        self.fill(outbox)
        for i in range(5):
            outbox.add("predict", caption(str(i), thumbnail=b"x" * 20_000))
        assert [event.id for event in take_all(outbox)] == ["3", "4"]
        outbox.close()

    def test_what_is_in_memory_can_be_delivered_and_forgotten(self, path: Path) -> None:
        big = b"x" * 20_000
        outbox = Outbox(path)
        self.fill(outbox)
        for id_ in ("1", "2", "3"):
            outbox.add("predict", caption(id_, thumbnail=big))
        outbox.forget("2")
        assert [event.id for event in take_all(outbox) if event.name == "predict"] == ["1", "3"]
        assert len(outbox) == 0
        outbox.close()


def test_a_file_locked_against_writing_does_not_send_twice_or_lose(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = Outbox(path)
    outbox.add("predict", caption("1"))
    outbox.add("predict", caption("2"))
    connect = sqlite3.connect

    def connect_to_read(*arguments: Any, **options: Any) -> sqlite3.Connection:
        database = connect(*arguments, **options)
        database.execute("PRAGMA query_only = ON")
        return database

    with monkeypatch.context() as locked:
        locked.setattr("common.sqlite_file.sqlite3.connect", connect_to_read)
        file_of(outbox).execute("PRAGMA query_only = ON")
        event = outbox.first()
        assert event is not None
        outbox.remove(event)
        assert len(outbox) == 1
        outbox.forget("2")
        outbox.add("predict", caption("3"))
        assert in_file(path) == ["1", "2"]
        assert names_and_ids(outbox) == [("forget", "2"), ("predict", "3")]
        assert len(outbox) == 0
    file_of(outbox).execute("PRAGMA query_only = OFF")
    outbox.add("predict", caption("4"))
    assert in_file(path) == ["4"]
    outbox.close()


def file_of(outbox: Outbox) -> sqlite3.Connection:
    assert outbox._file._connection is not None
    return outbox._file._connection


def in_file(path: Path) -> list[str]:
    reader = sqlite3.connect(path)
    try:
        return [id_ for (id_,) in reader.execute("SELECT id FROM events ORDER BY position")]
    finally:
        reader.close()
