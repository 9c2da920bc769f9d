"""Hours under load: nothing lost, nothing twice, memory flat, the right caption with its picture.

    python -m benchmarks.soak --minutes 60     # the committed figures
    python -m benchmarks.soak --minutes 1440   # a day

`captioner up` runs the three servers, first with the history in SQLite, for two thirds of the time,
and then in Redis. 32 uploaders send distinct photos, without end. Viewers stay, come and go, and
sleep: a sleeping one does not read its socket. Meanwhile, at moments that the seed decides,

- processes are killed (SIGKILL), one or several at once; `captioner up` starts them again;
- once the disk under the servers' state is full, for a while;
- once Redis is away: it is killed, and started again.

What an uploader is promised: a caption whose upload was answered with 200 ("delivered" or "queued")
comes to each viewer that stays, once, in order, with the words that the captioner alone finds for
that photo, and with its thumbnail. An upload that breaks off is sent again, as a new one. The last
quarter of each part has no kills: there, memory has to be flat.

No process is killed while the disk is full: what app1 has taken then is in its memory, which
docs/operations.md says.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import Goal, percentile, use_cores, write
from benchmarks.returning import Crowd
from benchmarks.servers import MemoryWatch
from benchmarks.soak_clients import (
    Expected,
    Ledger,
    Uploaders,
    Watcher,
    complete,
    expected_of,
    staying,
)
from benchmarks.soak_servers import NAMES, Disk, UpServers, away
from common.listening import raise_file_limit
from tests.kit.servers import Redis

OUTPUT = Path(__file__).with_suffix(".json")
CORES = 2
UPLOADERS = 32
PHOTOS = 512
KEEP = 10_000  # captions in the history; longer than anybody sleeps
DISK = 900  # MB
# Seconds after which the disaster comes at the latest: a history that is as long as it may be needs
# no more room, and would not notice a full disk.
DISASTER_BY = 900.0
STAY, COME_AND_GO, SLEEP = 4, 6, 3  # viewers of each kind
DISASTER = 30.0  # seconds for which the disk is full, and Redis away
SETTLES = 240.0  # seconds in which all has to have arrived
VICTIMS = (  # who is killed together
    ("relay",), ("app1",), ("app2",), ("relay",), ("app1",), ("relay", "app1"), NAMES,
)  # fmt: skip


class Trouble:
    """What is done to the servers of one part, in a thread of its own.

    Args:
        seconds: of the whole part; the last quarter is calm.
        every: seconds between two kills, on average.
        disaster: what happens once, at two fifths of the time or sooner, with its name.
        settle: returns when all that was promised has arrived, or after so many seconds.
    """

    def __init__(
        self, servers: UpServers, seconds: float, every: float, chance: random.Random,
        disaster: tuple[str, Any], settle: Any,
    ) -> None:  # fmt: skip
        self._servers = servers
        self._seconds = seconds
        self._every = every
        self._chance = chance
        self._disaster = disaster
        self._settle = settle
        self.events: list[dict[str, Any]] = []
        self.kills = dict.fromkeys(NAMES, 0)
        self.ready_again: list[float] = []
        self.failure = ""
        self._began = time.monotonic()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        try:
            self._make_trouble()
        except Exception as error:  # the main thread reports it
            self.failure = repr(error)

    def _make_trouble(self) -> None:
        calm = 0.75 * self._seconds
        disaster = min(0.4 * self._seconds, DISASTER_BY)
        done = False
        while True:
            pause = self._every * self._chance.uniform(0.5, 1.5)
            until = self._passed + pause
            if not done and until > disaster:
                self._sleep_until(disaster)
                self._meet_disaster()
                done = True
                continue
            if until > calm:
                return
            self._sleep_until(until)
            self._kill(*self._chance.choice(VICTIMS))

    @property
    def _passed(self) -> float:
        return time.monotonic() - self._began

    def _sleep_until(self, moment: float) -> None:
        time.sleep(max(0.0, moment - self._passed))

    def _note(self, what: str, **more: Any) -> None:
        self.events.append({"second": round(self._passed), "what": what, **more})

    def _kill(self, *names: str) -> None:
        self._servers.kill(*names)
        for name in names:
            self.kills[name] += 1
        began = time.monotonic()
        for name in names:
            self._servers.wait_ready(name)
        self.ready_again.append(time.monotonic() - began)
        self._note(f"killed: {', '.join(names)}", ready_again=round(self.ready_again[-1], 1))

    def _meet_disaster(self) -> None:
        name, happen = self._disaster
        self._note(f"{name}: begins")
        happen()
        self._note(f"{name}: ends")
        began = time.monotonic()
        has_settled = self._settle(SETTLES)
        what = "all has arrived" if has_settled else "not all has arrived"
        self._note(f"{name}: {what}", after=round(time.monotonic() - began, 1))


def part(
    name: str, seconds: float, arguments: argparse.Namespace, expected: list[Expected], folder: Path
) -> dict[str, Any]:
    """One part: all that happened and what came of it.

    Args:
        name: "sqlite" or "redis".
    """
    chance = random.Random(f"{arguments.seed} {name}")  # noqa: S311
    with ExitStack() as stack:
        disk = Disk(folder / f"state-{name}", DISK, mount=arguments.mount)
        stack.callback(disk.close)
        more = {"RELAY_KEEP": str(KEEP)}
        if arguments.model:
            more["CAPTIONER_MODEL"] = arguments.model
        if name == "redis":
            redis = Redis(folder / "redis")
            stack.callback(redis.kill)
            more["RELAY_MESSAGE_QUEUE"] = redis.url
        servers = UpServers(disk.folder, folder / f"{name}.log", **more)
        stack.callback(servers.stop)
        ledger = Ledger(expected)
        crowd = Crowd(servers.port["relay"], chance.randrange(2**32))
        stack.callback(crowd.close)
        for number in range(STAY + COME_AND_GO + SLEEP):
            watcher = Watcher(crowd, ledger, stays=number < STAY + SLEEP)
            if number >= STAY + SLEEP:
                watcher.come_and_go()
            else:
                watcher.connect()
                if number >= STAY:
                    watcher.sleep_and_wake()
        crowd.run(lambda: all(viewer.is_live for viewer in staying(crowd)), 60)

        def fill_disk() -> None:
            disk.fill(servers)
            time.sleep(arguments.disaster)
            disk.clear()

        arrived = threading.Event()

        def settle(patience: float) -> bool:
            arrived.clear()
            return arrived.wait(patience)

        disaster = (
            ("the disk is full", fill_disk)
            if name == "sqlite"
            else ("Redis is away", lambda: away(redis, arguments.disaster))
        )
        began = time.monotonic()
        uploaders = Uploaders(servers.port["app1"], ledger, arguments.uploaders, arguments.seed)
        uploaders.start()
        trouble = Trouble(servers, seconds, arguments.kills_every, chance, disaster, settle)
        memory: dict[str, MemoryWatch] = {}

        def look() -> bool:
            if not arrived.is_set() and complete(crowd, ledger, last=1_000):
                arrived.set()  # asked for by `settle`, in the thread that makes trouble
            passed = time.monotonic() - began
            if not memory and passed > 0.77 * seconds and not trouble.thread.is_alive():
                for each in NAMES:
                    process = servers.process(each)
                    if process is not None:
                        memory[each] = MemoryWatch(process.pid, every=1.0)
            return passed > seconds and not trouble.thread.is_alive()

        crowd.run(look, 3 * seconds + 600, every=0.5)
        for watch in memory.values():
            watch.close()
        stopping = threading.Thread(target=uploaders.stop)
        stopping.start()
        crowd.run(lambda: not stopping.is_alive(), 200)
        for watcher in staying(crowd):
            watcher.may_sleep = False
        crowd.run(lambda: not any(watcher.asleep for watcher in staying(crowd)), 200)
        crowd.run(lambda: complete(crowd, ledger), SETTLES, every=0.5)
        output = servers.output
        kinds = dict(ledger.counts)
        return {
            "minutes": round((time.monotonic() - began) / 60, 1),
            "uploads answered with a caption": len(ledger.answered),
            "shown, but not answered": sum(i not in ledger.answered for i in ledger.index),
            "viewers that stay": len(staying(crowd)),
            "distinct photos": len(expected),
            "uploaders": arguments.uploaders,
            "lost": sum(not v.has(each) for v in staying(crowd) for each in ledger.answered),
            "twice": kinds.pop("twice", 0),
            "out of order": kinds.pop("out of order", 0),
            "gaps and resets": kinds.pop("gaps", 0) + kinds.pop("resets", 0),
            "wrong captions or pictures": kinds.pop("wrong", 0),
            "what was wrong": ledger.wrong,
            "counts": dict(sorted(kinds.items())),
            "different captions": len({photo.caption for photo in expected}),
            "kills": trouble.kills,
            "ready again after a kill, seconds, p50 / longest": _ready(trouble.ready_again),
            "a disk of its own": disk.is_own,
            "failure": trouble.failure,
            "servers said that the disk is full": output.count("make room on the disk"),
            "stack traces in the logs": output.count("Traceback (most recent call last)"),
            "memory in the calm quarter": {n: _memory(w) for n, w in memory.items()},
            "events": trouble.events,
        }


def _ready(seconds: list[float]) -> list[float]:
    return [round(percentile(seconds, p), 1) for p in (50, 100)] if seconds else []


def _memory(watch: MemoryWatch) -> dict[str, float]:
    """The slope is that of a straight line through the last two thirds."""
    samples = watch.samples[len(watch.samples) // 3 :]
    seconds, megabytes = np.array(samples).T
    slope = float(np.polyfit(seconds - seconds[0], megabytes, 1)[0]) if len(samples) > 2 else 0.0
    return {
        "peak, MB": round(watch.peak, 1),
        "growth, MB a minute": round(60 * slope, 3),
        "minutes": round((samples[-1][0] - samples[0][0]) / 60, 1),
    }


def goals(parts: dict[str, dict[str, Any]]) -> list[Goal]:
    """What was aimed at."""

    def total(key: str) -> int:
        return sum(int(of[key]) for of in parts.values())

    any_part = next(iter(parts.values()))
    minutes = sum(of["minutes"] for of in parts.values())
    kills = sum(sum(of["kills"].values()) for of in parts.values())
    answered, viewers = total("uploads answered with a caption"), max(
        of["viewers that stay"] for of in parts.values()
    )  # fmt: skip
    found = [
        Goal(
            f"{minutes:.0f} minutes of uploads, {kills} kills, a full disk, Redis away: "
            f"captions lost, of {answered} to each of {viewers} viewers",
            "0",
            str(total("lost")),
            total("lost") == 0 and not any(of["failure"] for of in parts.values()),
            f"{total('shown, but not answered')} more were shown whose upload broke off; "
            f"{total('servers said that the disk is full')} times a server said that the disk "
            "is full",
        ),
        Goal(
            "captions that came twice, out of order, or after a gap",
            "0",
            str(total("twice") + total("out of order") + total("gaps and resets")),
            total("twice") + total("out of order") + total("gaps and resets") == 0,
            f"{sum(of['counts'].get('connections of viewers', 0) for of in parts.values())} "
            "connections of viewers",
        ),
        Goal(
            "captions with other words or another picture than the photo's own",
            "0",
            str(total("wrong captions or pictures")),
            total("wrong captions or pictures") == 0,
            f"{any_part['distinct photos']} distinct photos, {any_part['uploaders']} at a time",
        ),
    ]
    for name, of in parts.items():
        for server, memory in of["memory in the calm quarter"].items():
            growth = memory["growth, MB a minute"]
            found.append(
                Goal(
                    f"{server}'s memory under that load, history in {_STORES[name]}",
                    "flat: 1 % of the peak or less a minute",
                    f"{growth:+.2f} MB a minute",
                    growth <= 0.01 * memory["peak, MB"],
                    f"peak {memory['peak, MB']:.0f} MB; {memory['minutes']:g} minutes",
                )
            )
    return found


_STORES = {"sqlite": "SQLite", "redis": "Redis"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the result file")
    parser.add_argument("--minutes", type=float, default=60, help="(default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is left to chance")
    parser.add_argument("--kills-every", type=float, default=150, help="seconds (default: 150)")
    parser.add_argument("--disaster", type=float, default=DISASTER, help="seconds (default: 30)")
    parser.add_argument("--uploaders", type=int, default=UPLOADERS, help="(default: 32)")
    parser.add_argument("--photos", type=int, default=PHOTOS, help="(default: 512)")
    parser.add_argument("--model", help="folder of the model (default: the default model)")
    parser.add_argument("--no-mount", dest="mount", action="store_false", help="fill no real disk")
    parser.add_argument("--note", default="", help="about the machine, for the result file")
    run(parser.parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Both parts, and the result file."""
    use_cores(CORES)
    raise_file_limit(4_000)
    expected = expected_of(arguments.photos, arguments.model)
    parts = {}
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        for name, share in (("sqlite", 2 / 3), ("redis", 1 / 3)):
            seconds = 60 * share * arguments.minutes
            parts[name] = part(name, seconds, arguments, expected, Path(folder))
            print(name, parts[name], flush=True)
    write(
        arguments.output,
        f"python -m benchmarks.soak --minutes {arguments.minutes:g} --seed {arguments.seed}",
        goals(parts),
        {"seed": arguments.seed, "note": arguments.note, "parts": parts},
    )


if __name__ == "__main__":
    main()
