"""app1 without sockets: Flask's test client, the tiny model, and a relay that is a list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app1.app import create_app
from app1.parts import App1
from captioner import Captioner
from common.settings import Settings
from tests.kit.app1 import Relay, Send


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
def start(
    settings_of: Callable[..., Settings],
    tiny_model: Path,
    relay: Relay,
    wait_for: Callable[..., None],
) -> Iterator[Callable[..., App1]]:
    started: list[App1] = []

    def make(load: Callable[[], Sequence[Captioner]] | None = None, **environment: object) -> App1:
        settings = settings_of(CAPTIONER_MODEL=tiny_model, **environment)
        parts = App1(settings, load, connect=relay.connect)
        started.append(parts)
        parts.start()
        if load is None:
            wait_for(lambda: parts.workers.ready)
        if relay.up:
            wait_for(lambda: parts.publisher._caught_up)
        return parts

    yield make
    for parts in started:
        parts.stop()


@pytest.fixture
def parts(start: Callable[..., App1]) -> App1:
    return start()


@pytest.fixture
def client(parts: App1) -> FlaskClient:
    return create_app(parts).test_client()


@pytest.fixture
def send(multipart: Callable[..., tuple[bytes, str]]) -> Send:
    def post(
        client: FlaskClient,
        *files: tuple[bytes, str],
        to: str = "/api/captions",
        headers: dict[str, str] | None = None,
        **fields: object,
    ) -> TestResponse:
        body, kind = multipart(*files, **fields)
        return client.post(to, data=body, content_type=kind, headers=headers)

    return post
