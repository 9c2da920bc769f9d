"""The relay over Socket.IO: who is connected, who may do what, and who is told what in what order.

The order is the point. One lock stands around every change of the history together with the
broadcast that tells of it, and around a viewer's step from the last piece of its history to live.
So each caption reaches a viewer exactly once, in its history or live, and in the order of `seq`.

What is not guaranteed: Socket.IO delivers at most once, so a viewer whose connection breaks misses
what was on its way, and asks for it by `last_seq` when it connects again. So does a viewer that did
not read: what waits for it is bounded (`limits.MAX_WAITING`), and beyond that it is cut off. Its
history never comes to that much: it is sent piece by piece, as the viewer takes them.

One process; `shared.SharedRelay` is one of several that share a history.
"""

from __future__ import annotations

import hmac
import logging
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import flask
from flask_socketio import ConnectionRefusedError as Refused
from flask_socketio import SocketIO

from SocketIO_server import messages
from SocketIO_server.history import History, HistoryError
from SocketIO_server.messages import Message, MessageError
from SocketIO_server.metrics import Metrics
from SocketIO_server.transport.limits import MAX_WAITING, TOO_SLOW
from SocketIO_server.transport.sockets import Sockets

if TYPE_CHECKING:
    from SocketIO_server.redis_history import RedisHistory

log = logging.getLogger("relay")

PIECE = 200  # captions in one `history` event at most,
PIECE_BYTES = 500_000  # and bytes of thumbnails, about
LIVE = "live"  # the room of all viewers whose history is through
MAX_IN_PROGRESS = 1_000  # photos that viewers are told are being worked on

# Messages a second from one connection, and how many may come at once. A publisher that has waited
# for the relay sends what it has in one go; a viewer has nothing to send.
PUBLISHER_RATE = (1_000.0, 5_000.0)
VIEWER_RATE = (2.0, 20.0)
RETRY_AFTER = 5.0  # seconds after which a publisher may try again when the history failed
BROKE_OFF = "The connection to the captioner broke off."
READ_AGAIN_AFTER = 1.0  # seconds after which a history that failed is read again for viewers


class TokenBucket:
    """Lets `burst` through at once, and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._then = burst, time.monotonic()

    def wait(self) -> float:
        """0 if one more may pass now, which is then counted; else the seconds until it may."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0


@dataclass
class Client:
    """One connection."""

    publisher: bool
    viewer: bool
    bucket: TokenBucket
    live: bool = False  # its history is through
    missed: list[str] = field(default_factory=list)  # ids forgotten before it was live


Answer = dict[str, Any]


class Relay:
    """The state of one relay process, and its event handlers.

    Args:
        socketio: the server. Its `async_handlers` has to be off, so that one client's messages are
            handled one after the other.
        history: where captions are kept.
        lock: a lock of the server's async mode, not reentrant.
        token: what publishers have to show; "" lets everybody publish.
    """

    def __init__(
        self,
        socketio: SocketIO,
        history: History | RedisHistory,
        lock: AbstractContextManager[Any],
        token: str,
    ) -> None:
        self.history = history
        self.lock = lock
        self.history_lock = lock  # around every call of `history` outside
        self.metrics = Metrics()
        self.stopping = False  # not ready any more
        self.closed = False  # takes no more messages either
        self.socketio = socketio
        self.sockets = Sockets(socketio)
        self._token = token.encode()
        self._clients: dict[str, Client] = {}
        # id -> (who works on it, see `_owner`; what viewers were told), the oldest first
        self._in_progress: dict[str, tuple[str, dict[str, Any]]] = {}
        self._told = math.inf  # live viewers know the captions up to this number
        self._handling: set[str] = set()  # clients with a message that is not answered yet
        # until when reading the history is not tried again for viewers, and why
        self._unreadable = (0.0, "")

        self.metrics.waiting.set_function(self.sockets.waiting)
        self.metrics.viewers.set_function(
            lambda: sum(client.viewer for client in list(self._clients.values()))
        )
        self.metrics.captions.set_function(self._count)
        socketio.on_event("connect", self._connect)
        socketio.on_event("disconnect", self._disconnect)
        for name, check, handle in (
            ("predict", messages.predict, self._predict),
            ("captioning", messages.captioning, self._captioning),
            ("captioning_failed", messages.captioning_failed, self._captioning_failed),
            ("forget", messages.forget, self._forget),
        ):
            socketio.on_event(name, self._handler(name, check, handle))
        socketio.on_event("*", self._handler("unknown", lambda _: Message({}), self._unknown))
        socketio.on_error_default(self._failed)

    def start(self) -> None:
        """Begin what has to be done besides answering clients: here, nothing."""

    def why_not_ready(self) -> str | None:
        """A sentence if captions cannot be taken now."""
        if self.stopping:
            return "The relay is stopping."
        try:
            with self.history_lock:
                self.history.open()
        except HistoryError as error:
            return str(error)
        return None

    def _count(self) -> float:
        try:
            with self.history_lock:
                return self.history.count()
        except HistoryError:
            return math.nan

    def answering(self) -> bool:
        """Whether a message was taken that is not answered yet."""
        return bool(self._handling)

    # Connections

    def _connect(self, auth: Any = None) -> None:
        sid = flask.request.sid  # type: ignore[attr-defined]
        if sid in self._clients:  # a client may well send an event that it calls "connect"
            return
        try:
            publisher, viewer, last_seq = self._admit(auth)
        except Refused:
            self.metrics.refused.inc()
            raise
        rate, burst = PUBLISHER_RATE if publisher else VIEWER_RATE
        self._clients[sid] = Client(publisher, viewer, TokenBucket(rate, burst))
        if viewer:
            # not here: the client is told that it is connected only after this handler
            self.socketio.start_background_task(self._catch_up, sid, last_seq)

    def _admit(self, auth: Any) -> tuple[bool, bool, int | None]:
        """Whether a client may publish, whether it wants to view, and the last caption it has."""
        auth = {} if auth is None else auth
        if not isinstance(auth, dict):
            raise Refused("auth must be an object.")
        token, last_seq = auth.get("token"), auth.get("last_seq")
        viewer = auth.get("viewer", True)
        if not isinstance(token, (str, type(None))) or not isinstance(viewer, bool):
            raise Refused("auth.token must be a text, auth.viewer true or false.")
        if last_seq is not None and not (type(last_seq) is int and 0 <= last_seq < 2**53):
            raise Refused("auth.last_seq must be a whole number, 0 or more.")
        if not self._token:
            return True, viewer, last_seq
        if token and not hmac.compare_digest(token.encode(errors="replace"), self._token):
            raise Refused("The token is wrong; publishers have to show the relay's RELAY_TOKEN.")
        return bool(token), viewer, last_seq

    def _disconnect(self, *reason: Any) -> None:
        sid = flask.request.sid  # type: ignore[attr-defined]
        self._clients.pop(sid, None)
        if TOO_SLOW in reason:
            self.metrics.dropped.inc()
            log.info("A client was cut off: it does not take what waits for it.")
        # In the background, since this may run inside a broadcast, which holds the lock: sending to
        # a client that is too slow, or has not answered for long, closes its connection.
        owner = self._owner(sid)
        if any(owner == worker for worker, _ in list(self._in_progress.values())):
            self.socketio.start_background_task(self._give_up_work_of, owner)

    def _owner(self, sid: str) -> str:
        """Who works on a photo that this connection has announced."""
        return sid

    def _give_up_work_of(self, owner: str) -> None:
        """Tell viewers not to wait for a publisher that has gone; it may still send the caption."""
        with self.lock:
            for identifier in [i for i, (who, _) in self._in_progress.items() if who == owner]:
                del self._in_progress[identifier]
                self._broadcast("captioning_failed", {"id": identifier, "error": BROKE_OFF})

    # History first, then live

    def _catch_up(self, sid: str, last_seq: int | None) -> None:
        """Send a viewer its history and make it live.

        A history that cannot be read is tried again until it can: who went live without it would
        later ask for what follows the last caption it saw, and never get those before.
        """
        while sid in self._clients and not self.sockets.is_connected(sid):
            self.socketio.sleep(0.005)  # about to be told that it is connected
        position, more, failure = None, True, ""
        while more and sid in self._clients:
            with self.lock:
                try:
                    piece, position, more = self._read(position, last_seq)
                except HistoryError as error:
                    piece = {"captions": [], "error": str(error)}
                    if not failure:  # once is enough
                        self._send("history", {**piece, "more": False}, sid)
                    failure = str(error)
                else:
                    failure = ""
                    self._send("history", {**piece, "more": more}, sid)
                    if not more:
                        self._go_live(sid)
            if failure:
                self.socketio.sleep(READ_AGAIN_AFTER)
            while more and sid in self._clients and self.sockets.waiting_for(sid) > PIECE_BYTES:
                self.socketio.sleep(0.02)

    def _read(self, position: int | None, last_seq: int | None) -> tuple[dict[str, Any], int, bool]:
        """`_piece`, but not soon after it has failed: many may wait, and each try may take long."""
        until, sentence = self._unreadable
        if time.monotonic() < until:
            raise HistoryError(sentence)
        try:
            return self._piece(position, last_seq)
        except HistoryError as error:
            self._unreadable = (time.monotonic() + READ_AGAIN_AFTER, str(error))
            raise

    def _piece(
        self, position: int | None, last_seq: int | None
    ) -> tuple[dict[str, Any], int, bool]:
        """The piece of history after `position`, where it ends, and whether there are more.

        The first piece (no `position` yet) also says what a viewer that was away has to drop: the
        ids `forgotten`, or all it has, on `reset`, since that is of another history.
        """
        first: dict[str, Any] = {}
        if position is None:
            reset = last_seq is not None and last_seq > self.history.last_seq()
            position = self.history.before_last(PIECE) if last_seq is None or reset else last_seq
            known = 0 if last_seq is None or reset else last_seq
            first = {"reset": reset, "forgotten": self.history.forgotten(known) if known else []}
        captions, more = self.history.after(position, PIECE, PIECE_BYTES)
        if captions and captions[-1]["seq"] > self._told:  # those after it will come live
            captions, more = [c for c in captions if c["seq"] <= self._told], False
        end = captions[-1]["seq"] if captions else position
        return {"captions": captions, **first}, end, more

    def _go_live(self, sid: str) -> None:
        client = self._clients.get(sid)
        if client is None:
            return
        try:
            self.socketio.server.enter_room(sid, LIVE)
        except (KeyError, ValueError):  # gone, and its disconnect is just being handled
            return
        for identifier in client.missed:
            self._send("forget", {"id": identifier}, sid)
        client.live = True
        client.missed.clear()
        for _, told in self._in_progress.values():
            if self.sockets.waiting_for(sid) > MAX_WAITING // 2:  # better without than cut off
                break
            self._send("captioning", told, sid)

    def _send(self, event: str, payload: dict[str, Any], sid: str) -> None:
        self.socketio.emit(event, payload, to=sid)

    def _broadcast(self, event: str, payload: dict[str, Any]) -> None:
        # Never waits: what the network does not take goes into the viewer's queue. The caller holds
        # the lock.
        self.socketio.emit(event, payload, to=LIVE)

    # Messages from publishers

    def _handler(
        self,
        event: str,
        check: Callable[[object], Message],
        handle: Callable[[str, Message], Answer],
    ) -> Callable[..., Answer]:
        """A Socket.IO handler: may this client send, and is the message in order? Then `handle` it.

        What it returns is the acknowledgement.
        """

        def handler(*arguments: Any) -> Answer:
            sid = flask.request.sid  # type: ignore[attr-defined]
            self._handling.add(sid)
            try:
                client = self._clients.get(sid)
                wait = client.bucket.wait() if client else 0.0
                if client is None or not client.publisher:
                    if client is None or wait:  # it goes on although it was told
                        self.sockets.hang_up(sid)
                    answer = _no("Only publishers may send this; connect with the relay's token.")
                elif wait:
                    answer = _no("Too many messages at once; wait a little.", retry_after=wait)
                elif self.closed:
                    answer = _no("The relay is stopping; send again.", retry_after=1)
                else:
                    answer = handle(sid, check(arguments[0] if arguments else None))
            except MessageError as error:
                answer = _no(str(error))
            except HistoryError as error:
                log.error("%s", error)
                answer = _no(str(error), retry_after=RETRY_AFTER)
            finally:
                self._handling.discard(sid)
            self.metrics.messages.labels(event, "taken" if answer["ok"] else "refused").inc()
            return answer

        return handler

    def _predict(self, _sid: str, message: Message) -> Answer:
        with self.lock:
            with self.metrics.storing.time():
                seq, is_new = self.history.add(message)
            self._in_progress.pop(message.fields.get("id", ""), None)
            if is_new:
                self._broadcast("prediction", message.payload(seq=seq))
        return {"ok": True, "seq": seq}

    def _captioning(self, sid: str, message: Message) -> Answer:
        with self.lock:
            # else nothing will follow that ends the waiting
            if not self.history.knows(message.fields["id"]):
                self._tell_work(self._owner(sid), message.payload())
        return {"ok": True}

    def _tell_work(self, owner: str, told: dict[str, Any]) -> None:
        while len(self._in_progress) >= MAX_IN_PROGRESS:
            del self._in_progress[next(iter(self._in_progress))]
        self._in_progress[told["id"]] = (owner, told)
        self._broadcast("captioning", told)

    def _captioning_failed(self, _sid: str, message: Message) -> Answer:
        with self.lock:
            self._in_progress.pop(message.fields["id"], None)
            self._broadcast("captioning_failed", message.fields)
        return {"ok": True}

    def _forget(self, _sid: str, message: Message) -> Answer:
        with self.lock:
            self.history.forget(message.fields["id"])
            self._tell_forget(message.fields["id"])
        return {"ok": True}

    def _tell_forget(self, identifier: str) -> None:
        self._in_progress.pop(identifier, None)
        self._broadcast("forget", {"id": identifier})
        for client in list(self._clients.values()):
            if client.viewer and not client.live:
                client.missed.append(identifier)

    def _unknown(self, _sid: str, _message: Message) -> Answer:
        return _no("The relay knows no such event.")

    def _failed(self, error: Exception) -> Answer:
        """What Flask-SocketIO calls when a handler raises something unexpected."""
        log.error("A message could not be handled.", exc_info=error)
        if flask.request.event["message"] == "connect":  # type: ignore[attr-defined]
            raise Refused("The relay failed; try again later.")
        return _no("The relay failed on this message.", retry_after=RETRY_AFTER)


def _no(error: str, retry_after: float | None = None) -> Answer:
    """A refusal: the sentence, and in how many seconds the same message may be taken, if ever."""
    answer: Answer = {"ok": False, "error": error, "retry": retry_after is not None}
    return answer if retry_after is None else {**answer, "retry_after": round(retry_after, 2)}
