"""Limits that the libraries below the relay leave open, each for a stranger with one connection.

All of it concerns python-socketio 5, python-engineio 4 and eventlet 0.4x, and can go when they
have limits of their own.
"""

from __future__ import annotations

import importlib
import logging
import socket
import threading
import time
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

import engineio.socket
from socketio.packet import Packet

from common.listening import raise_file_limit

MAX_ATTACHMENTS = 1  # a thumbnail as bytes
MAX_CONNECTIONS = 8_000
# Bytes that may wait for one client. In bytes, since one message has from a hundred of them to half
# a million: this is some 500 captions with their photos, and more than any piece of history.
MAX_WAITING = 4_000_000
TOO_SLOW = "too slow"  # why a client was disconnected


class BoundedPacket(Packet):
    """A Socket.IO packet of few attachments; the library lets 10^10 be announced and piled up."""

    def decode(self, encoded_packet: Any) -> int:
        """Raises ValueError, at which the library drops the packet."""
        attachments: int = super().decode(encoded_packet) or 0
        if attachments > MAX_ATTACHMENTS:
            raise ValueError("too many attachments")
        return attachments


class BoundedSocket(engineio.socket.Socket):
    """A client's connection that is cut when the client does not take what waits for it.

    Attributes:
        sent: bytes for the client since it connected,
        written: and those of them that the network has taken.
    """

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
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
        """Handle a packet from the client, and then let all others have their turn.

        A client that sends without pause, whatever it is and however it is answered, would else
        keep an event loop to itself: viewers could not take what waits for them, and the relay
        could not end.
        """
        try:
            super().receive(pkt)
        finally:
            self.server.sleep(0)

    def poll(self) -> list[Any]:
        """Wait for packets to write. Whoever asks for more has written those it got before."""
        self.written += self._handed
        self._handed = 0
        packets: list[Any] = super().poll()
        self._handed = sum(map(_size, packets))
        return packets

    def cut(self, reason: str) -> None:
        """End the connection at once, and drop what waits for the client.

        Not in form: a client takes that for a break and connects again, while python-socketio's
        stays away after a formal goodbye.
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
            with suppress(OSError):  # wakes who waits to write to it or to read from it
                connection.shutdown(socket.SHUT_RDWR)

    def _websocket_handler(self, ws: Any) -> Any:
        self._websocket = ws
        try:
            return super()._websocket_handler(ws)
        except (ValueError, IndexError):  # what came was no packet; engineio leaves all as it was
            self.upgrading = False
            if self.upgraded and not self.closed:
                self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_ERROR)
            return []


def _size(packet: Any) -> int:
    """Bytes of an Engine.IO packet; Socket.IO's JSON is ASCII."""
    data = packet.data
    return len(data) if isinstance(data, (str, bytes)) else 0


def bound_waiting(kind: type[BoundedSocket] = BoundedSocket) -> None:
    """Let every Engine.IO server of this process bound what waits for a client."""
    engineio.socket.Socket = kind


def bound_disconnect(eio: Any) -> None:
    """Let nobody wait for a client to leave: what hangs up on it is often its own request.

    engineio's `disconnect` waits until the client has taken all that is queued for it, and a client
    that has sent nonsense by long polling may never ask for it.
    """

    def disconnect(sid: str) -> None:
        client = eio.sockets.get(sid)
        if client is not None:
            client.close(wait=False, reason=eio.reason.SERVER_DISCONNECT)

    eio.disconnect = disconnect


def bound_requests(eio: Any) -> None:
    """Let a post to a session that was closed a moment ago be refused; engineio fails on it."""
    original = eio.handle_request

    def handle_request(environ: dict[str, Any], start_response: Any) -> Any:
        for sid in parse_qs(environ.get("QUERY_STRING", "")).get("sid", []):
            if sid in eio.sockets and eio.sockets[sid].closed:
                del eio.sockets[sid]
        return original(environ, start_response)

    eio.handle_request = handle_request


def bound_eventlet() -> None:
    """Let eventlet's WebSockets limit a whole message, not only each of its fragments.

    They also take the mask off what comes in byte by byte, in Python, and everybody waits for that:
    a fifth of a second for each megabyte that anybody sends. Here it takes milliseconds.
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


def raise_connection_limit() -> int:
    """Allow this process more open files, if it may have them; the connections that it can take.

    Fewer connections than files: when no file is left, accepting fails and ends the server.
    """
    files = raise_file_limit(MAX_CONNECTIONS + 100)
    return max(files - 100, files // 2)


class BriefFilter(logging.Filter):
    """For the libraries' loggers: a line an error, without traceback, each kind once a minute.

    What a client sends in disorder they report as an error, with a traceback, each time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log `record`, which is shortened."""
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            record.msg = f"{record.getMessage()}: {type(error).__name__}: {str(error)[:200]}"
            record.args, record.exc_info, record.exc_text = (), None, None
        kind, now = str(record.msg)[:60], time.monotonic()
        if now - self._last.get(kind, -60.0) < 60:
            return False
        if len(self._last) > 1_000:
            self._last.clear()
        self._last[kind] = now
        return True
