"""Publishes events to the relay from a background thread, retrying until acknowledged.

Socket.IO delivers at most once. So captions and deletions go through an outbox on disk, one after
the other, each under an id, and leave it when the relay has acknowledged them. That work on a photo
has begun or failed matters only at once: it is sent if there is a connection, and not kept. If the
connection breaks meanwhile, the relay itself reports the photo as failed to the viewers.

No uploader waits here for a relay that does not answer.
"""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
import socketio
from socketio.exceptions import SocketIOError

from app1.outbox import Outbox
from common.errors import CaptionerError
from common.hosts import is_loopback

log = logging.getLogger(__name__)

ACKNOWLEDGE_SECONDS = 10.0
FIRST_RETRY_SECONDS = 0.25
LONGEST_RETRY_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0  # that the relay may ask for
# a relay keeps up when fewer events wait than this, and it takes less than this for one
FEW_EVENTS = 8
KEEPING_UP_SECONDS = 0.5


class RelayError(Exception):
    """The relay could not be reached or did not answer; its text says why."""


class Connection(Protocol):
    """A connection to the relay; `RelayConnection` is the real one."""

    @property
    def alive(self) -> bool: ...

    def call(self, event: str, payload: dict[str, Any], timeout: float) -> Any:
        """The relay's acknowledgement; RelayError when none comes within `timeout` seconds."""

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        """Send without acknowledgement. Raises RelayError."""

    def close(self) -> None: ...


class RelayConnection:
    """One connection by python-socketio's client, from its first handshake to its end.

    Args:
        url: of the relay.
        token: shown to the relay; "" where publishing is open.
        ended: called, in some thread, when the connection ends.

    Raises:
        RelayError: no connection, or the relay refuses the token.
    """

    def __init__(self, url: str, token: str, ended: Callable[[], None]) -> None:
        self._session = session = requests.Session()
        # an Origin is what a browser sends for its page, and the relay has a list of pages
        options: dict[str, Any] = {"suppress_origin": True}
        if is_loopback(urlsplit(url).hostname or ""):
            # a web proxy cannot reach this machine's own addresses
            session.trust_env = False
            options["http_no_proxy"] = ["*"]
        self._client = socketio.Client(
            reconnection=False,  # the publisher does that
            handle_sigint=False,
            http_session=session,
            websocket_extra_options=options,
        )
        self._ended = ended
        # python-socketio's emit is not thread-safe: a payload with bytes is several packets
        self._lock = threading.Lock()
        self._waiting: threading.Event | None = None
        self._client.on("disconnect", self._on_disconnect)
        refusals: list[Any] = []
        self._client.on("connect_error", refusals.append)
        try:
            # "viewer": what others publish is not for us
            auth = {"viewer": False, **({"token": token} if token else {})}
            # in a header too: a relay that is full of viewers still takes publishers
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            self._client.connect(url, headers, auth, wait_timeout=5)
            if not self.alive:
                raise ConnectionError("the connection broke")
        except (SocketIOError, OSError, ValueError) as error:
            self.close()
            reason = refusals[-1] if refusals else error
            if isinstance(reason, dict):
                reason = reason.get("message", reason)
            sentence = str(reason or f"no relay answers at {url}")
            if "ConnectionPool(" in sentence:  # requests' own text, different every time
                sentence = f"nobody answers at {url}"
            raise RelayError(sentence) from error

    @property
    def alive(self) -> bool:
        # the client itself goes on believing in a connection that breaks in the moment it is made
        return bool(self._client.connected) and self._client.eio.state == "connected"

    def call(self, event: str, payload: dict[str, Any], timeout: float) -> Any:
        # the client's own call() waits out its timeout even when the connection is gone
        answered = threading.Event()
        answer: list[Any] = []

        def acknowledge(*arguments: Any) -> None:
            answer.append(arguments[0] if arguments else None)
            answered.set()

        self._waiting = answered
        self._emit(event, payload, acknowledge)
        if not self.alive:
            answered.set()
        answered.wait(timeout)
        if not answer:
            raise RelayError(
                "the connection broke"
                if answered.is_set()
                else f"no acknowledgement within {timeout:g} seconds"
            )
        return answer[0]

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        self._emit(event, payload, None)

    def close(self) -> None:
        transport = self._client.eio
        with contextlib.suppress(Exception):  # whatever is wrong with it, it is given up
            transport.disconnect(abort=True)  # without waiting for a relay that may be stuck
        if transport.ws is not None:  # left open by the library when it was refused or has ended
            with contextlib.suppress(Exception):
                transport.ws.shutdown()
        self._session.close()

    def _emit(
        self, event: str, payload: dict[str, Any], callback: Callable[..., None] | None
    ) -> None:
        try:
            with self._lock:
                self._client.emit(event, payload, callback=callback)
        except (SocketIOError, OSError) as error:
            raise RelayError(str(error)) from error

    def _on_disconnect(self, *_: Any) -> None:
        if self._waiting is not None:
            self._waiting.set()
        self._ended()


class Publisher:
    """Publishes captions, in order, each at least once, retrying with back-off.

    Args:
        outbox: where events wait; the publisher empties it.
        connect: makes a connection, given a function to call when it ends.
        corrected: called with each caption that the relay has with a person's words or approval, as
            it is from now on. When it raises a CaptionerError, it is called again later.
        jitter: a number in [0, 1) for each retry, so that many publishers do not come at once.
    """

    def __init__(
        self,
        outbox: Outbox,
        connect: Callable[[Callable[[], None]], Connection],
        corrected: Callable[[dict[str, Any]], None] = lambda caption: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._outbox = outbox
        self._connect = connect
        self._corrected = corrected
        self._jitter = jitter
        self._connection: Connection | None = None
        self._failures = 0
        self._caught_up = False
        self._call_began: float | None = None
        self._complaint = ""
        # an entry lives as long as the uploader's request that waits for it
        self._deliveries: weakref.WeakValueDictionary[tuple[str, str], threading.Event] = (
            weakref.WeakValueDictionary()
        )
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self.acknowledged = 0
        self.refused = 0

    @property
    def connected(self) -> bool:
        connection = self._connection
        return connection is not None and connection.alive

    @property
    def waiting(self) -> int:
        """Events that the relay does not have yet."""
        return len(self._outbox)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """End the thread, and the connection; what waits stays in the outbox.

        Args:
            timeout: seconds given to a relay that answers to take what waits.
        """
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def announce(self, id_: str, image_path: str, thumbnail: bytes) -> None:
        """Work on a photo has begun; `publish` or `fail` follows."""
        self._send_now("captioning", {"id": id_, "image_path": image_path, "thumbnail": thumbnail})

    def fail(self, id_: str, sentence: str) -> None:
        """Work on a photo has failed."""
        self._send_now("captioning_failed", {"id": id_, "error": sentence})

    def forget(self, id_: str) -> None:
        """Take a photo and its caption off every screen and out of the history."""
        self._outbox.forget(id_)
        self._wake.set()

    def publish(self, payload: dict[str, Any], event: str = "predict") -> threading.Event:
        """Publish a caption, or a correction of one (`corrected`).

        Returns:
            What `delivered` asks for. The event is on disk by then.
        """
        delivery = threading.Event()
        self._deliveries[event, payload["id"]] = delivery
        self._outbox.add(event, payload)
        self._wake.set()
        return delivery

    def delivered(self, delivery: threading.Event, timeout: float) -> bool:
        """Whether the relay has a caption by now; waits only while the relay keeps up.

        Args:
            delivery: what `publish` returned.
            timeout: seconds to wait at most.
        """
        return delivery.wait(min(timeout, self._patience()))

    def step(self) -> float | None:
        """Do the next thing there is to do: connect, or bring one event to the relay.

        Returns:
            Seconds after which to call this again; 0 for at once, None for when there is news.
        """
        connection = self._connection
        if connection is None or not connection.alive:
            self._caught_up = False
            if connection is not None:
                connection.close()
            try:
                connection = self._connection = self._connect(self._wake.set)
            except RelayError as error:
                return self._retry(f"the relay cannot be reached: {error}")
        event = self._outbox.first()
        if event is None:
            self._went_well()
            self._caught_up = True
            return None
        self._call_began = time.monotonic()
        try:
            answer = connection.call(event.name, event.payload, ACKNOWLEDGE_SECONDS)
        except RelayError as error:
            connection.close()
            return self._retry(f"the relay does not answer: {error}")
        finally:
            self._call_began = None
        if not isinstance(answer, dict):
            answer = {"error": f"the answer {answer!r}"}
        if answer.get("ok"):
            if event.name == "corrected" and isinstance(answer.get("caption"), dict):
                try:
                    self._corrected(answer["caption"])
                except CaptionerError as error:
                    return self._retry(f"a correction cannot be kept: {error}")
            self._went_well()
            self._outbox.remove(event)
            self._caught_up = len(self._outbox) < FEW_EVENTS
            self.acknowledged += 1
            if delivery := self._deliveries.get((event.name, event.id)):
                delivery.set()
        elif answer.get("retry"):
            pause = answer.get("retry_after")
            return self._retry(
                f"the relay cannot take it now: {answer.get('error')}",
                at_least=min(pause, LONGEST_PAUSE_SECONDS)
                if isinstance(pause, (int, float))
                else 0,
            )
        else:
            log.error("the relay refuses %s %s: %s", event.name, event.id, answer.get("error"))
            self._outbox.put_aside(event)
            self.refused += 1
        return 0

    def _send_now(self, event: str, payload: dict[str, Any]) -> None:
        """Send at once or not at all."""
        connection = self._connection
        if connection is not None and self._patience() > 0:
            with contextlib.suppress(RelayError):
                connection.emit(event, payload)

    def _patience(self) -> float:
        """Seconds for which the relay may still be waited for; 0 when it does not keep up."""
        if not self._caught_up:
            return 0
        began = self._call_began
        taken = 0.0 if began is None else time.monotonic() - began
        return max(0.0, KEEPING_UP_SECONDS - taken)

    def _went_well(self) -> None:
        self._failures = 0
        if self._complaint:
            log.info("the relay can be reached again")
            self._complaint = ""

    def _retry(self, complaint: str, at_least: float = 0) -> float:
        """Seconds until the next attempt: twice as long each time, up to a limit, give or take."""
        self._caught_up = False
        # Once, not with every attempt; and a relay that starts with this server takes a moment.
        if complaint != self._complaint and self._failures > 0:
            log.warning("%s; captions wait in the outbox", complaint)
            self._complaint = complaint
        delay = min(LONGEST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(self._failures, 10))
        self._failures += 1
        return max(at_least, delay * (0.75 + 0.5 * self._jitter()))

    def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                delay = self.step()
            except Exception:  # this thread must not end: nobody would notice
                log.exception("unforeseen error while publishing")
                delay = LONGEST_RETRY_SECONDS
            if self._stopping.is_set() and delay != 0:
                return  # delivered, or not to be delivered now
            if delay is None:
                self._wake.wait()
            elif delay:
                self._stopping.wait(delay)
