"""Socket.IO clients of a relay, for tests."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import socketio
import websocket

from tests.kit.servers import Server

PATIENCE = 60.0  # seconds
JPEG = b"\xff\xd8\xff\xe0" + bytes(range(256)) * 4 + b"\xff\xd9"


class Client:
    """python-socketio's client. It runs handlers side by side, so the order of events is lost."""

    def __init__(self, relay: Server, auth: dict[str, Any] | None = None, **options: Any) -> None:
        self.events: list[tuple[str, Any]] = []
        self.sio = socketio.Client(reconnection=options.pop("reconnection", False))
        self.sio.on("*", lambda event, *data: self.events.append((event, *data)))
        self.sio.connect(relay.url, auth=auth, wait_timeout=30, **options)  # else 1 second

    def of(self, event: str) -> list[Any]:
        """Payloads of the events of this name so far."""
        return [data for name, data in list(self.events) if name == event]

    def call(self, event: str, data: Any = None) -> Any:
        return self.sio.call(event, data, timeout=30)

    def close(self) -> None:
        self.sio.disconnect()


class WireClient:
    """A client that reads what comes over its WebSocket, in the order in which it comes.

    Engine.IO 4 and Socket.IO 5 by hand: "0" open, "2" ping, "3" pong, "40" connect, "42" event,
    "43" acknowledgement, "44" refused, "45n-" event with n binary attachments.
    """

    def __init__(
        self,
        relay: Server,
        auth: dict[str, Any] | None = None,
        receive_buffer: int | None = None,
        **headers: str,
    ) -> None:
        buffer = (socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket = websocket.create_connection(
            f"ws://127.0.0.1:{relay.port}/socket.io/?EIO=4&transport=websocket",
            timeout=30,
            header=headers,
            suppress_origin=True,
            skip_utf8_validation=True,  # done in Python, it takes longer than all else
            sockopt=[buffer] if receive_buffer else [],
        )
        self.acks: dict[int, Any] = {}
        self.refusal: Any = None
        self.hello: dict[str, Any] = {}
        self._next_ack = 0
        try:
            assert self._recv()[0] == "0"
            self.socket.send("40" + json.dumps(auth or {}))
            answer = self._recv()
        except Exception:
            self.close()
            raise
        if answer.startswith("44"):
            self.refusal = json.loads(answer[2:])
        else:
            assert answer.startswith("40"), answer

    def receive(self, patience: float = PATIENCE) -> tuple[str, Any]:
        """The next event; `hello` and acknowledgements before it are put aside.

        Pings come all the time, so it fails after `patience` seconds with nothing else.
        """
        while True:
            text = next(text for text in self._messages(patience) if text.startswith("42"))
            event, data = json.loads(text[2:])
            if event != "hello":
                return event, data
            self.hello = data

    def _messages(self, patience: float = PATIENCE) -> Iterator[str]:
        heard = time.monotonic()
        while True:
            text = self._recv()
            if text != "2":
                heard = time.monotonic()
            assert time.monotonic() - heard < patience, f"nothing but pings for {patience} seconds"
            yield text

    def _recv(self) -> str:
        text = str(self.socket.recv())
        if text == "":
            raise ConnectionError("closed by the relay")
        if text == "2":
            self.socket.send("3")
        elif text.startswith("43"):
            end = text.index("[")
            self.acks[int(text[2:end])] = (json.loads(text[end:]) or [None])[0]
        return text

    def receive_until(self, event: str) -> list[tuple[str, Any]]:
        """All events up to and with the next one of this name."""
        received = [self.receive()]
        while received[-1][0] != event:
            received.append(self.receive())
        return received

    def history(self) -> list[dict[str, Any]]:
        """The pieces of the history, which have to be what comes first."""
        pieces: list[dict[str, Any]] = []
        while not pieces or pieces[-1]["more"]:
            event, data = self.receive()
            assert event == "history"
            pieces.append(data)
        return pieces

    def rest(self) -> list[tuple[str, Any]]:
        """The events that still come when the relay has ended the connection."""
        received = []
        with contextlib.suppress(ConnectionError, websocket.WebSocketException):
            while True:
                received.append(self.receive())
        return received

    def send(self, event: str, *data: Any) -> int:
        """Send an event, without waiting; the number of its acknowledgement."""
        self._next_ack += 1
        self.socket.send(f"42{self._next_ack}" + json.dumps([event, *data]))
        return self._next_ack

    def call(self, event: str, *data: Any) -> Any:
        """Send an event and wait for its acknowledgement; events that come meanwhile are lost."""
        number = self.send(event, *data)
        messages = self._messages()
        while number not in self.acks:
            next(messages)
        return self.acks[number]

    def close(self) -> None:
        self.socket.shutdown()


def numbers(pieces: list[dict[str, Any]]) -> list[int]:
    """The `seq` of all captions in pieces of history."""
    return [caption["seq"] for piece in pieces for caption in piece["captions"]]
