"""Ollama's and OpenAI's protocols, for programs that have a picture described by a big model.

The prompt is not followed: one sentence comes back for each picture, whatever is asked. A picture
that cannot be described gets an error in the protocol's shape, never an empty text. Nothing is
published unless the client sends `X-Publish: 1`.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from app1.captioning import CaptionedPhoto
from app1.parts import parts
from app1.problems import BusyError, RequestError, RetryLaterError
from app1.schema_filling import SchemaError, fill
from app1.uploads import MAX_PICTURES, Options, Upload, json_of
from app1.views.uploading import check_uploader, is_gone
from captioner.manifest import Manifest
from common.errors import CaptionerError

ollama = Blueprint("ollama", __name__)
openai = Blueprint("openai", __name__)
VERSION = "0.6.0"  # of Ollama's API, for clients that ask


class UnknownModelError(RequestError):
    """A client names another model than the one that is here."""

    status = 404
    title = "No such model"


class NoPhotoError(RequestError):
    """The picture is nothing that the model can describe."""

    status = 422
    title = "Not a photo"


# What both have in common


def _manifest() -> Manifest:
    manifest = parts().workers.model
    if manifest is None:
        raise BusyError("The model is being loaded; try again in a moment.", 2)
    return manifest


def _check_model(name: Any) -> str:
    """The model's name as the client calls it."""
    own = _manifest().name
    if name not in (own, f"{own}:latest"):
        raise UnknownModelError(
            f"There is no model {str(name)[:100]!r} here; the model is {own!r}."
        )
    return str(name)


def _decoded(text: Any) -> bytes:
    """The bytes of a picture in base64, or of a data URL."""
    if isinstance(text, str) and text.startswith("data:"):
        text = text.partition(",")[2]
    if isinstance(text, str) and text.startswith(("http:", "https:")):
        raise RequestError("Send the picture itself, as a data URL; addresses are not fetched.")
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise RequestError("A picture has to be in base64.") from None


def _describe(pictures: list[bytes], schema: Any) -> tuple[str, int]:
    """A sentence a picture, a line each; or a JSON object where a schema asks for one.

    Returns:
        The text, and the nanoseconds that it took.
    """
    if not pictures:
        raise RequestError("This model describes pictures, and none was sent.")
    if len(pictures) > MAX_PICTURES:
        raise RequestError(f"At most {MAX_PICTURES} pictures are described at once.")
    own, address, started = parts(), request.remote_addr or "", time.monotonic_ns()
    check_uploader()
    own.limiter.check(address)
    options = Options(publish=request.headers.get("X-Publish") == "1")
    uploads = [Upload(f"picture {n}.jpg", io.BytesIO(p)) for n, p in enumerate(pictures, 1)]
    with own.workers.admit():
        own.limiter.charge(address, len(uploads) - 1)
        found = own.service.caption_all(uploads, options, is_gone())
    photos: list[CaptionedPhoto] = []
    for one in found:
        own.metrics.pictures.labels(getattr(one, "status", "captioned")).inc()
        if isinstance(one, CaptionerError):
            raise one
        if not one.caption.photo:
            raise NoPhotoError(
                "The picture is nothing that this model can describe, such as a page of text, a "
                "chart or a blank."
            )
        photos.append(one)
    text = "\n".join(photo.caption.text for photo in photos)
    if schema is not None:
        best = photos[0].caption
        confidence = best.probability if best.confidence is None else best.confidence
        try:
            text = json.dumps(fill(schema, text, round(confidence, 4)))
        except SchemaError as error:
            raise RequestError(f"The answer cannot have that form: {error}.") from None
    return text, time.monotonic_ns() - started


def _answer(error: Exception, shape: Callable[[int, str], dict[str, Any]]) -> Response:
    """An error in a protocol's shape."""
    status = getattr(error, "status", None) or getattr(error, "code", None) or 500
    sentence = str(error) if isinstance(error, CaptionerError) else "The request failed."
    if isinstance(error, HTTPException) and error.description:
        sentence = error.description
    response = jsonify(shape(status, sentence))
    response.status_code = status
    if isinstance(error, RetryLaterError):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _pieces(text: str) -> list[str]:
    """A text in pieces, as a model that writes word by word sends it."""
    words = text.split(" ")
    return [words[0], *(f" {word}" for word in words[1:])]


# Ollama


@ollama.errorhandler(CaptionerError)
@ollama.errorhandler(HTTPException)
def ollama_error(error: Exception) -> Response:
    return _answer(error, lambda status, sentence: {"error": sentence})


@ollama.get("/api/version")
def version() -> Response:
    """The version of the protocol."""
    return jsonify(version=VERSION)


def _details() -> dict[str, Any]:
    manifest = _manifest()
    return {
        "format": "litert", "family": manifest.decoder.architecture,
        "families": [manifest.encoder.architecture, manifest.decoder.architecture],
        "parameter_size": "", "quantization_level": manifest.precision,
    }  # fmt: skip


@ollama.get("/api/tags")
@ollama.get("/api/ps")
def tags() -> Response:
    """The models that are here: one."""
    manifest = _manifest()
    file = manifest.files[manifest.serving.encoder]
    size = sum(entry.bytes for entry in manifest.files.values())
    own = {
        "name": f"{manifest.name}:latest", "model": f"{manifest.name}:latest",
        "modified_at": manifest.created or "1970-01-01T00:00:00Z", "size": size,
        "digest": file.sha256, "details": _details(),
    }  # fmt: skip
    return jsonify(models=[own])


@ollama.post("/api/show")
def show() -> Response:
    """What the model is and can."""
    body = json_of(request)
    _check_model(body.get("model") or body.get("name"))
    return jsonify(
        modelfile="", parameters="", template="", details=_details(), model_info={},
        capabilities=["completion", "vision"],
    )  # fmt: skip


@ollama.post("/api/generate")
def generate() -> Response:
    """Describe the pictures of a request."""
    body = json_of(request)
    pictures = [_decoded(picture) for picture in body.get("images") or []]
    return _ollama(body, pictures, lambda piece: {"response": piece})


@ollama.post("/api/chat")
def chat() -> Response:
    """Describe the pictures of a conversation."""
    body = json_of(request)
    messages = body.get("messages") or []
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise RequestError("messages has to be a list of objects.")
    pictures = [_decoded(picture) for m in messages for picture in m.get("images") or []]
    return _ollama(
        body, pictures, lambda piece: {"message": {"role": "assistant", "content": piece}}
    )


def _ollama(
    body: dict[str, Any], pictures: list[bytes], shaped: Callable[[str], dict[str, Any]]
) -> Response:
    about = {"model": _check_model(body.get("model"))}
    asks_nothing = not (pictures or body.get("prompt") or body.get("messages"))
    if asks_nothing:  # clients load a model so
        return jsonify({**about, "created_at": _now(), **shaped(""), "done": True,
                        "done_reason": "load"})  # fmt: skip
    schema = body.get("format") or None
    text, nanoseconds = _describe(pictures, {} if schema == "json" else schema)
    end = {
        "done": True, "done_reason": "stop", "total_duration": nanoseconds, "load_duration": 0,
        "prompt_eval_count": len(pictures), "prompt_eval_duration": 0,
        "eval_count": len(text.split()), "eval_duration": nanoseconds,
    }  # fmt: skip
    if body.get("stream", True) is False:
        return jsonify({**about, "created_at": _now(), **shaped(text), **end})

    def lines() -> Iterator[str]:
        for piece in _pieces(text):
            part = {**about, "created_at": _now(), **shaped(piece), "done": False}
            yield json.dumps(part) + "\n"
        yield json.dumps({**about, "created_at": _now(), **shaped(""), **end}) + "\n"

    return Response(lines(), mimetype="application/x-ndjson")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# OpenAI


@openai.errorhandler(CaptionerError)
@openai.errorhandler(HTTPException)
def openai_error(error: Exception) -> Response:
    def shape(status: int, sentence: str) -> dict[str, Any]:
        kind = "invalid_request_error" if status < 500 else "server_error"
        code = "model_not_found" if isinstance(error, UnknownModelError) else None
        return {"error": {"message": sentence, "type": kind, "param": None, "code": code}}

    return _answer(error, shape)


@openai.get("/v1/models")
def models() -> Response:
    """The models that are here: one."""
    own = {"id": _manifest().name, "object": "model", "created": 0, "owned_by": "captioner"}
    return jsonify(object="list", data=[own])


@openai.post("/v1/chat/completions")
def completions() -> Response:
    """Describe the pictures of a conversation."""
    body = json_of(request)
    model = _check_model(body.get("model"))
    text, _ = _describe(_pictures_of(body.get("messages")), _schema_of(body))
    about = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
    if body.get("stream"):
        return Response(_events(about, text), mimetype="text/event-stream")
    words = len(text.split())
    return jsonify(
        **about, object="chat.completion",
        choices=[{"index": 0, "message": {"role": "assistant", "content": text},
                  "finish_reason": "stop", "logprobs": None}],
        usage={"prompt_tokens": 0, "completion_tokens": words, "total_tokens": words},
    )  # fmt: skip


def _pictures_of(messages: Any) -> list[bytes]:
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise RequestError("messages has to be a list of objects.")
    found = []
    for message in messages:
        content = message.get("content")
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") in ("image_url", "input_image"):
                place = part.get("image_url")
                found.append(_decoded(place.get("url") if isinstance(place, dict) else place))
    return found


def _schema_of(body: dict[str, Any]) -> Any:
    wanted = body.get("response_format")
    if not isinstance(wanted, dict) or wanted.get("type") in (None, "text"):
        return None
    return (wanted.get("json_schema") or {}).get("schema") or {}


def _events(about: dict[str, Any], text: str) -> Iterator[str]:
    """Server-sent events, a piece each."""

    def event(delta: dict[str, str], finish: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        chunk = {**about, "object": "chat.completion.chunk", "choices": [choice]}
        return f"data: {json.dumps(chunk)}\n\n"

    yield event({"role": "assistant", "content": ""})
    for piece in _pieces(text):
        yield event({"content": piece})
    yield event({}, "stop")
    yield "data: [DONE]\n\n"
