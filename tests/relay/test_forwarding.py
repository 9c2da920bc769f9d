"""Captions for other programs: a real HTTP server, and a real MQTT broker."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from SocketIO_server.forwarding.follower import Follower
from SocketIO_server.forwarding.webhook import Webhook
from SocketIO_server.stores.sqlite import SqliteStore
from tests.kit.clients import JPEG, WireClient
from tests.kit.servers import TOKEN, Relay, free_port, wait_until

PUBLISHER = {"token": TOKEN, "viewer": False}
PICTURE = "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()


class Hook:
    """A server that takes POSTs, and answers with the statuses in `answers`, then with 200."""

    def __init__(self) -> None:
        self.taken: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status = hook.answers.pop(0) if hook.answers else 200
                if status == 200:
                    hook.taken.append((dict(self.headers), body))
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook"
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def captions(self) -> list[str]:
        return [json.loads(body)["caption"] for _, body in self.taken]

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    yield hook
    hook.close()


@pytest.fixture(params=["eventlet", "threading"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def publish(relay: Relay, *captions: str, **fields: Any) -> None:
    client = WireClient(relay, PUBLISHER)
    try:
        for caption in captions:
            assert client.call("predict", {"caption": caption, **fields})["ok"]
    finally:
        client.close()


def test_each_caption_is_posted_signed_and_in_order(tmp_path: Path, hook: Hook, mode: str) -> None:
    relay = Relay(
        tmp_path / "state", RELAY_WEBHOOK_URL=hook.url, RELAY_WEBHOOK_SECRET="key",
        RELAY_ASYNC_MODE=mode,
    )  # fmt: skip
    publish(relay, *(f"caption {i}" for i in range(30)), thumbnail=PICTURE)
    wait_until(lambda: len(hook.taken) == 30)
    assert hook.captions() == [f"caption {i}" for i in range(30)]
    headers, body = hook.taken[0]
    digest = hmac.new(b"key", body, hashlib.sha256).hexdigest()
    assert headers["X-Signature-256"] == f"sha256={digest}"
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body)["seq"] == 1
    assert json.loads(body)["thumbnail"].startswith("data:image/jpeg;base64,")
    assert "key" not in relay.output
    assert hook.url not in relay.output, "its path may be a secret"
    relay.kill()


def test_what_fails_is_sent_again_and_nothing_is_lost_by_a_kill(tmp_path: Path, hook: Hook) -> None:
    hook.answers = [500, 302, 404]
    relay = Relay(tmp_path / "state", RELAY_WEBHOOK_URL=hook.url)
    publish(relay, "one")
    wait_until(lambda: hook.captions() == ["one"], seconds=60)
    complaint = "The webhook answers with status 500."
    wait_until(lambda: relay.output.count(complaint) == 1)
    hook.close()
    publish(relay, "two", "three")
    relay.kill()
    again = Hook()
    relay.environment["RELAY_WEBHOOK_URL"] = again.url
    again_same = json.loads((tmp_path / "state" / "webhook.json").read_text())
    address = hashlib.sha256(again.url.encode()).hexdigest()
    text = json.dumps({**again_same, "address": address})
    (tmp_path / "state" / "webhook.json").write_text(text)
    relay.start()
    wait_until(lambda: again.captions() == ["two", "three"], seconds=60)
    relay.kill()
    again.close()


def test_a_caption_that_comes_right_after_the_start_is_new(tmp_path: Path) -> None:
    """When `start` returns, the place is kept from which on captions are handed on."""
    for number in range(10):
        file = tmp_path / f"{number}.json"
        follower = Follower(
            Webhook(f"http://127.0.0.1:{free_port()}/", ""),
            lambda: SqliteStore(tmp_path / "history.db", 100, time.sleep),
            file,
        )
        follower.start()
        assert json.loads(file.read_text())["seq"] == 0
        follower.stop()


def test_a_new_address_gets_new_captions_only(tmp_path: Path, hook: Hook) -> None:
    relay = Relay(tmp_path / "state")
    publish(relay, "before")
    relay.kill()
    relay = Relay(tmp_path / "state", RELAY_WEBHOOK_URL=hook.url)
    publish(relay, "after")
    wait_until(lambda: hook.captions() == ["after"])
    relay.kill()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    """The port of a mosquitto."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(program).exists():
        pytest.skip("mosquitto is not installed")
    port = free_port()
    config = tmp_path / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    yield port
    process.terminate()
    process.wait()


class Listener:
    """The last message of each topic."""

    def __init__(self, port: int) -> None:
        self.topics: dict[str, bytes] = {}
        self.client = paho.Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda _, __, message: self.topics.update(
            {message.topic: bytes(message.payload)}
        )
        wait_until(lambda: self._connects(port))
        self.client.subscribe("#", qos=1)
        self.client.loop_start()

    def _connects(self, port: int) -> bool:
        try:
            self.client.connect("127.0.0.1", port)
        except OSError:
            return False
        return True

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.mqtt
def test_home_assistant_finds_the_captions(tmp_path: Path, broker: int, mode: str) -> None:
    listener = Listener(broker)
    relay = Relay(
        tmp_path / "state", RELAY_MQTT_URL=f"mqtt://127.0.0.1:{broker}/home/captions",
        RELAY_ASYNC_MODE=mode,
    )  # fmt: skip
    publish(relay, "a dog in the garden", thumbnail=PICTURE, confidence=0.5)
    wait_until(lambda: "home/captions/state" in listener.topics)
    assert listener.topics["home/captions/state"] == b"a dog in the garden"
    assert listener.topics["home/captions/image"] == JPEG
    about = json.loads(listener.topics["home/captions/caption"])
    assert (about["confidence"], about["seq"]) == (0.5, 1)
    assert "thumbnail" not in about
    assert listener.topics["home/captions/status"] == b"online"
    configs = {
        t: json.loads(p) for t, p in listener.topics.items() if t.startswith("homeassistant")
    }
    kinds = {topic.split("/")[1] for topic in configs}
    assert kinds == {"sensor", "image"}
    for config in configs.values():
        assert config["availability_topic"] == "home/captions/status"
        assert config["unique_id"].startswith("captioner_")
    relay.kill()
    wait_until(lambda: listener.topics["home/captions/status"] == b"offline", seconds=90)
    listener.close()


@pytest.mark.mqtt
def test_captions_wait_for_a_broker_that_is_away(tmp_path: Path, broker: int) -> None:
    relay = Relay(tmp_path / "state", RELAY_MQTT_URL=f"mqtt://127.0.0.1:{free_port()}")
    publish(relay, "one")
    wait_until(lambda: "The broker cannot be reached" in relay.output)
    relay.kill()
    position = tmp_path / "state" / "mqtt.json"
    url = f"mqtt://127.0.0.1:{broker}"
    kept = json.loads(position.read_text())
    address = hashlib.sha256(url.encode()).hexdigest()
    position.write_text(json.dumps({**kept, "address": address}))
    relay = Relay(tmp_path / "state", RELAY_MQTT_URL=url)
    listener = Listener(broker)
    wait_until(lambda: listener.topics.get("captioner/state") == b"one", seconds=60)
    listener.close()
    relay.kill()
