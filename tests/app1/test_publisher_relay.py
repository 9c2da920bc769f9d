"""The publisher against the real relay: each caption is there once, whichever process is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import socketio

from app1.outbox import Outbox
from app1.publisher import Publisher, RelayConnection, RelayError
from tests.kit.clients import JPEG, Client
from tests.kit.servers import TOKEN, Relay


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path / "relay")
    yield relay
    relay.kill()


@pytest.fixture
def start(tmp_path: Path, relay: Relay) -> Iterator[Callable[..., Publisher]]:
    """Starts a publisher, again and again on the same outbox, as after a kill."""
    running: list[tuple[Publisher, Outbox]] = []

    def make(token: str = TOKEN) -> Publisher:
        outbox = Outbox(tmp_path / "outbox.db")
        publisher = Publisher(outbox, lambda ended: RelayConnection(relay.url, token, ended))
        running.append((publisher, outbox))
        publisher.start()
        return publisher

    yield make
    for publisher, outbox in running:
        publisher.stop()
        outbox.close()


def caption(id_: str) -> dict[str, Any]:
    return {
        "id": id_,
        "caption": f"Photo {id_}.",
        "image_path": "Föto <b>.jpg",
        "candidates": [{"caption": "A dog.", "probability": 0.5}],
        "words": [{"word": "a", "probability": 1.0}],
        "confidence": 0.7166,
        "confident": True,
        "photo": True,
        "thumbnail": JPEG,
        "created_at": "2026-01-01T00:00:00.000Z",
        "model": "tiny",
        "elapsed_ms": 30,
    }


def stored(relay: Relay) -> list[str]:
    return [c["id"] for c in relay.get("/api/captions?after=0&limit=1000")[2]["captions"]]


def test_a_caption_is_stored_and_broadcast_as_it_is(
    relay: Relay, start: Callable[..., Publisher], wait_for: Callable[..., None]
) -> None:
    viewer = Client(relay)
    publisher = start()
    publisher.publish(caption("0"))
    wait_for(lambda: publisher._caught_up and publisher.waiting == 0)
    publisher.announce("1", "a.jpg", JPEG)
    assert publisher.delivered(publisher.publish(caption("1")), 10)
    wait_for(lambda: len(viewer.of("prediction")) == 2)
    seen = max(viewer.of("prediction"), key=lambda caption: caption["seq"])
    assert {**seen, "thumbnail": JPEG, "seq": 0} == {**caption("1"), "seq": 0}
    wait_for(lambda: viewer.of("captioning"))
    assert viewer.of("captioning")[0]["id"] == "1"
    publisher.announce("2", "b.jpg", JPEG)
    publisher.fail("2", "No words came.")
    wait_for(lambda: viewer.of("captioning_failed"))
    assert viewer.of("captioning_failed") == [{"id": "2", "error": "No words came."}]
    publisher.forget("1")
    wait_for(lambda: viewer.of("forget"))
    assert stored(relay) == ["0"]
    viewer.close()


def test_a_relay_that_comes_later_and_goes_and_comes_back(
    relay: Relay, start: Callable[..., Publisher], wait_for: Callable[..., None]
) -> None:
    relay.kill()
    publisher = start()
    for id_ in "ab":
        publisher.publish(caption(id_))
    relay.start()
    wait_for(lambda: publisher.waiting == 0)
    relay.stop()
    wait_for(lambda: not publisher.connected)
    for id_ in "cd":
        publisher.publish(caption(id_))
    relay.start()
    wait_for(lambda: publisher.waiting == 0)
    assert stored(relay) == ["a", "b", "c", "d"]


def test_each_once_and_in_order_while_the_relay_is_killed(
    relay: Relay, start: Callable[..., Publisher], wait_for: Callable[..., None]
) -> None:
    publisher = start()
    published: list[str] = []
    ids = [f"{i:03}" for i in range(150)]
    for kill_after in (20, 60, 100):
        for id_ in ids[len(published) : kill_after + 20]:
            publisher.publish(caption(id_))
            published.append(id_)
        wait_for(lambda enough=kill_after: publisher.acknowledged > enough)
        relay.kill()
        relay.start()
    for id_ in ids[len(published) :]:
        publisher.publish(caption(id_))
    wait_for(lambda: publisher.waiting == 0, 20)
    assert stored(relay) == ids


def test_a_wrong_token_keeps_everything_until_it_is_right(
    relay: Relay, start: Callable[..., Publisher], wait_for: Callable[..., None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    wrong = start("wrong")
    wrong.publish(caption("1"))
    wait_for(lambda: "token" in caplog.text)
    assert wrong.waiting == 1
    wrong.stop()
    right = start(TOKEN)
    wait_for(lambda: right.waiting == 0)
    assert stored(relay) == ["1"]


def test_an_open_relay(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "open", RELAY_TOKEN="")
    connection = RelayConnection(relay.url, "", lambda: None)
    assert connection.call("predict", caption("1"), 10)["ok"] is True
    connection.close()
    relay.kill()


def test_a_proxy_for_the_web_is_not_asked_for_this_machine(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "example.org")
    connection = RelayConnection(relay.url, TOKEN, lambda: None)
    assert connection.call("forget", {"id": "1"}, 10) == {"ok": True}
    connection.close()


def test_it_ends_up_on_a_websocket(relay: Relay) -> None:
    connection = RelayConnection(relay.url, TOKEN, lambda: None)
    assert connection._client.transport() == "websocket"
    connection.close()


def test_no_relay_at_all(free_port: Callable[[], int]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RelayError, match=f"^nobody answers at {url}$"):
        RelayConnection(url, TOKEN, lambda: None)


def test_a_connection_that_breaks_in_the_moment_it_is_made_is_none(
    relay: Relay, monkeypatch: pytest.MonkeyPatch, wait_for: Callable[..., None]
) -> None:
    connect = socketio.Client.connect

    def breaks(client: socketio.Client, *arguments: Any, **options: Any) -> None:
        connect(client, *arguments, **options)
        relay.kill()
        wait_for(lambda: client.eio.state == "disconnected")
        client.connected = True  # which is what it says when it hears of the end too early

    monkeypatch.setattr(socketio.Client, "connect", breaks)
    with pytest.raises(RelayError, match="broke"):
        RelayConnection(relay.url, TOKEN, lambda: None)


def test_the_end_of_the_connection_ends_the_wait(
    relay: Relay, wait_for: Callable[..., None]
) -> None:
    """A long time limit that must not be used up."""
    ended: list[bool] = []
    connection = RelayConnection(relay.url, TOKEN, lambda: ended.append(True))
    relay.kill()
    with pytest.raises(RelayError):
        connection.call("forget", {"id": "1"}, 60)
    wait_for(lambda: ended)
    assert not connection.alive
    connection.close()
