"""The upload page, and its plain forms for browsers without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flask import Blueprint, render_template, request

from app1.guests import Guests
from app1.parts import parts
from app1.problems import RequestError
from app1.review import ReviewError
from app1.uploads import MAX_PICTURES
from app1.views.uploading import Result, caption_request, data_url
from common.pages import neighbour_url

FORMATS = "JPEG, PNG, WebP, GIF, BMP, TIFF, HEIC, AVIF, JPEG 2000 or a camera's raw file"
ACCEPT = (
    "image/*,.heic,.heif,.avif,.jp2,.cr2,.cr3,.nef,.arw,.dng,.raf,.orf,.rw2,.jpg,.jpeg,.png,.webp"
)

page = Blueprint("page", __name__)


def render_page(
    message: str = "", kind: str = "", results: Sequence[Result] = (), guest: str = ""
) -> str:
    """The page with a message, and with the results of an upload; for a guest, with their token."""
    settings, model = parts().settings, parts().workers.model
    guest = guest or request.args.get("guest", "")
    return render_template(
        "index.html",
        max_upload_bytes=settings.max_upload_bytes,
        max_pixels=settings.captioner_max_pixels,
        max_pictures=MAX_PICTURES,
        formats=FORMATS,
        accept=ACCEPT,
        model_name=model.name if model else "",
        viewer_url=neighbour_url(settings.app2_public_url, settings.app2_port),
        approve=settings.app1_approve,
        guest=guest,
        refusal=_refusal(guest),
        message=message,
        message_kind=kind,
        results=[_shown(result) for result in results],
    )


def _refusal(guest: str) -> str:
    """Why this guest may not upload; "" if they may, or if that cannot be read now."""
    try:
        return Guests.read(parts().review).refusal(guest)
    except ReviewError:
        return ""  # an upload gets the reason


def _shown(result: Result) -> dict[str, Any]:
    """A result as the template has it."""
    shown = {"name": result.upload.name, "thumbnail": "", "error": "", "status": 200}
    if result.error:
        return {**shown, "error": str(result.error), "status": result.error.status}
    picture = data_url(result.photo.thumbnail) if result.photo else ""
    return {**shown, **(result.answer or {}), "thumbnail": picture}


@page.get("/")
def show() -> str:
    """The page."""
    return render_page()


@page.post("/")
def upload() -> tuple[str, int]:
    """The page with captions in it."""
    results = caption_request()
    errors = [result.error for result in results if result.error]
    status = errors[0].status if len(errors) == len(results) else 200
    return render_page(results=results), status


@page.post("/delete")
def delete() -> str:
    """The same as DELETE /api/captions/ID."""
    id_ = request.form.get("id", "")
    if not id_:
        raise RequestError("The form names no caption; press the button beside a caption.")
    parts().tokens.check(id_, request.form.get("delete_token", ""))
    parts().service.forget(id_)
    return render_page("Deleted from every screen.", "notice")
