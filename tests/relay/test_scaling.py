"""The relay under load: viewers that do not read, its last seconds, several relays over Redis."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import websocket

from app1.publisher import RelayConnection
from common.settings import Settings
from SocketIO_server import transport
from SocketIO_server.application import create_app
from SocketIO_server.connections import PIECE_BYTES
from SocketIO_server.messages import predict
from SocketIO_server.transport.limits import MAX_WAITING
from tests.kit import ROOT
from tests.kit.clients import JPEG, WireClient, numbers
from tests.kit.servers import TOKEN, Redis, Relay, free_port, wait_until

StartRelay = Callable[..., Relay]
Connect = Callable[..., WireClient]
PUBLISHER = {"token": TOKEN, "viewer": False}
PHOTO = JPEG + bytes(150_000 - len(JPEG))
BIG = {"caption": "a", "thumbnail": "data:image/jpeg;base64," + base64.b64encode(PHOTO).decode()}
MESSAGE_BYTES = 201_000  # of BIG, as it is sent
BROKEN = (OSError, websocket.WebSocketException)
MODES = [
    "eventlet",
    "threading",
    pytest.param(
        "gevent",
        marks=pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed"),
    ),
]


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    started: list[Relay] = []

    def start(**options: Any) -> Relay:
        started.append(Relay(options.pop("state", tmp_path / "state"), **options))
        return started[-1]

    yield start
    for relay in started:
        relay.kill()
        assert "Traceback" not in relay.output


@pytest.fixture
def connect() -> Iterator[Connect]:
    clients: list[WireClient] = []

    def make(relay: Relay, auth: dict[str, Any] | None = None, **options: Any) -> WireClient:
        clients.append(WireClient(relay, auth, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


# Viewers that do not read


@pytest.mark.parametrize("mode", MODES)
def test_a_viewer_that_does_not_read_is_cut_off_and_caught_up(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    publisher = connect(relay, PUBLISHER)
    stuck, other = connect(relay, receive_buffer=4096), connect(relay)
    assert numbers(stuck.history()) == numbers(other.history()) == []
    process = psutil.Process(relay.process.pid)
    waiting, seq = [], 0
    while relay.metric("relay_clients_dropped_total") == 0:
        seq += 1
        assert publisher.call("predict", BIG) == {"ok": True, "seq": seq}
        assert other.receive()[1]["seq"] == seq  # who reads does not wait for who does not
        waiting.append(relay.metric("relay_waiting_bytes"))
        assert seq < 200
    assert MAX_WAITING / 2 < max(waiting) <= MAX_WAITING + 2 * MESSAGE_BYTES
    assert relay.metric("relay_waiting_bytes") <= MESSAGE_BYTES  # nothing is kept for it
    memory = process.memory_info().rss
    for _ in range(100):  # 20 MB
        seq += 1
        assert publisher.call("predict", BIG) == {"ok": True, "seq": seq}
        assert other.receive()[1]["seq"] == seq
    assert relay.metric("relay_viewers") == 1
    assert process.memory_info().rss - memory < 50 * MESSAGE_BYTES

    seen = [data["seq"] for event, data in stuck.rest() if event == "prediction"]
    assert 0 < len(seen) < seq
    again = connect(relay, {"last_seq": seen[-1]})
    seen += numbers(again.history())
    publisher.call("predict", BIG)
    seen.append(again.receive()[1]["seq"])
    assert seen == list(range(1, seq + 2))
    wait_until(lambda: "cut off" in relay.output)


def test_history_waits_for_a_viewer_that_does_not_read(
    start_relay: StartRelay, connect: Connect
) -> None:
    """It is sent as it is read, so that the viewer is not cut off, and nothing piles up."""
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    for _ in range(100):
        publisher.call("predict", BIG)
    stuck = connect(relay, {"last_seq": 0}, receive_buffer=4096)
    assert stuck.receive()[0] == "history"
    waiting = []
    for _ in range(50):  # it would have to get these live
        publisher.call("predict", BIG)
        waiting.append(relay.metric("relay_waiting_bytes"))
    # a piece that it does not take, and one that was sent before that was known
    assert PIECE_BYTES < max(waiting) < 3 * PIECE_BYTES
    assert relay.metric("relay_clients_dropped_total") == 0
    seen = list(range(1, 1 + len(numbers(stuck.history()))))
    publisher.call("predict", BIG)
    assert len(seen) > 140
    assert stuck.receive()[1]["seq"] == 151


def test_many_captions_at_once_cut_nobody_off(start_relay: StartRelay, connect: Connect) -> None:
    """A viewer that reads gets its turn while a publisher sends without waiting."""
    relay = start_relay()
    viewer, publisher = connect(relay), connect(relay, PUBLISHER)
    viewer.history()
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(lambda: [viewer.receive()[1]["seq"] for _ in range(100)])
        for _ in range(100):
            publisher.send("predict", BIG)
    live = reading.result(60)
    assert live == list(range(1, 101))
    assert relay.metric("relay_clients_dropped_total") == 0


# As many viewers as it takes

SMALL = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from SocketIO_server import server
server.raise_connection_limit = lambda: 8
sys.exit(server.main())
"""


@pytest.mark.parametrize("mode", MODES)
def test_a_full_relay_says_when_to_come_back(
    start_relay: StartRelay, connect: Connect, tmp_path: Path, mode: str
) -> None:
    script = tmp_path / "small_relay.py"
    script.write_text(SMALL)
    relay = start_relay(script=script, RELAY_ASYNC_MODE=mode)
    viewers = [connect(relay) for _ in range(8)]
    with pytest.raises(websocket.WebSocketBadStatusException) as refused:
        connect(relay)
    assert refused.value.status_code == 503
    assert refused.value.resp_headers
    assert 5 <= int(refused.value.resp_headers["retry-after"]) <= 20
    for path in ("/socket.io/?EIO=4&transport=polling", "/api/origin", "/api/captions/stream"):
        status, headers, problem = relay.get(path)
        assert (status, headers["Connection"]) == (503, "close"), path
        assert 5 <= int(headers["Retry-After"]) <= 20
        assert "as many viewers as it can take" in json.dumps(problem)
    _, headers, _ = relay.get("/api/origin", Origin="http://127.0.0.1:1")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert headers["Access-Control-Expose-Headers"] == "Retry-After"
    assert relay.get("/readyz")[0] == 200, "captions can be taken"
    # in polls: what has a session goes on
    app1 = RelayConnection(relay.url, TOKEN, lambda: None)
    assert app1.call("predict", {"caption": "a dog"}, 10)["ok"], "publishers get in"
    app1.close()
    assert viewers[0].receive_until("prediction")
    viewers.pop().close()
    wait_until(lambda: relay.metric("relay_viewers") == 7)
    connect(relay).history()
    assert relay.metric("relay_clients_turned_away_total") == 2


def test_a_relay_that_stops_takes_no_more_viewers(settings_of: Callable[..., Settings]) -> None:
    settings = settings_of(RELAY_ASYNC_MODE="threading", RELAY_TOKEN=TOKEN)
    transport.install(settings)
    app = create_app(settings)
    client = app.test_client()
    new = "/socket.io/?EIO=4&transport=polling"
    assert client.get(new).status_code == 200
    app.extensions["relay"].stopping = True
    for path in (new, "/api/origin", "/api/captions/stream"):
        answer = client.get(path)
        assert answer.status_code == 503
        assert 1 <= int(answer.headers["Retry-After"]) <= 3
        assert json.loads(answer.data)["detail"] == "The relay is stopping."
    app.extensions["relay"].store.close()


# Its last seconds


def test_a_relay_that_stops_is_first_not_ready_and_then_closed(
    settings_of: Callable[..., Settings],
) -> None:
    settings = settings_of(RELAY_ASYNC_MODE="threading", RELAY_TOKEN=TOKEN)
    transport.install(settings)
    app = create_app(settings)
    relay = app.extensions["relay"]
    publisher = app.extensions["socketio"].test_client(app, auth=PUBLISHER)
    relay.stopping = True
    assert app.test_client().get("/readyz").status_code == 503
    assert publisher.emit("predict", {"caption": "a"}, callback=True) == {"ok": True, "seq": 1}
    relay.closed = True
    answer = publisher.emit("predict", {"caption": "b"}, callback=True)
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert relay.store.last_seq() == 1
    relay.store.close()


def stop_while_captions_pour_in(relay: Relay, publisher: WireClient) -> list[int]:
    """SIGTERM; the numbers of the captions that were acknowledged."""
    with ThreadPoolExecutor() as pool:
        ended = pool.submit(publisher.rest)

        def pour() -> int:
            sent = 0
            with contextlib.suppress(*BROKEN):
                while not ended.done():
                    if sent - len(publisher.acks) < 50:
                        sent = publisher.send("predict", {"caption": "a"})
                    else:
                        time.sleep(0.001)
            return sent

        sent = pool.submit(pour)
        try:
            wait_until(lambda: len(publisher.acks) > 100)
            assert relay.stop() == 0
        finally:
            relay.kill()  # where it has not ended, those two would go on without end
    taken = [answer["seq"] for answer in publisher.acks.values() if answer["ok"]]
    refused = [answer for answer in publisher.acks.values() if not answer["ok"]]
    assert all(answer["retry"] for answer in refused)
    assert 100 < len(taken) <= sent.result() - len(refused)
    return taken


@pytest.mark.parametrize("mode", MODES)
def test_what_was_accepted_before_the_end_is_acknowledged(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    """SIGTERM while captions pour in: the history holds what was acknowledged, and nothing else."""
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    viewer = connect(relay)
    viewer.history()
    with ThreadPoolExecutor() as pool:
        live = pool.submit(viewer.rest)
        taken = stop_while_captions_pour_in(relay, connect(relay, PUBLISHER))
    assert taken == list(range(1, 1 + len(taken)))
    assert [data["seq"] for _, data in live.result()] == taken
    relay.start()
    assert numbers(connect(relay, {"last_seq": 0}).history()) == taken


@pytest.mark.parametrize("mode", MODES)
def test_one_who_sends_nonsense_without_pause_holds_up_nobody(
    start_relay: StartRelay, connect: Connect, mode: str
) -> None:
    """Neither another's caption nor the end: what no handler takes gives way to others too."""
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    viewer, publisher, noisy = connect(relay), connect(relay, PUBLISHER), connect(relay)
    viewer.history()
    over = threading.Event()

    def pour() -> None:
        with contextlib.suppress(*BROKEN):
            while not over.is_set():
                noisy.send("nonsense", {"caption": "a"})

    with ThreadPoolExecutor() as pool:
        pool.submit(pour)
        try:
            answer = publisher.call("predict", {"caption": "a dog"})
            assert answer == {"ok": True, "seq": 1}
            assert viewer.receive()[1]["seq"] == 1
            assert relay.stop() == 0
        finally:
            over.set()
            relay.kill()


# Several relays over Redis

over_redis = [
    pytest.mark.redis,
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is missing"),
]


def needs_redis(test: Any) -> Any:
    for mark in over_redis:
        test = mark(test)
    return test


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path / "redis")
    yield server
    server.client.close()
    server.kill()


@pytest.fixture
def relays(start_relay: StartRelay, redis: Redis) -> tuple[Relay, Relay]:
    return start_relay(RELAY_MESSAGE_QUEUE=redis.url), start_relay(RELAY_MESSAGE_QUEUE=redis.url)


def hasty(folder: Path) -> Path:
    """A program that is the relay, but waits less long for others."""
    path = folder / "hasty_relay.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from SocketIO_server import server, transport\n"
        "original = transport.install\n"
        "def install(settings):\n"
        "    original(settings)\n"
        "    from SocketIO_server import relay\n"
        "    from SocketIO_server.stores import redis\n"
        "    redis.TIMEOUT, redis.AWAY = 1.0, 0.1\n"
        "    relay.HEARTBEAT, relay.HEARTBEAT_EXPIRES, relay.RETRY = 0.2, 1, 0.1\n"
        "transport.install = install\n"
        "sys.exit(server.main())\n"
    )
    return path


def publish(relays: tuple[Relay, Relay], ids: list[str]) -> dict[str, int]:
    """Publish at the first relay, or where that fails at the other; the number of each id."""
    given: dict[str, int] = {}
    client: WireClient | None = None
    here, there = relays
    while len(given) < len(ids):
        identifier = ids[len(given)]
        try:
            client = client or WireClient(here, PUBLISHER)
            answer = client.call("predict", {"id": identifier, "caption": "a"})
            assert answer["ok"], answer
            given[identifier] = answer["seq"]
        except BROKEN:
            if client:
                client.close()
            client, here, there = None, there, here
    if client:
        client.close()
    return given


def watch(
    relays: tuple[Relay, Relay], last: int, ready: threading.Event, last_seq: int = 0
) -> list[tuple[int, str]]:
    """What a viewer sees that comes back, at the other relay, when its relay is gone."""
    seen: list[tuple[int, str]] = []
    here, there = relays
    while last_seq < last:
        with contextlib.suppress(*BROKEN):
            client = WireClient(here, {"last_seq": last_seq})
            with contextlib.closing(client):
                while last_seq < last:
                    event, data = client.receive()
                    for caption in data["captions"] if event == "history" else [data]:
                        seen.append((caption["seq"], caption["id"]))
                        last_seq = caption["seq"]
                    ready.set()
        here, there = there, here
    return seen


@needs_redis
def test_viewers_of_several_relays_see_everything_once(relays: tuple[Relay, Relay]) -> None:
    """Two publishers and four viewers at two relays; one relay is killed meanwhile."""
    first, second = relays
    there_and_back = (second, first)
    ids = [[f"{who}{i}" for i in range(200)] for who in "ab"]
    ready = [threading.Event() for _ in range(4)]
    with ThreadPoolExecutor() as pool:
        ways = (relays, there_and_back, relays, there_and_back)
        seen = [pool.submit(watch, way, 400, on) for way, on in zip(ways, ready, strict=True)]
        wait_until(lambda: all(on.is_set() for on in ready))
        given = [
            pool.submit(publish, relays, ids[0]),
            pool.submit(publish, there_and_back, ids[1]),
        ]
        wait_until(lambda: second.metric("relay_captions") >= 100)
        first.kill()
        numbers_given = {**given[0].result(120), **given[1].result(120)}
        by_number = sorted((seq, identifier) for identifier, seq in numbers_given.items())
        assert [seq for seq, _ in by_number] == list(range(1, 401))
        for viewer in seen:
            assert viewer.result(120) == by_number

    first.start()
    for relay in relays:  # a viewer that was away longer gets the rest at either
        assert watch((relay, relay), 400, threading.Event(), last_seq=150) == by_number[150:]
        assert relay.get("/api/captions?after=395")[2]["last_seq"] == 400


@needs_redis
def test_viewers_that_connect_to_either_while_captions_pour_in(
    relays: tuple[Relay, Relay], connect: Connect
) -> None:
    """Each caption once and in order: first the history, then live, wherever it comes from."""
    enough = threading.Event()

    def pour(relay: Relay) -> None:
        client = WireClient(relay, PUBLISHER)
        while not enough.is_set():
            assert client.call("predict", {"caption": "meanwhile"})["ok"]
        client.close()

    with ThreadPoolExecutor() as pool:
        pouring = [pool.submit(pour, relay) for relay in relays]
        try:
            wait_until(lambda: relays[0].metric("relay_captions") > 50)
            for turn in range(10):
                client = connect(relays[turn % 2], {"last_seq": 0})
                seen = numbers(client.history())
                seen += [client.receive()[1]["seq"] for _ in range(10)]
                # gone from here, and at once at the other
                other = connect(relays[(turn + 1) % 2], {"last_seq": seen[-1]})
                pieces = other.history()
                assert pieces[0]["reset"] is False
                seen += numbers(pieces) + [other.receive()[1]["seq"] for _ in range(10)]
                assert seen == list(range(1, 1 + len(seen)))
        finally:
            enough.set()
        for one in pouring:
            one.result()


@needs_redis
def test_a_viewer_that_knows_more_than_its_new_relay_has_told(
    relays: tuple[Relay, Relay], redis: Redis, connect: Connect
) -> None:
    """It comes from a relay that was faster, and gets nothing twice."""
    from SocketIO_server.stores.redis import RedisStore

    first, second = relays
    publisher = connect(first, PUBLISHER)
    redis.client.config_set("appendfsync", "no")
    second.process.send_signal(signal.SIGSTOP)  # not for so long that Redis seems away
    shared = RedisStore(redis.url, keep=10_000)
    for _ in range(1_000):
        shared.append(predict({"caption": "a"}))
    shared.close()
    with ThreadPoolExecutor() as pool:
        coming = pool.submit(connect, second, {"last_seq": 1_000})
        second.process.send_signal(signal.SIGCONT)
        viewer = coming.result()
    (piece,) = viewer.history()
    assert (piece["captions"], piece["reset"]) == ([], False)
    assert publisher.call("predict", {"caption": "a"})["seq"] == 1_001
    assert viewer.receive()[1]["seq"] == 1_001


@needs_redis
def test_all_that_happens_is_told_by_all_relays(
    relays: tuple[Relay, Relay], connect: Connect
) -> None:
    viewers = [connect(relay) for relay in relays]
    for viewer in viewers:
        viewer.history()
    publisher = connect(relays[0], PUBLISHER)
    begun = {"id": "i", "image_path": "a.jpg", "thumbnail": BIG["thumbnail"]}
    captioned = {**begun, "caption": "a dog", "seq": 1}
    assert publisher.call("captioning", begun) == {"ok": True}
    assert [viewer.receive() for viewer in viewers] == [("captioning", begun)] * 2
    late = connect(relays[1])
    assert numbers(late.history()) == []
    assert late.receive() == ("captioning", begun)
    viewers.append(late)

    def all_are_told(event: str, payload: dict[str, Any]) -> None:
        """Before what follows is sent, which may make it obsolete for a relay that is slower."""
        assert [viewer.receive() for viewer in viewers] == [(event, payload)] * 3

    assert publisher.call("predict", {**begun, "caption": "a dog"}) == {"ok": True, "seq": 1}
    all_are_told("prediction", captioned)
    assert publisher.call("captioning", begun) == {"ok": True}  # too late
    assert connect(relays[1], PUBLISHER).call("predict", {"id": "i", "caption": "b"})["seq"] == 1
    publisher.call("captioning", {"id": "j"})
    all_are_told("captioning", {"id": "j"})
    publisher.call("captioning_failed", {"id": "j", "error": "No."})
    all_are_told("captioning_failed", {"id": "j", "error": "No."})
    publisher.call("forget", {"id": "i"})
    all_are_told("forget", {"id": "i"})
    for relay in relays:
        assert connect(relay, {"last_seq": 1}).history()[0]["forgotten"] == ["i"]
        assert relay.get("/api/captions")[2] == {"captions": [], "last_seq": 0}


@needs_redis
def test_nobody_waits_for_a_relay_that_is_gone(
    start_relay: StartRelay, redis: Redis, connect: Connect, tmp_path: Path
) -> None:
    """Killed while one of its publishers works on a photo: the others say that it failed."""
    options = {"script": hasty(tmp_path), "RELAY_MESSAGE_QUEUE": redis.url}
    killed, other = start_relay(**options), start_relay(**options)
    viewer = connect(other)
    viewer.history()
    one, two = connect(killed, PUBLISHER), connect(other, PUBLISHER)
    one.call("captioning", {"id": "one"})
    two.call("captioning", {"id": "two"})
    assert [viewer.receive() for _ in range(2)] == [
        ("captioning", {"id": "one"}),
        ("captioning", {"id": "two"}),
    ]
    killed.kill()
    event, failed = viewer.receive()
    assert (event, failed["id"]) == ("captioning_failed", "one")
    two.close()  # nor for a publisher that is gone
    event, failed = viewer.receive()
    assert (event, failed["id"]) == ("captioning_failed", "two")


@needs_redis
def test_redis_is_away_for_a_while(
    start_relay: StartRelay, redis: Redis, connect: Connect, tmp_path: Path
) -> None:
    options = {"script": hasty(tmp_path), "RELAY_MESSAGE_QUEUE": redis.url}
    relays = start_relay(**options), start_relay(**options)
    viewers = [connect(relay) for relay in relays]
    for viewer in viewers:
        viewer.history()
    publisher = connect(relays[0], PUBLISHER)
    for i in range(20):
        assert publisher.call("predict", {"id": f"i{i}", "caption": "a"})["seq"] == i + 1
    redis.kill()
    answer = publisher.call("predict", {"id": "i20", "caption": "a"})
    assert (answer["ok"], answer["retry"]) == (False, True)
    assert "RELAY_MESSAGE_QUEUE" in answer["error"]
    late = []
    for relay in relays:
        assert relay.get("/readyz")[0] == 503
        assert relay.get("/healthz")[0] == 200
        assert relay.get("/api/captions")[0] == 503
        late.append(connect(relay, {"last_seq": 15}))
        (piece,) = late[-1].history()
        assert piece["captions"] == []
        assert "RELAY_MESSAGE_QUEUE" in piece["error"]
    redis.start()
    wait_until(lambda: all(relay.get("/readyz")[0] == 200 for relay in relays))
    assert publisher.call("predict", {"id": "i20", "caption": "a"}) == {"ok": True, "seq": 21}
    assert publisher.call("predict", {"id": "i19", "caption": "a"}) == {"ok": True, "seq": 20}
    for viewer in viewers:
        assert [viewer.receive()[1]["seq"] for _ in range(21)] == list(range(1, 22))
    for viewer in late:
        seen = numbers(viewer.history())
        seen += [viewer.receive()[1]["seq"] for _ in range(6 - len(seen))]
        assert seen == list(range(16, 22))


@needs_redis
@pytest.mark.parametrize("mode", MODES)
def test_a_redis_that_hangs_holds_up_only_who_needs_it(
    start_relay: StartRelay, redis: Redis, connect: Connect, tmp_path: Path, mode: str
) -> None:
    relay = start_relay(
        script=hasty(tmp_path), RELAY_MESSAGE_QUEUE=redis.url, RELAY_ASYNC_MODE=mode
    )
    viewer, publisher = connect(relay), connect(relay, PUBLISHER)
    viewer.history()
    redis.process.send_signal(signal.SIGSTOP)
    try:
        number = publisher.send("predict", {"id": "i", "caption": "a"})
        assert relay.get("/healthz")[0] == 200
        assert number not in publisher.acks
        publisher.call("captioning", {"id": "x"})
        assert publisher.acks[number]["retry"] is True
    finally:
        redis.process.send_signal(signal.SIGCONT)
    wait_until(lambda: relay.get("/readyz")[0] == 200)
    # Redis may have taken it although it could not say so
    assert publisher.call("predict", {"id": "i", "caption": "a"}) == {"ok": True, "seq": 1}
    assert publisher.call("predict", {"id": "j", "caption": "a"}) == {"ok": True, "seq": 2}
    received = viewer.receive_until("prediction") + viewer.receive_until("prediction")
    assert [data["seq"] for event, data in received if event == "prediction"] == [1, 2]


@needs_redis
def test_redis_loses_everything(
    start_relay: StartRelay, redis: Redis, connect: Connect, tmp_path: Path
) -> None:
    """Viewers begin anew, and no number that they know comes again."""
    relay = start_relay(script=hasty(tmp_path), RELAY_MESSAGE_QUEUE=redis.url)
    viewer, publisher = connect(relay), connect(relay, PUBLISHER)
    viewer.history()
    for _ in range(5):
        publisher.call("predict", {"caption": "old"})
    assert [viewer.receive()[1]["seq"] for _ in range(5)] == [1, 2, 3, 4, 5]
    redis.client.flushall()
    assert viewer.rest() == []  # cut off
    back = connect(relay, {"last_seq": 5})
    assert back.history()[-1]["reset"] is True
    assert publisher.call("predict", {"caption": "new"}) == {"ok": True, "seq": 6}
    assert back.receive()[1]["seq"] == 6
    wait_until(lambda: "Viewers are sent away" in relay.output)


@needs_redis
def test_what_one_of_several_accepted_before_its_end_is_acknowledged(
    relays: tuple[Relay, Relay], connect: Connect
) -> None:
    first, second = relays
    viewer = connect(second)
    viewer.history()
    taken = stop_while_captions_pour_in(first, connect(first, PUBLISHER))
    assert taken == list(range(1, 1 + len(taken)))
    assert [viewer.receive()[1]["seq"] for _ in taken] == taken
    assert numbers(connect(second, {"last_seq": 0}).history()) == taken


class Address:
    """One address for several relays: each connection goes to the first that answers."""

    def __init__(self, relays: tuple[Relay, Relay]) -> None:
        self._relays = relays
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._pool = ThreadPoolExecutor(max_workers=100)
        self._pool.submit(self._accept)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._pool.submit(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.ExitStack() as stack:
            for relay in self._relays:
                with contextlib.suppress(OSError):
                    server = socket.create_connection(("127.0.0.1", relay.port))
                    stack.enter_context(server)
                    back = self._pool.submit(self._pass_on, server, client)
                    self._pass_on(client, server)
                    back.result()
                    return

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Take no more connections, and wait until those that there are have ended."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._pool.shutdown()


@pytest.fixture
def address(relays: tuple[Relay, Relay]) -> Iterator[Address]:
    one = Address(relays)
    yield one
    for relay in relays:
        relay.kill()
    one.close()


@needs_redis
def test_several_app1_publish_to_several_relays(
    relays: tuple[Relay, Relay],
    address: Address,
    connect: Connect,
    start_server: Callable[..., Any],
    tiny_model: Path,
    multipart: Callable[..., tuple[bytes, str]],
    picture: Callable[..., bytes],
    tmp_path: Path,
) -> None:
    """Two app1, one address for two relays, and a viewer at each; one relay is killed."""
    ports = [free_port() for _ in range(2)]
    for port in ports:
        start_server(
            "app1",
            APP1_PORT=port,
            CAPTIONER_MODEL=tiny_model,
            CAPTIONER_STATE=tmp_path / f"app1-{port}",
            RELAY_URL=address.url,
            RELAY_TOKEN=TOKEN,
        )

    def upload(port: int, colour: tuple[int, int, int]) -> str:
        body, kind = multipart((picture("png", colour), "a.png"))
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as app1:
            app1.request("POST", "/api/captions", body, {"Content-Type": kind})
            return str(json.loads(app1.getresponse().read())["id"])

    viewers = [connect(relay) for relay in relays]
    for viewer in viewers:
        viewer.history()
    ids = [upload(port, (255, 0, 0)) for port in ports]
    for viewer in viewers:
        received = viewer.receive_until("prediction") + viewer.receive_until("prediction")
        seen = [(data["seq"], data["id"]) for event, data in received if event == "prediction"]
        assert seen == list(enumerate(ids, 1))
    relays[0].kill()
    ids += [upload(port, (0, 0, 255)) for port in ports]
    here = connect(relays[1], {"last_seq": 0})
    wait_until(lambda: relays[1].metric("relay_captions") == 4)
    seen = [(c["seq"], c["id"]) for piece in here.history() for c in piece["captions"]]
    while len(seen) < 4:
        _, data = here.receive_until("prediction")[-1]
        seen.append((data["seq"], data["id"]))
    assert sorted(identifier for _, identifier in seen) == sorted(ids)
    assert [seq for seq, _ in seen] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("amqp://localhost", "Redis"),
        ("redis://localhost:6379/0?socket_timeout=x", "malformed"),
        ("redis://me:s3cret@localhost:port/0", "malformed"),
    ],
)
def test_a_queue_that_cannot_be_used_is_refused(
    start_server: Callable[..., Any], url: str, named: str
) -> None:
    relay = start_server("relay", ready=False, RELAY_MESSAGE_QUEUE=url)
    assert relay.wait_ended(60) == 2
    assert "RELAY_MESSAGE_QUEUE" in relay.lines[-1]
    assert named in relay.lines[-1]
    assert "s3cret" not in relay.output
