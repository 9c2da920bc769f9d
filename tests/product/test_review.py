"""The host's page, approval, corrections and guests: real servers, seen from the viewers' side."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from tests.kit.chromium import Chromium
from tests.kit.clients import WireClient
from tests.kit.product import Product

pytestmark = pytest.mark.browser

PHOTOS = [Path(skimage.data.__file__).with_name(f"{name}.png") for name in ("coffee", "chelsea")]


def press(browser: Chromium, *keys: str) -> None:
    ActionChains(browser.driver).send_keys(*keys).perform()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def test_nothing_is_on_a_wall_before_the_host_approves(
    run: Callable[..., Product],
    open_browser: Callable[..., Chromium],
    stack: contextlib.ExitStack,
) -> None:
    product = run(APP1_APPROVE="on")
    wall, host = open_browser(), open_browser()
    wall.open(product.app2.url)
    wall.wait_texts("#connection", ["Live"])
    program = stack.enter_context(contextlib.closing(WireClient(product.relay)))
    assert program.history()[0]["captions"] == []
    stream = stack.enter_context(
        urllib.request.urlopen(f"{product.relay.url}/api/captions/stream", timeout=30)
    )
    assert stream.readline().startswith(b"retry")

    first, second = (product.upload(photo)[1] for photo in PHOTOS)
    assert (first["published"], second["published"]) == ("waiting", "waiting")

    # the host's page, with the keyboard alone
    host.open(f"{product.app1.url}/host#{product.token}")
    host.wait_texts("#waiting .name", ["coffee.png", "chelsea.png"])
    assert "#" not in host.driver.current_url
    host.wait(
        lambda: host.run("return document.querySelector('#waiting img').naturalWidth") > 0,
        "the host sees no photo",
    )

    # nobody else sees anything of either, by any way
    word = first["caption"].split()[0]
    for path in ("/api/captions", f"/api/captions?q={word}", "/api/captions?after=0"):
        assert product.relay.get(path)[2]["captions"] == []
    late = stack.enter_context(contextlib.closing(WireClient(product.relay)))
    assert late.history()[0]["captions"] == []
    assert wall.texts("#cards .card") == []
    state = Path(product.relay.environment["CAPTIONER_STATE"])
    for file in (*state.glob("history.db*"), *state.glob("outbox.db*")):
        assert b"coffee" not in file.read_bytes()

    press(host, Keys.ARROW_DOWN)  # to the first
    press(host, "e")
    host.wait(lambda: host.run("return document.activeElement.tagName") == "TEXTAREA")
    press(host, "A cup of coffee.", Keys.ENTER)
    host.wait_texts("#waiting .caption", ["A cup of coffee.", second["caption"]])
    assert wall.texts("#cards .card") == []
    press(host, "a")
    wall.wait_texts("#cards .card .caption", ["A cup of coffee."])
    assert wall.texts("#cards .card .verdict") == ["Checked by a person:"]
    # the first event of all on the wire and in the stream
    event, payload = program.receive()
    assert (event, payload["id"], payload["approved"]) == ("prediction", first["id"], True)
    lines = iter(stream.readline, b"")
    data = next(line for line in lines if line.startswith(b"data:"))
    assert json.loads(data[5:])["id"] == first["id"]

    # the focus is on the next one; a rejection can be taken back, and then not any more
    host.wait_texts("#waiting .name", ["chelsea.png"])
    host.wait(lambda: host.run("return document.activeElement.className") == "card")
    press(host, "r")
    host.one(".undo").click()
    host.wait(lambda: not host.all("[data-state=leaving]"))
    press(host, "r")
    host.wait_texts("#waiting .name", [], seconds=20)
    assert wall.texts("#cards .card .caption") == ["A cup of coffee."]
    assert host.texts("#shown .caption") == ["A cup of coffee."]
    corrections = product.as_host("GET", "/api/corrections")
    assert corrections["captions"] == {f"{first['id']}.jpg": ["A cup of coffee."]}
    assert host.complaints() == []
    assert wall.complaints("guests.svg") == []


def names_on_the_wall(product: Product) -> list[str]:
    return [one["image_path"] for one in product.relay.get("/api/captions")[2]["captions"]]


def test_keys_act_on_no_card_about_which_the_host_has_decided(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run(APP1_APPROVE="on")
    names = ["coffee.png", "chelsea.png", "rocket.jpg"]
    for name in names:
        product.upload(PHOTOS[0].with_name(name))
    host = open_browser()
    host.open(f"{product.app1.url}/host#{product.token}")
    host.wait_texts("#waiting .name", names)
    focused = "return document.activeElement.closest('.card')?.querySelector('.name').textContent"
    leaving = "#waiting [data-state=leaving] .name"

    press(host, Keys.ARROW_DOWN, "r", "a")  # reject the first, approve the second
    host.wait_texts("#waiting .name", ["coffee.png", "rocket.jpg"])
    assert host.texts(leaving) == ["coffee.png"]
    assert host.run(focused) == "rocket.jpg"
    press(host, "u")
    host.wait_texts(leaving, [])
    assert host.run(focused) == "coffee.png"

    # on a card that is rejected, only Undo acts
    press(host, "r", Keys.ARROW_UP, "a", "e")
    assert host.run(focused) == "coffee.png"
    assert host.texts(leaving) == ["coffee.png"]
    card = host.all("#waiting .card")[0]
    for button in card.find_elements("css selector", ".approve, .change, .reject"):
        assert not button.is_enabled()
    assert not card.find_element("css selector", ".edit").is_displayed()
    host.wait_texts("#waiting .name", ["rocket.jpg"], seconds=20)
    host.wait(lambda: names_on_the_wall(product) == ["chelsea.png"])

    # while the answer to an approval is awaited, the next key is for the next card
    product.upload(PHOTOS[0])
    host.wait_texts("#waiting .name", ["rocket.jpg", "coffee.png"])
    host.run("document.querySelector('#waiting .card').focus()")
    press(host, "a", "r")
    host.wait_texts("#waiting .name", [], seconds=20)
    host.wait(lambda: sorted(names_on_the_wall(product)) == ["chelsea.png", "rocket.jpg"])
    assert host.complaints() == []


def test_a_rejection_holds_when_the_page_is_closed(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run(APP1_APPROVE="on")
    shown = product.upload(PHOTOS[0])[1]["id"]
    product.as_host("PATCH", f"/api/captions/{shown}", {"approved": True})
    product.upload(PHOTOS[1])
    host = open_browser()
    host.open(f"{product.app1.url}/host#{product.token}")
    host.wait_texts("#waiting .name", ["chelsea.png"])
    host.wait_texts("#shown .name", ["coffee.png"])
    # this page never sends a rejection because its time is over
    host.run("window.setTimeout = () => 0")
    for button in host.all(".reject"):
        button.click()
    assert len(host.all("[data-state=leaving]")) == 2
    page = host.driver.current_window_handle
    host.driver.switch_to.new_window("tab")
    other = host.driver.current_window_handle
    host.driver.switch_to.window(page)
    host.driver.close()
    host.driver.switch_to.window(other)
    host.wait(lambda: product.as_host("GET", "/api/review")["waiting"] == [])
    host.wait(lambda: names_on_the_wall(product) == [])


def test_a_correction_reaches_every_wall_at_once(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run()
    wall, page, host = open_browser(), open_browser(), open_browser()
    wall.open(product.app2.url)
    wall.wait_texts("#connection", ["Live"])
    page.open(product.app1.url)
    page.one("#choose")
    page.run("document.getElementById('image').parentElement.hidden = false")
    page.all("#image")[0].send_keys(str(PHOTOS[0]))
    page.one(".change").click()
    box = page.one("textarea")
    box.clear()
    box.send_keys("My coffee.", Keys.ESCAPE)
    assert not box.is_displayed()
    page.one(".change").click()
    box.clear()
    box.send_keys("My morning coffee.", Keys.ENTER)
    page.wait_texts(".card .caption", ["My morning coffee."])
    wall.wait_texts("#cards .card .caption", ["My morning coffee."])

    host.open(f"{product.app1.url}/host")
    host.one("#token").send_keys("wrong", Keys.ENTER)
    host.wait(lambda: "host's" in host.texts("#message")[0])
    host.one("#token").clear()
    host.one("#token").send_keys(product.token, Keys.ENTER)
    host.wait_texts("#shown .caption", ["My morning coffee."])
    press(host, Keys.ARROW_DOWN)
    press(host, "e")
    press(host, "A cup.", Keys.ENTER)
    wall.wait_texts("#cards .card .caption", ["A cup."])
    # a wall that was away gets it too
    late = open_browser()
    late.open(product.app2.url)
    late.wait_texts("#cards .card .caption", ["A cup."])

    kept = product.as_host("GET", "/api/corrections")
    assert [*kept["captions"].values()] == [["A cup."]]
    assert all(kept["images"].values())
    (name,) = kept["captions"]
    product.as_host("DELETE", f"/api/captions/{name.removesuffix('.jpg')}")
    wall.wait_texts("#cards .card .caption", [])
    host.wait_texts("#shown .caption", [])
    assert product.as_host("GET", "/api/corrections")["captions"] == {}


def test_guests_come_by_the_code_on_the_wall(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run()
    host, wall, guest = open_browser(), open_browser(), open_browser()
    host.open(f"{product.app1.url}/host#{product.token}")
    host.one("#guests [value=guests]").click()
    link = host.wait(lambda: host.texts("#guest-url")[0])
    host.one("#on-wall").click()
    wall.open(product.app2.url)
    wall.wait(
        lambda: (
            wall.run("return document.getElementById('guest-code').naturalWidth") > 0
            and wall.one("#guest-code").is_displayed()
        ),
        "no code on the wall",
        seconds=40,
    )
    guest.open(link)
    assert guest.texts("#viewer") == []
    guest.one("#choose")
    guest.run("document.getElementById('image').parentElement.hidden = false")
    guest.all("#image")[0].send_keys(str(PHOTOS[1]))
    wall.wait_texts("#cards .card .name", ["chelsea.png"], seconds=30)
    assert product.upload(PHOTOS[0])[0] == 403

    host.one("#guests [value=host]").click()
    started = time.monotonic()
    while product.as_host("GET", "/api/guests")["uploads"] != "host":
        assert time.monotonic() < started + 15
    guest.open(link)
    assert "has ended" in guest.texts("#message")[0]
    assert guest.complaints("410") == []


FRAME = """const [done] = arguments;
    const canvas = document.createElement("canvas");
    canvas.toBlob((blob) => import("/static/api.js")
      .then(({requestFrame}) => requestFrame(blob, false))
      .then(() => done("captioned"), (refusal) => done(refusal.message)));"""


def test_the_host_uploads_although_others_may_not(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run()
    host, other = open_browser(), open_browser()
    host.open(f"{product.app1.url}/host#{product.token}")
    host.one("#guests [value=host]").click()
    host.wait(lambda: product.as_host("GET", "/api/guests")["uploads"] == "host")
    host.one("a[href='/']").click()
    host.one("#choose")
    assert host.texts("#refusal") == []
    assert host.one("#formats").is_displayed()
    host.run("document.getElementById('image').parentElement.hidden = false")
    host.all("#image")[0].send_keys(str(PHOTOS[1]))
    host.wait_texts("#cards [data-state=done] .name", ["chelsea.png"], seconds=30)
    assert names_on_the_wall(product) == ["chelsea.png"]
    assert host.driver.execute_async_script(FRAME) == "captioned"

    # others read it before they choose a photo
    refusal = "The host takes no photos from others at the moment."
    other.open(product.app1.url)
    assert other.one("#refusal").text == refusal
    assert not other.all("#formats")[0].is_displayed()
    assert other.driver.execute_async_script(FRAME) == refusal
    link = product.as_host("PUT", "/api/guests", {"uploads": "guests"})["url"]
    other.open(product.app1.url)
    assert "link only" in other.one("#refusal").text
    other.open(link)
    assert other.one("#formats").is_displayed()
    assert other.texts("#refusal") == []

    # after "Leave", this tab is no host's any more
    host.open(f"{product.app1.url}/host")
    host.one("#leave").click()
    host.one("#token")
    host.open(product.app1.url)
    assert "link only" in host.one("#refusal").text
    assert host.complaints("401") == []


def test_the_hosts_link_is_opened_in_a_tab_that_has_the_page(
    run: Callable[..., Product], open_browser: Callable[..., Chromium]
) -> None:
    product = run()
    host = open_browser()
    for wrong in ("%", "%C3%A9", "wrong"):
        host.open(f"{product.app1.url}/host#{wrong}")
        host.wait_texts("#message", ["This is for the host; the token is not the host's."])
        assert host.one("#token")
        assert "#" not in host.driver.current_url
        host.open("about:blank")
    host.open(f"{product.app1.url}/host")
    host.one("#token")
    host.open(f"{product.app1.url}/host#{product.token}")
    host.one("#guests")
    assert "#" not in host.driver.current_url
    assert host.texts("#message") == [""]

    # a wrong one does no harm to the host who is inside, and a link to a part of the page is none
    host.open(f"{product.app1.url}/host#wrong")
    host.wait(lambda: "host's" in host.texts("#message")[0])
    host.open(f"{product.app1.url}/host#main")
    host.driver.refresh()
    host.one("#guests")
    assert host.texts("#message") == [""]
