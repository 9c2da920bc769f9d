"""One of several relays that share a history in Redis, behind one address or not.

What a publisher sends goes into the history and its log, and no further. Each relay follows the log
and tells its own viewers, one change after the other; nothing else tells them anything. So all
viewers of all relays are told the same, once, in the same order, and that is the order of `seq`:
one script gives a caption its number and its place in the log.

A viewer goes live under the lock, when it has the captions up to the last one that this relay has
told (`_told`): what comes later in the log, it is told from then on. A viewer that comes from
another relay may know more than this one has told; then this relay first goes on that far.

A relay that was away from Redis goes on where it was. Where it cannot (the log does not reach back
that far, or Redis has lost what it had), it sends its viewers away, and when they come back they
say which caption they know.

What is not guaranteed: captions that made room for newer ones (RELAY_KEEP) before a relay came to
tell them are not told there.
"""

from __future__ import annotations

import logging
import secrets
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from flask_socketio import SocketIO

from SocketIO_server.events import BROKE_OFF, MAX_IN_PROGRESS, Answer, Relay
from SocketIO_server.history import HistoryError
from SocketIO_server.messages import Message
from SocketIO_server.redis_history import Change, LostTrackError, RedisHistory

log = logging.getLogger("relay")

BEAT = 2.0  # seconds between two signs of life,
GIVEN_UP = 15  # and after the last of which others say that work which it knew of has failed
RETRY = 1.0  # seconds until Redis is asked again after it has failed
SENT_AWAY = "sent away"  # why a viewer was disconnected


class SharedRelay(Relay):
    """The state of one relay process of several, and its event handlers.

    Args:
        socketio: as for `Relay`.
        history: that the relays share.
        lock: of the server's async mode, not reentrant.
        token: what publishers have to show; "" lets everybody publish.
    """

    history: RedisHistory

    def __init__(
        self,
        socketio: SocketIO,
        history: RedisHistory,
        lock: AbstractContextManager[Any],
        token: str,
    ) -> None:
        super().__init__(socketio, history, lock, token)
        self.history_lock = nullcontext()  # it needs none
        self._name = secrets.token_hex(8)
        self._position = ""  # in the log; "": not known
        self._trouble = ""  # why the log cannot be followed
        self._next_beat = 0.0

    def start(self) -> None:
        """Follow the log, in the background."""
        try:
            with self.lock:
                self._begin()
        except HistoryError as error:  # whoever asked `why_not_ready` knows
            self._trouble = str(error)
        self.socketio.start_background_task(self._follow)

    def why_not_ready(self) -> str | None:
        """A sentence if captions cannot be taken, or told, now."""
        return super().why_not_ready() or self._trouble or None

    # Following the log

    def _follow(self) -> None:
        """Tell viewers what changes, for ever."""
        while True:
            try:
                told = self._step()
                if self._trouble:
                    log.info("Redis can be used again.")
                    self._trouble = ""
                if not told:
                    self.history.wait(self._position, BEAT)
                continue
            except HistoryError as error:
                if not self._trouble and not self.closed:  # once
                    log.error("%s", error)
                self._trouble = str(error)
            except Exception:  # without this task viewers would see nothing any more
                log.exception("A change could not be told.")
            self.socketio.sleep(RETRY)

    def _step(self) -> bool:
        """Tell the next changes; whether there were any."""
        if time.monotonic() >= self._next_beat:
            self._beat()
        with self.lock:
            if not self._position:
                self._begin()
            try:
                return self._tell_changes()
            except LostTrackError as error:
                log.warning("%s Viewers are sent away; they come back and catch up.", error)
                self._send_viewers_away()
                return False

    def _begin(self) -> None:
        """Take up the log where it is now. The caller holds the lock, and no viewer is live."""
        beginning = self.history.beginning()
        self._in_progress = beginning.working
        self._told = beginning.seq
        self.history.told = max(self.history.told, beginning.seq)
        self._position = beginning.position

    def _tell_changes(self) -> bool:
        """Tell the next changes; whether there were any. The caller holds the lock."""
        if not self._position:
            raise HistoryError(self._trouble or "Redis has not been reached yet.")
        changes = self.history.changes(self._position)
        for change in changes:
            self._position = change.position
            self._tell(change)
        return bool(changes)

    def _tell(self, change: Change) -> None:
        payload = change.payload
        if change.event == "captioning":
            if payload is not None:
                self._tell_work(change.owner, payload)
            return
        if change.event == "forget":
            self._tell_forget(change.id)
            return
        was_expected = self._in_progress.pop(change.id, None) is not None
        if change.event == "prediction":
            self._told = change.seq
            self.history.told = max(self.history.told, change.seq)
        if payload is not None:
            self._broadcast(change.event, payload)
        elif was_expected:
            self._broadcast("forget", {"id": change.id})

    def _send_viewers_away(self) -> None:
        """Cut their connections, and take up the log anew. The caller holds the lock."""
        self._position = ""
        for sid in [sid for sid, client in self._clients.items() if client.viewer]:
            self.sockets.cut(sid, SENT_AWAY)
        self._begin()

    def _piece(
        self, position: int | None, last_seq: int | None
    ) -> tuple[dict[str, Any], int, bool]:
        """As in `Relay`, and no caption after the last that this relay has told."""
        if position is None:
            while self._tell_changes() and last_seq is not None and last_seq > self._told:
                pass
        return super()._piece(position, last_seq)

    # Work in progress

    def _owner(self, sid: str) -> str:
        return f"{self._name} {sid}"

    def _beat(self) -> None:
        """Give a sign of life, and look for work of those who gave none."""
        self.history.beat(self._name, GIVEN_UP)
        self._next_beat = time.monotonic() + BEAT
        for owner in {owner for owner, _ in self._in_progress.values()}:
            relay, sid = owner.split(" ")
            is_there = sid in self._clients if relay == self._name else self.history.is_there(relay)
            if not is_there:
                self._give_up_work_of(owner)

    def _give_up_work_of(self, owner: str) -> None:
        for identifier, (who, _) in list(self._in_progress.items()):
            if who == owner:
                try:
                    self.history.fail_work(identifier, BROKE_OFF, only_if_begun=True)
                except HistoryError:
                    return  # and again with the next sign of life

    # Messages from publishers

    def _predict(self, _sid: str, message: Message) -> Answer:
        with self.metrics.storing.time():
            seq, _ = self.history.add(message)
        return {"ok": True, "seq": seq}

    def _captioning(self, sid: str, message: Message) -> Answer:
        is_full = len(self._in_progress) >= MAX_IN_PROGRESS
        instead_of = next(iter(self._in_progress)) if is_full else ""
        self.history.begin_work(
            message.fields["id"], self._owner(sid), message.payload(), instead_of
        )
        return {"ok": True}

    def _captioning_failed(self, _sid: str, message: Message) -> Answer:
        self.history.fail_work(message.fields["id"], message.fields["error"])
        return {"ok": True}

    def _forget(self, _sid: str, message: Message) -> Answer:
        self.history.forget(message.fields["id"])
        return {"ok": True}
