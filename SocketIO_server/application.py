"""The relay as a Flask application, put together from its parts. Nothing happens at import."""

from __future__ import annotations

from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

import flask
from flask_socketio import SocketIO

from common.errors import SettingsError
from common.hosts import Origins
from common.settings import Settings
from common.state import publisher_token
from SocketIO_server.api import Guard, add_routes
from SocketIO_server.events import Relay
from SocketIO_server.history import History
from SocketIO_server.library_log import library_log
from SocketIO_server.messages import MAX_MESSAGE
from SocketIO_server.transport.async_modes import make_lock
from SocketIO_server.transport.limits import BoundedPacket


def create_app(settings: Settings) -> flask.Flask:
    """A relay; `app.extensions` holds its `relay` and its `socketio`.

    Call `transport.install` before.

    Raises:
        SettingsError: the secret that publishers have to show cannot be kept, or
            RELAY_MESSAGE_QUEUE cannot be used.
    """
    app = flask.Flask(__name__, static_folder=None)
    origins = Origins(settings)
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
        logger=library_log(),
        engineio_logger=library_log(),
    )
    lock = make_lock(settings.relay_async_mode)
    relay = _make_relay(socketio, lock, settings)
    add_routes(app, relay, origins)
    app.wsgi_app = Guard(app.wsgi_app, settings)  # type: ignore[method-assign]
    app.extensions["relay"] = relay
    return app


def _make_relay(socketio: SocketIO, lock: AbstractContextManager[Any], settings: Settings) -> Relay:
    """A relay with a history in a file, or one of several with a history in Redis."""
    token = publisher_token(settings)
    if not settings.relay_message_queue:
        # In an event loop, calls of the history block the whole process. They are short: a commit
        # takes about as long as a broadcast.
        history = History(settings.relay_db, settings.relay_keep)
        return Relay(socketio, history, lock, token)
    queue = settings.relay_message_queue
    if not queue.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE must be the URL of a Redis server (redis://, rediss://, unix://), "
            "in which several relays keep one history."
        )
    if find_spec("redis") is None:
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE needs a package that is missing; run: pip install redis"
        )
    from SocketIO_server.redis_history import RedisHistory
    from SocketIO_server.shared import SharedRelay

    try:
        shared_history = RedisHistory(queue, settings.relay_keep)
    except ValueError as error:  # it may repeat a password
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE is malformed; it must be like redis://127.0.0.1:6379/0."
        ) from error
    return SharedRelay(socketio, shared_history, lock, token)
