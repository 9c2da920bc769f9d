"""Reads multipart/form-data as Werkzeug does, and takes pictures of clients that are not browsers.

Such a client may give a picture no file name, or one that is not UTF-8. Werkzeug takes the first
for text, and drops a whole form with the second without a word.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Any

from flask import Request
from werkzeug.datastructures import FileStorage, Headers
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from app1.problems import BusyError, RequestError

FIELD = "image"
_PIECE = 64 * 1024  # bytes that are read at a time


class _Decoder(MultipartDecoder):
    def _parse_headers(self, data: bytes | bytearray) -> Headers:
        try:
            data.decode()
        except UnicodeDecodeError:  # a file name in an older encoding
            data = data.decode("latin-1").encode()
        return super()._parse_headers(data)


class _Parser(FormDataParser):
    def parse(
        self,
        stream: IO[bytes],
        mimetype: str,
        content_length: int | None,
        options: dict[str, str] | None = None,
    ) -> Any:
        """The stream, the fields, and the files.

        Raises:
            RequestError: the form is malformed.
            BusyError: there is no room for it on the disk.
            RequestEntityTooLarge: it has too many parts, or too long ones that are no files.
        """
        if mimetype != "multipart/form-data":
            return super().parse(stream, mimetype, content_length, options)
        boundary = (options or {}).get("boundary", "")
        if not boundary or not boundary.isascii():
            raise RequestError(
                "The Content-Type multipart/form-data names no boundary; let the program that "
                "sends the form make this header."
            )
        decoder = _Decoder(
            boundary.encode(), self.max_form_memory_size, max_parts=self.max_form_parts
        )
        fields: list[tuple[str, str]] = []
        files: list[tuple[str, FileStorage]] = []
        has_begun = False
        try:
            with contextlib.ExitStack() as opened:
                for part, pieces in _parts(decoder, stream):
                    has_begun = True
                    name = part.name or FIELD
                    if isinstance(part, File) or name == FIELD:
                        file = self._opened(part, name, content_length)
                        opened.callback(file.close)
                        for piece in pieces:
                            file.stream.write(piece)
                        file.stream.seek(0)
                        files.append((name, file))
                    else:
                        fields.append((name, self._text(pieces)))
                opened.pop_all()
        except ValueError as error:
            if has_begun:
                reason = "The form is malformed, or ends before its last part does"
            elif "PREAMBLE" in str(error):
                reason = "No part of the form begins with the boundary that its Content-Type names"
            else:
                reason = "The first part of the form is malformed"
            raise RequestError(f"{reason}; send it again as multipart/form-data.") from None
        except OSError as error:
            raise BusyError(
                "The server has no room for an upload of this size: its folder for temporary files "
                f"cannot be written ({error.strerror}).",
                60,
            ) from None
        return stream, self.cls(fields), self.cls(files)

    def _opened(self, part: Field | File, name: str, length: int | None) -> FileStorage:
        file_name = part.filename if isinstance(part, File) else ""
        file = self.stream_factory(
            total_content_length=length,
            filename=file_name,
            content_type=part.headers.get("content-type"),
            content_length=0,
        )
        return FileStorage(file, file_name, name, headers=part.headers)

    def _text(self, pieces: Iterator[bytes]) -> str:
        content = bytearray()
        for piece in pieces:
            content += piece
            if self.max_form_memory_size is not None and len(content) > self.max_form_memory_size:
                raise RequestEntityTooLarge
        return content.decode("utf-8", "replace")


def _parts(
    decoder: MultipartDecoder, stream: IO[bytes]
) -> Iterator[tuple[Field | File, Iterator[bytes]]]:
    """Each part with its content, which has to be read before the next part."""

    def following() -> Any:
        while isinstance(event := decoder.next_event(), NeedData):
            decoder.receive_data(stream.read(_PIECE) or None)
        return event

    def content() -> Iterator[bytes]:
        more = True
        while more:
            event: Data = following()
            more = event.more_data
            yield event.data

    while not isinstance(event := following(), Epilogue):
        if isinstance(event, (Field, File)):
            yield event, content()


class FormRequest(Request):
    """A request whose form is read so."""

    form_data_parser_class = _Parser
