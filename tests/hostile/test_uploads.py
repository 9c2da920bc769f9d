"""Whatever a client sends app1: it goes on, for everybody else, without growing or telling.

Each case of tests/hostile goes to a real app1 over a real socket, a real relay behind it, and right
after each one a good picture is captioned. app2, which takes nothing, gets what is not quite HTTP.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hostile import Case
from tests.hostile.exchange import Answer, complaints, exchange, peak_memory, send_and_cut
from tests.hostile.pictures import PARTS
from tests.hostile.web import FILE_NAMES, HTML, malformed, sound, uploads
from tests.kit.servers import TOKEN, Relay, Server, wait_until

# Bytes. The largest picture that is accepted has 50 megapixels and costs up to 16 bytes for each
# while it is decoded, on top of the process itself; one picture is decoded at a time.
MOST_MEMORY = 50_000_000 * 16 + 300 * 2**20
MOST_LINES = 50  # in the log, whatever is sent


class App1(Server):
    """An app1 process, and a client that uploads good pictures over one connection."""

    def __init__(self, environment: dict[str, object]) -> None:
        super().__init__("app1", environment)
        self.client = self.connect()
        self.captioned = 0

    def upload(self, picture: bytes, name: bytes = b"a.jpg") -> Answer:
        """Upload a file as it is, under the name of a JPEG."""
        disposition = b'Content-Disposition: form-data; name="image"; filename="%s"' % name
        body = b"--xyz\r\n" + disposition + b"\r\n\r\n" + picture + b"\r\n--xyz--\r\n"
        headers = {"Content-Type": "multipart/form-data; boundary=xyz"}
        self.client.request("POST", "/api/captions", body, headers)
        answer = self.client.getresponse()
        names = {name.lower(): value for name, value in answer.getheaders()}
        return Answer(answer.status, names, answer.read())

    def caption(self, make: Callable[..., bytes]) -> None:
        """Caption a good picture that nobody has sent before."""
        self.captioned += 1
        colour = (self.captioned % 256, self.captioned // 256, 99)
        status, _, body = self.upload(make("png", colour))
        assert status == 200, body
        assert json.loads(body)["caption"]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    relay = Relay(tmp_path_factory.mktemp("relay"))
    yield relay
    relay.kill()


@pytest.fixture(scope="module")
def app1(
    relay: Relay, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[App1]:
    state = tmp_path_factory.mktemp("app1")
    environment = {
        "CAPTIONER_MODEL": tiny_model,
        "CAPTIONER_STATE": state,
        "RELAY_PORT": relay.port,
        "RELAY_TOKEN": TOKEN,
    }
    app1 = App1(environment)
    app1.wait_ready()
    yield app1
    app1.client.close()
    app1.kill()


@pytest.fixture
def unharmed(app1: App1, relay: Relay) -> Iterator[None]:
    """At the end, nothing has happened to app1, nor to the relay behind it."""
    yield
    for server in (app1, relay):
        assert server.process.poll() is None
        assert "Traceback" not in server.output
        assert TOKEN not in server.output
        assert len(server.lines) < MOST_LINES, server.output[-5_000:]
    assert peak_memory(app1.process.pid) < MOST_MEMORY
    assert exchange(app1.port, b"GET /readyz HTTP/1.0\r\n\r\n")[0].status == 200


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__.strip("_"))
def test_pictures(
    app1: App1,
    unharmed: None,
    picture: Callable[..., bytes],
    part: Callable[[], Iterator[Case]],
) -> None:
    wrong: list[str] = []
    for case in part():
        answer = app1.upload(case.data)
        wrong += complaints(case, [answer])
        if answer.status != 200 and answer.headers["content-type"] != "application/problem+json":
            wrong.append(f"{case.kind}, {case.name}: no problem in {answer.headers}")
        app1.caption(picture)
    assert wrong == []


SOUND = ("/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/api/model")
FILES = ("/static/upload.js", "/shared/base.css", "/shared/favicon.svg")


@pytest.mark.parametrize(
    "cases",
    [sound(*SOUND, *FILES), malformed("/api/captions"), uploads()],
    ids=["sound", "HTTP", "forms"],
)
def test_requests(
    app1: App1, unharmed: None, picture: Callable[..., bytes], cases: Iterator[Case]
) -> None:
    wrong: list[str] = []
    for number, case in enumerate(cases):
        if number % 5 == 0:
            send_and_cut(app1.port, case.data)
        answers = exchange(app1.port, case.data)
        wrong += complaints(case, answers)
        # what came in the request goes into the page as text only
        if any(b"<img src=x" in body or b"<script>alert" in body for _, _, body in answers):
            wrong.append(f"{case.kind}, {case.name}: its HTML is in the page")
        app1.caption(picture)
    assert wrong == []


def test_file_names_reach_the_relay_as_plain_text(
    app1: App1, relay: Relay, unharmed: None, picture: Callable[..., bytes]
) -> None:
    for name in FILE_NAMES:
        app1.upload(picture(), name.replace(b"\r\n", b"%0D%0A"))

    def metrics() -> list[str]:
        body = exchange(app1.port, b"GET /metrics HTTP/1.0\r\n\r\n")[0].body
        return body.decode().splitlines()

    wait_until(lambda: "app1_outbox_waiting 0.0" in metrics())
    assert "app1_refused 0.0" in metrics()  # of all that was captioned in this file
    history = relay.get(f"/api/captions?limit={len(FILE_NAMES)}")[2]["captions"]
    names = [caption["image_path"] for caption in history]
    assert HTML in names
    assert [name for name in names if not name.isprintable() or len(name) > 120] == []
    assert not any(separator in name for name in names for separator in "/\\")


def test_app2(start_server: Callable[..., Server]) -> None:
    server = start_server("app2")
    wrong: list[str] = []
    (page,) = sound("/")
    for case in (*sound("/healthz", "/static/viewer.js", "/shared/base.css"), *malformed("/")):
        wrong += complaints(case, exchange(server.port, case.data))
        wrong += complaints(page, exchange(server.port, page.data))
    assert wrong == []
    assert "Traceback" not in server.output
    assert len(server.lines) < MOST_LINES
    assert peak_memory(server.process.pid) < 150 * 2**20
