"""The images that were looked up, in memory and for a while, so that a search can be refined."""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from medshadow.service.problems import Problem
from medshadow.service.settings import Limits


@dataclass(frozen=True, eq=False)
class Query:
    """An image that was looked up.

    Args:
        pixels: uint8 H x W x 3.
        laterality: which eye it shows, if that was said.
        exclude_groups: groups left out of its search.
        shown: the case ids that were shown for it.
    """

    pixels: np.ndarray
    laterality: Literal["left", "right"] | None = None
    exclude_groups: tuple[str, ...] = ()
    shown: frozenset[str] = frozenset()


class Queries:
    """Queries by token, a random name that only whoever looked the image up was told.

    Args:
        limits: how many are kept, how many bytes and seconds.
        clock: seconds; another one in tests.
    """

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = Lock()
        self._kept: OrderedDict[str, tuple[Query, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, query: Query) -> str:
        """Keep a query; the oldest go where it needs their place.

        Returns:
            Its token: 256 random bits.
        """
        token = secrets.token_urlsafe(32)
        with self._lock:
            self._kept[token] = (query, self._clock() + self._limits.kept_seconds)
            while len(self._kept) > 1 and self._is_full():
                self._kept.popitem(last=False)
        return token

    def replace(self, token: str, query: Query) -> None:
        """Put a query in the place of one that is kept; nothing happens if it is gone."""
        with self._lock:
            if token in self._kept:
                self._kept[token] = (query, self._kept[token][1])

    def get(self, token: str) -> Query:
        """The query of a token.

        Raises:
            Problem: 404 if it is not, or no longer, kept.
        """
        self.forget_old()
        with self._lock:
            if token not in self._kept:
                raise Problem(404, "This query is no longer kept; look the image up again.")
            return self._kept[token][0]

    def forget_old(self) -> None:
        """Let go of what was kept for long enough."""
        now = self._clock()
        with self._lock:
            for token in [token for token, (_, end) in self._kept.items() if end <= now]:
                del self._kept[token]

    def _is_full(self) -> bool:
        held = sum(query.pixels.nbytes for query, _ in self._kept.values())
        return len(self._kept) > self._limits.kept_queries or held > self._limits.kept_bytes
