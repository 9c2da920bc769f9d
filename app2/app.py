"""app2: serves the viewer page, on which captions appear live.

No caption passes through this process: the page's script talks to the relay directly, so this
server keeps no state and needs no token.

    cd app2 && python app.py
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # started alone: the checkout's root takes the place of this folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from flask import Flask, render_template
from waitress.server import BaseWSGIServer, create_server

from captioner.errors import SettingsError
from captioner.settings import Settings, http_url
from pages import relay_sources, share_pages, url_on_port
from pages.strict_http import StrictChannel


def create_app(settings: Settings) -> Flask:
    """The viewer page and its health check."""
    app = Flask(__name__)
    share_pages(app, settings, connect=lambda: relay_sources(settings))

    @app.get("/")
    def wall() -> str:
        """The page; an empty relay address tells its script to use the page's own host name."""
        return render_template(
            "wall.html",
            relay_url=settings.relay_public_url,
            relay_port=settings.relay_port,
            upload_url=url_on_port(settings.app1_port),
        )

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        """Alive."""
        return {"status": "alive"}

    return app


def main() -> int:
    """Serve until SIGTERM or SIGINT, finish what is being answered, and say how it ended.

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
    # of every server: there is one for each address that the host's name stands for
    BaseWSGIServer.channel_class = StrictChannel
    try:
        server = create_server(create_app(settings), host=host, port=port, ident=None, threads=8)
    except OSError as error:
        print(
            f"app2 cannot listen on {host}, port {port} ({error.strerror or error}); stop what "
            "uses the port, or set APP2_PORT to another.",
            file=sys.stderr,
        )
        return 1

    def end(signal_number: int, frame: object) -> None:
        raise SystemExit  # which server.run() takes as the wish to drain

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    print(f"app2 ready on {http_url(host, port)}/", flush=True)
    server.run()
    server.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
