"""What happens to a photo in app1: wait for a turn, decode, announce, caption, publish.

This is where pictures, the captioner and the relay meet; it knows no HTTP. A photo that came before
is answered from memory, without a turn.
"""

from __future__ import annotations

import datetime
import json
import logging
import threading
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from app1.cache import CaptionCache, Content, Key
from app1.publisher import Publisher
from app1.uploads import Options, Upload
from app1.worker import CaptionWorker
from captioner.errors import BrokenPictureError
from common.errors import CaptionerError
from common.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from captioner import Captioner

log = logging.getLogger(__name__)

# of the longest side, in pixels: 640 is large enough for a wall display and has some 60 kB; a photo
# of nothing but noise may need the next, since the relay takes no more than so many bytes
THUMBNAIL_SIDES = (640, 480, 320)
THUMBNAIL_BYTES = 200_000
DELIVERY_SECONDS = 0.5  # that an answer waits to say "delivered" instead of "queued"


@dataclass(frozen=True)
class Captioned:
    """A photo with its caption, published or on its way.

    Attributes:
        answer: id, caption, probability, candidates, words, confidence, confident, model,
            created_at and elapsed_ms, as in the API.
        thumbnail: JPEG bytes.
        remembered: whether it was answered from memory.
    """

    answer: dict[str, Any]
    thumbnail: bytes
    remembered: bool
    delivery: threading.Event


class CaptionDesk:
    """Captions uploads and publishes the captions."""

    def __init__(
        self, settings: Settings, worker: CaptionWorker, publisher: Publisher, cache: CaptionCache
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._publisher = publisher
        self._cache = cache

    def caption_all(
        self, uploads: list[Upload], options: Options
    ) -> list[Captioned | CaptionerError]:
        """Caption each picture, in order; a broken one gives its error, and the others are done.

        Call within `CaptionWorker.admit`.
        """
        results: list[Captioned | CaptionerError] = []
        for upload in uploads:
            try:
                results.append(self._caption(upload, options))
            except CaptionerError as error:
                results.append(error)
        return results

    def published(self, results: Iterable[Captioned | CaptionerError]) -> dict[str, str]:
        """What became of captions, by id: "delivered" to the relay within a moment, or "queued".

        A moment for all of them together, and none if the relay does not keep up.
        """
        until = time.monotonic() + DELIVERY_SECONDS
        return {
            result.answer["id"]: "delivered"
            if self._publisher.delivered(result.delivery, max(0, until - time.monotonic()))
            else "queued"
            for result in results
            if isinstance(result, Captioned)
        }

    def forget(self, id_: str) -> None:
        """Take a photo and its caption off every screen, out of the history and out of memory."""
        self._cache.forget(id_)
        self._publisher.forget(id_)

    def _caption(self, upload: Upload, options: Options) -> Captioned:
        """One picture from its bytes to a published caption."""
        started = time.monotonic()
        id_ = uuid.uuid4().hex
        key = Key(
            upload.sha256(self._settings.max_upload_bytes),
            options.beam_size,
            options.max_candidates or options.beam_size,
        )
        content, remembered = self._cache.get(key, id_), True
        seconds = time.monotonic() - started
        if content is None:
            content, remembered, seconds = self._worker.run(partial(self._work, upload, key, id_))
        about = {
            "id": id_,
            "created_at": _now(),
            "elapsed_ms": round(seconds * 1000),
        }
        delivery = self._publisher.publish(
            {
                **content.members(attention=False),
                **about,
                "image_path": upload.name,
                "thumbnail": content.thumbnail,
            }
        )
        answer = {**about, **content.members(options.attention)}
        answer["probability"] = answer["candidates"][0]["probability"]
        return Captioned(answer, content.thumbnail, remembered, delivery)

    def _work(
        self, upload: Upload, key: Key, id_: str, captioner: Captioner
    ) -> tuple[Content, bool, float]:
        """In the worker's thread: what came of a picture, whether it was remembered, seconds."""
        started = time.monotonic()
        # the same photo may have been before this one in the line
        content = self._cache.get(key, id_)
        remembered = content is not None
        if content is None:
            rgb, thumbnail = self._decode(upload)
            self._publisher.announce(id_, upload.name, thumbnail)
            try:
                caption = captioner.caption_rgb(
                    rgb, beam_size=key.beam_size, max_candidates=key.max_candidates
                )
            except Exception:
                self._publisher.fail(id_, "This photo could not be captioned.")
                raise
            members = {**caption.to_dict(attention=True), "model": captioner.manifest.name}
            content = Content(json.dumps(members).encode(), thumbnail)
            self._cache.put(key, content, id_)
        return content, remembered, time.monotonic() - started

    def _decode(self, upload: Upload) -> tuple[np.ndarray, bytes]:
        """A picture as (height, width, 3) uint8 RGB, and its thumbnail."""
        # Here, since it imports OpenCV, and the server answers before that is loaded.
        from captioner.pictures.preprocess import Preprocessor

        limits = self._settings
        try:
            rgb = Preprocessor.load(
                upload.read(),
                max_bytes=limits.max_upload_bytes,
                max_pixels=limits.captioner_max_pixels,
            )
            for side in THUMBNAIL_SIDES:
                thumbnail = Preprocessor.thumbnail(rgb, side)
                if len(thumbnail) <= THUMBNAIL_BYTES:
                    break
            return rgb, thumbnail
        except CaptionerError:
            raise
        except Exception as error:
            # Report any failure of a decoder to the sender as a broken picture.
            log.exception("unforeseen error while decoding a picture")
            raise BrokenPictureError(
                "The picture could not be decoded; open it in another program and save it again."
            ) from error


def _now() -> str:
    """The time in UTC, as ISO 8601 with milliseconds."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
