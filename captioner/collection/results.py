"""Files of results that a run appends to and that the next run goes on from: JSON lines and CSV.

A picture is known by the SHA-256 of its content. So a collection that was moved, renamed or mounted
elsewhere is not done again. A picture that failed is not known, and is tried again. A line counts
when it is there to its end; a half-written last one is cut off.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from captioner.errors import CaptionerError


class ResultsError(CaptionerError):
    """A file of results cannot be used."""

    title = "The results cannot be written"


class Results:
    """A file of results, open for appending; use one of its subclasses."""

    def __init__(self, path: Path) -> None:
        """Opens the file, and reads what it holds.

        Raises:
            ResultsError: it cannot be written, holds something else, or another process has it.
        """
        self.path = path
        self._known: Counter[str] = Counter()
        try:
            self._file = path.open("a+b")
            try:
                if not _locked(self._file.fileno()):
                    raise ResultsError(
                        f"Another captioner is writing {path}; wait for it, or name another file."
                    )
                self._file.seek(0)
                self._file.truncate(self._read(self._file))
                self._file.seek(0, os.SEEK_END)
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._cannot_write(error) from None

    def takes_back(self, sha256: str) -> bool:
        """Whether an earlier run wrote an entry of this content that no picture has used up yet.

        So each of several files with one content gets an entry.
        """
        if not self._known[sha256]:
            return False
        self._known[sha256] -= 1
        return True

    def add(self, entry: Mapping[str, Any]) -> None:
        """Appends an entry, in full or, where the process is killed, in a way that can be cut off.

        Raises:
            ResultsError: it cannot be written.
        """
        try:
            self._file.write(self._line(entry))
            self._file.flush()
        except OSError as error:
            raise self._cannot_write(error) from None

    def close(self) -> None:
        """Closes the file, and so gives up the lock."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _cannot_write(self, error: OSError) -> ResultsError:
        return ResultsError(
            f"{self.path} cannot be written ({error.strerror}); make room and run this again, or "
            "name another file."
        )

    def _something_else(self, line: int) -> ResultsError:
        return ResultsError(f"{self.path} holds something else in line {line}; name another file.")

    def _read(self, file: BinaryIO) -> int:
        """Reads the entries; returns where the last whole one ends."""
        raise NotImplementedError

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        raise NotImplementedError


class JsonLines(Results):
    """A JSON object a line: {"image", "sha256", "caption", ...} or {"image", "error"}."""

    _BEGINNING = b'{"image": "'

    def _read(self, file: BinaryIO) -> int:
        end = 0
        for number, line in enumerate(file, 1):
            begun = self._BEGINNING.startswith(line[: len(self._BEGINNING)])
            if not line.endswith(b"\n") and begun:
                break  # the last one, when the program was killed
            try:
                entry = json.loads(line)
                str(entry["image"])
                if "error" not in entry:
                    self._known[str(entry.get("sha256"))] += 1
            except (ValueError, TypeError, KeyError):
                raise self._something_else(number) from None
            end += len(line)
        return end

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        # ASCII, so that a path that is not valid UTF-8 stays what it is.
        return json.dumps(entry).encode() + b"\n"


class Csv(Results):
    """A row a picture, with the names of the columns first."""

    COLUMNS = ("image", "sha256", "caption", "confidence", "confident", "photo", "model", "error")

    def _read(self, file: BinaryIO) -> int:
        offset = 0

        def lines() -> Iterator[str]:
            nonlocal offset
            for line in file:
                offset += len(line)
                if line.endswith(b"\n"):  # else half of a row, when the program was killed
                    yield line.decode("utf-8", "surrogateescape")

        end = 0
        rows = csv.reader(lines(), strict=True)
        try:
            for number, row in enumerate(rows, 1):
                if number == 1 and tuple(row) != self.COLUMNS:
                    raise self._something_else(1)
                if len(row) != len(self.COLUMNS):
                    raise self._something_else(number)
                entry = dict(zip(self.COLUMNS, row, strict=True))
                if number > 1 and not entry["error"]:
                    self._known[entry["sha256"]] += 1
                end = offset
        except csv.Error:  # a quote that is open at the end of the file: half of a row
            pass
        if end == 0 and offset > 0 and not self._is_half_a_header(file):
            raise self._something_else(1)
        self._begins = end == 0
        return end

    def _is_half_a_header(self, file: BinaryIO) -> bool:
        file.seek(0)
        return self._row(self.COLUMNS).startswith(file.read(1000))

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        row = self._row([_cell(entry.get(column)) for column in self.COLUMNS])
        header = self._row(self.COLUMNS) if self._begins else b""
        self._begins = False
        return header + row

    @staticmethod
    def _row(cells: Any) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue().encode("utf-8", "surrogateescape")


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


def _locked(descriptor: int) -> bool:
    """Keeps other runs of this program off a file; False if one of them has it already.

    The lock ends with the process, however that ends. Where the system has no locks, no run is
    kept off.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some network file systems
        pass
    return True
