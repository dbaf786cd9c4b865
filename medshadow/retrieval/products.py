"""The product of one vector with many, shared out among a few threads that do not wait busily.

A matrix library's own threads would be as fast on an idle machine; but they spin while they wait,
for each other and after the work, which on a busy one costs several times the product itself, and
searches that run at once would queue for them.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numpy as np

# Beyond a few threads the memory is the limit.
_MOST_THREADS = 4
# Numbers (16 MB) that are worth waking another thread.
_NUMBERS_A_THREAD = 1 << 22


def products_into(out: np.ndarray, vectors: np.ndarray, query: np.ndarray) -> None:
    """Write the product of each vector with the query.

    Args:
        out: float32 N, written.
        vectors: float32 N x D.
        query: float32 D.
    """
    if vectors.size < _NUMBERS_A_THREAD:
        # In the calling thread alone, unlike a matrix product.
        np.einsum("nd,d->n", vectors, query, out=out)
        return
    # Loaded where it pays: that takes about a second, once a process.
    from medshadow.retrieval.product_loop import multiply

    threads = max(1, min(_usable_threads(), vectors.size // _NUMBERS_A_THREAD))
    bounds = np.linspace(0, len(out), threads + 1, dtype=int).tolist()
    spans = [slice(*ends) for ends in pairwise(bounds)]

    others = [_workers().submit(multiply, vectors[rows], query, out[rows]) for rows in spans[1:]]
    multiply(vectors[spans[0]], query, out[spans[0]])
    for other in others:
        other.result()


@cache
def _usable_threads() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)


@cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_usable_threads(), thread_name_prefix="medshadow-search")


# A forked process has none of its parent's threads.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.cache_clear)
