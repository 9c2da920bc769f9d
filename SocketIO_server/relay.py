"""The state of one relay process, and the only code that broadcasts to viewers.

The order is the point. All that publishers send goes into the store, and into its log of changes.
The relay follows the log and broadcasts one change after the other, under `lock`. Each relay of a
shared store does the same, so all viewers get the same, in the order of `seq`.

A viewer goes live under the lock too, with the captions up to `last_broadcast`: it gets all later
ones live. So each caption reaches a viewer exactly once, in its history or live.

A relay that could not reach its store goes on where it was in the log. When the log no longer
reaches back that far, or was lost, the relay disconnects its viewers. They connect again, and send
the number of the last caption that they have.

What is not guaranteed: Socket.IO delivers at most once, so a viewer whose connection breaks misses
what was on its way, and asks for it by `last_seq` when it connects again. So does a viewer that
does not read: what waits for it is bounded, and beyond that it is cut off. A caption that made room
for newer ones (RELAY_KEEP) before this relay read its place in the log is not broadcast here.
"""

from __future__ import annotations

import logging
import math
import random
import secrets
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from flask_socketio import SocketIO

from common.token_bucket import TokenBucket
from SocketIO_server.metrics import Metrics
from SocketIO_server.stores.protocol import Change, PositionLostError, Store, StoreError, Work
from SocketIO_server.transport.sockets import Sockets

log = logging.getLogger("relay")

LIVE = "live"  # the room of all viewers whose history is complete
MAX_IN_PROGRESS = 1_000  # photos that are listed as being captioned
BROKE_OFF = "The connection to the captioner broke off."
HEARTBEAT = 2.0  # seconds between two heartbeats
HEARTBEAT_EXPIRES = 15  # seconds after the last one, when others report the relay's work as failed
RETRY = 1.0  # seconds until the log is read again after that failed
LOG_LOST = "the log was lost"  # why a viewer was disconnected
# Seconds after which a client that finds no room may come back: at random, so that those who are
# sent away together do not come back together.
BACK_WHEN_FULL = (5, 20)
BACK_WHEN_STOPPING = (1, 3)
FULL = "The relay has as many viewers as it can take; it takes others when some have gone."
STOPPING = "The relay is stopping."


@dataclass
class Client:
    """One connection.

    Attributes:
        bucket: limits its messages.
        live: whether its history is complete.
        missed: earlier events about captions that it may have in its history.
    """

    publisher: bool
    viewer: bool
    bucket: TokenBucket
    live: bool = False
    missed: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Listener(Protocol):
    """Gets what is broadcast; see `EventStream`."""

    def put(self, event: str, payload: dict[str, Any]) -> None:
        """Takes an event; never waits."""

    def close(self) -> None:
        """Ends the connection, so that the client comes back and catches up."""


class Relay:
    """The state of one relay process.

    Args:
        socketio: the server, made after `transport.install`.
        store: of the captions.
        lock: of the server's async mode, not reentrant.

    Attributes:
        stopping: it is not ready any more.
        closed: it takes no more messages either.
        clients: by session id.
        answering: clients with a message that is not answered yet.
        working: by id, photos that are being captioned, the oldest first.
        last_broadcast: live viewers have the captions up to this number.
        streams: clients of server-sent events, which get what is broadcast.
        position: in the log, up to which it has broadcast; "": unknown.
        most_clients: that it takes at the same time, but for publishers.
    """

    def __init__(self, socketio: SocketIO, store: Store, lock: AbstractContextManager[Any]) -> None:
        self.socketio = socketio
        self.sockets = Sockets(socketio)
        self.store = store
        self.lock = lock
        self.metrics = Metrics()
        self.stopping = self.closed = False
        self.clients: dict[str, Client] = {}
        self.answering: set[str] = set()
        self.working: dict[str, Work] = {}
        self.last_broadcast = 0
        self.streams: set[Listener] = set()
        self.most_clients = sys.maxsize
        self._name = secrets.token_hex(8)
        self.position = ""
        self._trouble = ""  # why the log cannot be followed
        self._next_heartbeat = 0.0
        self.metrics.waiting.set_function(self.sockets.waiting)
        self.metrics.viewers.set_function(
            lambda: sum(client.viewer for client in list(self.clients.values()))
        )
        self.metrics.captions.set_function(self._count)

    def start(self) -> None:
        """Follow the log, in the background."""
        self._attempt(self.store.open)
        self._attempt(self._step)  # viewers can connect even if the store cannot be used yet
        self.socketio.start_background_task(self._follow)

    def why_not_ready(self) -> str | None:
        """A sentence if captions cannot be taken, or broadcast, now."""
        if self.stopping:
            return STOPPING
        try:
            self.store.open()
            if self._trouble:  # it may be over
                self._step()
        except StoreError as error:
            return str(error)
        return None

    def why_not_another(self) -> tuple[str, int] | None:
        """A sentence, and seconds to wait, if no further viewer can be taken now."""
        if self.stopping:
            return STOPPING, random.randint(*BACK_WHEN_STOPPING)  # noqa: S311
        if len(self.clients) + len(self.streams) >= self.most_clients:
            return FULL, random.randint(*BACK_WHEN_FULL)  # noqa: S311
        return None

    def broadcast_now(self) -> None:
        """Broadcast what this process has just changed, if the log can be read now."""
        self._attempt(self._step)

    def _count(self) -> float:
        try:
            return self.store.count()
        except StoreError:
            return math.nan

    # Following the log

    def _follow(self) -> None:
        """Broadcast what other processes change, as long as this one lives."""

        def once() -> None:
            if not self._step():
                self.store.wait(self.position, HEARTBEAT)

        while True:
            if not self._attempt(once):
                self.socketio.sleep(RETRY)

    def _attempt(self, action: Callable[[], object]) -> bool:
        """Whether something could be done with the store. Raises nothing."""
        try:
            action()
        except StoreError as error:
            self._trouble = str(error)
        except Exception:  # without the task that follows the log, viewers would get nothing more
            log.exception("A change could not be broadcast.")
        else:
            return True
        return False

    def _step(self) -> bool:
        """Broadcast the next changes; whether there were any."""
        if time.monotonic() >= self._next_heartbeat:
            self._heartbeat()
        with self.lock:
            if not self.position:
                self._begin()
            try:
                found = self.broadcast_changes()
            except PositionLostError as error:
                log.warning("%s Viewers are sent away; they come back and catch up.", error)
                self._disconnect_viewers()
                found = False
        self._trouble = ""
        return found

    def _begin(self) -> None:
        """Take up the log where it is now. The caller holds the lock, and no viewer is live."""
        beginning = self.store.beginning()
        self.working = beginning.working
        self.last_broadcast = beginning.seq
        self.position = beginning.position

    def broadcast_changes(self) -> bool:
        """Broadcast the next changes; whether there were any. The caller holds the lock.

        Raises:
            StoreError: the log cannot be read, or has not been taken up yet.
        """
        if not self.position:
            raise StoreError(self._trouble or "The history has not been opened yet.")
        changes = self.store.changes(self.position)
        for change in changes:
            self.position = change.position
            self._apply(change)
        return bool(changes)

    def _apply(self, change: Change) -> None:
        """Note a change, and broadcast it."""
        payload = change.payload
        if change.kind == "captioning":
            if payload is not None:
                while len(self.working) >= MAX_IN_PROGRESS:
                    del self.working[next(iter(self.working))]
                self.working[change.id] = Work(change.owner, payload)
                self._broadcast(change.kind, payload)
            return
        was_expected = self.working.pop(change.id, None) is not None
        if change.kind == "prediction":
            self.last_broadcast = change.seq
        if payload is not None:
            self._broadcast(change.kind, payload)
            if change.kind not in ("prediction", "captioning_failed"):
                for client in list(self.clients.values()):
                    if client.viewer and not client.live:
                        client.missed.append((change.kind, payload))
        elif was_expected:  # the caption came and is gone again: viewers must not wait for it
            self._broadcast("forget", {"id": change.id})

    def _broadcast(self, event: str, payload: dict[str, Any]) -> None:
        # Never waits: what the network does not take at once goes into the viewer's queue.
        self.socketio.emit(event, payload, to=LIVE)
        for stream in tuple(self.streams):
            stream.put(event, payload)

    def _disconnect_viewers(self) -> None:
        """Cut their connections, and take up the log anew. The caller holds the lock."""
        self.position = ""
        for sid in [sid for sid, client in self.clients.items() if client.viewer]:
            self.sockets.cut(sid, LOG_LOST)
        for stream in tuple(self.streams):
            stream.close()
        self._begin()

    # Work in progress

    def owner(self, sid: str) -> str:
        """The owner of work that a client of this relay has announced."""
        return f"{self._name} {sid}"

    def give_up_work_of(self, owner: str) -> None:
        """Report the work of a publisher that has gone as failed; it may still send the caption."""
        for identifier, work in list(self.working.items()):
            if work.owner == owner:
                try:
                    self.store.fail_work(identifier, BROKE_OFF, only_if_begun=True)
                except StoreError:
                    return  # and again with the next heartbeat
        self.broadcast_now()

    def _heartbeat(self) -> None:
        """Give a heartbeat, and report the work of relays and clients that are gone as failed."""
        owners = {work.owner for work in list(self.working.values())}
        others = {owner.split(" ")[0] for owner in owners} - {self._name}
        gone = self.store.heartbeat(self._name, HEARTBEAT_EXPIRES, others)
        self._next_heartbeat = time.monotonic() + HEARTBEAT
        for owner in owners:
            relay, sid = owner.split(" ")
            if relay in gone or (relay == self._name and sid not in self.clients):
                self.give_up_work_of(owner)
