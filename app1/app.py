"""app1's entry: the upload page, the HTTP API, and the process around them.

    cd app1 && python app.py

The views are short: `uploads` reads what is asked, `captioning` does it, `problems` answers for
what goes wrong. The model loads in the background; `/healthz` answers from the first moment,
`/readyz` when the model is warm.
"""

from __future__ import annotations

import base64
import dataclasses
import logging
import secrets
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # started alone: the checkout's root takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from flask import Flask, Response, jsonify, render_template, request

from app1.cache import CaptionCache
from app1.captioning import CaptionDesk, Captioned
from app1.guards import DeleteTokens, RateLimiter, refuse_other_sites
from app1.metrics import Metrics
from app1.native_output import keep_native_lines_out
from app1.outbox import Outbox
from app1.problems import (
    BusyError,
    RequestError,
    UnauthorizedError,
    install_error_handlers,
    problem_of,
)
from app1.publisher import Connection, Publisher, RelayConnection
from app1.uploads import (
    MAX_PICTURES,
    REQUEST_SIZE_FACTOR,
    read_options,
    read_uploads,
)
from app1.worker import CaptionWorker
from common.errors import CaptionerError, SettingsError
from common.hosts import http_url, is_loopback
from common.listening import CannotListenError
from common.pages import neighbour_url, share_pages
from common.settings import Settings
from common.state import make_state_folder, publisher_token, shared_secret
from common.waitress_server import PageServer, set_on_signal, wait_for

if TYPE_CHECKING:
    from captioner import Captioner

log = logging.getLogger("app1")

FORMATS = "JPEG, PNG, WebP, GIF, BMP or TIFF"
ACCEPT = "image/jpeg,image/png,image/webp,image/gif,image/bmp,image/tiff"
DRAIN_SECONDS = 30


class App1:
    """The parts of the process, and their start and end.

    Args:
        load: makes the captioner; the model of the settings when left out.
        loaded: called when the model is warm, with None, or with the error if it cannot be loaded.
        connect: makes a connection to the relay; one of Socket.IO when left out.
    """

    def __init__(
        self,
        settings: Settings,
        load: Callable[[], Captioner] | None = None,
        loaded: Callable[[CaptionerError | None], None] = lambda error: None,
        connect: Callable[[Callable[[], None]], Connection] | None = None,
    ) -> None:
        self.settings = settings
        token = publisher_token(settings)
        self.worker = CaptionWorker(
            load or (lambda: _load_model(settings)), settings.captioner_queue, loaded
        )
        self.outbox = Outbox(make_state_folder(settings) / "outbox.db", settings.relay_keep)
        self.publisher = Publisher(
            self.outbox,
            connect or (lambda ended: RelayConnection(settings.relay_url, token, ended)),
        )
        self.cache = CaptionCache()
        self.desk = CaptionDesk(settings, self.worker, self.publisher, self.cache)
        self.limiter = RateLimiter(settings.captioner_rate)
        self.tokens = DeleteTokens(_delete_secret(settings))
        self.metrics = Metrics(self.worker, self.publisher, self.cache)

    def start(self) -> None:
        self.worker.start()
        self.publisher.start()

    def stop(self) -> None:
        """Finish what was accepted, and leave what is not published yet in the outbox."""
        self.worker.stop()
        self.publisher.stop()
        self.outbox.close()


@dataclasses.dataclass(frozen=True)
class Result:
    """What came of one picture of a request: an error, or the API's answer and the thumbnail."""

    name: str
    error: CaptionerError | None = None
    answer: dict[str, Any] = dataclasses.field(default_factory=dict)
    thumbnail: bytes = b""

    def shown(self) -> dict[str, Any]:
        """The same as the page's template has it."""
        picture = "data:image/jpeg;base64," + base64.b64encode(self.thumbnail).decode()
        return {
            **self.answer,
            "name": self.name,
            "thumbnail": "" if self.error else picture,
            "error": str(self.error or ""),
            "status": self.error.status if self.error else 200,
        }


def create_app(parts: App1) -> Flask:
    """The routes of app1 on top of its parts; starts nothing."""
    settings, worker = parts.settings, parts.worker
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_SIZE_FACTOR * settings.max_upload_bytes
    share_pages(app, settings, camera=True)

    def page(message: str = "", kind: str = "", results: Sequence[dict[str, Any]] = ()) -> str:
        return render_template(
            "index.html",
            max_upload_bytes=settings.max_upload_bytes,
            max_pixels=settings.captioner_max_pixels,
            max_pictures=MAX_PICTURES,
            formats=FORMATS,
            accept=ACCEPT,
            model_name=worker.model.name if worker.model else "",
            viewer_url=neighbour_url(settings.app2_port),
            message=message,
            message_kind=kind,
            results=results,
        )

    install_error_handlers(app, lambda sentence: page(sentence, "error"))

    @app.before_request
    def guard() -> None:
        """Only requests that change something are guarded; there is nothing secret to read."""
        request.environ["app1.started"] = time.monotonic()
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            refuse_other_sites(request.headers, request.host, settings.relay_origins or ())

    @app.after_request
    def finish(response: Response) -> Response:
        if request.endpoint != "static" and request.blueprint != "shared":
            response.headers.setdefault("Cache-Control", "no-store")
        route = request.url_rule.rule if request.url_rule else "none"
        parts.metrics.requests.labels(route, response.status_code).inc()
        return response

    def caption_uploads() -> list[Result]:
        """Caption what the request brings; the rate limit and the line come before reading it."""
        address = request.remote_addr or ""
        parts.limiter.check(address)
        with worker.admit():
            uploads, options = read_uploads(request), read_options(request)
            parts.limiter.charge(address, len(uploads) - 1)
            results = parts.desk.caption_all(uploads, options)
        for result in results:
            if isinstance(result, Captioned) and result.remembered:
                parts.metrics.remembered.inc()
            elif isinstance(result, Captioned):
                parts.metrics.caption_seconds.observe(result.answer["elapsed_ms"] / 1000)
            outcome = "captioned" if isinstance(result, Captioned) else result.status
            parts.metrics.pictures.labels(outcome).inc()
        published = parts.desk.published(results)
        parts.metrics.seconds.observe(time.monotonic() - request.environ["app1.started"])
        return [
            Result(upload.name, error=result)
            if isinstance(result, CaptionerError)
            else Result(
                upload.name,
                thumbnail=result.thumbnail,
                answer={
                    **result.answer,
                    "published": published[result.answer["id"]],
                    "delete_token": parts.tokens.make(result.answer["id"]),
                },
            )
            for upload, result in zip(uploads, results, strict=True)
        ]

    @app.post("/api/captions")
    def caption_api() -> Response:
        """Caption one picture or several."""
        results = caption_uploads()
        if len(results) == 1:
            if results[0].error:
                raise results[0].error
            return jsonify(results[0].answer)
        return jsonify(
            results=[{"error": problem_of(r.error)} if r.error else r.answer for r in results]
        )

    @app.delete("/api/captions/<id_>")
    def delete_api(id_: str) -> tuple[str, int]:
        """Take a caption and its picture off every screen and out of the history."""
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise UnauthorizedError(
                "Send the delete_token of the upload's answer as: Authorization: Bearer TOKEN."
            )
        parts.tokens.check(id_, token.strip())
        parts.desk.forget(id_)
        return "", 204

    @app.get("/api/model")
    def model_api() -> Response:
        """What model this is, its sizes, its scores, how it was trained."""
        if worker.model is None:
            raise BusyError("The model is being loaded; try again in a moment.", 2)
        return jsonify(worker.model.to_json())

    @app.get("/")
    def upload_page() -> str:
        """The page."""
        return page()

    @app.post("/")
    def upload_form() -> tuple[str, int]:
        """The page with captions in it, for browsers without JavaScript."""
        results = caption_uploads()
        errors = [result.error for result in results if result.error]
        status = errors[0].status if len(errors) == len(results) else 200
        return page(results=[result.shown() for result in results]), status

    @app.post("/delete")
    def delete_form() -> str:
        """The same as DELETE /api/captions/ID, for browsers without JavaScript."""
        id_ = request.form.get("id", "")
        if not id_:
            raise RequestError("The form names no caption; press the button beside a caption.")
        parts.tokens.check(id_, request.form.get("delete_token", ""))
        parts.desk.forget(id_)
        return page("Deleted from every screen.", "notice")

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Alive."""
        return {"status": "alive"}

    @app.get("/readyz")
    def readyz() -> tuple[dict[str, str], int]:
        """Ready to caption: the model is warm, and the process is not being stopped."""
        if worker.ready:
            return {"status": "ready"}, 200
        return {"status": "draining" if worker.draining else "loading"}, 503

    @app.get("/metrics")
    def metrics() -> Response:
        """The numbers of this process, as Prometheus text."""
        return Response(parts.metrics.text(), content_type=parts.metrics.content_type)

    @app.get("/openapi.json")
    def openapi() -> Response:
        """The description of the API."""
        return Response(
            Path(__file__).with_name("openapi.json").read_bytes(), mimetype="application/json"
        )

    return app


def _load_model(settings: Settings) -> Captioner:
    """The model of the settings, warm: the first caption after this takes no longer than others."""
    import numpy as np

    from captioner import Captioner

    captioner = Captioner.load(settings.captioner_model)
    captioner.caption_rgb(np.full((299, 299, 3), 127, np.uint8))
    return captioner


def _delete_secret(settings: Settings) -> bytes:
    """The key of the delete tokens: the secret in the state folder, which outlives this process.

    Not RELAY_TOKEN: people choose that one, and a delete token would help to guess it.
    """
    try:
        return shared_secret(settings).encode()
    except SettingsError as error:
        log.warning("%s Until then, delete tokens are valid for this run only.", error)
        return secrets.token_bytes(32)


def main() -> int:
    """Serve until SIGTERM or SIGINT, then finish what was accepted.

    Returns:
        The exit status: 0; 1 when the port is taken; 2 for wrong settings or a model folder that
        cannot be used, which no second attempt would mend.
    """
    keep_native_lines_out()
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    stop = threading.Event()
    failures: list[CaptionerError] = []

    def loaded(error: CaptionerError | None) -> None:
        if error is None:
            print(f"app1 ready on {http_url(settings.app1_host, settings.app1_port)}/", flush=True)
        else:
            failures.append(error)
            stop.set()

    try:
        settings = Settings.from_environment()
        parts = App1(settings, loaded=loaded)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"app1 settings: {settings.describe()}", flush=True)
    try:
        server = PageServer(
            create_app(parts),
            settings.app1_host,
            settings.app1_port,
            "APP1",
            waiting=settings.captioner_queue + 1,
        )
    except CannotListenError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if not is_loopback(settings.app1_host):
        log.warning(
            "app1 listens on %s, without encryption: whoever can reach it there can send photos, "
            "and read along. Set APP1_HOST to 127.0.0.1, or put a proxy with TLS before it.",
            settings.app1_host,
        )

    set_on_signal(stop)
    server.start()
    parts.start()
    wait_for(stop)
    parts.worker.drain()  # from here on /readyz says no, and uploads are told to come back
    if not server.drain(DRAIN_SECONDS):
        log.warning("some requests could not be answered within %d seconds", DRAIN_SECONDS)
    parts.stop()
    server.close()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
