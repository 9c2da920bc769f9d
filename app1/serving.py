"""Serves app1 with Waitress: sizes it so that our own queue is what fills, and drains at the end.

Waitress has one thread that talks to all sockets and a pool of threads that run requests. A request
occupies a thread of the pool only once it is there completely, so slow senders cost none; an upload
that waits for its turn does. So the pool has a thread for each upload that may wait, and some to
spare for everything else: health checks are answered, and the upload too many is told so, at once.

Slow senders cost a connection each, though, and those are bounded too. So when there are too many,
a new one costs the one that has taken longest to say something whole: whoever comes with a short
request gets through.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Collection
from threading import Thread
from typing import Any

from flask import Flask
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.server import create_server
from waitress.wasyncore import close_all

from pages.strict_http import StrictChannel, StrictParser

SPARE_THREADS = 16
CROWDED = 350  # connections from which on a new one costs an old one
CONNECTIONS = 400  # open at a time; more wait to be accepted
FILES = 1024  # open at a time: two for each connection, and some more
IDLE_SECONDS = 60
HEADER_BYTES = 64 * 1024
IN_MEMORY_BYTES = 64 * 1024  # of a request body; what is longer goes to a temporary file
LONGEST_BODY_BYTES = 2**30
RECEIVE_BYTES = 64 * 1024  # at a time; Waitress's own 8 KiB means thousands of turns for a photo


class _LimitedBuffer(OverflowableBuffer):
    """Counts all of a request body but keeps none of it beyond a limit.

    Waitress itself answers in the middle of a body that is too long, and closes; most clients are
    still sending then, and report a broken connection instead of the answer. Read to the end and
    thrown away, the body costs no disk, and the app's own sentence arrives.
    """

    def __init__(self, overflow: int, limit: int) -> None:
        super().__init__(overflow)
        self._limit = limit
        self._received = 0

    def __len__(self) -> int:
        return self._received

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= self._limit:
            super().append(data)
        elif super().__len__():
            self.close()
            self.buf, self.strbuf, self.overflowed = None, b"", False


def _make_room(channels: Collection[HTTPChannel]) -> None:
    """Where there are too many connections, close the oldest that no answer is on its way to."""
    if len(channels) > CROWDED:
        idle = [c for c in channels if not (c.requests or c.total_outbufs_len or c.will_close)]
        if idle:
            # not closed here, where its descriptor may still be among those that the poll told of
            min(idle, key=lambda channel: channel.creation_time).will_close = True


class PageServer:
    """A running server for `app`.

    Args:
        app: answers a body longer than its MAX_CONTENT_LENGTH with 413, unread.
        waiting: how many requests may wait for something else at once.

    Raises:
        OSError: the port cannot be had.
    """

    def __init__(self, app: Flask, host: str, port: int, waiting: int) -> None:
        longest = app.config["MAX_CONTENT_LENGTH"]
        _raise_file_limit()

        class Parser(StrictParser):
            def parse_header(self, header_plus: bytes) -> None:
                super().parse_header(header_plus)
                if self.body_rcv is not None:
                    self.body_rcv.buf = _LimitedBuffer(self.adj.inbuf_overflow, longest)

        class Channel(StrictChannel):
            parser_class = Parser

            def __init__(self, server: Any, *args: Any, **options: Any) -> None:
                super().__init__(server, *args, **options)
                _make_room(server.active_channels.values())

        self._server = create_server(
            app,
            sockets=[_bind(host, port)],
            ident=None,
            threads=waiting + SPARE_THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=IDLE_SECONDS,
            cleanup_interval=IDLE_SECONDS // 4,
            max_request_header_size=HEADER_BYTES,
            max_request_body_size=max(LONGEST_BODY_BYTES, 2 * longest),
            recv_bytes=RECEIVE_BYTES,
            inbuf_overflow=IN_MEMORY_BYTES,
            asyncore_use_poll=True,  # select() stops at descriptor 1024
        )
        self._server.channel_class = Channel
        self._thread = Thread(target=self._server.run, name="sockets", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self, timeout: float) -> bool:
        """Wait until all that was received is answered; meanwhile, requests are still taken.

        Args:
            timeout: seconds to wait at most.

        Returns:
            Whether everything was answered in time.
        """
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            # a copy, since the other thread opens and closes connections meanwhile
            channels = list(self._server.active_channels.values())
            if not any(channel.requests or channel.total_outbufs_len for channel in channels):
                return True
            time.sleep(0.02)
        return False

    def close(self) -> None:
        """Close the port and all connections, and end the threads."""
        if self._thread.is_alive():
            # in the thread that uses them: a socket closed under poll() is an error there
            self._server.trigger.pull_trigger(self._close_all)
            self._thread.join()
        else:
            self._close_all()
        self._server.task_dispatcher.shutdown()

    def _close_all(self) -> None:
        close_all(self._server._map, ignore_all=True)


def _bind(host: str, port: int) -> socket.socket:
    """A socket on one address: of a name that stands for several, the first of IPv4.

    Waitress would make one for each, and share nothing between them that we could drain.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, address = min(found, key=lambda f: f[0] != socket.AF_INET)
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # "::" is for IPv4 too, where the system can
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _raise_file_limit() -> None:
    """Some systems begin with 256 open files a process, and let it ask for more."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != resource.RLIM_INFINITY and soft < FILES:
            most = FILES if hard == resource.RLIM_INFINITY else min(FILES, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
