"""The relay as a Flask application, put together from its parts. Nothing happens at import."""

from __future__ import annotations

import flask
from flask_socketio import SocketIO

from common.hosts import Origins
from common.proxies import BehindProxies
from common.settings import Settings
from common.state import publisher_token
from SocketIO_server.api import Guard, add_routes
from SocketIO_server.connections import Connections
from SocketIO_server.log_filter import library_log
from SocketIO_server.messages import MAX_MESSAGE
from SocketIO_server.publishing import Publishing
from SocketIO_server.relay import LIVE, Relay
from SocketIO_server.stores import make_store
from SocketIO_server.transport.async_modes import make_lock
from SocketIO_server.transport.limits import BoundedPacket
from SocketIO_server.transport.rooms import Rooms


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
        client_manager=Rooms(LIVE),
        logger=library_log(),
        engineio_logger=library_log(),
    )
    relay = Relay(
        socketio, make_store(settings, socketio.sleep), make_lock(settings.relay_async_mode)
    )
    token = publisher_token(settings)
    Connections(relay, token).register()
    Publishing(relay).register()
    add_routes(app, relay, origins)
    # Flask-SocketIO takes these requests before Flask does. But it makes a request context of them
    # for each event, and an address without a route costs an exception, whose frames stay in memory
    # until the next full collection.
    app.add_url_rule("/socket.io/", "polling", flask.Response, methods=["GET", "POST"])
    app.add_url_rule("/socket.io/", "websocket", flask.Response, websocket=True)
    app.wsgi_app = BehindProxies(  # type: ignore[method-assign]
        Guard(app.wsgi_app, settings, relay, token),
        settings.captioner_trusted_proxies,
        settings.relay_public_url,
    )
    app.extensions["relay"] = relay
    return app
