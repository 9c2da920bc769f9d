"""Both pages in Chromium, with a model, file names and publishers that say nothing but HTML.

All of it is shown as the text that it is, and where a script gets into a page all the same, the
page's policy keeps it from running. Here the real app1, relay and app2 work together; only the
model's words are ours.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from app1.app import create_app
from app1.parts import App1
from captioner import Captioner
from captioner.captioner import Caption
from common.settings import Settings
from common.waitress_server import PageServer
from tests.kit.chromium import Chromium
from tests.kit.clients import Client
from tests.kit.servers import TOKEN, Relay, Server, free_port, wait_until

pytestmark = pytest.mark.browser

# Each sets `window.taken` if anything of it runs.
PAYLOADS = (
    "<img src=x onerror=taken=1>",
    "</script><script>taken=2</script>",
    "<svg/onload=taken=3>",
    "<iframe srcdoc='<script>parent.taken=4</script>'>",
    '"><details open ontoggle=taken=5>',
    "' autofocus onfocus='taken=6",
    "javascript:taken=7",
    "{{constructor.constructor('taken=8')()}}${taken=9}",
    "<style onload=taken=10></style>",
    "&lt;b&gt;&#x3c;script&#x3e;taken=11",
)
HOSTILE = " ".join(PAYLOADS)


class HostileCaptioner(Captioner):
    """The tiny model, in whose captions all words are HTML."""

    def caption_rgb(self, *arguments: Any, **options: Any) -> Caption:
        caption = super().caption_rgb(*arguments, **options)
        best, *others = caption.candidates
        words = tuple(
            dataclasses.replace(word, word=PAYLOADS[i % len(PAYLOADS)])
            for i, word in enumerate(best.words)
        )
        best = dataclasses.replace(best, text=HOSTILE, words=words)
        others = [dataclasses.replace(o, text=PAYLOADS[i]) for i, o in enumerate(others)]
        return dataclasses.replace(caption, candidates=(best, *others))


class Pages(NamedTuple):
    """The addresses of both pages, and the relay between them."""

    upload: str
    viewer: str
    relay: Relay


@pytest.fixture(scope="module")
def pages(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pages]:
    app1_port, app2_port = free_port(), free_port()
    ports = {"APP1_PORT": str(app1_port), "APP2_PORT": str(app2_port)}
    relay = Relay(tmp_path_factory.mktemp("relay"), None, **ports)
    environment = {
        **ports,
        "CAPTIONER_STATE": str(tmp_path_factory.mktemp("app1")),
        "RELAY_PORT": str(relay.port),
        "RELAY_TOKEN": TOKEN,
    }
    app2 = Server("app2", environment)
    parts = App1(
        Settings.from_environment(environment), lambda: [HostileCaptioner.load(tiny_model)]
    )
    server = PageServer(create_app(parts), "127.0.0.1", app1_port, "APP1", waiting=4)
    server.start()
    parts.start()
    wait_until(lambda: parts.workers.ready)
    app2.wait_ready()
    yield Pages(f"http://127.0.0.1:{app1_port}/", f"http://127.0.0.1:{app2_port}/", relay)
    server.close()
    parts.stop()
    app2.kill()
    relay.kill()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    browser = Chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def open_page(chromium: Chromium) -> Iterator[Callable[[str], Chromium]]:
    """Opens a page; at the end no text has run, been made to HTML, or broken the policy."""
    chromium.open("about:blank")
    chromium.complaints()

    def open_(url: str) -> Chromium:
        chromium.open(url)
        return chromium

    yield open_
    assert chromium.run("return window.taken") is None
    assert chromium.all("svg[onload], [onerror], [ontoggle], [onfocus], iframe") == []
    assert chromium.complaints("favicon.ico") == []


# A photo of the given name for the page's own input, as if chosen there.
CHOOSE = """
    const [name, announce, done] = arguments;
    const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 48});
    canvas.getContext("2d").fillRect(9, 9, 9 + name.length % 9, 9);
    canvas.toBlob((photo) => {
        const files = new DataTransfer();
        files.items.add(new File([photo], name, {type: "image/png"}));
        const input = document.querySelector("#image");
        input.files = files.files;
        if (announce) input.dispatchEvent(new Event("change", {bubbles: true}));
        done();
    });
"""


def test_upload_page(open_page: Callable[[str], Chromium], pages: Pages) -> None:
    page = open_page(pages.upload)
    page.driver.execute_async_script(CHOOSE, PAYLOADS[0], True)
    page.wait_texts(".card .caption", [HOSTILE])
    assert page.texts(".card .name") == [PAYLOADS[0]]
    assert {*page.texts(".card .word")} <= {*PAYLOADS}
    assert any(PAYLOADS[0] in text for text in page.texts(".candidates li"))
    assert HOSTILE in page.texts("#announcer")[0]
    for link in page.all("a"):
        assert str(link.get_attribute("href")).startswith("http://127.0.0.1:")


def test_upload_page_without_its_script(open_page: Callable[[str], Chromium], pages: Pages) -> None:
    page = open_page(pages.upload)
    page.driver.execute_async_script(CHOOSE, PAYLOADS[0], False)
    page.run("HTMLFormElement.prototype.submit.call(document.querySelector('#image').form)")
    page.wait(lambda: HOSTILE in page.run("return document.body.textContent"), "no caption")
    assert PAYLOADS[0] in page.run("return document.body.textContent")


def test_viewer_page(open_page: Callable[[str], Chromium], pages: Pages) -> None:
    """From a publisher that puts HTML wherever it may, before the page opens and afterwards."""
    publisher = Client(pages.relay, {"token": TOKEN, "viewer": False})
    number = 0

    def publish() -> None:
        nonlocal number
        number += 1
        about = {"id": f"hostile-{number}", "image_path": HOSTILE, "thumbnail": None}
        assert publisher.call("captioning", about)["ok"]
        word = {"word": PAYLOADS[0], "probability": 0.5}
        candidates = [{"caption": text, "probability": 0.5} for text in PAYLOADS]
        message = {"caption": HOSTILE, "model": HOSTILE[:200], "words": [word] * 3}
        answer = publisher.call("predict", {**about, **message, "candidates": candidates})
        assert answer["ok"], answer
        failed = {"id": f"failed-{number}", "image_path": HOSTILE}
        assert publisher.call("captioning", failed)["ok"]
        assert publisher.call("captioning_failed", {"id": failed["id"], "error": HOSTILE})["ok"]

    publish()
    page = open_page(pages.viewer)
    page.wait_texts("#connection", ["Live"])
    publish()

    def shown() -> list[str]:
        captions = page.texts(".card[data-state=done] .caption")
        return [text for text in captions if text == HOSTILE]

    page.wait(lambda: len(shown()) >= 2, "not shown as it is")
    publisher.close()
    for link in page.all("a"):
        assert str(link.get_attribute("href")).startswith("http://127.0.0.1:")


def test_what_the_model_says_reaches_the_viewer_page_as_text(
    open_page: Callable[[str], Chromium], pages: Pages
) -> None:
    page = open_page(pages.upload)
    page.driver.execute_async_script(CHOOSE, PAYLOADS[4], True)
    page.one(".card [data-published=delivered]")
    page = open_page(pages.viewer)
    page.wait(lambda: HOSTILE in page.texts(".card[data-state=done] .caption"))
    assert page.run("return document.body.textContent").count(PAYLOADS[4])


# What gets a script, a picture, a page or a word out of the page; and the rule that forbids it.
BREACHES = {
    "an inline script": (
        "const s = document.createElement('script'); s.textContent = 'window.taken = 1';"
        "document.body.append(s)",
        "script-src-elem",
    ),
    "a handler in an attribute": (
        "const d = document.createElement('div'); d.setAttribute('onclick', 'window.taken = 1');"
        "document.body.append(d); d.click()",
        "script-src-attr",
    ),
    "a handler in parsed HTML": (
        "document.body.insertAdjacentHTML('beforeend', '<img src=data:, onerror=window.taken=1>')",
        "script-src-attr",
    ),
    "a script of another site": (
        "const s = document.createElement('script'); s.src = 'http://127.0.0.1:9/x.js';"
        "document.body.append(s)",
        "script-src-elem",
    ),
    "a script in a data URL": (
        "const s = document.createElement('script'); s.src = 'data:text/javascript,taken=1';"
        "document.body.append(s)",
        "script-src-elem",
    ),
    "a script in a blob": (
        "const s = document.createElement('script');"
        "s.src = URL.createObjectURL(new Blob(['window.taken = 1'])); document.body.append(s)",
        "script-src-elem",
    ),
    "a javascript: link": (
        "const a = document.createElement('a'); a.href = 'javascript:window.taken=1';"
        "document.body.append(a); a.click()",
        "script-src-elem",
    ),
    "a style sheet": (
        "document.body.insertAdjacentHTML('beforeend', '<style>body{display:none}</style>')",
        "style-src-elem",
    ),
    "a picture of another site": ("new Image().src = 'http://127.0.0.1:9/?secret'", "img-src"),
    "a request to another site": ("fetch('http://127.0.0.1:9/').catch(() => 0)", "connect-src"),
    "a WebSocket to another site": (
        "try { new WebSocket('ws://127.0.0.1:9/') } catch {}",
        "connect-src",
    ),
    "a frame": (
        "document.body.insertAdjacentHTML('beforeend', '<iframe src=http://127.0.0.1:9></iframe>')",
        "frame-src",
    ),
    "a plug-in": (
        "document.body.insertAdjacentHTML('beforeend', '<embed src=http://127.0.0.1:9>')",
        "object-src",
    ),
    "a form to another site": (
        "document.body.insertAdjacentHTML('beforeend', '<form action=http://127.0.0.1:9></form>');"
        "document.body.lastElementChild.submit()",
        "form-action",
    ),
    "another base for links": (
        "document.head.insertAdjacentHTML('beforeend', '<base href=http://127.0.0.1:9>')",
        "base-uri",
    ),
    "a worker in a blob": (
        "try { new Worker(URL.createObjectURL(new Blob(['']))) } catch {}",
        "worker-src",
    ),
}


@pytest.mark.parametrize("where", ["upload", "viewer"])
def test_the_policy_keeps_what_gets_in_from_doing_anything(
    chromium: Chromium, pages: Pages, where: str
) -> None:
    chromium.open(getattr(pages, where))
    chromium.run(
        "window.broken = [];"
        "addEventListener('securitypolicyviolation', e => broken.push(e.effectiveDirective))"
    )
    for name, (script, directive) in BREACHES.items():
        chromium.run("broken.length = 0")
        chromium.run(script)
        chromium.wait(
            lambda directive=directive: directive in chromium.run("return broken"),  # type: ignore[misc]
            f"{name} is let through",
        )
    assert chromium.run("return window.taken") is None
    assert chromium.run("return location.href") == getattr(pages, where)
    chromium.open("about:blank")
    chromium.complaints()


@pytest.mark.parametrize("where", ["upload", "viewer"])
def test_no_other_page_can_frame_ours(
    chromium: Chromium, pages: Pages, evil: str, where: str
) -> None:
    chromium.open(evil)
    frame = "document.body.innerHTML = `<iframe src=${arguments[0]}></iframe>`"
    chromium.run(frame, getattr(pages, where))
    chromium.driver.switch_to.frame(0)
    chromium.wait(lambda: str(chromium.run("return document.URL")).startswith("chrome-error:"))
    chromium.open("about:blank")
    chromium.complaints()


@pytest.mark.parametrize("where", ["upload", "viewer"])
def test_a_page_of_another_site_cannot_use_ours(
    chromium: Chromium, pages: Pages, evil: str, where: str
) -> None:
    """Neither embed its files nor read the relay."""
    chromium.open(evil)
    script = "static/upload.js" if where == "upload" else "static/viewer.js"
    outcome = chromium.driver.execute_async_script(
        """
        const [url, done] = arguments;
        const script = Object.assign(document.createElement("script"), {
            src: url, onload: () => done("loaded"), onerror: () => done("refused"),
        });
        document.body.append(script);
        """,
        getattr(pages, where) + script,
    )
    assert outcome == "refused"
    outcome = chromium.driver.execute_async_script(
        "const [url, done] = arguments;"
        "fetch(url).then((answer) => answer.text()).then(done, () => done('refused'))",
        f"{pages.relay.url}/api/captions",
    )
    assert outcome == "refused"
    chromium.open("about:blank")
    chromium.complaints()
