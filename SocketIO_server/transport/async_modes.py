"""The differences between the three values of RELAY_ASYNC_MODE: load, lock, wait and serve.

Each library is imported only when its mode is used.
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
from SocketIO_server.transport.http_parsing import strict


def load(mode: str, patch_sockets: bool) -> None:
    """Load the library of an async mode.

    Args:
        patch_sockets: let the standard library's sockets, locks and sleep give way to other tasks.

    Raises:
        SettingsError: a package is missing; the sentence says how to install it.
    """
    if mode == "gevent" and find_spec("gevent") is None:
        raise SettingsError(
            "RELAY_ASYNC_MODE is gevent, a package that is missing; run: pip install gevent"
        )
    if mode == "eventlet":
        with warnings.catch_warnings():
            # Eventlet asks new projects to use something else. It is the relay's default all the
            # same: of the servers that Flask-SocketIO runs on, it does best with many viewers.
            warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
            eventlet = importlib.import_module("eventlet")
        if patch_sockets:
            eventlet.monkey_patch()
    elif mode == "gevent":
        # a package that is no longer maintained; engineio would use it if it found it
        sys.modules["geventwebsocket"] = None  # type: ignore[assignment]
        if patch_sockets:
            importlib.import_module("gevent.monkey").patch_all()


def make_lock(mode: str) -> AbstractContextManager[Any]:
    """A lock, not reentrant, that lets other tasks of this mode run while one waits for it."""
    lock: AbstractContextManager[Any]
    if mode == "eventlet":
        lock = importlib.import_module("eventlet.semaphore").Semaphore(1)
    elif mode == "gevent":
        lock = importlib.import_module("gevent.lock").BoundedSemaphore(1)
    else:
        lock = importlib.import_module("threading").Lock()
    return lock


def make_waitable(mode: str, plain: socket.socket) -> Any:
    """A socket that lets other tasks of this mode run while one waits for it."""
    if mode == "eventlet":
        return importlib.import_module("eventlet.greenio").GreenSocket(plain)
    if mode == "gevent":
        return importlib.import_module("gevent.socket").socket(fileno=plain.detach())
    return plain


def send_at_once(environ: dict[str, Any]) -> None:
    """Have each part of a response sent as it is made; eventlet would collect small ones."""
    environ["eventlet.minimum_write_chunk_size"] = 1


def serve(
    mode: str, listener: socket.socket, app: Callable[..., Any], max_connections: int
) -> None:
    """Serve a WSGI application until the process ends.

    Args:
        max_connections: at the same time; on threads there is no limit.
    """
    if mode == "eventlet":
        wsgi = importlib.import_module("eventlet.wsgi")

        class Protocol(strict(wsgi.HttpProtocol)):  # type: ignore[misc]
            # Bytes. A WebSocket keeps both buffers as long as it lives, and uses neither: by
            # default, 24 kB a viewer.
            rbufsize = 1024
            wbufsize = 1024

        wsgi.server(
            make_waitable(mode, listener),
            app,
            protocol=Protocol,
            max_size=max_connections,
            socket_timeout=60,  # seconds for a client to send what it has begun
            log_output=False,
            debug=False,
        )
    elif mode == "gevent":
        pywsgi: Any = importlib.import_module("gevent.pywsgi")

        class Handler(pywsgi.WSGIHandler):
            def handle_one_response(self) -> None:
                super().handle_one_response()
                # else it takes the last bytes of a WebSocket for a request, a malformed one
                if "HTTP_UPGRADE" in self.environ:
                    self.close_connection = True

        pywsgi.WSGIServer(
            make_waitable(mode, listener),
            app,
            log=None,
            spawn=max_connections,
            handler_class=Handler,
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
