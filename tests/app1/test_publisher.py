"""The publisher, step by step, against a relay that does as it is told. No time passes here.

`test_publisher_relay.py` has the same against the real relay.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app1.outbox import Outbox
from app1.publisher import LONGEST_RETRY_SECONDS, Publisher, RelayError


class Relay:
    """A stand-in for the relay and for the connection to it, which can be told to fail."""

    def __init__(self) -> None:
        self.up = True
        self.answers: list[Any] = []  # the next ones; {"ok": True} when there is none
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.emitted: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.attempts = 0
        self.hangs = threading.Event()  # while it is not set
        self.hangs.set()

    def connect(self, ended: Callable[[], None]) -> Relay:
        self.attempts += 1
        if not self.up:
            raise RelayError("connection refused")
        self.connections += 1
        return self

    @property
    def alive(self) -> bool:
        return self.up

    def call(self, event: str, payload: dict[str, Any], timeout: float) -> Any:
        if not self.up:
            raise RelayError("the connection broke")
        self.hangs.wait(10)
        self.calls.append((event, payload))
        answer = self.answers.pop(0) if self.answers else {"ok": True, "seq": len(self.calls)}
        if isinstance(answer, Exception):
            raise answer
        return answer

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        self.emitted.append((event, payload))

    def close(self) -> None:
        pass

    @property
    def ids(self) -> list[str]:
        return [payload["id"] for _, payload in self.calls]


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    box = Outbox(tmp_path / "outbox.db")
    yield box
    box.close()


@pytest.fixture
def publisher(outbox: Outbox, relay: Relay) -> Publisher:
    return Publisher(outbox, relay.connect, jitter=lambda: 0.5)


def run(publisher: Publisher) -> None:
    """Until there is nothing to do."""
    while publisher.step() == 0:
        pass


def caption(id_: str) -> dict[str, Any]:
    return {"id": id_, "caption": "A dog.", "thumbnail": b"jpeg"}


def test_publishes_in_order_and_empties_the_outbox(publisher: Publisher, relay: Relay) -> None:
    deliveries = [publisher.publish(caption(id_)) for id_ in "abc"]
    run(publisher)
    assert relay.calls == [("predict", caption(id_)) for id_ in "abc"]
    assert all(publisher.delivered(delivery, 0) for delivery in deliveries)
    assert publisher.waiting == 0
    assert publisher.acknowledged == 3
    assert relay.connections == 1


def test_a_relay_that_is_away_for_ten_minutes(
    publisher: Publisher, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    relay.up = False
    delivery = publisher.publish(caption("0"))
    delays: list[float] = []
    while sum(delays) < 600:
        publisher.publish(caption(str(len(delays) + 1)))
        delay = publisher.step()
        assert delay is not None
        delays.append(delay)
    assert delays[:6] == [0.25, 0.5, 1, 2, 4, LONGEST_RETRY_SECONDS]
    assert max(delays) == LONGEST_RETRY_SECONDS
    assert not publisher.delivered(delivery, 0)
    assert caplog.text.count("cannot be reached") == 1, "said once, not at each attempt"
    assert publisher.waiting == len(delays) + 1 > 100
    relay.up = True
    run(publisher)
    assert relay.ids == [str(number) for number in range(len(delays) + 1)]
    assert publisher.delivered(delivery, 0)
    assert "can be reached again" in caplog.text


def test_retries_are_spread(outbox: Outbox, relay: Relay) -> None:
    relay.up = False
    luck = iter((0.0, 0.999))
    publisher = Publisher(outbox, relay.connect, jitter=lambda: next(luck))
    first, second = publisher.step(), publisher.step()
    assert first == 0.25 * 0.75
    assert second == pytest.approx(0.5 * 1.25, rel=0.01)


def test_the_back_off_starts_anew_after_a_success(publisher: Publisher, relay: Relay) -> None:
    relay.up = False
    for _ in range(5):
        publisher.step()
    relay.up = True
    run(publisher)
    relay.up = False
    assert publisher.step() == 0.25


def test_an_acknowledgement_that_is_lost_makes_it_send_again(
    publisher: Publisher, relay: Relay
) -> None:
    relay.answers = [RelayError("no acknowledgement")]
    delivery = publisher.publish(caption("1"))
    assert publisher.step() == 0.25
    assert not publisher.delivered(delivery, 0)
    run(publisher)
    assert relay.ids == ["1", "1"]
    assert publisher.delivered(delivery, 0)


def test_what_the_relay_cannot_take_now_keeps_its_place(publisher: Publisher, relay: Relay) -> None:
    relay.answers = [{"ok": False, "error": "The disk is full.", "retry": True}]
    publisher.publish(caption("1"))
    publisher.publish(caption("2"))
    assert publisher.step() == 0.25
    run(publisher)
    assert relay.ids == ["1", "1", "2"]


@pytest.mark.parametrize(
    "answer", [{"ok": False, "error": "The caption is too long."}, None, "yes"]
)
def test_what_the_relay_refuses_for_good_does_not_hold_up_the_others(
    publisher: Publisher, relay: Relay, caplog: pytest.LogCaptureFixture, answer: object
) -> None:
    relay.answers = [answer]
    refused = publisher.publish(caption("1"))
    publisher.publish(caption("2"))
    run(publisher)
    assert relay.ids == ["1", "2"]
    assert publisher.refused == 1
    assert not publisher.delivered(refused, 0)
    assert "refuses predict 1" in caplog.text


def test_it_starts_with_what_an_earlier_run_left(outbox: Outbox, relay: Relay) -> None:
    outbox.add("predict", caption("left over"))
    run(Publisher(outbox, relay.connect))
    assert relay.ids == ["left over"]


def test_forget_is_sent_in_place_of_a_caption_that_waits(
    publisher: Publisher, relay: Relay
) -> None:
    publisher.publish(caption("1"))
    publisher.forget("1")
    run(publisher)
    assert relay.calls == [("forget", {"id": "1"})]


def test_work_that_begins_or_fails_is_told_at_once_or_not_at_all(
    publisher: Publisher, relay: Relay
) -> None:
    publisher.announce("0", "a.jpg", b"jpeg")  # not connected yet
    run(publisher)
    publisher.announce("1", "a.jpg", b"jpeg")
    publisher.fail("1", "No words came.")
    assert relay.emitted == [
        ("captioning", {"id": "1", "image_path": "a.jpg", "thumbnail": b"jpeg"}),
        ("captioning_failed", {"id": "1", "error": "No words came."}),
    ]
    relay.up = False
    publisher.step()
    publisher.announce("2", "a.jpg", b"jpeg")
    publisher.fail("2", "No words came.")
    relay.up = True
    run(publisher)
    assert len(relay.emitted) == 2
    assert relay.calls == []


@pytest.mark.parametrize(("asked", "given"), [(20, 20), (0.1, 0.25), (1e9, 60), ("soon", 0.25)])
def test_a_pause_that_the_relay_asks_for(
    publisher: Publisher, relay: Relay, asked: object, given: float
) -> None:
    relay.answers = [{"ok": False, "error": "Too many.", "retry": True, "retry_after": asked}]
    publisher.publish(caption("1"))
    assert publisher.step() == given


def test_nobody_waits_for_a_relay_that_does_not_keep_up(publisher: Publisher, relay: Relay) -> None:
    """A long time limit that must not be used up."""
    delivery = publisher.publish(caption("1"))
    assert not publisher.delivered(delivery, 60), "not connected yet"
    relay.answers = [RelayError("no acknowledgement")]
    publisher.step()
    assert not publisher.delivered(delivery, 60), "connected, but the last one was not answered"
    run(publisher)
    assert publisher.delivered(delivery, 60)


def test_a_relay_with_a_lot_to_catch_up_on_is_not_waited_for(
    publisher: Publisher, relay: Relay
) -> None:
    for i in range(20):
        publisher.publish(caption(str(i)))
    publisher.step()
    assert not publisher.delivered(publisher.publish(caption("new")), 60)
    run(publisher)
    assert relay.ids[-1] == "new"


class TestThread:
    """The same in the publisher's own thread."""

    def test_publishes_at_once_and_stops(
        self, publisher: Publisher, relay: Relay, wait_for: Callable[..., None]
    ) -> None:
        publisher.start()
        wait_for(lambda: publisher.connected)
        assert publisher.delivered(publisher.publish(caption("1")), 10)
        publisher.stop()
        assert not publisher._thread.is_alive()

    def test_a_relay_that_hangs_is_waited_for_a_moment_and_by_few(
        self,
        publisher: Publisher,
        relay: Relay,
        wait_for: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Long time limits that must not be used up."""
        monkeypatch.setattr("app1.publisher.KEEPING_UP_SECONDS", 0.05)
        publisher.start()
        wait_for(lambda: publisher._caught_up)
        relay.hangs.clear()
        first = publisher.publish(caption("1"))
        assert not publisher.delivered(first, 60)
        wait_for(lambda: publisher._patience() == 0)
        publisher.announce("2", "a.jpg", b"jpeg")
        assert relay.emitted == []
        assert not publisher.delivered(publisher.publish(caption("2")), 60)
        relay.hangs.set()
        wait_for(first.is_set)
        wait_for(lambda: publisher._caught_up and publisher.waiting == 0)
        assert publisher._patience() > 0
        publisher.stop()

    def test_stops_while_it_waits_for_the_next_attempt(
        self, publisher: Publisher, relay: Relay, wait_for: Callable[..., None]
    ) -> None:
        relay.up = False
        publisher.publish(caption("1"))
        publisher.start()
        wait_for(lambda: relay.attempts)
        publisher.stop()
        assert not publisher._thread.is_alive()
        assert publisher.waiting == 1

    def test_an_unforeseen_error_does_not_end_it(
        self,
        outbox: Outbox,
        relay: Relay,
        wait_for: Callable[..., None],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr("app1.publisher.LONGEST_RETRY_SECONDS", 0.01)
        publisher = Publisher(outbox, relay.connect)
        relay.answers = [ZeroDivisionError("a bug")]
        publisher.publish(caption("1"))
        publisher.start()
        wait_for(lambda: publisher.waiting == 0)
        publisher.stop()

    def test_what_waits_is_brought_to_a_relay_that_answers_before_it_stops(
        self, publisher: Publisher, relay: Relay
    ) -> None:
        begin = threading.Event()
        connect = relay.connect

        def connect_later(ended: Callable[[], None]) -> Relay:
            begin.wait(10)
            return connect(ended)

        publisher._connect = connect_later
        for id_ in "abc":
            publisher.publish(caption(id_))
        publisher.start()
        begin.set()
        publisher.stop(timeout=10)
        assert relay.ids == ["a", "b", "c"]
