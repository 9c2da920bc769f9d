"""Writes the tables of `docs/scaling.md` from the result files in `benchmarks/`.

python docs/scaling.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
BENCHMARKS = FOLDER.parent / "benchmarks"
START, END = "<!-- table: python docs/scaling.py -->", "<!-- /table -->"
CLUSTER_START, CLUSTER_END = "<!-- cluster: python docs/scaling.py -->", "<!-- /cluster -->"

MEMORY = "app1's memory"

Result = Mapping[str, Any]


def table(results: Mapping[str, Result]) -> str:
    """What one machine bears, in Markdown.

    Args:
        results: the contents of the result files of ROWS, by these names.
    """
    lines = ["| one machine, all three servers | measured | file |", "|---|---|---|"]
    for name, rows_of in ROWS.items():
        link = f"[{name}](../benchmarks/{name}.json)"
        lines += [f"| {what} | {measured} | {link} |" for what, measured in rows_of(results[name])]
    machines = {_machine(results[name]) for name in ROWS}
    return "\n".join([*lines, "", f"Measured on {'; and on '.join(sorted(machines))}."])


def cluster_table(cluster: Result, captions: Result) -> str:
    """What a node of a Ray cluster does, and what large collections cost, in Markdown.

    Args:
        cluster, captions: the contents of `cluster.json` and `captions.json`.
    """
    rates, start = cluster["captions a second"], cluster["seconds to start and end"]
    cores = cluster["machine"]["cores_used"]
    times = captions["milliseconds"]
    ordinary = 1000 * cores / rates["ray"]  # milliseconds of a core
    large = ordinary + times["caption, 12 megapixels"]["p50"] - times["caption"]["p50"]
    file, other = "[cluster](../benchmarks/cluster.json)", "[captions](../benchmarks/captions.json)"
    lines = ["| a collection | measured, or computed from it | file |", "|---|---|---|"]
    rows = (
        (
            f"captions a second and node of {cores} cores, `captioner ray` "
            "(`captioner caption` beside it)",
            f"{rates['ray']:.1f} ({rates['caption']:.1f})",
            file,
        ),
        (
            "seconds to start and end, likewise",
            f"{start['ray']:.1f} ({start['caption']:.1f})",
            file,
        ),
        (
            "core hours, a million / a billion ordinary photos",
            _core_hours(ordinary),
            file,
        ),
        (
            "core hours, a million / a billion photos of 12 megapixels",
            _core_hours(large),
            f"{file}, {other}",
        ),
    )
    return "\n".join(
        [
            *lines,
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            f"Measured on {_machine(cluster, '')}.",
        ]
    )


def _core_hours(milliseconds: float) -> str:
    """Those of a million and of a billion photos that take so long each."""
    hours = milliseconds / 1000 / 3600 * 1e6
    return f"{hours:.1f} / {1000 * hours:,.0f}"


def _serving(result: Result) -> list[tuple[str, str]]:
    seen = result["milliseconds, one at a time"]["upload to viewer"]
    crowd = result["crowd"]
    wait = crowd["milliseconds to an answer"]
    processor = crowd["processor milliseconds a caption"]
    return [
        ("captions a second, new photos", f"{crowd['captions in time'] / crowd['seconds']:.1f}"),
        (
            "upload to the viewer's screen, one at a time, p50 / p95",
            f"{seen['p50']:.0f} / {seen['p95']:.0f} ms",
        ),
        (
            "32 people who upload without pause: a caption after, p50 / p99",
            f"{wait['p50'] / 1000:.1f} / {wait['p99'] / 1000:.1f} s",
        ),
        ("processor time a caption, app1", f"{processor['app1']:.0f} ms"),
        ("processor time a caption, relay, one viewer", f"{processor['relay']:.1f} ms"),
        ("memory, app1, peak", f"{result[MEMORY]['peak, MB']:.0f} MB"),
    ]


def _relay(result: Result) -> list[tuple[str, str]]:
    viewers, medians = result["viewers"], result["medians of the rounds, ms and MB"]
    ours, node = medians["eventlet"], medians["node"]
    size = result["bytes of a prediction"] / 1024
    spent = ours["processor, server"]
    return [
        (
            f"a caption of {size:g} KB to {viewers} viewers, p50 / p99 "
            "(Node.js socket.io beside it)",
            f"{ours['p50']:.0f} / {ours['p99']:.0f} ms ({node['p50']:.0f} / {node['p99']:.0f} ms)",
        ),
        ("of that, waiting for the disk", f"{ours['storing']:.1f} ms"),
        (f"processor time for one such caption, relay, {viewers} viewers", f"{spent:.0f} ms"),
        (
            f"such captions a second to {viewers} viewers that would fill a core",
            f"{1000 / spent:.0f}",
        ),
        (f"memory, relay, {viewers} viewers, peak", f"{ours['memory']:.0f} MB"),
    ]


def _crowd(result: Result) -> list[tuple[str, str]]:
    medians = result["medians of the rounds, by viewers"]
    ours, node = medians["eventlet"], medians["node"]
    return [
        (
            f"memory, relay, each of {int(viewers):,} viewers (Node.js)",
            f"{ours[viewers]['kB a connection']:.0f} kB "
            f"({node[viewers]['kB a connection']:.0f} kB)",
        )
        for viewers in ours
    ]


def _storm(result: Result) -> list[tuple[str, str]]:
    killed = result["storms"]["relay, killed"]
    return [
        (
            f"the relay is killed with {result['viewers']:,} viewers and started again: all have "
            "everything",
            f"after {killed['all have everything, seconds after the start']:.1f} s",
        )
    ]


def _drops(result: Result) -> list[tuple[str, str]]:
    ours, node = result["servers"]["relay"], result["servers"]["Node.js socket.io"]
    every = result["seconds from cut to cut of a viewer, on average"]
    share = "share of the captions, all viewers"
    return [
        (
            f"each viewer's connection is cut every {every:g} s: captions that arrive (Node.js)",
            f"{100 * ours[share]:.1f} % ({100 * node[share]:.1f} %)",
        )
    ]


def _soak(result: Result) -> list[tuple[str, str]]:
    parts = result["parts"].values()
    minutes = sum(part["minutes"] for part in parts)
    kills = sum(sum(part["kills"].values()) for part in parts)
    answered = sum(part["uploads answered with a caption"] for part in parts)
    lost, twice = (sum(part[key] for part in parts) for key in ("lost", "twice"))
    return [
        (
            f"{minutes:.0f} minutes with {kills} kills, a full disk and Redis away: captions lost, "
            "and shown twice",
            f"{lost} and {twice} of {answered:,}",
        )
    ]


ROWS = {
    "serving": _serving, "relay": _relay, "crowd": _crowd, "storm": _storm, "drops": _drops,
    "soak": _soak,
}  # fmt: skip


def _machine(result: Result, shared: str = "which the clients of the benchmark share, ") -> str:
    machine = result["machine"]
    return (
        f"{machine['cores_used']} cores of {machine['processor']}, {shared}"
        f"{machine['memory_gb']:g} GB, {machine['system']}, Python {machine['python']}"
    )


def main() -> None:
    results = {
        name: json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))
        for name in (*ROWS, "cluster", "captions")
    }
    page = FOLDER / "scaling.md"
    text = page.read_text(encoding="utf-8")
    for start, made, end in (
        (START, table(results), END),
        (CLUSTER_START, cluster_table(results["cluster"], results["captions"]), CLUSTER_END),
    ):
        pattern = re.escape(start) + ".*?" + re.escape(end)
        block = f"{start}\n{made}\n{end}"
        text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)  # type: ignore[misc]
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
