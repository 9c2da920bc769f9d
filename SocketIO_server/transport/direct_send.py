"""Messages are written to the network directly, under eventlet and gevent.

engineio puts each message into a queue of each client. A task of that client takes it from there,
makes a WebSocket frame and writes it: for a caption and 500 viewers, that is 500 timers, 1,000 task
switches and 500 equal frames, and was most of a broadcast. Here the frame is made once, and the
task that broadcasts writes it to each client that has nothing queued. What the network does not
take at once goes through the queue, as does everything for clients without a WebSocket.
"""

from __future__ import annotations

import struct
from typing import Any

from engineio.packet import MESSAGE, NOOP, Packet

from SocketIO_server.transport.async_modes import make_lock
from SocketIO_server.transport.limits import BoundedSocket


class Line:
    """The socket under a WebSocket: writes whole frames, one after the other.

    simple-websocket, which gevent uses, assumes that `send` writes everything.

    Args:
        waiting: a socket of the async mode, whose `sendall` waits for the network.
        lock: held while `sendall` waits.
    """

    def __init__(self, waiting: Any, lock: Any) -> None:
        self.rest = b""  # of a frame whose beginning the network has taken
        self._waiting = waiting
        # the socket inside, which never waits: as eventlet calls it, and as gevent does
        self._plain = waiting.fd if hasattr(waiting, "fd") else waiting._sock
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._waiting, name)

    def send(self, data: bytes) -> None:
        """Write all of it, after the rest of the frame before it; wait for the network."""
        with self._lock:
            rest, self.rest = self.rest, b""
            self._waiting.sendall(rest + data)

    sendall = send

    def send_at_once(self, frame: bytes) -> int:
        """Write without waiting; the number of bytes written. If any, those left are the `rest`."""
        if self._lock.locked() or self.rest:
            return 0
        try:
            sent = int(self._plain.send(frame))
        except OSError:  # full; or broken, which the task that reads from it will notice
            return 0
        if sent < len(frame):
            self.rest = frame[sent:]
        return sent


class DirectSocket(BoundedSocket):
    """A client's connection to which messages are written directly, if nothing is queued for it."""

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
        self._writer_waits = False  # the task that writes to the client, for an empty queue
        self._line: Any = None

    def send(self, pkt: Any) -> None:
        """Write as much of a packet as goes without waiting, and leave the rest to the queue."""
        # Only messages: the writing task gives up a client for which it had no ping to write.
        if self._writer_waits and pkt.packet_type == MESSAGE:
            if not self.check_ping_timeout():
                return
            if not hasattr(pkt, "frame"):  # shared by all who get this packet
                pkt.frame = frame_of(pkt.encode())
            sent = self._line.send_at_once(pkt.frame)
            if sent == len(pkt.frame):
                return
            if sent:
                pkt = Packet(NOOP)  # to write anything, the task has to write the rest first
                pkt.encode()
                pkt.data = self._line.rest  # so that it counts as that many bytes
        self._writer_waits = False
        super().send(pkt)

    def poll(self) -> list[Any]:
        """Wait for packets to write."""
        self._writer_waits = self.upgraded and self.queue.empty()
        try:
            return super().poll()
        finally:
            self._writer_waits = False

    def _websocket_handler(self, ws: Any) -> Any:
        websocket = getattr(ws, "ws", ws)  # simple-websocket's, or eventlet's
        name = "sock" if hasattr(websocket, "sock") else "socket"
        self._line = Line(getattr(websocket, name), make_lock(self.server.async_mode))
        setattr(websocket, name, self._line)
        return super()._websocket_handler(ws)


def frame_of(message: str | bytes) -> bytes:
    """A message as one WebSocket frame from a server, not compressed (RFC 6455, section 5.2)."""
    kind, data = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    if len(data) < 126:
        return struct.pack("!BB", kind, len(data)) + data
    if len(data) < 1 << 16:
        return struct.pack("!BBH", kind, 126, len(data)) + data
    return struct.pack("!BBQ", kind, 127, len(data)) + data
