"""A few worker threads behind a short queue, for an event loop that must never wait.

Work that is taken on is finished; what the queue has no room for is refused at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Any, TypeVar

import torch

from medshadow.service.problems import busy
from medshadow.service.settings import Limits

T = TypeVar("T")


class Workers:
    """Runs work in threads, as many and for as long as limits say.

    Args:
        limits: how many workers, how long a queue, how long to wait.

    Attributes:
        pending: how much work is being done or waits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._pool = ThreadPoolExecutor(
            limits.workers, "medshadow-worker", initializer=_one_thread_each
        )
        self._lock = Lock()
        self.pending = 0

    async def run(self, work: Callable[[], T]) -> T:
        """Do something in a worker thread.

        Raises:
            Problem: 503 when there is no room in the queue, or it took too long.
        """
        with self._lock:
            if self.pending >= self._limits.workers + self._limits.queue:
                raise busy("All workers are busy; try again in a moment.")
            self.pending += 1
        future = self._pool.submit(work)
        # A thread that takes too long cannot be stopped: its place is free when it has finished.
        future.add_done_callback(self._leave)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limits.seconds)
        except TimeoutError:
            raise busy(f"The answer took longer than {self._limits.seconds:g} s.") from None

    def close(self) -> None:
        """Finish what the workers are at, and drop what waits."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self, _: Future[Any]) -> None:
        with self._lock:
            self.pending -= 1


def _one_thread_each() -> None:
    """As many workers as cores, each on one: together they finish more than in each other's way."""
    torch.set_num_threads(1)
