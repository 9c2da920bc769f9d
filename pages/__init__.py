"""What the two page servers share: design, security headers, addresses of each other.

Not a server itself: `app1/` and `app2/` each build their own Flask app and call `share_pages` on
it. `static/` holds the design tokens, the fonts, the favicon and the scripts that both pages use,
`templates/` what their templates share.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import MisdirectedRequest

from captioner.settings import Settings

# Needless powers of the browser are switched off; the camera is left to the page that uses it.
_POLICY = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make a form send `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def share_pages(
    app: Flask,
    settings: Settings,
    *,
    camera: bool = False,
    connect: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Give `app` the shared templates, static files (at `/shared/`) and strict security headers.

    A view that sets one of these headers itself is left alone. Requests for a host that is not ours
    are answered with 421.

    Args:
        camera: whether pages of this app may ask for the camera.
        connect: called for each response; further sources that its scripts may connect to,
            as the Content-Security-Policy writes them.
    """
    app.register_blueprint(
        Blueprint(
            "shared",
            __name__,
            static_folder="static",
            static_url_path="/shared",
            template_folder="templates",
        )
    )

    @app.before_request
    def refuse_other_hosts() -> None:
        """See `Settings.answers_to`. Every browser sends a Host; without one it is a program."""
        host = request.headers.get("Host", "")
        if host and not settings.answers_to(host):
            raise MisdirectedRequest(
                "This server answers to the names and addresses of its own machine only; if the "
                "name in the address bar is one, add the page to RELAY_ORIGINS, for example "
                "http://NAME:PORT, and start again."
            )

    @app.after_request
    def secure(response: Response) -> Response:
        sources = " ".join(["'self'", *connect()])
        headers = {
            **_POLICY,
            "Content-Security-Policy": (
                "default-src 'self'; img-src 'self' blob: data:; "
                f"connect-src {sources}; object-src 'none'; base-uri 'none'; "
                "form-action 'self'; frame-ancestors 'none'"
            ),
            "Permissions-Policy": (
                f"camera=({'self' if camera else ''}), microphone=(), geolocation=()"
            ),
        }
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response


def url_on_port(port: int) -> str:
    """The address of a neighbour: the name under which this request came in, with another port.

    So that a second device, which knows this machine by another name, gets links that work there.
    A host name that is none (it is the client's to choose) gives the relative address `/`.
    """
    host = re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]+)?", request.host)
    return f"{request.scheme}://{host[1]}:{port}/" if host else "/"


def relay_sources(settings: Settings) -> list[str]:
    """What a page's script may connect to in order to reach the relay, for `connect-src`."""
    url = settings.relay_public_url or url_on_port(settings.relay_port).rstrip("/")
    if "[" in url:  # the policy's grammar has no word for an IPv6 address, so allow the schemes
        return ["http:", "https:", "ws:", "wss:"]
    return [url, "ws" + url.removeprefix("http")] if url else []
