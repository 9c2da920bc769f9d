"""`captioner up`: starts the relay, app1 and app2, watches them, and stops them together.

Each server is a process of its own, started as a person would (`cd app1 && python app.py`), in its
own process group, so that Ctrl-C reaches only this process, which then stops the servers in order.
A server that dies is started again, after a pause that grows. One that cannot start, or dies again
and again, ends all three with its last line and its exit status. On Linux the servers end with this
process, however it ends.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from common.errors import CaptionerError, SettingsError
from common.hosts import http_url, is_wildcard, own_address
from common.settings import Settings, table
from common.state import host_token

CHECKOUT = Path(__file__).resolve().parent.parent
NEXT_PORTS = 100  # how far a taken port may move
STOP_SECONDS = 40  # app1 finishes what it has accepted, for 30 seconds at most
PAUSES = (0.5, 1, 2, 4, 8, 15, 30)  # seconds before the next start, by deaths in a row
LONG_LIFE = 60  # seconds after which a death is not one in a row
DEATHS = 5  # in a row, after which all servers are stopped
SLOW_SECONDS = 60  # after which it prints what it waits for


@dataclass(frozen=True)
class Server:
    """A server: its settings `<prefix>_HOST` and `_PORT`, its script, and when it is ready."""

    name: str
    prefix: str
    script: Path
    ready_path: str
    colour: int  # of its name in the log, as in ECMA-48's SGR

    def address(self, settings: Settings) -> tuple[str, int]:
        prefix = self.prefix.lower()
        return getattr(settings, f"{prefix}_host"), getattr(settings, f"{prefix}_port")

    def why_not_ready(self, settings: Settings, timeout: float = 1) -> str:
        """What the server answers, or why it does not; "" when it is ready."""
        host, port = self.address(settings)
        if is_wildcard(host):
            host = "::1" if ":" in host else "127.0.0.1"
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
        try:
            connection.request("GET", self.ready_path)
            answer = connection.getresponse()
            if answer.status == 200:
                return ""
            body = answer.read(1000).decode(errors="replace")
            return f"{self.ready_path} has status {answer.status}: {body.strip()}"
        except (OSError, http.client.HTTPException) as error:
            return f"no answer at {host}, port {port} ({error})"
        finally:
            connection.close()


SERVERS = (
    Server("relay", "RELAY", CHECKOUT / "SocketIO_server" / "server.py", "/readyz", 36),
    Server("app1", "APP1", CHECKOUT / "app1" / "app.py", "/readyz", 32),
    Server("app2", "APP2", CHECKOUT / "app2" / "app.py", "/healthz", 35),
)


class PortTakenError(CaptionerError):
    """A port that was asked for is in use."""

    title = "A port is taken"


class StoppedError(CaptionerError):
    """A server ended and is not started again; `exit_status` is its own."""

    title = "A server ended"

    def __init__(self, sentence: str, exit_status: int) -> None:
        super().__init__(sentence)
        self.exit_status = exit_status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A flag for each setting: `--relay-port` is RELAY_PORT, and so on."""
    group = parser.add_argument_group("settings", "each is also an environment variable")
    for name, default, meaning in table():
        about = f"{name}: {meaning} (default: {default or 'empty'})".replace("%", "%%")
        flag = f"--{name.lower().replace('_', '-')}"
        group.add_argument(flag, dest=name, metavar="VALUE", default=None, help=about)


def main(args: argparse.Namespace) -> int:
    """Run until Ctrl-C or SIGTERM (0), or until a server fails (its exit status).

    Raises:
        CaptionerError: a setting is wrong (exit status 2), a port that was set is taken (1), or a
            server has failed.
    """
    flags = {name: getattr(args, name) for name, _, _ in table()}
    given = {name: value for name, value in flags.items() if value is not None}
    settings = Settings.from_environment({**os.environ, **given})
    if missing := [server.script for server in SERVERS if not server.script.exists()]:
        raise CaptionerError(f"There is no {missing[0]}; run this from a whole checkout.")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # show all that the servers write
    log = Log(sys.stdout)
    settings = with_free_ports(settings, SERVERS, log.say)
    Supervisor(settings, SERVERS, log).run()
    return 0


class Log:
    """Lines of several processes on one stream, each behind the name of its process."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._colours = stream.isatty() and not os.environ.get("NO_COLOR")

    def say(self, line: str, name: str = "captioner", colour: int = 1) -> None:
        prefix = f"{name:<9} |"
        if self._colours:
            prefix = f"\033[{colour}m{prefix}\033[0m"
        # go on without the reader or terminal: the servers must still be stopped
        with self._lock, contextlib.suppress(OSError):
            print(prefix, line, file=self._stream, flush=True)


# Ports


def with_free_ports(
    settings: Settings, servers: Sequence[Server], say: Callable[[str], None]
) -> Settings:
    """The settings with every port that is taken, and was not set, moved to the next free one.

    Raises:
        PortTakenError: a port that was set is taken.
    """
    moved: dict[str, str] = {}
    ours: dict[int, str] = {}  # the ports given to servers so far
    # those that were set choose first
    for server in sorted(servers, key=lambda s: not settings.was_set(f"{s.prefix}_PORT")):
        host, port = server.address(settings)
        setting = f"{server.prefix}_PORT"
        if settings.was_set(setting):
            if port in ours or is_taken(host, port):
                user = f"is {ours[port]} too" if port in ours else "is taken by another program"
                raise PortTakenError(
                    f"Port {port} on {host} {user}; set {setting} to another, or stop what uses it."
                )
        elif port in ours or is_taken(host, port) or is_answered_by_another(host, port):
            others = {*ours, *(s.address(settings)[1] for s in servers)}
            free = (
                near
                for near in range(port + 1, min(port + 1 + NEXT_PORTS, 65536))
                if near not in others
                and not is_taken(host, near)
                and not is_answered_by_another(host, near)
            )
            next_port = next(free, None)
            if next_port is None:
                raise PortTakenError(f"No port from {port} on is free; set {setting} to one.")
            say(f"Port {port} is taken, so {server.name} uses {next_port} (or set {setting}).")
            port = next_port
            moved[setting] = str(port)
        ours[port] = setting
    return Settings.from_environment({**settings.environment(), **moved}) if moved else settings


def is_taken(host: str, port: int) -> bool:
    """Whether another program listens there; a server reports other errors of its host itself."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.create_server((host, port), family=family):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE


def is_answered_by_another(host: str, port: int) -> bool:
    """Whether a browser of this machine would reach another program there, taken or not.

    macOS listens on port 5000 of all addresses and still lets others listen on one of them; then
    macOS answers on `localhost`.
    """
    names = ("127.0.0.1", "::1")
    if host in (*names, "localhost") or is_wildcard(host):
        for name in names:
            with contextlib.suppress(OSError), socket.create_connection((name, port), timeout=0.5):
                return True
    return False


# Processes


@dataclass
class _Child:
    """A server's process and its state."""

    server: Server
    process: subprocess.Popen[bytes] | None = None
    reader: threading.Thread | None = None
    started: float = 0.0  # of time.monotonic, like the next
    start_again: float = 0.0
    ready: bool = False
    has_been_ready: bool = False
    deaths: int = 0  # in a row
    last_lines: deque[str] = field(default_factory=lambda: deque(maxlen=20))


class Supervisor:
    """Runs servers until a signal stops it, or until one of them fails.

    Call `run` in the main thread: on Linux the servers end with the thread that started them.
    """

    def __init__(self, settings: Settings, servers: Sequence[Server], log: Log) -> None:
        self._settings, self._log = settings, log
        self._children = [_Child(server) for server in servers]
        self._environment = {**os.environ, **settings.environment(), "PYTHONUNBUFFERED": "1"}
        self._signals = 0

    def run(self) -> None:
        """Start all, print the addresses when all are ready, and return after SIGINT or SIGTERM.

        Raises:
            StoppedError: a server has failed; the others have been stopped.
        """
        with self._handling_signals():
            began = time.monotonic()
            try:
                for child in self._children:
                    self._start(child)
                announced, slow = False, False
                while not self._signals:
                    for child in self._children:
                        self._watch(child)
                    waiting = [c.server.name for c in self._children if not c.has_been_ready]
                    if not announced and not waiting:
                        announced = True
                        self._announce(time.monotonic() - began)
                    if not slow and waiting and time.monotonic() - began > SLOW_SECONDS:
                        slow = True
                        self._log.say(f"Still waiting for {' and '.join(waiting)}.")
                    time.sleep(0.1)
                self._log.say("Stopping.")
            finally:
                self._stop()
            self._log.say("Stopped.")

    @contextlib.contextmanager
    def _handling_signals(self) -> Iterator[None]:
        def count(number: int, frame: object) -> None:
            self._signals += 1

        numbers = [signal.SIGINT, signal.SIGTERM]
        hang_up = getattr(signal, "SIGHUP", None)  # the terminal is gone; not on Windows
        if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:  # nohup
            numbers.append(hang_up)
        before = {number: signal.signal(number, count) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _start(self, child: _Child) -> None:
        script = child.server.script
        child.process = subprocess.Popen(
            [*_tie_to_this_process(), sys.executable, script.name],
            cwd=script.parent,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        child.started = time.monotonic()
        child.ready = False
        child.last_lines.clear()
        child.reader = threading.Thread(target=self._read, args=(child, child.process), daemon=True)
        child.reader.start()

    def _read(self, child: _Child, process: subprocess.Popen[bytes]) -> None:
        """Pass on what a server writes, until it ends."""
        stream = process.stdout
        if stream is not None:
            with stream:
                for raw in stream:
                    line = raw.decode(errors="replace").rstrip()
                    child.last_lines.append(line)
                    self._log.say(line, child.server.name, child.server.colour)

    def _watch(self, child: _Child) -> None:
        """Start a server again if it is time, and see whether it is ready or dead."""
        if child.process is None:
            if time.monotonic() >= child.start_again:
                self._start(child)
            return
        status = child.process.poll()
        if status is not None:
            self._bury(child, status)
        elif not child.ready and not child.server.why_not_ready(self._settings):
            child.ready = child.has_been_ready = True

    def _bury(self, child: _Child, status: int) -> None:
        """Schedule another start of a dead server, or stop all of them."""
        if child.reader is not None:
            child.reader.join(timeout=2)  # its last lines may still be in the pipe
        name, how = child.server.name, _how(status)
        lived = time.monotonic() - child.started
        child.deaths = 1 if lived > LONG_LIFE else child.deaths + 1
        could_not_start = status in (1, 2) and not child.has_been_ready
        if could_not_start or status == 2 or child.deaths >= DEATHS:
            words = next((line for line in reversed(child.last_lines) if line.strip()), "")
            often = f" {child.deaths} times in a row" if child.deaths > 1 else ""
            raise StoppedError(
                f"{name} {how}{often}" + (f": {words}" if words else "."), max(status, 1)
            )
        pause = PAUSES[min(child.deaths, len(PAUSES)) - 1]
        self._log.say(f"{name} {how}; it is started again in {pause:g} s.")
        child.process = None
        child.start_again = time.monotonic() + pause

    def _announce(self, seconds: float) -> None:
        self._log.say(f"All are ready after {seconds:.1f} s.")
        pages = {"app1": "Drop a photo here", "app2": "See captions appear here"}
        for child in self._children:
            if words := pages.get(child.server.name):
                host, port = child.server.address(self._settings)
                public: str = getattr(self._settings, f"{child.server.name}_public_url")
                self._log.say(f"{words}: {public or http_url(host, port)}/")
                if not public and is_wildcard(host) and (own := own_address()):
                    self._log.say(f"  from other devices: {http_url(own, port)}/")
                if child.server.name == "app1":
                    with contextlib.suppress(SettingsError):
                        page = f"{public or http_url(host, port)}/host#{host_token(self._settings)}"
                        self._log.say(f"For the host alone: {page}")
        self._log.say("Ctrl-C stops all of them.")

    def _stop(self) -> None:
        """Stop the servers, last first, since app1 may have something left for the relay.

        A second signal, or the deadline, kills the remaining servers.
        """
        signals = self._signals
        deadline = time.monotonic() + STOP_SECONDS
        for child in reversed(self._children):
            process = child.process
            if process is not None and process.poll() is None:
                process.terminate()
                while process.poll() is None:
                    if time.monotonic() > deadline or self._signals > signals:
                        self._log.say(f"Not waiting for {child.server.name} any longer.")
                        process.kill()
                        process.wait()
                    time.sleep(0.02)
            if child.reader is not None:
                child.reader.join(timeout=2)


def _tie_to_this_process() -> list[str]:
    """A prefix of a command that ends it when this process ends, where the system can (Linux)."""
    if sys.platform != "linux":
        return []
    code = (
        "import ctypes, os, sys; "
        f"ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)}); "  # PR_SET_PDEATHSIG; exec keeps it
        "os.getppid() == int(sys.argv[1]) or sys.exit(1); "
        "os.execv(sys.argv[2], sys.argv[2:])"
    )
    return [sys.executable, "-S", "-c", code, str(os.getpid())]


def _how(status: int) -> str:
    if status >= 0:
        return f"ended (exit status {status})"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-status).name}"
    return f"was ended by signal {-status}"
