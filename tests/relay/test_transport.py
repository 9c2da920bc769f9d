"""The patches of libraries: in one place, for the installed versions, and applied once."""

from __future__ import annotations

import io
import re
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import engineio.socket
import pytest
import socketio
from engineio.exceptions import SocketIsClosedError

from common.settings import Settings
from SocketIO_server import transport
from SocketIO_server.transport import limits
from SocketIO_server.transport.direct_send import DirectSocket
from SocketIO_server.transport.limits import BoundedServer, BoundedSocket
from SocketIO_server.transport.rooms import Rooms
from tests.kit import ROOT

RELAY = ROOT / "SocketIO_server"


@pytest.mark.parametrize("name", transport.PATCHED_VERSIONS)
def test_the_patches_are_for_the_installed_version(name: str) -> None:
    patched = transport.PATCHED_VERSIONS[name]
    assert version(name) == patched, (
        f"{name} {version(name)} is installed, and the patches in SocketIO_server/transport are "
        f"written for {patched}. Read what has changed there, see whether a patch can go (README.md"
        " beside them says when), run the relay's tests and benchmark, then change the pin."
    )


def test_nothing_else_uses_the_insides_of_the_libraries() -> None:
    patched = RELAY / "transport"
    named = {
        str(path.relative_to(RELAY))
        for path in RELAY.rglob("*.py")
        if patched not in path.parents
        and re.search(r"\b(engineio|eio|eventlet|eio_sid_from_sid)\b", path.read_text())
    }
    assert named == set()


def test_every_patch_is_explained() -> None:
    """Each class and function that replaces one of a library has a row in the README."""
    readme = (RELAY / "transport" / "README.md").read_text()
    replaced = {
        "DirectSocket", "BoundedSocket", "BoundedServer", "BoundedPacket", "install_for_eventlet",
        "strict",
    }  # fmt: skip
    assert {name for name in replaced if f".{name}" not in readme} == set()
    for path in (RELAY / "transport").glob("*.py"):
        for name in re.findall(r"^class (\w+)\((?!Exception)", path.read_text(), re.MULTILINE):
            assert f".{name}" in readme, f"{path.name}: {name} is not in the README"


@pytest.fixture
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts back what `install` replaces."""
    monkeypatch.setattr(engineio.socket, "Socket", engineio.socket.Socket)
    original = socketio.Server._engineio_server_class
    monkeypatch.setattr(socketio.Server, "_engineio_server_class", original)


@pytest.mark.usefixtures("unpatched")
def test_a_server_has_the_patches_however_often_they_are_installed(
    settings_of: Callable[..., Settings],
) -> None:
    for mode, kind in (("threading", BoundedSocket), ("eventlet", DirectSocket)):
        for _ in range(2):
            transport.install(settings_of(RELAY_ASYNC_MODE=mode))
        server = socketio.Server(async_mode=mode).eio
        assert type(server) is BoundedServer
        assert engineio.socket.Socket is kind
    websocket = sys.modules["eventlet.websocket"].RFC6455WebSocket
    assert websocket.__name__ == "BoundedWebSocket"
    assert websocket.__base__.__name__ == "RFC6455WebSocket"


@pytest.mark.usefixtures("unpatched")
def test_a_post_to_a_session_that_was_just_closed_is_refused(
    settings_of: Callable[..., Settings],
) -> None:
    transport.install(settings_of(RELAY_ASYNC_MODE="threading"))
    server = socketio.Server(async_mode="threading").eio
    session = engineio.socket.Socket(server, "sid")
    session.connected = session.closed = True
    server.sockets["sid"] = session
    status: list[str] = []
    environ = {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "EIO=4&transport=polling&sid=sid",
        "wsgi.input": io.BytesIO(),
    }
    server.handle_request(environ, lambda line, _: status.append(line))
    assert status == ["400 BAD REQUEST"]


class Engine:
    """Of a server, what `Pings` and `Rooms` ask for; it ends when it is to sleep the last time."""

    ping_interval = 25.0
    packet_class = socketio.packet.Packet

    def __init__(self, sleeps: int = 1) -> None:
        self.eio = self
        self.tasks: list[Callable[[], None]] = []
        self.slept: list[float] = []
        self._sleeps = sleeps
        self._ids = iter(range(1000))

    def start_background_task(self, task: Callable[[], None]) -> None:
        self.tasks.append(task)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == self._sleeps:
            raise KeyboardInterrupt

    def generate_id(self) -> str:
        return f"sid{next(self._ids)}"


class Pinged:
    def __init__(self, error: Exception | None = None) -> None:
        self.pings = 0
        self._error = error

    def ping(self) -> None:
        self.pings += 1
        if self._error:
            raise self._error


def test_one_task_pings_all_clients(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Each after its time; one that is broken holds up none."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    server = Engine()
    pings = limits.Pings(server)
    early = [Pinged(), Pinged(SocketIsClosedError()), Pinged(ValueError("broken")), Pinged()]
    for client in early:
        pings.add(client)  # type: ignore[arg-type]
    now[0] = 10.0
    late = Pinged()
    pings.add(late)  # type: ignore[arg-type]
    assert len(server.tasks) == 1
    now[0] = 26.0
    with pytest.raises(KeyboardInterrupt):
        server.tasks[0]()
    assert [client.pings for client in early] == [1, 1, 1, 1]
    assert late.pings == 0
    assert server.slept == [9.0]
    assert caplog.messages == ["A ping could not be sent."]


def test_a_client_leaves_only_its_own_rooms() -> None:
    """And what is left is what the library would leave."""

    class Watched(dict[Any, Any]):
        looked_at = 0

        def __contains__(self, key: object) -> bool:
            type(self).looked_at += 1
            return super().__contains__(key)

        def copy(self) -> Any:
            raise AssertionError("all rooms are looked into")

    states = []
    manager: Any
    for manager in (socketio.Manager(), Rooms("live")):
        manager.set_server(Engine())
        sids = [manager.connect(f"eio{i}", "/") for i in range(20)]
        for sid in sids:
            manager.enter_room(sid, "/", "live")
        if isinstance(manager, Rooms):
            manager.rooms["/"] = Watched(manager.rooms["/"])
        manager.pre_disconnect(sids[3], "/")
        manager.disconnect(sids[3], "/")
        manager.disconnect(sids[4], "/")
        manager.disconnect("unknown", "/")
        state = {room: dict(members) for room, members in manager.rooms["/"].items()}
        states.append((state, manager.pending_disconnect, manager.pending_connect))
        for sid in sids:
            if isinstance(manager, Rooms):
                manager.disconnect(sid, "/")
    assert states[0] == states[1]
    assert manager.rooms == {}
