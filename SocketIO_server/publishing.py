"""The messages from publishers: may this client send, is the message in order, and what it does."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import flask
from flask_socketio import ConnectionRefusedError as Refused

from SocketIO_server import messages
from SocketIO_server.messages import Message, MessageError
from SocketIO_server.relay import MAX_IN_PROGRESS, Relay
from SocketIO_server.stores.protocol import StoreError, Work

log = logging.getLogger("relay")

RETRY_AFTER = 5.0  # seconds after which a publisher may try again when the store failed

Answer = dict[str, Any]


class Publishing:
    """The handlers of publishers' messages. Each changes the store; then the relay reads its log.

    Args:
        relay: whose store it is. Its server's `async_handlers` has to be off, so that one client's
            messages are handled one after the other.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def register(self) -> None:
        """Register the handlers with the relay's server."""
        socketio = self._relay.socketio
        for name, check, handle in (
            ("predict", messages.predict, self._predict),
            ("captioning", messages.captioning, self._captioning),
            ("captioning_failed", messages.captioning_failed, self._captioning_failed),
            ("forget", messages.forget, self._forget),
            ("corrected", messages.corrected, self._corrected),
        ):
            socketio.on_event(name, self._handler(name, check, handle))
        unknown = self._handler("unknown", lambda _: Message({}), self._unknown)
        socketio.on_event("*", unknown)
        socketio.on_error_default(self._failed)

    def _handler(
        self,
        event: str,
        check: Callable[[object], Message],
        handle: Callable[[str, Message], Answer],
    ) -> Callable[..., Answer]:
        """A Socket.IO handler, which returns the acknowledgement."""
        relay = self._relay

        def handler(*arguments: Any) -> Answer:
            sid = flask.request.sid  # type: ignore[attr-defined]
            relay.answering.add(sid)
            try:
                client = relay.clients.get(sid)
                wait = client.bucket.wait() if client else 0.0
                if client is None or not client.publisher:
                    if client is None or wait:  # it goes on although it was refused
                        relay.sockets.disconnect(sid)
                    answer = _no("Only publishers may send this; connect with the relay's token.")
                elif wait:
                    answer = _no("Too many messages at once; wait a little.", retry_after=wait)
                elif relay.closed:
                    answer = _no("The relay is stopping; send again.", retry_after=1)
                else:
                    answer = handle(sid, check(arguments[0] if arguments else None))
                    relay.broadcast_now()
            except MessageError as error:
                answer = _no(str(error))
            except StoreError as error:
                answer = _no(str(error), retry_after=RETRY_AFTER)
            finally:
                relay.answering.discard(sid)
            relay.metrics.messages.labels(event, "taken" if answer["ok"] else "refused").inc()
            return answer

        return handler

    def _predict(self, _sid: str, message: Message) -> Answer:
        with self._relay.metrics.storing.time():
            seq, _ = self._relay.store.append(message)
        return {"ok": True, "seq": seq}

    def _captioning(self, sid: str, message: Message) -> Answer:
        relay = self._relay
        is_full = len(relay.working) >= MAX_IN_PROGRESS
        relay.store.begin_work(
            message.fields["id"],
            Work(relay.owner(sid), message.payload()),
            instead_of=next(iter(list(relay.working)), "") if is_full else "",
        )
        return {"ok": True}

    def _captioning_failed(self, _sid: str, message: Message) -> Answer:
        self._relay.store.fail_work(message.fields["id"], message.fields["error"])
        return {"ok": True}

    def _forget(self, _sid: str, message: Message) -> Answer:
        self._relay.store.forget(message.fields["id"])
        return {"ok": True}

    def _corrected(self, _sid: str, message: Message) -> Answer:
        """The answer has the whole caption, so that a publisher can keep what people corrected."""
        fields = message.fields
        caption = self._relay.store.correct(fields.pop("id"), fields)
        if caption is None:
            return _no("There is no caption of this id.")
        return {"ok": True, "seq": caption["seq"], "caption": caption}

    def _unknown(self, _sid: str, _message: Message) -> Answer:
        return _no("Unknown event.")

    def _failed(self, error: Exception) -> Answer:
        """Answer a message whose handler raised something unexpected."""
        log.error("A message could not be handled.", exc_info=error)
        if flask.request.event["message"] == "connect":  # type: ignore[attr-defined]
            raise Refused("The relay failed; try again later.")
        return _no("The relay failed on this message.", retry_after=RETRY_AFTER)


def _no(error: str, retry_after: float | None = None) -> Answer:
    """A refusal: the sentence, and in how many seconds the same message may be taken, if ever."""
    answer: Answer = {"ok": False, "error": error, "retry": retry_after is not None}
    return answer if retry_after is None else {**answer, "retry_after": round(retry_after, 2)}
