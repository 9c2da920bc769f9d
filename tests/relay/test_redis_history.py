"""The history in Redis, beside the one in a file."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from SocketIO_server import history, messages, redis_history
from SocketIO_server.history import History, HistoryError
from SocketIO_server.redis_history import LostTrackError, RedisHistory
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
def kept(redis: Redis) -> Iterator[RedisHistory]:
    shared = RedisHistory(redis.url, keep=10)
    yield shared
    shared.close()


def keep_fast(kept: History) -> None:
    """Let it not wait for the disk."""
    transaction = kept._file.transaction
    kept._file.transaction = lambda durable=False: transaction(durable)  # type: ignore[method-assign]


def caption(text: str = "a", **fields: object) -> messages.Message:
    return messages.predict({"caption": text, **fields})


def test_it_does_what_the_one_in_a_file_does(
    redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand random calls, each answered alike by both."""
    monkeypatch.setattr(redis_history, "FETCHED_AT_ONCE", 2)
    monkeypatch.setattr(redis_history, "PAGE", 3)
    draw = random.Random(4)
    kept: list[Any] = [History(tmp_path / "h.db", 12), RedisHistory(redis.url, 12)]

    keep_fast(kept[0])

    def both(method: str, *arguments: Any, **options: Any) -> Any:
        answers = [getattr(one, method)(*arguments, **options) for one in kept]
        if method == "forgotten":  # of several with the same number, any may come first
            answers = [sorted(answer) for answer in answers]
        assert answers[0] == answers[1], (method, arguments, options)
        return answers[0]

    words = ["dog", "dogs", "B\u00e4r", "\u72ac"]
    seen = set()
    for _ in range(1_000):
        identifier, seq, limit = f"i{draw.randrange(40)}", draw.randrange(60), draw.randrange(1, 9)
        search = draw.sample(["do", "dog", "b\u00e4", "\u72ac", "x"], draw.choice([0, 0, 1, 2]))
        match draw.randrange(9):
            case 0 | 1:
                message = caption(
                    " ".join(draw.choices(words, k=3)),
                    **({"id": identifier} if draw.random() < 0.7 else {}),
                    **({"thumbnail": JPEG} if draw.random() < 0.5 else {}),
                    words=[{"word": "\u72ac", "probability": draw.random()}],
                )
                seen.add(both("add", message)[1])
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
                both("knows", identifier)
            case 8:
                both("count")
                both("last_seq")
                both("after", 0, 100)
    assert seen == {True, False}
    assert both("last_seq") > 50
    for one in kept:
        one.close()
    kept = [History(tmp_path / "h.db", 4), RedisHistory(redis.url, 4)]  # RELAY_KEEP is smaller now
    both("add", caption())
    both("after", 0, 100)
    for one in kept:
        one.close()


def test_ids_are_not_remembered_without_end(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_history, "IDS_REMEMBERED", 5)
    script = redis_history._PRELUDE.replace(str(history.IDS_REMEMBERED), "5")
    monkeypatch.setattr(redis_history, "_PRELUDE", script)
    kept = RedisHistory(redis.url, keep=2)
    for number in range(12):
        kept.add(caption(id=f"i{number}"))
        kept.forget(f"i{number}")
    assert kept.forgotten(100) == ["i11", "i10", "i9", "i8", "i7"]
    assert kept.knows("i7")
    assert not kept.knows("i6")
    kept.close()


def test_what_is_forgotten_is_nowhere(kept: RedisHistory, redis: Redis) -> None:
    photo = JPEG + b"a face" * 100
    kept.begin_work("i", "me", {"id": "i", "thumbnail": "a face"})
    kept.add(caption("a face", id="i", thumbnail=photo))
    kept.begin_work("j", "me", {"id": "j", "thumbnail": "a face"})
    kept.forget("i")
    kept.forget("j")
    for key in redis.client.scan_iter():
        assert b"a face" not in (redis.client.dump(key) or b"")
    assert [change.payload for change in kept.changes("0-0")] == [
        None,
        None,
        None,
        {"id": "i"},
        {"id": "j"},
    ]


def test_the_log_tells_all_changes_in_order(kept: RedisHistory) -> None:
    beginning = kept.beginning()
    assert (beginning.seq, beginning.working) == (0, {})
    work = {"id": "i", "image_path": "a.jpg"}
    kept.begin_work("i", "relay sid", work)
    kept.begin_work("other", "relay sid", {"id": "other"})
    assert kept.beginning().working["i"] == ("relay sid", work)
    first = kept.changes(beginning.position)
    assert [(c.event, c.payload, c.owner) for c in first] == [
        ("captioning", work, "relay sid"),
        ("captioning", {"id": "other"}, "relay sid"),
    ]
    message = caption("ein B\u00e4r", id="i", thumbnail=JPEG)
    assert kept.add(message) == (1, True)
    assert kept.add(message) == (1, False)
    kept.begin_work("i", "relay sid", work)  # too late: nothing would end it
    kept.fail_work("other", "No.")
    kept.fail_work("other", "Again.", only_if_begun=True)
    kept.fail_work("never begun", "No.")
    kept.forget("i2")
    rest = kept.changes(first[-1].position)
    assert [(c.event, c.id, c.seq, c.payload) for c in rest] == [
        ("prediction", "i", 1, message.payload(seq=1)),
        ("captioning_failed", "other", 0, {"id": "other", "error": "No."}),
        ("captioning_failed", "never begun", 0, {"id": "never begun", "error": "No."}),
        ("forget", "i2", 0, {"id": "i2"}),
    ]
    assert kept.changes(rest[-1].position) == []
    assert kept.beginning().position == rest[-1].position
    kept.wait(first[-1].position, 60)  # there is something after it


def test_a_position_that_is_lost_is_noticed(
    kept: RedisHistory, redis: Redis, wait_for: Callable[..., None]
) -> None:
    for _ in range(5):
        kept.add(caption())
    position = kept.beginning().position
    redis.client.flushall()
    # A position is a millisecond and a count: in the same one, an emptied log counts from 0 again.
    made = int(position.split("-")[0])

    def is_later() -> bool:
        seconds, microseconds = redis.client.time()
        return seconds * 1000 + microseconds // 1000 > made

    wait_for(is_later)
    for _ in range(9):
        kept.add(caption())
    with pytest.raises(LostTrackError):
        kept.changes(position)


def test_the_log_is_bounded(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = redis_history._PRELUDE.replace(str(redis_history.CHANGES_KEPT), "10")
    monkeypatch.setattr(redis_history, "_PRELUDE", shorter)
    kept = RedisHistory(redis.url, keep=10)
    kept.add(caption())
    position = kept.beginning().position
    for _ in range(300):  # Redis drops entries by the hundred
        kept.fail_work("i", "No.")
    assert redis.client.xlen("{captioner}:log") < 200
    with pytest.raises(LostTrackError):
        kept.changes(position)
    kept.close()


def test_numbers_that_viewers_know_do_not_come_again(kept: RedisHistory, redis: Redis) -> None:
    for _ in range(5):
        kept.add(caption())
    redis.client.flushall()
    kept.told = 5
    assert kept.add(caption()) == (6, True)


def test_one_damaged_caption_does_not_hide_the_others(kept: RedisHistory, redis: Redis) -> None:
    for _ in range(3):
        kept.add(caption())
    redis.client.hset("{captioner}:fields", "2", b"\xff{")
    captions, more = kept.after(0, 10)
    assert [c["seq"] for c in captions] == [1, 2, 3]
    assert "damaged" in captions[1]["caption"]
    assert not more
    assert len(kept.changes("0-0")) == 3


def test_a_full_redis(kept: RedisHistory, redis: Redis) -> None:
    kept.add(caption(id="i"))
    try:
        redis.client.config_set("maxmemory", 1)
        for call in (kept.open, lambda: kept.add(caption())):
            with pytest.raises(HistoryError, match="RELAY_MESSAGE_QUEUE runs and can write"):
                call()
        assert [c["seq"] for c in kept.after(0, 10)[0]] == [1]
    finally:
        redis.client.config_set("maxmemory", 0)
    kept.open()
    assert kept.add(caption()) == (2, True)


def test_keys_of_another_program(kept: RedisHistory, redis: Redis) -> None:
    redis.client.set("{captioner}:order", "treasure")
    with pytest.raises(HistoryError, match="WRONGTYPE"):
        kept.add(caption())
    assert redis.client.get("{captioner}:order") == b"treasure"


def test_a_redis_that_may_lose_captions_is_said(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    kept = RedisHistory(redis.url, keep=10)
    kept.open()
    kept.open()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "appendfsync always" in caplog.text
    assert "appendonly" not in caplog.text
    caplog.clear()
    redis.client.config_set("appendfsync", "always")
    try:
        RedisHistory(redis.url, keep=10).open()
    finally:
        redis.client.config_set("appendfsync", "no")
    assert not caplog.records


def test_a_redis_that_is_away_is_not_asked_by_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = RedisHistory("redis://127.0.0.1:9/0", keep=10)
    with pytest.raises(HistoryError, match="RELAY_MESSAGE_QUEUE"):
        kept.open()

    def asked(*_: object) -> None:
        raise AssertionError("it was asked")

    monkeypatch.setattr(kept._redis, "set", asked)
    with pytest.raises(HistoryError):
        kept.open()
