"""app2: serves the viewer page, on which captions appear live. No caption passes through this process.

The page's script talks to the relay directly, so this server keeps no state and needs no token.

    cd app2 && python app.py
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":  # started alone: the shared packages are one folder up
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flask import Flask, render_template

from captioner.errors import SettingsError
from captioner.settings import Settings
from pages import relay_sources, serve, share_pages, url_on_port


def create_app(settings: Settings) -> Flask:
    """The viewer page and its health check."""
    app = Flask(__name__)
    share_pages(app, connect=lambda: relay_sources(settings))

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


def main() -> None:
    """Serve until stopped; a wrong setting is one sentence and exit status 2."""
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    print(f"app2 settings: {settings.describe()}", flush=True)
    serve(create_app(settings), "app2", settings.app2_host, settings.app2_port, threads=8)


if __name__ == "__main__":
    main()
