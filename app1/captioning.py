"""What happens to a photo in app1: wait for a turn, decode, announce, caption, publish.

This is where pictures, the captioner and the relay meet. It contains no HTTP.
"""

from __future__ import annotations

import contextlib
import datetime
import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from app1.problems import ChangedMeanwhileError, ForbiddenError, UploaderGoneError
from app1.publisher import Publisher
from app1.review import Review, ReviewError, with_words
from app1.uploads import Options, Upload
from app1.workers import CaptionWorkers
from captioner.errors import BrokenPictureError
from common.errors import CaptionerError
from common.settings import Settings

if TYPE_CHECKING:
    import numpy as np

    from captioner import Captioner
    from captioner.captioner import Caption

log = logging.getLogger(__name__)

# Of the longest side, in pixels. 640 is large enough for a wall display and has some 60 kB. A photo
# of nothing but noise may need the next, since the relay takes no more than so many bytes.
THUMBNAIL_SIDES = (640, 480, 320)
THUMBNAIL_BYTES = 200_000
GONE_AFTER = 1.0  # seconds in line after which it is worth a look whether the uploader waits
DELIVERY_SECONDS = 0.5  # that an answer waits to say "delivered" instead of "queued"

Published = Literal["delivered", "queued", "waiting", "no"]


@dataclass(frozen=True)
class CaptionedPhoto:
    """A photo with its caption.

    Attributes:
        id: names the caption from now on.
        name: of the file, as its sender gave it.
        caption: the caption.
        model: the model's name.
        created_at: in UTC, as ISO 8601 with milliseconds.
        elapsed_ms: from its turn to its caption.
        thumbnail: JPEG bytes.
        delivery: set when the relay has it on disk; None where it is not published.
        waits: for the host's approval.
    """

    id: str
    name: str
    caption: Caption
    model: str
    created_at: str
    elapsed_ms: int
    thumbnail: bytes
    delivery: threading.Event | None = None
    waits: bool = False

    def fields(self, attention: bool = False) -> dict[str, Any]:
        """What the API answers and the relay gets; `attention` adds each word's weights."""
        return {
            "id": self.id,
            **self.caption.to_dict(attention),
            "model": self.model,
            "created_at": self.created_at,
            "elapsed_ms": self.elapsed_ms,
        }


class CaptionService:
    """Captions uploads and publishes the captions, after the host's approval where that is set."""

    def __init__(
        self, settings: Settings, workers: CaptionWorkers, publisher: Publisher, review: Review
    ) -> None:
        self._settings = settings
        self._workers = workers
        self._publisher = publisher
        self._review = review

    def caption_all(
        self,
        uploads: Sequence[Upload],
        options: Options,
        is_gone: Callable[[], bool] = lambda: False,
    ) -> list[CaptionedPhoto | CaptionerError]:
        """Captions each picture; a broken one gives its error, and the others are done.

        Several are worked on at the same time, and published in their order. Call it within
        `CaptionWorkers.admit`.

        Args:
            is_gone: whether the uploader does not wait any more; then what is still in line is
                dropped.
        """
        results: list[CaptionedPhoto | CaptionerError] = []
        began = time.monotonic()

        def caption(upload: Upload, captioner: Captioner) -> CaptionedPhoto:
            if time.monotonic() - began > GONE_AFTER and is_gone():
                raise UploaderGoneError("The uploader has gone.")
            with captioner.at_work():
                return self._caption(upload, options, captioner)

        for result in self._workers.run_all([partial(caption, upload) for upload in uploads]):
            try:
                photo = result()
                results.append(self._publish(photo) if options.publish else photo)
            except CaptionerError as error:
                results.append(error)
        return results

    def published(self, photos: Sequence[CaptionedPhoto]) -> list[Published]:
        """What became of captions: "delivered" to the relay within a moment, "queued", "waiting"
        for the host's approval, or "no".

        All of them share one moment, and there is none if the relay does not keep up.
        """
        until = time.monotonic() + DELIVERY_SECONDS
        found: list[Published] = []
        for photo in photos:
            if photo.delivery is None:
                found.append("waiting" if photo.waits else "no")
            else:
                found.append(self._state(photo.delivery, until))
        return found

    def _state(self, delivery: threading.Event, until: float) -> Published:
        has_arrived = self._publisher.delivered(delivery, max(0, until - time.monotonic()))
        return "delivered" if has_arrived else "queued"

    def correct(
        self, id_: str, caption: str, by: str, approved: bool = False, seen: str | None = None
    ) -> Published:
        """Puts a person's words in place of a caption, approves it, or both.

        Args:
            caption: "" to leave the words as they are.
            by: who wrote them: "host" or "uploader".
            seen: the words that the host approves.

        Returns:
            What became of it, as in `published`.

        Raises:
            ReviewError: the file of what waits cannot be used.
            ChangedMeanwhileError: they are not those that wait.
            ForbiddenError: the host has approved the words, and the uploader would change them.
        """
        until = time.monotonic() + DELIVERY_SECONDS
        found = self._review.find(id_)
        if found is None:
            if by != "host" and self._settings.app1_approve:
                raise ForbiddenError(
                    "The host has approved these words; ask the host to change them."
                )
            change = {"id": id_, "caption": caption, "by": by, "approved": approved}
            return self._state(self._publisher.publish(change, "corrected"), until)
        if seen is not None and seen != found["caption"]:
            raise ChangedMeanwhileError(
                "The uploader has changed these words meanwhile; look at them again."
            )
        if caption:
            found = with_words(found, caption, by)
            self._review.edit(found)
        if not approved:
            return "waiting"
        if "by" in found:
            self._review.keep_correction(found)
        delivery = self._publisher.publish({**found, "approved": True})
        self._review.leave(id_)
        return self._state(delivery, until)

    def forget(self, id_: str) -> None:
        """Deletes a photo and its caption from every screen, from the history and from review."""
        with contextlib.suppress(ReviewError):  # it is logged; the screens come first
            self._review.forget(id_)
        self._publisher.forget(id_)

    def _caption(self, upload: Upload, options: Options, captioner: Captioner) -> CaptionedPhoto:
        """One picture from its bytes to its caption, in the worker's thread."""
        started = time.monotonic()
        id_ = uuid.uuid4().hex
        rgb, thumbnail = self._decode(upload)
        is_shown = options.publish and not self._settings.app1_approve
        if is_shown:
            self._publisher.announce(id_, upload.name, thumbnail)
        try:
            caption = captioner.caption_rgb(
                rgb, options.beam_size, options.max_candidates, style=options.style
            )
        except Exception:
            if is_shown:
                self._publisher.fail(id_, "This photo could not be captioned.")
            raise
        elapsed_ms = round(1000 * (time.monotonic() - started))
        name = captioner.manifest.name
        return CaptionedPhoto(id_, upload.name, caption, name, _now(), elapsed_ms, thumbnail)

    def _publish(self, photo: CaptionedPhoto) -> CaptionedPhoto:
        payload = {**photo.fields(), "image_path": photo.name, "thumbnail": photo.thumbnail}
        if self._settings.app1_approve:
            self._review.wait(payload)
            return replace(photo, waits=True)
        return replace(photo, delivery=self._publisher.publish(payload))

    def _decode(self, upload: Upload) -> tuple[np.ndarray, bytes]:
        """A picture as (height, width, 3) uint8 RGB, and its thumbnail."""
        # Here, since it imports OpenCV, and the server answers before that is loaded.
        from captioner.pictures.preprocess import Preprocessor

        limits = self._settings
        try:
            rgb = Preprocessor.load(
                upload.read(limits.max_upload_bytes),
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
