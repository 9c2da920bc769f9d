"""The host's page, and the guests' link that it makes."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, render_template, request

from app1.guests import UPLOADERS, Guests, qr_code
from app1.parts import parts
from app1.problems import EndedError, RequestError
from app1.uploads import json_of
from app1.views.api import require_host
from app1.views.page import render_page
from common.hosts import own_url
from common.pages import neighbour_url

host = Blueprint("host", __name__)
DOT = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'


@host.get("/host")
def page() -> str:
    """The host's page; its script asks for the host's token."""
    settings = parts().settings
    return render_template(
        "host.html",
        approve=settings.app1_approve,
        relay_url=settings.relay_public_url,
        relay_port=settings.relay_port,
        viewer_url=neighbour_url(settings.app2_public_url, settings.app2_port),
    )


@host.get("/api/guests")
def guests() -> Response:
    """Who may upload, and the guests' link with its QR code. For the host."""
    require_host()
    return _guests(Guests.read(parts().review))


@host.put("/api/guests")
def set_guests() -> Response:
    """Decide who may upload. For the host."""
    require_host()
    body = json_of(request)
    uploads, on_wall = body.get("uploads"), body.get("on_wall", False)
    renew = body.get("renew", False)
    if uploads not in UPLOADERS or not isinstance(on_wall, bool) or not isinstance(renew, bool):
        raise RequestError(f"The field uploads must be one of {', '.join(UPLOADERS)}.")
    changed = Guests.read(parts().review).changed(uploads, on_wall, renew)
    changed.keep(parts().review)
    return _guests(changed)


@host.get("/guest/<token>")
def guest_page(token: str) -> str:
    """The upload page for guests."""
    if not Guests.read(parts().review).is_link(token):
        raise EndedError("This link has ended; ask the host for a new one.")
    return render_page(guest=token)


@host.get("/guests.svg")
def wall_code() -> Response:
    """The QR code of the guests' link, for walls; a dot while the host does not want it there."""
    found = Guests.read(parts().review)
    code = qr_code(_link(found)) if found.token and found.on_wall else DOT
    response = Response(code, mimetype="image/svg+xml")
    response.headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    return response


def _guests(found: Guests) -> Response:
    link = _link(found) if found.token else ""
    return jsonify(
        uploads=found.uploads,
        on_wall=found.on_wall,
        url=link,
        qr_code=qr_code(link).decode() if link else "",
    )


def _link(found: Guests) -> str:
    """The guests' link, with a name of this machine by which other devices reach it."""
    settings = parts().settings
    here = request.host_url.rstrip("/") + request.script_root
    base = settings.app1_public_url or own_url(here, settings.app1_host)
    return f"{base}/guest/{found.token}"
