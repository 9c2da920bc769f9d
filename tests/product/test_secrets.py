"""Secrets: how they are compared. That they are kept privately is in test_settings.py."""

from __future__ import annotations

import hmac
from collections.abc import Callable

import pytest
from flask_socketio import ConnectionRefusedError as Refused

from app1.guards import DeleteTokens
from app1.problems import ForbiddenError
from common.settings import Settings
from common.state import publisher_token
from SocketIO_server.connections import admit


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytes]]:
    """What `hmac.compare_digest` is asked, which takes as long wherever the difference is."""
    asked: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest

    def record(a: bytes, b: bytes) -> bool:
        asked.append((a, b))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", record)
    return asked


def test_the_publishers_token(
    settings_of: Callable[..., Settings], compared: list[tuple[bytes, bytes]]
) -> None:
    token = publisher_token(settings_of(RELAY_TOKEN="right"))
    for wrong in ("wrong", "righ", "rightx", "Right", "\ud800"):
        with pytest.raises(Refused):
            admit({"token": wrong}, token)
    assert admit({"token": "right"}, token).publisher
    assert compared[0] == (b"wrong", b"right")
    assert len(compared) == 6, "nothing but this comparison decides"


def test_delete_tokens(compared: list[tuple[bytes, bytes]]) -> None:
    tokens = DeleteTokens(b"secret")
    for wrong in ("", "wrong", tokens.make("other"), tokens.make("id")[:-1]):
        with pytest.raises(ForbiddenError):
            tokens.check("id", wrong)
    tokens.check("id", tokens.make("id"))
    assert len(compared) == 4, "the short one is no base64, and all others are compared"
