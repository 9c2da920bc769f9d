"""app2: serves the viewer page, on which captions appear live.

The page's script connects to the relay itself, so this server sees no captions, keeps no state and
needs no token.

    cd app2 && python app.py
"""

from __future__ import annotations

import sys
import threading
from pathlib import Path

if __name__ == "__main__":  # started alone: import from the checkout's root, not this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from flask import Flask, render_template

from common.errors import SettingsError
from common.hosts import http_url
from common.listening import CannotListenError
from common.pages import neighbour_url, picture_sources, relay_sources, share_pages
from common.settings import Settings
from common.version import page_version
from common.waitress_server import PageServer, set_on_signal, wait_for

DRAIN_SECONDS = 5


def create_app(settings: Settings) -> Flask:
    """The viewer page and its health check."""
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = 0  # no view reads a body
    share_pages(
        app,
        settings,
        "APP2",
        connect=lambda: relay_sources(settings),
        images=lambda: picture_sources(settings.app1_public_url, settings.app1_port),
    )

    @app.get("/")
    def viewer_page() -> str:
        """The page. With an empty `relay_url`, its script uses the page's own host name."""
        return render_template(
            "viewer.html",
            relay_url=settings.relay_public_url,
            relay_port=settings.relay_port,
            version=page_version(),
            upload_url=neighbour_url(settings.app1_public_url, settings.app1_port),
        )

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Alive."""
        return {"status": "alive"}

    return app


def main() -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests in progress.

    Returns:
        The exit status: 0; 1 when the port is taken; 2 for wrong settings.
    """
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"app2 settings: {settings.describe()}", flush=True)
    host, port = settings.app2_host, settings.app2_port
    try:
        server = PageServer(create_app(settings), host, port, "APP2")
    except CannotListenError as error:
        print(error, file=sys.stderr)
        return error.exit_status
    stop = threading.Event()
    set_on_signal(stop)
    server.start()
    print(f"app2 ready on {http_url(host, port)}/", flush=True)
    wait_for(stop)
    server.drain(DRAIN_SECONDS)
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
