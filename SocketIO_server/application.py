"""The relay as a Flask application: its parts, put together. Nothing happens at import."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

import flask
from flask_socketio import SocketIO

from common.errors import SettingsError
from common.hosts import Origins
from common.settings import Settings
from common.state import publisher_token
from SocketIO_server import async_modes
from SocketIO_server.api import Guard, add_routes
from SocketIO_server.at_once import DirectSocket
from SocketIO_server.bounds import (
    BoundedPacket,
    BoundedSocket,
    BriefFilter,
    bound_disconnect,
    bound_requests,
    bound_waiting,
)
from SocketIO_server.events import Relay
from SocketIO_server.history import History
from SocketIO_server.messages import MAX_MESSAGE


def create_app(settings: Settings) -> flask.Flask:
    """A relay; `app.extensions` holds its `relay` and its `socketio`.

    To be called after `async_modes.prepare`.

    Raises:
        SettingsError: the secret that publishers have to show cannot be kept, or
            RELAY_MESSAGE_QUEUE is malformed.
    """
    app = flask.Flask(__name__, static_folder=None)
    origins = Origins(settings)
    library_log = logging.getLogger("relay.socketio")
    library_log.setLevel(logging.ERROR)
    library_log.addFilter(BriefFilter())
    bound_waiting(BoundedSocket if settings.relay_async_mode == "threading" else DirectSocket)
    socketio = SocketIO(
        app,
        async_mode=settings.relay_async_mode,
        # one client's messages one after the other, and no more of them than are being handled
        async_handlers=False,
        max_http_buffer_size=MAX_MESSAGE,
        cors_allowed_origins=origins.allows,
        cors_credentials=False,  # there are no cookies
        manage_session=False,
        serializer=BoundedPacket,
        logger=library_log,
        engineio_logger=library_log,
    )
    bound_disconnect(socketio.server.eio)
    bound_requests(socketio.server.eio)
    lock = async_modes.make_lock(settings.relay_async_mode)
    relay = _make_relay(socketio, lock, settings)
    add_routes(app, relay, origins)
    app.wsgi_app = Guard(app.wsgi_app, settings)  # type: ignore[method-assign]
    app.extensions["relay"] = relay
    return app


def _make_relay(socketio: SocketIO, lock: AbstractContextManager[Any], settings: Settings) -> Relay:
    """A relay with a history in a file, or one of several with a history in Redis."""
    token = publisher_token(settings)
    if not settings.relay_message_queue:
        # Calls of the history block the whole process under eventlet, and may: they are short (a
        # commit is about as long as a broadcast), and everybody has to wait for them anyway, for
        # the order.
        history = History(settings.relay_db, settings.relay_keep)
        return Relay(socketio, history, lock, token)
    from SocketIO_server.redis_history import RedisHistory  # a package that few need
    from SocketIO_server.shared import SharedRelay

    try:
        shared_history = RedisHistory(settings.relay_message_queue, settings.relay_keep)
    except ValueError as error:  # it may repeat a password
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE is malformed; it must be like redis://127.0.0.1:6379/0."
        ) from error
    return SharedRelay(socketio, shared_history, lock, token)
