"""The people of `benchmarks.soak`: uploaders, viewers, and the ledger of what has to arrive."""

from __future__ import annotations

import base64
import http.client
import json
import random
import re
import threading
from collections import Counter
from dataclasses import dataclass
from itertools import count
from selectors import EVENT_READ
from typing import Any

from benchmarks.photos import photos
from benchmarks.returning import Crowd, Viewer
from benchmarks.servers import Uploader

PAUSE = (2.0, 6.0)  # seconds of an uploader after an answer
HERE = (5.0, 60.0)  # seconds for which a viewer stays that comes and goes
AWAY = (2.0, 40.0)  # and stays away
AWAKE, ASLEEP = (20.0, 60.0), (10.0, 90.0)  # seconds for which a viewer reads, and does not

_NAME = re.compile(r"(\d{4})-(\d{8})\.jpg")


@dataclass(frozen=True)
class Expected:
    """A photo, and what its caption and thumbnail have to be."""

    jpeg: bytes
    caption: str
    thumbnail: bytes


def expected_of(number: int, model: str | None) -> list[Expected]:
    """So many distinct photos, each captioned by the captioner alone, without any server."""
    from app1.captioning import THUMBNAIL_SIDES
    from captioner import Captioner
    from captioner.pictures.preprocess import Preprocessor

    captioner = Captioner.load(model) if model else Captioner.load()
    found = []
    for jpeg in photos(number):
        rgb = Preprocessor.load(jpeg)
        thumbnail = Preprocessor.thumbnail(rgb, THUMBNAIL_SIDES[0])
        found.append(Expected(jpeg, captioner.caption(jpeg, beam_size=3).text, thumbnail))
    if len({photo.thumbnail for photo in found}) < number:
        raise RuntimeError("Two photos have the same thumbnail.")
    return found


class Ledger:
    """Which uploads were answered, and what is wrong with what viewers got.

    An upload is promised when app1 has answered it with 200. What was cut off before its answer may
    be shown as well, since the uploader cannot find out; it then counts as `unanswered but shown`.

    Attributes:
        wrong: sentences about captions that do not belong to their photo, the first ones.
        counts: of uploads and of what was seen.
    """

    def __init__(self, expected: list[Expected]) -> None:
        self.expected = expected
        self.answered: dict[str, str] = {}  # id -> name
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.index: dict[str, int] = {}  # id -> place in each viewer's `got`
        self._lock = threading.Lock()

    def count(self, what: str, number: int = 1) -> None:
        with self._lock:
            self.counts[what] += number

    def answer(self, name: str, answer: dict[str, Any]) -> None:
        """An upload was answered with 200."""
        with self._lock:
            self.counts[f"answered, {answer['published']}"] += 1
            self.answered[answer["id"]] = name
        self._check("answer", answer["caption"], name)

    def see(self, caption: dict[str, Any]) -> int:
        """A viewer has got a caption; its place in the viewer's `got`."""
        name = caption.get("image_path", "")
        self._check("viewer", caption["caption"], name, caption.get("thumbnail", ""))
        promised = self.answered.get(caption["id"])
        if promised is not None and promised != name:
            self._complain(f"{promised} was shown as {name}")
        return self.index.setdefault(caption["id"], len(self.index))

    def _check(self, where: str, caption: str, name: str, thumbnail: str | None = None) -> None:
        found = _NAME.fullmatch(name)
        if not found:
            self._complain(f"{where}: no upload has the name {name!r}")
            return
        photo = self.expected[int(found[1])]
        if caption != photo.caption:
            self._complain(f"{where}: {name} has {caption!r} for {photo.caption!r}")
        if thumbnail is not None:
            data = base64.b64decode(thumbnail.partition(",")[2])
            if data != photo.thumbnail:
                self._complain(f"{where}: {name} has another thumbnail")

    def _complain(self, sentence: str) -> None:
        self.count("wrong")
        if len(self.wrong) < 20:
            self.wrong.append(sentence)


class Uploaders:
    """So many uploaders at once; no two photos that are on their way at the same time are equal."""

    def __init__(self, port: int, ledger: Ledger, number: int, seed: int) -> None:
        self._port = port
        self._ledger = ledger
        self._names = count()
        self._stop = threading.Event()
        photos_each = len(ledger.expected) // number
        self._threads = [
            threading.Thread(
                target=self._upload,
                args=(i * photos_each, photos_each, random.Random(f"{seed} {i}")),  # noqa: S311
                daemon=True,
            )
            for i in range(number)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each have its last answer, and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(180)

    def _upload(self, first: int, number: int, chance: random.Random) -> None:
        client: Uploader | None = None
        while not self._stop.wait(chance.uniform(*PAUSE)):
            photo = first + chance.randrange(number)
            pause: float | None = 0.0
            while pause is not None and not self._stop.wait(pause):
                name = f"{photo:04}-{next(self._names):08}.jpg"
                client = client or Uploader(self._port)
                try:
                    answer = client.post(self._ledger.expected[photo].jpeg, name=name)
                except (OSError, http.client.HTTPException):
                    self._ledger.count("broken off")
                    client.close()
                    client, pause = None, chance.uniform(0.5, 1.5)
                else:
                    pause = self._take(name, *answer, chance)
        if client is not None:
            client.close()

    def _take(
        self, name: str, status: int, later: str | None, body: bytes, chance: random.Random
    ) -> float | None:
        """Seconds after which it is sent again; None: it is done."""
        if status == 200:
            self._ledger.answer(name, json.loads(body))
            return None
        self._ledger.count(f"status {status}")
        if later is None:
            self._ledger.count("refused without Retry-After")
            return None
        return float(later) * chance.uniform(1, 1.5)


class Watcher(Viewer):
    """A viewer that reads every caption whole, checks it, and counts what is wrong.

    Attributes:
        here: False: it stays away for now.
        asleep: it does not read.
        may_sleep: False: it stays awake from now on.
        stays: it has to have everything in the end.
    """

    def __init__(self, crowd: Crowd, ledger: Ledger, stays: bool) -> None:
        super().__init__(crowd, len(crowd.viewers))
        self.ledger = ledger
        self.stays = stays
        self.here = True
        self.asleep = False
        self.may_sleep = True
        crowd.viewers.append(self)

    def connect(self) -> None:
        if self.here:
            self.ledger.count("connections of viewers")
            super().connect()

    def take(self, message: bytes) -> None:
        if message.startswith((b'42["prediction"', b'42["history"', b'42["hello"')):
            event, data = json.loads(message[2:])
            if event == "prediction":
                self._see(data)
            elif event == "history":
                self.ledger.count("resets", bool(data.get("reset")))
                for caption in data["captions"]:
                    self._see(caption)
                self.is_live = not data["more"] and "error" not in data
            elif self._last_seq and (data["oldest_seq"] or 0) > self._last_seq + 1:
                self.ledger.count("gaps")
        else:
            super().take(message)

    def _see(self, caption: dict[str, Any]) -> None:
        place = self.ledger.see(caption)
        self.got.extend(bytes(max(0, place + 1 - len(self.got))))
        self.got[place] = min(self.got[place] + 1, 255)
        if self.got[place] > 1:
            self.ledger.count("twice")
        if caption["seq"] <= self._last_seq:
            self.ledger.count("out of order")
        self._last_seq = caption["seq"]

    def has(self, identifier: str) -> bool:
        place = self.ledger.index.get(identifier)
        return place is not None and place < len(self.got) and self.got[place] > 0

    # How the different kinds spend their time

    def come_and_go(self) -> None:
        """Stay a while, go, and come again: with what it has, or as a new page."""
        chance = self._crowd.chance

        def go() -> None:
            self.here = False
            self.leave()
            self._crowd.after(chance.uniform(*AWAY), come)

        def come() -> None:
            if chance.random() < 0.5:
                self.got, self._last_seq = bytearray(), 0
            self.here = True
            self.ledger.count("visits")
            self.connect()
            self._crowd.after(chance.uniform(*HERE), go)

        come()

    def sleep_and_wake(self) -> None:
        """Read nothing for a while, again and again; the connection stays."""
        chance = self._crowd.chance

        def sleep() -> None:
            if not self.may_sleep:
                return
            if self._connection is not None and self.is_live:
                self.asleep = True
                self.ledger.count("sleeps")
                connection = self._connection
                self._crowd.forget(connection)
                self._crowd.after(chance.uniform(*ASLEEP), lambda: wake(connection))
            else:
                self._crowd.after(1, sleep)

        def wake(connection: Any) -> None:
            self.asleep = False
            self._crowd.watch(connection, EVENT_READ, self._read)
            self._crowd.after(chance.uniform(*AWAKE), sleep)

        self._crowd.after(chance.uniform(*AWAKE), sleep)


def complete(crowd: Crowd, ledger: Ledger, last: int = 0) -> bool:
    """Whether each viewer that stays, and is awake, has every caption promised so far.

    Args:
        last: so many of them, the newest; 0: all.
    """
    promised = list(ledger.answered)[-last:]
    return all(
        viewer.has(identifier)
        for viewer in staying(crowd)
        if not viewer.asleep
        for identifier in reversed(promised)
    )


def staying(crowd: Crowd) -> list[Watcher]:
    """The viewers that have to have everything."""
    return [v for v in crowd.viewers if isinstance(v, Watcher) and v.stays]
