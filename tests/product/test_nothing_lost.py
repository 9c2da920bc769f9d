"""Nothing is lost and nothing is doubled, whichever process is killed, whatever disk and clock do.

Real processes and real signals. What single parts do about it is tested with those parts.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import socketio
import websocket
from PIL import Image

from app1.outbox import Outbox
from app1.publisher import Publisher, RelayConnection
from tests.kit import ROOT
from tests.kit.clients import WireClient
from tests.kit.servers import SCRIPTS, TOKEN, Server, free_ports, wait_until

pytestmark = pytest.mark.timeout(240)

PHOTOS, AT_ONCE = 1_000, 5
KILLS = [  # who is killed together
    ("relay",), ("app1",), ("app2",), ("relay", "app1"), ("relay",), ("app1",),
    ("app1", "relay", "app2"), ("relay", "app1", "app2"),
]  # fmt: skip


class Servers:
    """The three servers, each to be killed and started again on the port that it had."""

    def __init__(self, state: Path, **environment: object) -> None:
        self.port = dict(zip(SCRIPTS, free_ports(len(SCRIPTS)), strict=True))
        self._environment = {
            "CAPTIONER_STATE": state,
            "RELAY_TOKEN": TOKEN,
            **{f"{name.upper()}_PORT": port for name, port in self.port.items()},
            **environment,
        }
        self._started: dict[str, Server] = {}
        self.running: set[str] = set()

    def start(self, *names: str) -> None:
        """As a user starts them, all at once; until they are ready."""
        for name in names:
            self._start(name)
        for name in names:
            self._started[name].wait_ready(120)

    def start_by(self, name: str, script: Path) -> Server:
        """By another script that has a handicap."""
        self._start(name, script=script)
        self._started[name].wait_ready(120)
        return self._started[name]

    def _start(self, name: str, **options: Path) -> None:
        self._started[name] = Server(name, self._environment, **options)
        self.running.add(name)

    def kill(self, *names: str) -> None:
        """SIGKILL, all at the same moment."""
        for name in names:
            self._started[name].process.kill()
        for name in names:
            self.running.remove(name)
            server = self._started[name]
            server.wait_ended()
            assert "Traceback" not in server.output

    def get(self, name: str, path: str) -> Any:
        """What a GET is answered with, which has to be JSON and status 200."""
        status, _, answer = self._started[name].get(path)
        assert status == 200, path
        return answer

    def upload(self, *pictures: tuple[bytes, str]) -> list[dict[str, Any]]:
        """The answers to an upload of files and their names.

        Raises OSError or HTTPException if app1 is not there, or is not there any more.
        """
        head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="%s"\r\n\r\n%s\r\n'
        body = b"".join(head % (name.encode(), picture) for picture, name in pictures)
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        status, _, content = self._started["app1"].send(
            "POST", "/api/captions", body + b"--x--\r\n", kind
        )
        assert status == 200, content
        results = json.loads(content)
        return list(results.get("results", [results]))

    def history(self) -> list[dict[str, Any]]:
        """All captions that the relay has, oldest first."""
        captions: list[dict[str, Any]] = []
        last = 0
        while page := self.get("relay", f"/api/captions?after={last}&limit=1000")["captions"]:
            captions += page
            last = page[-1]["seq"]
        return captions

    def wait_for(self, identifier: str) -> None:
        """Until the relay has a caption, and thus all that were published before it."""
        newest = "/api/captions?limit=1"
        wait_until(
            lambda: [c["id"] for c in self.get("relay", newest)["captions"]] == [identifier], 60
        )


@pytest.fixture
def make_servers(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., Servers]]:
    made: list[Servers] = []

    def make(**environment: object) -> Servers:
        environment.setdefault("CAPTIONER_MODEL", tiny_model)
        state = environment.pop("CAPTIONER_STATE", tmp_path / "state")
        made.append(Servers(Path(str(state)), **environment))
        return made[-1]

    yield make
    for servers in made:
        servers.kill(*servers.running)


class Watcher:
    """A viewer that is there all along. It reads its wire in order and comes back at once.

    What it keeps is what came, duplicates and all: there must be none to drop.
    """

    def __init__(self, port: int) -> None:
        self.port = port  # which is all of a relay that a WireClient needs
        self.captions: list[dict[str, Any]] = []
        self.resets = 0
        self.connections = 0
        self._stop = threading.Event()
        self._client: WireClient | None = None
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.is_set():
            last = self.captions[-1]["seq"] if self.captions else 0
            with contextlib.suppress(OSError, websocket.WebSocketException):
                self._client = WireClient(self, {"last_seq": last})  # type: ignore[arg-type]
                self.connections += 1
                with contextlib.closing(self._client):
                    while not self._stop.is_set():
                        self._take(*self._client.receive(math.inf))
            time.sleep(0.01)

    def _take(self, event: str, data: Any) -> None:
        if event == "prediction":
            self.captions.append(data)
        elif event == "history":
            self.captions += data["captions"]
            self.resets += data.get("reset", False)

    def close(self) -> None:
        self._stop.set()
        while self._thread.is_alive():
            with contextlib.suppress(OSError, AttributeError):  # it may have gone just now
                self._client.socket.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
            self._thread.join(0.1)


class OrdinaryViewer:
    """A viewer by python-socketio, which reconnects by itself; it drops by `seq` what it has."""

    def __init__(self, port: int) -> None:
        self.captions: dict[int, dict[str, Any]] = {}
        self.sio = socketio.Client(
            reconnection_delay=0.05, reconnection_delay_max=0.5, handle_sigint=False
        )
        self.sio.on("history", lambda piece: self._take(*piece["captions"]))
        self.sio.on("prediction", self._take)
        self.sio.connect(
            f"http://127.0.0.1:{port}",
            auth=lambda: {"last_seq": max(self.captions, default=0)},
            wait_timeout=30,  # else 1 second
        )

    def _take(self, *captions: dict[str, Any]) -> None:
        for caption in captions:
            self.captions.setdefault(caption["seq"], caption)

    def in_order(self) -> list[dict[str, Any]]:
        return [caption for _, caption in sorted(self.captions.items())]


@pytest.fixture
def watch() -> Iterator[Callable[[int], Watcher]]:
    watchers: list[Watcher] = []

    def begin(port: int) -> Watcher:
        watchers.append(Watcher(port))
        return watchers[-1]

    yield begin
    for watcher in watchers:
        watcher.close()


def photo(number: int) -> bytes:
    """A small picture like no other."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), (number % 256, number // 256, 0)).save(file, "png")
    return file.getvalue()


def ids(captions: list[dict[str, Any]]) -> list[str]:
    return [caption["id"] for caption in captions]


def test_each_process_is_killed_in_turn_and_all_of_them(
    make_servers: Callable[..., Servers], watch: Callable[[int], Watcher]
) -> None:
    """While 1,000 photos are uploaded, five at a time, and again until they are answered.

    So those of an upload that was cut off by a kill may have been captioned, under ids that nobody
    knows; but each id once, and in the order of the uploads.
    """
    chance = random.Random(20)
    servers = make_servers()
    servers.start(*SCRIPTS)
    watcher, viewer = watch(servers.port["relay"]), OrdinaryViewer(servers.port["relay"])
    names = [f"{number:04}.png" for number in range(PHOTOS)]
    answered: list[tuple[str, str]] = []

    def upload_all() -> None:
        for first in range(0, PHOTOS, AT_ONCE):
            those = range(first, first + AT_ONCE)
            while len(answered) == first:
                try:
                    answers = servers.upload(*((photo(i), names[i]) for i in those))
                    answered.extend(
                        (a["id"], names[i]) for a, i in zip(answers, those, strict=True)
                    )
                except (OSError, http.client.HTTPException):
                    time.sleep(0.02)  # app1 is away: ask again

    def so_many(count: int) -> Callable[[], bool]:
        return lambda: len(answered) >= count or not uploader.is_alive()

    uploader = threading.Thread(target=upload_all, daemon=True)
    uploader.start()
    moments = sorted(chance.sample(range(20, PHOTOS - 50), len(KILLS)))
    for moment, names_killed in zip(moments, KILLS, strict=True):
        wait_until(so_many(moment), 240)
        servers.kill(*names_killed)
        if "app1" in servers.running:  # and the relay perhaps not
            wait_until(so_many(len(answered) + 10), 240)
        servers.start(*chance.sample(names_killed, len(names_killed)))
    uploader.join(240)
    assert [name for _, name in answered] == names

    servers.wait_for(answered[-1][0])
    kept = servers.history()
    numbers = [caption["seq"] for caption in kept]
    assert numbers == sorted(set(numbers))
    assert len(set(ids(kept))) == len(kept)
    known = {identifier for identifier, _ in answered}
    assert [(c["id"], c["image_path"]) for c in kept if c["id"] in known] == answered
    uploads = [names.index(caption["image_path"]) // AT_ONCE for caption in kept]
    assert uploads == sorted(uploads)
    assert len(kept) - PHOTOS <= AT_ONCE * sum("app1" in kill for kill in KILLS)

    wait_until(lambda: len(watcher.captions) >= len(kept))
    assert watcher.captions == kept
    assert watcher.resets == 0
    assert watcher.connections > 1
    wait_until(lambda: len(viewer.captions) >= len(kept))
    assert viewer.in_order() == kept
    viewer.sio.disconnect()
    assert servers.get("app2", "/healthz")


# Disks and clocks


def handicapped(folder: Path, program: str, prelude: str) -> Path:
    """A script that does something to itself, and is then `relay` or `app1`."""
    module = {"relay": "SocketIO_server.server", "app1": "app1.app"}[program]
    path = folder / f"{program}_with_a_handicap.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        f"from {module} import main\n{prelude}\nsys.exit(main())\n"
    )
    return path


@pytest.fixture
def make_publisher(tmp_path: Path) -> Iterator[Callable[[Servers], Publisher]]:
    """A publisher that publishes nothing before somebody calls its `step`."""
    made: list[tuple[Publisher, Outbox]] = []

    def make(servers: Servers) -> Publisher:
        url = f"http://127.0.0.1:{servers.port['relay']}"
        outbox = Outbox(tmp_path / "outbox.db")
        connect = functools.partial(RelayConnection, url, TOKEN)
        made.append((Publisher(outbox, connect, jitter=lambda: 0.5), outbox))
        return made[-1][0]

    yield make
    for publisher, outbox in made:
        publisher.stop()
        outbox.close()


def noise(seed: int, side: int) -> bytes:
    """A picture whose thumbnail is large: some 25 kB for 200 pixels a side."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    Image.fromarray(pixels).save(file, "jpeg", quality=90)
    return file.getvalue()


# No file may grow beyond 300 kB, which is to SQLite as if there were no more room.
FULL_DISK = """
from resource import RLIMIT_FSIZE, getrlimit, setrlimit
setrlimit(RLIMIT_FSIZE, (300_000, getrlimit(RLIMIT_FSIZE)[1]))
"""


def make_room(server: Server) -> None:
    import resource  # not on every system, but where this is called

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs prlimit(2) of Linux")


@linux_only
def test_a_full_disk_under_app1(make_servers: Callable[..., Servers], tmp_path: Path) -> None:
    """Uploads are answered, wait in memory, and move to the disk when there is room again."""
    servers = make_servers()
    app1 = servers.start_by("app1", handicapped(tmp_path, "app1", FULL_DISK))
    answers = [servers.upload((noise(i, 300), f"{i:02}.jpg"))[0] for i in range(20)]
    assert app1.output.count("outbox.db cannot be used") == 1, "said once, not with each photo"
    assert "make room on the disk" in app1.output
    make_room(app1)
    answers += servers.upload((noise(20, 300), "20.jpg"))
    assert "outbox.db can be written again" in app1.output
    assert {answer["published"] for answer in answers} == {"queued"}
    servers.kill("app1")
    servers.start("relay", "app1")
    servers.wait_for(answers[-1]["id"])
    assert ids(servers.history()) == ids(answers)


@linux_only
def test_what_app1_has_in_memory_is_delivered_without_the_disk(
    make_servers: Callable[..., Servers], tmp_path: Path
) -> None:
    servers = make_servers()
    servers.start_by("app1", handicapped(tmp_path, "app1", FULL_DISK))
    answers = [servers.upload((noise(i, 300), f"{i:02}.jpg"))[0] for i in range(20)]
    servers.start("relay")
    servers.wait_for(answers[-1]["id"])
    assert ids(servers.history()) == ids(answers)


@linux_only
def test_a_full_disk_under_the_relay(
    make_servers: Callable[..., Servers], make_publisher: Callable[[Servers], Publisher],
    watch: Callable[[int], Watcher], tmp_path: Path,
) -> None:  # fmt: skip
    """What it cannot keep it does not acknowledge; the publisher sends it until there is room."""
    servers = make_servers()
    relay = servers.start_by("relay", handicapped(tmp_path, "relay", FULL_DISK))
    watcher, publisher = watch(servers.port["relay"]), make_publisher(servers)
    for number in range(20):
        publisher.publish(
            {"id": f"i{number}", "caption": "A dog.", "thumbnail": noise(number, 200)}
        )
    steps = [0.0, 0.0]
    while not all(steps[-2:]):  # once the relay may find some room yet
        pause = publisher.step()
        assert pause is not None, "the disk was not full"
        steps.append(pause)
    assert steps[-1] >= 5, "the relay asks for patience"
    acknowledged = publisher.acknowledged
    assert 0 < acknowledged < 20
    assert len(servers.history()) == acknowledged
    make_room(relay)
    while publisher.step() == 0:
        pass
    assert publisher.waiting == 0
    assert ids(servers.history()) == [f"i{number}" for number in range(20)]
    wait_until(lambda: len(watcher.captions) >= 20)
    assert watcher.captions == servers.history()


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="a folder cannot be closed to its owner")
def test_a_folder_that_app1_cannot_write(
    make_servers: Callable[..., Servers], tiny_model: Path
) -> None:
    """It captions and publishes all the same, says what to set, and recovers by itself."""
    folder = Path(tempfile.mkdtemp())  # under a folder that every user may enter
    try:
        folder.chmod(0o755)
        shutil.copytree(tiny_model, folder / "model")
        state = folder / "state"
        state.mkdir(mode=0o555)
        # what app1 imports later may lie where another user cannot read
        unprivileged = (
            "import captioner.pictures.preprocess, PIL.PngImagePlugin\n"
            "from captioner import Captioner\n"
            f"Captioner.load({str(folder / 'model')!r})\n"
            "import os; os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534))"
        )
        servers = make_servers(
            CAPTIONER_STATE=state, CAPTIONER_MODEL=folder / "model", RELAY_DB=folder / "history.db"
        )
        app1 = servers.start_by("app1", handicapped(folder, "app1", unprivileged))
        assert "outbox.db cannot be used (" in app1.output
        assert "set CAPTIONER_STATE to a folder to write in" in app1.output
        answers = servers.upload(*((photo(i), f"{i}.png") for i in range(3)))
        servers.start("relay")
        servers.wait_for(answers[-1]["id"])
        servers.kill("relay")
        state.chmod(0o777)
        answers += servers.upload(*((photo(i), f"{i}.png") for i in range(3, 6)))
        servers.kill("app1")
        servers.start("relay", "app1")
        servers.wait_for(answers[-1]["id"])
        assert ids(servers.history()) == ids(answers)
        servers.kill("relay", "app1")
    finally:
        shutil.rmtree(folder)


# Every now and then it is another day, and many more photos are not yet taken, or long forgotten.
# Pings come so often that there is always one under way, whose age the library then misjudges.
JUMPING_CLOCK = """
import itertools, time
import engineio
real, looks, days = time.time, itertools.count(), itertools.cycle((0, 1, -400, 9000, -1))
away = 0
def jumping():
    global away
    if next(looks) % 41 == 0:
        away = 86_400 * next(days)
    return real() + away
time.time = jumping
original = engineio.Server.__init__
def init(self, *args, **options):
    original(self, *args, **{**options, "ping_interval": 0.02})
engineio.Server.__init__ = init
"""


def test_a_clock_that_jumps(
    make_servers: Callable[..., Servers], watch: Callable[[int], Watcher], tmp_path: Path
) -> None:
    """The clocks of app1 and of the relay, for days to and fro, some dozens of times.

    app1's web server takes a jump for a client that says nothing for long, and may cut off an
    upload; the uploader sends it again.
    """
    servers = make_servers()
    servers.start_by("relay", handicapped(tmp_path, "relay", JUMPING_CLOCK))
    servers.start_by("app1", handicapped(tmp_path, "app1", JUMPING_CLOCK))
    watcher = watch(servers.port["relay"])
    answers: list[dict[str, Any]] = []
    until = time.monotonic() + 120
    while len(answers) < 50 or watcher.connections < 4:  # until pings have been misjudged
        assert time.monotonic() < until, "the clock does no harm: this tests nothing"
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers += servers.upload((photo(len(answers)), f"{len(answers)}.png"))
    servers.wait_for(answers[-1]["id"])
    kept = servers.history()
    known = set(ids(answers))
    assert [identifier for identifier in ids(kept) if identifier in known] == ids(answers)
    assert [caption["seq"] for caption in kept] == list(range(1, len(kept) + 1))
    wait_until(lambda: len(watcher.captions) >= len(kept))
    assert watcher.captions == kept


# A collection


def lines(path: Path) -> list[bytes]:
    """The whole lines of a file that may end in half of one."""
    return [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]


def test_a_collection_is_captioned_once_although_the_program_is_killed(
    tmp_path: Path, tiny_model: Path
) -> None:
    """What is broken is tried again by each run, and comes again each time."""
    album, output = tmp_path / "album", tmp_path / "captions.jsonl"
    album.mkdir()
    for number in range(100):
        (album / f"{number:03}.png").write_bytes(photo(number))
    (album / "050.png").write_bytes(photo(50)[:40])
    command = [sys.executable, "-m", "captioner", "caption", str(album), "--model", str(tiny_model)]
    command += ["--output", str(output)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)

    before: list[bytes] = []
    statuses = []
    output.touch()
    for enough in (1, 20, 21, 60):
        running = start()
        wait_until(lambda: len(lines(output)) >= enough or running.poll() is not None, 60)  # noqa: B023
        running.kill()
        statuses.append(running.wait())
        assert lines(output)[: len(before)] == before, "what was done has been touched"
        before = lines(output)
    assert -signal.SIGKILL in statuses, "it was always faster"
    assert start().wait() == 1  # for the broken one
    whole = output.read_bytes()
    assert start().wait() == 1
    assert output.read_bytes().startswith(whole)
    entries = [json.loads(line) for line in output.read_bytes().splitlines()]
    broken = str(album / "050.png")
    good = [entry["image"] for entry in entries if "error" not in entry]
    assert good == [str(path) for path in sorted(album.iterdir()) if str(path) != broken]
    assert {entry["image"] for entry in entries if "error" in entry} == {broken}


@linux_only
def test_a_full_disk_under_a_collection(tmp_path: Path, tiny_model: Path) -> None:
    """It ends with a sentence, and goes on when there is room."""
    album, output = tmp_path / "album", tmp_path / "captions.jsonl"
    album.mkdir()
    for number in range(30):
        (album / f"{number:03}.png").write_bytes(photo(number))
    arguments = ["caption", str(album), "--model", str(tiny_model)]
    arguments += ["--output", str(output)]

    def run(prelude: str) -> subprocess.CompletedProcess[str]:
        program = f"import sys\nfrom captioner.cli import main\n{prelude}\nsys.exit(main())"
        return subprocess.run(
            [sys.executable, "-c", program, *arguments], cwd=ROOT, stderr=subprocess.PIPE, text=True
        )

    ended = run("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))")
    assert ended.returncode == 1
    assert "cannot be written (File too large)" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr
    assert 1 < len(lines(output)) < 20
    assert run("").returncode == 0
    entries = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert [entry["image"] for entry in entries] == [str(path) for path in sorted(album.iterdir())]


@linux_only
@pytest.mark.parametrize(
    ("kind", "head", "tail"),
    [
        ("image/png", b"", b""),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n',
            b"\r\n--x--\r\n",
        ),
    ],
)
def test_without_room_for_a_large_upload(
    make_servers: Callable[..., Servers], tmp_path: Path, kind: str, head: bytes, tail: bytes
) -> None:
    """It is refused in words, nothing else suffers, and later there is room again."""
    servers = make_servers()
    app1 = servers.start_by("app1", handicapped(tmp_path, "app1", FULL_DISK))
    large = head + photo(1) + bytes(3_000_000) + tail
    status, _, body = app1.send("POST", "/api/captions", large, {"Content-Type": kind})
    assert status == 503, body
    assert "no room" in json.loads(body)["detail"]
    assert len(servers.upload((photo(2), "small.png"))) == 1
    make_room(app1)
    assert app1.send("POST", "/api/captions", large, {"Content-Type": kind})[0] == 200
    assert "Traceback" not in app1.output
