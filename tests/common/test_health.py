"""The health command of containers: exit status 0 and 1, and the reason."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer

from tests.kit import ROOT
from tests.kit.servers import Server, free_ports


def health(*servers: str, **settings: object) -> tuple[int, str]:
    """Exit status and what it says."""
    environment = {**os.environ, **{name: str(value) for name, value in settings.items()}}
    ended = subprocess.run(
        [sys.executable, "-m", "common.health", *servers],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert "Traceback" not in ended.stderr
    return ended.returncode, ended.stderr


def test_each_server_and_all(start_server: Callable[..., Server]) -> None:
    ports = dict(zip(("RELAY_PORT", "APP1_PORT", "APP2_PORT"), free_ports(3), strict=True))
    start_server("relay", **ports, RELAY_HOST="0.0.0.0", RELAY_URL="http://relay:5000")  # noqa: S104
    start_server("app2", **ports)
    assert health("relay", **ports, RELAY_HOST="0.0.0.0") == (0, "")  # noqa: S104
    assert health("app2", "relay", **ports) == (0, "")
    status, said = health(**ports)
    assert status == 1
    assert said.startswith("app1 is not ready: no answer at 127.0.0.1")
    assert said.count("\n") == 1


class Loading(BaseHTTPRequestHandler):
    """A server that is alive and not ready."""

    def do_GET(self) -> None:
        self.send_response(503)
        self.end_headers()
        self.wfile.write(b'{"status": "loading"}\n')

    def log_message(self, *args: object) -> None:
        pass


def test_alive_but_not_ready() -> None:
    with HTTPServer(("127.0.0.1", 0), Loading) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        status, said = health("app1", APP1_PORT=server.server_port)
        server.shutdown()
        thread.join()
    assert (status, said) == (
        1,
        'app1 is not ready: /readyz has status 503: {"status": "loading"}\n',
    )


def test_settings_that_are_wrong() -> None:
    status, said = health("relay", RELAY_PORT="x")
    assert status == 1
    assert "RELAY_PORT" in said


def test_a_server_that_there_is_not() -> None:
    assert health("app3")[0] == 2
