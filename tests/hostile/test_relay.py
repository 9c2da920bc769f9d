"""Whatever a client sends the relay: it goes on, for everybody else, without growing or telling.

Each case of tests/hostile goes to a real relay over a real socket, and after each one a caption is
published and seen.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket

from tests.hostile import Case
from tests.hostile.exchange import complaints, exchange, peak_memory, send_and_cut
from tests.hostile.frames import POLLING, WEBSOCKET, frames, polling, refused_events
from tests.hostile.web import malformed, sound
from tests.kit.clients import WireClient
from tests.kit.servers import TOKEN, Relay, wait_until

MOST_MEMORY = 150 * 2**20  # bytes, of which Python and its libraries are a third
MOST_LINES = 60  # in the log, whatever is sent


class Bystanders:
    """A publisher and a viewer who want to get on with it while others misbehave."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.publisher = WireClient(relay, {"token": TOKEN, "viewer": False})
        self.viewer = WireClient(relay)
        self.viewer.history()
        self.published = 0

    def publish(self) -> None:
        """Publish a caption and see it; what others may have published comes before it."""
        self.published += 1
        caption = f"good {self.published}"
        answer = self.publisher.call("predict", {"caption": caption})
        assert answer["ok"], answer
        while self.viewer.receive()[1].get("caption") != caption:
            pass

    def leave(self) -> None:
        self.publisher.close()
        self.viewer.close()


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"))
    yield relay
    relay.kill()


@pytest.fixture
def bystanders(relay: Relay) -> Iterator[Bystanders]:
    """They are there all the time, and at the end nothing has happened to the relay."""
    bystanders = Bystanders(relay)
    bystanders.publish()
    try:
        yield bystanders
        bystanders.publish()
    finally:
        bystanders.leave()
    assert [relay.get(path)[0] for path in ("/healthz", "/readyz", "/metrics")] == [200] * 3
    assert peak_memory(relay.process.pid) < MOST_MEMORY
    assert "Traceback" not in relay.output
    assert TOKEN not in relay.output
    assert len(relay.lines) < MOST_LINES, relay.output[-5_000:]


def captions(relay: Relay) -> set[str]:
    return {caption["caption"] for caption in relay.get("/api/captions?limit=1000")[2]["captions"]}


@pytest.mark.parametrize("auth", [None, {"token": TOKEN}], ids=["viewer", "publisher"])
def test_frames(relay: Relay, bystanders: Bystanders, auth: dict[str, Any] | None) -> None:
    before = captions(relay)
    for number, case in enumerate(frames()):
        client = WireClient(relay, auth)
        wire = client.socket.sock
        assert wire is not None
        if number % 2:  # every other one is gone before it can be answered
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with contextlib.suppress(OSError):  # cut off in the middle
            wire.sendall(case.data)
        client.close()
        bystanders.publish()
    if auth is None:
        strangers = {c for c in captions(relay) - before if not c.startswith("good ")}
        assert strangers == set()


def test_events_are_refused_with_a_sentence(relay: Relay, bystanders: Bystanders) -> None:
    client = WireClient(relay, {"token": TOKEN, "viewer": False})
    wrong = []
    for name, (event, *data) in refused_events():
        answer = client.call(event, *data)
        if answer.get("ok") is not False or not str(answer.get("error")).endswith("."):
            wrong.append((name, answer))
        bystanders.publish()
    assert wrong == []
    client.close()


@pytest.mark.parametrize(
    "auth",
    [
        {"token": "wrong"}, {"token": TOKEN + " "}, {"token": TOKEN.upper()}, {"token": TOKEN[:-1]},
        {"token": "\ud800"}, {"token": "x" * 900_000}, {"token": 5}, {"token": True},
        {"token": [TOKEN]}, {"token": {"$ne": ""}}, {"last_seq": "0"}, {"last_seq": -1},
        {"last_seq": 2**63}, {"last_seq": 1.5}, {"last_seq": [0]}, {"viewer": 1}, {"viewer": None},
        [TOKEN], "x", True,
    ],
    ids=lambda auth: str(auth)[:30],
)  # fmt: skip
def test_malformed_or_wrong_credentials_let_nobody_in(
    relay: Relay, bystanders: Bystanders, auth: Any
) -> None:
    client = websocket.create_connection(
        f"ws://127.0.0.1:{relay.port}{WEBSOCKET}", timeout=30, suppress_origin=True
    )
    client.recv()
    client.send("40" + json.dumps(auth))
    answer = str(client.recv())
    assert answer.startswith("44"), answer
    with contextlib.suppress(OSError, websocket.WebSocketException):
        client.send('42["predict",{"caption":"smuggled"}]')
    client.shutdown()
    bystanders.publish()
    assert "smuggled" not in captions(relay)


def requests(relay: Relay) -> Iterator[Case]:
    """Requests for this relay, those that name a session with one that has just begun."""
    good = sound("/", "/healthz", "/readyz", "/metrics", "/api/captions", POLLING)
    for case in (*good, *malformed(POLLING), *polling()):
        session = json.loads(relay.get(POLLING)[2][1:])["sid"] if b"SID" in case.data else ""
        yield case._replace(data=case.data.replace(b"SID", session.encode()))


def test_requests(relay: Relay, bystanders: Bystanders) -> None:
    wrong: list[str] = []
    for number, case in enumerate(requests(relay)):
        if number % 5 == 0:
            send_and_cut(relay.port, case.data)
        wrong += complaints(case, exchange(relay.port, case.data))
        bystanders.publish()
    assert wrong == []
    assert not any("hostile" in caption for caption in captions(relay) - {"hostile"})


def test_requests_to_a_relay_on_threads(tmp_path: Path) -> None:
    """Its web server is another one."""
    relay = Relay(tmp_path, RELAY_ASYNC_MODE="threading")
    wrong: list[str] = []
    for case in requests(relay):
        wrong += complaints(case, exchange(relay.port, case.data))
    assert wrong == []
    bystanders = Bystanders(relay)
    bystanders.publish()
    bystanders.leave()
    assert relay.stop() == 0
    assert "Traceback" not in relay.output


def test_a_flood_of_connections(relay: Relay, bystanders: Bystanders) -> None:
    """Half of them say nothing, half of them begin a session and leave it."""
    silent = [socket.create_connection(("127.0.0.1", relay.port), 60) for _ in range(200)]
    for client in silent[::2]:
        client.sendall(f"GET {POLLING} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    bystanders.publish()
    for client in silent:
        client.close()
    bystanders.publish()


def test_a_flood_of_messages(relay: Relay, bystanders: Bystanders) -> None:
    viewer = WireClient(relay)
    viewer.history()
    with contextlib.suppress(OSError):
        for _ in range(8_000):
            viewer.send("predict", {"caption": "smuggled"})
    with pytest.raises((OSError, websocket.WebSocketException)):
        viewer.receive_until("never")
    viewer.close()
    bystanders.publish()
    assert "smuggled" not in captions(relay)


def test_a_publisher_that_never_listens(relay: Relay, bystanders: Bystanders) -> None:
    """Its acknowledgements wait for it; they must not wait without end."""
    deaf = WireClient(relay, {"token": TOKEN}, receive_buffer=4_096)
    with contextlib.suppress(OSError):
        for number in range(1_500):
            deaf.send("captioning", {"id": f"deaf-{number % 50}", "image_path": "x" * 1_000})
    bystanders.publish()
    deaf.close()


def test_after_all_of_it_the_relay_stops_when_asked(relay: Relay) -> None:
    wait_until(lambda: "relay_viewers 0" in relay.get("/metrics")[2])
    assert relay.stop() == 0
    assert "Traceback" not in relay.output
