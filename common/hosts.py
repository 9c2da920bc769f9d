"""Host names and origins: which are this machine's, and which pages may use the relay.

No host name is looked up: its owner decides what it resolves to. A name that only the network's DNS
has must be set, in RELAY_ORIGINS for example.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from common.settings import Settings

log = logging.getLogger("relay")

_HOST_HEADER = re.compile(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`.

    A name other than `localhost` counts as not loopback, since what it resolves to may change.
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_wildcard(host: str) -> bool:
    """Whether `host` means every address of this machine (`0.0.0.0`, `::`)."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def http_url(host: str, port: int) -> str:
    """The URL, without a closing slash, at which this machine reaches one of its own servers."""
    if is_wildcard(host):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def own_address() -> str | None:
    """This machine's address on its network, for other devices; sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): only the route is looked up
        except OSError:
            return None
        return str(probe.getsockname()[0])


def own_url(url: str, listening_on: str) -> str:
    """A URL of one of our servers, for other devices where its host name is loopback.

    Args:
        listening_on: the address that the server listens on.
    """
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") and is_wildcard(listening_on) and (own := own_address()):
        return parts._replace(netloc=f"{own}:{parts.port}").geturl()
    return url


def url_on_port(scheme: str, host: str, port: int) -> str:
    """The URL of another server on the host of a request, so that links work from other devices.

    Args:
        scheme: of the request: http or https.
        host: its Host header, with or without port. One that is no host name (the client chooses
            it) gives the relative URL `/`.
        port: of the other server.
    """
    match = _HOST_HEADER.fullmatch(host)
    return f"{scheme}://{match[1]}:{port}/" if match else "/"


def public_urls(settings: Settings) -> tuple[str, ...]:
    """The addresses at which browsers reach our servers, as far as they are set."""
    urls = (settings.relay_public_url, settings.app1_public_url, settings.app2_public_url)
    return tuple(url for url in urls if url)


def origin_of(url: str) -> str:
    """Scheme, host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def is_own_name(settings: Settings, host: str) -> bool:
    """Whether a host name, without port, is one of this machine's, or is in the settings."""
    host = host.lower().rstrip(".")
    name = socket.gethostname().lower()
    short = name.split(".")[0]
    own = {"localhost", name, short, f"{short}.local"}
    own |= {h.lower() for h in (settings.relay_host, settings.app1_host, settings.app2_host)}
    urls = (settings.relay_url, *public_urls(settings), *(settings.relay_origins or ()))
    own |= {urlsplit(url).hostname or "localhost" for url in urls}
    return host in own or host.endswith(".localhost")


def answers_to(settings: Settings, host: str) -> bool:
    """Whether a request with this Host header, with or without port, is for one of our servers.

    Another site can make its own name resolve to an address of ours (DNS rebinding); its page then
    has the same origin as one of our pages. An IP address cannot be rebound, so every address
    passes: behind a router or in a container, this machine may not find its own.
    """
    match = _HOST_HEADER.fullmatch(host)
    if not match:
        return False
    try:
        ipaddress.ip_address(match[1].strip("[]"))
    except ValueError:
        return is_own_name(settings, match[1])
    return True


class Origins:
    """The origins that may use the relay: those of RELAY_ORIGINS or, where it is not set, our own.

    Our own are pages on any name of this machine (`is_own_name`) at APP1_PORT and APP2_PORT. The
    public addresses always pass, and the relay's own: programs that are not browsers send it as
    their origin.

    CORS is not authentication: a program that is not a browser sends no Origin and is let in as a
    viewer. This keeps a web page that somebody opens on this machine from reading along.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._page_ports = {settings.app1_port, settings.app2_port}
        self._public = {settings.relay_url, *map(origin_of, public_urls(settings))}
        self._refused: set[str] = set()

    def allows(self, origin: str | None) -> bool:
        """Whether a page of this origin may connect and read."""
        if origin is None:  # the library asks this too, and then lets the request pass
            return False
        explicit = self._settings.relay_origins
        allowed = origin in self._public or self._is_ours_at(origin, {self._settings.relay_port})
        if explicit is None:
            allowed = allowed or self._is_ours_at(origin, self._page_ports)
        else:
            allowed = allowed or origin in explicit or "*" in explicit
        if not allowed and origin not in self._refused and len(self._refused) < 100:
            self._refused.add(origin)  # logged once each, and no more than 100
            log.warning(
                "A page at %.200r was refused; if it is yours, add it to RELAY_ORIGINS.", origin
            )
        return allowed

    def _is_ours_at(self, origin: str, ports: set[int]) -> bool:
        try:
            parts = urlsplit(origin)
            port = parts.port or 80
        except ValueError:  # a malformed port or address
            return False
        return parts.scheme == "http" and port in ports and self.is_ours(parts.hostname or "")

    def is_ours(self, host: str) -> bool:
        """Whether `host`, a name or an address without port, is this machine."""
        host = host.lower().rstrip(".")
        if is_own_name(self._settings, host):
            return True
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if address.is_loopback or address.is_unspecified:
            return True
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        try:  # only an address of our own can be bound; asked each time, since they change
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.bind((host, 0))
        except OSError:
            return False
        return True
