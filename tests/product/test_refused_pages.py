"""A page that a server refuses says in the browser which setting to change, not only in the log.

The pages of other host names, and the viewer page that the relay refuses, are in
test_one_address.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.settings import Settings
from common.state import host_token
from tests.kit.chromium import Chromium
from tests.kit.servers import Server, free_ports


@pytest.mark.browser
def test_the_hosts_page_when_the_relay_refuses_it(
    start_server: Callable[..., Server],
    open_browser: Callable[..., Chromium],
    tiny_model: Path,
    settings_of: Callable[..., Settings],
) -> None:
    """As in a container whose port outside is not the one inside."""
    port, other = free_ports(2)
    relay = start_server("relay", APP1_PORT=other)
    settings = {"APP1_PORT": port, "RELAY_PORT": relay.port, "CAPTIONER_MODEL": tiny_model}
    app1 = start_server("app1", **settings)
    page = open_browser()
    page.open(f"{app1.url}/host#{host_token(settings_of())}")
    page.wait(lambda: "RELAY_ORIGINS" in page.texts("#message")[0], "no reason given", seconds=20)
    assert app1.url in page.texts("#message")[0]
    relay.stop()
    relay.environment["APP1_PORT"] = str(port)
    relay.start()
    relay.wait_ready()
    page.wait(lambda: page.texts("#message") == [""], "it still complains", seconds=20)


@pytest.mark.browser
def test_the_viewer_page_when_there_is_no_relay_at_the_address(
    start_server: Callable[..., Server], open_browser: Callable[..., Chromium]
) -> None:
    (nobody,) = free_ports(1)
    app2 = start_server("app2", RELAY_PORT=nobody)
    page = open_browser()
    page.open(app2.url)
    page.wait(lambda: "RELAY_PUBLIC_URL" in page.texts("#connection")[0], "no word", seconds=20)
    assert f"http://127.0.0.1:{nobody}/" in page.texts("#connection")[0]


def test_the_upload_page_behind_a_proxy_that_changes_host(
    start_server: Callable[..., Server], tiny_model: Path, picture: Callable[..., bytes]
) -> None:
    """nginx does without `proxy_set_header Host`; over plain http browsers say nothing more."""
    page = {"Origin": "http://captions.example", "Content-Type": "image/jpeg"}
    app1 = start_server("app1", CAPTIONER_MODEL=tiny_model)
    status, _, body = app1.send("POST", "/api/captions?publish=0", picture(), page)
    assert status == 403
    assert b"set APP1_PUBLIC_URL to its address" in body
    assert b"http://captions.example" in body
    again = start_server(
        "app1", CAPTIONER_MODEL=tiny_model, APP1_PUBLIC_URL="http://captions.example/captions"
    )
    assert again.send("POST", "/api/captions?publish=0", picture(), page)[0] == 200
    elsewhere = {**page, "Origin": "http://captions.example.org"}
    assert again.send("POST", "/api/captions?publish=0", picture(), elsewhere)[0] == 403
