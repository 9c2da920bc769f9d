"""HTTP as both page servers take it: what Waitress lets through or trips over is refused.

A server of Waitress takes a channel class, and a channel a parser and a class for its own errors;
these are to be derived from, or used as they are.
"""

from __future__ import annotations

import json

from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser, ParsingError
from waitress.task import ErrorTask


class StrictParser(HTTPRequestParser):
    """Refuses requests of which another server, a proxy say, may see another end than we do."""

    # Waitress logs the path of a request whose client has gone, which a refused one has none of.
    path = ""

    def parse_header(self, header_plus: bytes) -> None:
        """Raises ParsingError, at which Waitress answers 400 and closes the connection."""
        if header_plus.lower().count(b"transfer-encoding:") > 1:
            raise ParsingError("A request has one Transfer-Encoding at most.")
        try:
            super().parse_header(header_plus)
        except ValueError as error:  # half an IPv6 address, or a length of 5,000 digits
            raise ParsingError("A number or an address in the request is malformed.") from error
        if self.chunked and "CONTENT_LENGTH" in self.headers:  # RFC 9112, section 6.1
            raise ParsingError("Content-Length and Transfer-Encoding do not go together.")


class ProblemTask(ErrorTask):
    """Waitress's own errors as RFC 9457 problem JSON; they never reach the app and its headers."""

    def execute(self) -> None:
        """Answer, and close the connection: nobody knows where the next request would begin."""
        error = self.request.error
        body = json.dumps(
            {
                "type": "about:blank",
                "title": error.reason,
                "status": error.code,
                "detail": error.body,
            }
        ).encode()
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", "application/problem+json"),
            ("X-Content-Type-Options", "nosniff"),
            ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
        ]
        self.content_length = len(body)
        self.set_close_on_finish()
        self.write(body)


class StrictChannel(HTTPChannel):
    """A connection that is strict and says so."""

    parser_class = StrictParser
    error_task_class = ProblemTask
