"""The upload page in real headless Chromium, with a scripted API.

test_wall.py has the viewer page; test_end_to_end.py goes from one to the other.
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
EXPECTED_404 = "favicon.ico"


def photo(folder: Path, name: str, size: tuple[int, int] = (96, 64), **save: Any) -> str:
    """A photo of random dots, which no encoder makes small; returns its path."""
    dots = np.random.default_rng(5).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(dots).save(folder / name, **save)
    return str(folder / name)


# --- the upload page -----------------------------------------------------------------------------


@dataclass
class Api:
    """An app1 whose answers a test writes: the requests it got, and the answers it gives."""

    port: int
    uploads: list[tuple[str, bytes]] = field(default_factory=list)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    corrected: list[tuple[str, str]] = field(default_factory=list)
    refusals: list[tuple[int, str, str]] = field(
        default_factory=list
    )  # status, detail, Retry-After
    released: threading.Event = field(default_factory=threading.Event)  # answers wait for it
    published: str = "delivered"
    confident: bool = True
    confidence: float | None = 0.7166
    photo: bool = True
    thumbnail: str = ""  # for those who ask for one

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
        if request.args.get("publish") == "0":  # a frame of live mode, for this page alone
            return jsonify(scripted.answer("frame"))
        if "publish" in request.args:
            scripted.uploads.append((request.args["name"], request.get_data()))
            return jsonify(scripted.answer("frame"))
        file = request.files["image"]
        scripted.uploads.append((file.filename or "", file.read()))
        assert scripted.released.wait(30)
        if scripted.refusals:
            status, detail, retry_after = scripted.refusals.pop(0)
            headers = {"Retry-After": retry_after} if retry_after else {}
            return jsonify(title="No", detail=detail, status=status), status, headers
        answer = scripted.answer(file.filename or "")
        if request.form.get("thumbnail") == "1":
            answer["thumbnail"] = scripted.thumbnail
        return jsonify(answer)

    @app.patch("/api/captions/<id_>")
    def correct(id_: str) -> ResponseReturnValue:
        scripted.corrected.append((id_, (request.get_json() or {})["caption"]))
        return jsonify(published=scripted.published)

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
    assert page.texts(".card:first-child .candidates li .text") == ["a dog"]
    assert page.texts(".card:first-child .verdict") == ["Fairly sure:"]
    assert page.texts(".card:first-child .odds") == ["About 7 in 10 captions like this are right"]
    assert page.one(".card:first-child [data-published]").text == "On the wall."
    assert page.texts("#announcer") == ["cat.png: A cat's ball."]
    assert page.complaints(EXPECTED_404) == []


@pytest.mark.parametrize(
    ("published", "said"),
    [
        ("delivered", "Saved. Every screen shows it."),
        ("queued", "Saved. Every screen shows it as soon as the relay can be reached."),
        ("waiting", "Saved. The host sees it."),
    ],
)
def test_another_caption_is_used_with_one_click(
    page: Chromium, api: Api, tmp_path: Path, published: str, said: str
) -> None:
    api.published = published
    choose(page, photo(tmp_path, "cat.png"))
    page.wait_texts(".caption", ["A cat's ball."])
    use = page.one(".candidates .use")
    assert use.get_attribute("aria-label") == "Use this: a dog"
    page.run("arguments[0].click(); arguments[0].click()", use)
    page.wait_texts(".caption", ["a dog"])
    page.wait_texts("#announcer", [said])
    assert api.corrected == [("id-1", "a dog")]
    assert page.one(".card .caption").size["width"] > 20, "seen, not only heard"
    assert page.texts(".card .verdict") == ["Checked by a person:"]
    assert page.one(".frame img").get_attribute("alt") == "a dog."
    assert page.one(f"[data-published={published}]")
    for gone in (".candidates", ".words", ".confidence"):
        assert not page.all(gone)[0].is_displayed()
    page.driver.refresh()
    page.wait_texts("#earlier .text", ["a dog"])


def test_other_captions_are_away_while_a_person_writes(page: Chromium, tmp_path: Path) -> None:
    choose(page, photo(tmp_path, "cat.png"))
    page.wait_texts(".candidates .text", ["a dog"])
    page.one(".change").click()
    assert not page.all(".candidates")[0].is_displayed()
    page.one(".cancel").click()
    assert page.one(".candidates")


def test_a_caption_that_is_on_no_screen_cannot_be_replaced(
    page: Chromium, api: Api, tmp_path: Path
) -> None:
    api.published = "no"
    choose(page, photo(tmp_path, "cat.png"))
    page.wait_texts(".candidates .text", ["a dog"])
    assert page.all(".candidates .use") == []


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


def test_no_line_begins_with_a_full_stop(page: Chromium, tmp_path: Path) -> None:
    choose(page, photo(tmp_path, "dog.png"))
    page.wait_texts(".word", ["A", "dog", "'s", "ball"])
    page.run("document.querySelector('.words').style.width = '1px'")
    assert page.texts(".words > *") == ["A", "dog's", "ball."]
    count = "return [...document.querySelectorAll('.unbroken')].map(e => e.getClientRects().length)"
    assert page.run(count) == [1, 1, 1]


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


@pytest.mark.parametrize(
    ("kind", "name"), [("WEBP", "dog.webp"), ("WEBP", "dog.jpg"), ("JPEG", "dog.jpg")]
)
def test_the_photo_beside_the_caption_is_upright(
    page: Chromium, api: Api, tmp_path: Path, kind: str, name: str
) -> None:
    """Browsers turn a JPEG as its EXIF says, and no WebP, whatever its name."""
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = io.BytesIO()
    Image.new("RGB", (32, 48)).save(upright, "JPEG")
    api.thumbnail = f"data:image/jpeg;base64,{base64.b64encode(upright.getvalue()).decode()}"
    choose(page, photo(tmp_path, name, format=kind, exif=exif))
    page.wait_texts(".caption", ["A dog's ball."])
    shown = """return [...document.querySelectorAll(".frame img")].map((image) =>
        [image.naturalWidth / image.naturalHeight, image.alt])"""
    page.wait(lambda: page.run(shown) == [[64 / 96, "A dog's ball."]], "it lies on its side")
    style = "return document.querySelector('.frame').style.getPropertyValue('--shape')"
    assert float(page.run(style)) == pytest.approx(64 / 96)


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
    assert explanation.text == "Does not look like a photo"
    explanation.find_element("tag name", "summary").click()
    assert "percentages of words are raw model scores" in explanation.text
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
                0: "Does not look like a photo",
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
            "confidence.html",
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
          for (let i = 0; i < 510; i += 1) keepSent({id: `${i}`, delete_token: "secret", caption});
          done(allSent().map(({id}) => id));
        });"""
    kept = page.driver.execute_async_script(keep, HOSTILE)
    assert kept == [str(i) for i in range(10, 510)]
    page.open(api.url)
    page.wait_texts("#earlier .text", [HOSTILE] * 500)
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


def test_what_live_mode_put_on_the_wall_can_be_deleted(
    open_browser: Callable[..., Chromium], api: Api
) -> None:
    page = open_browser("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    api.photo = False
    page.open(api.url)
    page.one("#go-live").click()
    page.one("#live .on-wall").click()
    page.wait_texts("#live .live-caption", ["Nothing that I can describe."])
    # a later frame is answered, so the first one was not offered to the wall
    frames = "return performance.getEntriesByName('frame to words').length"
    before = page.run(frames)
    page.wait(lambda: page.run(frames) > before + 1)
    assert api.uploads == []
    assert not page.all("#earlier")[0].is_displayed()

    api.photo = True
    page.wait_texts("#earlier .text", ["A frame's ball."])
    assert [name for name, _ in api.uploads] == ["Live"]
    stored = page.run("return JSON.parse(sessionStorage.getItem('sent'))")
    assert [set(one) for one in stored] == [{"id", "delete_token", "caption", "at"}]
    page.one("#earlier button").click()
    page.wait(lambda: not page.all("#earlier")[0].is_displayed())
    assert api.deleted == [("id-1", "Bearer secret")]
    assert page.run("return document.activeElement.textContent") == "Stop"
    assert page.complaints(EXPECTED_404) == []


@pytest.mark.parametrize("width", [320, 360, 3840])
def test_upload_page_fits_the_screen(page: Chromium, tmp_path: Path, width: int) -> None:
    page.set_width(width, 740)
    padding = """const button = document.getElementById("viewer");
        const range = document.createRange();
        range.selectNodeContents(button);
        return range.getBoundingClientRect().left - button.getBoundingClientRect().left"""
    assert page.run(padding) > 16
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
