"""The relay as a process: its start and end, what breaks it, and its settings."""

from __future__ import annotations

import base64
import http.client
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.kit import ROOT
from tests.kit.clients import JPEG, Client, WireClient, numbers
from tests.kit.servers import TOKEN, Relay, wait_until

StartRelay = Callable[..., Relay]
PUBLISHER = {"token": TOKEN, "viewer": False}


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
def connect() -> Iterator[Callable[..., WireClient]]:
    clients: list[WireClient] = []

    def make(relay: Relay, auth: dict[str, Any] | None = None, **options: Any) -> WireClient:
        clients.append(WireClient(relay, auth, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


Connect = Callable[..., WireClient]


# History and live


def test_viewers_that_connect_while_captions_pour_in(
    start_relay: StartRelay, connect: Connect
) -> None:
    """Each caption once and in order: first the history, in pieces, then live."""
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    for i in range(450):
        publisher.send("predict", {"caption": f"before {i}"})
    enough = threading.Event()

    def pour() -> None:
        client = WireClient(relay, PUBLISHER)
        while not enough.is_set():
            client.call("predict", {"caption": "meanwhile"})
        client.close()

    assert publisher.call("captioning_failed", {"id": "x"})["ok"]  # after all that were sent before
    pouring = threading.Thread(target=pour)
    pouring.start()
    try:
        for _ in range(5):
            client = connect(relay, {"last_seq": 0})
            pieces = client.history()
            assert len(pieces) >= 3
            assert max(len(piece["captions"]) for piece in pieces) <= 200
            live = [client.receive() for _ in range(3)]
            assert {event for event, _ in live} == {"prediction"}
            seen = numbers(pieces) + [caption["seq"] for _, caption in live]
            assert seen == list(range(1, 1 + len(seen)))
            client.close()
    finally:
        enough.set()
        pouring.join()
    last = publisher.call("predict", {"caption": "the last"})["seq"]
    assert numbers(connect(relay).history()) == list(range(last - 199, last + 1))


def test_big_thumbnails_make_small_pieces(start_relay: StartRelay, connect: Connect) -> None:
    relay = start_relay()
    big = base64.b64encode(b"\xff\xd8\xff" + bytes(190_000)).decode()
    message = {"caption": "big", "thumbnail": f"data:image/jpeg;base64,{big}"}
    publisher = connect(relay, PUBLISHER)
    assert [publisher.call("predict", message)["seq"] for _ in range(8)] == list(range(1, 9))
    pieces = connect(relay).history()
    assert numbers(pieces) == list(range(1, 9))
    assert [len(piece["captions"]) for piece in pieces] == [3, 3, 2]
    assert ["forgotten" in piece for piece in pieces] == [True, False, False]


def test_forget_while_the_history_is_on_its_way(start_relay: StartRelay, connect: Connect) -> None:
    """A viewer that got the caption in its first piece, and is not yet live, drops it too."""
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    big = base64.b64encode(b"\xff\xd8\xff" + os.urandom(190_000)).decode()
    message = {"caption": "big", "thumbnail": f"data:image/jpeg;base64,{big}"}
    for i in range(40):  # more than the buffers between relay and viewer hold
        publisher.call("predict", {**message, "id": f"i{i}"})
    viewer = connect(relay, {"last_seq": 0}, receive_buffer=4096)
    first = viewer.receive()[1]
    assert first["captions"][0]["id"] == "i0"
    publisher.call("forget", {"id": "i0"})
    publisher.call("forget", {"id": "i39"})
    publisher.call("predict", {"caption": "live"})
    pieces = viewer.history()
    assert numbers(pieces)[-1] == 41
    assert 40 not in numbers(pieces)
    assert [viewer.receive() for _ in range(2)] == [
        ("forget", {"id": "i0"}),
        ("forget", {"id": "i39"}),
    ]


def test_the_oldest_make_room(start_relay: StartRelay, connect: Connect) -> None:
    relay = start_relay(RELAY_KEEP=3)
    publisher = connect(relay, PUBLISHER)
    for i in range(5):
        publisher.call("predict", {"id": f"i{i}", "caption": "a"})
    assert numbers(connect(relay, {"last_seq": 0}).history()) == [3, 4, 5]
    assert publisher.call("predict", {"id": "i0", "caption": "a"}) == {"ok": True, "seq": 1}
    assert numbers(connect(relay).history()) == [3, 4, 5]


def test_several_messages_of_one_publisher_are_taken_in_order(
    start_relay: StartRelay, connect: Connect
) -> None:
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    sent = [publisher.send("predict", {"caption": f"{i}"}) for i in range(100)]
    publisher.call("forget", {"id": "x"})
    assert [publisher.acks[number]["seq"] for number in sent] == list(range(1, 101))


def test_too_many_messages_at_once_are_refused_for_a_while(
    start_relay: StartRelay, connect: Connect, tmp_path: Path
) -> None:
    prelude = (
        "import SocketIO_server.connections; SocketIO_server.connections.PUBLISHER_RATE = (0.01, 3)"
    )
    publisher = connect(start_relay(script=script(tmp_path, prelude)), PUBLISHER)
    answers = [publisher.call("predict", {"caption": "a"}) for _ in range(4)]
    assert [answer["ok"] for answer in answers] == [True, True, True, False]
    assert answers[3]["retry"] is True
    assert 1 < answers[3]["retry_after"] <= 100


# End and new start


def test_kill_and_restart_keep_the_history(start_relay: StartRelay, connect: Connect) -> None:
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    for i in range(20):
        publisher.call("predict", {"id": f"i{i}", "caption": f"caption {i}", "thumbnail": None})
    publisher.call("forget", {"id": "i7"})
    relay.kill()
    relay.start()
    pieces = connect(relay, {"last_seq": 0}).history()
    assert numbers(pieces) == [i + 1 for i in range(20) if i != 7]
    again = connect(relay, PUBLISHER)
    assert again.call("predict", {"id": "i19", "caption": "again"}) == {"ok": True, "seq": 20}
    assert again.call("predict", {"id": "i7", "caption": "again"}) == {"ok": True, "seq": 8}
    assert again.call("predict", {"id": "new", "caption": "new"}) == {"ok": True, "seq": 21}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_clients_come_back(
    start_relay: StartRelay, connect: Connect, number: signal.Signals
) -> None:
    relay = start_relay()
    viewer = Client(relay, reconnection=True)
    publisher = connect(relay, PUBLISHER)
    for i in range(50):
        publisher.send("predict", {"caption": f"{i}"})
    last = publisher.call("predict", {"caption": "the last"})
    relay.process.send_signal(number)
    codes: list[int] = []
    while relay.process.poll() is None:
        try:
            codes.append(relay.get("/readyz")[0])
        except (OSError, http.client.HTTPException):  # it ends within its answer, perhaps
            break
    assert relay.wait_ended(60) == 0
    assert codes == sorted(codes)  # ready until it is not
    assert set(codes) <= {200, 503}
    assert last["seq"] == 51
    wait_until(lambda: len(viewer.of("prediction")) >= 51)  # what was taken was passed on
    assert len(viewer.of("prediction")) == 51

    relay.start()
    wait_until(lambda: len(viewer.of("history")) == 2)
    viewer.close()


def test_a_second_signal_ends_it_at_once(start_relay: StartRelay) -> None:
    relay = start_relay()
    relay.process.send_signal(signal.SIGTERM)
    relay.process.send_signal(signal.SIGTERM)
    assert relay.wait_ended(60) in (0, -signal.SIGTERM)


def test_a_taken_port_is_named(start_relay: StartRelay, start_server: Any) -> None:
    relay = start_relay()
    second = start_server("relay", ready=False, RELAY_PORT=relay.port)
    assert second.wait_ended(60) == 1
    assert len(second.lines) == 1
    assert str(relay.port) in second.lines[0]
    assert "RELAY_PORT" in second.lines[0]


def test_an_address_of_another_machine_is_refused(start_server: Any) -> None:
    relay = start_server("relay", ready=False, RELAY_HOST="192.0.2.77", RELAY_PORT=5)
    assert relay.wait_ended(60) == 1
    assert "RELAY_HOST" in relay.lines[-1]
    assert "Traceback" not in relay.output


@pytest.mark.parametrize(
    "environment",
    [
        {"RELAY_PORT": "x"},
        {"RELAY_NONSENSE": "1"},
        {"APP1_PORT": "0"},
        {"RELAY_TOKEN": "", "RELAY_HOST": "0.0.0.0"},  # noqa: S104
    ],
)
def test_wrong_settings_end_it_with_a_sentence(
    start_server: Any, environment: dict[str, str]
) -> None:
    relay = start_server("relay", ready=False, **environment)
    assert relay.wait_ended(60) == 2
    assert len(relay.lines) == 1
    assert next(iter(environment)) in relay.lines[0]


@pytest.mark.skipif(find_spec("gevent") is not None, reason="gevent is installed")
def test_a_missing_package_for_the_async_mode_is_named(start_server: Any) -> None:
    relay = start_server("relay", ready=False, RELAY_ASYNC_MODE="gevent")
    assert relay.wait_ended(60) == 2
    assert "pip install gevent" in relay.lines[0]


def test_it_runs_as_a_module_too() -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", "-m", "SocketIO_server.server"],
        cwd=ROOT,
        env={**os.environ, "RELAY_PORT": "x"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "RELAY_PORT" in result.stderr


def test_no_library_complains_at_start(tmp_path: Path) -> None:
    """With warnings as errors: only the one deprecation that we know of is silenced."""
    program = (
        "import sys; from common.settings import Settings;"
        "from SocketIO_server import transport;"
        "settings = Settings.from_environment(); transport.install(settings);"
        "from SocketIO_server.application import create_app; create_app(settings);"
        "print(sorted({'tensorflow', 'cv2', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=ROOT,
        env={**os.environ, "CAPTIONER_STATE": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.stdout == "[]\n", result.stderr
    assert result.stderr == ""


# What goes wrong with the file


def damage_all(path: Path) -> None:
    path.write_bytes(b"This is no database.\n" * 1000)


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [damage_all, damage_end, damage_pages])
def test_a_damaged_file_is_set_aside(
    start_relay: StartRelay, connect: Connect, damage: Callable[[Path], None]
) -> None:
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    for i in range(12):
        publisher.call("predict", {"id": f"i{i}", "caption": "old " * 200})
    assert relay.stop() == 0
    assert not (relay.state / "history.db-wal").exists()
    damage(relay.state / "history.db")
    relay.start()
    publisher = connect(relay, PUBLISHER)
    answer = publisher.call("predict", {"caption": "new"})
    if not answer["ok"]:  # found only now
        assert answer["retry"]
        answer = publisher.call("predict", {"caption": "new"})
    assert answer["seq"] > 12  # numbers that viewers know do not come again
    viewer = connect(relay, {"last_seq": 12})
    assert [c["caption"] for piece in viewer.history() for c in piece["captions"]] == ["new"]
    aside = [path for path in relay.state.iterdir() if ".damaged-" in path.name]
    assert len(aside) >= 1
    wait_until(lambda: f"now {aside[0].parent}" in relay.output)
    assert relay.get("/readyz")[0] == 200
    relay.kill()
    relay.start()
    assert numbers(connect(relay).history()) == [answer["seq"]]


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_a_damaged_log_beside_the_file_does_not_matter(
    start_relay: StartRelay, connect: Connect, suffix: str
) -> None:
    """After a kill. What stood in the log alone is lost; viewers that had it begin anew."""
    relay = start_relay()
    assert connect(relay, PUBLISHER).call("predict", {"caption": "old"})["ok"]
    assert relay.stop() == 0  # which leaves no log
    relay.start()
    publisher = connect(relay, PUBLISHER)
    last = [publisher.call("predict", {"caption": "newer"})["seq"] for _ in range(5)][-1]
    relay.kill()
    log = relay.state / f"history.db{suffix}"
    log.write_bytes(b"\xa5" * log.stat().st_size)
    relay.start()
    publisher = connect(relay, PUBLISHER)
    assert publisher.call("predict", {"caption": "newest"})["ok"]
    first = connect(relay, {"last_seq": last}).history()[0]
    captions = [c["caption"] for c in connect(relay, {"last_seq": 0}).history()[0]["captions"]]
    if suffix == "-shm":  # SQLite makes it again from the log
        assert captions == ["old", *["newer"] * 5, "newest"]
        assert numbers([first]) == [last + 1]
    else:
        assert captions == ["old", "newest"]
        assert first["reset"] is True


def test_a_file_of_another_program_is_left_alone(
    start_relay: StartRelay, connect: Connect, tmp_path: Path
) -> None:
    path = tmp_path / "other.db"
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE treasure (x)")
    database.close()
    content = path.read_bytes()
    relay = start_relay(RELAY_DB=path)
    answer = connect(relay, PUBLISHER).call("predict", {"caption": "a"})
    assert answer["ok"] is False
    assert "RELAY_DB" in answer["error"]
    status, _, body = relay.get("/readyz")
    assert status == 503
    assert "RELAY_DB" in body["reason"]
    assert path.read_bytes() == content


def test_a_file_that_was_removed_makes_viewers_begin_anew(
    start_relay: StartRelay, connect: Connect
) -> None:
    relay = start_relay()
    publisher = connect(relay, PUBLISHER)
    last = [publisher.call("predict", {"caption": "old"})["seq"] for _ in range(5)][-1]
    assert relay.stop() == 0
    (relay.state / "history.db").unlink()
    relay.start()
    connect(relay, PUBLISHER).call("predict", {"caption": "new"})
    first = connect(relay, {"last_seq": last}).history()[0]
    assert first["reset"] is True
    assert [caption["caption"] for caption in first["captions"]] == ["new"]


def script(folder: Path, prelude: str) -> Path:
    """A program that loads what the relay needs, does something to itself, and is the relay."""
    path = folder / "relay_with_a_handicap.py"
    path.write_text(
        f"import sys, warnings; sys.path.insert(0, {str(ROOT)!r})\n"
        "warnings.simplefilter('ignore')\n"
        "import engineio.async_drivers.eventlet, eventlet.semaphore, eventlet.wsgi\n"
        "import eventlet.websocket, eventlet.greenio, SocketIO_server.application\n"
        "from SocketIO_server.server import main\n"
        f"{prelude}\n"
        "sys.exit(main())\n"
    )
    return path


def test_a_full_disk(start_relay: StartRelay, connect: Connect, tmp_path: Path) -> None:
    """No file may grow beyond 300 kB, which is to SQLite as if there were no more room."""
    prelude = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))"
    relay = start_relay(script=script(tmp_path, prelude))
    publisher = connect(relay, PUBLISHER)
    viewer = connect(relay)
    viewer.history()
    url = "data:image/jpeg;base64," + base64.b64encode(JPEG + bytes(30_000)).decode()
    for sent in range(100):
        answer = publisher.call("predict", {"caption": "a", "thumbnail": url})
        if not answer["ok"]:
            break
        assert viewer.receive()[1]["seq"] == sent + 1
    assert answer["ok"] is False
    assert answer["retry"] is True
    assert "cannot be used now" in answer["error"]
    assert relay.get("/healthz")[0] == 200
    assert publisher.call("captioning", {"id": "x"})["ok"] in (True, False)
    # those that were acknowledged are all there, also for who comes now
    assert numbers(connect(relay, {"last_seq": 0}).history()) == list(range(1, sent + 1))
    relay.kill()
    again = start_relay(state=relay.state)
    assert numbers(connect(again, {"last_seq": 0}).history()) == list(range(1, sent + 1))
    assert connect(again, PUBLISHER).call("predict", {"caption": "a"})["seq"] == sent + 1


def test_a_folder_that_cannot_be_written(start_relay: StartRelay, connect: Connect) -> None:
    folder = Path(tempfile.mkdtemp())  # under a folder that every user may enter
    try:
        folder.chmod(0o755)
        locked = folder / "locked"
        locked.mkdir(mode=0o555)
        prelude = "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"
        relay = start_relay(state=locked, script=script(folder, prelude))
        publisher = connect(relay, PUBLISHER)
        answer = publisher.call("predict", {"caption": "a"})
        assert answer["ok"] is False
        assert answer["retry"] is True
        assert "RELAY_DB" in answer["error"]
        history = connect(relay).history()
        assert history[0]["captions"] == []
        assert "RELAY_DB" in history[0]["error"]
        assert relay.get("/readyz")[0] == 503
        assert relay.get("/api/captions")[0] == 503
        assert relay.get("/healthz")[0] == 200
        locked.chmod(0o777)  # and once it can be written, all is well
        assert publisher.call("predict", {"caption": "a"}) == {"ok": True, "seq": 1}
        assert relay.get("/readyz")[0] == 200
    finally:
        shutil.rmtree(folder)


# Open publishing: the original's own programs


def test_the_originals_app1_and_viewer_work_unchanged(start_relay: StartRelay) -> None:
    relay = start_relay(RELAY_TOKEN="")
    viewer = Client(relay)  # listens for `prediction`, and for nothing else
    app1 = Client(relay)
    caption = {"image_path": "static/images/1.jpg", "caption": "startseq dog & <b>cat</b> endseq"}
    app1.sio.emit("predict", caption)
    wait_until(lambda: viewer.of("prediction"))
    assert viewer.of("prediction") == [{**caption, "seq": 1}]
    late = Client(relay)
    wait_until(lambda: late.of("history"))
    assert late.of("history")[0]["captions"] == [{**caption, "seq": 1}]
    for client in (viewer, app1, late):
        client.close()


def test_an_open_relay_takes_any_token(start_relay: StartRelay, connect: Connect) -> None:
    relay = start_relay(RELAY_TOKEN="")
    assert connect(relay, {"token": "whatever"}).call("predict", {"caption": "a"})["ok"]


def test_the_secret_in_the_state_folder_lets_publish(
    start_server: Any, tmp_path: Path, connect: Connect
) -> None:
    server = start_server("relay")
    secret = (tmp_path / "state" / "relay-token").read_text().strip()
    assert secret not in server.output
    assert connect(server, {"token": secret}).call("predict", {"caption": "a"})["ok"]
    assert connect(server, {"token": "wrong"}).refusal
    assert (tmp_path / "state" / "history.db").stat().st_mode & 0o777 == 0o600


def test_bound_to_the_network_it_warns(start_relay: StartRelay) -> None:
    assert "WARNING" in start_relay(RELAY_HOST="0.0.0.0").output  # noqa: S104
    assert "WARNING" not in start_relay().output


# Other async modes


@pytest.mark.parametrize(
    "mode",
    [
        "threading",
        pytest.param(
            "gevent",
            marks=pytest.mark.skipif(find_spec("gevent") is None, reason="gevent is not installed"),
        ),
    ],
)
def test_other_async_modes(start_relay: StartRelay, connect: Connect, mode: str) -> None:
    relay = start_relay(RELAY_ASYNC_MODE=mode)
    viewer = connect(relay)
    viewer.history()
    publisher = connect(relay, PUBLISHER)
    for i in range(20):
        assert publisher.call("predict", {"caption": f"{i}"})["ok"]
    assert [viewer.receive()[1]["seq"] for _ in range(20)] == list(range(1, 21))
    assert numbers(connect(relay, {"last_seq": 5}).history()) == list(range(6, 21))
    assert relay.get("/readyz")[0] == 200
    began = time.monotonic()
    assert relay.stop() == 0
    assert time.monotonic() - began < 5
