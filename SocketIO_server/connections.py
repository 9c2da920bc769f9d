"""Connections: who is let in, and how a viewer gets its history and then goes live."""

from __future__ import annotations

import hmac
import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, NamedTuple

import flask
from flask_socketio import ConnectionRefusedError as Refused

from common.token_bucket import TokenBucket
from common.version import page_version
from SocketIO_server.relay import LIVE, Client, Relay
from SocketIO_server.stores.protocol import StoreError
from SocketIO_server.transport.limits import MAX_WAITING, TOO_SLOW

log = logging.getLogger("relay")

PIECE = 200  # captions in one `history` event at most
PIECE_BYTES = 500_000  # of thumbnails in one, about
READ_AGAIN_AFTER = 1.0  # seconds after which a history that failed is read again for viewers

# Messages a second from one connection, and how many may come at once. A publisher that has waited
# for the relay sends what it has in one go; a viewer has nothing to send.
PUBLISHER_RATE = (1_000.0, 5_000.0)
VIEWER_RATE = (2.0, 20.0)


@dataclass(frozen=True)
class Credentials:
    """What a client asks for when it connects, and may have.

    Attributes:
        last_seq: of the newest caption that it has; None for none.
    """

    publisher: bool
    viewer: bool
    last_seq: int | None


def admit(auth: Any, token: str) -> Credentials:
    """Check what a client sends in `auth` when it connects.

    Args:
        token: what publishers have to show; with "" every client may publish.

    Raises:
        Refused: with a sentence for the client's author.
    """
    auth = {} if auth is None else auth
    if not isinstance(auth, dict):
        raise Refused("auth must be an object.")
    shown, last_seq = auth.get("token"), auth.get("last_seq")
    viewer = auth.get("viewer", True)
    if not isinstance(shown, (str, type(None))) or not isinstance(viewer, bool):
        raise Refused("auth.token must be a text, auth.viewer true or false.")
    if last_seq is not None and not (type(last_seq) is int and 0 <= last_seq < 2**53):
        raise Refused("auth.last_seq must be a whole number, 0 or more.")
    if not token:
        return Credentials(True, viewer, last_seq)
    if shown and not hmac.compare_digest(shown.encode(errors="replace"), token.encode()):
        raise Refused("The token is wrong; publishers have to show the relay's RELAY_TOKEN.")
    return Credentials(bool(shown), viewer, last_seq)


class Piece(NamedTuple):
    """A part of the history.

    Attributes:
        message: the event `history`, encoded.
        end: the number of its last caption.
        more: whether other pieces follow.
        missed: captions that were to come before it, and have left the history.
    """

    message: Any
    end: int
    more: bool
    missed: int


class Connections:
    """The handlers of the events `connect`, `disconnect` and `hello`.

    Args:
        relay: whose clients they are.
        token: what publishers have to show; with "" every client may publish.
    """

    def __init__(self, relay: Relay, token: str) -> None:
        self._relay = relay
        self._token = token
        # until when reading the history is not tried again for viewers, and why
        self._unreadable = (0.0, "")
        # The last piece of history, and what it answers: when the relay is started again, its
        # viewers come back together, and most of them miss the same.
        self._last_piece: tuple[tuple[Any, ...], Piece] | None = None

    def register(self) -> None:
        """Register the handlers with the relay's server."""
        self._relay.socketio.on_event("connect", self._connect)
        self._relay.socketio.on_event("disconnect", self._disconnect)
        self._relay.socketio.on_event("hello", self._hello)

    def _connect(self, auth: Any = None) -> None:
        sid = flask.request.sid  # type: ignore[attr-defined]
        relay = self._relay
        if sid in relay.clients:  # a client may well send an event that it calls "connect"
            return
        try:
            admitted = admit(auth, self._token)
        except Refused:
            relay.metrics.refused.inc()
            raise
        bucket = TokenBucket(*PUBLISHER_RATE if admitted.publisher else VIEWER_RATE)
        relay.clients[sid] = Client(admitted.publisher, admitted.viewer, bucket)
        # in the background: the client is connected only after this handler
        relay.socketio.start_background_task(self._welcome, sid, admitted)

    def _disconnect(self, *reason: Any) -> None:
        sid = flask.request.sid  # type: ignore[attr-defined]
        relay = self._relay
        relay.clients.pop(sid, None)
        if TOO_SLOW in reason:
            relay.metrics.dropped.inc()
            log.info("A client was cut off: it does not take what waits for it.")
        owner = relay.owner(sid)
        if any(work.owner == owner for work in list(relay.working.values())):
            # In the background: this may run inside a broadcast, which holds the lock. To send to a
            # client that is too slow, or has not answered for long, closes its connection.
            relay.socketio.start_background_task(relay.give_up_work_of, owner)

    def _hello(self, *_: Any) -> dict[str, Any]:
        """A client asks whether its connection still works; the answer is as in the event."""
        sid = flask.request.sid  # type: ignore[attr-defined]
        client = self._relay.clients.get(sid)
        if client is None or client.bucket.wait():
            self._relay.sockets.disconnect(sid)
            return {"ok": False, "error": "Too many messages at once."}
        return {"ok": True, **self._greeting()}

    def _greeting(self) -> dict[str, Any]:
        """The event `hello`; the numbers are None while the history cannot be read."""
        store = self._relay.store
        numbers: dict[str, int | None] = {"oldest_seq": None, "last_seq": None}
        with suppress(StoreError):
            numbers = {"oldest_seq": store.oldest_seq(), "last_seq": store.last_seq()}
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
        return {"version": page_version(), "now": now, **numbers}

    def _welcome(self, sid: str, admitted: Credentials) -> None:
        relay = self._relay
        while sid in relay.clients and not relay.sockets.is_connected(sid):
            relay.socketio.sleep(0.005)  # its connect event is still being answered
        if sid in relay.clients:
            self._send("hello", self._greeting(), sid)
        if admitted.viewer:
            self._catch_up(sid, admitted.last_seq)

    # History first, then live

    def _catch_up(self, sid: str, last_seq: int | None) -> None:
        """Send a viewer its history and make it live.

        A history that cannot be read is tried again until it can. A viewer that went live without
        it would later ask for what follows the last caption it saw, and never get those before.
        """
        relay, sockets = self._relay, self._relay.sockets
        position, more, failure = None, True, ""
        while more and sid in relay.clients:
            with relay.lock:
                try:
                    message, position, more, missed = self._read(position, last_seq)
                except StoreError as error:
                    if not failure:  # once is enough
                        answer = {"captions": [], "error": str(error), "more": False}
                        self._send("history", answer, sid)
                    failure = str(error)
                else:
                    failure = ""
                    relay.metrics.missed.inc(missed)
                    sockets.send(sid, message)
                    if not more:
                        self._go_live(sid)
            if failure:
                relay.socketio.sleep(READ_AGAIN_AFTER)
            while more and sid in relay.clients and sockets.waiting_for(sid) > PIECE_BYTES:
                relay.socketio.sleep(0.02)

    def _read(self, position: int | None, last_seq: int | None) -> Piece:
        """`_piece`, but not soon after it has failed: many may wait, and each try may take long."""
        until, sentence = self._unreadable
        if time.monotonic() < until:
            raise StoreError(sentence)
        try:
            if position is None:
                # It may come from another relay, and have more than this one has broadcast.
                while self._relay.broadcast_changes() and (
                    (last_seq or 0) > self._relay.last_broadcast
                ):
                    pass
            # with the last number, in case the file was removed, which is in no log
            asked = (position, last_seq, self._relay.position, self._relay.store.last_seq())
            if self._last_piece is None or self._last_piece[0] != asked:
                self._last_piece = asked, self._piece(position, last_seq)
            return self._last_piece[1]
        except StoreError as error:
            self._unreadable = (time.monotonic() + READ_AGAIN_AFTER, str(error))
            raise

    def _piece(self, position: int | None, last_seq: int | None) -> Piece:
        """The piece of history after `position`.

        It ends with the last caption that this relay has broadcast: later ones come live. The first
        piece (no `position` yet) also has what a viewer that was away has to change: the events
        `corrected`, the ids `forgotten`, or, on `reset`, all captions, since they are of another
        history.
        """
        relay, store = self._relay, self._relay.store
        first: dict[str, Any] = {}
        missed = 0
        if position is None:
            seen = last_seq or 0
            reset = seen > store.last_seq()
            position = store.before_last(PIECE) if last_seq is None or reset else seen
            seen = 0 if reset else seen
            if seen:
                missed = max(0, store.oldest_seq() - 1 - seen)
            first = {
                "reset": reset,
                "forgotten": store.forgotten(seen) if seen else [],
                "corrected": store.corrections(seen) if seen else [],
            }
        captions, more = store.after(position, PIECE, PIECE_BYTES)
        if captions and captions[-1]["seq"] > relay.last_broadcast:
            captions, more = [c for c in captions if c["seq"] <= relay.last_broadcast], False
        end = captions[-1]["seq"] if captions else position
        history = {"captions": captions, **first, "more": more}
        return Piece(relay.sockets.message("history", history), end, more, missed)

    def _go_live(self, sid: str) -> None:
        relay = self._relay
        client = relay.clients.get(sid)
        if client is None:
            return
        try:
            relay.socketio.server.enter_room(sid, LIVE)
        except (KeyError, ValueError):  # gone, and its disconnect is just being handled
            return
        for event, payload in client.missed:
            self._send(event, payload, sid)
        client.live = True
        client.missed.clear()
        for work in relay.working.values():
            if relay.sockets.waiting_for(sid) > MAX_WAITING // 2:  # better without than cut off
                break
            self._send("captioning", work.payload, sid)

    def _send(self, event: str, payload: dict[str, Any], sid: str) -> None:
        self._relay.socketio.emit(event, payload, to=sid)
