"""The viewer page in real headless Chromium, with a real relay."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import socketio
from PIL import Image
from selenium.webdriver.common.keys import Keys

from tests.kit import ROOT
from tests.kit.chromium import Chromium
from tests.kit.clients import WireClient

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='taken'>"
EVERYWHERE = "0.0.0.0"  # noqa: S104  # for a second device, or another name of this one
NO_APP1 = "guests.svg"  # the wall asks app1 for it, which does not run here


@dataclass
class Viewer:
    """A relay and app2 as a user starts them, and a publisher."""

    relay_port: int
    app2_port: int
    start_relay: Callable[..., Any]
    relay: Any = None
    publisher: socketio.Client = field(default_factory=socketio.Client)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.app2_port}/"

    def restart_relay(self, **environment: object) -> None:
        self.publisher.disconnect()
        self.relay.kill()
        self.relay = self.start_relay(**environment)
        self.connect()

    def connect(self) -> None:
        self.publisher.connect(
            f"http://127.0.0.1:{self.relay_port}",
            auth={"token": "secret", "viewer": False},
            wait_timeout=10,
        )

    def publish(self, caption: str, **fields: object) -> int:
        answer = self.publisher.call("predict", {"caption": caption, **fields}, timeout=10)
        assert answer["ok"], answer
        return int(answer["seq"])


@pytest.fixture
def viewer(start_server: Callable[..., Any], free_port: Callable[[], int]) -> Iterator[Viewer]:
    relay_port, app2_port = free_port(), free_port()
    environment = {"RELAY_PORT": relay_port, "APP2_PORT": app2_port, "RELAY_TOKEN": "secret"}
    environment |= {"RELAY_HOST": EVERYWHERE, "APP2_HOST": EVERYWHERE}
    viewer = Viewer(relay_port, app2_port, partial(start_server, "relay", **environment))
    viewer.relay = viewer.start_relay()
    start_server("app2", **environment)
    viewer.connect()
    yield viewer
    viewer.publisher.disconnect()


@pytest.fixture
def screen(browser: Chromium, viewer: Viewer) -> Chromium:
    browser.open(viewer.url())
    browser.wait_texts("#connection", ["Live"])
    return browser


def thumbnail(colour: tuple[int, int, int] = (200, 30, 30)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(file, "jpeg")
    return file.getvalue()


def wait_for_cards(screen: Chromium, count: int) -> None:
    screen.wait(lambda: len(screen.all(".card")) == count, f"no {count} cards")


CAPTIONS = ".card[data-state=done] .caption"


def test_an_empty_page_says_what_to_do(screen: Chromium) -> None:
    assert screen.one("#empty .headline").text == "Nothing on the wall yet."
    assert screen.one("#empty a").get_attribute("href") == "http://127.0.0.1:5001/"
    assert screen.complaints(NO_APP1) == []


def test_a_photo_appears_when_work_begins_and_its_caption_when_it_is_ready(
    screen: Chromium, viewer: Viewer
) -> None:
    viewer.publish("an older one")
    picture = {"id": "a", "image_path": "dog.jpg", "thumbnail": thumbnail()}
    viewer.publisher.emit("captioning", picture)
    screen.wait_texts(".card .caption", ["Looking at it…", "an older one"])
    screen.wait(
        lambda: screen.run("return document.querySelector('.card img').naturalWidth") == 64,
        "the photo is not shown",
    )
    candidates = [
        {"caption": "a dog", "probability": 0.5},
        {"caption": "a cat", "probability": 0.2},
    ]
    viewer.publish(
        "a dog",
        **picture,
        candidates=candidates,
        confidence=0.31,
        confident=False,
        created_at="2026-01-31T12:00:00Z",
    )
    screen.wait_texts(CAPTIONS, ["a dog", "an older one"])
    newest = ".card:first-child "
    assert screen.texts(newest + ".name") == ["dog.jpg"]
    assert screen.texts(newest + ".odds") == ["About 3 in 10 captions like this are right"]
    assert screen.texts(newest + ".candidates li") == ["a cat"]
    assert screen.texts(newest + ".verdict") == ["Not sure:"]
    parts = "return [...arguments[0].querySelectorAll('.verdict, .caption')].map(e => e.className)"
    assert screen.run(parts, screen.all(".card")[0]) == ["verdict", "caption"], "heard first"
    assert screen.one(newest + "time").get_attribute("datetime") == "2026-01-31T12:00:00Z"
    screen.wait_texts("#announcer", ["Not sure: a dog."])
    big, small = (piece.size["width"] for piece in screen.all(".card"))
    assert big > 2 * small
    assert screen.complaints(NO_APP1) == []


def test_on_the_viewer_page_too_what_is_no_photo_is_said_first(
    screen: Chromium, viewer: Viewer
) -> None:
    viewer.publish("a clock", confidence=0, confident=False, photo=False)
    screen.wait_texts(CAPTIONS, ["a clock"])
    verdict = "Not a photo that I can describe. A guess:"
    assert screen.texts(".card .verdict") == [verdict]
    assert screen.texts("#announcer") == [f"{verdict} a clock."]


def test_a_photo_without_a_caption_is_told_and_makes_way(screen: Chromium, viewer: Viewer) -> None:
    viewer.publisher.emit("captioning", {"id": "a", "image_path": "dog.jpg"})
    viewer.publisher.emit("captioning_failed", {"id": "a", "error": "The image is broken."})
    screen.wait_texts(".card[data-state=failed] .caption", ["The image is broken."])
    viewer.publish("a cat")
    screen.wait_texts(".card .caption", ["a cat", "The image is broken."])


def test_forgotten_photos_leave_every_screen(screen: Chromium, viewer: Viewer) -> None:
    viewer.publish("a dog", id="a", thumbnail=thumbnail())
    viewer.publish("a cat", id="b", thumbnail=thumbnail())
    screen.wait_texts(CAPTIONS, ["a cat", "a dog"])
    viewer.publisher.call("forget", {"id": "b"})
    screen.wait_texts(CAPTIONS, ["a dog"])


@contextmanager
def offline(screen: Chromium) -> Iterator[None]:
    """The page has no network meanwhile."""
    screen.command("Network.enable")
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    screen.command("Network.emulateNetworkConditions", offline=True, **conditions)
    try:
        yield
    finally:
        screen.command("Network.emulateNetworkConditions", offline=False, **conditions)


def test_a_viewer_catches_up_after_a_break(screen: Chromium, viewer: Viewer) -> None:
    viewer.publish("one", id="1")
    viewer.publish("two", id="2")
    screen.wait_texts(CAPTIONS, ["two", "one"])
    viewer.publisher.disconnect()  # first: else it would try to come back by itself, too
    viewer.relay.kill()
    screen.wait_texts("#connection", ["The relay cannot be reached. Trying again…"])
    # the page is kept offline while something is published and something is deleted
    with offline(screen):
        viewer.start_relay()
        viewer.connect()
        viewer.publish("three", id="3")
        viewer.publisher.call("forget", {"id": "1"})
    screen.wait_texts("#connection", ["Live"], seconds=30)
    screen.wait_texts(CAPTIONS, ["three", "two"])
    viewer.publish("four")
    screen.wait_texts(CAPTIONS, ["four", "three", "two"])


def test_search_and_show_more_reach_the_whole_history(browser: Chromium, viewer: Viewer) -> None:
    for number in range(230):  # more than the relay sends by itself
        viewer.publish(f"a dog number {number}" if number else "the very first cat")
    screen = browser
    screen.open(viewer.url())
    wait_for_cards(screen, 48)
    words = screen.one("#words")
    words.send_keys("dog 229")
    screen.wait_texts(CAPTIONS, ["a dog number 229"])
    assert screen.texts("#found") == ["1 caption with “dog 229”"]
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys("first cat")
    screen.wait_texts(CAPTIONS, ["the very first cat"])
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys("zebra")
    screen.wait_texts("#found", ["Nothing with “zebra” so far"])
    words.send_keys(Keys.CONTROL, "a")
    words.send_keys(Keys.BACKSPACE)
    wait_for_cards(screen, 48)

    for count in (96, 144, 192, 230):
        screen.run("document.getElementById('more').click()")
        wait_for_cards(screen, count)
    assert screen.texts(CAPTIONS)[-1] == "the very first cat"
    assert not screen.all("#more")[0].is_displayed()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.2"])
def test_the_page_works_under_other_names_of_the_machine(
    browser: Chromium, viewer: Viewer, host: str
) -> None:
    viewer.publish("a dog")
    browser.open(viewer.url(host))
    browser.wait_texts("#connection", ["Live"])
    browser.wait_texts(CAPTIONS, ["a dog"])
    assert browser.complaints(NO_APP1) == []


def test_text_from_publishers_is_only_text(screen: Chromium, viewer: Viewer) -> None:
    viewer.publish(HOSTILE, image_path=f"/photos/{HOSTILE}".replace("</", "<"), thumbnail=None)
    screen.wait_texts(CAPTIONS, [HOSTILE])
    assert screen.driver.title.startswith("The wall")


def test_new_captions_are_read_aloud_on_demand(
    open_browser: Callable[..., Chromium], viewer: Viewer
) -> None:
    screen = open_browser()
    screen.command(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""window.spoken = [];
            Object.defineProperty(window, "speechSynthesis", {value: {
              speak(said) { spoken.push(said.text); },
              cancel() {},
            }});""",
    )
    screen.open(viewer.url())
    screen.wait_texts("#connection", ["Live"])
    viewer.publish("not read")
    screen.wait_texts(CAPTIONS, ["not read"])
    screen.one("#aloud").click()
    viewer.publish("read")
    screen.wait(
        lambda: screen.run("return spoken") == ["New captions are read aloud.", "read."], "not read"
    )
    screen.open(viewer.url())  # the choice is remembered, and the history is not news
    screen.wait_texts(CAPTIONS, ["read", "not read"])
    assert screen.one("#aloud").get_attribute("aria-pressed") == "true"
    assert screen.run("return spoken") == []


@pytest.mark.parametrize("width", [360, 3840])
def test_viewer_page_fits_the_screen(screen: Chromium, viewer: Viewer, width: int) -> None:
    screen.set_width(width, 740)
    assert not screen.overflows()
    viewer.publish("a dog " + "x" * 300, image_path="y" * 300 + ".jpg", thumbnail=thumbnail())
    wait_for_cards(screen, 1)
    assert not screen.overflows()


# A page that is left alone


def test_a_gap_in_the_history_is_said(screen: Chromium, viewer: Viewer) -> None:
    viewer.publish("one")
    screen.wait_texts(CAPTIONS, ["one"])
    viewer.publisher.disconnect()
    viewer.relay.kill()
    screen.wait_texts("#connection", ["The relay cannot be reached. Trying again…"])
    with offline(screen):
        viewer.start_relay(RELAY_KEEP=2)
        viewer.connect()
        for number in range(2, 7):
            viewer.publish(f"number {number}")
    gone = "3 older captions are gone: they left the history while this page was away."
    screen.wait_texts(".card .caption", ["number 6", "number 5", gone, "one"], seconds=30)
    assert screen.texts("[data-state=gap] .caption") == [gone]


def test_a_page_that_is_shown_again_checks_its_connection(screen: Chromium, viewer: Viewer) -> None:
    """As after sleep: the connection seems to be there, and is not."""
    screen.run(
        # what the page sends from now on goes nowhere
        "window.sends = []; let dead = null; const send = WebSocket.prototype.send;"
        "WebSocket.prototype.send = function (data) {"
        "  sends.push(String(data)); dead ??= this; if (this !== dead) send.call(this, data); };"
    )
    screen.run("dispatchEvent(new Event('online'))")
    screen.wait(lambda: any("hello" in text for text in screen.run("return sends")))
    # nothing answers, so it makes another connection, and what comes arrives there
    screen.wait(
        lambda: any(text.startswith("40") for text in screen.run("return sends")), seconds=20
    )
    screen.wait_texts("#connection", ["Live"])
    viewer.publish("a dog")
    screen.wait_texts(CAPTIONS, ["a dog"])


@pytest.mark.parametrize(
    "returned",
    [
        "document.dispatchEvent(new Event('visibilitychange'))",
        "dispatchEvent(new PageTransitionEvent('pageshow', {persisted: true}))",
        "dispatchEvent(new Event('online'))",
    ],
)
def test_a_page_comes_back_at_once_when_it_is_shown(
    screen: Chromium, viewer: Viewer, returned: str
) -> None:
    """It does not wait until its next try, which may be seconds away."""
    viewer.publisher.disconnect()
    viewer.relay.kill()
    screen.wait_texts("#connection", ["The relay cannot be reached. Trying again…"])
    # without a timer there is no next try
    screen.run("window.setTimeout = new Proxy(setTimeout, {apply: (real, self, [act, ms]) =>"
               " ms > 400 ? 0 : real(act, ms)})")  # fmt: skip
    screen.wait(lambda: screen.run("window.tries = (window.tries ?? 0) + 1; return tries > 50"))
    viewer.start_relay()
    viewer.connect()
    screen.run(returned)
    screen.wait_texts("#connection", ["Live"])


@pytest.fixture
def timed(browser: Chromium) -> Iterator[Chromium]:
    """A browser whose pages keep the times of their timers, in milliseconds.

    `delays` has all of them, `pending` those that have neither run nor been cancelled. Chance is
    a quarter from the beginning.
    """
    spy = browser.command(
        "Page.addScriptToEvaluateOnNewDocument",
        source="""
            Math.random = () => 0.25;
            window.delays = [];
            window.pending = new Map();
            const set = window.setTimeout, clear = window.clearTimeout;
            window.setTimeout = (act, ms = 0, ...more) => {
              delays.push(ms);
              const timer = set(() => { pending.delete(timer); act(...more); }, ms);
              pending.set(timer, ms);
              return timer;
            };
            window.clearTimeout = (timer) => { pending.delete(timer); clear(timer); };
        """,
    )
    yield browser
    browser.command("Page.removeScriptToEvaluateOnNewDocument", **spy)


FULL = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from SocketIO_server import relay, server
relay.BACK_WHEN_FULL = (3600, 3600)
server.raise_connection_limit = lambda: 8
sys.exit(server.main())
"""


def test_a_page_that_finds_no_room_comes_back_when_the_relay_says(
    timed: Chromium, viewer: Viewer, tmp_path: Path
) -> None:
    script = tmp_path / "full_relay.py"
    script.write_text(FULL)
    viewer.restart_relay(script=script)
    others = [WireClient(viewer.relay) for _ in range(7)]  # and the publisher
    timed.open(viewer.url())
    timed.wait(lambda: "as many viewers as it can take" in timed.texts("#connection")[0])
    waits = "return [...pending.values()]"
    timed.wait(lambda: 1000 * 3600 * (1 + 0.25 / 2) in timed.run(waits))
    # The client library's own pauses are over: it would come back after one of them.
    assert not {*timed.run(waits)} & {875, 1750, 3500, 5000}
    for other in others:
        other.close()
    timed.run("dispatchEvent(new Event('online'))")
    timed.wait_texts("#connection", ["Live"])


@pytest.mark.parametrize(("chance", "pause"), [(0.25, 875), (0.9, 1450)])
def test_pages_do_not_come_back_all_at_once(
    timed: Chromium, viewer: Viewer, chance: float, pause: int
) -> None:
    """When the relay ends, chance moves the second that each waits."""
    timed.open(viewer.url())
    timed.wait_texts("#connection", ["Live"])
    timed.run(f"Math.random = () => {chance}")
    viewer.publisher.disconnect()
    viewer.relay.kill()
    timed.wait(lambda: pause in timed.run("return delays"))


def test_after_midnight_captions_show_their_day(screen: Chromium, viewer: Viewer) -> None:
    created = datetime.now(timezone.utc).isoformat(timespec="seconds")
    viewer.publish("a dog", created_at=created)
    screen.wait_texts(CAPTIONS, ["a dog"])
    (before,) = screen.texts(".card time")
    screen.run("const real = Date.now; Date.now = () => real() + 864e5")
    screen.run("dispatchEvent(new Event('online'))")
    screen.wait(lambda: screen.texts(".card time")[0] != before, "no day")
    assert screen.texts(".card time")[0].endswith(before)


STALE = """
const {fetch: real} = window;
window.fetch = async (...all) => {
  const answer = await real(...all);
  if (all[0] !== location.href) return answer;
  window.looked = (window.looked ?? 0) + 1;
  return new Response((await answer.text()).replace(/data-version="[^"]*"/, arguments[0]));
};
"""


def test_an_old_page_reloads_itself_when_nobody_uses_it(browser: Chromium, viewer: Viewer) -> None:
    browser.open(viewer.url())
    browser.wait_texts("#connection", ["Live"])
    version = browser.run("return document.body.dataset.version")
    browser.run("document.body.dataset.version = 'old'; window.isOld = true")
    browser.one("#words").send_keys("dog")  # somebody searches
    browser.run("dispatchEvent(new Event('online'))")
    looks = "return performance.getEntriesByType('resource').length"
    before = browser.run(looks)
    browser.wait(lambda: browser.run(looks) > before)  # it asks for the QR code all the time
    assert browser.run("return window.isOld")
    # an hour later, and nothing is typed any more
    browser.run(
        "document.getElementById('words').value = '';"
        "const real = performance.now.bind(performance); performance.now = () => real() + 3.6e6"
    )
    browser.wait(lambda: browser.run("return window.isOld") is None, "not reloaded", seconds=30)
    browser.wait_texts("#connection", ["Live"])
    assert browser.run("return document.body.dataset.version") == version


def test_an_old_page_waits_until_the_new_one_is_served(browser: Chromium, viewer: Viewer) -> None:
    """The relay may be newer than app2; a page that reloaded then would do so without end."""
    browser.open(viewer.url("127.0.0.1") + "?kiosk=1")
    browser.wait_texts("#connection", ["Live"])
    browser.run("document.body.dataset.version = 'old'; window.isOld = true")
    browser.run(STALE, 'data-version="old"')
    browser.run("dispatchEvent(new Event('online'))")
    browser.wait(lambda: (browser.run("return window.looked") or 0) >= 2, seconds=30)
    assert browser.run("return window.isOld")


def test_a_screen_reader_hears_each_caption_once_and_not_all_at_once(
    screen: Chromium, viewer: Viewer
) -> None:
    screen.run(
        "window.said = []; const announcer = document.getElementById('announcer');"
        "new MutationObserver(() => said.push(announcer.textContent))"
        ".observe(announcer, {childList: true, characterData: true, subtree: true})"
    )
    for number in range(20):
        viewer.publish(f"dog {number}")
    screen.wait(lambda: "dog 19." in (screen.run("return said") or [""])[-1])
    said = screen.run("return said")
    assert said[0] == "dog 0."
    assert said[-1] == f"{20 - len(said) + 1} new captions. The newest: dog 19."
    assert len(said) <= 3


# Displays


@pytest.fixture
def show(browser: Chromium, viewer: Viewer) -> Callable[..., Chromium]:
    """A page with what the address asks for; the relay has five captions, one without a photo."""
    for number in range(5):
        picture = {"thumbnail": thumbnail((50 * number, 90, 90))} if number != 2 else {}
        viewer.publish(f"photo {number}", id=f"id-{number}", **picture)

    def show_(asked: str, width: int = 1920, height: int = 1080) -> Chromium:
        browser.set_width(width, height)
        browser.open(f"{viewer.url()}?{asked}")
        browser.wait_texts("#connection", ["Live"])
        browser.wait(lambda: browser.all(".card"), "no card")
        return browser

    return show_


FILLS = """
const boxes = [...document.querySelectorAll(".card")].map((card) => card.getBoundingClientRect());
return boxes.every((b) => b.top >= 0 && b.left >= 0 && b.bottom <= innerHeight + 1
  && b.right <= innerWidth + 1)
  && document.documentElement.scrollHeight <= innerHeight;
"""


@pytest.mark.parametrize(("width", "height"), [(1920, 1080), (390, 844), (844, 390)])
@pytest.mark.parametrize(
    ("asked", "captions"),
    [
        ("show=newest", ["photo 4"]),
        ("show=grid", ["photo 4", "photo 3", "photo 2", "photo 1", "photo 0"]),
        ("show=grid&photos=2", ["photo 4", "photo 3"]),
        ("show=slides&seconds=3600", ["photo 4"]),
    ],
)
def test_a_display_fills_the_screen(
    show: Callable[..., Chromium], asked: str, captions: list[str], width: int, height: int
) -> None:
    screen = show(asked, width, height)
    screen.wait_texts(CAPTIONS, captions)
    screen.wait(lambda: screen.run(FILLS), "not all of it is on the screen")
    assert not screen.overflows()
    for control in ("#search", "#upload", "#full-screen", "#connection"):
        assert not screen.all(control)[0].is_displayed()


def test_a_slide_show_goes_round_and_takes_new_captions_first(
    show: Callable[..., Chromium], viewer: Viewer
) -> None:
    screen = show("show=slides&seconds=2&photos=3")
    for caption in ("photo 4", "photo 3", "photo 2", "photo 4"):
        screen.wait_texts(CAPTIONS, [caption])
    viewer.publish("a new one", thumbnail=thumbnail())
    screen.wait_texts(CAPTIONS, ["a new one"])
    viewer.publisher.call("forget", {"id": "id-3"})
    screen.wait_texts(CAPTIONS, ["photo 4"])
    screen.wait_texts(CAPTIONS, ["photo 2"])


def test_photos_fit_or_fill(show: Callable[..., Chromium]) -> None:
    how = "return getComputedStyle(document.querySelector('.photo img')).objectFit"
    assert show("show=newest").run(how) == "contain"
    assert show("show=newest&fit=cover").run(how) == "cover"


def test_words_without_a_picture_are_large(show: Callable[..., Chromium], viewer: Viewer) -> None:
    size = "return parseFloat(getComputedStyle(document.querySelector('.card .caption')).fontSize)"
    with_picture = show("show=newest").run(size)
    viewer.publish("no picture")
    screen = show("show=newest")
    screen.wait_texts(CAPTIONS, ["no picture"])
    assert screen.run(size) > 1.5 * with_picture


@pytest.mark.parametrize("asked", ["show=newest", "show=grid", "show=slides&seconds=3600"])
def test_a_display_says_what_could_not_be_described(
    show: Callable[..., Chromium], viewer: Viewer, asked: str
) -> None:
    viewer.publish("a clock", confidence=0, confident=False, photo=False, thumbnail=thumbnail())
    screen = show(asked)  # it has published five more
    screen.wait(lambda: screen.all(".card"))
    viewer.publish("a tower", confidence=0, confident=False, photo=False, thumbnail=thumbnail())
    screen.wait(lambda: screen.texts(".card:first-child .caption") == ["a tower"], "not shown")
    (verdict, *_) = screen.all(".card:first-child .verdict")
    screen.wait(verdict.is_displayed)
    assert verdict.text.startswith("Not a photo that I can describe")


def test_a_kiosk_has_no_controls_but_says_what_is_wrong(
    show: Callable[..., Chromium], viewer: Viewer
) -> None:
    screen = show("kiosk=1")
    screen.wait(lambda: len(screen.all(".card")) == 5)
    assert not screen.all("#upload")[0].is_displayed()
    viewer.publisher.disconnect()
    viewer.relay.kill()
    screen.wait(lambda: screen.all("#connection")[0].is_displayed(), "nothing is said")


def test_unknown_wishes_are_left_out(show: Callable[..., Chromium]) -> None:
    screen = show("show=party&seconds=-1&photos=many&fit=round")
    screen.wait(lambda: len(screen.all(".card")) == 5)
    assert screen.one("#search").is_displayed()


# Accessibility


def test_at_400_percent_there_is_one_column(show: Callable[..., Chromium]) -> None:
    """A window of 1280 pixels at 400 % is 320 wide (WCAG 2.2, success criterion 1.4.10)."""
    screen = show("", 320, 256)
    screen.wait(lambda: len(screen.all(".card")) == 5)
    assert not screen.overflows()
    lefts = "return [...document.querySelectorAll('.card')].map((c) => c.getBoundingClientRect().x)"
    assert len(set(screen.run(lefts))) == 1
