"""Writers of captions beside a photo or into it: XMP sidecar, text file, embedded metadata.

A person's words are never replaced unless that is asked for. Files are replaced whole.
"""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from captioner.collection.atomic import replaced, write_whole
from captioner.collection.embedded import words_in
from captioner.collection.shown import shown
from captioner.collection.walk import RAW_SUFFIXES
from captioner.collection.xmp import ALT_TEXT, DESCRIPTION, Xmp, XmpError
from captioner.errors import CaptionerError

IF_EXISTS = ("skip", "replace", "append")
MAX_ALT_TEXT = 125  # characters


class WriteError(CaptionerError):
    """A caption cannot be written beside a photo or into it."""

    title = "The caption cannot be written"


class Words(NamedTuple):
    """A caption, its form as alternative text, and the name of the model."""

    caption: str
    alt_text: str
    model: str

    @property
    def tool(self) -> str:
        """For fields that name the program."""
        return f"captioner ({self.model})"


class Writer(Protocol):
    """Writes captions of one form. Close it at the end."""

    def existing(self, picture: Path) -> str:
        """Where words are already, in words of our own; empty where there are none."""

    def write(self, picture: Path, words: Words, if_exists: str) -> None:
        """Writes a caption; `if_exists` is one of `IF_EXISTS`.

        Raises:
            WriteError: it cannot be written; nothing was changed.
        """

    def close(self) -> None:
        """Ends what the writer has started."""


def joined(old: str, new: str, if_exists: str) -> str:
    """The text that follows from an old one: the new one, or both."""
    if if_exists != "append" or not old:
        return new
    return old if old == new or old.endswith(f"\n{new}") else f"{old}\n{new}"


class XmpSidecar:
    """`a.jpg.xmp` beside the photo, or the `a.xmp` that is there already."""

    def path(self, picture: Path) -> Path:
        for name in (picture.name + ".xmp", picture.name + ".XMP", picture.stem + ".xmp"):
            if os.path.exists(sidecar := picture.with_name(name)):  # False if it is too long
                return sidecar
        return picture.with_name(picture.name + ".xmp")

    def existing(self, picture: Path) -> str:
        sidecar = self.path(picture)
        if os.path.exists(sidecar) and (words := _opened(sidecar).person_words()):
            return f"{words[0]} in {sidecar.name}"
        words = words_in(picture)
        return f"{words[0]} in the picture" if words else ""

    def write(self, picture: Path, words: Words, if_exists: str) -> None:
        sidecar = self.path(picture)
        xmp = _opened(sidecar) if os.path.exists(sidecar) else Xmp()
        fill(xmp, words, if_exists)
        with _reported(sidecar):
            write_whole(sidecar, xmp.to_bytes())

    def close(self) -> None:
        pass


def fill(xmp: Xmp, words: Words, if_exists: str) -> None:
    """Puts a caption into a packet."""
    xmp.set_words(DESCRIPTION, joined(xmp.words(DESCRIPTION), words.caption, if_exists))
    if if_exists != "append" or not xmp.words(ALT_TEXT):
        xmp.set_words(ALT_TEXT, words.alt_text)
    xmp.set_text("photoshop:CaptionWriter", words.tool)
    # The program that made the picture keeps its name.
    xmp.set_text("xmp:CreatorTool", words.tool, replace=False)


def _opened(sidecar: Path) -> Xmp:
    with _reported(sidecar):
        content = sidecar.read_bytes()
    try:
        return Xmp(content)
    except XmpError as error:
        raise WriteError(f"{shown(sidecar)} is damaged: {error}; it was left as it is.") from None


class TextFile:
    """`a.txt` beside the photo."""

    def existing(self, picture: Path) -> str:
        text = self._text(picture)
        return f"{picture.stem}.txt" if text.strip() else ""

    def write(self, picture: Path, words: Words, if_exists: str) -> None:
        text = joined(self._text(picture).strip(), words.caption, if_exists)
        path = picture.with_suffix(".txt")
        with _reported(path):
            write_whole(path, f"{text}\n".encode())

    def _text(self, picture: Path) -> str:
        path = picture.with_suffix(".txt")
        with _reported(path), contextlib.suppress(FileNotFoundError):
            return path.read_bytes().decode("utf-8", "replace")
        return ""

    def close(self) -> None:
        pass


class Embedded:
    """EXIF, IPTC and XMP in the photo itself, by ExifTool; the pixels are not touched.

    ExifTool changes a copy, which then takes the place of the photo and keeps its times. The copy
    is in a folder of our own, since ExifTool gives some characters of a path a meaning.

    Raises:
        WriteError: ExifTool is not installed.
    """

    _KINDS = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".heic", ".heif",
              ".hif", ".avif", ".jp2", ".jxl", ".gif")  # fmt: skip

    def __init__(self) -> None:
        program = shutil.which("exiftool")
        if program is None:
            raise WriteError(
                "Embedding needs ExifTool; install it with 'apt-get install "
                "libimage-exiftool-perl' (Debian, Ubuntu) or 'brew install exiftool' (macOS), or "
                "use --write xmp."
            )
        self._exiftool = _ExifTool(program)
        self._folder = tempfile.TemporaryDirectory(prefix="captioner-")

    def existing(self, picture: Path) -> str:
        words = words_in(picture)
        return f"{words[0]} in the picture" if words else ""

    def write(self, picture: Path, words: Words, if_exists: str) -> None:
        suffix = picture.suffix.lower()
        if suffix in RAW_SUFFIXES or suffix not in self._KINDS:
            raise WriteError(
                f"{shown(picture)} stays as it is, since captions are not embedded into "
                f"{suffix or 'such'} files; use --write xmp."
            )
        text = words.caption
        if if_exists == "append" and (old := words_in(picture)):
            text = joined(old[1], text, "append")
        # A description has one place for each standard; a person's other fields stay.
        values = {
            "EXIF:ImageDescription": text,
            "IPTC:Caption-Abstract": text,
            "XMP-dc:Description": text,
            "XMP-iptcCore:AltTextAccessibility": words.alt_text,
            "XMP-photoshop:CaptionWriter": words.tool,
        }
        with _reported(picture):
            copy = Path(self._folder.name, f"copy{suffix}")
            shutil.copyfile(picture, copy)
            if reason := self._exiftool.write(copy, values, words.tool):
                raise WriteError(
                    f"{shown(picture)} cannot be written by ExifTool ({reason}); it was left as it "
                    "is."
                )
            with replaced(picture) as new:
                shutil.copyfile(copy, new)
                shutil.copystat(picture, new)

    def close(self) -> None:
        self._exiftool.close()
        self._folder.cleanup()


class _ExifTool:
    """One ExifTool process, which takes one command after the other."""

    def __init__(self, program: str) -> None:
        from exiftool import ExifTool

        self._tool = ExifTool(executable=program, common_args=[], encoding="utf-8")

    def write(self, picture: Path, values: Mapping[str, str], tool: str) -> str:
        """Changes a file; returns ExifTool's reason where it cannot, else nothing."""
        if not self._tool.running:
            self._tool.run()
        assignments = {**values, "XMP-xmp:CreatorTool": tool}
        self._tool.execute(
            *("-charset", "iptc=UTF8", "-codedcharacterset=utf8"),
            "-E",  # the values are in HTML's escapes
            *(f"-{name}={_escaped(value)}" for name, value in assignments.items()),
            # The program that made the picture keeps its name.
            *("-tagsfromfile", "@", "-XMP-xmp:CreatorTool"),
            *("-overwrite_original", os.fspath(picture)),
            raw_bytes=True,  # what it says about a file need not be valid text
        )
        if self._tool.last_status == 0:
            return ""
        said = bytes(self._tool.last_stderr).decode("utf-8", "replace").strip()
        return said.split(" - /")[0].splitlines()[0] if said else "no reason given"

    def close(self) -> None:
        if self._tool.running:
            self._tool.terminate()


def _escaped(text: str) -> str:
    """A value for ExifTool, which reads an argument a line and drops a blank at the beginning."""
    lines = html.escape(text, quote=False).replace("\n", "&#10;").replace("\r", "&#13;")
    return f"&#32;{lines[1:]}" if lines.startswith(" ") else lines


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turns an OSError into a sentence."""
    try:
        yield
    except OSError as error:
        raise WriteError(f"{shown(path)} cannot be written ({error.strerror}).") from None


WRITERS: Mapping[str, type[XmpSidecar | TextFile | Embedded]] = {
    "xmp": XmpSidecar,
    "txt": TextFile,
    "embed": Embedded,
}
