"""One browser for the tests of a file that need nothing special, and the three servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.settings import Settings
from common.state import host_token
from tests.kit.chromium import Chromium
from tests.kit.product import Product
from tests.kit.servers import Server, free_ports


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Chromium) -> Chromium:
    chromium.open("about:blank")  # the servers of the page of another test have gone
    chromium.command("Emulation.clearDeviceMetricsOverride")
    chromium.complaints()
    return chromium


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., Product]]:
    started: list[Server] = []

    def begin(**environment: object) -> Product:
        ports = dict(zip(("RELAY_PORT", "APP1_PORT", "APP2_PORT"), free_ports(3), strict=True))
        settings = {
            "CAPTIONER_STATE": tmp_path / "state",
            "CAPTIONER_MODEL": tiny_model,
            **ports,
            **environment,
        }
        relay, app1, app2 = (Server(name, settings) for name in ("relay", "app1", "app2"))
        started.extend((relay, app1, app2))
        for server in started:
            server.wait_ready(90)
        texts = {name: str(value) for name, value in settings.items()}
        return Product(relay, app1, app2, host_token(Settings.from_environment(texts)))

    yield begin
    for server in started:
        server.kill()
