"""Writes the tables of `benchmarks/README.md` from the result files beside it.

python -m benchmarks.table
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
START, END = "<!-- tables: python -m benchmarks.table -->", "<!-- /tables -->"


def tables(folder: Path = FOLDER) -> str:
    """Goals and figures of every result file that has goals, and where the time goes."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in _files(folder)}
    results = {name: content for name, content in found.items() if "goals" in content}
    if not results:
        return "No result file is here yet."
    blocks = [_goals(results)]
    if captions := results.get("captions"):
        blocks.append(_parts(captions["where a caption's time goes"]))
    if serving := results.get("serving"):
        blocks.append(_processors(serving["crowd"]["processor milliseconds a caption"]))
    return "\n\n".join([*blocks, *map(_machine, results.items())])


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.json"))


def _goals(results: Mapping[str, Any]) -> str:
    lines = ["| what | goal | measured | | beside it, in the same run | file |", "|---" * 6 + "|"]
    for name, content in results.items():
        for goal in content["goals"]:
            cells = (
                goal["what"], goal["goal"], f"**{goal['measured']}**",
                "" if goal["met"] else "falls short", goal["beside"], f"[{name}]({name}.json)",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _parts(parts: Mapping[str, float]) -> str:
    steps = parts["number of steps"]
    times = {name: value for name, value in parts.items() if name != "number of steps"}
    whole = sum(times.values())
    lines = ["| part of a caption, beam 3 | ms, p50 | share |", "|---|---|---|"]
    for name, value in times.items():
        label = f"{name} ({steps:g} of them)" if name == "decoder steps" else name
        lines.append(f"| {label} | {value:.2f} | {100 * value / whole:.0f} % |")
    return "\n".join(lines)


def _processors(times: Mapping[str, float]) -> str:
    lines = ["| process, under the crowd | processor time a caption, ms |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {value:g} |" for name, value in times.items())])


def _machine(result: tuple[str, Any]) -> str:
    name, content = result
    machine = content["machine"]
    return (
        f"`{name}`: `{content['command']}`, on {machine['cores_used']} cores of "
        f"{machine['processor']}, {machine['memory_gb']:g} GB, {machine['system']}, "
        f"Python {machine['python']}."
    )


def main() -> None:
    readme = FOLDER / "README.md"
    text = readme.read_text(encoding="utf-8")
    block = f"{START}\n{tables()}\n{END}"
    pattern = re.escape(START) + ".*?" + re.escape(END)
    readme.write_text(re.sub(pattern, lambda _: block, text, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    main()
