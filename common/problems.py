"""Problem JSON (RFC 9457) and the security headers, for every server and every layer of it."""

from __future__ import annotations

import json

PROBLEM_TYPE = "application/problem+json"

# For whatever is not a page. `common.pages` changes what a page needs otherwise.
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    # for requests without CORS only: pages that CORS lets read go on doing so
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def problem(status: int, title: str, detail: str) -> dict[str, object]:
    """The members of RFC 9457 problem JSON; `detail` is a sentence for a person."""
    return {"type": "about:blank", "title": title, "status": int(status), "detail": detail}


def problem_json(status: int, title: str, detail: str) -> bytes:
    """The same as a body, for answers that Flask does not make."""
    return json.dumps(problem(status, title, detail)).encode()
