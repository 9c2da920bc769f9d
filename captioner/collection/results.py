"""Files of results that a run appends to and that the next run goes on from: JSON lines and CSV.

A picture is known by the SHA-256 of its content. So a collection that was moved, renamed or mounted
elsewhere is not done again. A picture that failed is not known, and is tried again. A line counts
when it is there to its end; a half-written last one is cut off.

A person may have edited the file. So nothing but the half of an entry at its very end is ever cut
off, and a file with anything else that is not understood is left as it is.
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

        A device or a pipe, such as /dev/stdout, holds nothing and is only written to.

        Raises:
            ResultsError: it cannot be written, holds something else, or another process has it.
        """
        self.path = path
        self._known: Counter[str] = Counter()
        try:
            ordinary = path.is_file() or not path.exists()
            self._file: Any = path.open("a+b" if ordinary else "ab")
            if not ordinary:
                return
            try:
                if not locked(self._file.fileno()):
                    raise ResultsError(
                        f"Another captioner is writing {path}; wait for it, or name another file."
                    )
                self._go_on()
            except BaseException:
                self._file.close()
                raise
        except OSError as error:
            raise self._cannot_write(error) from None

    def _go_on(self) -> None:
        """Reads the entries, and cuts half a one off."""
        self._file.seek(0)
        end = self._read(self._file)
        self._file.truncate(end)
        self._file.seek(max(0, end - 1))
        if end and self._file.read(1) != b"\n":  # lost in a kill, or in a person's editor
            self._file.write(b"\n")
        self._file.seek(0, os.SEEK_END)

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
            f"{self.path} cannot be written ({error.strerror or error}); make room and run this "
            "again, or name another file."
        )

    def _something_else(self, line: int) -> ResultsError:
        return ResultsError(
            f"{self.path} holds something else in line {line}; put it right, or name another file."
        )

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
            if line == b"\n":  # a person's
                end += len(line)
                continue
            try:
                entry = json.loads(line)
                str(entry["image"])
                if "error" not in entry:
                    self._known[str(entry.get("sha256"))] += 1
            except (ValueError, TypeError, KeyError):
                begun = self._BEGINNING.startswith(line[: len(self._BEGINNING)])
                if begun and not line.endswith(b"\n"):
                    break  # the last one, when the program was killed
                raise self._something_else(number) from None
            end += len(line)
        return end

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        # ASCII, so that a path that is not valid UTF-8 stays what it is.
        return json.dumps(entry).encode() + b"\n"


class Csv(Results):
    """A row a picture, with the names of the columns first."""

    COLUMNS = ("image", "sha256", "caption", "confidence", "confident", "photo", "model", "error")

    _begins = True  # with the names of the columns

    def _read(self, file: BinaryIO) -> int:
        at = end = 0

        def lines() -> Iterator[str]:
            nonlocal at
            for line in file:
                at += len(line)
                yield line.decode("utf-8", "surrogateescape")

        rows = csv.reader(lines(), strict=True)
        number = 1
        while True:
            try:
                row, understood = next(rows, None), True
            except csv.Error:
                row, understood = [], False
            if row is None:
                return end
            # An empty line is a person's, too.
            if not (understood and (self._counts(row, number) or (number > 1 and not row))):
                file.seek(end)
                rest = file.read()
                if self._is_half(rest, number, understood and end + len(rest) == at):
                    return end
                raise self._something_else(number)
            self._begins = False
            end, number = at, rows.line_num + 1

    def _counts(self, row: list[str], number: int) -> bool:
        """Whether a row is one of ours, whole; counts its picture as known."""
        if number == 1:
            return tuple(row) == self.COLUMNS
        if len(row) != len(self.COLUMNS):
            return False
        entry = dict(zip(self.COLUMNS, row, strict=True))
        if not entry["error"]:
            self._known[entry["sha256"]] += 1
        return True

    def _is_half(self, rest: bytes, number: int, is_a_row: bool) -> bool:
        """Whether the rest of the file is half of one row, whose program was killed.

        A line break in a cell does not end the row, so half of it may end with one: a quote is open
        then. If whole rows follow, a person opened it.
        """
        if number == 1:
            return self._row(self.COLUMNS).startswith(rest)
        if rest.count(b'"') % 2 == 0:
            return is_a_row and not rest.endswith(b"\n")
        _, *others = rest.decode("utf-8", "surrogateescape").split("\n")
        with contextlib.suppress(csv.Error):
            return all(len(row) != len(self.COLUMNS) for row in csv.reader(others))
        return False

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        row = self._row([_cell(entry.get(column)) for column in self.COLUMNS])
        header = self._row(self.COLUMNS) if self._begins else b""
        self._begins = False
        return header + row

    @staticmethod
    def _row(cells: Any) -> bytes:
        text = io.StringIO()
        # Only what may end a line is quoted, and a name may hold a CR as well as a LF.
        csv.writer(text, lineterminator="\r\n").writerow(cells)
        row = text.getvalue().removesuffix("\r\n") + "\n"
        return row.encode("utf-8", "surrogateescape")


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else value


def locked(descriptor: int) -> bool:
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
