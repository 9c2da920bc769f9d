"""The relay's process: settings, web server, start and stop.

    cd SocketIO_server && python server.py

It knows nothing of captions: `events.py` and `api.py` do. Nothing happens when it is imported.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import signal
import socket
import sys
import time
import warnings
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, if run from here

import flask
from flask_socketio import SocketIO

from captioner.errors import SettingsError
from captioner.settings import Settings, http_url, is_loopback
from SocketIO_server import bounds
from SocketIO_server.api import Guard, add_routes
from SocketIO_server.events import Relay
from SocketIO_server.history import History, HistoryError
from SocketIO_server.messages import MAX_MESSAGE
from SocketIO_server.origins import Origins

log = logging.getLogger("relay")

DRAIN_SECONDS = 5.0  # for what was taken to be answered when the relay stops


def create_app(settings: Settings) -> flask.Flask:
    """A relay as a Flask application; `app.extensions` holds its `relay` and its `socketio`.

    Raises:
        SettingsError: the secret that publishers have to show cannot be kept, or the package for
            RELAY_ASYNC_MODE is missing.
    """
    token = settings.publisher_token()
    lock = _prepare(settings)
    app = flask.Flask(__name__, static_folder=None)
    origins = Origins(settings)
    library_log = logging.getLogger("relay.socketio")
    library_log.setLevel(logging.ERROR)
    library_log.addFilter(bounds.BriefFilter())
    socketio = SocketIO(
        app,
        async_mode=settings.relay_async_mode,
        # one client's messages one after the other, and no more of them than are being handled
        async_handlers=False,
        max_http_buffer_size=MAX_MESSAGE,
        cors_allowed_origins=origins.allows,
        cors_credentials=False,  # there are no cookies
        manage_session=False,
        serializer=bounds.BoundedPacket,
        message_queue=settings.relay_message_queue or None,
        logger=library_log,
        engineio_logger=library_log,
    )
    # Calls of the history block the whole process under eventlet, and may: they are short (a commit
    # is about as long as a broadcast), and everybody has to wait for them anyway, for the order.
    history = History(settings.relay_db, settings.relay_keep)
    relay = Relay(socketio, history, lock, token)
    add_routes(app, relay, origins)
    app.wsgi_app = Guard(app.wsgi_app, origins, settings)  # type: ignore[method-assign]
    app.extensions["relay"] = relay
    return app


def main() -> int:
    """Run the relay until SIGTERM or SIGINT; the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)  # what we write holds people's pictures
    try:
        settings = Settings.from_environment()
        app = create_app(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        listener = listen(settings.relay_host, settings.relay_port)
    except OSError as error:
        print(_why_not_listening(settings, error), file=sys.stderr)
        return 1
    relay: Relay = app.extensions["relay"]
    socketio: SocketIO = app.extensions["socketio"]
    log.info("Settings: %s", settings.describe())
    if not is_loopback(settings.relay_host):
        log.warning(
            "The relay listens on %s, without encryption: whoever can reach it there can see all "
            "captions and photos. Set RELAY_HOST to 127.0.0.1, or put a proxy with TLS before it.",
            settings.relay_host,
        )
    try:
        with relay.lock:
            relay.history.open()
    except HistoryError as error:
        log.error("%s", error)  # and go on: viewers can connect, and the disk may get better

    wake, signals = _catch_signals(settings.relay_async_mode)
    socketio.start_background_task(_serve, settings.relay_async_mode, listener, app, wake)
    print(f"relay ready on {http_url(settings.relay_host, settings.relay_port)}/", flush=True)
    stopped_by = signals.recv(1)
    relay.stopping = True
    _drain(relay, socketio)
    with relay.lock:
        relay.history.close()
    return 0 if stopped_by != _CRASHED else 1


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, IPv4 if a name stands for both kinds of address.

    Not the libraries' own way to make one: eventlet's shares a port with whoever has it already.

    Raises:
        OSError: the port is taken, or the address is not this machine's.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(found, key=lambda f: f[0] != socket.AF_INET)
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with suppress(OSError):  # "::" is for IPv4 too, where the system can
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(address)
        listener.listen(512)
    except OSError:
        listener.close()
        raise
    return listener


def _why_not_listening(settings: Settings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {settings.relay_port} is taken on {settings.relay_host}; stop the program that "
            "listens there, or set RELAY_PORT to another port."
        )
    return (
        f"The relay cannot listen on {settings.relay_host}, port {settings.relay_port} "
        f"({error.strerror}); set RELAY_HOST and RELAY_PORT to an address of this machine."
    )


# What differs between RELAY_ASYNC_MODE's three: how to import, to lock, to wait and to serve.


def _prepare(settings: Settings) -> AbstractContextManager[Any]:
    """Load what the async mode needs; a lock of its kind."""
    mode = settings.relay_async_mode
    try:
        with warnings.catch_warnings():
            # Eventlet asks new projects to use something else. It is this relay's default all the
            # same: of the servers that Flask-SocketIO knows, it does best with many viewers.
            warnings.filterwarnings("ignore", message=r"\s*Eventlet is deprecated")
            if mode == "eventlet":
                eventlet = importlib.import_module("eventlet")
                if settings.relay_message_queue:
                    eventlet.monkey_patch()  # for the queue's client, which uses plain sockets
                bounds.bound_eventlet()
                return importlib.import_module("eventlet.semaphore").Semaphore(1)
            if mode == "gevent":
                if settings.relay_message_queue:
                    importlib.import_module("gevent.monkey").patch_all()
                return importlib.import_module("gevent.lock").BoundedSemaphore(1)
    except ImportError as error:
        raise SettingsError(
            f"RELAY_ASYNC_MODE is {mode}, which needs a package that is missing; "
            f"run: pip install {mode}"
        ) from error
    return importlib.import_module("threading").Lock()


def _green(mode: str, plain: socket.socket) -> Any:
    """A socket that, while it waits, lets the others of this async mode go on."""
    if mode == "eventlet":
        return importlib.import_module("eventlet.greenio").GreenSocket(plain)
    if mode == "gevent":
        return importlib.import_module("gevent.socket").socket(fileno=plain.detach())
    return plain


_CRASHED = b"\0"  # no signal has this number


def _serve(mode: str, listener: socket.socket, app: flask.Flask, wake: socket.socket) -> None:
    """Serve for ever; if that ends, wake the main task, so that the process ends too."""
    try:
        connections = bounds.raise_connection_limit()
        green = _green(mode, listener)
        if mode == "eventlet":
            importlib.import_module("eventlet.wsgi").server(
                green,
                app,
                max_size=connections,
                socket_timeout=60,  # seconds for a client to send what it has begun
                log_output=False,
                debug=False,
            )
        elif mode == "gevent":
            pywsgi = importlib.import_module("gevent.pywsgi")
            pywsgi.WSGIServer(green, app, log=None, spawn=connections).serve_forever()
        else:
            # Of the servers that run WebSockets on threads, this one comes with Flask. Good for a
            # few dozen viewers: each has two threads.
            logging.getLogger("werkzeug").setLevel(logging.ERROR)
            serving = importlib.import_module("werkzeug.serving")
            host, port = listener.getsockname()[:2]
            serving.make_server(
                host, port, app, threaded=True, fd=listener.fileno()
            ).serve_forever()
    except Exception:
        log.exception("The web server broke down.")
    wake.send(_CRASHED)


def _catch_signals(mode: str) -> tuple[socket.socket, Any]:
    """A pair of sockets: the second gets a byte at SIGTERM, at SIGINT, and from the first.

    A signal handler alone would not do: the event loop goes on sleeping after it.
    """
    wake, signals = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)

    def again_means_at_once(number: int, _frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, again_means_at_once)
    return wake, _green(mode, signals)


def _drain(relay: Relay, socketio: SocketIO) -> None:
    """Let what was taken be answered and broadcast.

    Connections are then cut, not closed in form: a client takes that for a break and connects
    again, while python-socketio's stays away after a formal goodbye.
    """
    until = time.monotonic() + DRAIN_SECONDS
    socketio.sleep(0.2)  # for /readyz to be asked, and for the last answers to leave
    while relay.waiting() and time.monotonic() < until:
        socketio.sleep(0.02)


if __name__ == "__main__":
    sys.exit(main())
