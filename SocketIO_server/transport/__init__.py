"""Patches of the libraries under the relay, and the only code that uses their internals.

README.md lists the patches, with reasons. They are written for the versions below; a test fails
when another version is installed.
"""

from __future__ import annotations

from common.settings import Settings
from SocketIO_server.transport import async_modes

PATCHED_VERSIONS = {
    "python-engineio": "4.15.1",
    "python-socketio": "5.18.1",
    "eventlet": "0.41.3",
}


def install(settings: Settings) -> None:
    """Load the library of RELAY_ASYNC_MODE, and patch it and the libraries above it.

    Call this once, before Flask-SocketIO makes a server. A second call changes nothing.

    Raises:
        SettingsError: a package is missing; the sentence says how to install it.
    """
    mode = settings.relay_async_mode
    # The client of RELAY_MESSAGE_QUEUE uses plain sockets. Without the patch it would block all.
    async_modes.load(mode, patch_sockets=bool(settings.relay_message_queue))
    # Only now: what these import must find the patched standard library.
    from SocketIO_server.transport import direct_send, limits

    # On threads every client has a thread that writes to it, so there is nothing to gain.
    limits.install(limits.BoundedSocket if mode == "threading" else direct_send.DirectSocket)
    if mode == "eventlet":
        limits.install_for_eventlet()
