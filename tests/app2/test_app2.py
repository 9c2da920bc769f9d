"""app2 and what it shares with app1: the page, its headers and files, and the process around it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app2.app import create_app
from common.settings import PREFIXES, Settings
from tests.kit import ROOT

SOCKET_IO = (
    "kzavj5fiMwLKzzD1f8S7TeoVIEi7uKHvbTA3ueZkrzYq75pNQUiUi6Dy98Q3fxb0"  # 4.8.3, as published
)
OWN_SCRIPTS = sorted(
    path
    for folder in ("app1/static", "app2/static", "common/pages/static")
    for path in (ROOT / folder).glob("*.js")
    if path.name != "socket.io.min.js"
)
PAGES = sorted(
    path
    for folder in ("app1/templates", "app2/templates", "common/pages/templates")
    for path in (ROOT / folder).glob("*.html")
)
STYLES = sorted(
    path
    for folder in ("app1/static", "app2/static", "common/pages/static")
    for path in (ROOT / folder).glob("*.css")
)


def client_with(**environ: str) -> FlaskClient:
    return create_app(Settings.from_environment(environ)).test_client()


@pytest.fixture
def client() -> FlaskClient:
    return client_with()


def policy(client: FlaskClient, host: str) -> dict[str, list[str]]:
    """The Content-Security-Policy that a browser which asked for `host` gets, by directive."""
    header = client.get("/", headers={"Host": host}).headers["Content-Security-Policy"]
    parts = (directive.split() for directive in header.split(";"))
    return {name: sources for name, *sources in parts}


def test_page_names_the_relay_and_the_upload_page() -> None:
    client = client_with(RELAY_ORIGINS="http://wall.example:5002")
    html = client.get("/", headers={"Host": "wall.example:5002"}).text
    assert 'data-relay-url=""' in html
    assert 'data-relay-port="5000"' in html
    assert 'href="http://wall.example:5001/"' in html


def test_page_names_a_public_relay() -> None:
    client = client_with(
        RELAY_PUBLIC_URL="https://relay.example", RELAY_ORIGINS="https://wall.example"
    )
    assert 'data-relay-url="https://relay.example"' in client.get("/").text
    assert policy(client, "wall.example")["connect-src"] == [
        "'self'",
        "https://relay.example",
        "wss://relay.example",
    ]


@pytest.mark.parametrize(
    ("host", "sources"),
    [
        ("127.0.0.1:5002", ["http://127.0.0.1:5000", "ws://127.0.0.1:5000"]),
        ("127.0.0.2:5002", ["http://127.0.0.2:5000", "ws://127.0.0.2:5000"]),
        ("localhost:5002", ["http://localhost:5000", "ws://localhost:5000"]),
        ("[::1]:5002", ["http:", "https:", "ws:", "wss:"]),
        ("a;script-src *", []),  # not a host name: it must not get into the policy
        ("a b", []),
    ],
)
def test_policy_admits_the_relay_under_the_name_asked_for(
    client: FlaskClient, host: str, sources: list[str]
) -> None:
    admitted = policy(client, host)
    assert admitted["connect-src"] == ["'self'", *sources]
    assert admitted["default-src"] == ["'self'"]
    assert admitted["frame-ancestors"] == ["'none'"]
    assert "script-src" not in admitted


def test_every_answer_has_the_security_headers(client: FlaskClient) -> None:
    for path in ("/", "/healthz", "/static/viewer.js", "/shared/base.css", "/nowhere"):
        with client.get(path) as answer:
            headers = answer.headers
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Permissions-Policy"].startswith("camera=()"), path
        assert "default-src 'self'" in headers["Content-Security-Policy"], path


def test_healthz(client: FlaskClient) -> None:
    answer = client.get("/healthz")
    assert (answer.status_code, answer.json) == (200, {"status": "alive"})


def test_page_refers_only_to_files_that_are_served(client: FlaskClient) -> None:
    paths = re.findall(r'(?:href|src)="(/[^"]+)"', client.get("/").text)
    assert len(paths) >= 6
    for path in paths:
        with client.get(path) as answer:
            assert answer.status_code == 200, path


def test_socket_io_client_is_the_published_one(client: FlaskClient) -> None:
    with client.get("/static/socket.io.min.js") as answer:
        digest = hashlib.sha384(answer.data).digest()
    assert base64.b64encode(digest).decode() == SOCKET_IO


@pytest.mark.parametrize("path", [*OWN_SCRIPTS, *PAGES, *STYLES], ids=lambda path: path.name)
def test_pages_load_nothing_from_elsewhere_and_trust_no_text(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"(https?:)?//[\w-]+\.\w", re.sub(r"http://www\.w3\.org/\S+", "", text))
    if path in OWN_SCRIPTS:
        for risky in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert risky not in text
    if path in PAGES:
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|\|\s*safe", text)


# --- the process ---------------------------------------------------------------------------------


@contextlib.contextmanager
def start(tmp_path: Path, port: int, **environ: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=ROOT / "app2",
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(PREFIXES)},
            "CAPTIONER_STATE": str(tmp_path),
            "APP2_PORT": str(port),
            **environ,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:  # which waits for it at the end
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.skipif(os.name == "nt", reason="there, no process gets SIGTERM")
def test_starts_alone_and_ends_when_asked(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with start(tmp_path, port) as process:
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        ready = next(line for line in lines if line.startswith("app2 ready on "))
        assert ready == f"app2 ready on http://127.0.0.1:{port}/\n"
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=10) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_taken_port_is_one_sentence(tmp_path: Path, taken: int) -> None:
    with start(tmp_path, taken) as process:
        out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert str(taken) in err
    assert "APP2_PORT" in err
    assert "Traceback" not in out + err


def test_wrong_setting_is_one_sentence(tmp_path: Path) -> None:
    with start(tmp_path, 5002, RELAY_PROT="5000") as process:
        _, err = process.communicate(timeout=30)
    assert process.returncode == 2
    assert err == "RELAY_PROT is not a setting of this program; did you mean RELAY_PORT?\n"
