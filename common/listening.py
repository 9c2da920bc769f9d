"""How a server gets its port and its file descriptors."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import socket

from common.errors import CaptionerError


class CannotListenError(CaptionerError):
    """The port is taken, or the address is not this machine's."""

    title = "A server cannot listen"


def listen(host: str, port: int, server: str) -> socket.socket:
    """A listening TCP socket on one address: the first IPv4 one of a name with several.

    The libraries' own functions are not used: eventlet's shares a port with a program that has it
    already, and Waitress makes one server for each address.

    Args:
        server: the prefix of its settings: RELAY, APP1 or APP2.

    Raises:
        CannotListenError: the sentence names the port and the setting.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = min(found, key=lambda f: f[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share a port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                with contextlib.suppress(OSError):  # "::" is for IPv4 too, where the system can
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            # Connections inherit it. Without it the end of a message waits until its beginning is
            # acknowledged, which clients delay by up to a fifth of a second.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(address)
            listener.listen(512)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise CannotListenError(_why_not(error, host, port, server)) from error
    return listener


def _why_not(error: OSError, host: str, port: int, server: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} is taken on {host}; stop the program that listens there, or set "
            f"{server}_PORT to another port."
        )
    return (
        f"Cannot listen on {host}, port {port} ({error.strerror}); set {server}_HOST and "
        f"{server}_PORT to an address of this machine."
    )


def raise_file_limit(files: int) -> int:
    """Let this process open up to `files` files and sockets, if the system allows it.

    Some systems begin with 256 a process, and let it ask for more.

    Returns:
        How many it may open, `files` at most.
    """
    try:
        resource = importlib.import_module("resource")
    except ImportError:  # not on Windows, where sockets are not files
        return files
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= files:
        return files
    wanted = files if hard == resource.RLIM_INFINITY else min(files, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):  # macOS has a lower limit that it does not report
        return int(soft)
    return int(wanted)
