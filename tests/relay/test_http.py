"""The relay over plain HTTP, and which pages and host names it answers."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websocket

from common.hosts import Origins
from common.settings import Settings
from tests.kit.clients import JPEG, Client, WireClient
from tests.kit.servers import TOKEN, Relay

CAPTIONS = [
    "Two dogs run over grass.",
    "A man in a red shirt",
    "A woman and a dog's ball",
    "100% of the_sky",
    "Ein Bär im Schnee",
]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Relay]:
    """A relay whose history holds CAPTIONS as 1 to 5, and then 120 others."""
    process = Relay(tmp_path_factory.mktemp("relay") / "state", APP1_PORT=6001, APP2_PORT=6002)
    client = Client(process, {"token": TOKEN, "viewer": False})
    for number, caption in enumerate(CAPTIONS, 1):
        client.call("predict", {"id": f"i{number}", "caption": caption, "thumbnail": JPEG})
    for _ in range(120):
        client.sio.emit("predict", {"caption": "something else"})
    client.call("captioning_failed", {"id": "x"})
    client.close()
    yield process
    process.kill()
    assert "Traceback" not in process.output


def seqs(answer: tuple[int, Any, Any]) -> list[int]:
    status, _, body = answer
    assert status == 200
    return [caption["seq"] for caption in body["captions"]]


def test_captions_after(relay: Relay) -> None:
    answer = relay.get("/api/captions?after=0&limit=2")
    assert seqs(answer) == [1, 2]
    assert answer[2]["last_seq"] == 2
    assert answer[2]["captions"][0]["id"] == "i1"
    assert answer[2]["captions"][0]["caption"] == CAPTIONS[0]
    assert answer[2]["captions"][0]["thumbnail"].startswith("data:image/jpeg;base64,")
    assert seqs(relay.get("/api/captions?after=2&limit=2")) == [3, 4]
    assert relay.get("/api/captions?after=125")[2] == {"captions": [], "last_seq": 125}
    assert relay.get("/api/captions?after=999")[2] == {"captions": [], "last_seq": 999}


def test_the_most_recent_captions(relay: Relay) -> None:
    assert seqs(relay.get("/api/captions?limit=3")) == [123, 124, 125]
    assert seqs(relay.get("/api/captions")) == list(range(26, 126))
    assert seqs(relay.get("/api/captions?limit=1000")) == list(range(1, 126))
    assert seqs(relay.get("/api/captions?limit=5000")) == list(range(1, 126))


def test_captions_before(relay: Relay) -> None:
    assert seqs(relay.get("/api/captions?before=10&limit=3")) == [7, 8, 9]
    assert seqs(relay.get("/api/captions?before=3&limit=5")) == [1, 2]
    assert seqs(relay.get("/api/captions?before=1&limit=5")) == []
    assert seqs(relay.get("/api/captions?after=4&before=7&limit=5")) == [5, 6]


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("dog", [1, 3]),
        ("DOGS", [1]),
        ("dog%20grass", [1]),
        ("grass,%20dog!", [1]),
        ("man", [2]),  # not the end of "woman"
        ("wom", [3]),
        ("b%C3%84r", [5]),
        ("b%C3%A4", [5]),
        ("%25", []),
        ("_", []),
        ("the_sky", [4]),
        ("the", [4]),
        ("thexsky", []),
        ("dog%27;--", [1, 3]),
        ("%22", []),
        ("zebra", []),
        ("dog&after=1", [3]),
        ("dog&limit=1", [3]),
        ("dog&limit=1&after=0", [1]),
        ("dog&limit=1&before=3", [1]),
        ("dog&before=1", []),
    ],
)
def test_search(relay: Relay, query: str, found: list[int]) -> None:
    assert seqs(relay.get(f"/api/captions?q={query}")) == found


def test_going_back_by_number(relay: Relay) -> None:
    assert seqs(relay.get("/api/captions?before=100&limit=3")) == [97, 98, 99]
    assert seqs(relay.get("/api/captions?before=3")) == [1, 2]
    assert seqs(relay.get("/api/captions?before=1")) == []
    assert seqs(relay.get("/api/captions?before=999&limit=2")) == [124, 125]
    # also where a batch of those that are read ends on the way
    assert seqs(relay.get("/api/captions?before=90&after=10&limit=1000")) == list(range(11, 90))
    assert seqs(relay.get("/api/captions?before=52&limit=51")) == list(range(1, 52))


def test_an_empty_search_is_none(relay: Relay) -> None:
    assert seqs(relay.get("/api/captions?q=&limit=1")) == [125]


@pytest.mark.parametrize(
    "query",
    [
        "after=x",
        "after=-1",
        "after=",
        "after=1.5",
        "after=%D9%A3",
        "after=99999999999999999999",
        "before=x",
        "limit=0",
        "limit=-5",
        "limit=all",
        "q=" + "x" * 201,
    ],
)
def test_bad_queries_are_problems(relay: Relay, query: str) -> None:
    status, headers, body = relay.get(f"/api/captions?{query}")
    assert status == 400
    assert headers["Content-Type"] == "application/problem+json"
    assert body["status"] == 400
    assert body["title"]
    assert body["detail"].startswith(query.split("=")[0])


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/../../etc/passwd", 404),
        ("POST", "/api/captions", 405),
        ("DELETE", "/api/captions", 405),
        ("POST", "/healthz", 405),
    ],
)
def test_other_requests_are_problems(relay: Relay, method: str, path: str, status: int) -> None:
    request = urllib.request.Request(relay.url + path, method=method, data=b"{}")
    with pytest.raises(urllib.error.HTTPError) as problem:
        urllib.request.urlopen(request, timeout=10)
    assert problem.value.code == status
    assert problem.value.headers["Content-Type"] == "application/problem+json"
    problem.value.close()


def test_health_and_metrics(relay: Relay) -> None:
    assert relay.get("/healthz")[0] == 200
    assert relay.get("/readyz")[0] == 200
    viewer = WireClient(relay)
    viewer.history()
    status, headers, text = relay.get("/metrics")
    viewer.close()
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain")
    assert "relay_viewers 1.0" in text
    assert "relay_captions 125.0" in text
    assert 'relay_messages_total{event="predict",result="taken"} 125.0' in text
    assert relay.get("/")[0] == 200


@pytest.mark.parametrize("path", ["/", "/healthz", "/api/captions", "/nothing", "/socket.io/"])
def test_security_headers(relay: Relay, path: str) -> None:
    headers = relay.get(path)[1]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"


def raw(relay: Relay, request: str, *headers: str, body: bytes = b"") -> str:
    """The first line of the answer to a request that no library would send."""
    head = "\r\n".join([f"{request} HTTP/1.1", "Host: localhost", *headers, "", ""])
    with socket.create_connection(("127.0.0.1", relay.port), timeout=5) as connection:
        connection.sendall(head.encode("latin-1") + body)
        return connection.recv(65536).decode("latin-1").split("\r\n")[0]


POLLING = "/socket.io/?EIO=4&transport=polling"


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        (["Content-Length: 999999999"], b"x", 413),
        (["Content-Length: 1000001"], b"x", 413),
        (["Content-Length: -1"], b"x", 400),
        (["Content-Length: x"], b"x", 400),
        (["Transfer-Encoding: chunked"], b"zz\r\n", 411),
        (["Content-Length: 1"], b"0", 400),
        (["Content-Length: 1"], b"6", 400),
        (["Content-Length: 1"], b"9", 400),
        (["Content-Length: 2"], b"\xff\xfe", 200),
        (["Content-Length: 4"], b"4[[[", 200),
        (["Content-Length: 40"], b"\x1e".join([b"2"] * 20) + b"\x1e", 200),
    ],
)
def test_bad_posts_are_answered_at_once(
    relay: Relay, headers: list[str], body: bytes, status: int
) -> None:
    session = json.loads(relay.get(POLLING)[2][1:])["sid"]
    assert raw(relay, f"POST {POLLING}&sid={session}", *headers, body=body).split()[1] == str(
        status
    )
    assert relay.get("/healthz")[0] == 200


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /socket.io/?EIO=3&transport=polling", 400),
        ("GET /socket.io/?EIO=4&transport=carrier-pigeon", 400),
        (f"GET {POLLING}&sid=nobody", 400),
        (f"GET {POLLING}&j=x", 400),
        (f"PUT {POLLING}", 405),
        ("GET /" + "a" * 20_000, 414),
        ("GET /\xff%ff%00", 404),
        ("BREW /", 405),
    ],
)
def test_strange_requests_are_answered(relay: Relay, request_line: str, status: int) -> None:
    assert raw(relay, request_line).split()[1] == str(status)
    assert raw(relay, "GET /", "X-Long: " + "y" * 100_000).split()[1] == "400"


# Pages

OURS = [
    "http://localhost:6001",
    "http://127.0.0.1:6002",
    "http://127.0.0.2:6002",
    "http://[::1]:6001",
    f"http://{socket.gethostname().lower()}:6002",
    "http://me.localhost:6002",
]
FOREIGN = [
    "http://localhost:6003",
    "https://localhost:6001",
    "http://evil.example:6001",
    "http://localhost.evil.example:6001",
    "http://127.0.0.1.evil.example:6001",
    "http://203.0.113.9:6001",
    "null",
    "http://[::1",
    "http://localhost:99999",
    "file://",
]


@pytest.mark.parametrize("origin", OURS)
def test_our_own_pages_may_connect_and_read(relay: Relay, origin: str) -> None:
    status, headers, _ = relay.get("/api/captions?limit=1", Origin=origin)
    assert status == 200
    assert headers["Access-Control-Allow-Origin"] == origin
    assert headers["Vary"] == "Origin"
    client = WireClient(relay, Origin=origin)
    assert client.history()
    client.close()


@pytest.mark.parametrize("origin", FOREIGN)
def test_other_pages_may_not(relay: Relay, origin: str) -> None:
    _, headers, _ = relay.get("/api/captions?limit=1", Origin=origin)
    assert "Access-Control-Allow-Origin" not in headers
    assert headers["Vary"] == "Origin"
    with pytest.raises(websocket.WebSocketBadStatusException):
        WireClient(relay, Origin=origin)
    assert relay.get("/socket.io/?EIO=4&transport=polling", Origin=origin)[0] == 400


@pytest.mark.parametrize("origin", [*OURS, *FOREIGN])
def test_a_page_can_ask_why_it_is_refused(relay: Relay, origin: str) -> None:
    status, headers, answer = relay.get("/api/origin", Origin=origin)
    assert (status, headers["Access-Control-Allow-Origin"]) == (200, "*")
    assert answer["allowed"] == (origin in OURS)
    assert ("RELAY_ORIGINS" in answer["error"]) == (origin in FOREIGN)


def test_a_wrong_host_name_is_said_to_every_page(relay: Relay) -> None:
    status, headers, answer = relay.get("/api/origin", Host="evil.example", Origin="http://a.b")
    assert (status, headers["Access-Control-Allow-Origin"]) == (421, "*")
    assert "RELAY_PUBLIC_URL" in answer["detail"]


def test_a_program_has_no_origin_or_the_relays_own(relay: Relay) -> None:
    for client in (WireClient(relay), WireClient(relay, Origin=relay.url)):
        assert client.history()
        client.close()


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("LocalHost.", 200),
        ("evil.example", 421),
        ("evil.example:5000", 421),
        ("192.0.2.7:5000", 200),
        ("localhost.evil.example", 421),
        ("[::1", 421),
    ],
)
def test_a_relay_answers_to_its_machines_names_and_to_addresses_only(
    relay: Relay, host: str, status: int
) -> None:
    """A page may make its own name point to 127.0.0.1, and would then count as of one origin."""
    assert relay.get("/api/captions?limit=1", Host=host)[0] == status
    polling = relay.get("/socket.io/?EIO=4&transport=polling", Host=host)
    assert polling[0] == status
    if status != 200:
        assert "seq" not in str(polling[2])


def test_old_websocket_drafts_are_refused(relay: Relay) -> None:
    headers = {"Connection": "Upgrade", "Upgrade": "WebSocket"}
    assert relay.get("/socket.io/?EIO=4&transport=websocket", **headers)[0] == 400


SettingsOf = Callable[..., Settings]


def test_origins_that_were_set(settings_of: SettingsOf) -> None:
    origins = Origins(settings_of(RELAY_ORIGINS="https://photos.example,http://a:1"))
    assert origins.allows("https://photos.example")
    assert origins.allows("http://a:1")
    assert not origins.allows("http://localhost:5001")
    assert not origins.allows("http://a:2")
    assert not origins.allows(None)
    assert origins.is_ours("photos.example")
    assert Origins(settings_of(RELAY_ORIGINS="*")).allows("http://anything.example")
    assert not Origins(settings_of(RELAY_ORIGINS="")).allows("http://localhost:5001")


def test_origins_on_the_default_http_port(settings_of: SettingsOf) -> None:
    origins = Origins(settings_of(APP2_PORT=80))
    assert origins.allows("http://localhost")
    assert not Origins(settings_of()).allows("http://localhost")


def test_addresses_of_this_machine_are_ours(settings_of: SettingsOf) -> None:
    origins = Origins(settings_of())
    addresses = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None)}
    assert all(origins.is_ours(str(address)) for address in addresses)
    for address in ("203.0.113.9", "2001:db8::1", "8.8.8.8", ""):
        assert not origins.is_ours(address)


def test_refused_origins_are_logged_once(
    settings_of: SettingsOf, caplog: pytest.LogCaptureFixture
) -> None:
    origins = Origins(settings_of())
    for _ in range(3):
        origins.allows("http://evil.example\r\nINFO all is well")
    assert len(caplog.records) == 1
    assert "\n" not in caplog.text.strip()
    assert "RELAY_ORIGINS" in caplog.text
    for number in range(300):
        origins.allows(f"http://evil-{number}.example")
    assert len(caplog.records) == 100
