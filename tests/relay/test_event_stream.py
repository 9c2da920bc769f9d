"""Captions as server-sent events: from real relays, by curl, by EventSource in Chromium."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.kit.chromium import Chromium
from tests.kit.clients import WireClient
from tests.kit.servers import TOKEN, Relay, wait_until

MODES = ["eventlet", "threading"] + (["gevent"] if find_spec("gevent") else [])
PUBLISHER = {"token": TOKEN, "viewer": False}


@pytest.fixture(params=MODES)
def relay(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Relay]:
    relay = Relay(tmp_path / "state", RELAY_ASYNC_MODE=request.param)
    yield relay
    relay.kill()
    assert "Traceback" not in relay.output


@pytest.fixture
def publisher(relay: Relay) -> Iterator[WireClient]:
    client = WireClient(relay, PUBLISHER)
    yield client
    client.close()


class Events:
    """Reads a stream in a thread: (event, id, data) each."""

    def __init__(self, relay: Relay, **headers: str) -> None:
        self.found: list[tuple[str, str, Any]] = []
        self.ended = False
        self.answer = requests.get(
            f"http://127.0.0.1:{relay.port}/api/captions/stream", headers=headers, stream=True,
            timeout=60,
        )  # fmt: skip
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        fields: dict[str, str] = {}
        try:
            for line in self.answer.iter_lines(chunk_size=1):
                if line:
                    name, _, value = line.decode().partition(": ")
                    fields[name] = value
                elif "data" in fields:
                    event = (fields.get("event", "message"), fields.get("id", ""))
                    self.found.append((*event, json.loads(fields["data"])))
                    fields = {}
        except (requests.RequestException, AttributeError):
            pass
        self.ended = True

    def captions(self) -> list[str]:
        return [data["caption"] for event, _, data in self.found if event == "message"]


def test_live_and_from_the_last_one(relay: Relay, publisher: WireClient) -> None:
    """Each caption once and in order, whenever a client comes."""
    for i in range(120):
        publisher.send("predict", {"caption": f"before {i}"})
    assert publisher.call("predict", {"caption": "the last before"})["seq"] == 121
    live, missed = Events(relay), Events(relay, **{"Last-Event-ID": "100"})
    assert live.answer.headers["Content-Type"].startswith("text/event-stream")
    wait_until(lambda: len(missed.found) == 21)
    publisher.call("captioning", {"id": "a", "image_path": "dog.jpg"})
    publisher.call("predict", {"caption": "a dog", "id": "a"})
    publisher.call("forget", {"id": "a"})
    wait_until(lambda: len(live.found) == 3 and len(missed.found) == 24)
    assert [(event, id_) for event, id_, _ in live.found] == [
        ("captioning", ""), ("message", "122"), ("forget", ""),
    ]  # fmt: skip
    assert missed.captions() == [
        *(f"before {i}" for i in range(100, 120)),
        "the last before",
        "a dog",
    ]
    assert [data["seq"] for event, _, data in missed.found if event == "message"] == [
        *range(101, 123)
    ]


def test_a_number_is_a_number(relay: Relay) -> None:
    url = f"http://127.0.0.1:{relay.port}/api/captions/stream"
    for wrong in ("x", "-1", "1e3", "9" * 16):
        answer = requests.get(url, headers={"Last-Event-ID": wrong}, timeout=30)
        assert answer.status_code == 400
        assert "Last-Event-ID must be" in answer.json()["detail"]


def test_a_client_that_goes_away_is_forgotten(relay: Relay, publisher: WireClient) -> None:
    events = Events(relay)
    events.answer.close()
    for i in range(50):
        assert publisher.call("predict", {"caption": f"caption {i}"})["ok"]
    again = Events(relay, **{"Last-Event-ID": "0"})
    wait_until(lambda: len(again.found) == 50)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "state")
    publisher = WireClient(relay, PUBLISHER)
    curl = subprocess.Popen(
        ["curl", "-sN", f"http://127.0.0.1:{relay.port}/api/captions/stream?after=0"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert curl.stdout is not None
        assert curl.stdout.readline() == "retry: 2000\n"
        publisher.call("predict", {"caption": "a dog"})
        lines = [curl.stdout.readline() for _ in range(3)]
        assert lines[:2] == ["\n", "id: 1\n"]
        assert json.loads(lines[2].removeprefix("data: "))["caption"] == "a dog"
    finally:
        curl.kill()
        curl.wait()
        curl.stdout.close()  # type: ignore[union-attr]
        publisher.close()
        relay.kill()


@pytest.mark.browser
def test_an_event_source_comes_back_by_itself(
    tmp_path: Path, open_browser: Callable[..., Chromium], evil: str
) -> None:
    """A page of an allowed origin, after the relay has been away, gets what it missed."""
    relay = Relay(tmp_path / "state", RELAY_ORIGINS=evil.rstrip("/"))
    publisher = WireClient(relay, PUBLISHER)
    page = open_browser()
    page.open(evil)
    page.run(
        "window.seen = [];"
        "const source = new EventSource(arguments[0]);"
        "source.onmessage = (event) => seen.push(JSON.parse(event.data).caption);"
        "source.onopen = () => { window.opened = true; };",
        f"http://127.0.0.1:{relay.port}/api/captions/stream",
    )
    page.wait(lambda: page.run("return window.opened === true"), "not connected")
    publisher.call("predict", {"caption": "one"})
    page.wait(lambda: page.run("return seen") == ["one"], "not seen")
    publisher.close()
    relay.kill()
    relay.start()
    publisher = WireClient(relay, PUBLISHER)
    publisher.call("predict", {"caption": "two"})
    page.wait(lambda: page.run("return seen") == ["one", "two"], "not caught up")
    publisher.close()
    relay.kill()
