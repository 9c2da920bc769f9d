"""The three servers, each with a port of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.kit.servers import Server


@dataclass
class Product:
    """The three servers, and the host's token."""

    relay: Server
    app1: Server
    app2: Server
    token: str

    def upload(self, photo: Path, **headers: str) -> tuple[int, dict[str, Any]]:
        status, _, body = self.app1.send(
            "POST",
            f"/api/captions?name={photo.name}",
            photo.read_bytes(),
            {"Content-Type": "image/png", **headers},
        )
        return status, json.loads(body)

    def as_host(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        status, _, answer = self.app1.send(method, path, json.dumps(body), headers)
        assert status < 300, answer
        return json.loads(answer) if answer else None
