"""The supervisor: with servers that do as a test tells them, and once with the real ones."""

from __future__ import annotations

import os
import signal
import socket
import sys
import textwrap
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common import supervisor
from common.settings import Settings
from common.supervisor import (
    SERVERS,
    PortTakenError,
    is_answered_by_another,
    is_taken,
    with_free_ports,
)
from tests.kit import ROOT
from tests.kit.servers import Program

# Reads the same settings as the real servers; the file `NAME.does` beside it says how it behaves.
FAKE_SERVER = """
    import http.server, os, signal, sys
    from pathlib import Path
    from common.settings import Settings

    script = Path(__file__)
    name, deeds = script.stem, script.with_suffix(".does").read_text().splitlines()
    script.with_suffix(".does").write_text("\\n".join(deeds[1:]) or deeds[0])
    deed = deeds[0]
    settings = Settings.from_environment()
    port = getattr(settings, f"{name}_port")
    print(f"{name} pid={os.getpid()} group={os.getpgid(0)} sees RELAY_PORT={settings.relay_port}")
    if deed == "fails":
        print(f"{name} has no luck.", file=sys.stderr)
        sys.exit(3)
    if deed == "refuses":
        print(f"{name} does not like its settings.", file=sys.stderr)
        sys.exit(2)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            good = {"relay": "/readyz", "app1": "/readyz", "app2": "/healthz"}[name]
            self.send_response(200 if self.path == good else 404)
            self.end_headers()
        def log_message(self, *args):
            pass

    def end(number, frame):
        try:
            print(f"{name} says goodbye")
        finally:  # also where nobody is there to hear it, an error that a request would swallow
            if deed != "stubborn":
                os._exit(0)

    signal.signal(signal.SIGTERM, end)
    server = http.server.HTTPServer(("127.0.0.1", port), Handler)
    server.serve_forever()
"""

# `python -m captioner`, with the scripts of the folder that it lies in, if it has any.
DRIVER = """
    import dataclasses, sys
    from pathlib import Path
    from captioner import cli
    from common import supervisor

    scripts = {path.stem: path for path in Path(__file__).parent.glob("*.py")}
    supervisor.SERVERS = tuple(
        dataclasses.replace(server, script=scripts.get(server.name, server.script))
        for server in supervisor.SERVERS
    )
    supervisor.PAUSES = (0.01,)
    sys.exit(cli.main())
"""


class Up(Program):
    """`captioner up` as a process of its own."""

    def __init__(self, folder: Path, environment: dict[str, str], *flags: str) -> None:
        driver = folder / "driver.py"
        driver.write_text(textwrap.dedent(DRIVER))
        environment = {
            "PYTHONPATH": str(ROOT),
            "CAPTIONER_STATE": str(folder / "state"),
            **environment,
        }
        super().__init__(driver, environment, "up", *flags)

    def pid_of(self, name: str) -> int:
        """The process of a fake server, as it said itself; the latest one."""
        line = [line for line in self.lines if f"{name} pid=" in line][-1]
        return int(line.split("pid=")[1].split()[0])


Start = Callable[..., Up]


@pytest.fixture
def ports(free_port: Callable[[], int]) -> dict[str, str]:
    chosen: set[int] = set()
    while len(chosen) < 3:
        chosen.add(free_port())
    names = [f"{server.prefix}_PORT" for server in SERVERS]
    return dict(zip(names, map(str, chosen), strict=True))


@pytest.fixture
def start(tmp_path: Path, ports: dict[str, str]) -> Iterator[Start]:
    """Starts `captioner up` over fake servers: `start("--flag", app1="refuses")`."""
    running: list[Up] = []

    def begin(*flags: str, **deeds: str) -> Up:
        for server in SERVERS:
            deed = deeds.get(server.name, "serves")
            (tmp_path / f"{server.name}.py").write_text(textwrap.dedent(FAKE_SERVER))
            (tmp_path / f"{server.name}.does").write_text(deed)
        running.append(Up(tmp_path, ports, *flags))
        return running[-1]

    yield begin
    for each in running:
        each.kill()  # its servers end with it


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    if sys.platform == "linux":  # a zombie that nobody waits for has ended too
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return True


def ready(running: Up) -> Callable[[], bool]:
    def is_ready() -> bool:
        assert running.process.poll() is None, running.output
        return "Ctrl-C stops all" in running.output

    return is_ready


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_starts_all_prints_the_addresses_and_stops_all(
    start: Start, ports: dict[str, str], wait_for: Callable[..., None], number: signal.Signals
) -> None:
    running = start()
    wait_for(ready(running))
    assert f"Drop a photo here: http://127.0.0.1:{ports['APP1_PORT']}/" in running.output
    assert f"See captions appear here: http://127.0.0.1:{ports['APP2_PORT']}/" in running.output
    assert f"app2      | app2 pid={running.pid_of('app2')} group={running.pid_of('app2')} " in (
        running.output
    )
    running.process.send_signal(number)
    assert running.wait_ended() == 0
    order = [line.split()[-3] for line in running.lines if "says goodbye" in line]
    assert order == ["app2", "app1", "relay"]
    assert running.lines[-1].endswith("Stopped.")
    assert not any(is_alive(running.pid_of(server.name)) for server in SERVERS)


def test_a_server_that_dies_is_started_again(start: Start, wait_for: Callable[..., None]) -> None:
    running = start()
    wait_for(ready(running))
    first = running.pid_of("app1")
    os.kill(first, signal.SIGKILL)
    wait_for(lambda: running.output.count("app1 pid=") == 2)
    assert "app1 was ended by SIGKILL; it is started again in 0.01 s." in running.output
    assert running.pid_of("app1") != first
    assert running.output.count("relay pid=") == 1


def test_a_server_that_refuses_to_start_ends_all_with_its_sentence_and_status(
    start: Start,
) -> None:
    running = start(app1="refuses")
    assert running.wait_ended() == 2
    assert running.lines[-1] == (
        "captioner: app1 ended (exit status 2): app1 does not like its settings."
    )
    started = [s.name for s in SERVERS if f"{s.name} pid=" in running.output]
    assert not any(is_alive(running.pid_of(name)) for name in started)


def test_a_server_that_dies_again_and_again_ends_all(
    start: Start, wait_for: Callable[..., None]
) -> None:
    running = start(relay="serves\nfails")
    wait_for(ready(running))
    os.kill(running.pid_of("relay"), signal.SIGKILL)
    assert running.wait_ended() == 3
    assert running.lines[-1] == (
        "captioner: relay ended (exit status 3) 5 times in a row: relay has no luck."
    )
    assert not is_alive(running.pid_of("app1"))


def test_whoever_asks_twice_does_not_wait(start: Start, wait_for: Callable[..., None]) -> None:
    running = start(app2="stubborn")
    wait_for(ready(running))
    running.process.send_signal(signal.SIGINT)
    wait_for(lambda: "app2 says goodbye" in running.output)
    assert running.process.poll() is None
    running.process.send_signal(signal.SIGINT)
    assert running.wait_ended() == 0
    assert "Not waiting for app2 any longer." in running.output
    assert not any(is_alive(running.pid_of(server.name)) for server in SERVERS)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a process to another")
def test_the_servers_do_not_outlive_it(start: Start, wait_for: Callable[..., None]) -> None:
    running = start()
    wait_for(ready(running))
    pids = [running.pid_of(server.name) for server in SERVERS]
    running.process.kill()
    wait_for(lambda: not any(map(is_alive, pids)))


def test_flags_set_the_settings_of_all(
    start: Start, free_port: Callable[[], int], wait_for: Callable[..., None]
) -> None:
    port = free_port()
    running = start("--relay-port", str(port))
    wait_for(ready(running))
    assert running.output.count(f"sees RELAY_PORT={port}") == 3


def test_a_wrong_flag_is_a_wrong_setting(start: Start) -> None:
    running = start("--relay-port", "nine")
    assert running.wait_ended() == 2
    assert running.lines == [
        'captioner: RELAY_PORT is "nine", but must be a whole number from 1 to 65535.'
    ]


def test_a_port_that_was_set_and_is_taken_is_named(start: Start, ports: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(ports["APP2_PORT"]))):
        running = start()
        assert running.wait_ended() == 1
    assert running.lines == [
        f"captioner: Port {ports['APP2_PORT']} on 127.0.0.1 is taken by another program; set "
        "APP2_PORT to another, or stop what uses it."
    ]


class TestPorts:
    @pytest.fixture
    def taken(self, monkeypatch: pytest.MonkeyPatch) -> set[int]:
        """The ports that count as taken."""
        ports: set[int] = set()
        monkeypatch.setattr(supervisor, "is_taken", lambda host, port: port in ports)
        monkeypatch.setattr(supervisor, "is_answered_by_another", lambda host, port: False)
        return ports

    def chosen(
        self, settings_of: Callable[..., Settings], **environment: object
    ) -> tuple[tuple[int, ...], list[str]]:
        said: list[str] = []
        settings = with_free_ports(settings_of(**environment), SERVERS, said.append)
        return (settings.relay_port, settings.app1_port, settings.app2_port), said

    def test_free_ones_stay(
        self, taken: set[int], settings_of: Callable[..., Settings], tmp_path: Path
    ) -> None:
        assert self.chosen(settings_of) == ((5000, 5001, 5002), [])

    def test_one_that_was_not_set_moves_past_the_others(
        self, taken: set[int], settings_of: Callable[..., Settings]
    ) -> None:
        taken |= {5000, 5003}
        ports, said = self.chosen(settings_of)
        assert ports == (5004, 5001, 5002)
        assert said == ["Port 5000 is taken, so relay uses 5004 (or set RELAY_PORT)."]

    def test_one_that_was_not_set_makes_room_for_one_that_was(
        self, taken: set[int], settings_of: Callable[..., Settings]
    ) -> None:
        ports, _ = self.chosen(settings_of, APP2_PORT=5000)
        assert ports == (5002, 5001, 5000)

    def test_what_follows_from_a_moved_port_follows(
        self, taken: set[int], settings_of: Callable[..., Settings]
    ) -> None:
        taken.add(5000)
        settings = with_free_ports(settings_of(RELAY_TOKEN=""), SERVERS, print)
        assert settings.relay_url == "http://127.0.0.1:5003"
        assert settings.was_set("RELAY_PORT")
        assert settings.relay_token == ""

    @pytest.mark.parametrize(
        ("environment", "message"),
        [
            ({"APP1_PORT": 6000}, "Port 6000 on 127.0.0.1 is taken by another program; set APP1_P"),
            ({"APP1_PORT": 7, "APP2_PORT": 7}, "Port 7 on 127.0.0.1 is APP1_PORT too; set APP2_P"),
        ],
    )
    def test_one_that_was_set_does_not_move(
        self,
        taken: set[int],
        settings_of: Callable[..., Settings],
        environment: dict[str, object],
        message: str,
    ) -> None:
        taken.add(6000)
        with pytest.raises(PortTakenError, match=message):
            self.chosen(settings_of, **environment)

    def test_none_is_free(self, taken: set[int], settings_of: Callable[..., Settings]) -> None:
        taken |= {*range(5000, 6000)}
        with pytest.raises(PortTakenError, match="No port from 5000 on is free; set RELAY_PORT"):
            self.chosen(settings_of)

    def test_a_port_is_taken_while_somebody_listens(self, free_port: Callable[[], int]) -> None:
        port = free_port()
        assert not is_taken("127.0.0.1", port)
        assert not is_answered_by_another("127.0.0.1", port)
        with socket.create_server(("127.0.0.1", port)):
            assert is_taken("127.0.0.1", port)
            assert is_taken("0.0.0.0", port)  # noqa: S104 - what is asked, not what is done
            assert is_answered_by_another("localhost", port)
            assert not is_answered_by_another("192.0.2.1", port)
        assert not is_taken("192.0.2.1", port)  # not ours to listen on, which is another matter


def test_the_real_servers(
    tiny_model: Path, tmp_path: Path, ports: dict[str, str], wait_for: Callable[..., None]
) -> None:
    running = Up(tmp_path, {**ports, "CAPTIONER_MODEL": str(tiny_model)})
    try:
        wait_for(ready(running), seconds=60)
        for name in ("APP1_PORT", "APP2_PORT"):
            with urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/", timeout=30) as answer:
                assert answer.status == 200
        running.process.send_signal(signal.SIGINT)
        assert running.wait_ended(60) == 0
        assert "Traceback" not in running.output
    finally:
        running.kill()
