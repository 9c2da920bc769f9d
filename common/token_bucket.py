"""A limit on how often something may happen."""

from __future__ import annotations

import time
from collections.abc import Callable


class TokenBucket:
    """Lets `burst` through at once, and `rate` a second in the long run. Not thread-safe.

    Args:
        clock: seconds, never going back.
    """

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left, self._then = burst, clock()

    def wait(self) -> float:
        """0 if one more may pass now, which is then counted; else the seconds until it may."""
        self._refill()
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0

    def charge(self, count: int) -> None:
        """Counts more that has passed already; what comes next waits the longer."""
        self._refill()  # first, or a full bucket would take the time since then once more
        self._left -= count

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
