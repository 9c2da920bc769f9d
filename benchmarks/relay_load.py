"""The load of `benchmarks.relay`: many viewers and one publisher, in one process and one thread.

It shares the processor with the server, so its own work is in every figure. It is therefore no
Socket.IO library but the few bytes of Engine.IO 4 and Socket.IO 5 that are needed, over WebSockets:
"0" open, "2" ping, "3" pong, "40" connect, "42" event, "43" acknowledgement.

Reads the publisher's token from stdin. Writes a line when all viewers are connected, and a line of
JSON when it is through; stays connected until stdin is closed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import re
import selectors
import socket
import struct
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

WARM_UP = 5  # predictions that are sent before those that count
PATIENCE = 60.0  # seconds without a prediction after which those that are missing count as lost

_buffer = memoryview(bytearray(1 << 18))


class TurnedAwayError(ConnectionError):
    """The server has no room now.

    Attributes:
        retry_after: seconds after which it may have.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("The server has no room now.")
        self.retry_after = retry_after


class Connection:
    """A Socket.IO client on a WebSocket, connected when this returns.

    Args:
        waits: False: it is only being connected when this returns. The socket never waits then;
            `ask` comes next, when it can be written to.
    """

    def __init__(self, port: int, auth: dict[str, Any], waits: bool = True) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(PATIENCE if waits else 0)
        self._port = port
        self._auth = json.dumps(auth)
        self._rest = b""  # of a message whose end has not arrived yet
        self._is_open = False
        self.received = 0  # predictions
        if not waits:
            self.socket.connect_ex(("127.0.0.1", port))
            return
        self.socket.connect(("127.0.0.1", port))
        self.ask()
        while not self._is_open:
            self._rest += self._receive()
            self._read_head()

    def ask(self) -> None:
        """Ask for the WebSocket, once there is a connection."""
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{self._port}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n".encode()  # as browsers do
        )

    def _read_head(self) -> None:
        """Connect, if the answer to the handshake has come whole."""
        head, end, rest = self._rest.partition(b"\r\n\r\n")
        if not end:
            return
        if later := re.search(rb"\r\nretry-after: (\d+)", head, re.IGNORECASE):
            raise TurnedAwayError(int(later[1]))
        if b" 101 " not in head or b"permessage-deflate" in head:
            raise ConnectionError(head.decode(errors="replace"))
        self._rest = rest
        self._is_open = True
        self.send("40" + self._auth)

    def _receive(self) -> bytes:
        count = self.socket.recv_into(_buffer)
        if not count:
            raise ConnectionError("The server has closed a connection.")
        return bytes(_buffer[:count])

    def messages(self) -> list[bytes]:
        """The messages that have come whole, after one read; pings are answered."""
        self._rest += self._receive()
        if not self._is_open:
            self._read_head()
            if not self._is_open:
                return []
        data, found, position = self._rest, [], 0
        while len(data) >= position + 2:
            length, start = data[position + 1], position + 2
            if length == 126:
                length, start = int.from_bytes(data[start : start + 2], "big"), start + 2
            elif length == 127:
                length, start = int.from_bytes(data[start : start + 8], "big"), start + 8
            if len(data) < start + length:
                break
            position = start + length
            found.append(data[start:position])
            if found[-1] == b"2":
                self.send("3")
        self._rest = data[position:]
        return found

    def wait_for(self, start: bytes) -> None:
        """Read until there has been a message that begins so."""
        while not any(message.startswith(start) for message in self.messages()):
            pass

    def send(self, text: str) -> None:
        """Send a message, with a mask of zeros: RFC 6455 wants one, and any will do."""
        data = text.encode()
        if len(data) < 126:
            head = struct.pack("!BB", 0x81, 0x80 | len(data))
        elif len(data) < 1 << 16:
            head = struct.pack("!BBH", 0x81, 0x80 | 126, len(data))
        else:
            head = struct.pack("!BBQ", 0x81, 0x80 | 127, len(data))
        self.socket.sendall(head + b"\0\0\0\0" + data)


def prediction(number: int, size: int) -> dict[str, Any]:
    """A prediction as app1 sends it, of `size` bytes as JSON; most of it is the thumbnail."""
    caption = "A dog runs through the grass with a ball in its mouth."
    payload: dict[str, Any] = {
        "caption": caption,
        "id": f"{time.time_ns():x}-{number:06}",
        "image_path": "photo.jpg",
        "candidates": [{"caption": caption, "probability": 0.75 / i} for i in (1, 2, 3)],
        "words": [{"word": word, "probability": 0.75} for word in caption.lower().split()],
        "confident": True,
        "created_at": "2026-01-31T12:00:00Z",
        "model": "inception-v3-lstm",
        "elapsed_ms": 80.5,
        "thumbnail": "data:image/jpeg;base64,",
    }
    room = (size - len(json.dumps(payload))) // 4 * 3
    if room < 3:
        raise ValueError(f"A prediction of {size} bytes is too small; take at least 1500.")
    payload["thumbnail"] += base64.b64encode(b"\xff\xd8\xff" + os.urandom(room - 3)).decode()
    return payload


@contextmanager
def connected(port: int, token: str, viewers: int) -> Iterator[tuple[Connection, list[Connection]]]:
    """A publisher and so many viewers, all of them live."""
    with ExitStack() as stack:
        publisher = Connection(port, {"token": token, "viewer": False})
        stack.callback(publisher.socket.close)
        publisher.wait_for(b"40")
        live = []
        for _ in range(viewers):
            live.append(Connection(port, {}))
            stack.callback(live[-1].socket.close)
            live[-1].wait_for(b'42["history"')  # it is live after that
        yield publisher, live


def load(
    publisher: Connection, viewers: list[Connection], count: int, size: int, pace: float
) -> dict[str, Any]:
    """Publish `count` predictions, one each `pace` seconds, and time how they come to viewers.

    Returns:
        `sent`, how many were published, with those that warm up. And milliseconds from the moment
        before a prediction is sent: `arrivals`, at each viewer, and `acknowledged`, at the
        publisher; `first` and `last`, of the viewers, for each prediction.

    Raises:
        RuntimeError: not every viewer got every prediction once and in order, or one was refused.
    """
    selector = selectors.DefaultSelector()
    for connection in (publisher, *viewers):
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    total = WARM_UP + count
    payloads = [prediction(i, size) for i in range(total)]
    texts = [f"42{i}" + json.dumps(["predict", payload]) for i, payload in enumerate(payloads)]
    marks = [payload["id"].encode() for payload in payloads]
    sent: list[float] = []
    arrivals: list[list[float]] = [[] for _ in range(total)]
    acknowledged: dict[int, float] = {}
    lost_at = time.perf_counter() + PATIENCE
    due = time.perf_counter()
    left = total * len(viewers)
    while left or len(acknowledged) < total:
        now = time.perf_counter()
        if len(sent) < total and now >= due:
            due += pace
            sent.append(time.perf_counter())
            publisher.send(texts[len(sent) - 1])
        ready = selector.select(max(0.0, due - now) if len(sent) < total else 1.0)
        if time.perf_counter() > lost_at:
            raise RuntimeError(f"{left} predictions have not arrived.")
        for key, _ in ready:
            connection = key.data
            for message in connection.messages():
                if message.startswith(b'42["prediction"'):
                    lost_at = time.perf_counter() + PATIENCE
                    number = connection.received
                    connection.received += 1
                    if number >= total or marks[number] not in message:
                        raise RuntimeError("A viewer got a prediction out of order, or twice.")
                    arrivals[number].append(1000 * (time.perf_counter() - sent[number]))
                    left -= 1
                elif message.startswith(b"43"):
                    number = int(message[2 : message.index(b"[")])
                    acknowledged[number] = 1000 * (time.perf_counter() - sent[number])
                    if not json.loads(message[message.index(b"[") :])[0]["ok"]:
                        raise RuntimeError(message.decode())
    selector.close()
    return {
        "sent": total,
        "arrivals": [ms for of_one in arrivals[WARM_UP:] for ms in of_one],
        "first": [min(of_one) for of_one in arrivals[WARM_UP:]],
        "last": [max(of_one) for of_one in arrivals[WARM_UP:]],
        "acknowledged": [acknowledged[number] for number in range(WARM_UP, total)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("port", "viewers", "count", "size"):
        parser.add_argument(name, type=int)
    parser.add_argument("pace", type=float)
    arguments = parser.parse_args()
    token = sys.stdin.readline().strip()  # not an argument, which everybody can read
    with connected(arguments.port, token, arguments.viewers) as (publisher, viewers):
        print("connected", flush=True)
        times = load(publisher, viewers, arguments.count, arguments.size, arguments.pace)
        print(json.dumps(times), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
