"""Rate limit, pages of other sites, delete tokens."""

from __future__ import annotations

import pytest
from werkzeug.datastructures import Headers

from app1 import guards
from app1.guards import DeleteTokens, RateLimiter, refuse_other_sites
from app1.problems import ForbiddenError, TooManyRequestsError
from common.parsers import Rate


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> RateLimiter:
    return RateLimiter(Rate(3, 60), clock)


def test_so_many_and_no_more(limiter: RateLimiter, clock: Clock) -> None:
    for _ in range(3):
        limiter.check("192.0.2.1")
    with pytest.raises(TooManyRequestsError, match="3 pictures in a minute") as error:
        limiter.check("192.0.2.1")
    assert error.value.retry_after == 20
    limiter.check("192.0.2.2")
    clock.now += 19
    with pytest.raises(TooManyRequestsError):
        limiter.check("192.0.2.1")
    clock.now += 1.01
    limiter.check("192.0.2.1")
    with pytest.raises(TooManyRequestsError):
        limiter.check("192.0.2.1")


def test_further_pictures_of_one_request_make_the_next_wait(
    limiter: RateLimiter, clock: Clock
) -> None:
    limiter.check("192.0.2.1")
    limiter.charge("192.0.2.1", 5)
    with pytest.raises(TooManyRequestsError) as error:
        limiter.check("192.0.2.1")
    assert error.value.retry_after == 80
    clock.now += 80.01
    limiter.check("192.0.2.1")


def test_no_limit() -> None:
    limiter = RateLimiter(None)
    for _ in range(100):
        limiter.check("192.0.2.1")
        limiter.charge("192.0.2.1", 100)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9"),
        ("fe80::1%eth0", "fe80::2"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
    ],
)
def test_addresses_of_one_customer_count_together(
    limiter: RateLimiter, one: str, other: str
) -> None:
    for address in (one, other, one):
        limiter.check(address)
    with pytest.raises(TooManyRequestsError):
        limiter.check(other)


def test_memory_is_bounded(
    limiter: RateLimiter, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    monkeypatch.setattr(guards, "ADDRESSES_REMEMBERED", 10)
    for i in range(100):
        limiter.check(f"192.0.2.{i}")
    assert len(limiter._buckets) == 10


HOST = "photos.example:5001"
OTHERS = ("https://wall.example",)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Sec-Fetch-Site": "none"},
        {"Origin": "http://photos.example:5001"},
        {"Origin": "https://photos.example:5001"},
        {"Origin": "https://wall.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://wall.example"},
    ],
)
def test_our_own_pages_and_other_programs_are_let_in(headers: dict[str, str]) -> None:
    refuse_other_sites(Headers(headers), HOST, OTHERS)


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://photos.example:5001"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://photos.example"},
        {"Origin": ""},
        {"Origin": "http://photos.example:5001.evil.example"},
    ],
)
def test_pages_of_other_sites_are_not(headers: dict[str, str]) -> None:
    with pytest.raises(ForbiddenError):
        refuse_other_sites(Headers(headers), HOST, (*OTHERS, "*"))


def test_a_delete_token_is_good_for_its_caption_and_lasts() -> None:
    token = DeleteTokens(b"secret").make("1")
    DeleteTokens(b"secret").check("1", token)
    for tokens, id_, wrong in (
        (DeleteTokens(b"secret"), "2", token),
        (DeleteTokens(b"another"), "1", token),
        (DeleteTokens(b"secret"), "1", token[:-1]),
        (DeleteTokens(b"secret"), "1", ""),
        (DeleteTokens(b"secret"), "1", "é"),
    ):
        with pytest.raises(ForbiddenError):
            tokens.check(id_, wrong)
