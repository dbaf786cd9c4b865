"""Work done ahead on threads while its earlier results are used, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int, depth: int
) -> Iterator[Result]:
    """``map(function, items)``, with up to ``depth`` results being made before they are asked for.

    Threads, not processes: image decoding lets go of the interpreter, nothing is copied, and an
    error arrives as it was raised, at its own place in the order.

    Args:
        function: what to do with each item; with threads it must not keep state between calls.
        items: taken one by one as they are needed.
        workers: threads; 0 does the work in the caller's own, when it is asked for.
        depth: results at most under way or waiting, at least 1.

    Example:
        >>> list(ahead(str.upper, "abc", workers=2, depth=2))
        ['A', 'B', 'C']
    """
    if workers == 0:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="medshadow-ahead") as pool:
        waiting: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in islice(remaining, depth)
        )
        try:
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()
