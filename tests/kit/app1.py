"""A relay that is a list, and what app1's answers have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from werkzeug.test import TestResponse

from app1.publisher import RelayError

Files = list[tuple[bytes, str]]
Send = Callable[..., TestResponse]


class Relay:
    """Takes everything that is published, or nothing while it is not `up`."""

    def __init__(self) -> None:
        self.up = True
        self.events: list[tuple[str, dict[str, Any]]] = []

    def connect(self, ended: Callable[[], None]) -> Relay:
        if not self.up:
            raise RelayError("connection refused")
        return self

    @property
    def alive(self) -> bool:
        return self.up

    def call(self, event: str, payload: dict[str, Any], timeout: float) -> dict[str, Any]:
        if not self.up:
            raise RelayError("the connection broke")
        self.events.append((event, payload))
        return {"ok": True, "seq": len(self.events)}

    def emit(self, event: str, payload: dict[str, Any]) -> None:
        self.events.append((event, payload))

    def close(self) -> None:
        pass

    def of(self, name: str) -> list[dict[str, Any]]:
        return [payload for event, payload in self.events if event == name]


def problem_of(response: TestResponse) -> dict[str, Any]:
    assert response.mimetype == "application/problem+json"
    body = json.loads(response.data)
    assert set(body) == {"type", "title", "status", "detail"}
    assert body["status"] == response.status_code
    assert re.fullmatch(r"[A-Z\"'0-9].*\.", body["detail"]), "one sentence"
    assert "Traceback" not in response.text
    return dict(body)
