"""The relay's process: settings, web server, start and stop.

    cd SocketIO_server && python server.py

Nothing happens when it is imported.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout, if run from here

from common.errors import SettingsError
from common.hosts import http_url, is_loopback
from common.listening import CannotListenError, listen, raise_file_limit
from common.settings import Settings
from SocketIO_server import transport
from SocketIO_server.transport import async_modes

if TYPE_CHECKING:
    import flask

    from SocketIO_server.relay import Relay

log = logging.getLogger("relay")

DRAIN_SECONDS = 5.0  # for what was taken to be answered when the relay stops
MAX_CONNECTIONS = 8_000
SPARE = 200  # connections above that, for answers of 503 with Retry-After
OTHER_FILES = 300  # that the process may have open, with those


def main() -> int:
    """Run the relay until SIGTERM or SIGINT; the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until it serves, Ctrl-C just ends it
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    os.umask(0o077)  # what we write holds people's pictures
    try:
        settings = Settings.from_environment()
        transport.install(settings)
        # Only now: this imports the libraries that `install` prepares.
        from SocketIO_server.application import create_app
        from SocketIO_server.forwarding import make_followers

        app = create_app(settings)
        followers = make_followers(settings)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    try:
        listener = listen(settings.relay_host, settings.relay_port, "RELAY")
    except CannotListenError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    log.info("Settings: %s", settings.describe())
    if not is_loopback(settings.relay_host):
        log.warning(
            "The relay listens on %s, without encryption: anyone who can reach it can see all "
            "captions and photos. Set RELAY_HOST to 127.0.0.1, or put a proxy with TLS before it.",
            settings.relay_host,
        )
    relay: Relay = app.extensions["relay"]
    mode = settings.relay_async_mode
    wake, signals = _catch_signals(mode)
    relay.start()
    for follower in followers:
        relay.streams.add(follower)
        follower.start()
    relay.most_clients = limit = raise_connection_limit()
    most = limit + min(SPARE, limit // 2)
    relay.socketio.start_background_task(_serve, mode, listener, app, most, wake)
    # A full collection of garbage holds up every viewer: for 50 ms by what there is now, which
    # stays, and for 80 ms by each 1,000 connections. By default it comes whenever their number has
    # grown by a quarter; so, only after a million new objects. Few connections leave any garbage.
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    print(f"relay ready on {http_url(settings.relay_host, settings.relay_port)}/", flush=True)
    stopped_by = signals.recv(1)
    relay.stopping = True
    _drain(relay)
    for follower in followers:
        follower.stop()
    relay.store.close()
    return 0 if stopped_by != _CRASHED else 1


def raise_connection_limit() -> int:
    """Allow this process more open files, if it may have them; the clients that it can take.

    Fewer clients than files: when no file is left, accepting fails and ends the server.
    """
    files = raise_file_limit(MAX_CONNECTIONS + OTHER_FILES)
    return max(files - OTHER_FILES, files // 2)


_CRASHED = b"\0"  # no signal has this number


def _serve(
    mode: str, listener: socket.socket, app: flask.Flask, limit: int, wake: socket.socket
) -> None:
    """Serve; if that ends, wake the main task, so that the process ends too."""
    try:
        async_modes.serve(mode, listener, app, limit)
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
    return wake, async_modes.make_waitable(mode, signals)


def _drain(relay: Relay) -> None:
    """Take no more, and let what was taken be answered and broadcast.

    Connections are then cut without a goodbye: a client takes that for a broken connection and
    connects again, while python-socketio's stays away after a goodbye.
    """
    until = time.monotonic() + DRAIN_SECONDS

    def wait_until(condition: Callable[[], bool]) -> None:
        while not condition() and time.monotonic() < until:
            relay.socketio.sleep(0.02)

    relay.socketio.sleep(0.2)  # for /readyz to be asked: publishers can go elsewhere
    relay.closed = True
    wait_until(lambda: not relay.answering)
    relay.socketio.sleep(0.05)  # for the last answer to be queued
    wait_until(relay.sockets.taken())


if __name__ == "__main__":
    sys.exit(main())
