"""Messages that go to the network at once, under eventlet.

engineio puts each message into a queue of each client, from which a task of that client takes it,
makes a WebSocket frame of it and writes it: for a caption and 500 viewers, 500 timers, 1,000
switches and 500 equal frames. That was most of a broadcast. Here the frame is made once, and who
broadcasts it writes it to each client for which nothing waits. What the network does not take at
once goes the old way, and so does everything for clients without a WebSocket.

It concerns python-engineio 4 and eventlet 0.4x.
"""

from __future__ import annotations

import importlib
from typing import Any

from engineio.packet import MESSAGE, Packet

from SocketIO_server.bounds import BoundedSocket


class Rest(bytes):
    """The end of a frame of which the network has taken the beginning."""


class DirectSocket(BoundedSocket):
    """A client's connection to which messages are written at once, if nothing waits for it."""

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
        self._writer_waits = False  # the task that writes to the client, for an empty queue

    def send(self, pkt: Any) -> None:
        """Write a packet as far as that goes without waiting, and leave the rest to the queue."""
        # Only messages: the writing task gives a client up for which it has had no ping to write.
        if self._writer_waits and pkt.packet_type == MESSAGE:
            if not self.check_ping_timeout():
                return
            if not hasattr(pkt, "frame"):  # shared by all who get this packet
                pkt.frame = self._websocket._pack_message(pkt.encode())
            sent = self._websocket.send_at_once(pkt.frame)
            if sent == len(pkt.frame):
                return
            if sent:
                pkt = Packet(MESSAGE, self._websocket.rest)
        self._writer_waits = False
        super().send(pkt)

    def poll(self) -> list[Any]:
        """Wait for packets to write."""
        writes_frames = self.upgraded and not self._websocket.extensions
        self._writer_waits = writes_frames and self.queue.empty()
        try:
            return super().poll()
        finally:
            self._writer_waits = False


def let_eventlet_write_at_once() -> None:
    """Give eventlet's WebSockets what `DirectSocket` needs."""
    websocket: Any = importlib.import_module("eventlet.websocket")
    original: Any = websocket.RFC6455WebSocket

    class DirectWebSocket(original):
        rest = Rest()  # of a frame; goes before anything else that is sent

        def send_at_once(self, frame: bytes) -> int:
            """Bytes of the frame that the network has taken; if any, what is left is in `rest`."""
            if self._sendlock.locked() or self.rest:
                return 0
            try:
                sent = int(self.socket.fd.send(frame))  # the socket itself, which never waits
            except OSError:  # full, or broken, which the writing task will find too
                return 0
            if sent < len(frame):
                self.rest = Rest(frame[sent:])
            return sent

        def send(self, message: Any, **options: Any) -> None:
            if isinstance(message, Rest):
                self._send(b"")
            else:
                super().send(message, **options)

        def _send(self, frame: bytes) -> None:
            with self._sendlock:
                rest, self.rest = self.rest, Rest()
                self.socket.sendall(rest + frame)

    websocket.RFC6455WebSocket = DirectWebSocket
