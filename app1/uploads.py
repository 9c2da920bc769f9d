"""Reads an upload request: its pictures, and what is asked about them. Nothing is decoded here.

A file of the request is in memory or in a temporary file by then (Waitress and Werkzeug see to
that), and stays there until its turn: only the worker takes it into memory whole, one at a time.
"""

from __future__ import annotations

import base64
import io
import os
import re
from dataclasses import dataclass
from typing import IO, Any

from flask import Request

from app1.forms import FIELD
from app1.problems import RequestError
from captioner.errors import NoPictureError, PictureTooLargeError
from captioner.pictures.kinds import kind_of

MAX_PICTURES = 16  # in one request
MAX_BEAM_SIZE = 10
DEFAULT_BEAM_SIZE = 3
# of a whole request, as a multiple of the largest picture: several photos at once, but no more
REQUEST_SIZE_FACTOR = 4


@dataclass(frozen=True)
class Upload:
    """One picture as it came: the name that its sender gave it, and its bytes."""

    name: str
    stream: IO[bytes]

    def read(self, max_bytes: int) -> bytes:
        """All its bytes.

        Raises:
            PictureTooLargeError: more than `max_bytes`; nothing has been read.
        """
        size = self.stream.seek(0, os.SEEK_END)
        if size > max_bytes:
            raise PictureTooLargeError(
                f"The picture has {size / 2**20:.1f} MB, and {max_bytes / 2**20:g} MB are allowed; "
                "send a smaller copy."
            )
        self.stream.seek(0)
        return self.stream.read()


@dataclass(frozen=True)
class Options:
    """What is asked about the pictures of a request."""

    beam_size: int = DEFAULT_BEAM_SIZE
    max_candidates: int | None = None
    attention: bool = False
    publish: bool = True
    style: str = "caption"
    thumbnail: bool = False


def read_uploads(request: Request) -> list[Upload]:
    """The pictures of a request, in order.

    Raises:
        NoPictureError: there is none.
        RequestError: there are too many.
    """
    if request.mimetype.startswith("image/") or request.mimetype == "application/octet-stream":
        data = request.get_data()
        if not data:
            raise NoPictureError("The body is empty; send the picture itself in it.")
        return [Upload(base_name(request.args.get("name", "")), io.BytesIO(data))]
    if request.mimetype == "application/json":
        return [_of_json(json_of(request))]
    named = request.files.getlist(FIELD)
    # A form whose file was not chosen has a file without name and content.
    files = [file for file in named if file.filename or _may_be_picture(file.stream)]
    if not files:
        hint = ""
        if any(file.stream.seek(0, os.SEEK_END) for file in named):
            hint = " (there is a field of that name, but it is text; give it a file name)"
        raise NoPictureError(
            "Choose a picture first: the request has to be multipart/form-data with a file in its "
            f'field "{FIELD}"{hint}.'
        )
    if len(files) > MAX_PICTURES:
        raise RequestError(
            f"{len(files)} pictures are too many for one request; send at most {MAX_PICTURES}."
        )
    return [Upload(base_name(file.filename or ""), file.stream) for file in files]


def _may_be_picture(stream: IO[bytes]) -> bool:
    """Whether this is something, and not a text that was typed into a form."""
    start = stream.read(1000)
    stream.seek(0)
    return bool(start) and kind_of(start) != "text"


def read_options(request: Request) -> Options:
    """The optional fields of a request, from its form or its address.

    Raises:
        RequestError: a value is not what the field takes.
    """
    values: Any = request.values
    if request.mimetype == "application/json":
        values = {key: _plain(value) for key, value in json_of(request).items()}
    return Options(
        beam_size=_number(values.get("beam_size"), "beam_size", DEFAULT_BEAM_SIZE) or 0,
        max_candidates=_number(values.get("max_candidates"), "max_candidates", None),
        attention=_switch(values.get("attention"), "attention", default=False),
        publish=_switch(values.get("publish"), "publish", default=True),
        thumbnail=_switch(values.get("thumbnail"), "thumbnail", default=False),
        style=_style(values.get("style")),
    )


def json_of(request: Request) -> dict[str, Any]:
    """The JSON object in a request's body, whatever its content type.

    Raises:
        RequestError: it is something else.
    """
    try:
        body = request.get_json(force=True, silent=True)
    except RecursionError:  # lists in lists without end
        body = None
    if not isinstance(body, dict):
        raise RequestError('Send a JSON object, such as {"image": "base64"}.')
    return body


def _of_json(body: dict[str, Any]) -> Upload:
    """The picture of a JSON upload: base64, or a data URL."""
    text = body.get(FIELD)
    if not isinstance(text, str) or not text:
        raise NoPictureError(f'The JSON object has to hold the picture in "{FIELD}", in base64.')
    try:
        data = base64.b64decode(
            text.partition(",")[2] if text[:5] == "data:" else text, validate=True
        )
    except ValueError:
        raise RequestError(f'The picture in "{FIELD}" is not valid base64.') from None
    name = body.get("name")
    return Upload(base_name(name if isinstance(name, str) else ""), io.BytesIO(data))


def _plain(value: Any) -> str:
    """A value of JSON as a form has it."""
    return str(int(value)) if isinstance(value, bool) else str(value)


def _number(text: str | None, name: str, default: int | None) -> int | None:
    if not text:
        return default
    if not re.fullmatch(r"[0-9]{1,3}", text) or not 1 <= int(text) <= MAX_BEAM_SIZE:
        raise RequestError(f"The field {name} must be a whole number from 1 to {MAX_BEAM_SIZE}.")
    return int(text)


def _switch(text: str | None, name: str, default: bool) -> bool:
    if text not in (None, "", "0", "1"):
        raise RequestError(f"The field {name} must be 0 or 1.")
    return text == "1" if text else default


def _style(text: str | None) -> str:
    if text not in (None, "", "caption", "alt"):
        raise RequestError("The field style must be caption or alt.")
    return text or "caption"


def base_name(file_name: str) -> str:
    """A file name to show to people: without folders, without control characters, not too long."""
    base = re.split(r"[/\\]", file_name)[-1]
    shown = "".join(character for character in base if character.isprintable()).strip()
    return shown[:120] or "photo"
