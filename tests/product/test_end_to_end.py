"""From `captioner up` and a photo dropped on app1 to its caption on viewer pages.

Real processes, real browsers, a real photo; test_upload_page.py and test_wall.py have the rest.
"""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import skimage.data

from tests.kit import ROOT
from tests.kit.chromium import Chromium

pytestmark = pytest.mark.browser

ASTRONAUT = Path(skimage.data.__file__).with_name("astronaut.png")  # NASA, public domain
DROP = """const transfer = new DataTransfer();
    const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
    transfer.items.add(new File([bytes], arguments[1], {type: "image/png"}));
    document.body.dispatchEvent(
      new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));"""


@dataclass
class Product:
    """The three servers under `captioner up`, with the addresses of the pages."""

    process: subprocess.Popen[str]
    upload_page: str
    viewer_page: str


@pytest.fixture(params=["tiny", pytest.param("shipped", marks=pytest.mark.model)])
def product(
    request: pytest.FixtureRequest, tmp_path: Path, free_port: Callable[[], int]
) -> Iterator[Product]:
    ports = {f"{name}_PORT": free_port() for name in ("RELAY", "APP1", "APP2")}
    environment = {name: str(port) for name, port in ports.items()}
    environment["CAPTIONER_STATE"] = str(tmp_path)
    if request.param == "shipped" and not (ROOT / "models").exists():
        pytest.skip("no model ships yet")
    if request.param == "tiny":
        environment["CAPTIONER_MODEL"] = str(request.getfixturevalue("tiny_model"))
    process = subprocess.Popen(
        [sys.executable, "-m", "captioner", "up"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines: list[str] = []
    told = threading.Event()

    def read() -> None:
        assert process.stdout is not None
        viewer_page = f"http://127.0.0.1:{ports['APP2_PORT']}/"
        for line in process.stdout:
            lines.append(line)
            # the supervisor's own word, after all three have said that they are ready
            if viewer_page in line and "app2 ready on" not in line:
                told.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert told.wait(90), "".join(lines)
        yield Product(
            process,
            upload_page=f"http://127.0.0.1:{ports['APP1_PORT']}/",
            viewer_page=f"http://127.0.0.1:{ports['APP2_PORT']}/",
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, "".join(lines)
    finally:
        if process.poll() is None:
            process.kill()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


def test_a_photo_dropped_on_one_page_is_captioned_on_every_viewer_page(
    product: Product, open_browser: Callable[..., Chromium]
) -> None:
    early, upload, late = open_browser(), open_browser(), open_browser()
    early.open(product.viewer_page)
    early.wait_texts("#connection", ["Live"])
    upload.open(product.upload_page)
    photo = base64.b64encode(ASTRONAUT.read_bytes()).decode()
    upload.one("#choose")
    upload.run(DROP, photo, "astronaut.png")

    upload.wait(lambda: any(upload.texts(".caption")), "no caption", seconds=30)
    (caption,) = upload.texts(".caption")
    assert upload.texts(".words") == [caption]
    early.wait_texts(".card[data-state=done] .caption", [caption])
    assert early.texts(".card .name") == ["astronaut.png"]
    assert early.run("return document.querySelector('.card img').naturalWidth") == 512

    late.open(product.viewer_page)  # joins when all is over
    late.wait_texts(".card[data-state=done] .caption", [caption])
    for browser in (early, upload, late):
        assert browser.complaints() == []

    upload.one(".remove").click()
    for viewer in (early, late):
        viewer.wait_texts(".card .caption", [])


def test_a_phones_photo_is_shown_though_the_browser_cannot_show_its_kind(
    product: Product, open_browser: Callable[..., Chromium], tmp_path: Path
) -> None:
    import pillow_heif
    from PIL import Image

    heic = tmp_path / "IMG_0001.HEIC"
    with Image.open(ASTRONAUT) as photo:
        pillow_heif.from_pillow(photo.convert("RGB")).save(heic)
    page = open_browser()
    page.open(product.upload_page)
    page.one("#choose")
    page.run("document.getElementById('image').parentElement.hidden = false")
    page.all("#image")[0].send_keys(str(heic))
    page.wait(lambda: any(page.texts(".caption")), "no caption", seconds=30)
    width = "return document.querySelector('.card img')?.naturalWidth"
    page.wait(lambda: page.run(width) == 512, "no picture")
    assert not page.one(".card").find_element("css selector", ".unseen").is_displayed()
