"""The Waitress server of both pages: strict HTTP, bounded connections, and a clean end.

Waitress has one thread for all sockets and a pool of threads that run requests. A request takes a
thread of the pool only when it has arrived completely, so slow senders take none. An upload that
waits for its turn takes one. So the pool has a thread for each upload that may wait, and spare ones
for everything else: health checks and refused uploads are answered at once.

Slow senders take a connection each, so connections are bounded too. When there are too many, a new
one closes the oldest that has sent no complete request; a short request always gets through.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Collection
from typing import Any

from flask import Flask
from waitress.buffers import OverflowableBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.server import create_server
from waitress.task import ErrorTask
from waitress.utilities import Error
from waitress.wasyncore import close_all

from common.listening import listen, raise_file_limit
from common.problems import PROBLEM_TYPE, SECURITY_HEADERS, problem_json

SPARE_THREADS = 16
CROWDED = 350  # connections from which on a new one costs an old one
CONNECTIONS = 400  # open at a time; more wait to be accepted
FILES = 1024  # open at a time: two for each connection, and some more
IDLE_SECONDS = 60
HEADER_BYTES = 64 * 1024
IN_MEMORY_BYTES = 64 * 1024  # of a request body; what is longer goes to a temporary file
LONGEST_BODY_BYTES = 2**30
RECEIVE_BYTES = 64 * 1024  # at a time; Waitress's own 8 KiB means thousands of turns for a photo


class StrictParser(HTTPRequestParser):
    """Refuses requests whose end another server, such as a proxy, may see elsewhere."""

    # Waitress logs the path of a request whose client has gone; a refused one has none.
    path = ""

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError, at which Waitress answers 400 and closes the connection."""
        if header_plus.lower().count(b"transfer-encoding:") > 1:
            raise ParsingError("A request has one Transfer-Encoding at most.")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # half an IPv6 address, or a length of 5,000 digits
            raise ParsingError("A number or an address in the request is malformed.") from error
        if self.chunked and "CONTENT_LENGTH" in self.headers:  # RFC 9112, section 6.1
            raise ParsingError("Content-Length and Transfer-Encoding do not go together.")


class NoRoom(Error):  # noqa: N818  # named as Waitress's own
    """The disk is full."""

    code = 503
    reason = "No room"


class ProblemTask(ErrorTask):
    """Waitress's own errors as problem JSON; they never reach the app and its headers."""

    def execute(self) -> None:
        """Answer, and close the connection: the next request may begin anywhere."""
        error = self.request.error
        body = problem_json(error.code, error.reason, error.body)
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [("Content-Type", PROBLEM_TYPE), *SECURITY_HEADERS.items()]
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class StrictChannel(HTTPChannel):
    """A connection that refuses what `StrictParser` refuses, with problem JSON."""

    parser_class = StrictParser
    error_task_class = ProblemTask

    def check_client_disconnected(self) -> bool:
        """Whether the client has closed its side of the connection; `waitress.client_disconnected`.

        Waitress's own only finds out where it reads ahead of the request in work.
        """
        try:
            # a look at the next byte, which stays there; the socket never waits
            return not self.connected or not self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


class _LimitedBuffer(OverflowableBuffer):
    """Counts all of a request body but keeps nothing of one that is longer than a limit.

    Waitress itself answers in the middle of a body that is too long, and closes; most clients are
    still sending then, and report a broken connection instead of the answer. This reads the body to
    the end and throws it away: it takes no disk, and the app's own sentence arrives.
    """

    def __init__(self, overflow: int, limit: int) -> None:
        super().__init__(overflow)
        self._limit = limit
        self._received = 0
        self.no_room = False  # on the disk, for the file that holds what is long

    def __len__(self) -> int:
        return self._received

    def append(self, data: bytes) -> None:
        self._received += len(data)
        if self._received <= self._limit and not self.no_room:
            try:
                super().append(data)
            except OSError:
                self.no_room = True
        if (self._received > self._limit or self.no_room) and super().__len__():
            with contextlib.suppress(OSError):  # closing writes what is still to be written
                self.close()
            self.buf, self.strbuf, self.overflowed = None, b"", False


def _make_room(channels: Collection[HTTPChannel]) -> None:
    """Close the oldest connection without a complete request if there are too many."""
    if len(channels) > CROWDED:
        idle = [c for c in channels if not (c.requests or c.total_outbufs_len or c.will_close)]
        if idle:
            # closed later: its descriptor may still be among the results of this poll
            min(idle, key=lambda channel: channel.creation_time).will_close = True


class PageServer:
    """A running server for `app`.

    Args:
        app: answers a body longer than its MAX_CONTENT_LENGTH with 413, unread.
        server: the prefix of its settings, APP1 or APP2.
        waiting: how many requests may wait for something else at once.

    Raises:
        CannotListenError: the port is taken, or the address is not this machine's.
    """

    def __init__(self, app: Flask, host: str, port: int, server: str, waiting: int = 0) -> None:
        longest = app.config["MAX_CONTENT_LENGTH"]
        raise_file_limit(FILES)

        class Parser(StrictParser):
            def parse_header(self, header_plus: bytes) -> None:
                super().parse_header(header_plus)
                if self.body_rcv is not None:
                    self.body_rcv.buf = _LimitedBuffer(self.adj.inbuf_overflow, longest)

            def received(self, data: bytes) -> int:
                taken = super().received(data)
                body = self.body_rcv
                if self.completed and body is not None and body.buf.no_room:
                    self.error = NoRoom(
                        "The server has no room for an upload of this size: its folder for "
                        "temporary files is full."
                    )
                return int(taken)

        class Channel(StrictChannel):
            parser_class = Parser

            def __init__(self, server: Any, *args: Any, **options: Any) -> None:
                super().__init__(server, *args, **options)
                _make_room(server.active_channels.values())

        self._server = create_server(
            app,
            sockets=[listen(host, port, server)],
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
            clear_untrusted_proxy_headers=False,  # `BehindProxies` does, but for trusted ones
        )
        self._server.channel_class = Channel
        self._thread = threading.Thread(target=self._server.run, name="sockets", daemon=True)

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


def set_on_signal(stop: threading.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`. The same signal again ends the process at once."""

    def end(signal_number: int, frame: object) -> None:
        signal.signal(signal_number, signal.SIG_DFL)
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def wait_for(stop: threading.Event) -> None:
    """Wait until `stop` is set."""
    while not stop.wait(1):  # with a timeout, since on Windows no signal interrupts one without
        pass
