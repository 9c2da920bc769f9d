"""Servers as processes of their own, for tests and benchmarks: started, watched, stopped."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from common.settings import PREFIXES
from tests.kit import ROOT

TOKEN = "the-token-of-the-tests"
SCRIPTS = {
    "relay": ROOT / "SocketIO_server" / "server.py",
    "app1": ROOT / "app1" / "app.py",
    "app2": ROOT / "app2" / "app.py",
}


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 on which nobody listens."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def free_port() -> int:
    return free_ports(1)[0]


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Ask often, until the condition holds."""
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, f"still not so after {seconds} seconds"
        time.sleep(0.005)


class Program:
    """A Python script as a process, started in its own folder: `cd app1 && python app.py`.

    The settings of this process's environment do not reach it.

    Args:
        environment: its settings, and variables in addition to those of this process.
        arguments: on its command line.

    Attributes:
        lines: what it has written to stdout and stderr since it was started last.
    """

    def __init__(self, script: Path, environment: Mapping[str, object], *arguments: str) -> None:
        self.script = script
        self.arguments = arguments
        self.environment = {name: str(value) for name, value in environment.items()}
        self.start()

    def start(self) -> None:
        """Start it, again after an end if need be; `wait_ready` waits until it is ready."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(PREFIXES)}
        self.lines: list[str] = []
        self._started = time.perf_counter()
        self._ready: float | None = None  # seconds from the start
        self.process = subprocess.Popen(
            [sys.executable, self.script.name, *self.arguments],
            cwd=self.script.parent,
            env={**inherited, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                if self._ready is None and " ready on http" in line:
                    self._ready = time.perf_counter() - self._started
                self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def wait_ready(self, seconds: float = 60) -> float:
        """Until it says on stdout that it is ready; how many seconds after its start that was."""
        until = time.monotonic() + seconds
        while self._ready is None:
            assert self.process.poll() is None, f"{self.script} has ended:\n{self.output}"
            assert time.monotonic() < until, f"{self.script} is not ready:\n{self.output}"
            time.sleep(0.005)
        return self._ready

    def wait_ended(self, seconds: float = 60) -> int:
        """Its exit status, after its last line has been read."""
        status = self.process.wait(seconds)
        self._reader.join(5)
        return status

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.terminate()
        return self.wait_ended(60)

    def kill(self) -> None:
        """SIGKILL, if it has not ended."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait_ended()


class Server(Program):
    """One of the three servers on 127.0.0.1, at the same port after each start.

    Args:
        name: relay, app1 or app2.
        script: another script that starts it; its own if left out.
        environment: its settings; where they name no port for it, it gets a free one.
    """

    def __init__(
        self,
        name: str,
        environment: Mapping[str, object],
        *arguments: str,
        script: Path | None = None,
    ) -> None:
        self.name = name
        environment = {f"{name.upper()}_PORT": free_port(), **environment}
        super().__init__(script or SCRIPTS[name], environment, *arguments)

    @property
    def port(self) -> int:
        return int(self.environment[f"{self.name.upper()}_PORT"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)

    def send(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """Status, headers and body of the answer to one request."""
        with contextlib.closing(self.connect()) as connection:
            connection.request(
                method, path, body, headers or {}, encode_chunked=isinstance(body, Iterator)
            )
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path: str, **headers: str) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body (JSON where it is) of the answer to a GET."""
        status, names, body = self.send("GET", path, headers=headers)
        is_json = "json" in names.get("Content-Type", "")
        return status, names, json.loads(body) if is_json else body.decode()

    def metric(self, name: str) -> float:
        """One of its figures for Prometheus."""
        lines = self.get("/metrics")[2].splitlines()
        return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


class Relay(Server):
    """A relay that is ready, with TOKEN for publishers and its history in the folder `state`."""

    def __init__(self, state: Path, script: Path | None = None, **environment: object) -> None:
        self.state = state
        super().__init__(
            "relay", {"CAPTIONER_STATE": state, "RELAY_TOKEN": TOKEN, **environment}, script=script
        )

    def start(self) -> None:
        super().start()
        self.wait_ready()


class Redis:
    """A Redis server on a port of its own, with its files in `folder`."""

    def __init__(self, folder: Path, *options: str) -> None:
        folder.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
            *("--dir", str(folder), "--save", "", "--maxmemory-policy", "noeviction"),
            *("--appendonly", "yes", "--appendfsync", "always", *options),
        ]
        self.client = redis.Redis.from_url(self.url)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        wait_until(self.answers)

    def answers(self) -> bool:
        assert self.process.poll() is None, "Redis has ended"
        try:
            return bool(self.client.ping())
        except redis.ConnectionError:  # not yet, or not yet loaded
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait(60)
