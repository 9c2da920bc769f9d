"""Parsers of the settings: text -> checked value.

Each raises ValueError with what the value must be ("must be ...").
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ASYNC_MODES = ("eventlet", "gevent", "threading")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_SECONDS = {"second": 1, "minute": 60, "hour": 3600}


@dataclass(frozen=True)
class Rate:
    """At most `count` requests in any `seconds`."""

    count: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.count}/{({s: word for word, s in _SECONDS.items()})[self.seconds]}"


def host(text: str) -> str:
    """A host name or an address to listen on."""
    found = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if not re.fullmatch(r"[A-Za-z0-9_.:%-]+", found):
        raise ValueError("must be a host name or an address to listen on, without port")
    if ":" in found:  # only an IPv6 address may hold one; this catches "127.0.0.1:5000"
        try:
            ipaddress.ip_address(found)
        except ValueError as error:
            raise ValueError("must be a host name or an address, without port") from error
    return found


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` to `most`, both included."""

    def parse(text: str) -> int:
        # int() alone would also take "5_000", " 5" and digits of other scripts
        if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return int(text)

    return parse


def workers(text: str) -> int:
    """A number of workers, or 0 for `auto`."""
    if text == "auto":
        return 0
    try:
        return whole_number(1, 256)(text)
    except ValueError as error:
        raise ValueError(f"{error}, or auto") from None


def origin(text: str) -> str:
    """An http(s) URL of scheme, host and port alone, written as browsers write an origin."""
    wanted = ValueError("must be of the form http://host:port, without a path")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wanted from error
    scheme, name = parts.scheme.lower(), (parts.hostname or "").lower()
    if scheme not in ("http", "https") or not re.fullmatch(r"[a-z0-9_.:-]+", name):
        raise wanted
    if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
        raise wanted
    name = f"[{name}]" if ":" in name else name
    is_default_port = port in (None, {"http": 80, "https": 443}[scheme])
    return f"{scheme}://{name}" if is_default_port else f"{scheme}://{name}:{port}"


def public_url(text: str) -> str:
    """An http(s) URL at which browsers reach a server, without a closing slash; or nothing."""
    if not text:
        return ""
    wanted = ValueError("must be of the form https://host/path, without ? and #")
    start, slash, folder = text.partition("//")[2].partition("/")
    try:
        base = origin(text.removesuffix(slash + folder))
    except ValueError as error:
        raise wanted from error
    folder = folder.strip("/")
    if not start or not re.fullmatch(r"[A-Za-z0-9._~/-]*", folder) or "//" in folder:
        raise wanted
    return f"{base}/{folder}" if folder else base


def networks(text: str) -> tuple[Network, ...]:
    """Addresses and networks with commas between them."""
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise ValueError(
            'must be addresses or networks like "127.0.0.1, 10.0.0.0/8" with commas between'
        ) from error


def origins(text: str) -> tuple[str, ...]:
    """Origins with commas between them, or `*`."""
    if text.strip() == "*":
        return ("*",)
    try:
        return tuple(origin(part.strip()) for part in text.split(",")) if text.strip() else ()
    except ValueError as error:
        raise ValueError(
            'must be origins like "http://photos.example:5001" with commas between, or *'
        ) from error


def token(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text")
    return text


def path(text: str) -> Path:
    """An absolute path; `~` is the home folder."""
    if not text:
        raise ValueError("must be a path")
    # relative paths are resolved at once: the processes run in different working directories
    return Path(os.path.abspath(os.path.expanduser(text)))


def async_mode(text: str) -> str:
    if text not in ASYNC_MODES:
        raise ValueError(f"must be one of {', '.join(ASYNC_MODES)}")
    return text


def queue_url(text: str) -> str:
    if text and not re.match(r"[a-z][a-z0-9+.-]*://\S+$", text):
        raise ValueError("must be a URL such as redis://127.0.0.1:6379/0, or empty")
    return text


def http_url_or_empty(text: str) -> str:
    """An http or https URL, or nothing."""
    if text and not re.match(r"https?://[^\s/]+\S*$", text):
        raise ValueError("must be a URL such as http://127.0.0.1:8123/api/webhook/captions")
    return text


def mqtt_url(text: str) -> str:
    """The URL of an MQTT broker, or nothing."""
    if text and not re.match(r"mqtts?://[^\s/]+(/[^\s#+]*)?$", text):
        raise ValueError("must be a URL such as mqtt://user:password@broker.local/captioner")
    return text


def switch(text: str) -> bool:
    """On or off."""
    if text.lower() not in ("", "0", "off", "1", "on"):
        raise ValueError("must be on or off")
    return text.lower() in ("1", "on")


def model(text: str) -> str:
    if not text:
        raise ValueError("must be the name of a folder under models/, or a path")
    return text


def rate(text: str) -> Rate | None:
    """None for `off`."""
    if text == "off":
        return None
    match = re.fullmatch(r"([1-9][0-9]{0,8})/(second|minute|hour)", text)
    if not match:
        raise ValueError('must be like "60/minute" (second, minute or hour), or "off"')
    return Rate(int(match[1]), _SECONDS[match[2]])
