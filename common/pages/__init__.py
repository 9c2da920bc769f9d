"""What the two pages share: design, security headers, host check.

`app1/` and `app2/` each build a Flask app and call `share_pages` on it. `static/` holds the design
tokens, the fonts, the favicon and the scripts that both pages use, `templates/` what their
templates share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

from flask import Blueprint, Flask, Response, request
from werkzeug.exceptions import MisdirectedRequest

from common.hosts import answers_to, origin_of, url_on_port
from common.problems import SECURITY_HEADERS
from common.proxies import BehindProxies
from common.settings import Settings

_HEADERS = {
    **SECURITY_HEADERS,
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",  # "no-referrer" would make a form send `Origin: null`
    "Cross-Origin-Opener-Policy": "same-origin",
}


def share_pages(
    app: Flask,
    settings: Settings,
    server: Literal["APP1", "APP2"],
    *,
    camera: bool = False,
    connect: Callable[[], Iterable[str]] = tuple,
    images: Callable[[], Iterable[str]] = tuple,
) -> None:
    """Give `app` the shared templates, static files (at `/shared/`) and strict security headers.

    Behind a trusted proxy, `app` gets requests as the client sent them (`BehindProxies`). A view
    that sets one of these headers itself is left alone. Requests for a host that is not ours are
    answered with 421.

    Args:
        server: whose settings are meant.
        camera: whether pages of this app may ask for the camera.
        connect: called for each response; further sources that its scripts may connect to,
            as the Content-Security-Policy writes them.
        images: likewise, of pictures.
    """
    public_url = settings.app1_public_url if server == "APP1" else settings.app2_public_url
    app.wsgi_app = BehindProxies(  # type: ignore[method-assign]
        app.wsgi_app, settings.captioner_trusted_proxies, public_url
    )
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
        """See `answers_to`. Every browser sends a Host; without one, the client is a program."""
        host = request.headers.get("Host", "")
        if host and not answers_to(settings, host):
            raise MisdirectedRequest(
                "This server answers to the names and addresses of its own machine only. If "
                f"{host[:100]} is one of them, set {server}_PUBLIC_URL to the address of this "
                f"page, for example {request.scheme}://{host[:100]}, and start again."
            )

    @app.after_request
    def secure(response: Response) -> Response:
        sources = " ".join(["'self'", *connect()])
        pictures = " ".join(["'self'", "blob:", "data:", *images()])
        headers = {
            **_HEADERS,
            "Content-Security-Policy": (
                f"default-src 'self'; img-src {pictures}; "
                f"connect-src {sources}; object-src 'none'; base-uri 'none'; "
                "form-action 'self'; frame-ancestors 'none'"
            ),
            # the camera is left to the page that uses it
            "Permissions-Policy": (
                f"camera=({'self' if camera else ''}), microphone=(), geolocation=()"
            ),
        }
        for name, value in headers.items():
            response.headers.setdefault(name, value)
        return response


def neighbour_url(public_url: str, port: int) -> str:
    """The URL of another server of ours, for the client of the current request.

    Args:
        public_url: at which browsers reach it; "" for `port` on the host of the request.
    """
    return f"{public_url}/" if public_url else url_on_port(request.scheme, request.host, port)


def picture_sources(public_url: str, port: int) -> list[str]:
    """Where a page may get pictures of another server of ours, for `img-src`."""
    url = neighbour_url(public_url, port)
    if "[" in url:  # as in `relay_sources`
        return ["http:", "https:"]
    return [origin_of(url)] if url != "/" else []


def relay_sources(settings: Settings) -> list[str]:
    """What a page's script may connect to in order to reach the relay, for `connect-src`."""
    url = neighbour_url(settings.relay_public_url, settings.relay_port)
    if "[" in url:  # the policy's grammar has no word for an IPv6 address, so allow the schemes
        return ["http:", "https:", "ws:", "wss:"]
    origin = origin_of(url)
    return [origin, "ws" + origin.removeprefix("http")] if url != "/" else []
