"""What the servers add to a caption: time, behaviour under load, memory, and start-up.

    python -m benchmarks.serving --output benchmarks/serving.json

Real processes on two cores, which the clients here share: relay and app1 with their default
settings, and one viewer. `--seconds` is how long the crowd uploads in each of two rounds; all else
takes some minutes more.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Goal, Way, in_turns, percentile, summary, use_cores, write
from benchmarks.original import Original
from benchmarks.photos import photos
from benchmarks.servers import PATIENCE, MemoryWatch, Uploader, Viewer, cpu_seconds, settings
from captioner import Captioner
from tests.kit.servers import TOKEN, Server

CORES = 2
UPLOADERS = 32
PLACES = 32 + CORES  # in app1's line: CAPTIONER_QUEUE's default, and those that are worked on
TOO_MANY = 2 * PLACES
ROUNDS = 2
PAUSE = 0.25  # seconds that an uploader waits after a 503


class Photos:
    """Photos without end, one after the other, for any number of threads."""

    def __init__(self) -> None:
        self._photos = photos(UPLOADERS)
        self._number = 0
        self._lock = threading.Lock()

    def next(self) -> bytes:
        with self._lock:
            self._number += 1
            number = self._number
        return self._photos[number % len(self._photos)]


# One at a time


def one_at_a_time(
    turns: int,
    captioner: Captioner,
    workers: Sequence[Captioner],
    app1: Server,
    viewer: Viewer,
    new: Photos,
) -> tuple[list[Goal], dict[str, Any]]:
    """From an upload to the viewer, beside the captioner alone and a request that does nothing.

    Args:
        captioner: with all cores for itself.
        workers: as app1 has them; only the first one gets photos here.
    """
    uploader = Uploader(app1.port)

    def upload(jpeg: bytes) -> None:
        status, _, body = uploader.post(jpeg)
        if status != 200:
            raise RuntimeError(f"app1 answers {status}: {body.decode()}")
        viewer.wait_for(json.loads(body)["id"])

    ways = {
        "the captioner alone": Way(lambda: captioner.caption(new.next())),
        "one of several workers": Way(lambda: workers[0].caption(new.next())),
        # the same body to a route that takes none: what network, server and routing cost
        "a plain POST": Way(lambda: uploader.post(new.next(), "/healthz")),
        "upload to viewer": Way(lambda: upload(new.next())),
    }
    times = {name: summary(values) for name, values in in_turns(ways, turns).items()}
    uploader.close()
    caption, seen = times["the captioner alone"], times["upload to viewer"]
    more = seen["p95"] - caption["p95"]
    times_as_long = times["one of several workers"]["p50"] / caption["p50"]
    goals = [
        Goal(
            "one photo alone, by one of several workers, p50: beside a captioner for itself",
            "1.05 times or less",
            f"{times_as_long:.2f} times",
            times_as_long <= 1.05,
            f"the captioner alone: {caption['p50']:.1f} ms",
        ),
        Goal(
            "upload to seen by a viewer, one at a time, p95: how much more than the caption itself",
            "150 ms or less",
            f"{more:.0f} ms",
            more <= 150,
            f"p95 of the captioner alone: {caption['p95']:.0f} ms; of a plain POST of the same "
            f"bytes to the same server: {times['a plain POST']['p95']:.1f} ms",
        ),
    ]
    return goals, {"milliseconds, one at a time": times}


# A crowd


@dataclass
class Crowd:
    """The answers to some uploaders, each with a photo at a time.

    Attributes:
        statuses: of all answers.
        in_time: captions that came before the time was up.
        seconds: that each caption took to come.
        seconds_refused: that each other answer took.
        without_retry_after: other answers that do not say when to come back.
        broken: connections that failed, or were silent for too long.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    in_time: int = 0
    seconds: list[float] = field(default_factory=list)
    seconds_refused: list[float] = field(default_factory=list)
    without_retry_after: int = 0
    broken: int = 0

    def upload(self, uploaders: int, seconds: float, app1: Server, new: Photos) -> None:
        """Let so many upload for so long; those that wait at the end are waited for."""
        until = time.perf_counter() + seconds
        lock = threading.Lock()

        def keep_uploading() -> None:
            uploader = Uploader(app1.port)
            ended = False
            while not ended:
                started = time.perf_counter()
                try:
                    status, retry_after, _ = uploader.post(new.next())
                except (OSError, http.client.HTTPException):
                    with lock:
                        self.broken += 1
                    uploader.close()  # connects again by itself
                    ended = time.perf_counter() >= until
                    continue
                now = time.perf_counter()
                ended = now >= until
                with lock:
                    self.statuses[status] += 1
                    if status == 200:
                        self.in_time += not ended
                        self.seconds.append(now - started)
                    else:
                        self.seconds_refused.append(now - started)
                        self.without_retry_after += retry_after is None
                if status != 200 and not ended:
                    time.sleep(PAUSE)
            uploader.close()

        threads = [threading.Thread(target=keep_uploading) for _ in range(uploaders)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def in_a_loop(workers: Sequence[Captioner], seconds: float, new: Photos) -> int:
    """How many captions the captioners make in that time, one each at least, all by themselves."""
    until = time.perf_counter() + seconds

    def work(captioner: Captioner) -> int:
        count = 0
        while count == 0 or time.perf_counter() < until:
            captioner.caption(new.next())
            count += 1
        return count

    with ThreadPoolExecutor(len(workers)) as threads:
        return sum(threads.map(work, workers))


def on_one_core(workers: Sequence[Captioner], seconds: float, new: Photos) -> int:
    """`in_a_loop`, of the first captioner with one core."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})  # of this thread, and of those that it starts
    try:
        with workers[-1].at_work():  # so that the first one keeps to one thread
            return in_a_loop(workers[:1], seconds, new)
    finally:
        os.sched_setaffinity(0, cores)


def crowded(
    seconds: float,
    workers: Sequence[Captioner],
    servers: dict[str, Server],
    one_worker: Server,
    viewer: Viewer,
    new: Photos,
) -> tuple[list[Goal], dict[str, Any]]:
    """The captioners in a loop and a crowd at app1, in turns; then more than the line can take.

    Args:
        one_worker: an app1 with CAPTIONER_WORKERS=1, for a crowd of its own.
    """
    app1 = servers["app1"]
    processes = {name: server.process.pid for name, server in servers.items()}
    processes["clients"] = os.getpid()
    alone = alone_on_one = 0
    spent = dict.fromkeys(processes, 0.0)
    crowd, at_one = Crowd(), Crowd()
    watches = []
    for _ in range(ROUNDS):
        alone += in_a_loop(workers, seconds / 2, new)
        alone_on_one += on_one_core(workers, seconds / 4, new)
        at_one.upload(UPLOADERS, seconds / 2, one_worker, new)
        before = cpu_seconds(processes)
        watches.append(MemoryWatch(app1.process.pid))
        crowd.upload(UPLOADERS, seconds, app1, new)
        watches[-1].close()
        for name, now in cpu_seconds(processes).items():
            spent[name] += now - before[name]
    own = alone / (ROUNDS * seconds / 2)
    on_one = max(1, alone_on_one) / (ROUNDS * seconds / 4)
    rate = max(1, crowd.in_time) / (ROUNDS * seconds)
    share = rate / own
    rate_of_one = max(1, at_one.in_time) / (ROUNDS * seconds / 2)
    p99 = percentile(crowd.seconds, 99)
    longest_wait = PLACES / rate

    too_many = Crowd()
    watches.append(MemoryWatch(app1.process.pid))
    too_many.upload(TOO_MANY, seconds / 2, app1, new)
    watches[-1].close()
    refused = too_many.statuses[503]
    orderly = (
        refused > 0
        and too_many.statuses.keys() <= {200, 503}
        and not too_many.without_retry_after
        and not too_many.broken
    )
    slowest = max(too_many.seconds + too_many.seconds_refused)
    goals = [
        Goal(
            f"{len(workers)} captioners in a loop on as many cores, beside one on one core",
            f"{0.9 * len(workers):g} times or more",
            f"{own / on_one:.2f} times",
            own >= 0.9 * len(workers) * on_one,
            f"{own:.1f} and {on_one:.1f} captions a second; more cores were not there",
        ),
        Goal(
            f"{UPLOADERS} uploaders at once for {seconds:g} s: share of the workers' own rate",
            "90 % or more",
            f"{100 * share:.0f} %",
            share >= 0.9,
            f"the captioners in a loop: {own:.1f} captions a second; app1: {rate:.1f}",
        ),
        Goal(
            f"{UPLOADERS} uploaders at once: captions a second, beside CAPTIONER_WORKERS=1",
            "1.2 times or more",
            f"{rate / rate_of_one:.2f} times",
            rate >= 1.2 * rate_of_one,
            f"one worker, with {CORES} threads: {rate_of_one:.1f} captions a second",
        ),
        Goal(
            f"{UPLOADERS} uploaders at once: p99 from upload to answer",
            f"the whole line's time, {longest_wait:.1f} s, and half of it more",
            f"{p99:.1f} s",
            p99 <= 1.5 * longest_wait,
            f"p50 {statistics.median(crowd.seconds):.1f} s",
        ),
        Goal(
            f"{TOO_MANY} uploaders at once: past the queue 503 with Retry-After, never a hang",
            "all others 503 with Retry-After",
            f"{too_many.statuses[200]} captions, {refused} times 503, "
            f"{too_many.without_retry_after} of them without Retry-After, "
            f"{too_many.broken} broken connections; the slowest answer after {slowest:.1f} s",
            orderly,
            f"p99 of a 503: {1000 * percentile(too_many.seconds_refused or [0], 99):.0f} ms",
        ),
    ]
    peak = max(watch.peak for watch in watches)
    growth = [_growth(watch) for watch in watches[:ROUNDS]]
    results = {
        "crowd": {
            "seconds": ROUNDS * seconds,
            "captions in time": crowd.in_time,
            "answers": dict(crowd.statuses),
            "broken connections": crowd.broken,
            "milliseconds to an answer": summary([1000 * s for s in crowd.seconds], 0),
            "processor milliseconds a caption": {
                name: round(1000 * s / max(1, len(crowd.seconds)), 1) for name, s in spent.items()
            },
            "seen by the viewer in all": viewer.seen,
        },
        "more than the line can take": {
            "answers": dict(too_many.statuses),
            "without Retry-After": too_many.without_retry_after,
            "broken connections": too_many.broken,
            "milliseconds to a caption": summary([1000 * s for s in too_many.seconds], 0),
            "milliseconds to a 503": summary(
                [1000 * s for s in too_many.seconds_refused or [0.0]], 0
            ),
        },
        "app1's memory": {
            "peak, MB": round(peak, 1),
            "growth in each round, MB a minute": [round(g, 2) for g in growth],
        },
    }
    return goals, results


def _growth(watch: MemoryWatch) -> float:
    """MB a minute, by a straight line through the last two thirds: the first third warms up."""
    seconds, megabytes = np.array(watch.samples[len(watch.samples) // 3 :]).T
    return 60 * float(np.polyfit(seconds - seconds[0], megabytes, 1)[0])


def memory_goals(results: dict[str, Any], photo: Path) -> list[Goal]:
    """The memory of app1 under the crowd, beside that of the original's way."""
    original = Original(photo)
    watch = MemoryWatch(original.pid)
    for _ in range(3):
        original.caption()
    watch.close()
    original.close()
    results["the original's way: peak, MB"] = round(watch.peak, 1)
    memory = results["app1's memory"]
    growth = memory["growth in each round, MB a minute"][-1]
    return [
        Goal(
            "app1's memory under that load, at its peak",
            "400 MB or less",
            f"{memory['peak, MB']:.0f} MB",
            memory["peak, MB"] <= 400,
            f"the original's way: {watch.peak:.0f} MB",
        ),
        Goal(
            "app1's memory under that load, in the last round",
            "flat: 1 % of the peak or less a minute",
            f"{growth:+.2f} MB a minute",
            growth <= 0.01 * memory["peak, MB"],
        ),
    ]


# Starting


def starting(turns: int, environment: dict[str, str]) -> tuple[list[Goal], dict[str, Any]]:
    """From the start of a process to ready, each in turn; the first turn warms the disk's cache."""

    def start(name: str) -> Callable[[], float]:
        def measured() -> float:
            server = Server(name, environment)
            try:
                return server.wait_ready(PATIENCE)
            finally:
                server.stop()

        return measured

    def import_tensorflow() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, capture_output=True)
        return time.perf_counter() - started

    ways: dict[str, Callable[[], float]] = {
        **{name: start(name) for name in ("app1", "relay", "app2")},
        "import tensorflow": import_tensorflow,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            taken = way()
            if turn:
                seconds[name].append(taken)
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    goals = [
        Goal(
            f"{name}: from process start to ready",
            f"{most:g} s or less",
            f"{middle[name]:.2f} s",
            middle[name] <= most,
            f"`import tensorflow` alone: {middle['import tensorflow']:.1f} s",
        )
        for name, most in (("app1", 3), ("relay", 1.5), ("app2", 1.5))
    ]
    return goals, {"seconds to ready": {name: summary(values) for name, values in seconds.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the result file, JSON")
    parser.add_argument("--seconds", type=float, default=60, help="of each round (default: 60)")
    parser.add_argument("--turns", type=int, default=100, help="one at a time (default: 100)")
    parser.add_argument("--starts", type=int, default=5, help="of each process (default: 5)")
    parser.add_argument("--model", default="", help="of a model folder (default: the default one)")
    arguments = parser.parse_args()
    if (cores := use_cores(CORES)) != CORES:
        print(f"This runs on {cores} core(s), not on {CORES} as it is meant to.")
    common = {"CAPTIONER_MODEL": arguments.model} if arguments.model else {}
    common["RELAY_TOKEN"] = TOKEN  # for two app1s
    with tempfile.TemporaryDirectory() as folder:
        environment = settings(Path(folder) / "state", **common)
        goals, results = starting(arguments.starts, environment)
        new = Photos()
        captioner = Captioner.load(arguments.model or None)
        workers = Captioner.load_several(CORES, arguments.model or None)
        started: list[Server] = []
        servers: dict[str, Server] = {}
        try:
            for name in ("relay", "app1"):
                servers[name] = Server(name, environment)
                servers[name].wait_ready(PATIENCE)
            one = {**settings(Path(folder) / "one", **common), "CAPTIONER_WORKERS": "1"}
            one["RELAY_PORT"] = environment["RELAY_PORT"]
            one_worker = Server("app1", one)
            started.append(one_worker)
            one_worker.wait_ready(PATIENCE)
            viewer = Viewer(servers["relay"].port)
            for more_goals, more_results in (
                one_at_a_time(arguments.turns, captioner, workers, servers["app1"], viewer, new),
                crowded(arguments.seconds, workers, servers, one_worker, viewer, new),
            ):
                goals += more_goals
                results |= more_results
            viewer.close()
        finally:
            for server in (*started, *servers.values()):
                server.stop()
        photo = Path(folder) / "photo.jpg"
        photo.write_bytes(new.next())
        goals += memory_goals(results, photo)
    command = (
        "python -m benchmarks.serving --output benchmarks/serving.json"
        f" --seconds {arguments.seconds:g} --turns {arguments.turns} --starts {arguments.starts}"
    )
    write(arguments.output, command, goals, {"model": captioner.manifest.name, **results})


if __name__ == "__main__":
    main()
