"""Which host names the servers answer to: anybody may make their own name lead to this machine."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

import app1.app
import app1.parts
import app2.app
from common.hosts import Origins, answers_to
from common.settings import Settings

SettingsOf = Callable[..., Settings]
OURS = [
    "localhost",
    "localhost:5001",
    "LocalHost.:5001",
    "me.localhost",
    socket.gethostname(),
    f"{socket.gethostname().split('.')[0].upper()}.local:5001",
    "127.0.0.1",
    "127.0.0.2:5001",
    "0.0.0.0:5001",
    "192.168.7.9:80",  # not known here behind a router or in a container, and nobody's to rebind
    "[::1]:5001",
    "[2001:DB8::7]",
    "Photos.Example:8443",
    "wall.example",
    "relay.example:1",
    "app1-host",
]
NOT_OURS = [
    "evil.example",
    "evil.example:5001",
    "localhost.evil.example",
    "127.0.0.1.evil.example",
    f"{socket.gethostname().split('.')[0]}.evil.example",
    "evil.example:5001@localhost",
    "localhost:5001@evil.example",
    "localhost, evil.example",
    "[::1",
    "[evil.example]",
    "1.2.3",
    "999.1.1.1",
    "localhost:port",
    "<b>",
    "a b",
    ".",
]


@pytest.fixture
def settings(settings_of: SettingsOf) -> Settings:
    return settings_of(
        RELAY_ORIGINS="https://photos.example:8443,http://wall.example",
        RELAY_PUBLIC_URL="https://relay.example",
        APP1_HOST="app1-host",
    )


@pytest.mark.parametrize("host", OURS)
def test_names_of_this_machine_and_addresses_are_answered(settings: Settings, host: str) -> None:
    assert answers_to(settings, host)


@pytest.mark.parametrize("host", NOT_OURS)
def test_other_names_are_not(settings: Settings, host: str) -> None:
    assert not answers_to(settings, host)


def test_everybody_may_watch_does_not_mean_any_name(settings_of: SettingsOf) -> None:
    settings = settings_of(RELAY_ORIGINS="*")
    assert answers_to(settings, "localhost:5001")
    assert not answers_to(settings, "evil.example")


def test_public_addresses_are_ours(settings_of: SettingsOf) -> None:
    settings = settings_of(
        APP1_PUBLIC_URL="https://photos.example/captions",
        APP2_PUBLIC_URL="https://wall.example:8443",
        RELAY_PUBLIC_URL="https://photos.example/captions/relay",
        RELAY_ORIGINS="https://another.example",
    )
    origins = Origins(settings)
    assert answers_to(settings, "photos.example")
    assert answers_to(settings, "wall.example:8443")
    assert origins.allows("https://photos.example")
    assert origins.allows("https://wall.example:8443")
    assert not origins.allows("https://wall.example")
    assert not origins.allows("http://photos.example")


@pytest.fixture(params=["app1", "app2"])
def client(request: pytest.FixtureRequest, settings: Settings) -> Iterator[FlaskClient]:
    if request.param == "app2":
        yield app2.app.create_app(settings).test_client()
        return
    parts = app1.parts.App1(settings)
    yield app1.app.create_app(parts).test_client()
    parts.stop()


def test_pages_and_health_under_our_names_and_addresses(client: FlaskClient) -> None:
    for host in ("localhost:5001", "192.168.7.9:5001", "[::1]", "photos.example"):
        for path in ("/", "/healthz"):
            assert client.get(path, headers={"Host": host}).status_code == 200
    health = client.get("/healthz", environ_overrides={"HTTP_HOST": ""})
    assert health.status_code == 200, "HTTP/1.0 knows no Host"


def test_nothing_under_other_names(client: FlaskClient) -> None:
    """The browser would let a page of that name read the answer, and takes it for our page."""
    for method, path in (
        ("GET", "/"),
        ("GET", "/healthz"),
        ("GET", "/static/nothing"),
        ("GET", "/shared/base.css"),
        ("POST", "/"),
    ):
        origin = {"Host": "evil.example:5001", "Origin": "http://evil.example:5001"}
        answer = client.open(path, method=method, headers=origin)
        assert answer.status_code == 421, path
        assert "_PUBLIC_URL" in answer.text
        assert answer.headers["Content-Security-Policy"]
