"""Requests that come through a reverse proxy: the client's address, and the address that it used.

A proxy puts these into the headers X-Forwarded-For, -Proto, -Host and -Prefix. A client can send
the same headers, so they count only from the addresses of CAPTIONER_TRUSTED_PROXIES.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from werkzeug.middleware.proxy_fix import ProxyFix

from common.hosts import is_loopback
from common.parsers import Network

WSGIApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
_PREFIX = re.compile(r"(/[\w.~-]+)+", re.ASCII)
_HEADERS = ("FOR", "PROTO", "HOST", "PREFIX", "PORT", "SERVER", "BY")


class BehindProxies:
    """WSGI middleware that gives an application the client's view of a request.

    The prefix is the part of the path by which the proxy finds this server, such as `/captions`.
    The proxy may cut it off or leave it; the application gets the path without it, and makes links
    with it.

    Args:
        trusted: the proxies' addresses.
        public_url: at which browsers reach this server, or "". Its path is the prefix of requests
            that begin with it or are for its host, and name no other.
    """

    def __init__(self, app: WSGIApp, trusted: Iterable[Network], public_url: str = "") -> None:
        self._app = app
        self._trusted = tuple(trusted)
        self._public = urlsplit(public_url)

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        hops = self._hops(environ)
        if hops:
            x_host = 0 if _may_be_a_browser(environ) else 1
            fix = ProxyFix(_nothing, x_for=hops, x_proto=1, x_host=x_host, x_prefix=1)
            fix(environ, start_response)
            environ["REMOTE_ADDR"] = _without_port(environ["REMOTE_ADDR"])
        for name in _HEADERS:
            environ.pop(f"HTTP_X_FORWARDED_{name}", None)
        self._set_prefix(environ)
        return self._app(environ, start_response)

    def _hops(self, environ: dict[str, Any]) -> int:
        """How many trusted proxies in a row the request came through, the last one first."""
        if not self._is_trusted(environ.get("REMOTE_ADDR", "")):
            return 0
        named = environ.get("HTTP_X_FORWARDED_FOR", "").split(",")
        hops = 1
        while hops < len(named) and self._is_trusted(_without_port(named[-hops])):
            hops += 1
        return hops

    def _is_trusted(self, address: str) -> bool:
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        ip = getattr(ip, "ipv4_mapped", None) or ip
        return any(ip in network for network in self._trusted)

    def _set_prefix(self, environ: dict[str, Any]) -> None:
        path, public = environ.get("PATH_INFO", ""), self._public.path
        prefix = environ.get("SCRIPT_NAME", "").rstrip("/")
        if not _PREFIX.fullmatch(prefix):  # "//other.example" would make links to another host
            prefix = public
        was_left = prefix and f"{path}/".startswith(f"{prefix}/")
        if was_left:
            environ["PATH_INFO"] = path.removeprefix(prefix)
        elif prefix == public and environ.get("HTTP_HOST", "").lower() != self._public.netloc:
            prefix = ""  # somebody on this machine goes round the proxy
        environ["SCRIPT_NAME"] = prefix


def _may_be_a_browser(environ: dict[str, Any]) -> bool:
    """Whether a browser of this machine, and not its proxy, may send this request.

    Another site can make its own name resolve to 127.0.0.1, and its page can then send any header.
    Such a name has a dot. A proxy on this machine passes on the public name, or uses an address,
    `localhost` or a name of its own without a dot.
    """
    name = _hostname(environ.get("HTTP_HOST", ""))
    forwarded = _hostname(environ.get("HTTP_X_FORWARDED_HOST", ""))
    if name == forwarded or not is_loopback(environ.get("REMOTE_ADDR", "")):
        return False
    return "." in name and not is_loopback(name)


def _hostname(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:  # no browser sends half an IPv6 address
        return ""


def _nothing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    return ()


def _without_port(address: str) -> str:
    """An address as X-Forwarded-For may have it: 192.0.2.1, 192.0.2.1:80 or [2001:db8::1]:80."""
    address = address.strip()
    if address.startswith("["):
        return address[1:].partition("]")[0]
    return address.partition(":")[0] if address.count(":") == 1 else address
