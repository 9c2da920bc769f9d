"""The connections under the Socket.IO clients of one server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from engineio.packet import MESSAGE, Packet
from flask_socketio import SocketIO
from socketio.packet import EVENT

from SocketIO_server.transport.limits import BoundedSocket


class TextQueue:
    """Texts that one task puts in and another takes out; see `Sockets.queue`."""

    def __init__(self, server: Any) -> None:
        self._texts: Any = server.eio.create_queue()
        self._empty: type[Exception] = server.eio.get_queue_empty_exception()

    def put(self, text: str) -> None:
        """Put a text in; this never waits."""
        self._texts.put(text)

    def get(self, seconds: float) -> str | None:
        """The next text, or None if none came in that time."""
        try:
            text: str = self._texts.get(timeout=seconds)
        except self._empty:
            return None
        return text


class Sockets:
    """What waits for each client, and how to end its connection.

    A client is named by its Socket.IO session id. One that has just left has no connection: its
    number of waiting bytes is 0, and ending it does nothing.

    Args:
        socketio: the server, made after `transport.install`.
    """

    def __init__(self, socketio: SocketIO) -> None:
        self._server: Any = socketio.server

    def queue(self) -> TextQueue:
        """A queue that lets other tasks run while one waits for it."""
        return TextQueue(self._server)

    def is_connected(self, sid: str) -> bool:
        """Whether the client's connect event has been answered."""
        return bool(self._server.manager.is_connected(sid, "/"))

    def waiting_for(self, sid: str) -> int:
        """Bytes that the network has not taken yet, for one client."""
        socket = self._socket(sid)
        return 0 if socket is None else socket.waiting

    def waiting(self) -> int:
        """Bytes that the network has not taken yet, for all clients together."""
        return sum(socket.waiting for socket in self._all())

    def taken(self) -> Callable[[], bool]:
        """A function that returns whether the network has taken all that waits now."""
        marks = [(socket, socket.sent) for socket in self._all()]
        return lambda: all(socket.closed or socket.written >= sent for socket, sent in marks)

    def message(self, event: str, payload: Any) -> Any:
        """An event, encoded once for all clients to which it is sent; see `send`."""
        packet = self._server.packet_class(EVENT, data=[event, payload])
        return Packet(MESSAGE, packet.encode())

    def send(self, sid: str, message: Any) -> None:
        """Send a `message` to a client, if it is still there."""
        connection = self._server.manager.eio_sid_from_sid(sid, "/")
        if connection is not None:
            self._server._send_eio_packet(connection, message)

    def disconnect(self, sid: str) -> None:
        """Say goodbye to a client; python-socketio's then does not connect again."""
        self._server.eio.disconnect(self._server.manager.eio_sid_from_sid(sid, "/"))

    def cut(self, sid: str, reason: str) -> None:
        """End the connection at once, without a goodbye, so that the client connects again."""
        socket = self._socket(sid)
        if socket is not None:
            socket.cut(reason)

    def _socket(self, sid: str) -> BoundedSocket | None:
        socket: BoundedSocket | None = self._server.eio.sockets.get(
            self._server.manager.eio_sid_from_sid(sid, "/")
        )
        return socket

    def _all(self) -> list[BoundedSocket]:
        return list(self._server.eio.sockets.values())
