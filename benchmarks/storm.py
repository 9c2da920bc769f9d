"""A reconnect storm: the server is killed with 2,000 viewers, and started again.

    python -m benchmarks.storm

Captions of 8 KB are published at a steady pace all the time: before, while there is no server, and
after; a publisher sends each until it is acknowledged. The viewers come back as the page does
(`returning`). The relay is once killed and once ended by SIGTERM; beside it Node's socket.io, as it
comes and with `connectionStateRecovery`, which keeps what a client misses in the server's memory.

Measured is the time until all viewers are back and each has every caption published so far; how
many captions never came, or came twice; and the time from a caption's moment to its receipt, for
those who are connected again.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.machine import Goal, percentile, use_cores, write
from benchmarks.relay import CORES, TOKEN, OurRelay, Reference, versions
from benchmarks.returning import Crowd, Publisher, between
from common.listening import raise_file_limit

OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python -m benchmarks.storm"
DOWN = 1.0  # seconds without a server
PATIENCE = 120.0  # seconds
QUIET = 6.0  # seconds for which nothing comes any more, in the end: longer than a viewer waits
MOST_SECONDS = 10  # from the start of the server until all have everything

KILLED, ENDED = "relay, killed", "relay, ended"
NODE, KEEPING = "Node.js socket.io, killed", "Node.js with state recovery, killed"


class Process(Protocol):
    """A server to be ended and started again."""

    port: int

    def start(self) -> None: ...

    def end(self, number: int) -> None: ...


def weather(server: Process, number: int, viewers: int, captions: int, pace: float) -> Any:
    """One storm.

    Args:
        number: of the signal that ends the server, after a quarter of the captions.
        pace: seconds between two captions.
    """
    crowd = Crowd(server.port)
    try:
        crowd.add(viewers)
        publisher = Publisher(crowd, TOKEN, captions, 8192, pace)
        crowd.run(lambda: publisher.acknowledged >= captions // 4, PATIENCE)
        ended = time.perf_counter()
        server.end(number)
        crowd.run(lambda: time.perf_counter() > ended + DOWN, PATIENCE)
        server.start()
        started = time.perf_counter()

        def is_over() -> bool:
            return all(viewer.is_live for viewer in crowd.viewers)

        def has_all() -> bool:
            most = publisher.acknowledged
            return is_over() and all(sum(map(bool, v.got)) >= most for v in crowd.viewers)

        crowd.run(is_over, PATIENCE)
        back = time.perf_counter()
        # Node's viewers never have all
        crowd.run(lambda: has_all() or publisher.is_done, PATIENCE)
        complete, all_have = has_all(), time.perf_counter()
        crowd.run(lambda: publisher.is_done, PATIENCE)
        crowd.until_quiet(QUIET)
        shares = crowd.shares(captions)
        after = list(between(crowd.live, started, started + QUIET)) or [0.0]
        return {
            "all are back, seconds after the start": round(back - started, 2),
            "all have everything, seconds after the start": (
                round(all_have - started, 2) if complete else None
            ),
            "captions lost by a viewer, on average": round(
                captions * (1 - sum(shares) / len(shares)), 1
            ),
            "share of the captions, worst viewer": min(shares),
            "came twice": crowd.twice(),
            "turned away": crowd.turned_away,
            "to those who are back, ms": {
                "p50": round(percentile(after, 50), 1), "p99": round(percentile(after, 99), 1),
            },
        }  # fmt: skip
    finally:
        crowd.close()


def goals(found: dict[str, Any], viewers: int) -> list[Goal]:
    """What was aimed at."""
    result = []
    beside = "; ".join(
        f"{name}: a viewer has lost {found[name]['captions lost by a viewer, on average']:.1f}"
        for name in (NODE, KEEPING)
        if name in found
    )
    for name in (KILLED, ENDED):
        of = found[name]
        seconds = of["all have everything, seconds after the start"]
        share = of["share of the captions, worst viewer"]
        result.append(
            Goal(
                f"{name} with {viewers} viewers and started again: all have every caption",
                f"{MOST_SECONDS} s after the start or sooner",
                "never" if seconds is None else f"{seconds:.1f} s",
                seconds is not None and seconds <= MOST_SECONDS,
                f"all connected after {of['all are back, seconds after the start']:.1f} s; "
                f"captions meanwhile, to those who are back: p50 / p99 "
                f"{of['to those who are back, ms']['p50']:.0f} / "
                f"{of['to those who are back, ms']['p99']:.0f} ms",
            )
        )
        result.append(
            Goal(
                f"{name}: captions that each viewer has in the end",
                "100 %, none twice",
                f"{100 * share:.1f} %, {of['came twice']} twice",
                share == 1 and not of["came twice"],
                beside,
            )
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the result file")
    parser.add_argument("--viewers", type=int, default=2000, help="(default: 2000)")
    parser.add_argument("--captions", type=int, default=60, help="(default: 60)")
    parser.add_argument("--pace", type=float, default=0.4, help="seconds each (default: 0.4)")
    arguments = parser.parse_args()
    use_cores(CORES)
    raise_file_limit(arguments.viewers + 200)
    found = {}
    with tempfile.TemporaryDirectory(prefix="storm-") as folder:
        starts: dict[str, tuple[Callable[[], Any], int]] = {
            KILLED: (lambda: OurRelay(Path(folder) / "killed"), signal.SIGKILL),
            NODE: (Reference, signal.SIGKILL),
            ENDED: (lambda: OurRelay(Path(folder) / "ended"), signal.SIGTERM),
            KEEPING: (lambda: Reference("recovery"), signal.SIGKILL),
        }
        for name, (start, number) in starts.items():
            server = start()
            try:
                found[name] = weather(
                    server, number, arguments.viewers, arguments.captions, arguments.pace
                )
            finally:
                server.end(signal.SIGTERM)
            print(name, found[name], flush=True)
    write(
        arguments.output,
        COMMAND,
        goals(found, arguments.viewers),
        {
            "viewers": arguments.viewers,
            "captions": arguments.captions,
            "seconds between captions": arguments.pace,
            "seconds without a server": DOWN,
            "storms": found,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
