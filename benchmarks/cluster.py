"""Captions a second of `captioner ray` on this machine, beside `captioner caption`.

    python -m benchmarks.cluster

Both programs run as a person runs them, on two cores, in turns: once on some photos and once on
many. The photos in between, by the time in between, are the rate; what is left of the shorter run
is the start-up. Ray is started and stopped in each of its runs.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from benchmarks.machine import PACKAGES, Goal, Way, in_turns, summary, use_cores, write
from benchmarks.photos import photos

CORES = 2
GOAL = 10  # percent
COMMANDS = ("caption", "ray")


def run(command: str, folder: Path) -> None:
    """Runs a command once on a folder, into a new place for its captions."""
    with tempfile.TemporaryDirectory() as output:
        arguments = [command, str(folder), "--workers", str(CORES), "--output", f"{output}/out"]
        subprocess.run(
            [sys.executable, "-m", "captioner", *arguments], check=True, stderr=subprocess.DEVNULL
        )


def rate_and_start(
    milliseconds: Mapping[str, Sequence[float]], command: str, some: int, many: int
) -> tuple[float, float]:
    """Captions a second, and the seconds that a run takes beside them."""
    short, long = (
        statistics.median(milliseconds[f"{command}, {count} photos"]) / 1000
        for count in (some, many)
    )
    rate = (many - some) / (long - short)
    return rate, short - some / rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--some", type=int, default=50, help="photos of the shorter runs")
    parser.add_argument("--many", type=int, default=650, help="photos of the longer runs")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    use_cores(CORES)
    counts = (arguments.some, arguments.many)
    with tempfile.TemporaryDirectory() as name:
        for number, photo in enumerate(photos(max(counts))):
            for count in counts:
                folder = Path(name) / str(count)
                folder.mkdir(exist_ok=True)
                if number < count:
                    (folder / f"{number:05}.jpg").write_bytes(photo)
        ways = {
            f"{command}, {count} photos": Way(partial(run, command, Path(name) / str(count)))
            for count in counts
            for command in COMMANDS
        }
        milliseconds = in_turns(ways, arguments.turns)
    found = {command: rate_and_start(milliseconds, command, *counts) for command in COMMANDS}
    overhead = 100 * (found["caption"][0] / found["ray"][0] - 1)
    goal = Goal(
        "captioner ray on one machine: time a caption, more than of captioner caption",
        f"at most {GOAL} %",
        f"{overhead:.1f} %",
        overhead <= GOAL,
        f"{found['ray'][0]:.1f} and {found['caption'][0]:.1f} captions a second; to start and end "
        f"{found['ray'][1]:.1f} s and {found['caption'][1]:.1f} s",
    )
    write(
        arguments.output,
        "python -m benchmarks.cluster",
        [goal],
        {
            "captions a second": {name: round(rate, 2) for name, (rate, _) in found.items()},
            "seconds to start and end": {name: round(s, 1) for name, (_, s) in found.items()},
            "runs, ms": {way: summary(values, 0) for way, values in milliseconds.items()},
        },
        packages=(*PACKAGES, "ray", "pyarrow"),
    )


if __name__ == "__main__":
    main()
