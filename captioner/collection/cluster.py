"""`captioner ray`: captions a collection on a Ray cluster, in parts that are each written whole.

The driver walks the collection and plans its parts; Ray Data hands them to actors, one a core, each
with a captioner of its own. What becomes of a part when a machine, an actor or the driver dies is
in `captioner.collection.parts`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import secrets
import socket
import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from captioner.collection.command import (
    add_if_exists,
    add_model_arguments,
    sentence_of,
    summary,
    worker_count,
)
from captioner.collection.parts import Entry, Parts
from captioner.collection.results import locked
from captioner.collection.shown import shown
from captioner.collection.storage import Bucket, Folder, StorageError, is_url, local, place
from captioner.collection.walk import Walk
from captioner.cores import usable_cores
from captioner.errors import CaptionerError, MissingLibraryError
from captioner.model_folder import ModelFolder
from common.settings import Settings

if TYPE_CHECKING:
    from captioner.captioner import Captioner

WRITE = ("xmp", "txt")
RAY = "ray[data]==2.60.0"  # as in requirements-ray.txt
READ_AHEAD = 4  # files, while a picture is captioned: an object store takes its time
CONNECT_SECONDS = 10
OBJECT_STORE = 100_000_000  # bytes; only names and counts go through it


class ClusterError(CaptionerError):
    """Ray cannot be reached, or has ended the work."""

    title = "The cluster cannot be used"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "A run that was killed goes on where it was stopped when it is started again. A picture is "
        "known by its path; one that has a caption in DIR is not done again, one that failed is. "
        "DIR has the captions as JSON lines and as Parquet."
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="a picture, a folder of them, or a URL that pyarrow or fsspec opens, such as "
        "s3://bucket/prefix; all machines must see it",
    )  # fmt: skip
    parser.add_argument(
        "--output", metavar="DIR", required=True,
        help="folder of the captions, or a URL; all machines must see it",
    )  # fmt: skip
    parser.add_argument(
        "--address",
        help="of a node of the cluster, such as 10.0.0.5:6379, or auto for the one that runs here "
        "(default: Ray is started on this machine, and stopped at the end)",
    )  # fmt: skip
    add_model_arguments(parser)
    parser.add_argument(
        "--write", action="append", default=[], choices=WRITE,
        help="also write captions beside the photos: xmp, a sidecar; txt, a text file; may be "
        "repeated",
    )  # fmt: skip
    add_if_exists(parser)
    parser.add_argument(
        "--workers", type=worker_count, metavar="N",
        help="pictures that are captioned at the same time, each with one core (default: "
        "CAPTIONER_WORKERS, which is one for each core of the cluster)",
    )  # fmt: skip


def main(args: argparse.Namespace) -> int:
    """Captions all pictures; one that fails is reported, the rest still done.

    At the end one line on stderr has the counts.

    Returns:
        0, or 1 if a picture failed or a folder could not be read.

    Raises:
        CaptionerError: Ray, the model, the collection or the folder of results cannot be used.
    """
    settings = Settings.from_environment()
    _import_ray(here=not args.address)
    model = ModelFolder.open(args.model or settings.captioner_model)
    with _opened(args.output) as output:
        run = _Run(Parts(output))
        job = run.find(args, settings, model)
        try:
            run.caption(job, args, settings)
        except KeyboardInterrupt:
            print("captioner: stopped; run this again to go on.", file=sys.stderr)
            raise
        return run.end()


def _import_ray(here: bool) -> None:
    """Loads Ray, which reads these variables as it is loaded.

    Args:
        here: whether it will be started on this machine.
    """
    # Ray sends no statistics of its use.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # It logs an error for each restart that it can do by itself.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    if here:
        # Ray opens its ports to the network, so it asks for this secret.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    try:
        import ray.data  # noqa: F401
    except ImportError:
        raise MissingLibraryError(
            f'captioner ray needs Ray Data, a package that is missing; run: pip install "{RAY}"'
        ) from None


@contextlib.contextmanager
def _opened(output: str) -> Iterator[Folder | Bucket]:
    """The folder of results, kept from other runs where it is on a disk."""
    opened = place(output)
    if isinstance(opened, Bucket):
        yield opened
        return
    try:
        opened.path.mkdir(parents=True, exist_ok=True)
        lock = (opened.path / ".lock").open("wb")
    except OSError as error:
        raise StorageError(
            f"{output} cannot be written ({error.strerror}); name another folder."
        ) from None
    with lock:
        if not locked(lock.fileno()):
            raise StorageError(
                f"Another captioner is writing {output}; wait for it, or name another folder."
            )
        for left in opened.path.glob("*/.captioner-*"):  # of processes that were killed
            left.unlink(missing_ok=True)
        yield opened


@dataclass(frozen=True)
class Job:
    """What an actor has to have.

    Attributes:
        buckets: the object stores that pictures are in.
        model, words: paths, the same on every machine.
    """

    parts: Parts
    buckets: Sequence[Bucket]
    model: str
    words: str
    max_pixels: int
    beam_size: int
    style: str
    write: Sequence[str]
    if_exists: str


class PartCaptioner:
    """An actor: captions one part after the other, and writes each.

    It returns {"result": a JSON object}: "captioned" and "no photo" are numbers, "failed" has pairs
    of a picture and a sentence; or "error" is a sentence, and the part was not written.
    """

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        try:
            result = self._done(row["part"], json.loads(row["images"]))
        except CaptionerError as error:
            result = {"error": str(error)}
        return {"result": json.dumps(result)}

    def _done(self, part: str, images: Sequence[str]) -> dict[str, Any]:
        entries = self._job.parts.entries(part)
        # If captions of these pictures are there already, another actor of this run wrote them and
        # was then lost.
        missing = [image for image in images if "caption" not in entries.get(image, {})]
        if missing:
            entries |= {entry["image"]: entry for entry in self._captioned(missing)}
            self._job.parts.write(part, [entries[image] for image in sorted(entries)])
        counts: Counter[str] = Counter()
        failed = []
        for image in images:
            entry = entries[image]
            if "error" in entry:
                failed.append((image, entry["error"]))
            else:
                counts["captioned" if entry["photo"] else "no photo"] += 1
        return {**counts, "failed": failed}

    def _captioned(self, images: Sequence[str]) -> Iterator[Entry]:
        captioner = self._captioner  # loaded before a picture could be blamed
        waiting = deque(images)
        with ThreadPoolExecutor(READ_AHEAD) as pool:
            read = deque(pool.submit(self._read, waiting.popleft())
                         for _ in range(min(READ_AHEAD, len(waiting))))  # fmt: skip
            for image in images:
                content = read.popleft()
                if waiting:
                    read.append(pool.submit(self._read, waiting.popleft()))
                try:
                    yield self._entry(captioner, image, content.result())
                except (CaptionerError, OSError, ValueError) as error:
                    yield {"image": image, "error": sentence_of(error)}

    def _read(self, image: str) -> bytes:
        from captioner.pictures.decode import read_file

        for bucket in self._job.buckets:
            if f"{image}/".startswith(f"{bucket.url()}/"):
                return bucket.picture(image)
        return read_file(image)

    def _entry(self, captioner: Captioner, image: str, content: bytes) -> Entry:
        from captioner.collection.writers import WRITERS, Words

        job = self._job
        caption = captioner.caption(
            content, job.beam_size, style=job.style, max_pixels=job.max_pixels
        )
        model = captioner.manifest.name
        for name in job.write if caption.photo else ():
            writer, path = WRITERS[name](), Path(image)
            if job.if_exists != "skip" or not writer.existing(path):
                words = Words(caption.text, caption.alt_text, model)
                writer.write(path, words, job.if_exists)
        digest = hashlib.sha256(content).hexdigest()
        return {"image": image, "sha256": digest, **caption.to_dict(), "model": model}

    @cached_property
    def _captioner(self) -> Captioner:
        from captioner.captioner import Captioner

        # A part has one core, and an actor works on one part.
        return Captioner.load(self._job.model, threads=1, words=self._job.words)


class _Run:
    """One run over a collection."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._counts: Counter[str] = Counter()
        self._walk = Walk(())
        self._todo: dict[str, list[str]] = {}

    def find(self, args: argparse.Namespace, settings: Settings, model: ModelFolder) -> Job:
        """Walks the collection, and takes the parts that are not done."""
        paths = [local(path) for path in args.paths]
        folders = [path for path in paths if not is_url(path)]
        buckets = [Bucket.open(path) for path in paths if is_url(path)]
        if buckets and args.write:
            raise StorageError(
                f"--write {args.write[0]} puts captions beside photos in folders; leave it out for "
                f"{buckets[0].url()}."
            )
        self._walk = walk = Walk(folders)
        images = [picture.path for picture in walk]
        for bucket in buckets:
            files = bucket.files()
            found = files if files == [""] else [*walk.among(files)]
            if not found:
                walk.empty.append(bucket.url())
            images += [bucket.url(path) for path in found]
        for sentence in walk.unreadable:
            self._fail(sentence)
        for folder in walk.empty:
            self._fail(f"{shown(folder)}: There is no picture in this folder.")
        planned = self._parts.plan(images)
        existing = self._parts.existing()
        for part, images_of in planned.items():
            entries = self._parts.entries(part) if part in existing else {}
            missing = [image for image in images_of if "caption" not in entries.get(image, {})]
            self._counts["known already"] += len(images_of) - len(missing)
            if missing:
                self._todo[part] = missing
        words = settings.captioner_words
        return Job(
            parts=self._parts,
            buckets=buckets,
            model=os.path.abspath(model.path),
            words=os.path.abspath(words) if words else "",
            max_pixels=settings.captioner_max_pixels,
            beam_size=args.beam_size,
            style=args.style,
            write=tuple(dict.fromkeys(args.write)),
            if_exists=args.if_exists,
        )

    def caption(self, job: Job, args: argparse.Namespace, settings: Settings) -> None:
        """Has all parts done that are not."""
        if not self._todo:
            return
        from tqdm import tqdm

        total = sum(map(len, self._todo.values()))
        workers = settings.captioner_workers if args.workers is None else args.workers
        # None: a bar on a terminal only
        with tqdm(total=total, unit="picture", disable=None) as bar:
            for result in _on_ray(job, self._todo, args.address, workers):
                if "error" in result:
                    raise ClusterError(result["error"])
                with tqdm.external_write_mode():
                    for image, sentence in result["failed"]:
                        self._fail(f"{shown(image)}: {sentence}")
                for kind in ("captioned", "no photo"):
                    self._counts[kind] += result.get(kind, 0)
                    bar.update(result.get(kind, 0))
                bar.update(len(result["failed"]))

    def end(self) -> int:
        print(f"captioner: {summary(self._counts, self._walk)}", file=sys.stderr)
        return int(self._counts["failed"] > 0)

    def _fail(self, sentence: str) -> None:
        self._counts["failed"] += 1
        print(f"captioner: {sentence}", file=sys.stderr)


def _on_ray(
    job: Job, todo: Mapping[str, Sequence[str]], address: str | None, workers: int
) -> Iterator[dict[str, Any]]:
    """What `PartCaptioner` returns for each part, in the order in which they end.

    Raises:
        ClusterError: no cluster answers, or it has ended the work.
    """
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    with _connected(address, workers):
        cores = int(ray.cluster_resources().get("CPU", 0))
        context = DataContext.get_current()
        context.enable_progress_bars = False  # we have our own
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        # JSON, since a path need not be text that Arrow takes.
        rows = [{"part": part, "images": json.dumps(images)} for part, images in todo.items()]
        # A block is what an actor is given, and what is done again elsewhere if it is lost.
        results = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            PartCaptioner,
            fn_constructor_args=(job,),
            num_cpus=1,
            compute=ActorPoolStrategy(
                size=min(workers or max(1, cores), len(rows)), max_tasks_in_flight_per_actor=2
            ),
        )
        try:
            for row in results.iter_rows():
                yield json.loads(row["result"])
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"Ray has ended the work ({str(error).strip().splitlines()[-1]}); run this again "
                "to go on."
            ) from None


@contextlib.contextmanager
def _connected(address: str | None, workers: int) -> Iterator[None]:
    """Ray, at an address or started here; what it prints goes to stderr."""
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        _require_answer(address)
        options["address"] = address
    else:
        options |= {
            "address": "local", "num_cpus": workers or usable_cores(),
            "include_dashboard": False, "object_store_memory": OBJECT_STORE,
        }  # fmt: skip
    with contextlib.redirect_stdout(sys.stderr):
        try:
            with _silent():  # Ray prints a line about RAY_BACKEND_LOG_LEVEL
                ray.init(**options)
        except (OSError, RuntimeError, ValueError) as error:
            raise _no_cluster(address or "this machine", str(error).strip()) from None
        try:
            yield
        finally:
            ray.shutdown()


def _require_answer(address: str) -> None:
    """Raises ClusterError where nobody listens, for which Ray would wait ten minutes or more."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not port.isdecimal():  # "auto"
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, str(error)) from None


def _no_cluster(address: str, why: str) -> ClusterError:
    return ClusterError(
        f"No Ray cluster can be used at {address} ({why.splitlines()[0].rstrip('.')}); name the "
        "address that 'ray start --head' has printed."
    )


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Drops what native code writes to stderr."""
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
