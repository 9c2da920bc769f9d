"""A token bucket: a burst, then so many a second."""

from __future__ import annotations

from common.token_bucket import TokenBucket


def test_a_burst_and_then_the_rate() -> None:
    now = 100.0
    bucket = TokenBucket(rate=2, burst=3, clock=lambda: now)
    assert [bucket.wait() for _ in range(4)] == [0, 0, 0, 0.5]
    now += 0.5
    assert [bucket.wait() for _ in range(2)] == [0, 0.5]
    now += 1000
    assert [bucket.wait() for _ in range(4)] == [0, 0, 0, 0.5]


def test_what_is_charged_makes_the_next_wait() -> None:
    bucket = TokenBucket(rate=1, burst=2, clock=lambda: 100.0)
    bucket.charge(5)
    assert bucket.wait() == 4


def test_a_pause_before_a_charge_does_not_pay_for_it() -> None:
    now = 100.0
    bucket = TokenBucket(rate=1, burst=2, clock=lambda: now)
    now += 1000
    bucket.charge(5)
    assert bucket.wait() == 4
