"""Live mode in Chromium with a file as its camera, the real servers, and a viewer page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import skimage.data

from tests.kit.camera_file import write_y4m
from tests.kit.chromium import Chromium
from tests.kit.servers import Server, free_ports

pytestmark = pytest.mark.browser

PHOTOS = [Path(skimage.data.__file__).with_name(f"{name}.png") for name in ("coffee", "chelsea")]


@pytest.fixture
def run(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., dict[str, Server]]]:
    started: dict[str, Server] = {}

    def begin(**environment: object) -> dict[str, Server]:
        ports = dict(zip(("RELAY_PORT", "APP1_PORT", "APP2_PORT"), free_ports(3), strict=True))
        settings = {"CAPTIONER_STATE": tmp_path / "state", "CAPTIONER_MODEL": tiny_model, **ports}
        for name in ("relay", "app1", "app2"):
            started[name] = Server(name, {**settings, **environment})
        for server in started.values():
            server.wait_ready(90)
        return started

    yield begin
    for server in started.values():
        server.kill()


def camera_is_on(page: Chromium) -> bool:
    return bool(
        page.run(
            "const stream = document.querySelector('#live video').srcObject;"
            "return stream !== null && stream.getTracks().some((t) => t.readyState === 'live')"
        )
    )


def captions(page: Chromium) -> list[str]:
    return [text for text in page.texts("#live .live-caption") if not text.startswith("Starting")]


def test_what_the_camera_sees_is_captioned_for_this_page_alone(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium], tmp_path: Path
) -> None:
    servers = run()
    page, wall = open_browser(*write_y4m(tmp_path / "camera.y4m", PHOTOS)), open_browser()
    wall.open(servers["app2"].url)
    wall.wait_texts("#connection", ["Live"])
    page.open(servers["app1"].url)
    page.one("#go-live").click()
    page.wait(lambda: any(captions(page)), "no caption")
    assert page.one("#live .mark").is_displayed()
    assert "Only you" in page.texts("#live .audience")[0]
    # the scene changes, and so do the words
    seen: set[str] = set()

    def has_changed() -> bool:
        seen.update(filter(None, captions(page)))
        return len(seen) > 1

    page.wait(has_changed, "the same caption for two scenes", seconds=30)
    assert servers["relay"].get("/api/captions")[2]["captions"] == []
    assert page.texts("#cards .card") == []
    assert wall.texts("#cards .card") == []

    page.one("#live .on-wall").click()
    assert "Everyone" in page.texts("#live .audience")[0]
    wall.wait(lambda: wall.texts("#cards .card[data-state=done] .caption"), seconds=30)
    assert set(wall.texts("#cards .card .caption")) <= seen
    assert wall.texts("#cards .name")[0] == "Live"
    page.one("#live .on-wall").click()
    page.wait(lambda: page.texts("#earlier .text"))

    def is_taken_back() -> bool:
        for button in page.all("#earlier button:enabled"):
            button.click()
        return page.texts("#earlier .text") == wall.texts("#cards .card") == []

    page.wait(is_taken_back)

    page.one("#live .stop").click()
    assert not camera_is_on(page)
    assert not page.all("#live")[0].is_displayed()
    assert page.complaints() == []


def test_the_camera_of_a_hidden_tab_is_off(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium], tmp_path: Path
) -> None:
    servers = run()
    page = open_browser(*write_y4m(tmp_path / "camera.y4m", PHOTOS))
    page.open(servers["app1"].url)
    page.one("#go-live").click()
    page.wait(lambda: any(captions(page)), "no caption")
    assert camera_is_on(page)
    # headless Chromium takes every tab for visible, so the page is told what a real one would be
    page.run(
        "Object.defineProperty(document, 'hidden', {value: true, configurable: true});"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    assert not camera_is_on(page)
    page.run("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    assert not camera_is_on(page), "it does not start again by itself"
    page.one("#live .resume").click()
    page.wait(lambda: camera_is_on(page))


LOSE = """for (const track of document.querySelector(arguments[0]).srcObject.getTracks()) {
      track.stop();
      track.dispatchEvent(new Event("ended"));  // as when it is unplugged
    }"""


def test_a_camera_that_is_lost_is_said_and_can_be_started_again(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium], tmp_path: Path
) -> None:
    servers = run()
    page = open_browser(*write_y4m(tmp_path / "camera.y4m", PHOTOS))
    page.open(servers["app1"].url)
    page.one("#go-live").click()
    page.one("#live .on-wall").click()
    page.wait(lambda: any(captions(page)), "no caption")
    page.run(LOSE, "#live video")
    assert "lost" in page.one("#live .why").text
    assert "lost" in page.texts("#announcer")[0]
    assert not page.all("#live .mark")[0].is_displayed()
    assert page.run("return document.querySelector('#live video').srcObject") is None
    page.one("#live .resume").click()
    page.wait(lambda: camera_is_on(page))
    assert page.one("#live .mark").is_displayed()
    assert page.all("#live .why")[0].is_displayed() is False
    page.one("#live .stop").click()

    # the same in the dialog that takes one photo
    page.one("#use-camera").click()
    page.wait(page.one("#shutter").is_enabled)
    page.run(LOSE, "#camera video")
    assert "lost" in page.one("#camera .problem").text
    assert not page.one("#shutter").is_enabled()
    page.one("#close-camera").click()
    page.one("#use-camera").click()
    page.wait(page.one("#shutter").is_enabled)
    assert page.complaints() == []


def test_a_camera_that_is_not_allowed_is_said(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium]
) -> None:
    servers = run()
    page = open_browser(
        "--use-fake-device-for-media-stream",
        **{"profile.default_content_setting_values.media_stream_camera": 2},
    )
    page.open(servers["app1"].url)
    page.one("#go-live").click()
    page.wait(lambda: "site settings" in page.texts("#live .problem")[0])
    assert not page.one("#live").find_element("css selector", ".mark").is_displayed()
    page.one("#live .resume")  # for when it is allowed


def test_without_https_the_way_out_is_said(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium]
) -> None:
    servers = run(APP1_PUBLIC_URL="http://captions.test")
    page = open_browser("--host-resolver-rules=MAP captions.test 127.0.0.1")
    page.open(f"http://captions.test:{servers['app1'].port}/")
    page.one("#go-live").click()
    page.wait(lambda: "https://" in page.texts("#live .problem")[0])
    # a sentence names the button only where it is
    assert not page.run("return matchMedia('(pointer: coarse)').matches")
    assert "choose a photo" in page.texts("#live .problem")[0]
    assert "Use the camera" not in page.texts("#live .problem")[0]
    page.command("Emulation.setTouchEmulationEnabled", enabled=True)
    page.command("Emulation.setEmulatedMedia", features=[{"name": "pointer", "value": "coarse"}])
    page.driver.refresh()
    page.one("#go-live").click()
    page.wait(lambda: "Use the camera" in page.texts("#live .problem")[0])


def test_a_limit_makes_it_slower_in_words(
    run: Callable[..., dict[str, Server]], open_browser: Callable[..., Chromium], tmp_path: Path
) -> None:
    servers = run(CAPTIONER_RATE="2/minute")
    page = open_browser(*write_y4m(tmp_path / "camera.y4m", PHOTOS, seconds=1))
    page.open(servers["app1"].url)
    page.one("#go-live").click()
    page.wait(lambda: "Going on in" in page.texts("#live .problem")[0], seconds=30)
    assert any(captions(page)), "the last words stay"
