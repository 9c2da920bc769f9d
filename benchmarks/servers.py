"""What the benchmarks put to the servers and read from them; `tests.kit.servers` starts those."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import websocket

from tests.kit.servers import free_ports

PATIENCE = 120  # seconds


def settings(state: Path, **more: str) -> dict[str, str]:
    """Settings for three servers on free ports that share the state folder; `more` wins."""
    names = ("RELAY_PORT", "APP1_PORT", "APP2_PORT")
    ports = dict(zip(names, map(str, free_ports(3)), strict=True))
    return {**ports, "CAPTIONER_STATE": str(state), **more}


class Uploader:
    """One client of app1, over one connection."""

    _HEAD = '--benchmark\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n'
    _HEADERS = {"Content-Type": "multipart/form-data; boundary=benchmark"}  # noqa: RUF012

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)

    def post(
        self, jpeg: bytes, path: str = "/api/captions", name: str = "photo.jpg"
    ) -> tuple[int, str | None, bytes]:
        """Status, Retry-After and body of the answer to a form with this photo."""
        body = (self._HEAD % name).encode() + jpeg + b"\r\n--benchmark--\r\n"
        self._connection.request("POST", path, body, self._HEADERS)
        answer = self._connection.getresponse()
        return answer.status, answer.headers["Retry-After"], answer.read()

    def close(self) -> None:
        self._connection.close()


class Viewer:
    """A Socket.IO client that receives captions as the viewer page does, in a thread of its own.

    Over a WebSocket, by the few bytes of Engine.IO 4 and Socket.IO 5 that it takes: "40" connect,
    "42" event, "2" ping, "3" pong. Nothing is decoded but the id, so that it costs little.
    """

    _PREDICTION = re.compile(r'42\["prediction",.*?"id": ?"([0-9a-f]+)"', re.DOTALL)

    def __init__(self, port: int) -> None:
        self._socket = websocket.create_connection(
            f"ws://127.0.0.1:{port}/socket.io/?EIO=4&transport=websocket",
            timeout=PATIENCE,
            suppress_origin=True,
            skip_utf8_validation=True,
        )
        self._socket.send("40{}")
        self._seen: set[str] = set()
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while text := self._recv():
            if text == "2":
                self._socket.send("3")
            elif found := self._PREDICTION.match(text):
                with self._news:
                    self._seen.add(found[1])
                    self._news.notify_all()

    def _recv(self) -> str:
        try:
            return str(self._socket.recv())
        except (OSError, websocket.WebSocketException):  # closed
            return ""

    def wait_for(self, id_: str) -> None:
        """Until the caption of this id has come; RuntimeError if it does not."""
        with self._news:
            if not self._news.wait_for(lambda: id_ in self._seen, PATIENCE):
                raise RuntimeError("A caption has not reached the viewer.")

    @property
    def seen(self) -> int:
        return len(self._seen)

    def close(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # the relay may have hung up
            # closing it would not wake who reads from it
            self._socket.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        self._thread.join()
        self._socket.shutdown()


class MemoryWatch:
    """Samples the resident memory of a process until it is closed, in a thread of its own."""

    def __init__(self, pid: int, every: float = 0.1) -> None:
        self._process = psutil.Process(pid)
        self._every = every
        self._end = threading.Event()
        self.samples: list[tuple[float, float]] = []  # seconds, MB
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        self._sample()
        while not self._end.wait(self._every):
            self._sample()

    def _sample(self) -> None:
        self.samples.append((time.perf_counter(), self._process.memory_info().rss / 1e6))

    def close(self) -> None:
        """End, with a last sample."""
        self._end.set()
        self._thread.join()
        self._sample()

    @property
    def peak(self) -> float:
        """MB."""
        return max(megabytes for _, megabytes in self.samples)


def cpu_seconds(pids: Mapping[str, int]) -> dict[str, float]:
    """Processor time of each process so far, by its name."""
    times: dict[str, Any] = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}
