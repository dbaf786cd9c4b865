"""The product of one vector with many as a compiled loop, as fast as memory. Importing needs numba.

numpy's matrix product is no faster, but runs in threads of its own; its sum of products
(``einsum``) runs in the caller's thread alone, and takes 1.4 times as long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit


def _multiply(vectors: np.ndarray, query: np.ndarray, out: np.ndarray) -> None:
    for row in range(vectors.shape[0]):
        total = np.float32(0)
        for column in range(vectors.shape[1]):
            total += vectors[row, column] * query[column]
        out[row] = total


# Sums in any order, so that several numbers are multiplied at a time; nothing else is relaxed.
_WAY: dict[str, Any] = {"nogil": True, "fastmath": {"reassoc", "contract"}}
try:
    multiply = njit(cache=True, **_WAY)(_multiply)
except RuntimeError:  # neither this folder nor the user's own can be written
    multiply = njit(**_WAY)(_multiply)
