"""Validates publishers' messages: the schema and the size of each, field by field.

There is one function a message. It returns the message as it is stored and broadcast, or raises
`MessageError` with a sentence for the publisher's author. Unknown fields are left out, and an
optional field that is null counts as absent; everything else has to fit.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

MAX_CAPTION = 1_000  # characters
MAX_PATH = 1_000  # characters
MAX_ERROR = 500  # characters
MAX_CANDIDATES = 20
MAX_WORDS = 200
MAX_THUMBNAIL = 200_000  # bytes of the picture itself
# Bytes of a whole message. All fields at their limits, in any script, are shorter; the transport
# refuses longer messages before they are parsed.
MAX_MESSAGE = 1_000_000

# How files begin of the kinds of picture that every browser shows and that cannot hold a script.
_PICTURES = {
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF....WEBP", re.DOTALL),
}


class MessageError(ValueError):
    """A message does not fit its schema; `str(error)` is a sentence that names the field."""


@dataclass(frozen=True)
class Thumbnail:
    """A small picture: the bytes of a file and its media type."""

    data: bytes
    kind: str

    def data_url(self) -> str:
        """The one form in which viewers get it, whatever it came as."""
        return f"data:{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Message:
    """A checked message: its fields unchanged, and its thumbnail."""

    fields: dict[str, Any]
    thumbnail: Thumbnail | None = None

    def payload(self, **more: Any) -> dict[str, Any]:
        """What viewers get: the fields, the thumbnail as a data URL, and `more`."""
        picture = {"thumbnail": self.thumbnail.data_url()} if self.thumbnail else {}
        return {**self.fields, **picture, **more}


def predict(data: object) -> Message:
    """A caption; only `caption` is required.

    Raises:
        MessageError: it does not fit, here and in the functions below.
    """
    return _message(data, {"caption": _caption}, _PREDICT)


def captioning(data: object) -> Message:
    """Work on a photo has begun; what follows names the same `id`."""
    return _message(data, {"id": _id}, {"image_path": _text(MAX_PATH)})


def captioning_failed(data: object) -> Message:
    """No caption will come for a photo."""
    message = _message(data, {"id": _id}, {"error": _text(MAX_ERROR)})
    message.fields.setdefault("error", "No caption could be made for this photo.")
    return message


def forget(data: object) -> Message:
    """A caption and its picture have to be deleted everywhere."""
    return _message(data, {"id": _id}, {})


def corrected(data: object) -> Message:
    """A person's words take the place of a caption, or a person approves the caption as it is."""
    message = _message(
        data, {"id": _id}, {"caption": _text(MAX_CAPTION), "by": _text(100), "approved": _yes_or_no}
    )
    if not message.fields.get("caption", "").strip() and not message.fields.get("approved"):
        raise MessageError("A correction needs a caption that is not blank, or approved: true.")
    return message


# Checks: (value, name of the field) -> value. Each raises MessageError.

Check = Callable[[Any, str], Any]


def _text(most: int) -> Check:
    def check(value: Any, name: str) -> str:
        if not isinstance(value, str) or len(value) > most:
            raise MessageError(f"{name} must be a text of at most {most} characters.")
        try:
            value.encode()
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise MessageError(f"{name} must be valid Unicode text.") from error
        return value

    return check


def _caption(value: Any, name: str) -> str:
    text: str = _text(MAX_CAPTION)(value, name)
    if not text.strip():
        raise MessageError(f"{name} must not be blank.")
    return text


def _id(value: Any, name: str) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9._:~-]{1,100}", value):
        raise MessageError(
            f"{name} must be 1 to 100 letters, digits or any of . _ : ~ - in a text."
        )
    return value


def _number(least: float, most: float) -> Check:
    def check(value: Any, name: str) -> float:
        # bool is an int in Python. NaN passes json.loads and would break JSON.parse in every
        # viewer; every comparison with it is false, so it fails here.
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not is_number or not least <= value <= most:
            raise MessageError(f"{name} must be a number from {least:g} to {most:g}.")
        return value

    return check


def _yes_or_no(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise MessageError(f"{name} must be true or false.")
    return value


def _utc_time(value: Any, name: str) -> str:
    shape = r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d{1,9})?(Z|\+00:00)"
    try:
        match = re.fullmatch(shape, value, re.ASCII)
        datetime.fromisoformat(match[1] if match else "no date")
    except (TypeError, ValueError) as error:
        raise MessageError(
            f"{name} must be an ISO 8601 time in UTC, such as 2026-01-31T12:00:00Z."
        ) from error
    return str(value)


def _list_of(most: int, **fields: Check) -> Check:
    """A list of objects with `fields`, all of them required."""

    def check(value: Any, name: str) -> list[dict[str, Any]]:
        if not isinstance(value, list) or len(value) > most:
            raise MessageError(f"{name} must be a list of at most {most} objects.")
        return [_object(item, fields, {}, f"{name}[{i}]") for i, item in enumerate(value)]

    return check


_PREDICT: dict[str, Check] = {
    "id": _id,
    "image_path": _text(MAX_PATH),
    "candidates": _list_of(MAX_CANDIDATES, caption=_caption, probability=_number(0, 1)),
    "words": _list_of(MAX_WORDS, word=_text(100), probability=_number(0, 1)),
    "confidence": _number(0, 1),
    "confident": _yes_or_no,
    "photo": _yes_or_no,
    "by": _text(100),
    "approved": _yes_or_no,
    "model_caption": _caption,
    "created_at": _utc_time,
    "model": _text(200),
    "elapsed_ms": _number(0, 1e9),
}


def _message(data: object, required: Mapping[str, Check], optional: Mapping[str, Check]) -> Message:
    fields = _object(data, required, optional, "")
    picture = data.get("thumbnail") if isinstance(data, dict) else None
    return Message(fields, None if picture is None else _thumbnail(picture))


def _object(
    data: object, required: Mapping[str, Check], optional: Mapping[str, Check], where: str
) -> dict[str, Any]:
    """The known fields of `data`, checked."""
    if not isinstance(data, dict):
        raise MessageError(f"{where or 'The message'} must be an object.")
    for name in required:
        if data.get(name) is None:
            raise MessageError(f"{where or 'The message'} has no {name}.")
    return {
        name: check(data[name], f"{where}.{name}" if where else name)
        for name, check in {**required, **optional}.items()
        if data.get(name) is not None
    }


def _thumbnail(value: object) -> Thumbnail:
    """A thumbnail from a base64 data URL, or from the bytes of a file."""
    wrong = MessageError(
        "thumbnail must be a JPEG, PNG, GIF or WebP picture, as bytes or as a base64 data URL, of "
        f"at most {MAX_THUMBNAIL} bytes."
    )
    if isinstance(value, str):
        prefix = re.match(r"data:image/[a-z]+;base64,", value)
        # The length is checked first, so that nothing too long is decoded.
        if not prefix or len(value) - prefix.end() > MAX_THUMBNAIL * 4 // 3 + 4:
            raise wrong
        try:
            value = base64.b64decode(value[prefix.end() :], validate=True)
        except ValueError as error:
            raise wrong from error
    if not isinstance(value, (bytes, bytearray)) or len(value) > MAX_THUMBNAIL:
        raise wrong
    for kind, start in _PICTURES.items():  # the bytes decide, not the media type in the URL
        if start.match(value):
            return Thumbnail(bytes(value), kind)
    raise wrong
