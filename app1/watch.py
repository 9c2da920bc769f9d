"""`captioner watch`: captions what comes: pictures in a folder, a camera, a stream, a video file.

A picture in a folder counts when it has not changed for a second, so that files that are being
copied are whole. Of a camera, a stream or a video, a picture is captioned every so many seconds, or
when the scene changes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app1.outbox import Outbox
from app1.publisher import Publisher, RelayConnection
from app1.uploads import base_name
from captioner.collection.shown import shown
from captioner.collection.walk import Walk
from common.errors import CaptionerError
from common.settings import Settings
from common.state import make_state_folder, publisher_token

if TYPE_CHECKING:
    import numpy as np

    from captioner.captioner import Caption, Captioner
    from captioner.collection.writers import Writer

QUIET = 1.0  # seconds without a change, after which a file counts as whole
LOOK = 0.2  # seconds between two looks at the files that are not quiet yet
SCENE = 18.0  # mean difference of two small grey pictures, in levels of 255, of another scene
SCENE_SIDE = 32  # pixels of these
STEP = 0.5  # seconds between two looks at a video
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds until a stream is opened again
THUMBNAIL_SIDE = 640
DELIVERY = 10.0  # seconds at the end for what is not published yet


class WatchError(CaptionerError):
    """Something cannot be watched."""

    title = "This cannot be watched"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", nargs="+", metavar="SOURCE",
        help="a folder, a camera's number, an rtsp:// or http:// stream, or a video file",
    )  # fmt: skip
    parser.add_argument(
        "--every", type=float, metavar="SECONDS",
        help="caption a camera, stream or video so often (default: when the scene changes)",
    )  # fmt: skip
    parser.add_argument("--publish", action="store_true", help="publish captions to the relay")
    parser.add_argument(
        "--write", action="append", default=[], choices=("xmp", "txt", "embed"),
        help="write captions beside the pictures of a folder, as 'captioner caption' does",
    )  # fmt: skip
    parser.add_argument(
        "--vtt", type=Path, metavar="FILE",
        help="write the captions of a video file as a WebVTT descriptions track",
    )  # fmt: skip
    parser.add_argument(
        "--style", default="caption", choices=("caption", "alt"),
        help="caption, or alt for alternative texts (default: caption)",
    )  # fmt: skip
    parser.add_argument(
        "--model", help="model: a name under models/, or a path (default: CAPTIONER_MODEL)"
    )


def main(args: argparse.Namespace) -> int:
    """Watches until SIGINT or SIGTERM, or to the end of the video files.

    Returns:
        The exit status.

    Raises:
        CaptionerError: a source, the model or an output cannot be used.
    """
    settings = Settings.from_environment()
    _check(args)
    from captioner.captioner import Captioner

    captioner = Captioner.load(
        args.model or settings.captioner_model, words=settings.captioner_words
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with _outputs(args, settings) as outputs:
        watch = Watch(captioner, settings, outputs, args, stop)
        threads = [
            threading.Thread(target=watch.run, args=(source,), daemon=True)
            for source in args.sources
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads) and not stop.is_set():
            stop.wait(LOOK)
        stop.set()
        for thread in threads:
            thread.join(5)
    return watch.status


def _check(args: argparse.Namespace) -> None:
    videos = [source for source in args.sources if _kind(source) == "video"]
    if args.vtt and (len(videos) != 1 or len(args.sources) != 1):
        raise WatchError("--vtt takes one video file, and no other source.")
    if args.every is not None and not 0.1 <= args.every <= 86_400:
        raise WatchError("--every takes from 0.1 to 86400 seconds.")
    for source in args.sources:
        if _kind(source) == "video" and not os.path.exists(source):
            raise WatchError(f"There is no folder and no video file {source!r}.")


def _kind(source: str) -> str:
    if os.path.isdir(source):
        return "folder"
    if source.isdecimal() and not os.path.exists(source):
        return "camera"
    return "stream" if "://" in source else "video"


class Outputs:
    """Where captions go."""

    def __init__(self, writers: Sequence[Writer], publisher: Publisher | None) -> None:
        self.writers, self.publisher = writers, publisher


@contextlib.contextmanager
def _outputs(args: argparse.Namespace, settings: Settings) -> Iterator[Outputs]:
    from captioner.collection.writers import WRITERS

    with contextlib.ExitStack() as stack:
        writers: list[Writer] = []
        for name in dict.fromkeys(args.write):
            writers.append(WRITERS[name]())
            stack.callback(writers[-1].close)
        publisher = None
        if args.publish:
            token = publisher_token(settings)
            outbox = Outbox(make_state_folder(settings) / "watch.db", settings.relay_keep)
            stack.callback(outbox.close)
            publisher = Publisher(
                outbox, lambda ended: RelayConnection(settings.relay_url, token, ended)
            )
            publisher.start()
            stack.callback(publisher.stop)
        yield Outputs(writers, publisher)
        until = time.monotonic() + DELIVERY
        while publisher and publisher.waiting and time.monotonic() < until:
            time.sleep(LOOK)


class Watch:
    """Captions what its sources give, one picture at a time.

    Attributes:
        status: the exit status so far.
    """

    def __init__(
        self,
        captioner: Captioner,
        settings: Settings,
        outputs: Outputs,
        args: argparse.Namespace,
        stop: threading.Event,
    ) -> None:
        self._captioner, self._settings, self._outputs = captioner, settings, outputs
        self._args, self._stop = args, stop
        self._turn = threading.Lock()  # a captioner has one user at a time
        self.status = 0

    def run(self, source: str) -> None:
        """Watches one source; an error ends it, and the others go on."""
        kinds: dict[str, Callable[[str], None]] = {
            "folder": self._folder, "camera": self._stream, "stream": self._stream,
            "video": self._video,
        }  # fmt: skip
        try:
            kinds[_kind(source)](source)
        except CaptionerError as error:
            self._say(f"{source}: {error}")
            self.status = 1

    def _say(self, sentence: str) -> None:
        print(f"captioner: {sentence}", file=sys.stderr, flush=True)

    # Folders

    def _folder(self, folder: str) -> None:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        changed: dict[str, float] = {}
        names = Walk([])

        class Handler(FileSystemEventHandler):
            def on_any_event(self, event: FileSystemEvent) -> None:
                if event.is_directory or event.event_type in ("opened", "closed_no_write"):
                    return
                path = os.fsdecode(event.dest_path or event.src_path)
                if event.event_type == "deleted":
                    changed.pop(path, None)
                elif names.is_picture(os.path.basename(path)):
                    changed[path] = time.monotonic()

        observer = Observer()
        try:
            observer.schedule(Handler(), folder, recursive=True)
            observer.start()
        except OSError as error:
            raise WatchError(f"The folder cannot be watched ({error.strerror}).") from None
        self._say(f"watching {folder}")
        while not self._stop.wait(LOOK):
            quiet = time.monotonic() - QUIET
            for path in sorted(p for p, at in list(changed.items()) if at <= quiet):
                changed.pop(path, None)
                self._file(path)
        observer.stop()
        observer.join(5)

    def _file(self, path: str) -> None:
        from captioner.collection.writers import Words

        picture = Path(path)
        try:
            writers = [own for own in self._outputs.writers if not own.existing(picture)]
            rgb = self._captioner.preprocessor.load(
                path, max_pixels=self._settings.captioner_max_pixels
            )
            caption = self._caption(rgb)
            if caption.photo:
                words = Words(caption.text, caption.alt_text, self._captioner.manifest.name)
                for writer in writers:
                    writer.write(picture, words, "skip")
            self._give(path, caption, rgb)
        except CaptionerError as error:
            self._say(f"{shown(path)}: {error}")
        except OSError as error:  # an odd name, a drive that goes away
            self._say(f"{shown(path)}: This picture cannot be done ({error.strerror}).")

    # Cameras, streams, videos

    def _stream(self, source: str) -> None:
        """Frames until the end, and again after a pause that grows."""
        pause, last, then = FIRST_PAUSE, None, -1e9
        while not self._stop.is_set():
            capture = self._opened(int(source) if source.isdecimal() else source)
            told = False
            while capture.isOpened() and not self._stop.is_set() and capture.grab():
                if not told:
                    self._say(f"watching {source}")
                    pause, told = FIRST_PAUSE, True
                now = time.monotonic()
                if now - then < (self._args.every or 1.0):
                    continue
                good, frame = capture.retrieve()
                if good and (self._args.every or _is_another(last, small := _small(frame))):
                    then, last = now, _small(frame) if self._args.every else small
                    self._frame(source, frame)
            capture.release()
            if self._stop.is_set():
                return
            self._say(f"{source} cannot be read; trying again in {pause:g} s.")
            self._stop.wait(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    def _video(self, file: str) -> None:
        """A video file from its beginning to its end."""
        from captioner.pictures.opencv import cv2

        capture = self._opened(file)
        rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
        cues: list[tuple[float, str]] = []
        last, at, frames = None, -1e9, 0
        while not self._stop.is_set() and capture.grab():
            moment, frames = frames / rate, frames + 1
            if moment - at < (self._args.every or STEP):
                continue
            good, frame = capture.retrieve()
            if not good:
                continue
            at, small = moment, _small(frame)
            if self._args.every or _is_another(last, small):
                last = small
                caption = self._frame(f"{file} {_clock(moment)}", frame)
                if caption.photo and (not cues or cues[-1][1] != caption.text):
                    cues.append((moment, caption.text))
        capture.release()
        if not frames:
            raise WatchError("This is not a video that can be read.")
        if self._args.vtt and not self._stop.is_set():
            self._write_track(cues, frames / rate)

    def _opened(self, source: int | str) -> Any:
        from captioner.pictures.opencv import cv2

        return cv2.VideoCapture(source)

    def _frame(self, name: str, bgr: np.ndarray) -> Caption:
        from captioner.pictures.opencv import cv2

        rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
        caption = self._caption(rgb)
        self._give(name, caption, rgb)
        return caption

    def _write_track(self, cues: Sequence[tuple[float, str]], end: float) -> None:
        from captioner.collection.atomic import write_whole

        ends = [*(start for start, _ in cues[1:]), end]
        parts = ["WEBVTT"]
        for (start, text), until in zip(cues, ends, strict=True):
            parts.append(f"{_clock(start)} --> {_clock(max(until, start + 0.1))}\n{text}")
        try:
            write_whole(self._args.vtt, ("\n\n".join(parts) + "\n").encode())
        except OSError as error:
            raise WatchError(f"{self._args.vtt} cannot be written ({error.strerror}).") from None

    # What becomes of a picture

    def _caption(self, rgb: np.ndarray) -> Caption:
        with self._turn:
            return self._captioner.caption_rgb(rgb, style=self._args.style)

    def _give(self, name: str, caption: Caption, rgb: np.ndarray) -> None:
        """Prints a caption, and publishes it; what is no photo is only said to be none."""
        if not caption.photo:
            self._say(f"{shown(name)}: this is no photo that can be described.")
            return
        print(shown(name), caption.text, sep="\t", flush=True)
        if self._outputs.publisher:
            self._outputs.publisher.publish(
                {
                    "id": uuid.uuid4().hex,
                    **caption.to_dict(),
                    "model": self._captioner.manifest.name,
                    "created_at": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                    "image_path": base_name(name),
                    "thumbnail": self._captioner.preprocessor.thumbnail(rgb, THUMBNAIL_SIDE),
                }
            )


def _small(bgr: np.ndarray) -> np.ndarray:
    """(SCENE_SIDE, SCENE_SIDE) uint8 grey."""
    from captioner.pictures.opencv import cv2

    grey = cv2.cvtColor(bgr, cv2.COLOR_BGR2GRAY)
    small: np.ndarray = cv2.resize(grey, (SCENE_SIDE, SCENE_SIDE), interpolation=cv2.INTER_AREA)
    return small


def _is_another(last: np.ndarray | None, small: np.ndarray) -> bool:
    """Whether the scene has changed."""
    if last is None:
        return True
    return float(abs(small.astype(float) - last).mean()) > SCENE


def _clock(seconds: float) -> str:
    """WebVTT's time: 00:01:02.500."""
    milliseconds = round(1000 * seconds)
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"
