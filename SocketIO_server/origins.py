"""Which pages may talk to the relay from a browser, and which host names are this machine's.

CORS is not authentication: a program that is not a browser sends no Origin and is let in as a
viewer. What this prevents is that any page of the web which somebody opens here can read along.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from urllib.parse import urlsplit

from captioner.settings import Settings

log = logging.getLogger("relay")


class Origins:
    """The pages of RELAY_ORIGINS or, where it is not set, our own.

    Our own are pages on any name of this machine (`Settings.is_own_name`) at APP1_PORT and
    APP2_PORT. The relay's own address always passes: programs that are no browsers give it as their
    origin.
    """

    def __init__(self, settings: Settings) -> None:
        self._explicit = settings.relay_origins
        self._page_ports = {settings.app1_port, settings.app2_port}
        self._relay_port = settings.relay_port
        self._relay_urls = {settings.relay_url, settings.relay_public_url}
        self._is_own_name = settings.is_own_name
        self._refused: set[str] = set()

    def allows(self, origin: str | None) -> bool:
        """Whether a page of this origin may connect and read."""
        if origin is None:  # the library asks this too, and then lets the request pass
            return False
        allowed = origin in self._relay_urls or self._is_ours_at(origin, {self._relay_port})
        if self._explicit is None:
            allowed = allowed or self._is_ours_at(origin, self._page_ports)
        else:
            allowed = allowed or origin in self._explicit or "*" in self._explicit
        if not allowed and origin not in self._refused and len(self._refused) < 100:
            self._refused.add(origin)  # each is told once, and not without end
            log.warning(
                "A page at %.200r was refused; if it is yours, add it to RELAY_ORIGINS.", origin
            )
        return allowed

    def _is_ours_at(self, origin: str, ports: set[int]) -> bool:
        try:
            parts = urlsplit(origin)
            port = parts.port or 80
        except ValueError:  # a port or an address that is none
            return False
        return parts.scheme == "http" and port in ports and self.is_ours(parts.hostname or "")

    def is_ours(self, host: str) -> bool:
        """Whether `host`, a name or an address without port, is this machine."""
        host = host.lower().rstrip(".")
        if self._is_own_name(host):
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
