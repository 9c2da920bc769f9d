"""Sends whole HTTP requests as bytes, and looks at what comes back and at what it cost."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from pathlib import Path
from typing import NamedTuple

import psutil

from tests.hostile import Case

# What an answer must not tell: where our code is, what failed in it, or which programs serve it.
INSIDES = re.compile(
    rb"Traceback|File \"|site-packages|\.py\b|BaseHTTP|Python/|Werkzeug|waitress|eventlet", re.I
)

# Of every answer of every process, whatever it is about.
SECURITY_HEADERS = {
    "x-content-type-options": "^nosniff$",
    "content-security-policy": "default-src '(self|none)'; .*frame-ancestors 'none'",
    "cross-origin-resource-policy": "^same-origin$",
    "referrer-policy": "^(no-referrer|same-origin)$",
}


class Answer(NamedTuple):
    """One HTTP answer; `headers` with names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def exchange(port: int, request: bytes) -> list[Answer]:
    """All answers to these bytes, after which the connection has no more to come from us."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        with contextlib.suppress(OSError):  # it need not hear us out
            client.sendall(request)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while block := client.recv(2**16):
                received += block
    answers = []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        status = int(first.split()[1])
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        length = 0 if status in (100, 204) else int(headers.get("content-length", len(received)))
        if status != 100:
            answers.append(Answer(status, headers, received[:length]))
        received = received[length:]
    return answers


def send_and_cut(port: int, data: bytes) -> None:
    """Send, and reset the connection before anything can be answered."""
    with contextlib.suppress(ConnectionError):
        client = socket.create_connection(("127.0.0.1", port), timeout=60)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(data)
        client.close()


def complaints(case: Case, answers: list[Answer]) -> list[str]:
    """What is wrong with the answers to this case."""
    about = f"{case.kind}, {case.name}"
    if not answers and 0 not in case.statuses:
        return [f"{about}: no answer"]
    found = []
    for status, headers, body in answers:
        if status not in case.statuses:
            found.append(f"{about}: {status} {body[:200]!r}")
        if status == 101:  # what follows is WebSocket
            continue
        if "server" in headers:
            found.append(f"{about}: server: {headers['server']}")
        for name, value in SECURITY_HEADERS.items():
            if body and not re.search(value, headers.get(name, "")):
                found.append(f"{about}: no {name} in {headers}")
        if INSIDES.search(body) and headers["content-type"].startswith("application/"):
            found.append(f"{about}: insides in {body[:200]!r}")
        if b"Traceback" in body:
            found.append(f"{about}: traceback in {body[:200]!r}")
        if headers.get("content-type") == "application/problem+json":
            problem = json.loads(body)
            if problem["status"] != status or not problem["detail"].strip():
                found.append(f"{about}: {problem}")
    return found


def peak_memory(process: int) -> int:
    """The most bytes of memory that a process has held so far; on systems that keep no such record,
    what it holds now."""
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return int(psutil.Process(process).memory_info().rss)
