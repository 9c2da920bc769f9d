"""Guards: the rate limit, the check for other sites' pages, the delete tokens.

They use only what the network and the browser vouch for. A client can choose headers such as
X-Forwarded-For, so these are not used: behind a reverse proxy, let the proxy limit.
"""

from __future__ import annotations

import hashlib
import ipaddress
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection

from itsdangerous import Signer
from werkzeug.datastructures import Headers

from app1.problems import ForbiddenError, TooManyRequestsError
from common.parsers import Rate
from common.token_bucket import TokenBucket

ADDRESSES_REMEMBERED = 10_000


class RateLimiter:
    """A token bucket for each address: `rate.count` uploads, refilled within `rate.seconds`.

    Not exact for more than ADDRESSES_REMEMBERED addresses at a time: the one that was silent for
    longest starts afresh, so that memory stays bounded.

    Args:
        rate: None for no limit.
        clock: seconds, never going back.
    """

    def __init__(self, rate: Rate | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def check(self, address: str) -> None:
        """Count an upload from `address`, an IP address as text.

        Raises:
            TooManyRequestsError: the address has sent too many; this one is not counted.
        """
        rate = self._rate
        if rate is None:
            return
        with self._lock:
            wait = self._bucket(rate, address).wait()
        if wait:
            raise TooManyRequestsError(
                f"This address may send {rate.count} pictures in {_period(rate)}; "
                "wait a little before the next.",
                wait,
            )

    def charge(self, address: str, uploads: int) -> None:
        """Count further pictures of a request that is being served; the next waits the longer."""
        if self._rate is not None and uploads > 0:
            with self._lock:
                self._bucket(self._rate, address).charge(uploads)

    def _bucket(self, rate: Rate, address: str) -> TokenBucket:
        key = _network(address)
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            bucket = TokenBucket(rate.count / rate.seconds, float(rate.count), self._clock)
        self._buckets[key] = bucket
        if len(self._buckets) > ADDRESSES_REMEMBERED:
            self._buckets.popitem(last=False)
        return bucket


def _period(rate: Rate) -> str:
    return {1: "a second", 60: "a minute", 3600: "an hour"}[rate.seconds]


def _network(address: str) -> str:
    """The part of an address that one customer cannot change: all of IPv4, a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


def refuse_other_sites(headers: Headers, host: str, origins: Collection[str]) -> None:
    """Refuse a request that changes something if a page of another site makes the browser send it.

    There is no cookie and no login here, so a forged request gains nobody's rights; but app1 often
    listens on an address that only this machine or this network reaches, and a page from elsewhere
    could use the browser to get there and put its pictures on the wall. A token in the form would
    need a cookie to compare it with. Browsers say where a request comes from, in headers that
    scripts cannot set, so those are enough; programs other than browsers send neither.

    Args:
        host: the request's own host and port, as in its Host header.
        origins: further origins that are welcome (RELAY_ORIGINS, and that of APP1_PUBLIC_URL). Not
            "*": that everybody may watch does not mean that everybody may publish.

    Raises:
        ForbiddenError: it comes from a page of another site.
    """
    site = headers.get("Sec-Fetch-Site")
    origin = headers.get("Origin")
    if site in ("same-origin", "none") or origin in origins:
        return
    own = (f"http://{host}".lower(), f"https://{host}".lower())
    # no Sec-Fetch-Site: an old browser, an address without https, or no browser at all
    if site is None and (origin is None or origin.lower() in own):
        return
    sentence = "A page of another site sent this; open the upload page itself instead."
    if site is None and origin and origin != "null":
        # behind a proxy that changes Host, it may be our own page
        sentence = (
            f"A page at {origin[:100]} sent this to {host[:100]}. If that page is the upload page, "
            "set APP1_PUBLIC_URL to its address and start again; if not, open the upload page."
        )
    raise ForbiddenError(sentence)


class DeleteTokens:
    """Tokens that let an uploader delete a caption later: signatures of its id, none is stored.

    Args:
        secret: the key; as long as it stays the same, so do the tokens.
    """

    def __init__(self, secret: bytes) -> None:
        self._signer = Signer(secret, salt="delete", digest_method=hashlib.sha256)

    def make(self, id_: str) -> str:
        """The token for a caption: 43 characters that fit into a header."""
        return self._signer.get_signature(id_).decode()

    def check(self, id_: str, token: str) -> None:
        """Raises ForbiddenError unless `token` is the one made for this caption."""
        if not self._signer.verify_signature(id_, token):
            raise ForbiddenError("This delete token is not the one of this caption.")
