"""Live mode: from a frame of the camera to its words on the page, in Chromium.

    python -m benchmarks.live

The camera is a file that Chromium plays: photos that come with scikit-image, each for three
seconds. The page measures from the moment at which it takes the frame until its words are shown.
Browser and servers share two cores.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.machine import Goal, summary, use_cores, write
from benchmarks.photos import photos
from benchmarks.servers import settings
from tests.kit.camera_file import write_y4m
from tests.kit.chromium import Chromium
from tests.kit.servers import Server

CORES = 2
GOAL_MS = 150
WARMING_UP = 5  # captions that do not count

MEASURED = "return performance.getEntriesByName('frame to words').map((each) => each.duration)"


def milliseconds(folder: Path, captions: int, model: str | None = None) -> list[float]:
    """Of each caption, from its frame to its words.

    Args:
        folder: an empty one, for the servers' state, the camera's file and the browser's profile.
    """
    scenes = []
    for number, photo in enumerate(photos(4)):
        scenes.append(folder / f"{number}.jpg")
        scenes[-1].write_bytes(photo)
    more = {"CAPTIONER_MODEL": model} if model else {}
    environment = settings(folder / "state", **more)
    servers = [Server(name, environment) for name in ("relay", "app1")]
    browser = Chromium(folder / "profile", *write_y4m(folder / "camera.y4m", scenes))
    try:
        for server in servers:
            server.wait_ready()
        browser.open(servers[1].url)
        browser.one("#go-live").click()
        wanted = WARMING_UP + captions
        browser.wait(
            lambda: len(browser.run(MEASURED)) >= wanted, "too few captions", 30 + 5 * wanted
        )
        return [float(each) for each in browser.run(MEASURED)][WARMING_UP:wanted]
    finally:
        browser.quit()
        for server in servers:
            server.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=200)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    use_cores(CORES)
    with tempfile.TemporaryDirectory() as folder:
        found = summary(milliseconds(Path(folder), arguments.captions), 1)
    goal = Goal(
        "a frame of the camera to its words on the page, half of the captions",
        f"below {GOAL_MS} ms",
        f"{found['p50']} ms",
        found["p50"] < GOAL_MS,
        f"95 % within {found['p95']} ms",
    )
    write(arguments.output, "python -m benchmarks.live", [goal], {"frame_to_words_ms": found})


if __name__ == "__main__":
    main()
