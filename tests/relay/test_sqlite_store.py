"""The store in a file: captions, what survives damage and a wrong clock, and the log."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from SocketIO_server import messages
from SocketIO_server.stores import protocol
from SocketIO_server.stores.protocol import StoreError, Work
from SocketIO_server.stores.sqlite import SqliteStore
from tests.kit.clients import JPEG


def store(path: Path, keep: int) -> SqliteStore:
    return SqliteStore(path, keep, time.sleep)


def caption(text: str = "a", **fields: object) -> messages.Message:
    return messages.predict({"caption": text, **fields})


def test_history_is_what_was_added(tmp_path: Path) -> None:
    kept = store(tmp_path / "deep" / "er" / "history.db", keep=10)
    first = caption("ein Bär\n\x00", id="i", thumbnail=JPEG, confident=False, elapsed_ms=1.5)
    assert kept.append(first) == (1, True)
    assert kept.append(first) == (1, False)
    assert kept.append(caption()) == (2, True)
    assert kept.append(caption()) == (3, True)  # without id, each is a new one
    captions, more = kept.after(0, 10)
    assert captions[0] == first.payload(seq=1)
    assert not more
    assert kept.after(0, 2)[1]
    assert not kept.after(0, 3)[1]
    assert (kept.count(), kept.last_seq()) == (3, 3)
    kept.close()
    assert kept.after(0, 10)[0] == captions


def test_keeps_fewer_when_the_setting_is_smaller(tmp_path: Path) -> None:
    kept = store(tmp_path / "h.db", keep=10)
    for number in range(10):
        kept.append(caption(id=f"i{number}"))
    kept.close()
    kept = store(tmp_path / "h.db", keep=4)
    assert kept.count() == 4
    assert [c["seq"] for c in kept.after(0, 10)[0]] == [7, 8, 9, 10]
    assert kept.append(caption(id="i0")) == (1, False)
    assert kept.forgotten(10) == []  # they made room; nobody asked for them to be forgotten
    kept.forget("i1")
    assert kept.forgotten(10) == ["i1"]


def test_ids_are_not_remembered_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "IDS_REMEMBERED", 5)
    monkeypatch.setattr(protocol, "FORGOTTEN_LISTED", 3)
    kept = store(tmp_path / "h.db", keep=2)
    for number in range(12):
        kept.append(caption(id=f"i{number}"))
        kept.forget(f"i{number}")
    assert kept.forgotten(100) == ["i11", "i10", "i9"]
    assert kept.has_seen("i7")
    assert not kept.has_seen("i6")


def test_pieces_end_at_the_limit_of_bytes(tmp_path: Path) -> None:
    kept = store(tmp_path / "h.db", keep=10)
    for _ in range(4):
        kept.append(caption(thumbnail=JPEG))
    pieces = [kept.after(seq, 10, max_bytes=len(JPEG) + 99) for seq in (0, 2)]
    assert [[c["seq"] for c in captions] for captions, _ in pieces] == [[1, 2], [3, 4]]
    assert [more for _, more in pieces] == [True, False]
    assert len(kept.after(0, 10, max_bytes=0)[0]) == 1  # never none, else nobody gets on


def test_one_damaged_caption_does_not_hide_the_others(tmp_path: Path) -> None:
    kept = store(tmp_path / "h.db", keep=10)
    for _ in range(3):
        kept.append(caption())
    kept.close()
    with sqlite3.connect(tmp_path / "h.db") as database:
        database.execute("UPDATE captions SET fields = CAST(x'7bff' AS TEXT) WHERE seq = 2")
    database.close()
    captions, more = kept.after(0, 2)
    assert [c["seq"] for c in captions] == [1, 2]
    assert "damaged" in captions[1]["caption"]
    assert more
    kept.close()


def test_damage_that_cannot_be_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "h.db").write_bytes(b"no database" * 100)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="RELAY_DB"):
        store(tmp_path / "h.db", keep=10).open()


def test_what_was_added_is_on_the_disk_itself(tmp_path: Path) -> None:
    """No power cut takes it: a commit waits for the disk, and `append` for the commit."""
    kept = store(tmp_path / "h.db", keep=10)
    kept.open()
    statements: list[str] = []
    with kept._file.reading() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        database.set_trace_callback(statements.append)
    kept.append(caption())
    assert "PRAGMA synchronous = NORMAL" not in statements
    assert statements[-1] == "COMMIT"
    kept.close()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_clock_that_jumps_takes_no_number_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restarted: bool
) -> None:
    """Numbers go on where a damaged file is replaced, whatever the clock says.

    The last one is known to who wrote it, or else is still to be read, if not all is damaged.
    """
    path = tmp_path / "h.db"
    kept, seen = store(path, keep=10), []
    for clock in (1_800_000_000, 1_500_000_000, 86_400, 1_900_000_000, 0):
        monkeypatch.setattr("SocketIO_server.stores.sqlite.time.time", lambda clock=clock: clock)
        with contextlib.suppress(StoreError):  # that the damage was found
            kept.append(caption("long " * 150))
        seen += [kept.append(caption("long " * 150))[0] for _ in range(5)]
        kept.close()
        content = path.read_bytes()
        pages = [content[start : start + 4096] for start in range(0, len(content), 4096)]
        damaged = [b"?" * 4096 if not restarted or b"long" in page else page for page in pages]
        path.write_bytes(b"".join(damaged))
        if restarted:
            kept = store(path, keep=10)
    assert seen == sorted(set(seen))
    assert seen[5:] != [number + 1 for number in seen[4:-1]], "nothing was ever damaged"


def test_a_locked_file_is_waited_for_only_briefly(tmp_path: Path) -> None:
    kept = store(tmp_path / "h.db", keep=10)
    kept.append(caption())
    other = sqlite3.connect(tmp_path / "h.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"):
        kept.append(caption())
    assert kept.count() == 1
    other.execute("ROLLBACK")
    other.close()
    assert kept.append(caption()) == (2, True)
    kept.close()


# The log


@pytest.fixture
def kept(tmp_path: Path) -> SqliteStore:
    return store(tmp_path / "h.db", keep=10)


def test_the_log_has_all_changes_in_order(kept: SqliteStore) -> None:
    kept.append(caption("before"))
    beginning = kept.beginning()
    assert (beginning.seq, beginning.working) == (1, {})
    work = Work("relay sid", {"id": "i", "image_path": "a.jpg"})
    kept.begin_work("i", work)
    kept.begin_work("other", Work("relay sid", {"id": "other"}))
    assert kept.beginning().working["i"] == work
    first = kept.changes(beginning.position)
    assert [(c.kind, c.payload, c.owner) for c in first] == [
        ("captioning", work.payload, "relay sid"),
        ("captioning", {"id": "other"}, "relay sid"),
    ]
    message = caption("ein B\u00e4r", id="i", thumbnail=JPEG)
    assert kept.append(message) == (2, True)
    assert kept.append(message) == (2, False)
    kept.begin_work("i", work)  # too late: nothing would end it
    kept.fail_work("other", "No.")
    kept.fail_work("other", "Again.", only_if_begun=True)
    kept.fail_work("never begun", "No.")
    kept.forget("i2")
    rest = kept.changes(first[-1].position)
    assert [(c.kind, c.id, c.seq, c.payload) for c in rest] == [
        ("prediction", "i", 2, message.payload(seq=2)),
        ("captioning_failed", "other", 0, {"id": "other", "error": "No."}),
        ("captioning_failed", "never begun", 0, {"id": "never begun", "error": "No."}),
        ("forget", "i2", 0, {"id": "i2"}),
    ]
    assert kept.changes(rest[-1].position) == []
    assert kept.beginning().position == rest[-1].position
    assert kept.beginning().working == {}
    kept.close()


def test_what_was_broadcast_is_not_kept_in_memory(kept: SqliteStore) -> None:
    for _ in range(5):
        kept.append(caption(thumbnail=JPEG))
    position = kept.changes("0")[2].position
    assert [change.seq for change in kept.changes(position)] == [4, 5]
    assert len(kept._log) == 2
    kept.close()


def test_a_change_that_failed_is_not_in_the_log(kept: SqliteStore) -> None:
    kept.append(caption(id="i"))
    with contextlib.closing(sqlite3.connect(kept._file.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for change in (lambda: kept.append(caption(id="j")), lambda: kept.forget("i")):
            with pytest.raises(StoreError, match="locked"):
                change()
        other.execute("ROLLBACK")
    assert [change.kind for change in kept.changes("0")] == ["prediction"]
    kept.close()


def test_changes_of_several_threads_are_in_the_order_of_their_numbers(kept: SqliteStore) -> None:
    threads = [
        threading.Thread(target=lambda: [kept.append(caption()) for _ in range(25)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [change.seq for change in kept.changes("0")] == list(range(1, 101))
    kept.close()
