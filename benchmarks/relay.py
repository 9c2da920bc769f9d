"""A prediction to many viewers: the relay, in each async mode, beside Node's own socket.io server.

    python -m benchmarks.relay --output benchmarks/relay.json

Needs Node.js and npm; the reference server is in `benchmarks/node`, and what it needs is installed
there. Each server in turn is started anew, gets its viewers over WebSockets (`relay_load`), and
passes on predictions at a steady pace; that is repeated, and the medians over the rounds count.
Measured is the time from the moment before a prediction is sent to its receipt, over all viewers
and predictions; each viewer has to get each prediction once, in order.

Not the same work: the relay checks each prediction and waits until it is on the disk before it
tells any viewer, and the reference does neither. So the default mode runs a second time with its
history in memory, where the system has a folder there: what is left is the broadcast.

Where the time goes, on eventlet: `storing` is the wait for the disk, before any viewer is told.
From the first viewer to the last it is writing to the network, once a viewer, which costs the
kernel as much for any server. The relay's own work is one frame for all, and a few calls a viewer
(`SocketIO_server/transport/direct_send.py`). The viewers, all in one process, use the other core
meanwhile.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.machine import Goal, percentile, use_cores, write
from benchmarks.servers import PATIENCE, MemoryWatch, cpu_seconds, settings
from tests.kit.servers import Server, free_port

CORES = 2
NODE = Path(__file__).with_name("node")
MEMORY = Path("/dev/shm")  # noqa: S108  a file system in memory, on Linux
DEFAULT, REFERENCE, BROADCAST = "eventlet", "node", "eventlet, history in memory"
TOKEN = "of-the-benchmark"  # noqa: S105
MOST_MEMORY = 120  # MB
MOST_TIMES = 1.6  # the reference's time, on eventlet


class Running(NamedTuple):
    """A server that is ready, and the milliseconds it has spent so far on storing predictions."""

    pid: int
    port: int
    storing: Callable[[], float]


class Reference:
    """Node's server, from npm; ready when this returns.

    Args:
        arguments: of `server.js`, after its port.
    """

    def __init__(self, *arguments: str) -> None:
        self._program = _program("node")
        if not (NODE / "node_modules" / "socket.io").is_dir():
            options = ["--no-package-lock", "--no-audit", "--no-fund", "--silent"]
            subprocess.run([_program("npm"), "install", *options], cwd=NODE, check=True)
        self.port = free_port()
        self._arguments = arguments
        self.start()

    def start(self) -> None:
        """Start it, again after an end, at the same port; until it is ready."""
        command = [self._program, "server.js", str(self.port), *self._arguments]
        self.process = subprocess.Popen(command, cwd=NODE, stdout=subprocess.PIPE)
        assert self.process.stdout is not None  # noqa: S101
        if self.process.stdout.readline().strip() != b"ready":
            raise RuntimeError("The reference server has not started.")

    def end(self, number: int = signal.SIGTERM) -> None:
        """By a signal."""
        self.process.send_signal(number)
        self.process.wait()
        assert self.process.stdout is not None  # noqa: S101
        self.process.stdout.close()


@contextmanager
def reference(*arguments: str) -> Iterator[Running]:
    """Node's server."""
    server = Reference(*arguments)
    try:
        yield Running(server.process.pid, server.port, lambda: 0.0)
    finally:
        server.end()


class OurRelay:
    """The relay, with its history in a folder; ready when this returns."""

    def __init__(self, state: Path, mode: str = DEFAULT) -> None:
        self.server = Server("relay", settings(state, RELAY_ASYNC_MODE=mode, RELAY_TOKEN=TOKEN))
        self.port = self.server.port
        self.server.wait_ready(PATIENCE)

    @property
    def process(self) -> subprocess.Popen[str]:
        return self.server.process

    def start(self) -> None:
        """Start it again after an end, at the same port; until it is ready."""
        self.server.start()
        self.server.wait_ready(PATIENCE)

    def end(self, number: int = signal.SIGTERM) -> None:
        """By a signal."""
        self.process.send_signal(number)
        self.server.wait_ended()


@contextmanager
def relay(mode: str, memory: Path | None = None) -> Iterator[Running]:
    """The relay with an empty history, on the disk of temporary files or in `memory`."""
    with tempfile.TemporaryDirectory(dir=memory, prefix="relay-") as state:
        ours = OurRelay(Path(state), mode)

        def storing() -> float:
            return 1000 * ours.server.metric("relay_storing_seconds_sum")

        try:
            yield Running(ours.process.pid, ours.port, storing)
        finally:
            ours.end()


def _program(name: str) -> str:
    found = shutil.which(name)
    if not found:
        sys.exit(f"{name} is missing; install Node.js with npm, 18 or newer.")
    return found


def servers() -> dict[str, Callable[[], Any]]:
    """How to start each server that can run here, by its name; the reference first."""
    modes = [mode for mode in (DEFAULT, "gevent", "threading") if find_spec(mode) is not None]
    starts: dict[str, Callable[[], Any]] = {REFERENCE: reference}
    starts.update({mode: partial(relay, mode) for mode in modes})
    if MEMORY.is_dir():
        starts[BROADCAST] = partial(relay, DEFAULT, MEMORY)
    return starts


def measure(server: Running, arguments: argparse.Namespace) -> dict[str, float]:
    """One round with one server: milliseconds, but for `memory`, MB, at its peak."""
    numbers = (server.port, arguments.viewers, arguments.messages, arguments.bytes, arguments.pace)
    with ExitStack() as stack:
        load = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.relay_load", *map(str, numbers)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        assert load.stdin is not None  # noqa: S101
        assert load.stdout is not None  # noqa: S101
        stack.callback(load.stdin.close)
        memory = MemoryWatch(server.pid)
        stack.callback(memory.close)
        load.stdin.write(TOKEN + "\n")
        load.stdin.flush()
        if not load.stdout.readline():  # all viewers are connected
            raise RuntimeError("The viewers could not connect; their error is above.")
        processes = {"server": server.pid, "client": load.pid}
        before, stored_before = cpu_seconds(processes), server.storing()
        line = load.stdout.readline()
        if not line:
            raise RuntimeError("The load has failed; its error is above.")
        after, stored = cpu_seconds(processes), server.storing()
        peak = memory.peak
    times = json.loads(line)
    return {
        "p50": percentile(times["arrivals"], 50),
        "p99": percentile(times["arrivals"], 99),
        "first viewer": statistics.median(times["first"]),
        "last viewer": statistics.median(times["last"]),
        "acknowledged": statistics.median(times["acknowledged"]),
        "storing": (stored - stored_before) / times["sent"],
        **{
            f"processor, {name}": 1000 * (after[name] - before[name]) / times["sent"]
            for name in processes
        },
        "memory": peak,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the result file")
    parser.add_argument("--viewers", type=int, default=500, help="(default: 500)")
    parser.add_argument("--messages", type=int, default=40, help="in a round (default: 40)")
    parser.add_argument("--bytes", type=int, default=8192, help="of a prediction (default: 8192)")
    parser.add_argument("--pace", type=float, default=0.5, help="seconds each (default: 0.5)")
    parser.add_argument("--rounds", type=int, default=5, help="(default: 5)")
    arguments = parser.parse_args()
    use_cores(CORES)
    starts = servers()
    names = list(starts)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            with starts[name]() as server:
                rounds[name].append(measure(server, arguments))
            print(name, {key: round(value, 1) for key, value in rounds[name][-1].items()})
    medians = {
        name: {key: statistics.median(each[key] for each in of_one) for key in of_one[0]}
        for name, of_one in rounds.items()
    }
    write(
        arguments.output,
        "python -m benchmarks.relay --output benchmarks/relay.json",
        goals(medians, arguments.viewers),
        {
            "viewers": arguments.viewers,
            "predictions in a round": arguments.messages,
            "bytes of a prediction": arguments.bytes,
            "seconds between predictions": arguments.pace,
            "rounds": arguments.rounds,
            "all delivered, once and in order": True,  # else the load has raised
            "medians of the rounds, ms and MB": _rounded(medians),
            "times the reference": {
                name: {key: round(of[key] / medians[REFERENCE][key], 2) for key in ("p50", "p99")}
                for name, of in medians.items()
            },
            "p50 of each round, ms": {
                name: [round(each["p50"], 1) for each in of_one] for name, of_one in rounds.items()
            },
            "p99 of each round, ms": {
                name: [round(each["p99"], 1) for each in of_one] for name, of_one in rounds.items()
            },
            "versions": versions(),
        },
    )


def _rounded(medians: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {
        name: {key: round(value, 1) for key, value in of.items()} for name, of in medians.items()
    }


def goals(medians: dict[str, dict[str, float]], viewers: int) -> list[Goal]:
    """What was aimed at, from the medians of each server."""
    node = medians[REFERENCE]
    modes = [name for name in medians if name not in (REFERENCE, BROADCAST)]
    best = min(modes, key=lambda name: medians[name]["p50"])

    def times(name: str, key: str) -> float:
        return medians[name][key] / node[key]

    def both(name: str) -> str:
        of = medians[name]
        return (
            f"{of['p50']:.1f} / {of['p99']:.1f} ms, "
            f"{times(name, 'p50'):.2f} / {times(name, 'p99'):.2f} times"
        )

    beside = f"Node.js socket.io: {node['p50']:.1f} / {node['p99']:.1f} ms"
    what = f"prediction to {viewers} viewers, p50 / p99"
    apart = f"; {BROADCAST}: {both(BROADCAST)}" if BROADCAST in medians else ""
    return [
        Goal(
            f"{what}, on eventlet",
            f"at most {MOST_TIMES} times the reference's",
            both(DEFAULT),
            all(times(DEFAULT, key) <= MOST_TIMES for key in ("p50", "p99")),
            beside,
        ),
        Goal(
            f"{what}, in the best mode ({best})",
            "no slower than the reference",
            both(best),
            all(times(best, key) <= 1 for key in ("p50", "p99")),
            beside + apart,
        ),
        Goal(
            f"memory of the relay with {viewers} viewers, peak",
            f"<= {MOST_MEMORY} MB",
            f"{medians[DEFAULT]['memory']:.0f} MB",
            medians[DEFAULT]["memory"] <= MOST_MEMORY,
            f"Node.js: {node['memory']:.0f} MB",
        ),
    ]


def versions() -> dict[str, str]:
    """Of what the servers are built on."""
    package = NODE / "node_modules" / "socket.io" / "package.json"
    found = {
        "node": subprocess.run(
            [_program("node"), "--version"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "socket.io": str(json.loads(package.read_text(encoding="utf-8"))["version"]),
    }
    for name in ("python-socketio", "python-engineio", "eventlet", "gevent", "simple-websocket"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
