"""`GET /api/captions/stream`: captions as server-sent events, for curl and EventSource.

A caption is a message without an event name, whose id is its `seq`. `captioning`,
`captioning_failed` and `forget` are events of these names. With `Last-Event-ID` (or `after`) a
client first gets the captions that it missed. A client that does not read is cut off, connects
again and catches up.

Source: WHATWG, "HTML Living Standard", section 9.2.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from SocketIO_server.relay import Relay
from SocketIO_server.transport.limits import MAX_WAITING

HEARTBEAT = 15.0  # seconds after which a comment keeps the connection open
BATCH = 50  # captions that are read at a time
RETRY_MS = 2_000  # after which a client connects again

_END = ""


class EventStream:
    """What waits for one client; the relay puts it in, the client's own task takes it out."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._queue = relay.sockets.queue()
        self._waiting = 0  # bytes

    def put(self, event: str, payload: dict[str, Any]) -> None:
        """Never waits; closes the stream where too much waits already."""
        text = formatted(event, payload)
        self._waiting += len(text)
        if self._waiting > MAX_WAITING:
            self.close()
        else:
            self._queue.put(text)

    def close(self) -> None:
        """The client's task ends; the client connects again."""
        self._relay.streams.discard(self)
        self._queue.put(_END)

    def text(self, after: int | None) -> Iterator[str]:
        """What the client is sent, without end.

        Args:
            after: number of the last caption that the client has; None to begin with live ones.
        """
        relay = self._relay
        with relay.lock:
            while relay.broadcast_changes():
                pass
            last = relay.last_broadcast
            relay.streams.add(self)
        try:
            yield f"retry: {RETRY_MS}\n\n"
            if after is not None:
                yield from self._missed(after, last)
            while True:
                text = self._queue.get(HEARTBEAT)
                if text is None:
                    text = ": still here\n\n"
                else:
                    self._waiting -= len(text)
                if text == _END:
                    return
                yield text
        finally:
            relay.streams.discard(self)

    def _missed(self, after: int, last: int) -> Iterator[str]:
        """The captions up to the last one that was broadcast before this stream was live."""
        more = True
        while more:
            captions, more = self._relay.store.after(after, BATCH)
            for caption in captions:
                if caption["seq"] > last:
                    return
                after = caption["seq"]
                yield formatted("prediction", caption)


def formatted(event: str, payload: dict[str, Any]) -> str:
    """One event; JSON without line breaks is one line of data."""
    data = f"data: {json.dumps(payload)}\n\n"
    if event == "prediction":
        return f"id: {payload['seq']}\n{data}"
    return f"event: {event}\n{data}"
