"""Makes the pictures of the README and of docs/operations.md from the running product.

    python docs/screenshots.py

Needs what the tests need (requirements-test.txt), Chromium and chromedriver. Starts the three
servers as `captioner up` does, on free ports and with an empty history, and uploads photos through
the page. The photos come with scikit-image: the astronaut Eileen Collins (NASA, public domain), a
cup of coffee (Rachel Michetti, CC0), the cat Chelsea (Stefan van der Walt, CC0), a Falcon 9
(SpaceX, public domain).
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import skimage.data
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.kit.camera_file import write_y4m
from tests.kit.chromium import Chromium

ROOT = Path(__file__).resolve().parent.parent
PHOTOS = ["rocket.jpg", "astronaut.png", "coffee.png", "chelsea.png"]  # the last one is seen big
SIZE = (1440, 1100)
DESKTOP, TV, PHONE = (1280, 800), (1920, 1080), (390, 844)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def servers(state: str) -> Iterator[tuple[str, str]]:
    """The three servers; yields the addresses of the upload page and of the viewer page."""
    ports = {name: free_port() for name in ("RELAY", "APP1", "APP2")}
    environment = {f"{name}_PORT": str(port) for name, port in ports.items()}
    process = subprocess.Popen(
        [sys.executable, "-m", "captioner", "up"],
        cwd=ROOT,
        env={**os.environ, **environment, "CAPTIONER_STATE": state},
    )
    try:
        for address in (f"{ports['RELAY']}/readyz", f"{ports['APP1']}/readyz", f"{ports['APP2']}/"):
            wait_until_ready(f"http://127.0.0.1:{address}", process)
        yield f"http://127.0.0.1:{ports['APP1']}/", f"http://127.0.0.1:{ports['APP2']}/"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_until_ready(url: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310
            return
        time.sleep(0.1)
    sys.exit(f"{url} is not ready; see above.")


def wait_for(browser: Chromium, selector: str, count: int) -> None:
    browser.wait(lambda: len(browser.all(selector)) == count, f"no {count} {selector}", 60)


def take(browser: Chromium, name: str) -> None:
    """Save what is to be seen, once fonts and transitions have come to rest; a JPEG at 80 %."""
    browser.driver.set_script_timeout(20)
    browser.driver.execute_async_script(
        "const done = arguments[0]; document.fonts.ready.then(() => setTimeout(done, 800));"
    )
    picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
    picture.save(ROOT / "docs" / name, quality=80)
    print(f"docs/{name}")


def main() -> None:
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        profile = stack.enter_context(tempfile.TemporaryDirectory())
        upload_page, viewer_page = stack.enter_context(servers(state))
        folder = Path(skimage.data.__file__).parent
        scene = [folder / "astronaut.png"]
        browser = Chromium(Path(profile), *write_y4m(Path(profile) / "camera.y4m", scene))
        stack.callback(browser.quit)
        browser.set_width(*SIZE)
        browser.command("Emulation.setScrollbarsHidden", hidden=True)

        browser.open(upload_page)
        for count, photo in enumerate(PHOTOS, start=1):
            browser.driver.find_element("id", "image").send_keys(str(folder / photo))
            wait_for(browser, ".card[data-state=done]", count)
        # the pointer on a word of the newest caption, so that the attention is seen over the photo
        browser.run("""const words = [...document.querySelector(".card").querySelectorAll(".word")];
            const length = (word) => word.textContent.length;
            const longest = words.reduce((a, b) => (length(b) > length(a) ? b : a));
            longest.dispatchEvent(new PointerEvent("pointerenter", {pointerType: "mouse"}));
            scrollTo(0, 0);""")
        take(browser, "app1.png")

        browser.open(viewer_page)
        wait_for(browser, ".card[data-state=done]", len(PHOTOS))
        take(browser, "app2.png")

        for name, size in (("desktop", DESKTOP), ("tv", TV), ("phone", PHONE)):
            browser.set_width(*size)
            browser.open(f"{viewer_page}?show=slides&seconds=3600")
            wait_for(browser, ".card[data-state=done]", 1)
            take(browser, f"slides-{name}.jpg")

        browser.set_width(*DESKTOP)
        browser.open(upload_page)
        browser.one("#go-live").click()
        browser.one("#live .verdict")
        take(browser, "live.jpg")

        host_page = f"{upload_page}host#{(Path(state) / 'host-token').read_text().strip()}"
        browser.open(host_page)
        browser.one("#guests [value=guests]").click()
        browser.one("#on-wall").click()
        browser.one("#qr-code")
        take(browser, "host.jpg")
        browser.open(viewer_page)
        browser.one("#guest-code")
        take(browser, "guests.jpg")


if __name__ == "__main__":
    main()
