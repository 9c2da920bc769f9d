"""What differs between the three of RELAY_ASYNC_MODE: how to load, to lock, to wait and to serve.

Each is imported only when it is used. `prepare` comes first, before Flask and what is under it.
"""

from __future__ import annotations

import importlib
import logging
import socket
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any

from common.errors import SettingsError
from common.settings import Settings
from SocketIO_server import bounds
from SocketIO_server.strict_http import strict


def prepare(settings: Settings) -> None:
    """Load the library of the async mode.

    Raises:
        SettingsError: a package is missing; the sentence says how to install it.
    """
    mode, queue = settings.relay_async_mode, settings.relay_message_queue
    if mode == "gevent" and find_spec("gevent") is None:
        raise SettingsError(
            "RELAY_ASYNC_MODE is gevent, a package that is missing; run: pip install gevent"
        )
    if queue and not queue.startswith(("redis://", "rediss://", "unix://")):
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE must be the URL of a Redis server (redis://, rediss://, unix://), "
            "in which several relays keep one history."
        )
    if queue and find_spec("redis") is None:
        raise SettingsError(
            "RELAY_MESSAGE_QUEUE needs a package that is missing; run: pip install redis"
        )
    if mode == "eventlet":
        with warnings.catch_warnings():
            # Eventlet asks new projects to use something else. It is the relay's default all the
            # same: of the servers that Flask-SocketIO runs on, it does best with many viewers.
            warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
            eventlet = importlib.import_module("eventlet")
        if queue:
            eventlet.monkey_patch()  # for the queue's client, which uses plain sockets
        bounds.bound_eventlet()
    elif mode == "gevent":
        # a package that is not kept up any more, which engineio would use if it found it
        sys.modules["geventwebsocket"] = None  # type: ignore[assignment]
        if queue:
            importlib.import_module("gevent.monkey").patch_all()


def make_lock(mode: str) -> AbstractContextManager[Any]:
    """A lock, not reentrant, that lets the others of this mode go on while one waits for it."""
    lock: AbstractContextManager[Any]
    if mode == "eventlet":
        lock = importlib.import_module("eventlet.semaphore").Semaphore(1)
    elif mode == "gevent":
        lock = importlib.import_module("gevent.lock").BoundedSemaphore(1)
    else:
        lock = importlib.import_module("threading").Lock()
    return lock


def make_waitable(mode: str, plain: socket.socket) -> Any:
    """A socket that lets the others of this mode go on while one waits for it."""
    if mode == "eventlet":
        return importlib.import_module("eventlet.greenio").GreenSocket(plain)
    if mode == "gevent":
        return importlib.import_module("gevent.socket").socket(fileno=plain.detach())
    return plain


def serve(mode: str, listener: socket.socket, app: Callable[..., Any]) -> None:
    """Serve a WSGI application for ever."""
    connections = bounds.raise_connection_limit()
    if mode == "eventlet":
        wsgi = importlib.import_module("eventlet.wsgi")
        wsgi.server(
            make_waitable(mode, listener),
            app,
            protocol=strict(wsgi.HttpProtocol),
            max_size=connections,
            socket_timeout=60,  # seconds for a client to send what it has begun
            log_output=False,
            debug=False,
        )
    elif mode == "gevent":
        pywsgi: Any = importlib.import_module("gevent.pywsgi")

        class Handler(pywsgi.WSGIHandler):
            def handle_one_response(self) -> None:
                super().handle_one_response()
                # else it takes what comes last on a WebSocket for a request, a malformed one
                if "HTTP_UPGRADE" in self.environ:
                    self.close_connection = True

        pywsgi.WSGIServer(
            make_waitable(mode, listener), app, log=None, spawn=connections, handler_class=Handler
        ).serve_forever()
    else:
        # Of the servers that run WebSockets on threads, this one comes with Flask. Good for a few
        # dozen viewers: each has two threads.
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        serving = importlib.import_module("werkzeug.serving")
        host, port = listener.getsockname()[:2]
        serving.make_server(
            host,
            port,
            app,
            threaded=True,
            request_handler=strict(serving.WSGIRequestHandler),
            fd=listener.fileno(),
        ).serve_forever()
