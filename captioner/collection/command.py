"""`captioner caption`: captions picture files and folders of them, and writes the captions out.

No picture is decoded here: `Captioner` does that.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from captioner.collection.shown import shown
from captioner.collection.walk import Picture, Walk
from captioner.cores import usable_cores
from captioner.errors import CaptionerError
from common.parsers import workers
from common.settings import Settings

if TYPE_CHECKING:
    from captioner.captioner import Caption, Captioner
    from captioner.collection.results import Results
    from captioner.collection.writers import Writer

WRITE = ("xmp", "txt", "embed")
NO_PHOTO = "Not a photo that I can describe. A guess: "  # as the pages say it


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A line of output is a caption, after the path and a tab where there are several pictures. "
        f"The model's guess about what is no photo has {NO_PHOTO.strip()!r} before it. "
        "A name that would break the line is in JSON's quotes."
    )
    parser.add_argument("paths", nargs="+", metavar="PATH", help="a picture, or a folder of them")
    add_model_arguments(parser)
    parser.add_argument("--jsonl", action="store_true", help="print a JSON object for each picture")
    parser.add_argument(
        "--output", metavar="FILE", type=Path,
        help="append a JSON object for each picture to FILE; pictures that have a caption in it "
        "are not done again, wherever they are now",
    )  # fmt: skip
    parser.add_argument(
        "--csv", metavar="FILE", type=Path,
        help="append a row for each picture to FILE; likewise",
    )  # fmt: skip
    parser.add_argument(
        "--write", action="append", default=[], choices=WRITE,
        help="write captions where the photos are: xmp, a sidecar (a.jpg.xmp, or an a.xmp that "
        "exists); txt, a text file; embed, EXIF, IPTC and XMP in the photo itself (needs "
        "ExifTool); may be repeated",
    )  # fmt: skip
    add_if_exists(parser)
    parser.add_argument(
        "--shard", type=_shard, default=(1, 1), metavar="I/N",
        help="only the I-th of N parts of the pictures, for N machines on one collection",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=worker_count, metavar="N",
        help="pictures that are captioned at the same time (default: CAPTIONER_WORKERS)",
    )  # fmt: skip


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how a picture is captioned."""
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: CAPTIONER_MODEL)"
    )
    parser.add_argument(
        "--beam-size", type=int, default=3, choices=range(1, 11), metavar="1..10",
        help="captions to find by beam search, 5 if it is 2 to 5 (default: 3; 1 is greedy)",
    )  # fmt: skip
    parser.add_argument(
        "--style", default="caption", choices=("caption", "alt"),
        help="caption, or alt for alternative texts: at most 125 characters, no \"image of\", no "
        "guessed gender (default: caption)",
    )  # fmt: skip


def add_if_exists(parser: argparse.ArgumentParser) -> None:
    """The argument that goes with `--write`."""
    parser.add_argument(
        "--if-exists", default="skip", choices=("skip", "replace", "append"),
        help="what --write does with a picture that has a description already (default: skip)",
    )  # fmt: skip


def _shard(text: str) -> tuple[int, int]:
    try:
        own, of = (int(number) for number in text.split("/"))
    except ValueError:
        own, of = 0, 0
    if not 1 <= own <= of:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 1 to N, such as 1/4")
    return own, of


def worker_count(text: str) -> int:
    """The value of `--workers`; 0 for "auto"."""
    try:
        return workers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} {error}") from None


def main(args: argparse.Namespace) -> int:
    """Captions all pictures, in their order; one that fails is reported, the rest still done.

    At the end one line on stderr has the counts.

    A run that was killed, at any moment, resumes where it was stopped when it is started again.

    Returns:
        0, or 1 if a picture failed or a folder could not be read.

    Raises:
        CaptionerError: the model or the output cannot be used.
    """
    settings = Settings.from_environment()
    with _opened(args) as run:
        return run.all(args, settings)


@contextlib.contextmanager
def _opened(args: argparse.Namespace) -> Iterator[_Run]:
    """Opens what is written to, before the model is loaded and hours are spent."""
    from captioner.collection.results import Csv, JsonLines
    from captioner.collection.writers import WRITERS

    with contextlib.ExitStack() as stack:
        results: list[Results] = []
        for kind, path in ((JsonLines, args.output), (Csv, args.csv)):
            if path:
                results.append(kind(path))
                stack.callback(results[-1].close)
        writers: list[Writer] = []
        for name in dict.fromkeys(args.write):
            writers.append(WRITERS[name]())
            stack.callback(writers[-1].close)
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="backslashreplace")  # paths need not be valid text
        try:
            yield _Run(results, writers, args)
        except BrokenPipeError:
            raise  # nobody reads on
        except OSError as error:
            # Python would try again at its exit, and complain.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise CaptionerError(
                f"The output cannot be written ({error.strerror}); make room and run this again."
            ) from None


@dataclass
class _Task:
    """A picture on its way to a caption.

    Attributes:
        results: files that want its entry.
        digest: SHA-256 of its file.
        caption: what will be its caption.
        known: why there is nothing to do.
        error: a sentence.
    """

    path: str
    results: list[Results]
    digest: str = ""
    caption: Future[Caption] | None = None
    known: str = ""
    error: str = ""


class _Run:
    """One run over a collection."""

    def __init__(
        self, results: Sequence[Results], writers: Sequence[Writer], args: argparse.Namespace
    ) -> None:
        self._results, self._writers, self._args = results, writers, args
        self._prints = args.jsonl or not (results or writers)
        self._counts: Counter[str] = Counter()

    def all(self, args: argparse.Namespace, settings: Settings) -> int:
        walk = Walk(args.paths)
        pictures = [picture for picture in walk if _in_shard(picture, args.shard)]
        for sentence in walk.unreadable:
            self._fail(sentence)
        for folder in walk.empty:
            self._fail(f"{shown(folder)}: There is no picture in this folder.")
        several = len(pictures) > 1
        if pictures:
            self._caption_all(pictures, settings, several)
        if several or self._results or self._writers or walk.passed_over:
            print(f"captioner: {summary(self._counts, walk)}", file=sys.stderr)
        return int(self._counts["failed"] > 0)

    def _caption_all(self, pictures: Sequence[Picture], settings: Settings, several: bool) -> None:
        """Captions pictures at the same time, and writes them out one by one, in their order."""
        from tqdm import tqdm

        from captioner.captioner import Captioner

        args = self._args
        wanted = settings.captioner_workers if args.workers is None else args.workers
        count = min(wanted or usable_cores(), len(pictures))
        captioners = Captioner.load_several(
            count, args.model or settings.captioner_model, words=settings.captioner_words
        )
        free: SimpleQueue[Captioner] = SimpleQueue()
        for captioner in captioners:
            free.put(captioner)

        def caption(content: bytes) -> Caption:
            captioner = free.get()
            try:
                return captioner.caption(
                    content, args.beam_size, style=args.style,
                    max_pixels=settings.captioner_max_pixels,
                )  # fmt: skip
            finally:
                free.put(captioner)

        model = captioners[0].manifest.name
        under_way: deque[_Task] = deque()
        # None: a bar on a terminal only
        with (
            ThreadPoolExecutor(count) as pool,
            tqdm(total=len(pictures), unit="picture", disable=None if several else True) as bar,
        ):

            def end_first() -> None:
                with tqdm.external_write_mode():
                    self._end(under_way.popleft(), model, several)
                bar.update()

            try:
                for picture in pictures:
                    task, content = self._begin(picture.path)
                    if content is not None:
                        task.caption = pool.submit(caption, content)
                    under_way.append(task)
                    if len(under_way) > 2 * count:  # so that no worker waits for another
                        end_first()
                while under_way:
                    end_first()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _begin(self, path: str) -> tuple[_Task, bytes | None]:
        """Reads a picture's file, if there is something to do with it."""
        from captioner.pictures.decode import read_file

        task = _Task(path, list(self._results))
        try:
            writers = self._without_words(Path(path))
            if self._writers and not (writers or task.results or self._prints):
                task.known = "described already"
                return task, None
            content = read_file(path)
            task.digest = hashlib.sha256(content).hexdigest()
            task.results = [own for own in task.results if not own.takes_back(task.digest)]
            if not (writers or task.results or self._prints):
                task.known = "known already"
                return task, None
        except (CaptionerError, OSError, ValueError) as error:
            task.error = sentence_of(error)
            return task, None
        return task, content

    def _end(self, task: _Task, model: str, several: bool) -> None:
        """Writes out what became of a picture."""
        if task.known:
            self._counts[task.known] += 1
            return
        path, entry = task.path, {"image": task.path}
        if task.caption is not None:
            try:
                caption = task.caption.result()
                entry |= {"sha256": task.digest, **caption.to_dict(), "model": model}
                self._write(Path(path), caption, entry)
            except (CaptionerError, OSError, ValueError) as error:
                task.error = sentence_of(error)
        if task.error:
            entry = {"image": path, "error": task.error}
            self._counts["failed"] += 1
        for own in task.results:
            own.add(entry)
        if self._prints and self._args.jsonl:
            print(json.dumps(entry), flush=True)
        elif task.error:
            print(f"captioner: {shown(path)}: {task.error}", file=sys.stderr)
        elif self._prints:
            mark = "" if entry["photo"] else NO_PHOTO
            print(*[shown(path)] * several, mark + entry["caption"], sep="\t", flush=True)

    def _without_words(self, picture: Path) -> list[Writer]:
        """The writers that have something to do."""
        if self._args.if_exists != "skip":
            return list(self._writers)
        return [writer for writer in self._writers if not writer.existing(picture)]

    def _write(self, picture: Path, caption: Caption, entry: dict[str, Any]) -> None:
        from captioner.collection.writers import Words

        if not caption.photo:
            # A guess about something that is no photo does not belong into anybody's files.
            self._counts["no photo"] += 1
            return
        words = Words(caption.text, caption.alt_text, entry["model"])
        # asked again, since a picture before it may share its sidecar
        for writer in self._without_words(picture):
            writer.write(picture, words, self._args.if_exists)
        self._counts["captioned"] += 1

    def _fail(self, sentence: str) -> None:
        self._counts["failed"] += 1
        print(f"captioner: {sentence}", file=sys.stderr)


def summary(counts: Mapping[str, int], walk: Walk) -> str:
    """What became of the pictures, and what was passed over, as one line."""
    kinds = ("captioned", "no photo", "described already", "known already", "failed")
    parts = [f"{counts[kind]} {kind}" for kind in kinds if counts[kind]]
    passed = [f"{shown(what)} ({count})" for what, count in sorted(walk.passed_over.items())]
    text = ", ".join(parts) or "no pictures"
    return f"{text}; passed over: {', '.join(passed)}" if passed else text


def sentence_of(error: Exception) -> str:
    """Why a picture failed, as one sentence."""
    if isinstance(error, CaptionerError):
        return str(error)
    # an odd name, or a drive that goes away: one picture's
    return f"This picture cannot be done ({getattr(error, 'strerror', None) or error})."


def _in_shard(picture: Picture, shard: tuple[int, int]) -> bool:
    """Whether a picture belongs to a shard, by its path below the named folder.

    So each machine takes the same pictures under any mount point, without reading them.
    """
    own, of = shard
    digest = hashlib.sha256(os.fsencode(picture.relative)).digest()
    return int.from_bytes(digest[:8], "big") % of == own - 1
