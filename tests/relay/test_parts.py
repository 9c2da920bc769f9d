"""Parts of the relay alone: the history, the limits."""

from __future__ import annotations

import contextlib
import logging
import random
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from common.settings import Settings
from SocketIO_server import history, messages, server, transport
from SocketIO_server.application import create_app
from SocketIO_server.events import TokenBucket
from SocketIO_server.history import History, HistoryError, search_words
from SocketIO_server.library_log import BriefFilter
from SocketIO_server.transport import limits
from tests.kit.clients import JPEG


def caption(text: str = "a", **fields: object) -> messages.Message:
    return messages.predict({"caption": text, **fields})


def test_history_is_what_was_added(tmp_path: Path) -> None:
    kept = History(tmp_path / "deep" / "er" / "history.db", keep=10)
    first = caption("ein Bär\n\x00", id="i", thumbnail=JPEG, confident=False, elapsed_ms=1.5)
    assert kept.add(first) == (1, True)
    assert kept.add(first) == (1, False)
    assert kept.add(caption()) == (2, True)
    assert kept.add(caption()) == (3, True)  # without id, each is a new one
    captions, more = kept.after(0, 10)
    assert captions[0] == first.payload(seq=1)
    assert not more
    assert kept.after(0, 2)[1]
    assert not kept.after(0, 3)[1]
    assert (kept.count(), kept.last_seq()) == (3, 3)
    kept.close()
    assert kept.after(0, 10)[0] == captions


def test_history_keeps_fewer_when_told_so(tmp_path: Path) -> None:
    kept = History(tmp_path / "h.db", keep=10)
    for number in range(10):
        kept.add(caption(id=f"i{number}"))
    kept.close()
    kept = History(tmp_path / "h.db", keep=4)
    assert kept.count() == 4
    assert [c["seq"] for c in kept.after(0, 10)[0]] == [7, 8, 9, 10]
    assert kept.add(caption(id="i0")) == (1, False)
    assert kept.forgotten(10) == []  # they made room; nobody asked for them to be forgotten
    kept.forget("i1")
    assert kept.forgotten(10) == ["i1"]


def test_ids_are_not_remembered_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "IDS_REMEMBERED", 5)
    monkeypatch.setattr(history, "FORGOTTEN_TOLD", 3)
    kept = History(tmp_path / "h.db", keep=2)
    for number in range(12):
        kept.add(caption(id=f"i{number}"))
        kept.forget(f"i{number}")
    assert kept.forgotten(100) == ["i11", "i10", "i9"]
    assert kept.knows("i7")
    assert not kept.knows("i6")


def test_pieces_end_at_the_limit_of_bytes(tmp_path: Path) -> None:
    kept = History(tmp_path / "h.db", keep=10)
    for _ in range(4):
        kept.add(caption(thumbnail=JPEG))
    pieces = [kept.after(seq, 10, max_bytes=len(JPEG) + 99) for seq in (0, 2)]
    assert [[c["seq"] for c in captions] for captions, _ in pieces] == [[1, 2], [3, 4]]
    assert [more for _, more in pieces] == [True, False]
    assert len(kept.after(0, 10, max_bytes=0)[0]) == 1  # never none, else nobody gets on


def test_one_damaged_caption_does_not_hide_the_others(tmp_path: Path) -> None:
    kept = History(tmp_path / "h.db", keep=10)
    for _ in range(3):
        kept.add(caption())
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
    with pytest.raises(HistoryError, match="RELAY_DB"):
        History(tmp_path / "h.db", keep=10).open()


def test_what_was_added_is_on_the_disk_itself(tmp_path: Path) -> None:
    """No power cut takes it: SQLite waits for the disk at each commit, and `add` for the commit."""
    kept = History(tmp_path / "h.db", keep=10)
    kept.open()
    statements: list[str] = []
    with kept._file.reading() as database:
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
        database.set_trace_callback(statements.append)
    kept.add(caption())
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
    kept, seen = History(path, keep=10), []
    for clock in (1_800_000_000, 1_500_000_000, 86_400, 1_900_000_000, 0):
        monkeypatch.setattr("SocketIO_server.history.time.time", lambda clock=clock: clock)
        with contextlib.suppress(HistoryError):  # that the damage was found
            kept.add(caption("long " * 150))
        seen += [kept.add(caption("long " * 150))[0] for _ in range(5)]
        kept.close()
        content = path.read_bytes()
        pages = [content[start : start + 4096] for start in range(0, len(content), 4096)]
        damaged = [b"?" * 4096 if not restarted or b"long" in page else page for page in pages]
        path.write_bytes(b"".join(damaged))
        if restarted:
            kept = History(path, keep=10)
    assert seen == sorted(set(seen))
    assert seen[5:] != [number + 1 for number in seen[4:-1]], "nothing was ever damaged"


def test_a_locked_file_is_waited_for_only_briefly(tmp_path: Path) -> None:
    kept = History(tmp_path / "h.db", keep=10)
    kept.add(caption())
    other = sqlite3.connect(tmp_path / "h.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(HistoryError, match="locked"):
        kept.add(caption())
    assert kept.count() == 1
    other.execute("ROLLBACK")
    other.close()
    assert kept.add(caption()) == (2, True)
    kept.close()


def test_a_relay_that_stops_is_not_ready(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(RELAY_ASYNC_MODE="threading")
    transport.install(settings)
    app = create_app(settings)
    client = app.test_client()
    assert client.get("/readyz").status_code == 200
    app.extensions["relay"].stopping = True
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert "stopping" in answer.get_json()["reason"]
    assert client.get("/healthz").status_code == 200
    app.extensions["relay"].history.close()


def test_search_words() -> None:
    assert search_words("A dog's  tail, 100%! ÄRGER") == ["a", "dog", "s", "tail", "100", "ärger"]


def test_token_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("SocketIO_server.events.time.monotonic", lambda: now)
    bucket = TokenBucket(rate=2, burst=3)
    assert [bucket.wait() for _ in range(4)] == [0, 0, 0, 0.5]
    now += 0.5
    assert [bucket.wait() for _ in range(2)] == [0, 0.5]
    now += 1000
    assert [bucket.wait() for _ in range(4)] == [0, 0, 0, 0.5]


def test_unmask_is_what_rfc_6455_says() -> None:
    random_bytes = random.Random(1)
    mask = (0x37, 0xFA, 0x21, 0x3D)
    assert limits.unmask(bytes([0x7F, 0x9F, 0x4D, 0x51, 0x58]), mask) == b"Hello"
    for size in (0, 1, 3, 4, 5, 100):
        for offset in (0, 1, 2, 3, 4, 7):
            data = random_bytes.randbytes(size)
            plain = bytes(byte ^ mask[(offset + i) % 4] for i, byte in enumerate(data))
            assert limits.unmask(data, mask, size, offset) == plain


def test_connection_limit_leaves_room() -> None:
    resource = pytest.importorskip("resource")
    limit = server.raise_connection_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert soft == resource.RLIM_INFINITY or limit < soft


def test_errors_of_libraries_are_brief(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("test of the filter")
    brief = BriefFilter()
    log.addFilter(brief)
    for _ in range(3):
        try:
            raise KeyError("x" * 1000)
        except KeyError:
            log.exception("post request handler error")
    log.error("another")
    log.removeFilter(brief)
    assert [len(record.getMessage()) < 300 for record in caplog.records] == [True, True]
    assert "Traceback" not in caplog.text
    assert sys.exc_info() == (None, None, None)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "webp"])
def test_thumbnails_of_every_kind(kind: str) -> None:
    start = {
        "jpeg": b"\xff\xd8\xff",
        "png": b"\x89PNG\r\n\x1a\n",
        "gif": b"GIF89a",
        "webp": b"RIFF\n\n\n\nWEBP",
    }[kind]
    url = messages.Thumbnail(start, f"image/{kind}").data_url()
    assert messages.predict({"caption": "a", "thumbnail": url}).payload()["thumbnail"] == url
    assert messages.predict({"caption": "a", "thumbnail": start}).payload()["thumbnail"] == url


def test_thumbnails_up_to_the_limit() -> None:
    largest = JPEG + bytes(messages.MAX_THUMBNAIL - len(JPEG))
    url = messages.predict({"caption": "a", "thumbnail": largest}).payload()["thumbnail"]
    assert messages.predict({"caption": "a", "thumbnail": url}).thumbnail is not None
    for value in (largest + b"x", messages.Thumbnail(largest + b"x", "image/jpeg").data_url()):
        with pytest.raises(messages.MessageError, match="thumbnail"):
            messages.predict({"caption": "a", "thumbnail": value})


def test_the_largest_message_fits_through_the_transport() -> None:
    """All fields at their limits, in characters that take the most bytes."""
    import json

    letter = "\U0001f415"
    long = letter * messages.MAX_CAPTION
    data = {
        "caption": long,
        "id": "x" * 100,
        "image_path": letter * messages.MAX_PATH,
        "candidates": [{"caption": long, "probability": 0.123456789012345678}] * 20,
        "words": [{"word": letter * 100, "probability": 0.123456789012345678}] * 200,
        "model": letter * 200,
        "thumbnail": messages.Thumbnail(
            JPEG + bytes(messages.MAX_THUMBNAIL - len(JPEG)), "image/jpeg"
        ).data_url(),
    }
    messages.predict(data)
    assert len(json.dumps(["predict", data])) < messages.MAX_MESSAGE - 1000
