"""`captioner caption`: picture files and folders of them, one line of output for each picture.

No decoding of pictures here and no model: that is `Captioner`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from captioner.errors import CaptionerError
from captioner.settings import Settings

# What a walk through folders takes for a picture. Kinds that we do not read are among them, so that
# nobody's photos are passed over in silence; a file that is named is tried whatever its name.
PICTURE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of them")
    parser.add_argument(
        "--beam-size", type=int, default=3, choices=range(1, 11), metavar="1..10",
        help="hypotheses that the search carries on (default: 3; 1 is greedy)",
    )  # fmt: skip
    parser.add_argument("--jsonl", action="store_true", help="a JSON object for each picture")
    parser.add_argument(
        "--output", metavar="FILE", type=Path,
        help="append the JSON objects to FILE, leaving out pictures that are in it already",
    )  # fmt: skip
    parser.add_argument("--model", help="a name under models/, or a path (or CAPTIONER_MODEL)")


def main(args: argparse.Namespace) -> int:
    """Caption all pictures one after the other; a broken one is reported and the rest still done.

    A line of output is a caption, after the picture's path and a tab where there are several
    pictures; or with `--jsonl` an object {"image", "caption", "candidates", "words", "confident"}
    or {"image", "error"}.

    Returns:
        0, or 1 if any picture had an error, now or earlier in `--output`.

    Raises:
        CaptionerError: the model or the output cannot be used.
    """
    settings = Settings.from_environment()
    pictures = list(_walk(args.paths))
    several = len(pictures) > 1
    failed, done = _resume(args.output) if args.output else (False, set[str]())
    pictures = [picture for picture in pictures if picture not in done]
    if not pictures:
        return int(failed)

    from tqdm import tqdm

    from captioner.captioner import Captioner

    captioner = Captioner.load(args.model or settings.captioner_model)
    with _opened(args.output) as out:
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
                if args.jsonl or args.output:
                    print(json.dumps(entry), file=out, flush=True)
                elif "error" in entry:
                    print(f"captioner: {picture}: {entry['error']}", file=sys.stderr)
                else:
                    print(*[picture] * several, entry["caption"], sep="\t", file=out, flush=True)
    return int(failed)


def _walk(paths: Iterable[str]) -> Iterator[str]:
    """The pictures in folders, in order of their names, and every path that is not a folder.

    A folder without a picture stands for itself, and so becomes an error.
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
    if output:
        with output.open("a", encoding="utf-8") as file:
            yield file
    else:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be valid text
        yield sys.stdout


def _resume(output: Path) -> tuple[bool, set[str]]:
    """Whether any earlier picture failed, and which pictures are done; drops a half-written line.

    Raises:
        CaptionerError: the file cannot be used, or is not one that this program wrote.
    """
    failed, done, good = False, set[str](), 0
    try:
        with output.open("a+b") as file:
            file.seek(0)
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # the last one, when the program was killed
                try:
                    entry = json.loads(line)
                    done.add(entry["image"])
                    failed |= "error" in entry
                except (ValueError, TypeError, KeyError):
                    raise CaptionerError(
                        f"{output} holds something else in line {number}; name another file."
                    ) from None
                good += len(line)
            file.truncate(good)
    except OSError as error:
        raise CaptionerError(
            f"{output} cannot be written ({error.strerror}); name another file."
        ) from None
    return failed, done
