"""app1's entry: the upload page, the HTTP API, and the process around them.

    cd app1 && python app.py

The model loads in the background. `/healthz` answers from the first moment, `/readyz` says yes when
the model is warm.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from pathlib import Path

if __name__ == "__main__":  # started alone: the checkout's root takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from flask import Flask, Response, request

from app1.forms import FormRequest
from app1.guards import refuse_other_sites
from app1.native_output import keep_native_lines_out
from app1.parts import App1, parts
from app1.problems import install_error_handlers
from app1.uploads import REQUEST_SIZE_FACTOR
from app1.views import BLUEPRINTS
from app1.views.page import render_page
from common.errors import CaptionerError, SettingsError
from common.hosts import http_url, is_loopback, origin_of
from common.listening import CannotListenError
from common.pages import relay_sources, share_pages
from common.settings import Settings
from common.waitress_server import PageServer, set_on_signal, wait_for

log = logging.getLogger("app1")

DRAIN_SECONDS = 30


def create_app(own: App1) -> Flask:
    """The application on top of its parts; starts nothing."""
    app = Flask(__name__)
    app.request_class = FormRequest
    app.extensions["app1"] = own
    app.config["MAX_CONTENT_LENGTH"] = REQUEST_SIZE_FACTOR * own.settings.max_upload_bytes
    share_pages(app, own.settings, "APP1", camera=True, connect=lambda: relay_sources(own.settings))
    install_error_handlers(app, lambda sentence: render_page(sentence, "error"))
    app.before_request(_guard)
    app.after_request(_finish)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    return app


def _guard() -> None:
    """Only requests that change something are guarded; there is nothing secret to read."""
    request.environ["app1.started"] = time.monotonic()
    if request.method not in ("GET", "HEAD", "OPTIONS"):
        settings = parts().settings
        own = (origin_of(settings.app1_public_url),) if settings.app1_public_url else ()
        origins = (*own, *(settings.relay_origins or ()))
        refuse_other_sites(request.headers, request.host, origins)


def _finish(response: Response) -> Response:
    if request.endpoint != "static" and request.blueprint != "shared":
        response.headers.setdefault("Cache-Control", "no-store")
    route = request.url_rule.rule if request.url_rule else "none"
    parts().metrics.requests.labels(route, response.status_code).inc()
    return response


def main() -> int:
    """Serve until SIGTERM or SIGINT, then finish what was accepted.

    Returns:
        The exit status: 0; 1 when the port is taken; 2 for wrong settings or a model folder that
        cannot be used, where starting again would not help.
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
        own = App1(settings, loaded=loaded)
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"app1 settings: {settings.describe()}", flush=True)
    try:
        server = PageServer(
            create_app(own),
            settings.app1_host,
            settings.app1_port,
            "APP1",
            waiting=settings.captioner_queue + own.workers.count,
        )
    except CannotListenError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    if not is_loopback(settings.app1_host):
        log.warning(
            "app1 listens on %s, without encryption: anyone who can reach it there can send "
            "photos. Set APP1_HOST to 127.0.0.1, or put a proxy with TLS before it.",
            settings.app1_host,
        )

    set_on_signal(stop)
    server.start()
    own.start()
    wait_for(stop)
    own.workers.drain()  # from here on /readyz says no, and uploads get 503
    if not server.drain(DRAIN_SECONDS):
        log.warning("some requests could not be answered within %d seconds", DRAIN_SECONDS)
    own.stop()
    server.close()
    for failure in failures:
        print(failure, file=sys.stderr)
    return 2 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
