"""app1 as a process: started as a user starts it, over real sockets, with the tiny model."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app1.captioning import GONE_AFTER
from common.waitress_server import CONNECTIONS
from tests.kit import ROOT
from tests.kit.clients import Client
from tests.kit.servers import Relay, Server

MB = 2**20


Start = Callable[..., Server]
Upload = Callable[..., tuple[int, dict[str, str], dict[str, Any]]]


@pytest.fixture
def start(start_server: Callable[..., Server], tiny_model: Path) -> Start:
    """Starts an app1; no relay unless one is named."""
    return lambda **environment: start_server(
        "app1", **{"CAPTIONER_MODEL": tiny_model, "RELAY_PORT": 9, **environment}
    )


@pytest.fixture
def upload(multipart: Callable[..., tuple[bytes, str]]) -> Upload:
    def send(app1: Server, *contents: bytes, **fields: object) -> Any:
        body, kind = multipart(*((content, "a.jpg") for content in contents), **fields)
        status, headers, answer = app1.send("POST", "/api/captions", body, {"Content-Type": kind})
        return status, headers, json.loads(answer)

    return send


def test_start_caption_stop(start: Start, upload: Upload, picture: Callable[..., bytes]) -> None:
    app1 = start()
    assert f"app1 ready on http://127.0.0.1:{app1.port}/" in app1.lines
    assert "Serving Flask app" not in app1.output
    assert [app1.get(path)[0] for path in ("/", "/healthz", "/readyz", "/metrics")] == [200] * 4
    status, headers, answer = upload(app1, picture())
    assert status == 200
    assert answer["published"] == "queued", "there is no relay"
    assert headers["Server"] is None
    app1.process.send_signal(signal.SIGINT)
    assert app1.wait_ended() == 0
    assert "Traceback" not in app1.output


@pytest.mark.parametrize("host", ["localhost", "0.0.0.0", "127.0.0.2"])  # noqa: S104
def test_other_addresses(start: Start, host: str) -> None:
    app1 = start(APP1_HOST=host)
    with contextlib.closing(
        http.client.HTTPConnection(
            "127.0.0.1" if host == "0.0.0.0" else host,  # noqa: S104
            app1.port,
            timeout=60,
        )
    ) as connection:
        connection.request("GET", "/readyz")
        assert connection.getresponse().status == 200
    app1.process.terminate()
    assert app1.wait_ended() == 0
    assert ("without encryption" in app1.output) == (host == "0.0.0.0")  # noqa: S104


def test_it_loads_neither_tensorflow_nor_eventlet_and_no_opencv_before_it_listens() -> None:
    program = (
        "import sys, app1.app; "
        "print(*{'tensorflow', 'keras', 'eventlet', 'gevent', 'cv2', 'numpy'} & {*sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


@pytest.mark.parametrize(
    ("environment", "status", "words"),
    [
        ({"APP1_PORT": "many"}, 2, "APP1_PORT"),
        ({"CAPTIONER_QEUE": "3"}, 2, "CAPTIONER_QUEUE"),
        ({"CAPTIONER_MODEL": "no-such-model"}, 2, "no-such-model"),
        ({"APP1_HOST": "192.0.2.1"}, 1, "APP1_HOST"),
    ],
)
def test_what_keeps_it_from_starting_is_said_in_a_sentence(
    start_server: Callable[..., Server], free_port: Callable[[], int],
    environment: dict[str, str], status: int, words: str,
) -> None:  # fmt: skip
    server = start_server("app1", ready=False, **{"APP1_PORT": free_port(), **environment})
    assert server.wait_ended() == status
    assert words in server.lines[-1]
    assert "Traceback" not in server.output


def test_a_taken_port(start_server: Callable[..., Server]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = start_server("app1", ready=False, APP1_PORT=port)
        assert server.wait_ended() == 1
    assert str(port) in server.lines[-1]
    assert "APP1_PORT" in server.lines[-1]


def test_a_body_that_is_too_large(
    start: Start, upload: Upload, picture: Callable[..., bytes],
    multipart: Callable[..., tuple[bytes, str]],
) -> None:  # fmt: skip
    """The answer reaches even clients that send all they have before they listen."""
    app1 = start()
    body, kind = multipart((b"@", "a.jpg"))
    head, tail = body.split(b"@")
    head += picture()
    block = bytes(MB)

    def parts(megabytes: int) -> Iterator[bytes]:
        yield head
        for _ in range(megabytes):
            yield block
        yield tail

    for megabytes, chunked in ((25, False), (60, False), (60, True), (200, False), (200, True)):
        headers = {"Content-Type": kind}
        if chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers["Content-Length"] = str(len(head) + megabytes * MB + len(tail))
        with contextlib.closing(app1.connect()) as connection:
            connection.request(
                "POST", "/api/captions", parts(megabytes), headers, encode_chunked=chunked
            )
            answer = connection.getresponse()
            assert answer.status == 413, (megabytes, chunked)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert json.loads(answer.read())["status"] == 413
            # and the connection is still good
            connection.request("GET", "/healthz")
            assert connection.getresponse().status == 200
    assert upload(app1, picture())[0] == 200
    assert app1.metric("process_resident_memory_bytes") < 400 * MB


def test_a_body_that_is_announced_and_never_sent(
    start: Start, upload: Upload, picture: Callable[..., bytes]
) -> None:
    app1 = start()
    sockets = []
    for _ in range(60):  # more than there are threads
        slow = socket.create_connection(("127.0.0.1", app1.port), timeout=60)
        slow.sendall(
            b"POST /api/captions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\nabc"
        )
        sockets.append(slow)
    assert app1.get("/healthz")[0] == 200
    assert upload(app1, picture())[0] == 200
    for slow in sockets:
        slow.close()


def test_not_quite_http(start: Start) -> None:
    app1 = start()
    post = b"POST /api/captions HTTP/1.1\r\nHost: localhost\r\n"
    for request, status in (
        (b"\x16\x03\x01\x02\x00\x01\x00", None),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"400"),
        (post + b"Content-Length: -5\r\n\r\n", b"400"),
        (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET / HTTP/1.1\r\nHost: <b>\r\nConnection: close\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: \xff\r\nConnection: close\r\n\r\n", b"421"),
        (b"GET /%ff%00 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
    ):
        answer = b""
        with socket.create_connection(("127.0.0.1", app1.port), timeout=10) as client:
            with contextlib.suppress(OSError):  # it need not hear us out
                client.sendall(request)
                client.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while block := client.recv(65536):
                    answer += block
        assert status is None or answer.split(b" ")[1] == status, request[:60]
        assert b" 500 " not in answer.partition(b"\r\n")[0], request[:60]
        assert b"Traceback" not in answer
    assert app1.get("/healthz")[0] == 200
    assert "Traceback" not in app1.output


@pytest.fixture
def held(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., tuple[Server, Path]]]:
    """An app1 whose captioner stands still until the file that comes with it is removed."""
    hold = tmp_path / "hold"
    started: list[Server] = []

    def make(**environment: object) -> tuple[Server, Path]:
        settings = {
            "CAPTIONER_STATE": tmp_path / "state",
            "CAPTIONER_MODEL": tiny_model,
            "RELAY_PORT": 9,
            **environment,
        }
        script = ROOT / "tests" / "app1" / "held_app1.py"
        started.append(Server("app1", settings, str(hold), script=script))
        started[-1].wait_ready()
        hold.touch()
        return started[-1], hold

    yield make
    hold.unlink(missing_ok=True)
    for server in started:
        server.kill()


Held = Callable[..., tuple[Server, Path]]


def test_overload(
    held: Held, upload: Upload, picture: Callable[..., bytes], wait_for: Callable[..., None]
) -> None:
    """With every place taken and nobody getting on: 503 at once, and all else gets through."""
    app1, hold = held(CAPTIONER_WORKERS=2)
    photos = [picture(colour=(i, 0, 0)) for i in range(34)]
    with ThreadPoolExecutor(68) as pool:
        accepted = [pool.submit(upload, app1, photo) for photo in photos]
        wait_for(lambda: app1.metric("app1_uploads_admitted") == 34, seconds=60)
        refused = [pool.submit(upload, app1, photo) for photo in photos]
        for path in ("/", "/healthz", "/readyz", "/metrics", "/api/model"):
            assert app1.get(path)[0] == 200
        for one in refused:
            status, headers, body = one.result()
            assert status == 503
            assert int(headers["Retry-After"]) >= 1
            assert body["title"] == "Busy"
        assert hold.exists()
        assert not any(one.done() for one in accepted)
        hold.unlink()
        assert [one.result()[0] for one in accepted] == [200] * 34
    assert upload(app1, photos[0])[0] == 200


def test_an_uploader_who_has_gone_is_dropped_from_the_line(
    held: Held, upload: Upload, picture: Callable[..., bytes], wait_for: Callable[..., None]
) -> None:
    app1, hold = held(CAPTIONER_WORKERS=1)
    body = picture(colour=(1, 2, 3))
    request = b"POST /api/captions HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    with ThreadPoolExecutor() as pool:
        first = pool.submit(upload, app1, picture())
        wait_for(lambda: app1.metric("app1_uploads_admitted") == 1)
        with socket.create_connection(("127.0.0.1", app1.port), timeout=60) as leaving:
            leaving.sendall(request + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            wait_for(lambda: app1.metric("app1_uploads_admitted") == 2)
        left = time.monotonic()
        wait_for(lambda: time.monotonic() - left > GONE_AFTER + 0.1)
        last = pool.submit(upload, app1, picture())
        wait_for(lambda: app1.metric("app1_uploads_admitted") == 3)
        hold.unlink()
        assert (first.result()[0], last.result()[0]) == (200, 200)
    assert app1.metric('app1_pictures_total{outcome="499"}') == 1
    assert app1.metric('app1_pictures_total{outcome="captioned"}') == 2


def test_more_slow_senders_than_connections(
    start: Start, upload: Upload, picture: Callable[..., bytes]
) -> None:
    """An upload that does not end makes way for others."""
    app1 = start()
    with contextlib.ExitStack() as stack:
        for i in range(CONNECTIONS + 50):
            slow = stack.enter_context(
                socket.create_connection(("127.0.0.1", app1.port), timeout=60)
            )
            with contextlib.suppress(ConnectionError):
                slow.sendall(b"POST /api/captions HTTP/1.1\r\nHost: localhost\r\n")
                if i % 2:
                    slow.sendall(b"Content-Length: 1000000\r\n\r\nabc")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert app1.get(path)[0] == 200
        assert upload(app1, picture())[0] == 200
    assert "Traceback" not in app1.output


def test_waiting_uploads_are_not_in_memory(
    held: Held, upload: Upload, picture: Callable[..., bytes], wait_for: Callable[..., None]
) -> None:
    """Eight of 19 MB wait; what is in memory is the one being worked on."""
    app1, hold = held(CAPTIONER_QUEUE=7, CAPTIONER_WORKERS=1)
    hold.unlink()
    assert upload(app1, picture(colour=(9, 9, 9)) + bytes(19 * MB))[0] == 200
    before = app1.metric("process_resident_memory_bytes")
    hold.touch()
    with ThreadPoolExecutor(8) as pool:
        photos = [picture(colour=(i, 0, 0)) + bytes(19 * MB) for i in range(8)]
        answers = [pool.submit(upload, app1, photo) for photo in photos]
        wait_for(lambda: app1.metric("app1_uploads_admitted") == 8, seconds=60)
        assert app1.metric("process_resident_memory_bytes") - before < 60 * MB
        hold.unlink()
        assert [answer.result()[0] for answer in answers] == [200] * 8
    assert app1.metric("process_resident_memory_bytes") - before < 60 * MB


def test_sigterm_answers_what_was_accepted(
    held: Held, upload: Upload, picture: Callable[..., bytes], wait_for: Callable[..., None]
) -> None:
    app1, hold = held()
    pictures = [picture(colour=(i, 0, 0)) for i in range(6)]
    with ThreadPoolExecutor() as pool:
        several = pool.submit(upload, app1, *pictures)
        single = pool.submit(upload, app1, picture())
        wait_for(lambda: app1.metric("app1_uploads_admitted") == 2, seconds=60)
        assert app1.get("/readyz")[0] == 200
        app1.process.terminate()
        wait_for(lambda: app1.get("/readyz")[0] == 503)
        assert app1.get("/healthz")[0] == 200
        late, headers, body = upload(app1, picture())
        assert late == 503
        assert headers["Retry-After"]
        assert "stopped" in body["detail"]
        assert not several.done()
        hold.unlink()
        assert single.result()[0] == 200
        status, _, body = several.result()
    assert status == 200
    assert [set(result) > {"caption"} for result in body["results"]] == [True] * 6
    assert app1.wait_ended() == 0
    assert "Traceback" not in app1.output


def test_what_was_answered_before_a_kill_reaches_the_relay_once(
    start: Start, upload: Upload, picture: Callable[..., bytes], tmp_path: Path,
    wait_for: Callable[..., None],
) -> None:  # fmt: skip
    relay = Relay(tmp_path / "relay")
    relay.kill()
    app1 = start(RELAY_PORT=relay.port, RELAY_TOKEN=relay.environment["RELAY_TOKEN"])
    answers = [upload(app1, picture("jpeg", (i, 0, 0)))[2] for i in range(5)]
    assert {answer["published"] for answer in answers} == {"queued"}
    app1.kill()
    relay.start()
    viewer = Client(relay)
    app1.start()
    app1.wait_ready()
    wait_for(lambda: len(viewer.of("prediction")) == 5)
    delivered = upload(app1, picture())[2]
    assert delivered["published"] == "delivered"
    forgotten = answers[2]["id"]
    status, _, _ = app1.send(
        "DELETE",
        f"/api/captions/{forgotten}",
        headers={"Authorization": f"Bearer {answers[2]['delete_token']}"},
    )
    assert status == 204
    wait_for(lambda: viewer.of("forget") == [{"id": forgotten}])
    wait_for(lambda: len(viewer.of("prediction")) == 6)
    expected = [answer["id"] for answer in (*answers, delivered)]
    in_order = sorted(viewer.of("prediction"), key=lambda caption: caption["seq"])
    assert [caption["id"] for caption in in_order] == expected
    in_history = [c["id"] for c in relay.get("/api/captions")[2]["captions"]]
    assert in_history == [id_ for id_ in expected if id_ != forgotten]
    viewer.close()
    relay.kill()
