"""Counts the corpus by kind, and writes it to a folder if one is named, a file a case."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tests.hostile.frames import frames, polling, refused_events
from tests.hostile.pictures import PARTS
from tests.hostile.web import malformed, uploads


def everything() -> Iterator[tuple[str, str, str, bytes]]:
    """Where it is sent, kind, name, bytes."""
    for case in (case for part in PARTS for case in part()):
        yield "pictures", case.kind, case.name, case.data
    for case in (*malformed("/api/captions"), *uploads()):
        yield "requests", case.kind, case.name, case.data
    for case in polling():
        yield "relay", case.kind, case.name, case.data
    for kind, name, data in frames():
        yield "relay", kind, name, data
    for name, event in refused_events():
        yield "relay", "event", name, json.dumps(event).encode()


def main(folder: Path | None) -> None:
    counts: Counter[str] = Counter()
    for part, kind, name, data in everything():
        label = f"{part}: {kind}"
        counts[label] += 1
        if folder:
            short = re.sub(r"[^A-Za-z0-9]+", "-", f"{kind} {name}")[:80]
            path = folder / part / f"{short}-{counts[label]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    for label, count in counts.items():
        print(f"{count:5}  {label}")
    print(f"{sum(counts.values()):5}  in all")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
