"""Counting on CPUs by compiled loops, where numba is installed, shared out among threads.

Without numba, and on every other device, torch's own operations count, to the same counts.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from itertools import pairwise
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, has_own_ways

# Anchors times references from which on loading the loops (a second, once a process) pays.
FUSED_FROM = 2**16
# Entries that are worth waking another thread.
_ENTRIES_A_THREAD = 2**19


@cache
def loops() -> ModuleType | None:
    """The compiled loops, or None where numba is not installed."""
    try:
        from medshadow.losses import loops as found
    except ImportError:
        return None
    return found


def counts_fused(device: torch.device, anchors: int, references: int) -> bool:
    """Whether batches of this size are counted by the compiled loops on this device."""
    worth = has_own_ways(device) and anchors * references >= FUSED_FROM
    return worth and loops() is not None


def count_fused(
    count: Callable[..., object],
    closeness: Tensor,
    margin: Tensor,
    by_row: list[np.ndarray],
    *shared: object,
) -> tuple[TileCounts, np.ndarray]:
    """Count a tile by a compiled loop, its rows shared out among torch's threads.

    Each row is counted by itself and the rows are added up in their order, so the result does not
    depend on the number of threads.

    Args:
        count: a function of :mod:`medshadow.losses.loops` or ``loops_few``.
        closeness: T x R on the CPU, overwritten with the derivative of the sum of hinges by it.
        margin: 0-d, of the dtype of ``closeness``.
        by_row: what the loop is told of each row, T entries each.
        shared: what it is told of all rows.

    Returns:
        The counts, and the number of each row's triplets.
    """
    matrix = closeness.numpy()
    rows = len(matrix)
    hinges, active, triplets = np.empty(rows), np.empty(rows, np.int64), np.empty(rows, np.int64)
    hardest = np.empty(rows, matrix.dtype)
    given = (*shared, margin.numpy()[()])
    received = (hinges, active, hardest, triplets)

    def count_some(some: slice) -> None:
        known, results = ([array[some] for array in arrays] for arrays in (by_row, received))
        count(matrix[some], *known, *given, *results)

    threads = max(1, min(torch.get_num_threads(), matrix.size // _ENTRIES_A_THREAD))
    if threads == 1:
        count(matrix, *by_row, *given, *received)
    else:
        bounds = np.linspace(0, rows, threads + 1, dtype=int).tolist()
        spans = [slice(*ends) for ends in pairwise(bounds)]
        others = [_workers(torch.get_num_threads()).submit(count_some, span) for span in spans[1:]]
        count_some(spans[0])
        for other in others:
            other.result()
    return TileCounts(*map(torch.as_tensor, (hinges.sum(), active.sum(), hardest.max()))), triplets


@lru_cache(maxsize=1)
def _workers(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="medshadow-losses")


# A forked process has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)
