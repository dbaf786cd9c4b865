"""How often something may happen: counters by key that forget, and never hold many keys."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable

_MOST_KEYS = 10_000


class Rate:
    """A bucket of tokens for each key: ``per_minute`` at once, then one every 60 / per_minute s.

    Args:
        per_minute: events in a minute.
        clock: seconds; another one in tests.

    Example:
        >>> now = [0.0]
        >>> rate = Rate(2, clock=lambda: now[0])
        >>> [rate.take("a"), rate.take("a"), rate.take("a"), rate.take("b")]
        [0, 0, 30, 0]
        >>> now[0] = 30; rate.take("a")
        0
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = per_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> int:
        """Count an event: 0 if it may happen, else after how many seconds one may."""
        wait = self.wait(key)
        if wait == 0:
            self._left[key] = (self._tokens(key) - 1, self._clock())
            self._left.move_to_end(key)
            if len(self._left) > _MOST_KEYS:
                self._left.popitem(last=False)
        return wait

    def wait(self, key: str) -> int:
        """After how many seconds an event may happen, without counting one; 0 is now."""
        missing = 1 - self._tokens(key)
        return 0 if missing <= 0 else math.ceil(missing * 60 / self._most)

    def _tokens(self, key: str) -> float:
        tokens, since = self._left.get(key, (float(self._most), 0.0))
        return min(self._most, tokens + (self._clock() - since) * self._most / 60)
