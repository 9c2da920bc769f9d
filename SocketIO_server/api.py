"""The relay over plain HTTP: health, metrics, and the history for programs that poll."""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any
from urllib.parse import parse_qs

import flask
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from werkzeug.exceptions import BadRequest, HTTPException, ServiceUnavailable

from common.hosts import Origins, answers_to
from common.problems import PROBLEM_TYPE, SECURITY_HEADERS, problem_json
from common.settings import Settings
from SocketIO_server.event_stream import EventStream
from SocketIO_server.messages import MAX_MESSAGE
from SocketIO_server.relay import Relay
from SocketIO_server.stores.protocol import Store, StoreError, search_words
from SocketIO_server.transport import async_modes

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000  # captions in one answer
MAX_QUERY = 200  # characters
BATCH = 50  # captions read at a time, so that nothing else waits long for the store
REFUSED_ORIGIN = (
    "The relay refuses pages of {}; if this page is yours, add that address to RELAY_ORIGINS, or "
    "set APP2_PUBLIC_URL to the page's address, and start the relay again."
)

ANYONE_MAY_READ = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Expose-Headers": "Retry-After",
}

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def add_routes(app: flask.Flask, relay: Relay, origins: Origins) -> None:
    """Give `app` the relay's routes."""

    @app.get("/")
    def index() -> flask.Response:
        """A line of text for people who open the relay's own address."""
        text = "This is the relay between the upload page and the viewer page.\n"
        return flask.Response(text, mimetype="text/plain")

    @app.get("/healthz")
    def healthz() -> flask.Response:
        """Whether the process is alive."""
        return flask.jsonify(status="ok")

    @app.get("/readyz")
    def readyz() -> tuple[flask.Response, int]:
        """Whether captions can be taken: the history can be used, and the relay is not stopping."""
        reason = relay.why_not_ready()
        if reason:
            return flask.jsonify(status="not ready", reason=reason), 503
        return flask.jsonify(status="ready"), 200

    @app.get("/api/origin")
    def origin() -> flask.Response:
        """Whether the page that asks may connect, in words for its reader.

        Every page may read this answer: a browser does not show a page why it was refused. When
        there is no room, it says in Retry-After when there may be.
        """
        _turn_away(relay)
        asking = flask.request.headers.get("Origin")
        allowed = asking is None or origins.allows(asking)
        sentence = "" if allowed else REFUSED_ORIGIN.format(asking[:200] if asking else "")
        response = flask.jsonify(allowed=allowed, error=sentence)
        response.headers.update(ANYONE_MAY_READ)
        return response

    @app.get("/metrics")
    def metrics() -> flask.Response:
        """Counters for Prometheus."""
        text = generate_latest(relay.metrics.registry)
        return flask.Response(text, content_type=CONTENT_TYPE_LATEST)

    @app.get("/api/captions")
    def captions() -> flask.Response:
        """Captions, oldest first: those that follow `after`, or the most recent ones.

        With `before`, only those with lower numbers, to go back. With `q`, those in which each word
        of it begins a word. `last_seq` is the `after` with which to go on.
        """
        limit = min(_whole_number("limit", DEFAULT_LIMIT, least=1), MAX_LIMIT)
        after = _whole_number("after", -1, least=0)
        before = _whole_number("before", 2**62, least=0)
        query = flask.request.args.get("q", "")
        if len(query) > MAX_QUERY:
            raise BadRequest(f"q must be at most {MAX_QUERY} characters long.")
        words = search_words(query)
        if query.strip() and not words:  # only punctuation, which captions are not searched for
            limit = 0
        try:
            if after < 0:
                after = relay.store.before_last(limit, words, before)
            batches = _batches(relay.store, after, before, limit, words)
            first = next(batches, [])  # so that it fails, if it does, before the answer begins
        except StoreError as error:
            raise ServiceUnavailable(str(error)) from error

        def body() -> Iterator[str]:
            last_seq, separator = after, ""
            yield '{"captions": ['
            for batch in (first, *batches):
                for caption in batch:
                    last_seq = caption["seq"]
                    yield separator + json.dumps(caption)
                    separator = ", "
            yield f'], "last_seq": {last_seq}}}\n'

        return flask.Response(body(), mimetype="application/json")

    @app.get("/api/captions/stream")
    def stream() -> flask.Response:
        """Captions as server-sent events, from now on or after the last one that the client has."""
        given = flask.request.headers.get("Last-Event-ID") or flask.request.args.get("after")
        if given is not None and not (given.isascii() and given.isdecimal() and len(given) <= 15):
            raise BadRequest("Last-Event-ID must be the number of a caption.")
        _turn_away(relay)
        text = EventStream(relay).text(None if given is None else int(given))
        try:
            first = next(text)  # so that it fails, if it does, before the answer begins
        except StoreError as error:
            raise ServiceUnavailable(str(error)) from error
        headers = {"X-Accel-Buffering": "no"}  # for nginx
        return flask.Response(chain([first], text), 200, headers, "text/event-stream")

    @app.after_request
    def let_pages_read(response: flask.Response) -> flask.Response:
        """Let the pages that may connect over Socket.IO read the API too."""
        if flask.request.path.startswith("/api/"):
            response.headers["Cache-Control"] = "no-store"
            response.vary.add("Origin")
            origin = flask.request.headers.get("Origin")
            if origin and origins.allows(origin):
                response.headers.setdefault("Access-Control-Allow-Origin", origin)
        return response

    @app.errorhandler(HTTPException)
    def problem(error: HTTPException) -> flask.typing.ResponseReturnValue:
        """An error as RFC 9457 problem JSON."""
        if error.response is not None or error.code is None:  # a redirect, say
            return error.get_response()
        headers = {"Content-Type": PROBLEM_TYPE}
        if error.code == 503:
            retry_after = getattr(error, "retry_after", None)
            headers["Retry-After"] = str(retry_after or 5)
            if retry_after:  # a connection that is kept would take the room of the next to ask
                headers["Connection"] = "close"
            if flask.request.path == "/api/origin":
                headers |= ANYONE_MAY_READ
        return problem_json(error.code, error.name, error.description or ""), error.code, headers


def _turn_away(relay: Relay) -> None:
    """Raises ServiceUnavailable, with Retry-After, if no further viewer can be taken now."""
    if full := relay.why_not_another():
        raise ServiceUnavailable(full[0], retry_after=full[1])


def _whole_number(name: str, default: int, least: int) -> int:
    """A whole number from the query string.

    Raises:
        BadRequest: it is not a whole number, or less than `least`.
    """
    text = flask.request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 15 and int(text) >= least):
        raise BadRequest(f"{name} must be a whole number, {least} or more.")
    return int(text)


def _batches(
    store: Store, after: int, before: int, limit: int, words: list[str]
) -> Iterator[list[dict[str, Any]]]:
    """At most `limit` captions between two numbers, a few at a time."""
    more = limit > 0
    while more and limit > 0:
        captions, more = store.after(after, min(limit, BATCH), words=words)
        limit -= len(captions)
        if captions and captions[-1]["seq"] >= before:
            captions, more = [c for c in captions if c["seq"] < before], False
        if captions:
            after = captions[-1]["seq"]
            yield captions


class Guard:
    """WSGI middleware around everything, Socket.IO included.

    - Adds the security headers.
    - Declines to compress WebSocket messages: photos get no smaller, and it would cost a quarter of
      a megabyte a viewer, and one compression a message and viewer.
    - Answers to this machine's names and to addresses only (`answers_to`). Otherwise a page whose
      own name resolves to this machine (DNS rebinding) would pass as one of the relay's.
    - Turns new viewers away, with Retry-After, while the relay is full or stopping. Publishers get
      in: they show the token, as a bearer token, before there is a connection.
    - Refuses bodies that are too large, or come without their size, before they are read.
    - Refuses incomplete WebSocket handshakes, on which the libraries fail, and those of drafts
      before RFC 6455, for which they have no size limit.
    """

    def __init__(self, app: WSGIApp, settings: Settings, relay: Relay, token: str) -> None:
        self._app = app
        self._settings = settings
        self._relay = relay
        self._bearer = f"Bearer {token}".encode() if token else b""

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, *SECURITY_HEADERS.items()], *rest)

        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        async_modes.send_at_once(environ)
        refusal = self._refusal(environ)
        wait = 0
        full = self._relay.why_not_another() if self._is_new_viewer(environ) else None
        if refusal is None and full is not None:
            refusal, wait = (503, "Service Unavailable", full[0]), full[1]
            self._relay.metrics.turned_away.inc()
        if refusal is None:
            return self._app(environ, start)
        body = problem_json(*refusal)
        headers = [
            ("Content-Type", PROBLEM_TYPE),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),  # there may be a body that is not going to be read
            *ANYONE_MAY_READ.items(),  # so that a page can say why
        ]
        if wait:
            headers.append(("Retry-After", str(wait)))
        start(f"{refusal[0]} {refusal[1]}", headers)
        return [body]

    def _is_new_viewer(self, environ: dict[str, Any]) -> bool:
        """Whether a request begins a Socket.IO session, and not with the token of publishers."""
        if not environ.get("PATH_INFO", "").startswith("/socket.io/"):
            return False
        if "sid" in parse_qs(environ.get("QUERY_STRING", "")):
            return False
        shown = environ.get("HTTP_AUTHORIZATION", "").encode(errors="replace")
        return not (self._bearer and hmac.compare_digest(shown, self._bearer))

    def _refusal(self, environ: dict[str, Any]) -> tuple[int, str, str] | None:
        """Status, title and sentence if the request is refused."""
        if "HTTP_TRANSFER_ENCODING" in environ:
            return 411, "Length Required", "Send the body in one piece, with a Content-Length."
        length = str(environ.get("CONTENT_LENGTH") or "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > MAX_MESSAGE:
            return 413, "Content Too Large", f"At most {MAX_MESSAGE} bytes are taken at once."
        if environ.get("HTTP_UPGRADE", "").lower() == "websocket" and not (
            environ.get("HTTP_SEC_WEBSOCKET_VERSION") == "13"
            and "HTTP_SEC_WEBSOCKET_KEY" in environ
            and "upgrade" in environ.get("HTTP_CONNECTION", "").lower()
        ):
            return 400, "Bad Request", "This is not a WebSocket handshake of version 13."
        host = environ.get("HTTP_HOST")
        if host and not answers_to(self._settings, host):
            return (
                421,
                "Misdirected Request",
                "The relay answers to the names and addresses of its own machine only; if this "
                "name is one, set RELAY_PUBLIC_URL to the relay's address with it.",
            )
        return None
