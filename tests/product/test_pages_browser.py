"""Both pages in real headless Chromium.

The upload page has a scripted API, the viewer page the real relay; test_end_to_end.py goes from one
to the other.
"""

from __future__ import annotations

import base64
import html
import io
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import socketio
from flask import Flask, jsonify, render_template, request
from flask.typing import ResponseReturnValue
from jinja2 import Environment, FileSystemLoader
from PIL import Image
from selenium.webdriver.common.keys import Keys
from werkzeug.serving import make_server

from common.pages import share_pages
from common.settings import Settings
from tests.kit import ROOT
from tests.kit.chromium import Chromium

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=document.title='taken'>"
EVERYWHERE = "0.0.0.0"  # noqa: S104  # for a second device, or another name of this one
EXPECTED_404 = "favicon.ico"
NO_APP1 = "guests.svg"  # the wall asks app1 for it, which does not run here


def photo(folder: Path, name: str, size: tuple[int, int] = (96, 64), **save: Any) -> str:
    """A photo of random dots, which no encoder makes small; returns its path."""
    dots = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(dots).save(folder / name, **save)
    return str(folder / name)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for the tests that need nothing special of it: starting one takes seconds."""
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def browser(chromium: Chromium) -> Chromium:
    chromium.open("about:blank")  # the servers of the page of another test have gone
    chromium.command("Emulation.clearDeviceMetricsOverride")
    chromium.complaints()
    return chromium


# --- the upload page -----------------------------------------------------------------------------


@dataclass
class Api:
    """An app1 whose answers a test writes: the requests it got, and the answers it gives."""

    port: int
    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[tuple[int, str, str]] = field(
        default_factory=list
    )  # status, detail, Retry-After
    released: threading.Event = field(default_factory=threading.Event)  # answers wait for it
    published: str = "delivered"
    confident: bool = True
    confidence: float | None = 0.7166
    photo: bool = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def answer(self, name: str) -> dict[str, Any]:
        corner = [[0.0] * 4 for _ in range(4)]
        corner[0][0] = 1.0
        return {
            "id": f"id-{len(self.uploads)}",
            "caption": f"A {Path(name).stem}'s ball.",
            "candidates": [
                {"caption": f"A {Path(name).stem}'s ball.", "probability": 0.5},
                {"caption": "a dog", "probability": 0.25},
            ],
            "words": [
                {"word": "a", "probability": 0.95, "attention": [[1 / 16] * 4] * 4},
                {"word": Path(name).stem, "probability": 0.5, "attention": corner},
                {"word": "'s", "probability": 0.25, "attention": corner},
                {"word": "ball", "probability": 0.25, "attention": corner},
            ],
            "confidence": self.confidence,
            "confident": self.confident,
            "photo": self.photo,
            "published": self.published,
            "delete_token": "secret",
        }


@pytest.fixture
def api(settings_of: Callable[..., Settings]) -> Iterator[Api]:
    app = Flask(
        "app1",
        template_folder=ROOT / "app1" / "templates",
        static_folder=ROOT / "app1" / "static",
    )
    share_pages(app, settings_of(), "APP1", camera=True)

    @app.get("/", endpoint="page.show")
    @app.post("/delete", endpoint="page.delete")
    def page() -> str:
        return render_template(
            "index.html",
            max_upload_bytes=60_000,
            max_pixels=10_000,
            formats="JPEG or PNG",
            accept="image/*",
            viewer_url="http://127.0.0.1:9/",
            results=[],
        )

    @app.post("/api/captions")
    def captions() -> ResponseReturnValue:
        file = request.files["image"]
        scripted.uploads.append((file.filename or "", file.read()))
        assert scripted.released.wait(30)
        if scripted.refusals:
            status, detail, retry_after = scripted.refusals.pop(0)
            headers = {"Retry-After": retry_after} if retry_after else {}
            return jsonify(title="No", detail=detail, status=status), status, headers
        return jsonify(scripted.answer(file.filename or ""))

    @app.delete("/api/captions/<id_>")
    def delete(id_: str) -> ResponseReturnValue:
        scripted.deleted.append((id_, request.headers["Authorization"]))
        return "", 204

    server = make_server("127.0.0.1", 0, app, threaded=True)
    scripted = Api(server.server_port)
    scripted.released.set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield scripted
    scripted.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def page(browser: Chromium, api: Api) -> Chromium:
    browser.open(api.url)
    browser.one("#choose")
    return browser


def choose(page: Chromium, *paths: str) -> None:
    page.driver.find_element("id", "image").send_keys("\n".join(paths))


def test_photos_show_at_once_and_captions_follow_in_order(
    page: Chromium, api: Api, tmp_path: Path
) -> None:
    api.released.clear()
    choose(page, photo(tmp_path, "dog.png"), photo(tmp_path, "cat.png"))
    page.wait_texts(".name", ["dog.png", "cat.png"])
    shown = "return [...document.querySelectorAll('.frame img')].map(image => image.naturalWidth)"
    page.wait(lambda: page.run(shown) == [96, 96], "photos not shown before their captions")
    assert page.texts(".card[aria-busy=true] .caption") == ["", ""]
    page.wait(lambda: page.texts(".state")[1] == "Waiting its turn")
    assert len(api.uploads) == 1  # one after the other

    api.released.set()
    page.wait_texts(".caption", ["A dog's ball.", "A cat's ball."])
    assert [name for name, _ in api.uploads] == ["dog.png", "cat.png"]
    assert page.texts(".card:first-child .candidates li") == ["a dog  25%"]
    assert page.texts(".card:first-child .verdict") == ["Fairly sure:"]
    assert page.texts(".card:first-child .odds") == ["About 7 in 10 captions like this are right"]
    assert page.one(".card:first-child [data-published]").text == "On the wall."
    assert page.texts("#announcer") == ["cat.png: A cat's ball."]
    assert page.complaints(EXPECTED_404) == []


def test_each_word_shows_where_the_model_looked(page: Chromium, api: Api, tmp_path: Path) -> None:
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".word", ["A", "dog", "'s", "ball"])
    assert page.texts(".words") == ["A dog's ball."]
    labels = [word.get_attribute("aria-label") for word in page.all(".word")]
    assert labels == [
        "a, 95%, looked all over the picture",
        "dog, 50%, looked at the upper left",
        "'s, 25%, looked at the upper left",
        "ball, 25%, looked at the upper left",
    ]
    assert not page.all(".veil")[0].is_displayed()

    page.run("document.querySelector('.word').focus()")
    assert page.one(".veil")
    page.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    page.wait_texts(".word.shown", ["dog"])
    veil = """const canvas = document.querySelector(".veil");
        const at = (x, y) => canvas.getContext("2d").getImageData(x, y, 1, 1).data[3];
        return [at(2, 2), at(canvas.width - 3, canvas.height - 3)];"""
    corner, far = page.run(veil)
    assert corner < 30  # alpha: clear where it looked,
    assert far > 180  # dark where it did not

    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    page.wait(lambda: not page.all(".veil")[0].is_displayed())


def test_a_photo_is_dropped_or_pasted_anywhere(page: Chromium, tmp_path: Path) -> None:
    make_file = """const transfer = new DataTransfer();
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        transfer.items.add(new File([bytes], arguments[1], {type: "image/png"}));"""
    bytes_ = base64.b64encode(Path(photo(tmp_path, "dog.png")).read_bytes()).decode()
    page.run(
        make_file
        + """const fire = (name) => document.querySelector("h1").dispatchEvent(
            new DragEvent(name, {dataTransfer: transfer, bubbles: true, cancelable: true}));
        fire("dragenter"); fire("dragover"); fire("drop");""",
        bytes_,
        "dropped.png",
    )
    page.wait_texts(".caption", ["A dropped's ball."])
    assert not page.all("#drop-veil")[0].is_displayed()
    page.run(
        make_file
        + """document.body.dispatchEvent(
            new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true}));""",
        bytes_,
        "pasted.png",
    )
    page.wait_texts(".caption", ["A pasted's ball.", "A dropped's ball."])


def test_what_is_wrong_is_said_in_place(page: Chromium, api: Api, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    api.refusals = [(415, "Send a photo instead.", "")]
    choose(page, str(tmp_path / "notes.txt"))
    page.wait_texts(".card .problem", ["Send a photo instead."])
    assert page.one(".unseen")  # no preview, and a word about it
    assert not page.all(".card .again")[0].is_displayed()  # the same file gets the same answer
    assert page.texts("#announcer") == ["notes.txt: Send a photo instead."]


def test_a_busy_server_is_asked_again(page: Chromium, api: Api, tmp_path: Path) -> None:
    api.refusals = [(503, "The captioner is busy.", "1"), (429, "That was too fast.", "1")]
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".state", ["The captioner is busy. Trying again in 1 s."])
    page.wait_texts(".state", ["That was too fast. Trying again in 1 s."])
    page.wait_texts(".caption", ["A dog's ball."])
    assert len(api.uploads) == 3


def test_a_failure_can_be_tried_again(page: Chromium, api: Api, tmp_path: Path) -> None:
    api.refusals = [(500, "Something failed.", "")]
    choose(page, photo(tmp_path, "dog.png"))
    page.one(".again").click()
    page.wait_texts(".caption", ["A dog's ball."])
    assert page.texts(".card .problem") == ["Something failed."]
    assert not page.all(".card .problem")[0].is_displayed()


def test_a_photo_above_the_limit_is_made_smaller(page: Chromium, api: Api, tmp_path: Path) -> None:
    large = photo(tmp_path, "dog.png", size=(200, 150))
    assert Path(large).stat().st_size > 60_000
    choose(page, large)
    page.wait_texts(".name", ["dog.jpg, made smaller to fit the limit"])
    page.wait_texts(".caption", ["A dog's ball."])
    sent = Image.open(io.BytesIO(api.uploads[0][1]))
    assert sent.format == "JPEG"
    assert sent.width * sent.height <= 10_000
    assert sent.width / sent.height == pytest.approx(200 / 150, abs=0.02)


def test_exif_orientation_is_followed(page: Chromium, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    choose(page, photo(tmp_path, "dog.jpg", size=(90, 60), exif=exif))
    page.one(".frame img")
    size = (
        "const i = document.querySelector('.frame img'); return [i.naturalWidth, i.naturalHeight]"
    )
    page.wait(lambda: page.run(size) == [60, 90], "not turned")


def test_what_is_no_photo_is_said_first_and_the_guess_is_small(
    page: Chromium, api: Api, tmp_path: Path
) -> None:
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".card .verdict", ["Fairly sure:"])
    size = "return parseFloat(getComputedStyle(document.querySelector('.card .words')).fontSize)"
    usual = page.run(size)
    api.photo, api.confident, api.confidence = False, False, 0
    choose(page, photo(tmp_path, "chart.png"))
    verdict = "Not a photo that I can describe. A guess:"
    page.wait_texts(".card .verdict", [verdict, "Fairly sure:"])
    assert page.run(size) < usual / 1.5
    assert page.texts("#announcer") == [f"chart.png: {verdict} A chart's ball."]


def test_doubt_and_an_unreachable_relay_are_shown(page: Chromium, api: Api, tmp_path: Path) -> None:
    api.confident, api.confidence, api.published = False, 0, "queued"
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".card .caption", ["A dog's ball."])
    assert page.texts(".card .verdict") == ["Not sure:"]
    assert page.one(".frame img").get_attribute("alt") == "Not sure: A dog's ball."
    explanation = page.one(".confidence")
    assert explanation.text == "Unlike the training photos"
    explanation.find_element("tag name", "summary").click()
    assert "percentages are raw model scores" in explanation.text
    assert "will appear on the wall as soon as it can" in page.one("[data-published]").text
    assert page.texts("#announcer") == ["dog.png: Not sure: A dog's ball."]


def test_without_a_confidence_no_odds_are_shown(page: Chromium, api: Api, tmp_path: Path) -> None:
    api.confidence = None
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".card .verdict", ["Fairly sure:"])
    assert page.run("return document.querySelector('.card .confidence').checkVisibility()") is False


@pytest.mark.parametrize(
    ("name", "template", "expected"),
    [
        (
            "odds",
            "confidence.html",
            {
                0: "Unlike the training photos",
                0.0001: "Hardly any caption like this is right",
                0.049: "Hardly any caption like this is right",
                0.05: "About 1 in 10 captions like this is right",
                0.949: "About 9 in 10 captions like this are right",
                0.95: "Nearly all captions like this are right",
                1: "Nearly all captions like this are right",
            },
        ),
        (
            "percent",
            "candidates.html",
            {0: "0%", 0.0001: "<1%", 0.01: "1%", 0.99: "99%", 0.9901: ">99%", 1: "100%"},
        ),
    ],
)
def test_numbers_are_in_the_same_words_with_a_script_and_without(
    page: Chromium, name: str, template: str, expected: dict[float, str]
) -> None:
    numbers = [*expected, 0.1499, 0.15, 0.25, 0.345, 0.35, 0.45, 0.65, 0.7166]
    macros = Environment(loader=FileSystemLoader(ROOT / "common/pages/templates"), autoescape=True)
    macro = getattr(macros.get_template(template).module, name)
    script = "return import('/shared/format.js').then(m => arguments[0].map(m[arguments[1]]))"
    scripted = page.run(script, numbers, name)
    assert scripted == [html.unescape(str(macro(number))) for number in numbers]
    assert scripted[: len(expected)] == list(expected.values())


def test_delete_takes_the_photo_off_every_screen(page: Chromium, api: Api, tmp_path: Path) -> None:
    choose(page, photo(tmp_path, "dog.png"), photo(tmp_path, "cat.png"))
    page.wait_texts(".caption", ["A dog's ball.", "A cat's ball."])
    page.all(".remove")[0].click()
    page.wait_texts(".name", ["cat.png"])
    assert api.deleted == [("id-1", "Bearer secret")]
    assert page.texts("#announcer") == ["Deleted from every screen."]
    focused = "return document.activeElement.closest('.card')?.querySelector('.name').textContent"
    assert page.run(focused) == "cat.png"  # the focus is not lost


def test_what_this_tab_sent_can_be_deleted_after_a_reload(
    page: Chromium, api: Api, tmp_path: Path
) -> None:
    assert not page.all("#earlier")[0].is_displayed()
    choose(page, *(photo(tmp_path, f"{name}.png") for name in ("dog", "cat", "cow")))
    page.wait_texts(".caption", [f"A {name}'s ball." for name in ("dog", "cat", "cow")])
    page.all(".remove")[1].click()
    page.wait(lambda: len(page.all(".card")) == 2)
    stored = page.run("return JSON.parse(sessionStorage.getItem('sent'))")
    assert [set(one) for one in stored] == [{"id", "delete_token", "caption", "at"}] * 2

    page.open(api.url)
    page.wait_texts("#earlier .text", ["A cow's ball.", "A dog's ball."])
    page.all("#earlier button")[1].click()
    page.wait_texts("#earlier .text", ["A cow's ball."])
    assert page.texts("#announcer") == ["Deleted from every screen."]
    assert [id_ for id_, _ in api.deleted] == ["id-2", "id-1"]
    assert api.deleted[1] == ("id-1", "Bearer secret")
    page.open(api.url)
    page.one("#earlier button").click()
    page.wait(lambda: not page.all("#earlier")[0].is_displayed())
    assert page.run("return sessionStorage.getItem('sent')") == "[]"
    assert page.complaints(EXPECTED_404) == []


def test_what_a_tab_sent_is_bounded_and_no_other_tabs_business(page: Chromium, api: Api) -> None:
    keep = """const [caption, done] = arguments;
        import("/static/sent.js").then(({keepSent, allSent}) => {
          for (let i = 0; i < 60; i += 1) keepSent({id: `${i}`, delete_token: "secret", caption});
          done(allSent().map(({id}) => id));
        });"""
    kept = page.driver.execute_async_script(keep, HOSTILE)
    assert kept == [str(i) for i in range(10, 60)]
    page.open(api.url)
    page.wait_texts("#earlier .text", [HOSTILE] * 50)
    assert page.driver.title.startswith("Caption a photo")

    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.open(api.url)
    page.one("#choose")
    assert page.texts("#earlier .text") == []
    page.driver.close()
    page.driver.switch_to.window(first)
    page.run("""const aged = JSON.parse(sessionStorage.getItem("sent"));
        for (const one of aged) one.at -= 86400000;
        sessionStorage.setItem("sent", JSON.stringify(aged));""")
    page.open(api.url)
    page.one("#choose")
    assert page.texts("#earlier .text") == []


def test_names_are_shown_as_they_are(page: Chromium, tmp_path: Path) -> None:
    choose(page, photo(tmp_path, f"{HOSTILE}.png"))
    page.wait_texts(".name", [f"{HOSTILE}.png"])
    page.wait_texts(".caption", [f"A {HOSTILE}'s ball."])
    assert page.driver.title.startswith("Caption a photo")


def test_camera(open_browser: Callable[..., Chromium], api: Api) -> None:
    page = open_browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    page.open(api.url)
    page.one("#use-camera").click()
    shutter = page.one("#shutter")
    page.wait(shutter.is_enabled, "no picture from the camera")
    shutter.click()
    page.wait(lambda: len(api.uploads) == 1)
    assert Image.open(io.BytesIO(api.uploads[0][1])).width > 100
    assert page.complaints(EXPECTED_404) == []


@pytest.mark.parametrize("width", [360, 3840])
def test_upload_page_fits_the_screen(page: Chromium, tmp_path: Path, width: int) -> None:
    page.set_width(width, 740)
    choose(page, photo(tmp_path, f"{'dog' * 20}.png", size=(400, 300)))
    page.wait_texts(".word", ["A", "dog" * 20, "'s", "ball"])
    assert not page.overflows()


def test_form_remains_without_javascript(open_browser: Callable[..., Chromium], api: Api) -> None:
    page = open_browser(**{"profile.managed_default_content_settings.javascript": 2})
    page.open(api.url)
    assert page.one("#image").is_displayed()
    assert page.one(".without-script button").text == "Caption"
    assert not page.driver.find_element("id", "choose").is_displayed()


ATTACK = """
    const [target, done] = arguments;
    const form = new FormData();
    form.append("image", new File([Uint8Array.of(255, 216, 255)], "evil.jpg"));
    const requests = [
      fetch(`${target}api/captions`, {method: "POST", mode: "no-cors", body: form}),
      fetch(target, {method: "POST", mode: "no-cors", body: form}),
      fetch(`${target}delete`, {method: "POST", mode: "no-cors", body: form}),
      fetch(`${target}api/captions/1`, {method: "DELETE"}),
    ];
    const frame = document.createElement("iframe");
    frame.name = "hidden";
    document.body.append(frame);
    const plain = Object.assign(document.createElement("form"),
      {method: "post", action: target, target: "hidden", enctype: "multipart/form-data"});
    const input = Object.assign(document.createElement("input"), {type: "file", name: "image"});
    const transfer = new DataTransfer();
    transfer.items.add(form.get("image"));
    input.files = transfer.files;
    plain.append(input);
    document.body.append(plain);
    const loaded = new Promise((resolve) => frame.addEventListener("load", resolve));
    plain.submit();
    Promise.allSettled([...requests, loaded]).then((all) => done(all.map(({status}) => status)));
"""


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_page_of_another_site_can_post_and_delete_nothing(
    browser: Chromium, start_server: Callable[..., Any], free_port: Callable[[], int],
    tiny_model: Path, evil: str, host: str,
) -> None:  # fmt: skip
    """From another name (cross-site), and from another port of the same name (same-site)."""
    port = free_port()
    app1 = f"http://{host}:{port}/"
    start_server("app1", APP1_PORT=port, CAPTIONER_MODEL=tiny_model, RELAY_PORT=9)
    browser.open(evil)
    browser.driver.set_script_timeout(30)
    outcomes = browser.driver.execute_async_script(ATTACK, app1)
    # all but the DELETE are sent, and none of the answers reaches the page
    assert outcomes == ["rejected"] * 4 + ["fulfilled"]
    with urllib.request.urlopen(f"{app1}metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    answers = {line for line in lines if line.startswith("app1_http_requests_total")}
    assert answers == {
        'app1_http_requests_total{route="/api/captions",status="403"} 1.0',
        'app1_http_requests_total{route="/",status="403"} 2.0',
        'app1_http_requests_total{route="/delete",status="403"} 1.0',
        # the browser asked whether it may send a DELETE, and was not told that it may
        'app1_http_requests_total{route="/api/captions/<id_>",status="200"} 1.0',
    }


# --- the viewer page -----------------------------------------------------------------------------


@dataclass
class Viewer:
    """A relay and app2 as a user starts them, and a publisher."""

    relay_port: int
    app2_port: int
    start_relay: Callable[[], Any]
    relay: Any = None
    publisher: socketio.Client = field(default_factory=socketio.Client)

    def url(self, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.app2_port}/"

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
    viewer = Viewer(relay_port, app2_port, lambda: start_server("relay", **environment))
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
    assert screen.texts(newest + ".candidates li") == ["a cat  20%"]
    assert screen.texts(newest + ".verdict") == ["Not sure:"]
    parts = "return [...arguments[0].querySelectorAll('.verdict, .caption')].map(e => e.className)"
    assert screen.run(parts, screen.all(".card")[0]) == ["verdict", "caption"], "heard first"
    assert screen.one(newest + "time").get_attribute("datetime") == "2026-01-31T12:00:00Z"
    assert screen.texts("#announcer") == ["Not sure: a dog."]
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


def test_a_viewer_catches_up_after_a_break(screen: Chromium, viewer: Viewer) -> None:
    viewer.publish("one", id="1")
    viewer.publish("two", id="2")
    screen.wait_texts(CAPTIONS, ["two", "one"])
    viewer.relay.kill()
    screen.wait_texts("#connection", ["The relay cannot be reached. Trying again…"])
    viewer.publisher.disconnect()
    # the page is kept offline while something is published and something is deleted
    screen.command("Network.enable")
    screen.command(
        "Network.emulateNetworkConditions",
        offline=True,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
    viewer.start_relay()
    viewer.connect()
    viewer.publish("three", id="3")
    viewer.publisher.call("forget", {"id": "1"})
    screen.command(
        "Network.emulateNetworkConditions",
        offline=False,
        latency=0,
        downloadThroughput=-1,
        uploadThroughput=-1,
    )
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
