"""A wall that is left alone: the memory of the viewer page in Chromium, caption after caption.

    python -m benchmarks.wall_memory

A publisher sends captions with a thumbnail each, as fast as the page shows them. After so many, the
page's garbage is collected and its JavaScript heap and its elements are counted. The page keeps the
newest 500 captions, so it grows until then and must not grow any more.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import socketio

from benchmarks.machine import Goal, use_cores, write
from benchmarks.photos import photos
from benchmarks.servers import settings
from captioner.pictures.preprocess import Preprocessor
from tests.kit.chromium import Chromium
from tests.kit.servers import TOKEN, Server

CORES = 2
CAPTIONS = 10_000
KEPT = 500  # by the page
GROWTH = 1.1
BURST = 250
READINGS = 8
THUMBNAIL = 480  # pixels of the longer side
DISPLAYS = ("", "?show=slides")
LAST = "return document.querySelector('#announcer').textContent"


def heap(browser: Chromium) -> dict[str, float]:
    """Of the page, once its garbage is collected: the smallest heap of some readings."""
    return min((_reading(browser) for _ in range(READINGS)), key=itemgetter("javascript_heap_mb"))


def _reading(browser: Chromium) -> dict[str, float]:
    browser.command("HeapProfiler.collectGarbage")
    browser.driver.execute_async_script("setTimeout(arguments[0], 100)")
    found = {
        each["name"]: each["value"] for each in browser.command("Performance.getMetrics")["metrics"]
    }
    return {
        "javascript_heap_mb": round(found["JSHeapUsedSize"] / 1e6, 2),
        "elements": int(browser.run("return document.querySelectorAll('*').length")),
        "nodes": int(found["Nodes"]),
    }


def has_announced(browser: Chromium, number: int) -> bool:
    """Whether the page has announced the caption of that number."""
    return f"number {number}." in browser.run(LAST)


def measure(folder: Path, asked: str, captions: int, marks: list[int]) -> list[dict[str, Any]]:
    """What the page holds after so many captions, for each of `marks`."""
    environment = settings(folder / "state", RELAY_TOKEN=TOKEN)
    relay, app2 = (Server(name, environment) for name in ("relay", "app2"))
    browser = Chromium(folder / "profile")
    publisher = socketio.Client()
    thumbnails = [
        Preprocessor.thumbnail(Preprocessor.load(photo), THUMBNAIL) for photo in photos(4)
    ]
    rows = []
    try:
        for server in (relay, app2):
            server.wait_ready()
        browser.open(f"{app2.url}/{asked}")
        browser.wait_texts("#connection", ["Live"])
        browser.command("Performance.enable")
        publisher.connect(relay.url, auth={"token": TOKEN, "viewer": False}, wait_timeout=10)
        for number in range(1, captions + 1):
            caption = {
                "id": f"caption-{number}",
                "caption": f"photo number {number}",
                "thumbnail": thumbnails[number % 4],
            }
            answer = publisher.call("predict", caption, timeout=30)
            if not answer["ok"]:
                raise RuntimeError(answer["error"])
            if number % BURST == 0:
                browser.wait(partial(has_announced, browser, number), "late", 60)
            if number in marks:
                rows.append({"captions": number, **heap(browser)})
                print(asked, rows[-1], flush=True)
    finally:
        publisher.disconnect()
        browser.quit()
        relay.kill()
        app2.kill()
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    use_cores(CORES)
    count = arguments.captions
    marks = sorted({min(2 * KEPT, count), count // 4, count // 2, count} - {0})
    displays, goals = {}, []
    for asked in DISPLAYS:
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(Path(folder), asked, count, marks)
        name = asked.removeprefix("?show=") or "wall"
        displays[name] = rows
        *earlier, last = (row["javascript_heap_mb"] for row in rows)
        growth = last / max(earlier)
        goals.append(
            Goal(
                f"{name}: JavaScript heap after {count} captions, beside the largest before",
                f"at most {GROWTH} times",
                f"{growth:.2f} times",
                growth <= GROWTH,
                f"{', '.join(map(str, earlier))} and then {last} MB",
            )
        )
    write(arguments.output, "python -m benchmarks.wall_memory", goals, {"displays": displays})


if __name__ == "__main__":
    main()
