"""app1's HTTP errors. Each has its own status; one place turns any error into an answer.

Under /api/ an error is RFC 9457 problem JSON, elsewhere a sentence in the page. The errors of a
picture itself come from `captioner.errors`; this file adds those that only a server can have.

No answer contains a stack trace: an unforeseen error goes to the log, the client gets a sentence.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import BadHost, HTTPException

from common.errors import CaptionerError
from common.problems import PROBLEM_TYPE, problem

log = logging.getLogger(__name__)

# Werkzeug's own sentences are for programmers of the server; these are for the sender.
_SENTENCES = {
    400: "The request could not be understood; send the picture as multipart/form-data.",
    404: "There is nothing at this address; the upload page is at {root}/.",
    405: "This address does not take such a request; {root}/openapi.json lists what it takes.",
    413: "The request is too large; send fewer or smaller pictures.",
}


class RequestError(CaptionerError):
    """Something is wrong with the request itself, not with a picture in it."""

    status = 400
    title = "The request is not valid"


class UnauthorizedError(RequestError):
    """A correction or deletion without a token."""

    status = 401
    title = "A token is missing"


class ForbiddenError(RequestError):
    """A wrong delete token, or a request that a page of another site made a browser send."""

    status = 403
    title = "Not allowed"


class ChangedMeanwhileError(RequestError):
    """The host approves words that are not there any more."""

    status = 409
    title = "Changed meanwhile"


class NotWaitingError(RequestError):
    """What was asked for is not there any more, or not for now."""

    status = 404
    title = "Not here"


class EndedError(RequestError):
    """A link for guests that the host has ended."""

    status = 410
    title = "Ended"


class RetryLaterError(CaptionerError):
    """Nothing is wrong with the request, but it comes at the wrong time.

    Attributes:
        retry_after: seconds after which to try again, rounded up to a whole number for the header.
    """

    def __init__(self, sentence: str, retry_after: float) -> None:
        super().__init__(sentence)
        self.retry_after = max(1, math.ceil(retry_after))


class TooManyRequestsError(RetryLaterError):
    """One address sends more than CAPTIONER_RATE allows."""

    status = 429
    title = "Too many uploads"


class BusyError(RetryLaterError):
    """As many uploads wait as CAPTIONER_QUEUE allows, or the server starts or stops."""

    status = 503
    title = "Busy"


class UploaderGoneError(CaptionerError):
    """The client closed the connection while its picture was in line. Nobody gets this answer."""

    status = 499  # as nginx counts it
    title = "The client has gone"


def problem_of(error: CaptionerError) -> dict[str, object]:
    """The members of problem JSON for `error`."""
    return problem(error.status, error.title, str(error))


def install_error_handlers(app: Flask, render_page: Callable[[str], str]) -> None:
    """Make every error of `app` an answer; `render_page` puts a sentence into the page."""

    def answer(body: dict[str, object]) -> Response:
        status = int(str(body["status"]))
        if request.path.startswith("/api/"):
            response = jsonify(body)
            response.mimetype = PROBLEM_TYPE
        elif isinstance(request.routing_exception, BadHost):
            # the page's links hold the host, and this one is malformed
            response = Response(str(body["detail"]), mimetype="text/plain")
        else:
            response = Response(render_page(str(body["detail"])), mimetype="text/html")
        response.status_code = status
        return response

    @app.errorhandler(CaptionerError)
    def handle_ours(error: CaptionerError) -> Response:
        response = answer(problem_of(error))
        if isinstance(error, RetryLaterError):
            response.headers["Retry-After"] = str(error.retry_after)
        if isinstance(error, UnauthorizedError):
            response.headers["WWW-Authenticate"] = "Bearer"
        return response

    @app.errorhandler(HTTPException)
    def handle_http(error: HTTPException) -> Response:
        status = error.code or 500
        detail = _SENTENCES.get(status, "").format(root=request.script_root)
        detail = detail or error.description or error.name
        response = answer(problem(status, error.name, detail))
        for name, value in error.get_headers():
            if name in ("Allow", "Retry-After"):
                response.headers[name] = value
        return response

    @app.errorhandler(Exception)
    def handle_unforeseen(error: Exception) -> Response:
        log.error("unforeseen error in %s %s", request.method, request.path, exc_info=error)
        sentence = "Something went wrong on our side; the server's log says what."
        return answer(problem(500, "Internal error", sentence))
