"""The relay under load: viewers that do not read, its last seconds, several relays over Redis."""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from captioner.settings import Settings
from SocketIO_server import async_modes
from SocketIO_server.application import create_app
from SocketIO_server.bounds import MAX_WAITING
from SocketIO_server.events import PIECE_BYTES
from tests.relay_support import JPEG, TOKEN, Relay, WireClient, numbers, wait_until

StartRelay = Callable[..., Relay]
Connect = Callable[..., WireClient]
PUBLISHER = {"token": TOKEN, "viewer": False}
PHOTO = JPEG + bytes(150_000 - len(JPEG))
BIG = {"caption": "a", "thumbnail": "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()}
MESSAGE_BYTES = 201_000  # of BIG, as it is sent


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    started: list[Relay] = []

    def start(**options: Any) -> Relay:
        started.append(Relay(options.pop("state", tmp_path / "state"), **options))
        return started[-1]

    yield start
    for relay in started:
        relay.kill()
        assert "Traceback" not in relay.server.output


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[WireClient] = []

    def make(relay: Relay, auth: dict[str, Any] | None = None, **options: Any) -> WireClient:
        clients.append(WireClient(relay, auth, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


# Viewers that do not read


@pytest.mark.parametrize("mode", ["eventlet", "threading"])
def test_a_viewer_that_does_not_read_is_cut_off_and_caught_up(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    publisher = connect(relay, PUBLISHER)
    stuck, other = connect(relay, receive_buffer=4096), connect(relay)
    assert numbers(stuck.history()) == numbers(other.history()) == []
    process = psutil.Process(relay.server.process.pid)
    waiting, seq = [], 0
    while relay.metric("relay_clients_dropped_total") == 0:
        seq += 1
        assert publisher.call("predict", BIG) == {"ok": True, "seq": seq}
        assert other.receive()[1]["seq"] == seq  # who reads does not wait for who does not
        waiting.append(relay.metric("relay_waiting_bytes"))
        assert seq < 200
    assert MAX_WAITING / 2 < max(waiting) <= MAX_WAITING + 2 * MESSAGE_BYTES
    assert relay.metric("relay_waiting_bytes") <= MESSAGE_BYTES  # nothing is kept for it
    memory = process.memory_info().rss
    for _ in range(100):  # 20 MB
        seq += 1
        assert publisher.call("predict", BIG) == {"ok": True, "seq": seq}
        assert other.receive()[1]["seq"] == seq
    assert relay.metric("relay_viewers") == 1
    assert process.memory_info().rss - memory < 50 * MESSAGE_BYTES

    seen = [data["seq"] for event, data in stuck.rest() if event == "prediction"]
    assert 0 < len(seen) < seq
    again = connect(relay, {"last_seq": seen[-1]})
    seen += numbers(again.history())
    publisher.call("predict", BIG)
    seen.append(again.receive()[1]["seq"])
    assert seen == list(range(1, seq + 2))
    assert "cut off" in relay.server.output


def test_history_waits_for_a_viewer_that_does_not_read(
    start_relay: StartRelay, connect: Connect
) -> None:
    """It is sent as it is read, so that the viewer is not cut off, and nothing piles up."""
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    for _ in range(100):
        publisher.call("predict", BIG)
    stuck = connect(relay, {"last_seq": 0}, receive_buffer=4096)
    assert stuck.receive()[0] == "history"
    waiting = []
    for _ in range(50):  # it would have to get these live
        publisher.call("predict", BIG)
        waiting.append(relay.metric("relay_waiting_bytes"))
    # a piece that it does not take, and one that was sent before that was known
    assert PIECE_BYTES < max(waiting) < 3 * PIECE_BYTES
    assert relay.metric("relay_clients_dropped_total") == 0
    seen = list(range(1, 1 + len(numbers(stuck.history()))))
    publisher.call("predict", BIG)
    assert len(seen) > 140
    assert stuck.receive()[1]["seq"] == 151


def test_many_captions_at_once_cut_nobody_off(start_relay: StartRelay, connect: Connect) -> None:
    """A viewer that reads gets its turn while a publisher sends without waiting."""
    relay = start_relay()
    viewer, publisher = connect(relay), connect(relay, PUBLISHER)
    viewer.history()
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(lambda: [viewer.receive()[1]["seq"] for _ in range(100)])
        for _ in range(100):
            publisher.send("predict", BIG)
    live = reading.result(60)
    assert live == list(range(1, 101))
    assert relay.metric("relay_clients_dropped_total") == 0


# Its last seconds


def test_a_relay_that_stops_is_first_not_ready_and_then_closed(
    settings_of: Callable[..., Settings],
) -> None:
    settings = settings_of(RELAY_ASYNC_MODE="threading", RELAY_TOKEN=TOKEN)
    async_modes.prepare(settings)
    app = create_app(settings)
    relay = app.extensions["relay"]
    publisher = app.extensions["socketio"].test_client(app, auth=PUBLISHER)
    relay.stopping = True
    assert app.test_client().get("/readyz").status_code == 503
    assert publisher.emit("predict", {"caption": "a"}, callback=True) == {"ok": True, "seq": 1}
    relay.closed = True
    answer = publisher.emit("predict", {"caption": "b"}, callback=True)
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert relay.history.last_seq() == 1
    relay.history.close()


@pytest.mark.parametrize("mode", ["eventlet", "threading"])
def test_what_was_accepted_before_the_end_is_acknowledged(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    """SIGTERM while captions pour in: the history holds what was acknowledged, and nothing else."""
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    publisher = connect(relay, PUBLISHER)
    viewer = connect(relay)
    viewer.history()

    with ThreadPoolExecutor() as pool:
        live, ended = pool.submit(viewer.rest), pool.submit(publisher.rest)

        def pour() -> int:
            sent = 0
            with contextlib.suppress(OSError, websocket.WebSocketException):
                while not ended.done():
                    if sent - len(publisher.acks) < 50:
                        sent = publisher.send("predict", {"caption": "a"})
                    else:
                        time.sleep(0.001)
            return sent

        sent = pool.submit(pour)
        wait_until(lambda: len(publisher.acks) > 100)
        assert relay.stop() == 0
    taken = [answer["seq"] for answer in publisher.acks.values() if answer["ok"]]
    refused = [answer for answer in publisher.acks.values() if not answer["ok"]]
    assert taken == list(range(1, 1 + len(taken)))
    assert all(answer["retry"] for answer in refused)
    assert len(taken) > 100
    assert len(taken) + len(refused) <= sent.result()
    relay.start()
    assert numbers(connect(relay, {"last_seq": 0}).history()) == taken
    assert [data["seq"] for _, data in live.result()] == taken
