"""Viewers that come back when their connection breaks, as the page does, and a publisher that does.

All in one thread, on the few bytes of `relay_load.Connection`. A viewer of the relay sends the
number of the last caption that it has. One of Node's server sends what socket.io-client sends: its
session and its place in it, where the server keeps sessions (`connectionStateRecovery`); nothing
otherwise.

A connection is cut in two ways, in turns. At once: both ends notice. Or in silence, as when a phone
changes its network: the server goes on writing to a connection that nobody reads.
"""

from __future__ import annotations

import heapq
import json
import random
import re
import selectors
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any

from benchmarks.relay_load import Connection, TurnedAwayError, prediction

# The page's times, in seconds, and how far each is moved at random; see connect() in viewer.js.
BACK_AFTER, LONGEST = 1.0, 5.0
MOVED = 0.5
SILENT_FOR = 8.0  # seconds after which a connection that was cut in silence is closed

_NUMBER = re.compile(rb'"id": ?"[0-9a-f]+-(\d{6})"')
_SEQ = re.compile(rb'"seq": ?(\d+)')
_SESSION = re.compile(rb'"pid": ?"([^"]+)"')
_OFFSET = re.compile(rb',"([^"]+)"\]$')
_MORE = re.compile(rb'"more": ?true')


class Crowd:
    """The loop in which viewers and a publisher run.

    Args:
        port: of the server.
        seed: of all that is left to chance.

    Attributes:
        due: when each caption was to be published, in seconds of `time.perf_counter`.
        live, later: milliseconds from there to its receipt by each viewer: as a broadcast, and in
            the history. With each, when it came.
        cuts_in_silence: every second cut is silent.
        turned_away: how often a server has asked a client to come back later.
    """

    def __init__(self, port: int, seed: int = 0) -> None:
        self.port = port
        self.chance = random.Random(seed)  # noqa: S311
        self.viewers: list[Viewer] = []
        self.clients: list[Client] = []  # the viewers, and the others
        self.silent: list[Connection] = []  # that were cut in silence
        self.due: list[float] = []
        self.live: list[tuple[float, float]] = []
        self.later: list[tuple[float, float]] = []
        self.cuts_in_silence = True
        self.turned_away = 0
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def add(self, viewers: int) -> None:
        """So many more viewers, all of them live when this returns."""
        for _ in range(viewers):
            self.viewers.append(Viewer(self, len(self.viewers)))
            self.viewers[-1].connect()
            if len(self.viewers) % 50 == 0:  # not more at once than a server lets wait
                self.run(lambda: all(viewer.is_live for viewer in self.viewers[-50:]), 60)
        if not self.run(lambda: all(viewer.is_live for viewer in self.viewers), 60):
            raise RuntimeError("The viewers could not connect.")

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call something in so many seconds."""
        entry = (time.perf_counter() + seconds, next(self._numbers), call)
        heapq.heappush(self._timers, entry)

    def watch(self, connection: Connection, events: int, call: Callable[[], None]) -> None:
        """Call something whenever the connection can be read, or written."""
        self._selector.register(connection.socket, events, call)

    def watch_instead(self, connection: Connection, events: int, call: Callable[[], None]) -> None:
        self._selector.modify(connection.socket, events, call)

    def forget(self, connection: Connection) -> None:
        with suppress(KeyError, ValueError):
            self._selector.unregister(connection.socket)

    def run(self, until: Callable[[], bool], patience: float, every: float = 0.02) -> bool:
        """Run until the condition holds, which is looked at now and then.

        Args:
            patience: seconds after which it is given up.

        Returns:
            Whether it holds.
        """
        end = time.perf_counter() + patience
        look = 0.0
        while True:
            now = time.perf_counter()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2]()
            if now >= look:
                if until():
                    return True
                if now >= end:
                    return False
                look = now + every
            wait = min(look, self._timers[0][0] if self._timers else look) - time.perf_counter()
            for key, _ in self._selector.select(max(0.0, wait)):
                key.data()

    def until_quiet(self, seconds: float) -> None:
        """Run until no caption has come for so long, and all viewers are live."""
        last, since = -1, 0.0

        def is_quiet() -> bool:
            nonlocal last, since
            now, so_far = time.perf_counter(), len(self.live) + len(self.later)
            if so_far != last or not all(viewer.is_live for viewer in self.viewers):
                last, since = so_far, now
            return now - since > seconds

        self.run(is_quiet, 120)

    def close(self) -> None:
        """Close all connections."""
        for client in self.clients:
            client.leave()
        for connection in self.silent:
            connection.socket.close()
        self._selector.close()

    # What came of it

    def shares(self, captions: int) -> list[float]:
        """Of each viewer, the share of the captions that it has."""
        return [sum(map(bool, viewer.got[:captions])) / captions for viewer in self.viewers]

    def twice(self) -> int:
        """Captions that came to a viewer which had them."""
        return sum(sum(number - 1 for number in viewer.got if number) for viewer in self.viewers)


class Client:
    """One that connects again when its connection breaks."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._connection: Connection | None = None
        crowd.clients.append(self)

    def auth(self) -> dict[str, Any]:
        """What it shows to the server."""
        raise NotImplementedError

    def take(self, message: bytes) -> None:
        """Handle a message."""
        raise NotImplementedError

    def come_back_after(self, retry_after: float) -> float:
        """Seconds after which it connects again; `retry_after`: what the server has said, or 0."""
        raise NotImplementedError

    def connect(self) -> None:
        """Connect, if there is no connection."""
        if self._connection is None:
            self._connection = Connection(self._crowd.port, self.auth(), waits=False)
            self._crowd.watch(self._connection, selectors.EVENT_WRITE, self._ask)

    def _ask(self) -> None:
        assert self._connection is not None  # noqa: S101
        try:
            self._connection.ask()
        except OSError:
            self.lose()
        else:
            self._crowd.watch_instead(self._connection, selectors.EVENT_READ, self._read)

    def _read(self) -> None:
        assert self._connection is not None  # noqa: S101
        try:
            for message in self._connection.messages():
                self.take(message)
        except TurnedAwayError as error:
            self._crowd.turned_away += 1
            self.lose(error.retry_after)
        except OSError:
            self.lose()

    def lose(self, retry_after: float = 0.0, in_silence: bool = False) -> None:
        """Lose the connection, and come back."""
        self.leave(in_silence)
        self._crowd.after(self.come_back_after(retry_after), self.connect)

    def leave(self, in_silence: bool = False) -> None:
        """Lose the connection; in silence: so that the server does not notice for a while."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._crowd.forget(connection)
        if in_silence:
            self._crowd.silent.append(connection)
            self._crowd.after(SILENT_FOR, connection.socket.close)
            return
        # a reset: what the server has written meanwhile is lost
        linger = struct.pack("ii", 1, 0)
        with suppress(OSError):
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.socket.close()


class Viewer(Client):
    """One viewer.

    Attributes:
        got: by the number of a caption, how often it came.
        is_live: its history is complete.
        cuts: how often its connection was cut.
    """

    def __init__(self, crowd: Crowd, number: int) -> None:
        super().__init__(crowd)
        self.got = bytearray()
        self.is_live = False
        self.cuts = 0
        self._number = number
        self._last_seq = 0
        self._session = self._offset = ""
        self._failures = 0

    def auth(self) -> dict[str, Any]:
        if self._session:
            return {"pid": self._session, "offset": self._offset}
        return {"last_seq": self._last_seq} if self._last_seq else {}

    def take(self, message: bytes) -> None:
        if message.startswith(b'42["prediction"'):
            self._note(message, self._crowd.live if self.is_live else self._crowd.later)
        elif message.startswith(b'42["history"'):
            self._note(message, self._crowd.later)
            self.is_live = not _MORE.search(message[-20:])
        elif message.startswith(b"40"):
            self._failures = 0
            if found := _SESSION.search(message):
                session = found[1].decode()
                self.is_live = session == self._session  # then it gets no history
                self._session = session

    def _note(self, message: bytes, times: list[tuple[float, float]]) -> None:
        now = time.perf_counter()
        for found in _NUMBER.finditer(message):
            number = int(found[1])
            self.got.extend(bytes(max(0, number + 1 - len(self.got))))
            self.got[number] += 1
            times.append((now, 1000 * (now - self._crowd.due[number])))
        if seq := _SEQ.search(message, max(0, message.rfind(b'"seq"'))):
            self._last_seq = int(seq[1])
        if self._session and (offset := _OFFSET.search(message[-40:])):
            self._offset = offset[1].decode()

    def cut(self) -> None:
        """Break the connection, if there is one: in turns at once, and in silence."""
        if self._connection is not None:
            self.cuts += 1
            is_second = (self.cuts + self._number) % 2 == 0
            self.lose(in_silence=self._crowd.cuts_in_silence and is_second)

    def leave(self, in_silence: bool = False) -> None:
        super().leave(in_silence)
        self.is_live = False

    def come_back_after(self, retry_after: float) -> float:
        """As socket.io-client does with the page's options, or when the server has said."""
        chance = self._crowd.chance
        if retry_after:
            return retry_after * chance.uniform(1, 1.5)
        wait = BACK_AFTER * 2**self._failures * chance.uniform(1 - MOVED, 1 + MOVED)
        self._failures = min(self._failures + 1, 10)
        return min(wait, LONGEST)


class Publisher(Client):
    """Publishes captions at a steady pace, one after the other, each until it is acknowledged.

    Args:
        token: shown to the server.
        captions: how many, of `size` bytes, one each `pace` seconds.

    Attributes:
        acknowledged: how many have been so far.
    """

    def __init__(self, crowd: Crowd, token: str, captions: int, size: int, pace: float) -> None:
        super().__init__(crowd)
        self.acknowledged = 0
        self.captions = captions
        self._token = token
        self._texts = [
            f"42{i}" + json.dumps(["predict", prediction(i, size)]) for i in range(captions)
        ]
        self._is_ready = self._is_waiting = False
        crowd.due = [time.perf_counter() + pace * (i + 1) for i in range(captions)]
        self.connect()
        for i in range(captions):
            crowd.after(pace * (i + 1), self._send)

    @property
    def is_done(self) -> bool:
        return self.acknowledged == self.captions

    def auth(self) -> dict[str, Any]:
        return {"token": self._token, "viewer": False}

    def take(self, message: bytes) -> None:
        if message.startswith(b"40"):
            self._is_ready, self._is_waiting = True, False
            self._send()
        elif message.startswith(f"43{self.acknowledged}[".encode()):
            self._is_waiting = False
            answer = json.loads(message[message.index(b"[") :])[0]
            self.acknowledged += answer["ok"]
            self._crowd.after(answer.get("retry_after", 0), self._send)

    def leave(self, in_silence: bool = False) -> None:
        super().leave(in_silence)
        self._is_ready = False

    def come_back_after(self, retry_after: float) -> float:
        """As app1 does."""
        return self._crowd.chance.uniform(0.15, 0.25)

    def _send(self) -> None:
        """Send the next caption, if it is due and the one before it has been acknowledged."""
        if not self._is_ready or self._is_waiting or self.is_done or self._connection is None:
            return
        if self._crowd.due[self.acknowledged] > time.perf_counter():
            return
        self._is_waiting = True
        try:
            self._connection.send(self._texts[self.acknowledged])
        except OSError:
            self.lose()


def cuts(crowd: Crowd, every: float, goes_on: Callable[[], bool]) -> None:
    """Cut each viewer again and again, at random, after `every` seconds on average."""

    def plan(viewer: Viewer) -> None:
        crowd.after(crowd.chance.expovariate(1 / every), lambda: cut(viewer))

    def cut(viewer: Viewer) -> None:
        if goes_on():
            viewer.cut()
            plan(viewer)

    for viewer in crowd.viewers:
        plan(viewer)


def between(times: list[tuple[float, float]], start: float, end: float) -> Iterator[float]:
    """The milliseconds of the captions that were due between two moments."""
    return (late for came, late in times if start <= came - late / 1000 <= end)
