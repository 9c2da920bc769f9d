"""The relay follows the log of its store, and broadcasts what it finds there."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.settings import Settings
from SocketIO_server import connections, transport
from SocketIO_server import relay as relay_module
from SocketIO_server.application import create_app
from SocketIO_server.messages import predict
from SocketIO_server.relay import Relay
from SocketIO_server.stores.protocol import Change, PositionLostError
from tests.kit.servers import TOKEN, wait_until


class Viewer:
    """A viewer within the process."""

    def __init__(self, app: Any, **auth: Any) -> None:
        self._client = app.extensions["socketio"].test_client(app, auth=auth)
        self._events: list[tuple[str, Any]] = []

    def receive(self, event: str) -> Any:
        """The payload of the next event of this name; those before it are dropped."""

        def is_there() -> bool:
            self._events += [(e["name"], e["args"][0]) for e in self._client.get_received()]
            while self._events and self._events[0][0] != event:
                self._events.pop(0)
            return bool(self._events)

        wait_until(is_there)
        return self._events.pop(0)[1]


@pytest.fixture
def app(settings_of: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr(relay_module, "RETRY", 0.01)
    monkeypatch.setattr(relay_module, "HEARTBEAT", 0.01)
    settings = settings_of(RELAY_ASYNC_MODE="threading", RELAY_TOKEN=TOKEN)
    transport.install(settings)
    app = create_app(settings)
    app.extensions["relay"].start()
    yield app
    app.extensions["relay"].store.close()


@pytest.fixture
def relay(app: Any) -> Relay:
    found: Relay = app.extensions["relay"]
    return found


def test_a_kind_of_change_without_code_in_the_relay_is_broadcast_too(
    app: Any, relay: Relay
) -> None:
    """So a store can have more kinds of changes, and the relay stays as it is."""
    viewer = Viewer(app)
    viewer.receive("history")
    correction = {"id": "i", "caption": "a cat"}
    store: Any = relay.store
    store._log_change("corrected", "i", correction)
    assert viewer.receive("corrected") == correction


def test_viewers_that_miss_the_same_get_the_same_piece(
    app: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read and encoded once, and again when anything has changed."""
    for identifier in "ij":
        relay.store.append(predict({"id": identifier, "caption": "a dog"}))
    reads = []
    after = relay.store.after

    def counted(*arguments: Any) -> Any:
        reads.append(arguments)
        return after(*arguments)

    monkeypatch.setattr(relay.store, "after", counted)

    def pieces(*last_seqs: int) -> list[Any]:
        found = [Viewer(app, last_seq=seq).receive("history") for seq in last_seqs]
        return [[(c["id"], c["caption"]) for c in piece["captions"]] for piece in found]

    both = [("i", "a dog"), ("j", "a dog")]
    assert pieces(0, 0, 0, 1) == [both, both, both, both[1:]]
    assert len(reads) == 2
    relay.store.correct("j", {"caption": "a cat", "by": "someone"})
    assert pieces(1, 1) == [[("j", "a cat")]] * 2
    relay.store.forget("j")
    relay.store.append(predict({"id": "k", "caption": "a bird"}))
    assert pieces(1, 1) == [[("k", "a bird")]] * 2
    assert len(reads) == 4


def test_a_viewer_whose_history_is_on_its_way_gets_what_concerns_it_afterwards(
    app: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two pieces of its history."""
    held = True
    monkeypatch.setattr(connections, "PIECE", 1)
    monkeypatch.setattr(relay.sockets, "waiting_for", lambda _: 10**9 if held else 0)
    for identifier in "ij":
        relay.store.append(predict({"id": identifier, "caption": "a dog"}))
    wait_until(lambda: relay.last_broadcast == 2)
    viewer = Viewer(app, last_seq=0)
    assert viewer.receive("history")["captions"][0]["id"] == "i"
    store: Any = relay.store
    correction = {"id": "i", "caption": "a cat"}
    store._log_change("corrected", "i", correction)
    wait_until(lambda: [client.missed for client in relay.clients.values()] != [[]])
    held = False
    assert viewer.receive("history")["captions"][0]["id"] == "j"
    assert viewer.receive("corrected") == correction


def test_a_caption_that_is_not_broadcast_yet_comes_live_and_not_in_the_history(
    app: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = relay.store.changes
    hidden = True
    monkeypatch.setattr(
        relay.store, "changes", lambda position: [] if hidden else changes(position)
    )
    relay.store.append(predict({"caption": "a"}))
    viewer = Viewer(app)
    assert viewer.receive("history")["captions"] == []
    hidden = False
    relay.store.append(predict({"caption": "b"}))
    assert [viewer.receive("prediction")["seq"] for _ in range(2)] == [1, 2]


def test_a_change_that_cannot_be_broadcast_holds_up_no_other(
    app: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = Viewer(app)
    viewer.receive("history")
    apply = relay._apply

    def fail(change: Change) -> None:
        if change.id == "bad":
            raise ZeroDivisionError
        apply(change)

    monkeypatch.setattr(relay, "_apply", fail)
    for identifier in ("bad", "good"):
        relay.store.append(predict({"id": identifier, "caption": "a"}))
    assert viewer.receive("prediction")["id"] == "good"
    assert "A change could not be broadcast." in caplog.text


def test_viewers_are_disconnected_when_the_log_is_lost(
    app: Any, relay: Relay, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    Viewer(app).receive("history")
    cut: list[str] = []
    monkeypatch.setattr(relay.sockets, "cut", lambda _sid, reason: cut.append(reason))
    changes, lost = relay.store.changes, [True]

    def lose(position: str) -> list[Change]:
        if lost:
            lost.clear()
            raise PositionLostError("The log is lost.")
        return changes(position)

    with relay.lock:
        monkeypatch.setattr(relay.store, "changes", lose)
    relay.store.append(predict({"caption": "a"}))
    wait_until(lambda: cut)
    assert cut == [relay_module.LOG_LOST]
    assert "sent away" in caplog.text
    wait_until(lambda: relay.last_broadcast == 1)


def test_a_store_that_can_be_used_again_makes_the_relay_ready_at_once(
    settings_of: Callable[..., Settings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "blocked").write_text("a file where a folder is needed")
    settings = settings_of(
        RELAY_ASYNC_MODE="threading", RELAY_TOKEN=TOKEN, RELAY_DB=tmp_path / "blocked" / "h.db"
    )
    transport.install(settings)
    app = create_app(settings)
    relay = app.extensions["relay"]
    relay.start()
    assert "RELAY_DB" in relay.why_not_ready()
    viewer = Viewer(app)
    assert "RELAY_DB" in viewer.receive("history")["error"]
    (tmp_path / "blocked").unlink()
    assert relay.why_not_ready() is None
    relay.store.append(predict({"caption": "a"}))
    assert viewer.receive("history")["captions"][0]["seq"] == 1
    assert caplog.text.count("cannot be used") == 1
    relay.store.close()
