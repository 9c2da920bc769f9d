"""Strict HTTP in place of the defaults of Python's http.server.

Eventlet's and Werkzeug's request handlers are subclasses of `BaseHTTPRequestHandler`. By default it
sends the version of Python to everybody, answers a request that it cannot parse with a page of
HTML, and logs a line for each of them.
"""

from __future__ import annotations

import re
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from common.problems import PROBLEM_TYPE, SECURITY_HEADERS, problem_json

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def strict(handler: type[Any]) -> type[BaseHTTPRequestHandler]:
    """A subclass that refuses ambiguous requests with problem JSON, and logs nothing."""

    class Strict(handler):
        def parse_request(self) -> bool:
            if not super().parse_request():
                return False
            # RFC 9112, sections 5.1 and 6.1: a proxy may see the end of these elsewhere
            headers = self.headers
            try:
                urlsplit(self.path)
            except ValueError:  # half an IPv6 address
                self.send_error(400)
                return False
            if self.request_version == "HTTP/0.9":  # an answer would have no headers
                self.send_error(400)
                return False
            if headers.defects or not all(map(_TOKEN.fullmatch, headers)):
                self.send_error(400, explain="A header is malformed.")
                return False
            if "Content-Length" in headers and "Transfer-Encoding" in headers:
                sentence = "Content-Length and Transfer-Encoding do not go together."
                self.send_error(400, explain=sentence)
                return False
            return True

        def send_error(
            self, code: int, message: str | None = None, explain: str | None = None
        ) -> None:
            """Answer, and close the connection: the next request may begin anywhere.

            `message` is left out, because it often repeats what the client sent.
            """
            title = HTTPStatus(code).phrase
            detail = explain or "The request could not be understood."
            body = problem_json(code, title, detail)
            headers = {
                "Content-Type": PROBLEM_TYPE,
                "Content-Length": str(len(body)),
                **SECURITY_HEADERS,
                "Connection": "close",
            }
            lines = [f"HTTP/1.1 {int(code)} {title}", *map(": ".join, headers.items()), "", ""]
            self.close_connection = True
            self.wfile.write("\r\n".join(lines).encode() + body)

        def send_header(self, keyword: str, value: str) -> None:
            if keyword.lower() != "server":
                super().send_header(keyword, value)

        def log_message(self, *_: Any) -> None:
            pass

    return Strict
