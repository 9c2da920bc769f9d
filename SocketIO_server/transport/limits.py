"""Limits that the libraries do not have, each against one client with one connection."""

from __future__ import annotations

import functools
import importlib
import logging
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import engineio
import engineio.socket
import socketio
from engineio.exceptions import SocketIsClosedError
from engineio.packet import PING
from engineio.packet import Packet as EnginePacket
from socketio.packet import Packet

log = logging.getLogger("relay")

MAX_ATTACHMENTS = 1  # a thumbnail as bytes
# Bytes that may wait for one client. In bytes, since one message has from a hundred of them to half
# a million: this is some 500 captions with their photos, and more than any piece of history.
MAX_WAITING = 4_000_000
TOO_SLOW = "too slow"  # why a client was disconnected


class BoundedPacket(Packet):
    """A Socket.IO packet with few attachments; the library lets a client announce 10^10.

    What the relay sends has none at all, so it is not searched for bytes.
    """

    uses_binary_events = False

    def decode(self, encoded_packet: Any) -> int:
        """Raises ValueError, at which the library drops the packet."""
        attachments: int = super().decode(encoded_packet) or 0
        if attachments > MAX_ATTACHMENTS:
            raise ValueError("too many attachments")
        return attachments


class BoundedSocket(engineio.socket.Socket):
    """A client's connection that is cut when the client does not take what waits for it.

    Attributes:
        sent: bytes for the client since it connected.
        written: those of them that the network has taken.
    """

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
        self.last_ping: float | None = self.last_ping  # when it was sent; None: answered
        self.sent = self.written = 0
        self._handed = 0  # bytes that are being written
        self._lock = threading.Lock()
        self._websocket: Any = None

    @property
    def waiting(self) -> int:
        """Bytes that the network has not taken yet."""
        return self.sent - self.written

    def send(self, pkt: Any) -> None:
        """Put a packet into the queue, without waiting; or cut the connection."""
        if not self.closed and self.waiting > MAX_WAITING:
            self.cut(TOO_SLOW)
            return
        with self._lock:
            self.sent += _size(pkt)
        super().send(pkt)

    def receive(self, pkt: Any) -> None:
        """Handle a packet from the client, then give all other tasks a turn.

        Otherwise a client that sends without pause keeps the event loop to itself, however it is
        answered: viewers cannot take what waits for them, and the relay cannot stop.
        """
        try:
            super().receive(pkt)
        finally:
            self.server.sleep(0)

    def schedule_ping(self) -> None:
        """Have a ping sent after the server's interval, unless one is on its way.

        engineio starts a task for each ping, which then sleeps: some 10 kB a client, all the time.
        """
        if self.last_ping:
            self.last_ping = None
            self.server.pings.add(self)

    def ping(self) -> None:
        """Send a ping now; from now on the client has the server's `ping_timeout` to answer."""
        if not self.closing and not self.closed:
            self.last_ping = time.time()
            self.send(EnginePacket(PING))

    def poll(self) -> list[Any]:
        """Wait for packets to write. The caller has written those that it got before."""
        self.count_written()
        packets: list[Any] = super().poll()
        self._handed = sum(map(_size, packets))
        return packets

    def count_written(self) -> None:
        """Count what `poll` gave as written."""
        self.written += self._handed
        self._handed = 0

    def cut(self, reason: str) -> None:
        """End the connection at once, and drop what waits for the client.

        Without a goodbye: a client takes this for a broken connection and connects again, while
        python-socketio's stays away after a goodbye.
        """
        with suppress(self.server.get_queue_empty_exception()):
            while True:
                self.queue.get(block=False)
        self.written, self._handed = self.sent, 0
        self.close(wait=False, abort=True, reason=reason)
        # eventlet's WebSocket has its socket, engineio's one for threads and gevent a WebSocket
        websocket = getattr(self._websocket, "ws", self._websocket)
        connection = getattr(websocket, "socket", getattr(websocket, "sock", None))
        if connection is not None:
            with suppress(OSError):  # wakes the tasks that wait to read from it or write to it
                connection.shutdown(socket.SHUT_RDWR)

    def _websocket_handler(self, ws: Any) -> Any:
        self._websocket = ws
        try:
            self._serve_websocket(ws)
        except (ValueError, IndexError):  # not a packet; engineio does not clean up
            self.upgrading = False
            if self.upgraded and not self.closed:
                self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_ERROR)
        return []

    def _serve_websocket(self, ws: Any) -> None:
        super()._websocket_handler(ws)


def _size(packet: Any) -> int:
    """Bytes of an Engine.IO packet; Socket.IO's JSON is ASCII."""
    data = packet.data
    return len(data) if isinstance(data, (str, bytes)) else 0


class Pings:
    """The clients that get a ping next, and the one task that sends all of them.

    Each waits equally long, so they are in order.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._due: deque[tuple[float, BoundedSocket]] = deque()
        self._begun = threading.Lock()

    def add(self, client: BoundedSocket) -> None:
        """Have a ping sent to this client after the server's interval."""
        self._due.append((time.monotonic() + self._server.ping_interval, client))
        if self._begun.acquire(blocking=False):
            self._server.start_background_task(self._send)

    def _send(self) -> None:
        while True:
            now = time.monotonic()
            while self._due and self._due[0][0] <= now:
                try:
                    self._due.popleft()[1].ping()
                except SocketIsClosedError:  # meanwhile
                    continue
                except Exception:  # without this task, all clients would be taken for gone
                    log.exception("A ping could not be sent.")
            wait = self._due[0][0] - now if self._due else self._server.ping_interval
            self._server.sleep(max(wait, 0.01))


class BoundedServer(engineio.Server):
    """An Engine.IO server that waits for no client, and refuses posts to a closed session.

    Attributes:
        pings: of all its clients.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pings = Pings(self)

    def disconnect(self, sid: str | None = None) -> None:
        """Close a client's session, or all of them.

        engineio waits until the client has taken all that is queued for it. A client that has sent
        nonsense by long polling may never ask for it, and its own request is often what waits.
        """
        for client in list(self.sockets.values()) if sid is None else [self.sockets.get(sid)]:
            if client is not None:
                client.close(wait=False, reason=self.reason.SERVER_DISCONNECT)

    def handle_request(self, environ: dict[str, Any], start_response: Any) -> Any:
        """Answer a request. engineio fails on a post to a session that was closed just now."""
        for sid in parse_qs(environ.get("QUERY_STRING", "")).get("sid", []):
            if sid in self.sockets and self.sockets[sid].closed:
                del self.sockets[sid]
        return super().handle_request(environ, start_response)


def install(kind: type[BoundedSocket]) -> None:
    """Give every Socket.IO server of this process bounded connections of this kind."""
    engineio.socket.Socket = kind
    socketio.Server._engineio_server_class = lambda _: BoundedServer


@functools.cache
def install_for_eventlet() -> None:
    """Let eventlet's WebSockets limit a whole message, not only each of its fragments.

    They also unmask what comes in byte by byte, in Python. That blocks all clients for a fifth of a
    second for each megabyte that anybody sends. `unmask` takes milliseconds.
    """
    websocket: Any = importlib.import_module("eventlet.websocket")
    original: Any = websocket.RFC6455WebSocket

    class Message(original.Message):
        size = 0

        def push(self, data: bytes, final: bool = False) -> None:
            self.size += len(data)
            if self.size > self.max_frame_length:
                raise websocket.FailedConnectionError(1009, "The message is too large.")
            super().push(data, final)

    class BoundedWebSocket(original):
        pass

    BoundedWebSocket.Message = Message
    BoundedWebSocket._apply_mask = staticmethod(unmask)
    websocket.RFC6455WebSocket = BoundedWebSocket


def unmask(data: bytes, mask: tuple[int, ...], length: int | None = None, offset: int = 0) -> bytes:
    """RFC 6455, section 5.3: byte i of `data` XOR byte (offset + i) mod 4 of `mask`."""
    size = len(data) if length is None else length
    start = offset % 4
    key = (bytes(mask[start:] + mask[:start]) * (size // 4 + 1))[:size]
    return (int.from_bytes(data[:size], "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")
