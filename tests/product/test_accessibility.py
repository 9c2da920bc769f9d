"""axe-core finds nothing on any page, in light, dark and forced colours."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import skimage.data

from tests.kit.chromium import Chromium
from tests.kit.product import Product

pytestmark = pytest.mark.browser

COFFEE = Path(skimage.data.__file__).with_name("coffee.png")
SCHEMES = ("light", "dark", "forced")


def barriers(browser: Chromium) -> dict[str, list[str]]:
    """By colours, what axe-core finds."""
    found = {}
    for scheme in SCHEMES:
        browser.set_colours(scheme)
        found[scheme] = browser.barriers()
    return {scheme: each for scheme, each in found.items() if each}


def test_axe_core_finds_what_is_wrong(browser: Chromium) -> None:
    browser.open("data:text/html,<title>x</title><img src=x>")
    assert any("image-alt" in each for each in browser.barriers())


def test_the_upload_page(browser: Chromium, run: Callable[..., Product]) -> None:
    product = run()
    browser.open(product.app1.url)
    browser.one("#choose")
    assert barriers(browser) == {}
    browser.driver.find_element("id", "image").send_keys(str(COFFEE))
    browser.wait(lambda: browser.all(".card[data-state=done]"), "no caption", seconds=30)
    assert barriers(browser) == {}
    browser.one(".card .change").click()
    assert barriers(browser) == {}


def test_live_mode(browser: Chromium, run: Callable[..., Product]) -> None:
    browser.open(run().app1.url)
    browser.one("#go-live").click()
    browser.one("#live .problem")  # there is no camera
    assert barriers(browser) == {}


def test_the_page_of_a_form_without_javascript(
    browser: Chromium, run: Callable[..., Product]
) -> None:
    product = run()
    browser.command("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(product.app1.url)
        browser.driver.find_element("id", "image").send_keys(str(COFFEE))
        browser.one("form button").click()
        browser.one(".card .caption")
    finally:
        browser.command("Emulation.setScriptExecutionDisabled", value=False)
    assert barriers(browser) == {}


def test_the_hosts_page(browser: Chromium, run: Callable[..., Product]) -> None:
    product = run(APP1_APPROVE="on")
    browser.open(f"{product.app1.url}/host")
    browser.one("#token")
    assert barriers(browser) == {}
    browser.open("about:blank")
    product.upload(COFFEE)
    shown = product.upload(COFFEE)[1]["id"]
    product.as_host("PATCH", f"/api/captions/{shown}", {"approved": True})
    product.as_host("PUT", "/api/guests", {"uploads": "guests", "on_wall": True})
    browser.open(f"{product.app1.url}/host#{product.token}")
    browser.wait(lambda: len(browser.all(".card")) == 2, "not two cards")
    browser.one("#qr-code")
    assert barriers(browser) == {}


@pytest.mark.parametrize(
    "asked", ["", "?kiosk=1", "?show=newest", "?show=grid", "?show=slides&seconds=3600"]
)
def test_the_wall(browser: Chromium, run: Callable[..., Product], asked: str) -> None:
    product = run()
    browser.open(product.app2.url + "/" + asked)
    browser.wait_texts("#connection", ["Live"])
    assert barriers(browser) == {}
    for _ in range(2):
        product.upload(COFFEE)
    product.as_host("PUT", "/api/guests", {"uploads": "guests", "on_wall": True})
    browser.open(product.app2.url + "/" + asked)
    browser.wait(lambda: browser.texts(".card[data-state=done] .caption"), "no caption")
    assert barriers(browser) == {}
