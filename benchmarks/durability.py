"""What it costs that a caption is on the disk itself before it is acknowledged.

    python -m benchmarks.durability --output benchmarks/durability.json

SQLite can wait for the disk at each commit (synchronous=FULL, as app1's outbox and the relay's
history do) or, in WAL mode, at checkpoints only (NORMAL), where a power cut takes the commits since
the last one. In turns: a caption with its thumbnail put into either of them, in both ways, and the
same bytes written to a plain file and synced, which is what the disk itself takes.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from app1.outbox import Outbox
from benchmarks.machine import Way, in_turns, summary, write
from SocketIO_server import messages
from SocketIO_server.stores.sqlite import SqliteStore

THUMBNAIL_BYTES = 60_000  # as large as that of an ordinary photo
CALLS = 10  # in one turn
KEEP = 1_000


Keeper = TypeVar("Keeper", Outbox, SqliteStore)


def hasty(keeper: Keeper) -> Keeper:
    """Let it not wait for the disk."""
    transaction = keeper._file.transaction
    keeper._file.transaction = lambda durable=False: transaction(False)  # type: ignore[method-assign]
    return keeper


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="the result file")
    parser.add_argument("--turns", type=int, default=30, help="turns (default: 30)")
    parser.add_argument(
        "--folder", type=Path, help="on the disk to measure (default: that of the checkout)"
    )
    arguments = parser.parse_args()
    folder = arguments.folder or Path(__file__).resolve().parent
    with tempfile.TemporaryDirectory(dir=folder, prefix=".durability-") as place, ExitStack() as s:
        milliseconds = in_turns(ways(Path(place), s), arguments.turns)
    median = {name: statistics.median(values) for name, values in milliseconds.items()}
    write(
        arguments.output,
        "python -m benchmarks.durability --output benchmarks/durability.json",
        [],
        {
            "thumbnail bytes": THUMBNAIL_BYTES,
            "milliseconds": {name: summary(values) for name, values in milliseconds.items()},
            "more for FULL than for NORMAL, ms, p50": {
                name: round(median[f"{name}, FULL"] - median[f"{name}, NORMAL"], 2)
                for name in ("outbox", "history")
            },
        },
    )


def ways(folder: Path, stack: ExitStack) -> dict[str, Way]:
    """A caption put into outbox and history in either way, and plainly written and synced.

    Args:
        stack: closes the files.
    """
    numbers = itertools.count()
    picture = b"\xff\xd8\xff" + os.urandom(THUMBNAIL_BYTES - 3)
    plain = stack.enter_context((folder / "plain").open("ab", buffering=0))

    def payload() -> dict[str, Any]:
        text = "A brown dog runs on the green grass ."
        return {"id": f"i{next(numbers)}", "caption": text, "thumbnail": picture}

    def write_plainly() -> None:
        plain.write(picture)
        os.fsync(plain.fileno())

    def into(outbox: Outbox) -> Way:
        stack.callback(outbox.close)
        return Way(lambda: outbox.add("predict", payload()), CALLS)

    def kept_in(store: SqliteStore) -> Way:
        stack.callback(store.close)
        return Way(lambda: store.append(messages.predict(payload())), CALLS)

    def store(name: str) -> SqliteStore:
        return SqliteStore(folder / name, KEEP, time.sleep)

    return {
        "outbox, FULL": into(Outbox(folder / "outbox.db", KEEP)),
        "outbox, NORMAL": into(hasty(Outbox(folder / "hasty-outbox.db", KEEP))),
        "history, FULL": kept_in(store("history.db")),
        "history, NORMAL": kept_in(hasty(store("hasty-history.db"))),
        "written plainly and synced": Way(write_plainly, CALLS),
    }


if __name__ == "__main__":
    main()
