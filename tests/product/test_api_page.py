"""docs/api.md names the addresses and events that the servers have, and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from SocketIO_server.publishing import Publishing
from tests.kit import ROOT

PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
METHODS = ("get", "post", "put", "patch", "delete")


def section(heading: str) -> str:
    """The text below a heading of the page."""
    return PAGE.split(f"## {heading}\n", 1)[1].split("\n## ")[0]


def calls(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of the methods that are called with a text first, and that text."""
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
                first = node.args[0]
                if isinstance(first, ast.Constant) and isinstance(first.value, str):
                    yield node.func.attr, first.value


@pytest.mark.parametrize(
    ("folder", "heading"),
    [("app1", "app1: HTTP"), ("SocketIO_server", "The relay: HTTP"), ("app2", "app2: HTTP")],
)
def test_every_address_is_on_the_page(folder: str, heading: str) -> None:
    addresses = {
        f"{name.upper()} {text.replace('<id_>', '<id>')}"
        for name, text in calls(ROOT / folder)
        if name in METHODS and text.startswith("/")
    }
    assert addresses, "no route was found"
    assert {*re.findall(r"^\| `([A-Z]+ /\S*)`", section(heading), re.MULTILINE)} == addresses


def test_every_event_is_on_the_page() -> None:
    socketio = MagicMock()
    Publishing(MagicMock(socketio=socketio)).register()
    received = {call.args[0] for call in socketio.on_event.call_args_list} - {"*"}
    sent = {"hello", "prediction", "history"}
    named = {*re.findall(r"^\| `(\w+)` \|", section("The relay: Socket.IO"), re.MULTILINE)}
    assert named == received | sent
