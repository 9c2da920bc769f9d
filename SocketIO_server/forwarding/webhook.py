"""RELAY_WEBHOOK_URL: each caption is POSTed as JSON, signed."""

from __future__ import annotations

import hashlib
import hmac
import json
import urllib.error
import urllib.request
from typing import Any

from SocketIO_server.forwarding.follower import DeliveryError

TIMEOUT = 10.0  # seconds


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would send people's photos where nobody pointed the setting."""

    def redirect_request(self, *arguments: Any) -> None:
        return None


class Webhook:
    """A receiver of captions over HTTP.

    The body is the caption's JSON. `X-Signature-256` is "sha256=" and the HMAC-SHA256 of the body
    with the secret, in hexadecimal digits.
    """

    name = "webhook"

    def __init__(self, url: str, secret: str) -> None:
        self._url, self._secret = url, secret.encode()
        self.address = hashlib.sha256(url.encode()).hexdigest()
        self._opener = urllib.request.build_opener(_NoRedirects)

    def send(self, caption: dict[str, Any]) -> None:
        body = json.dumps(caption).encode()
        headers = {"Content-Type": "application/json", "User-Agent": "captioner"}
        if self._secret:
            digest = hmac.new(self._secret, body, hashlib.sha256).hexdigest()
            headers["X-Signature-256"] = f"sha256={digest}"
        request = urllib.request.Request(self._url, body, headers, method="POST")  # noqa: S310
        try:
            with self._opener.open(request, timeout=TIMEOUT) as answer:
                answer.read(1000)
        except urllib.error.HTTPError as error:
            error.close()
            raise DeliveryError(f"The webhook answers with status {error.code}.") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise DeliveryError(f"The webhook cannot be reached ({reason}).") from None

    def close(self) -> None:
        pass
