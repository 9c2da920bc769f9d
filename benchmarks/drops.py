"""Delivery under drops: connections are cut at random all the time.

    python -m benchmarks.drops

Each viewer's connection is cut again and again, at random: half of the times at once, half in
silence (`returning`). It comes back as the page does. Captions of 8 KB go out at a steady pace
meanwhile. Measured is the share of captions that each viewer has in the end, and the time from a
caption's moment to its receipt, live or later.

The relay, beside Node's socket.io as it comes, which delivers at most once, and with
`connectionStateRecovery`: the server then keeps a client's session for two minutes, from the moment
when it notices that the client has gone. When it does not notice, it may restore the session as it
was at an earlier break, under the same name; and when it notices at last, it takes the new
connection out of its rooms together with the old one. So a fourth round has no silent cuts.
"""

from __future__ import annotations

import argparse
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import Goal, percentile, use_cores, write
from benchmarks.relay import CORES, TOKEN, OurRelay, Reference, versions
from benchmarks.returning import Crowd, Publisher, cuts
from common.listening import raise_file_limit

OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python -m benchmarks.drops"
QUIET = 6.0  # seconds for which nothing comes any more, in the end: longer than a viewer waits
RELAY, NODE, KEEPING = "relay", "Node.js socket.io", "Node.js with state recovery"
NOTICED = "Node.js with state recovery, no silent cuts"


def delivered(
    port: int, viewers: int, captions: int, pace: float, every: float, silent: bool = True
) -> dict[str, Any]:
    """What came of the captions.

    Args:
        pace: seconds between two captions.
        every: seconds between two cuts of a viewer, on average.
        silent: every second cut is.
    """
    crowd = Crowd(port)
    crowd.cuts_in_silence = silent
    try:
        crowd.add(viewers)
        publisher = Publisher(crowd, TOKEN, captions, 8192, pace)
        cuts(crowd, every, lambda: not publisher.is_done)
        crowd.run(lambda: publisher.is_done, 60 + 3 * pace * captions)
        crowd.until_quiet(QUIET)
        shares = crowd.shares(captions)
        live = [milliseconds for _, milliseconds in crowd.live]
        later = [milliseconds for _, milliseconds in crowd.later]
        return {
            "cuts": sum(viewer.cuts for viewer in crowd.viewers),
            "share of the captions, all viewers": sum(shares) / len(shares),
            "share of the captions, worst viewer": min(shares),
            "viewers that have all": sum(share == 1 for share in shares),
            "came twice": crowd.twice(),
            "came live": len(live),
            "came later": len(later),
            "live, ms": _tail(live),
            "live or later, ms": _tail(live + later),
        }
    finally:
        crowd.close()


def _tail(milliseconds: list[float]) -> dict[str, float]:
    return {f"p{p}": round(percentile(milliseconds or [0.0], p), 1) for p in (50, 95, 99)}


def goals(found: dict[str, Any]) -> list[Goal]:
    """What was aimed at."""
    of = found[RELAY]
    others = [name for name in (NODE, KEEPING, NOTICED) if name in found]
    beside = "; ".join(
        f"{name}: {100 * found[name]['share of the captions, all viewers']:.1f} %, worst viewer "
        f"{100 * found[name]['share of the captions, worst viewer']:.1f} %"
        for name in others
    )
    times = "; ".join(
        f"{name}: {found[name]['live, ms']['p99']:.0f} ms, "
        f"and {found[name]['live or later, ms']['p99']:.0f} ms of what came at all"
        for name in others
    )
    return [
        Goal(
            "captions that each viewer has, connections cut at random all the time",
            "100 %, none twice",
            f"{100 * of['share of the captions, worst viewer']:.1f} %, {of['came twice']} twice",
            of["share of the captions, worst viewer"] == 1 and not of["came twice"],
            beside,
        ),
        Goal(
            "meanwhile, from a caption's moment to its receipt by those connected, p99",
            "no slower than the reference",
            f"{of['live, ms']['p99']:.0f} ms, "
            f"and {of['live or later, ms']['p99']:.0f} ms with what came later",
            all(of["live, ms"]["p99"] <= found[name]["live, ms"]["p99"] for name in others),
            times,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the result file")
    parser.add_argument("--viewers", type=int, default=500, help="(default: 500)")
    parser.add_argument("--captions", type=int, default=150, help="(default: 150)")
    parser.add_argument("--pace", type=float, default=0.25, help="seconds each (default: 0.25)")
    parser.add_argument("--every", type=float, default=6, help="seconds from cut to cut, on "
                        "average, of each viewer (default: 6)")  # fmt: skip
    arguments = parser.parse_args()
    use_cores(CORES)
    raise_file_limit(4 * arguments.viewers + 200)
    found = {}
    with tempfile.TemporaryDirectory(prefix="drops-") as folder:
        starts: dict[str, Callable[[], Any]] = {
            RELAY: lambda: OurRelay(Path(folder)),
            NODE: Reference,
            KEEPING: lambda: Reference("recovery"),
            NOTICED: lambda: Reference("recovery"),
        }
        for name, start in starts.items():
            server = start()
            try:
                found[name] = delivered(
                    server.port, arguments.viewers, arguments.captions, arguments.pace,
                    arguments.every, silent=name != NOTICED,
                )  # fmt: skip
            finally:
                server.end(signal.SIGTERM)
            print(name, found[name], flush=True)
    write(
        arguments.output,
        COMMAND,
        goals(found),
        {
            "viewers": arguments.viewers,
            "captions": arguments.captions,
            "seconds between captions": arguments.pace,
            "seconds from cut to cut of a viewer, on average": arguments.every,
            "servers": found,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
