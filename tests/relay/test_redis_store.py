"""The store in Redis, beside the one in a file."""

from __future__ import annotations

import dataclasses
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from SocketIO_server import messages
from SocketIO_server.stores import protocol
from SocketIO_server.stores import redis as redis_store
from SocketIO_server.stores.protocol import Change, PositionLostError, StoreError, Work
from SocketIO_server.stores.redis import RedisStore
from SocketIO_server.stores.sqlite import SqliteStore
from tests.kit.clients import JPEG
from tests.kit.servers import Redis

pytestmark = [
    pytest.mark.redis,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is missing"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    process = Redis(tmp_path_factory.mktemp("redis") / "files", "--appendfsync", "no")
    yield process
    process.client.close()
    process.kill()


@pytest.fixture
def redis(server: Redis) -> Redis:
    """A server without any keys."""
    server.client.flushall()
    return server


@pytest.fixture
def kept(redis: Redis) -> Iterator[RedisStore]:
    shared = RedisStore(redis.url, keep=10)
    yield shared
    shared.close()


def file_store(folder: Path, keep: int) -> SqliteStore:
    """One that does not wait for the disk."""
    store = SqliteStore(folder / "h.db", keep, time.sleep)
    transaction = store._file.transaction
    store._file.transaction = lambda durable=False: transaction(False)  # type: ignore[method-assign]
    return store


def caption(text: str = "a", **fields: object) -> messages.Message:
    return messages.predict({"caption": text, **fields})


def log_of(store: Any) -> list[tuple[str, str, int]]:
    """Kind, id and number of all changes."""
    changes: list[Change] = []
    first = "0" if isinstance(store, SqliteStore) else "0-0"
    while more := store.changes(changes[-1].position if changes else first):
        changes += more
    return [(change.kind, change.id, change.seq) for change in changes]


def test_it_does_what_the_one_in_a_file_does(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand random calls, each answered alike by both."""
    monkeypatch.setattr(redis_store, "THUMBNAILS_AT_ONCE", 2)
    monkeypatch.setattr(redis_store, "PAGE", 3)
    draw = random.Random(4)
    kept: list[Any] = [file_store(tmp_path, 12), RedisStore(redis.url, 12)]

    def both(method: str, *arguments: Any, **options: Any) -> Any:
        answers = [getattr(one, method)(*arguments, **options) for one in kept]
        if method == "forgotten":  # of several with the same number, any may come first
            answers = [sorted(answer) for answer in answers]
        if method == "beginning":  # each has positions of its own
            answers = [dataclasses.replace(answer, position="") for answer in answers]
        assert answers[0] == answers[1], (method, arguments, options)
        return answers[0]

    words = ["dog", "dogs", "B\u00e4r", "\u72ac"]
    seen = set()
    for _ in range(1_000):
        identifier, seq, limit = f"i{draw.randrange(40)}", draw.randrange(60), draw.randrange(1, 9)
        search = draw.sample(["do", "dog", "b\u00e4", "\u72ac", "x"], draw.choice([0, 0, 1, 2]))
        match draw.randrange(13):
            case 0 | 1:
                message = caption(
                    " ".join(draw.choices(words, k=3)),
                    **({"id": identifier} if draw.random() < 0.7 else {}),
                    **({"thumbnail": JPEG} if draw.random() < 0.5 else {}),
                    words=[{"word": "\u72ac", "probability": draw.random()}],
                )
                seen.add(both("append", message)[1])
            case 2:
                both("forget", identifier)
            case 3:
                both("after", seq, limit, words=search)
            case 4:
                both("after", seq, limit, max_bytes=draw.randrange(4 * len(JPEG)))
            case 5:
                both("before_last", limit, search)
                both("before_last", limit, search, before=seq)
            case 6:
                both("forgotten", seq)
            case 7:
                both("has_seen", identifier)
            case 8:
                both("count")
                both("last_seq")
                both("after", 0, 100)
            case 9:
                both("begin_work", identifier, Work("a", {"id": identifier}))
            case 10:
                both("fail_work", identifier, "No.", only_if_begun=draw.random() < 0.5)
                assert both("beginning").working.keys() <= {f"i{n}" for n in range(40)}
            case 11:
                text = " ".join(draw.choices(words, k=2)) if draw.random() < 0.7 else ""
                both("correct", identifier, {"caption": text, "by": "me", "approved": not text})
            case 12:
                both("corrections", seq)
    assert seen == {True, False}
    assert both("last_seq") > 50
    in_file, in_redis = (log_of(one) for one in kept)
    assert in_file == in_redis
    kinds = {"prediction", "forget", "captioning", "captioning_failed", "corrected"}
    assert {kind for kind, *_ in in_file} == kinds
    for one in kept:
        one.close()
    kept = [file_store(tmp_path, 4), RedisStore(redis.url, 4)]  # RELAY_KEEP is smaller now
    both("append", caption())
    both("after", 0, 100)
    for one in kept:
        one.close()


def test_ids_are_not_remembered_without_end(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    script = redis_store._PRELUDE.replace(str(protocol.IDS_REMEMBERED), "5")
    monkeypatch.setattr(redis_store, "_PRELUDE", script)
    kept = RedisStore(redis.url, keep=2)
    for number in range(12):
        kept.append(caption(id=f"i{number}"))
        kept.forget(f"i{number}")
    assert kept.forgotten(100) == ["i11", "i10", "i9", "i8", "i7"]
    assert kept.has_seen("i7")
    assert not kept.has_seen("i6")
    kept.close()


def test_what_is_forgotten_is_nowhere(kept: RedisStore, redis: Redis) -> None:
    photo = JPEG + b"a face" * 100
    kept.begin_work("i", Work("me", {"id": "i", "thumbnail": "a face"}))
    kept.append(caption("a face", id="i", thumbnail=photo))
    kept.correct("i", {"caption": "a face of somebody", "by": "a face"})
    kept.begin_work("j", Work("me", {"id": "j", "thumbnail": "a face"}))
    kept.forget("i")
    kept.forget("j")
    for key in redis.client.scan_iter():
        assert b"a face" not in (redis.client.dump(key) or b"")
    assert [change.payload for change in kept.changes("0-0")] == [
        None,
        None,
        None,
        None,
        {"id": "i"},
        {"id": "j"},
    ]


def test_the_log_has_all_changes_in_order(kept: RedisStore) -> None:
    beginning = kept.beginning()
    assert (beginning.seq, beginning.working) == (0, {})
    work = {"id": "i", "image_path": "a.jpg"}
    kept.begin_work("i", Work("relay sid", work))
    kept.begin_work("other", Work("relay sid", {"id": "other"}))
    assert kept.beginning().working["i"] == Work("relay sid", work)
    first = kept.changes(beginning.position)
    assert [(c.kind, c.payload, c.owner) for c in first] == [
        ("captioning", work, "relay sid"),
        ("captioning", {"id": "other"}, "relay sid"),
    ]
    message = caption("ein B\u00e4r", id="i", thumbnail=JPEG)
    assert kept.append(message) == (1, True)
    assert kept.append(message) == (1, False)
    kept.begin_work("i", Work("relay sid", work))  # too late: nothing would end it
    kept.fail_work("other", "No.")
    kept.fail_work("other", "Again.", only_if_begun=True)
    kept.fail_work("never begun", "No.")
    kept.forget("i2")
    rest = kept.changes(first[-1].position)
    assert [(c.kind, c.id, c.seq, c.payload) for c in rest] == [
        ("prediction", "i", 1, message.payload(seq=1)),
        ("captioning_failed", "other", 0, {"id": "other", "error": "No."}),
        ("captioning_failed", "never begun", 0, {"id": "never begun", "error": "No."}),
        ("forget", "i2", 0, {"id": "i2"}),
    ]
    assert kept.changes(rest[-1].position) == []
    assert kept.beginning().position == rest[-1].position
    kept.wait(first[-1].position, 60)  # there is something after it


def test_a_position_that_is_lost_is_noticed(
    kept: RedisStore, redis: Redis, wait_for: Callable[..., None]
) -> None:
    for _ in range(5):
        kept.append(caption())
    position = kept.beginning().position
    redis.client.flushall()
    # A position is a millisecond and a count: in the same one, an emptied log counts from 0 again.
    made = int(position.split("-")[0])

    def is_later() -> bool:
        seconds, microseconds = redis.client.time()
        return seconds * 1000 + microseconds // 1000 > made

    wait_for(is_later)
    for _ in range(9):
        kept.append(caption())
    with pytest.raises(PositionLostError):
        kept.changes(position)


def test_the_log_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = redis_store._PRELUDE.replace(str(redis_store.CHANGES_KEPT), "10")
    monkeypatch.setattr(redis_store, "_PRELUDE", shorter)
    kept = RedisStore(redis.url, keep=10)
    kept.append(caption())
    position = kept.beginning().position
    for _ in range(300):  # Redis drops entries by the hundred
        kept.fail_work("i", "No.")
    assert redis.client.xlen("{captioner}:log") < 200
    with pytest.raises(PositionLostError):
        kept.changes(position)
    kept.close()


def test_numbers_that_viewers_know_do_not_come_again(kept: RedisStore, redis: Redis) -> None:
    for _ in range(5):
        kept.append(caption())
    assert [change.seq for change in kept.changes("0-0")] == [1, 2, 3, 4, 5]
    redis.client.flushall()
    assert kept.append(caption()) == (6, True)


def test_one_damaged_caption_does_not_hide_the_others(kept: RedisStore, redis: Redis) -> None:
    for _ in range(3):
        kept.append(caption())
    redis.client.zremrangebyscore("{captioner}:captions", 2, 2)
    redis.client.zadd("{captioner}:captions", {b"2\n\n a\n\xff{": 2})
    captions, more = kept.after(0, 10)
    assert [c["seq"] for c in captions] == [1, 2, 3]
    assert "damaged" in captions[1]["caption"]
    assert not more
    assert len(kept.changes("0-0")) == 3


def test_a_full_redis(kept: RedisStore, redis: Redis) -> None:
    kept.append(caption(id="i"))
    try:
        redis.client.config_set("maxmemory", 1)
        for call in (kept.open, lambda: kept.append(caption())):
            with pytest.raises(StoreError, match="RELAY_MESSAGE_QUEUE runs and can write"):
                call()
        assert [c["seq"] for c in kept.after(0, 10)[0]] == [1]
    finally:
        redis.client.config_set("maxmemory", 0)
    kept.open()
    assert kept.append(caption()) == (2, True)


def test_keys_of_another_program(kept: RedisStore, redis: Redis) -> None:
    redis.client.set("{captioner}:captions", "treasure")
    with pytest.raises(StoreError, match="WRONGTYPE"):
        kept.append(caption())
    assert redis.client.get("{captioner}:captions") == b"treasure"


def test_a_redis_that_may_lose_captions_is_said(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    kept = RedisStore(redis.url, keep=10)
    kept.open()
    kept.open()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "appendfsync always" in caplog.text
    assert "appendonly" not in caplog.text
    caplog.clear()
    redis.client.config_set("appendfsync", "always")
    try:
        RedisStore(redis.url, keep=10).open()
    finally:
        redis.client.config_set("appendfsync", "no")
    assert not caplog.records


def test_a_redis_that_is_away_is_not_asked_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = RedisStore("redis://127.0.0.1:9/0", keep=10)
    with pytest.raises(StoreError, match="RELAY_MESSAGE_QUEUE"):
        kept.open()

    def asked(*_: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(kept._redis, "set", asked)
    with pytest.raises(StoreError):
        kept.open()
