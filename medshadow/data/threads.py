"""Work that many images need, done by a few threads under a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from tqdm.auto import tqdm

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def mapped(
    function: Callable[[_Item], _Result],
    items: Sequence[_Item],
    text: str,
    unit: str,
    *,
    threads: int,
    progress: bool,
) -> list[_Result]:
    """The function of each item, in order, computed by threads under a progress bar."""
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        done = pool.map(function, items)
        return list(tqdm(done, text, len(items), unit=unit, disable=not progress))
    finally:
        # On Ctrl-C the items not begun yet are not waited for.
        pool.shutdown(cancel_futures=True)
