"""The results of a cluster: a folder of parts, each written whole, in which every picture is once.

    plan/00001.json              which pictures are in which part, written before the work begins
    jsonl/00001-000000.jsonl     a part: an object for each picture, as `captioner caption` has it
    parquet/00001-000000.parquet the same as columns

What is done twice does not count twice. A part has its name and its pictures from the plan. So if
two machines do the same part, since one of them was taken for dead, the second writes the first
one's file again. A part is there when its JSON lines are; they are written last.

A picture is known by its path. Pictures that came later are parts of a new plan. What failed is
tried again: its part is written anew, with the other captions as they were.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from captioner.collection.storage import Place
from captioner.errors import CaptionerError

if TYPE_CHECKING:
    import pyarrow

LARGEST = 256  # pictures of a part: some seconds of a core
FEWEST = 64  # parts of a large plan, so that the cores end at nearly the same time
SMALLEST = 8  # pictures of a part

Entry = Mapping[str, Any]


class PartsError(CaptionerError):
    """The folder of results cannot be used."""

    title = "The results cannot be used"


class Parts:
    """The parts in a place. It may be sent to other processes."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def plan(self, images: Iterable[str]) -> dict[str, list[str]]:
        """The pictures of each part, with a part for those that are in none yet.

        Args:
            images: paths; those of the plan that are not among them are left out.

        Raises:
            PartsError: a plan is damaged, or parts of another are there.
        """
        wanted = dict.fromkeys(images)
        parts: dict[str, list[str]] = {}
        names = [name for name in self._place.names("plan") if not name.startswith(".")]
        for name in names:
            parts |= self._read_plan(f"plan/{name}")
        if not parts.keys() >= self.existing():
            raise PartsError(
                "The folder of results holds parts that are in none of its plans; name another "
                "folder."
            )
        planned = {image for images_of in parts.values() for image in images_of}
        new = [image for image in wanted if image not in planned]
        if new:
            number = max((int(name.partition(".")[0]) for name in names), default=0) + 1
            size = min(LARGEST, max(SMALLEST, -(-len(new) // FEWEST)))
            cut = {
                f"{number:05}-{index:06}": new[start : start + size]
                for index, start in enumerate(range(0, len(new), size))
            }
            self._place.write(f"plan/{number:05}.json", json.dumps(cut).encode())
            parts |= cut
        kept = {part: [i for i in images_of if i in wanted] for part, images_of in parts.items()}
        return {part: images_of for part, images_of in kept.items() if images_of}

    def entries(self, part: str) -> dict[str, Entry]:
        """The entries of a part by their pictures; none if it is not there.

        Raises:
            PartsError: it is damaged.
        """
        name = f"jsonl/{part}.jsonl"
        try:
            lines = self._place.read(name).splitlines()
        except FileNotFoundError:
            return {}
        try:
            entries = [json.loads(line) for line in lines]
            return {str(entry["image"]): entry for entry in entries}
        except (ValueError, TypeError, KeyError):
            raise PartsError(
                f"{name} in the folder of results is damaged; remove it and run this again."
            ) from None

    def write(self, part: str, entries: Iterable[Entry]) -> None:
        """Writes a part, in place of the one that is there."""
        entries = list(entries)
        self._place.write(f"parquet/{part}.parquet", _parquet(entries))
        # ASCII, so that a path that is not valid UTF-8 stays what it is.
        text = "".join(json.dumps(entry) + "\n" for entry in entries)
        self._place.write(f"jsonl/{part}.jsonl", text.encode())

    def existing(self) -> set[str]:
        """The names of the parts that are there."""
        names = self._place.names("jsonl")
        # Half a file of a process that was killed begins with a dot.
        return {name.removesuffix(".jsonl") for name in names if not name.startswith(".")}

    def _read_plan(self, name: str) -> dict[str, list[str]]:
        try:
            content = json.loads(self._place.read(name))
            return {str(part): [str(i) for i in images] for part, images in content.items()}
        except (ValueError, TypeError, AttributeError):
            # Without it, the pictures of its parts would be done again, in other parts.
            raise PartsError(
                f"{name} in the folder of results is damaged; put it right, or name another folder."
            ) from None


def _parquet(entries: Iterable[Entry]) -> bytes:
    import pyarrow
    from pyarrow import parquet

    rows = [{**entry, **{key: _valid(entry[key]) for key in ("image", "error") if key in entry}}
            for entry in entries]  # fmt: skip
    stream = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema()), stream)
    content: bytes = stream.getvalue().to_pybytes()
    return content


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    def several(text: str) -> pa.DataType:
        return pa.list_(pa.struct([(text, pa.string()), ("probability", pa.float64())]))

    return pa.schema(
        [
            ("image", pa.string()),
            ("sha256", pa.string()),
            ("caption", pa.string()),
            ("candidates", several("caption")),
            ("words", several("word")),
            ("confidence", pa.float64()),
            ("confident", pa.bool_()),
            ("photo", pa.bool_()),
            ("model", pa.string()),
            ("error", pa.string()),
        ]
    )


def _valid(text: str) -> str:
    """Parquet's texts are UTF-8, which a path need not be."""
    return text.encode("utf-8", "backslashreplace").decode()
