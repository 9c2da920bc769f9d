"""The HTTP API: see openapi.json."""

from __future__ import annotations

from pathlib import Path

from flask import Blueprint, Response, jsonify, request

from app1.parts import parts
from app1.problems import BusyError, UnauthorizedError, problem_of
from app1.views.uploading import caption_request

api = Blueprint("api", __name__)


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


@api.delete("/api/captions/<id_>")
def delete(id_: str) -> tuple[str, int]:
    """Delete a caption and its picture from every screen and from the history."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise UnauthorizedError(
            "Send the delete_token of the upload's answer as: Authorization: Bearer TOKEN."
        )
    parts().tokens.check(id_, token.strip())
    parts().service.forget(id_)
    return "", 204


@api.get("/api/model")
def model() -> Response:
    """What model this is, its sizes, its scores, how it was trained."""
    manifest = parts().worker.model
    if manifest is None:
        raise BusyError("The model is being loaded; try again in a moment.", 2)
    return jsonify(manifest.to_json())


@api.get("/openapi.json")
def openapi() -> Response:
    """The description of the API."""
    file = Path(__file__).resolve().parent.parent / "openapi.json"
    return Response(file.read_bytes(), mimetype="application/json")
