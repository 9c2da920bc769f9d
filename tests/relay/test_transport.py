"""The patches of libraries: in one place, for the installed versions, and applied once."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from importlib.metadata import version

import engineio.socket
import pytest
import socketio

from common.settings import Settings
from SocketIO_server import transport
from SocketIO_server.transport.direct_send import DirectSocket
from SocketIO_server.transport.limits import BoundedServer, BoundedSocket
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
