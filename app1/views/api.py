"""The HTTP API: see openapi.json."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, jsonify, request

from app1.parts import parts
from app1.problems import (
    BusyError,
    ForbiddenError,
    NotWaitingError,
    RequestError,
    UnauthorizedError,
    problem_of,
)
from app1.uploads import json_of
from app1.views.uploading import caption_request

api = Blueprint("api", __name__)
MAX_CAPTION = 1_000  # characters, as in the relay


@api.post("/api/captions")
def caption() -> Response:
    """Caption one picture or several."""
    results = caption_request()
    if len(results) == 1:
        if results[0].error:
            raise results[0].error
        return jsonify(results[0].answer)
    return jsonify(
        results=[{"error": problem_of(r.error)} if r.error else r.answer for r in results]
    )


@api.patch("/api/captions/<id_>")
def correct(id_: str) -> Response:
    """Put a person's words in place of a caption; with the host's token, approve it, too."""
    by = _person(id_)
    body = json_of(request)
    caption, approved = body.get("caption", ""), body.get("approved", False)
    seen = body.get("seen")
    are_texts = isinstance(caption, str) and isinstance(seen, (str, type(None)))
    if not are_texts or not isinstance(approved, bool):
        raise RequestError('Send JSON such as {"caption": "Two dogs on a beach."}.')
    caption = " ".join(caption.split())
    if len(caption) > MAX_CAPTION or not caption.isprintable():
        raise RequestError(f"A caption is one line of at most {MAX_CAPTION} printable characters.")
    if approved and by != "host":
        raise ForbiddenError("Only the host approves captions.")
    if not caption and not approved:
        raise RequestError("The caption is empty; to remove a caption, delete it.")
    published = parts().service.correct(id_, caption, by, approved, seen)
    return jsonify(id=id_, caption=caption, by=by, approved=approved, published=published)


@api.delete("/api/captions/<id_>")
def delete(id_: str) -> tuple[str, int]:
    """Delete a caption and its picture from every screen and from the history."""
    _person(id_)
    parts().service.forget(id_)
    return "", 204


@api.get("/api/corrections")
def corrections() -> Response:
    """What people corrected, as `captioner train --corrections` reads it. For the host."""
    require_host()
    found = list(parts().review.corrections())
    return jsonify(
        captions={_file(own): [own["caption"]] for own in found},
        model_captions={_file(own): own["model_caption"] for own in found},
        images={_file(own): base64.b64encode(own.get("thumbnail", b"")).decode() for own in found},
    )


@api.get("/api/review")
def review() -> Response:
    """The captions that wait for the host, the oldest first, without their pictures."""
    require_host()
    return jsonify(approve=parts().settings.app1_approve, waiting=parts().review.waiting())


@api.get("/api/review/<id_>/thumbnail")
def thumbnail(id_: str) -> Response:
    """The picture of a caption that waits for the host."""
    require_host()
    found = parts().review.find(id_)
    if found is None or "thumbnail" not in found:
        raise NotWaitingError("No such picture waits for the host.")
    return Response(found["thumbnail"], mimetype="image/jpeg")


def _file(caption: dict[str, Any]) -> str:
    return f"{caption['id']}.jpg"


def _person(id_: str) -> str:
    """Who sends the request: "host", or "uploader" of this caption.

    Raises:
        UnauthorizedError, ForbiddenError: neither.
    """
    token = bearer_token()
    if parts().is_host(token):
        return "host"
    parts().tokens.check(id_, token)
    return "uploader"


def require_host() -> None:
    """Raises UnauthorizedError or ForbiddenError unless the host sends the request."""
    if not parts().is_host(bearer_token()):
        raise ForbiddenError("This is for the host; the token is not the host's.")


def bearer_token() -> str:
    """The token that the request shows.

    Raises:
        UnauthorizedError: it shows none.
    """
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise UnauthorizedError(
            "Send the delete_token of the upload's answer, or the host's token, as: "
            "Authorization: Bearer TOKEN."
        )
    return token.strip()


@api.get("/api/model")
def model() -> Response:
    """What model this is, its sizes, its scores, how it was trained."""
    manifest = parts().workers.model
    if manifest is None:
        raise BusyError("The model is being loaded; try again in a moment.", 2)
    return jsonify(manifest.to_json())


@api.get("/openapi.json")
def openapi() -> Response:
    """The description of the API."""
    file = Path(__file__).resolve().parent.parent / "openapi.json"
    return Response(file.read_bytes(), mimetype="application/json")
