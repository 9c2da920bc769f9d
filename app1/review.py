"""Captions that wait for the host's approval, and what people corrected; survives restarts of app1.

With APP1_APPROVE a caption and its picture wait here, and nowhere else: the relay, and so every
wall, gets them when the host approves. What people corrected stays here with a small picture, to
train from. A caption that is deleted leaves this file too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.errors import CaptionerError
from common.sqlite_file import DurableFile

_SCHEMA = (
    """
CREATE TABLE waiting (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT UNIQUE NOT NULL,
    payload TEXT NOT NULL,                  -- JSON of the event `predict` without its thumbnail
    thumbnail BLOB
)
""",
    """
CREATE TABLE corrections (
    id TEXT PRIMARY KEY,
    payload TEXT NOT NULL,                  -- likewise, with the person's words
    thumbnail BLOB
)
""",
    "CREATE TABLE marks (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
)


class ReviewError(CaptionerError):
    """The file cannot be used now, or is full."""

    status = 503
    title = "Not possible now"


class Review:
    """The file; safe to use from several threads.

    Every method may raise ReviewError.

    Args:
        path: the file; made when needed.
        keep: captions that may wait.
    """

    def __init__(self, path: Path, keep: int) -> None:
        self._keep = keep
        self._file = DurableFile(
            path,
            _SCHEMA,
            "{path} cannot be used ({reason}): captions cannot wait for approval; make room on the "
            "disk, or set CAPTIONER_STATE to a folder to write in.",
            error=ReviewError,
        )

    def close(self) -> None:
        self._file.close()

    # What waits for the host

    def wait(self, payload: dict[str, Any]) -> None:
        """Put a caption in the line; on disk when this returns."""
        with self._file.transaction() as file:
            (count,) = file.execute("SELECT count(*) FROM waiting").fetchone()
            if count >= self._keep:
                raise ReviewError(f"{count} captions wait for the host already; try again later.")
            file.execute(
                "INSERT INTO waiting (id, payload, thumbnail) VALUES (?, ?, ?)", _row(payload)
            )

    def waiting(self) -> list[dict[str, Any]]:
        """What waits, the oldest first, without the pictures."""
        with self._file.reading() as file:
            rows = file.execute("SELECT payload, NULL FROM waiting ORDER BY position")
            return [_payload(*row) for row in rows]

    def find(self, id_: str) -> dict[str, Any] | None:
        """A caption that waits, with its picture."""
        with self._file.reading() as file:
            row = file.execute(
                "SELECT payload, thumbnail FROM waiting WHERE id = ?", (id_,)
            ).fetchone()
        return _payload(*row) if row else None

    def edit(self, payload: dict[str, Any]) -> None:
        """A caption that waits gets other words."""
        with self._file.transaction() as file:
            id_, text, _ = _row(payload)
            file.execute("UPDATE waiting SET payload = ? WHERE id = ?", (text, id_))

    def leave(self, id_: str) -> None:
        """A caption does not wait any more: it was approved, and is in the outbox."""
        with self._file.transaction() as file:
            file.execute("DELETE FROM waiting WHERE id = ?", (id_,))

    # What people corrected

    def keep_correction(self, payload: dict[str, Any]) -> None:
        """Keep a caption with a person's words, in place of an earlier correction of it."""
        with self._file.transaction() as file:
            file.execute(
                "INSERT OR REPLACE INTO corrections (id, payload, thumbnail) VALUES (?, ?, ?)",
                _row(payload),
            )

    def corrections(self) -> Iterable[dict[str, Any]]:
        """All captions with a person's words, with their pictures."""
        with self._file.reading() as file:
            rows = file.execute("SELECT payload, thumbnail FROM corrections ORDER BY rowid")
            return [_payload(*row) for row in rows]

    def forget(self, id_: str) -> None:
        """Remove a caption and its picture for good."""
        with self._file.transaction() as file:
            gone = sum(
                file.execute(f"DELETE FROM {table} WHERE id = ?", (id_,)).rowcount  # noqa: S608
                for table in ("waiting", "corrections")
            )
        if gone:
            self._file.erase_log()

    # Single values, such as the guests' link

    def mark(self, name: str) -> str:
        """A value; "" where there is none, as long as the file was never made."""
        if not self._file.path.exists():
            return ""
        with self._file.reading() as file:
            row = file.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def set_mark(self, name: str, value: str) -> None:
        with self._file.transaction() as file:
            file.execute("INSERT OR REPLACE INTO marks (name, value) VALUES (?, ?)", (name, value))


def with_words(payload: dict[str, Any], caption: str, by: str) -> dict[str, Any]:
    """A caption with a person's words; `model_caption` keeps the model's."""
    model_caption = payload.get("model_caption", payload["caption"])
    return {**payload, "caption": caption, "by": by, "model_caption": model_caption}


def _row(payload: dict[str, Any]) -> tuple[str, str, bytes | None]:
    rest = {key: value for key, value in payload.items() if key != "thumbnail"}
    return payload["id"], json.dumps(rest), payload.get("thumbnail")


def _payload(text: str, thumbnail: bytes | None) -> dict[str, Any]:
    payload: dict[str, Any] = json.loads(text)
    return payload if thumbnail is None else {**payload, "thumbnail": thumbnail}
