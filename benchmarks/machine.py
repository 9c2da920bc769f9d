"""What a benchmark ran on, how often, and the file that keeps it: what all benchmarks here share.

Figures are comparable within one run only. So what is compared is measured in turns (`in_turns`),
and the description of the machine says nothing that would find it again: no names, no paths.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psutil

PACKAGES = ("ai-edge-litert", "numpy", "opencv-python", "flask", "waitress", "python-socketio",
            "eventlet", "tensorflow", "keras")  # fmt: skip


class Way(NamedTuple):
    """One of the things that are compared: what to call, and how often in one turn."""

    call: Callable[[], Any]
    calls: int = 1


def in_turns(ways: Mapping[str, Way], turns: int) -> dict[str, list[float]]:
    """Milliseconds of each call of each way: A B C, then B C A, then C A B, and so on.

    What makes the machine slower for a while, thus, does so to all of them. The first turn warms up
    and does not count.
    """
    names = list(ways)
    milliseconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(turns + 1):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(ways[name].calls):
                started = time.perf_counter()
                ways[name].call()
                if turn:
                    milliseconds[name].append(1000 * (time.perf_counter() - started))
    return milliseconds


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of the values that so many percent of them do not exceed."""
    rank = -(-len(values) * percent // 100)
    return sorted(values)[max(0, int(rank) - 1)]


def summary(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median, tails and number of some measurements."""
    return {
        "p50": round(statistics.median(values), digits),
        "p95": round(percentile(values, 95), digits),
        "p99": round(percentile(values, 99), digits),
        "least": round(min(values), digits),
        "number": len(values),
    }


class Goal(NamedTuple):
    """What was aimed at and what came out.

    Args:
        what: is measured, in words.
        goal: in words, with its unit.
        measured: in that unit.
        met: whether the goal is reached.
        beside: what else was measured in the same run, to compare with.
    """

    what: str
    goal: str
    measured: str
    met: bool
    beside: str = ""


def use_cores(count: int) -> int:
    """Keep this process, and what it starts from now on, on so many cores; how many they are."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(packages: Iterable[str] = PACKAGES) -> dict[str, Any]:
    """The machine, and the versions of what matters on it."""
    versions = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores_used": cores,
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": versions,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()


def write(
    output: Path,
    command: str,
    goals: Iterable[Goal],
    results: Mapping[str, Any],
    packages: Iterable[str] = PACKAGES,
) -> None:
    """Write the result file, and show it.

    Args:
        command: that makes the file again.
        results: everything else that was measured.
        packages: whose versions matter.
    """
    content = {
        "command": command,
        "machine": describe(packages),
        "goals": [goal._asdict() for goal in goals],
        **results,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False)
    output.write_text(text + "\n", encoding="utf-8")
    print(text)
