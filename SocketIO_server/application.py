"""The relay as a Flask application, put together from its parts. Nothing happens at import."""

from __future__ import annotations

from importlib.util import find_spec

import flask
from flask_socketio import SocketIO

from common.errors import SettingsError
from common.hosts import Origins
from common.settings import Settings
from common.state import publisher_token
from SocketIO_server.api import Guard, add_routes
from SocketIO_server.connections import Connections
from SocketIO_server.log_filter import library_log
from SocketIO_server.messages import MAX_MESSAGE
from SocketIO_server.publishing import Publishing
from SocketIO_server.relay import Relay
from SocketIO_server.stores.protocol import Store
from SocketIO_server.stores.sqlite import SqliteStore
from SocketIO_server.transport.async_modes import make_lock
from SocketIO_server.transport.limits import BoundedPacket


def create_app(settings: Settings) -> flask.Flask:
    """A relay; `app.extensions` has its `relay` and its `socketio`.

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
    relay = Relay(socketio, _make_store(settings, socketio), make_lock(settings.relay_async_mode))
    Connections(relay, publisher_token(settings)).register()
    Publishing(relay).register()
    add_routes(app, relay, origins)
    app.wsgi_app = Guard(app.wsgi_app, settings)  # type: ignore[method-assign]
    app.extensions["relay"] = relay
    return app


def _make_store(settings: Settings, socketio: SocketIO) -> Store:
    """A file, or Redis where RELAY_MESSAGE_QUEUE names a server."""
    queue = settings.relay_message_queue
    if not queue:
        # In an event loop, calls of this store block the whole process. They are short: a commit
        # takes about as long as a broadcast.
        return SqliteStore(settings.relay_db, settings.relay_keep, socketio.sleep)
    if not queue.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE must be the URL of a Redis server (redis://, rediss://, unix://), "
            "in which several relays keep one history."
        )
    if find_spec("redis") is None:
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE needs a package that is missing; run: pip install redis"
        )
    from SocketIO_server.stores.redis import RedisStore

    try:
        return RedisStore(queue, settings.relay_keep)
    except ValueError as error:  # its text may repeat a password
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE is malformed; it must be like redis://127.0.0.1:6379/0."
        ) from error
