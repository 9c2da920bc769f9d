"""Memory for each connection, with 1,000 to 5,000 viewers: the relay beside Node's socket.io.

    python -m benchmarks.crowd

Each server in turn is started anew, gets its viewers over WebSockets, passes some predictions of
8 KB on to them, and then gets more viewers. Memory is what is resident after the predictions, less
what was before the first viewer; the medians over the rounds count. In the same run, the time from
a prediction to its receipt.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.machine import Goal, percentile, use_cores, write
from benchmarks.relay import CORES, DEFAULT, REFERENCE, TOKEN, Running, reference, relay, versions
from benchmarks.relay_load import Connection, load
from common.listening import raise_file_limit

OUTPUT = Path(__file__).with_suffix(".json")
COMMAND = "python -m benchmarks.crowd"
SIZES = (1_000, 2_000, 5_000)  # viewers
CENTRIFUGO = 30  # kB a connection, by its authors: 1 million connections in 27 GB
SETTLES = 1.0  # seconds after the last prediction


def grown(server: Running, sizes: Sequence[int], messages: int, size: int, pace: float) -> Any:
    """What a server needs for a crowd that grows, by the number of viewers.

    Args:
        messages: predictions of `size` bytes, one each `pace` seconds, to each crowd.
    """
    process = psutil.Process(server.pid)
    publisher = Connection(server.port, {"token": TOKEN, "viewer": False})
    publisher.wait_for(b"40")
    viewers: list[Connection] = []
    found = {}
    empty = process.memory_info().rss
    try:
        for wanted in sizes:
            while len(viewers) < wanted:
                viewers.append(Connection(server.port, {}))
                viewers[-1].wait_for(b'42["history"')
            for viewer in viewers:
                viewer.received = 0
            times = load(publisher, viewers, messages, size, pace)["arrivals"]
            time.sleep(SETTLES)
            resident = process.memory_info().rss
            found[wanted] = {
                "memory, MB": resident / 1e6,
                "kB a connection": (resident - empty) / wanted / 1e3,
                "p50": percentile(times, 50),
                "p99": percentile(times, 99),
            }
    finally:
        for connection in (publisher, *viewers):
            connection.socket.close()
    return found


def goals(medians: dict[str, dict[int, dict[str, float]]]) -> list[Goal]:
    """What was aimed at, from the medians of both servers."""
    ours, node = medians[DEFAULT], medians[REFERENCE]
    found = []
    for viewers, of in ours.items():
        needed = of["kB a connection"]
        found.append(
            Goal(
                f"memory of the relay for each of {viewers} viewers",
                f"{CENTRIFUGO} kB or less, as Centrifugo publishes",
                f"{needed:.0f} kB",
                needed <= CENTRIFUGO,
                f"Node.js: {node[viewers]['kB a connection']:.0f} kB",
            )
        )
    largest = max(ours)
    found.append(
        Goal(
            f"prediction to {largest} viewers, p50 / p99",
            "no slower than the reference",
            f"{ours[largest]['p50']:.0f} / {ours[largest]['p99']:.0f} ms",
            all(ours[largest][key] <= node[largest][key] for key in ("p50", "p99")),
            f"Node.js: {node[largest]['p50']:.0f} / {node[largest]['p99']:.0f} ms",
        )
    )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="the result file")
    parser.add_argument("--messages", type=int, default=10, help="to each crowd (default: 10)")
    parser.add_argument("--bytes", type=int, default=8192, help="of a prediction (default: 8192)")
    parser.add_argument("--pace", type=float, default=0.4, help="seconds each (default: 0.4)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    arguments = parser.parse_args()
    use_cores(CORES)
    raise_file_limit(max(SIZES) + 200)
    rounds: dict[str, list[Any]] = {REFERENCE: [], DEFAULT: []}
    for number in range(arguments.rounds):
        for name in (REFERENCE, DEFAULT) if number % 2 else (DEFAULT, REFERENCE):
            with reference() if name == REFERENCE else relay(DEFAULT) as server:
                load_of = (arguments.messages, arguments.bytes, arguments.pace)
                rounds[name].append(grown(server, SIZES, *load_of))
            print(name, rounds[name][-1])
    medians = {
        name: {
            viewers: {
                key: round(statistics.median(each[viewers][key] for each in of_one), 1)
                for key in of_one[0][viewers]
            }
            for viewers in SIZES
        }
        for name, of_one in rounds.items()
    }
    write(
        arguments.output,
        COMMAND,
        goals(medians),
        {
            "predictions to each crowd": arguments.messages,
            "bytes of a prediction": arguments.bytes,
            "rounds": arguments.rounds,
            "medians of the rounds, by viewers": medians,
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
