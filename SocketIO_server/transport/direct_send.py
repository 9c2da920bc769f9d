"""Messages are written to the network directly, under eventlet and gevent.

engineio puts each message into a queue of each client. A task of that client takes it from there,
makes a WebSocket frame and writes it: for a caption and 500 viewers, that is 500 timers, 1,000 task
switches and 500 equal frames, and was most of a broadcast. Here the frame is made once, and the
task that broadcasts writes it to each client that has nothing queued. What the network does not
take at once goes through the queue, and a task takes it from there; as does everything for clients
without a WebSocket.
"""

from __future__ import annotations

import logging
import struct
from typing import Any

from engineio.exceptions import SocketIsClosedError, UnknownPacketError
from engineio.packet import NOOP, PING, PONG, UPGRADE, Packet

from SocketIO_server.transport.async_modes import make_lock
from SocketIO_server.transport.limits import BoundedSocket

log = logging.getLogger("relay")


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
    """A client's connection to which packets are written directly, if nothing is queued for it.

    What is queued is written by a task that then ends. engineio has one for each client, which
    waits most of the time, some 10 kB each.
    """

    connected: bool

    def __init__(self, server: Any, sid: str) -> None:
        super().__init__(server, sid)
        self._line: Any = None
        self._writing: Any = None  # the task that writes what is queued, while there is one

    def send(self, pkt: Any) -> None:
        """Write as much of a packet as goes without waiting, and leave the rest to a task."""
        if self.upgraded and self._writing is None and self.queue.empty():
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
        super().send(pkt)
        self._write_queued()

    def close(self, wait: bool = True, abort: bool = False, reason: Any = None) -> None:
        """End the session, and its WebSocket when all that is queued has been written."""
        if self.closed or self.closing:
            return
        super().close(wait=False, abort=abort, reason=reason)
        self._write_queued()
        if wait:
            self.queue.join()

    def _write_queued(self) -> None:
        if self.upgraded and self._writing is None:
            self._writing = self.server.start_background_task(self._write)

    def _write(self) -> None:
        """Write what is queued, until there is nothing more, or the session has ended."""
        websocket = self._websocket
        try:
            while not self.queue.empty():
                packets = self.poll()
                if not packets:
                    self._hang_up()
                    return
                for packet in packets:
                    websocket.send(packet.encode())
        except Exception:  # the connection is broken
            self._hang_up()  # which ends the task that reads from it, and the session
        else:
            self.count_written()
            self._writing = None

    def _hang_up(self) -> None:
        if self._line.fileno() >= 0:  # else the client's goodbye has closed it
            self._websocket.close()

    def _serve_websocket(self, ws: Any) -> None:
        websocket = getattr(ws, "ws", ws)  # simple-websocket's, or eventlet's
        name = "sock" if hasattr(websocket, "sock") else "socket"
        self._line = Line(getattr(websocket, name), make_lock(self.server.async_mode))
        setattr(websocket, name, self._line)
        if name == "socket":  # simple-websocket waits for its own task
            self._line.settimeout(self.server.ping_interval + self.server.ping_timeout)
        if self.connected and not self._is_upgrade(ws):
            return
        self.connected = self.upgraded = True
        self._write_queued()
        self._read(ws)
        self.close(wait=False, abort=True, reason=self.server.reason.TRANSPORT_CLOSE)
        if self._writing is not None:  # else another task is about to close the session,
            self._writing.join()
            self._writing = None
        self.upgraded = False  # and has nothing to write to

    def _is_upgrade(self, ws: Any) -> bool:
        """Whether a client that has polled goes on over this WebSocket."""
        self.upgrading = True  # meanwhile, packets are kept back
        try:
            probe = Packet(encoded_packet=ws.wait())
            if (probe.packet_type, probe.data) != (PING, "probe"):
                return False
            ws.send(Packet(PONG, data="probe").encode())
            self.queue.put(Packet(NOOP))  # ends the client's last poll
            return bool(Packet(encoded_packet=ws.wait()).packet_type == UPGRADE)
        finally:
            self.upgrading = False

    def _read(self, ws: Any) -> None:
        """Handle what the client sends, until the connection or the session ends."""
        while True:
            try:
                data = ws.wait()
            except Exception:  # broken, or silent for too long
                return
            if data is None or len(data) > self.server.max_http_buffer_size:
                return
            try:
                packet = Packet(encoded_packet=data)
            except (ValueError, IndexError):  # not a packet
                return
            try:
                self.receive(packet)
            except UnknownPacketError:
                continue
            except SocketIsClosedError:
                return
            except Exception:
                log.exception("A client's packet could not be handled.")
                return


def frame_of(message: str | bytes) -> bytes:
    """A message as one WebSocket frame from a server, not compressed (RFC 6455, section 5.2)."""
    kind, data = (0x81, message.encode()) if isinstance(message, str) else (0x82, message)
    if len(data) < 126:
        return struct.pack("!BB", kind, len(data)) + data
    if len(data) < 1 << 16:
        return struct.pack("!BBH", kind, 126, len(data)) + data
    return struct.pack("!BBQ", kind, 127, len(data)) + data
