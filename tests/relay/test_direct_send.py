"""Messages that are written directly: whole frames, in order, to fast and slow viewers alike."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import engineio
import pytest
from engineio.packet import MESSAGE, Packet
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, TextMessage

from common.listening import listen
from SocketIO_server.transport.direct_send import DirectSocket, Line, frame_of
from tests.kit import ROOT
from tests.kit.clients import JPEG, Client, WireClient, numbers
from tests.kit.servers import TOKEN, Relay, wait_until

StartRelay = Callable[..., Relay]
PUBLISHER = {"token": TOKEN, "viewer": False}
PHOTO = "data:image/jpeg;base64," + base64.b64encode(JPEG.ljust(150_000, b"\0")).decode()


class PingedClient(WireClient):
    """Counts the pings that it answers."""

    pings = 0

    def _recv(self) -> str:
        text = super()._recv()
        self.pings += text == "2"
        return text


Connect = Callable[..., PingedClient]

MODES = [
    "eventlet",
    pytest.param(
        "gevent",
        marks=pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed"),
    ),
]

# A relay that pings often, and that gives up soon when nobody answers.
IMPATIENT = """
import functools, sys
sys.path.insert(0, {root!r})
from SocketIO_server import server
import flask_socketio
flask_socketio.SocketIO = functools.partial(
    flask_socketio.SocketIO, ping_interval=0.2, ping_timeout=0.4
)
sys.exit(server.main())
"""


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    started: list[Relay] = []

    def start(**options: Any) -> Relay:
        started.append(Relay(tmp_path / "state", **options))
        return started[-1]

    yield start
    for relay in started:
        relay.kill()
        assert "Traceback" not in relay.output


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[PingedClient] = []

    def make(relay: Relay, auth: dict[str, Any] | None = None, **options: Any) -> PingedClient:
        clients.append(PingedClient(relay, auth, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 300_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_frames_are_what_a_client_reads(kind: type, size: int) -> None:
    message = "ü" * (size // 2) + "u" * (size % 2) if kind is str else bytes(size)
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame_of(message) * 2)
    events = list(client.events())
    assert {type(event) for event in events} == {TextMessage if kind is str else BytesMessage}
    parts = [event for event in events if isinstance(event, (TextMessage, BytesMessage))]
    assert kind().join(part.data for part in parts) == message * 2
    assert [part.message_finished for part in parts].count(True) == 2


class Waiting:
    """A socket that waits, with one inside that does not: as eventlet has them."""

    def __init__(self, fd: socket.socket) -> None:
        self.fd = fd

    def sendall(self, data: bytes) -> None:
        self.fd.setblocking(True)
        self.fd.sendall(data)
        self.fd.setblocking(False)


def test_the_rest_of_a_frame_goes_before_everything_else() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        line = Line(Waiting(ours), threading.Lock())
        assert line.send_at_once(b"first") == 5
        big = bytes(range(256)) * 20_000
        sent = line.send_at_once(big)
        assert 0 < sent < len(big)
        received = bytearray()
        while len(received) < sent:  # so that there is room again
            received += theirs.recv(1 << 16)
        assert line.send_at_once(b"not now") == 0

        def read() -> None:
            while data := theirs.recv(1 << 16):
                received.extend(data)

        reader = threading.Thread(target=read)
        reader.start()
        line.send(b"second")
        assert line.send_at_once(b"third") == 5
        ours.shutdown(socket.SHUT_RDWR)
        reader.join()
        assert received == b"first" + big + b"second" + b"third"


def test_while_somebody_writes_nobody_else_does() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        lock = threading.Lock()
        line = Line(Waiting(ours), lock)
        with lock:
            assert line.send_at_once(b"a") == 0
        theirs.close()
        assert line.send_at_once(b"a") == 0  # broken: it is left to the writing task


def test_the_end_of_a_message_does_not_wait_for_an_acknowledgement() -> None:
    with (
        closing(listen("127.0.0.1", 0, "RELAY")) as listener,
        socket.create_connection(listener.getsockname()[:2]),
        listener.accept()[0] as ours,
    ):
        assert ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_follows_a_rest_stays_behind_it() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        ours.setblocking(False)
        server = engineio.Server(async_mode="threading")
        server.start_background_task = lambda task: task  # which is never run
        client = DirectSocket(server, "sid")
        client._line = Line(Waiting(ours), threading.Lock())
        client.upgraded = True
        client.last_ping = None
        client.send(Packet(MESSAGE, "first"))
        assert client.queue.empty()
        assert theirs.recv(100) == frame_of("4first")
        client.send(Packet(MESSAGE, "u" * 1_000_000))
        assert 0 < client.waiting == len(client._line.rest) < 1_000_000
        client._line.rest = b""  # as if an answer to a WebSocket's ping had pushed it out
        while len(theirs.recv(1 << 20)) == 1 << 20:
            pass
        client.send(Packet(MESSAGE, "second"))
        client.send(Packet(MESSAGE, "third"))
        queued = [client.queue.get(block=False).encode() for _ in range(3)]
        assert queued == ["6", "4second", "4third"]  # 6 is for nobody, see `DirectSocket.send`


@pytest.mark.parametrize("mode", MODES)
def test_a_slow_viewer_gets_whole_frames_in_order(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    publisher = connect(relay, PUBLISHER)
    slow = connect(relay, receive_buffer=4096)
    slow.history()
    seq = 0
    while relay.metric("relay_waiting_bytes") < 1_000_000:
        for more in ({"thumbnail": PHOTO}, {}):
            seq += 1
            assert publisher.call("predict", {"caption": "a", **more}) == {"ok": True, "seq": seq}
        slow.socket.ping()  # the answer must not get into the middle of a frame
    received = [slow.receive()[1] for _ in range(seq)]
    assert [caption["seq"] for caption in received] == list(range(1, seq + 1))
    assert [caption.get("thumbnail") for caption in received] == [PHOTO, None] * (seq // 2)
    wait_until(lambda: relay.metric("relay_waiting_bytes") == 0)
    assert publisher.call("predict", {"caption": "a"})["ok"]
    assert slow.receive()[1]["seq"] == seq + 1


@pytest.mark.parametrize("mode", MODES)
def test_a_viewer_that_gets_captions_and_answers_pings_stays(
    start_relay: StartRelay, connect: Connect, tmp_path: Path, mode: str
) -> None:
    script = tmp_path / "impatient.py"
    script.write_text(IMPATIENT.format(root=str(ROOT)))
    relay = start_relay(script=script, RELAY_ASYNC_MODE=mode)
    publisher, viewer = connect(relay, PUBLISHER), connect(relay)
    viewer.history()
    seq = 0
    while viewer.pings < 8:
        seq += 1
        assert publisher.call("predict", {"caption": "a"})["seq"] == seq
        assert viewer.receive()[1]["seq"] == seq


@pytest.mark.parametrize("mode", MODES)
def test_viewers_that_change_from_polling_to_websocket_miss_nothing(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    publisher = connect(relay, PUBLISHER)
    stop = threading.Event()
    sent = []

    def publish() -> None:
        while not stop.is_set():
            sent.append(publisher.call("predict", {"caption": "a"})["seq"])

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        clients = [Client(relay) for _ in range(5)]
        assert {client.sio.transport() for client in clients} == {"websocket"}
    finally:
        stop.set()
        thread.join()

    def seen(client: Client) -> list[int]:
        return numbers(client.of("history")) + [c["seq"] for c in client.of("prediction")]

    def misses(client: Client) -> bool:  # its library may handle the last caption before others
        got = {*seen(client)}
        return not got or not got.issuperset(range(min(got), sent[-1] + 1))

    wait_until(lambda: not any(map(misses, clients)))
    for client in clients:
        first = min(seen(client))
        assert sorted(seen(client)) == list(range(first, sent[-1] + 1))
        client.close()
