"""A limit on how often something may happen."""

from __future__ import annotations

import time


class TokenBucket:
    """Lets `burst` through at once, and `rate` a second in the long run."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left, self._then = burst, time.monotonic()

    def wait(self) -> float:
        """0 if one more may pass now, which is then counted; else the seconds until it may."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._then) * self._rate)
        self._then = now
        if self._left < 1:
            return (1 - self._left) / self._rate
        self._left -= 1
        return 0.0
