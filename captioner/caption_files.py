"""`captioner caption`: picture files and folders of them, one line of output for each picture.

No decoding of pictures here and no model: that is `Captioner`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from captioner.errors import CaptionerError
from common.settings import Settings

# What a walk through folders takes for a picture. Kinds that we do not read are among them, so that
# nobody's photos are passed over in silence; a file that is named is tried whatever its name.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)
_BEGINNING = b'{"image": "'  # of each JSON line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of them")
    parser.add_argument(
        "--beam-size", type=int, default=3, choices=range(1, 11), metavar="1..10",
        help="hypotheses that the beam search keeps (default: 3; 1 is greedy)",
    )  # fmt: skip
    parser.add_argument("--jsonl", action="store_true", help="print a JSON object for each picture")
    parser.add_argument(
        "--output", metavar="FILE", type=Path,
        help="append a JSON object for each picture to FILE, and skip pictures that are already in "
        "it (on Linux, `--jsonl >> FILE` does the same)",
    )  # fmt: skip
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: CAPTIONER_MODEL)"
    )


def main(args: argparse.Namespace) -> int:
    """Caption all pictures one after the other; a broken one is reported and the rest still done.

    A line of output is a caption, after the picture's path and a tab where there are several
    pictures; or with `--jsonl` an object {"image", "caption", "candidates", "words", "confidence",
    "confident"} or {"image", "error"}.

    A run that was killed, at whatever moment, goes on where it was stopped when it is started
    again: a picture counts as done when its line is there to its end.

    Returns:
        0, or 1 if any picture had an error, now or earlier in the output.

    Raises:
        CaptionerError: the model or the output cannot be used.
    """
    settings = Settings.from_environment()
    json_lines = args.jsonl or args.output is not None
    pictures = list(_walk(args.paths))
    several = len(pictures) > 1
    with _opened(args.output) as out:
        earlier = _earlier(args.output, out) if json_lines else None
        if earlier is not None:  # a picture is the same under another spelling of its path
            todo = {os.path.abspath(picture): picture for picture in pictures}
            pictures = [picture for path, picture in todo.items() if path not in earlier.done]
        failed = earlier is not None and earlier.failed
        if not pictures:
            return int(failed)

        from tqdm import tqdm

        from captioner.captioner import Captioner

        captioner = Captioner.load(args.model or settings.captioner_model)
        # None: a bar on a terminal only
        for picture in tqdm(pictures, unit="picture", disable=None if several else True):
            entry: dict[str, Any] = {"image": picture}
            try:
                caption = captioner.caption(
                    picture,
                    args.beam_size,
                    max_bytes=settings.max_upload_bytes,
                    max_pixels=settings.captioner_max_pixels,
                )
                entry |= caption.to_dict()
            except CaptionerError as error:
                entry["error"] = str(error)
                failed = True
            with tqdm.external_write_mode(out):
                if json_lines:
                    print(json.dumps(entry), file=out, flush=True)
                elif "error" in entry:
                    print(f"captioner: {picture}: {entry['error']}", file=sys.stderr)
                else:
                    print(*[picture] * several, entry["caption"], sep="\t", file=out, flush=True)
    return int(failed)


def _walk(paths: Iterable[str]) -> Iterator[str]:
    """The pictures in folders, in order of their names, and every path that is not a folder.

    A folder without a picture is yielded itself, and so becomes an error.
    """
    for path in paths:
        found = False
        for place, folders, names in os.walk(path):
            folders[:] = sorted(folder for folder in folders if not folder.startswith("."))
            for name in sorted(names):
                if Path(name).suffix.lower() in PICTURE_SUFFIXES and not name.startswith("."):
                    found = True
                    yield os.path.join(place, name)
        if not found:
            yield path


@contextlib.contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    """Where the lines go: the end of `output`, or stdout.

    Raises:
        CaptionerError: it cannot be written, now or later.
    """
    try:
        if output:
            with output.open("a", encoding="utf-8") as file:
                yield file
        else:
            if hasattr(sys.stdout, "reconfigure"):
                sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be valid text
            yield sys.stdout
    except BrokenPipeError:
        raise  # nobody reads on, which is no error of anybody's
    except OSError as error:
        if not output:  # or Python would try again at its exit, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise CaptionerError(
            f"{output or 'The output'} cannot be written ({error.strerror}); make room and run "
            "this again, or name another file."
        ) from None


@dataclass
class _Earlier:
    """What earlier runs left: absolute paths of pictures, and whether any of them failed."""

    done: set[str]
    failed: bool


def _earlier(output: Path | None, out: TextIO) -> _Earlier | None:
    """What is in the output already; a half-written last line is cut off.

    None where lines are only ever added: stdout, except at the end of a file of our own (`>>`).

    Raises:
        CaptionerError: `output` is not a file that this program wrote, or another is at it.
        OSError: it cannot be read.
    """
    try:
        descriptor = out.fileno()
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        # Linux opens the file behind stdout anew by this name; elsewhere it cannot be read
        with open(output or f"/dev/fd/{descriptor}", "rb") as file:
            if not _locked(descriptor):
                raise CaptionerError(
                    f"Another captioner is writing {output}; wait for it, or name another file."
                )
            earlier, end = _read(file, output)
        os.ftruncate(descriptor, end)
        os.lseek(descriptor, 0, os.SEEK_END)  # unless that is where it writes anyway
    except (CaptionerError, OSError):
        if output:
            raise
        return None
    return earlier


def _read(file: BinaryIO, output: Path | None) -> tuple[_Earlier, int]:
    """What `_earlier` returns, and where the last whole line ends. Raises CaptionerError."""
    earlier, end = _Earlier(set(), False), 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n") and _BEGINNING.startswith(line[: len(_BEGINNING)]):
            break  # the last one, when the program was killed
        try:
            entry = json.loads(line)
            earlier.done.add(os.path.abspath(entry["image"]))
            earlier.failed |= "error" in entry
        except (ValueError, TypeError, KeyError):
            raise CaptionerError(
                f"{output} holds something else in line {number}; name another file."
            ) from None
        end += len(line)
    return earlier, end


def _locked(descriptor: int) -> bool:
    """Keep other runs of this program off a file; False if one of them is there already.

    The lock ends with the process, however that ends. Where the system has none, nobody is kept
    off.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows; some network file systems
        pass
    return True
