"""An upload, the same for the API and for the page's form."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flask import request

from app1.captioning import CaptionedPhoto
from app1.guests import Guests
from app1.parts import parts
from app1.uploads import Options, Upload, read_options, read_uploads
from common.errors import CaptionerError


@dataclass(frozen=True)
class Result:
    """One picture of a request: an error, or the photo with the API's answer."""

    upload: Upload
    error: CaptionerError | None = None
    photo: CaptionedPhoto | None = None
    answer: dict[str, Any] | None = None


def caption_request() -> list[Result]:
    """Captions what the request brings. Rate limit and queue are checked before it is read."""
    own, address = parts(), request.remote_addr or ""
    check_uploader()
    own.limiter.check(address)
    with own.workers.admit():
        uploads, options = read_uploads(request), read_options(request)
        own.limiter.charge(address, len(uploads) - 1)
        found = own.service.caption_all(uploads, options, is_gone())
    results = _results(uploads, found, options)
    for result in results:
        if result.photo:
            own.metrics.caption_seconds.observe(result.photo.elapsed_ms / 1000)
        outcome = result.error.status if result.error else "captioned"
        own.metrics.pictures.labels(outcome).inc()
    own.metrics.seconds.observe(time.monotonic() - request.environ["app1.started"])
    return results


def is_gone() -> Callable[[], bool]:
    """A function, for any thread, that returns whether the client has closed the connection."""
    asked: Callable[[], bool] = request.environ.get("waitress.client_disconnected", lambda: False)
    return asked


def data_url(jpeg: bytes) -> str:
    """A picture as a page can show it."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def check_uploader() -> None:
    """Refuse an upload by somebody from whom the host takes none.

    A guest's token is in the address, as in the guests' link, or in the Authorization header, where
    the host's may be too.

    Raises:
        ForbiddenError: the host takes none from this client.
    """
    bearer = request.headers.get("Authorization", "").partition(" ")[2].strip()
    if not parts().is_host(bearer):
        Guests.read(parts().review).check(request.args.get("guest") or bearer)


def _results(
    uploads: Sequence[Upload], found: Sequence[CaptionedPhoto | CaptionerError], options: Options
) -> list[Result]:
    own = parts()
    photos = [photo for photo in found if isinstance(photo, CaptionedPhoto)]
    published = dict(zip((p.id for p in photos), own.service.published(photos), strict=True))
    results = []
    for upload, one in zip(uploads, found, strict=True):
        if isinstance(one, CaptionerError):
            results.append(Result(upload, error=one))
            continue
        answer = {
            **one.fields(options.attention),
            "probability": round(one.caption.probability, 6),
            "published": published[one.id],
            "delete_token": own.tokens.make(one.id),
        }
        if options.thumbnail:
            answer["thumbnail"] = data_url(one.thumbnail)
        results.append(Result(upload, photo=one, answer=answer))
    return results
