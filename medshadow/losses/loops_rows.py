"""Compiled loops over rows of embeddings: to the unit sphere, and a gradient's way back."""

from __future__ import annotations

import numpy as np

from medshadow.losses.compiling import compiled

Array = np.ndarray

# A sum of squares between these lost nothing to the ends of float32.
_SMALLEST, _LARGEST = 1e-20, 1e30
# Columns and rows of a block that is transposed within the fastest cache.
_BLOCK = 8
# Rows whose largest entry is below this have no direction, and are not divided by less.
_TINY = 1e-37


@compiled()
def directions(
    rows: Array, order: Array, zero_norm: float, units: Array, inverse_norms: Array
) -> bool:
    """Put rows on the unit sphere, in a given order.

    Args:
        rows: S x D.
        order: S, which row comes first, second and so on.
        zero_norm: at most 1e-10; rows of at most this norm have no direction: zeros, with an
            inverse norm of 0.
        units: S x D, receives the unit vectors in that order.
        inverse_norms: S in float64, receives 1 / norm of each.

    Returns:
        Whether every entry is finite; if not, the rest is not to be used.
    """
    for i in range(len(rows)):
        row = order[i]
        squares = _dot(rows, rows, row, row)
        if _SMALLEST < squares < _LARGEST:
            norm = np.sqrt(squares)
            inverse_norms[i] = 1 / norm
            _divide(rows, row, norm, units, i)
            continue
        largest = 0.0
        for d in range(rows.shape[1]):
            size = abs(np.float64(rows[row, d]))
            if not size < np.inf:
                return False
            largest = max(largest, size)
        _divide(rows, row, max(largest, _TINY), units, i)
        length = np.sqrt(np.float64(_dot(units, units, i, i)))
        directed = length * largest > zero_norm
        inverse_norms[i] = 1 / (length * largest) if directed else 0.0
        _divide(units, i, length if directed else np.inf, units, i)
    return True


@compiled()
def _divide(rows: Array, row: int, by: float, quotients: Array, i: int) -> None:
    for d in range(rows.shape[1]):
        quotients[i, d] = rows[row, d] / rows.dtype.type(by)


@compiled()
def add_transposed(matrix: Array) -> None:
    """Add to a square matrix its own transpose, in place."""
    size = len(matrix)
    for top in range(0, size, _BLOCK):
        for left in range(0, top + 1, _BLOCK):
            for i in range(top, min(top + _BLOCK, size)):
                for j in range(left, min(left + _BLOCK, i + 1)):
                    total = matrix[i, j] + matrix[j, i]
                    matrix[i, j] = total
                    matrix[j, i] = total


@compiled()
def through_directions(
    gradient: Array, units: Array, inverse_norms: Array, factor: float, order: Array, by_rows: Array
) -> None:
    """Turn a gradient by unit vectors into one by the rows that they were made of.

    Args:
        gradient: S x D, by the unit vectors.
        units: S x D, these.
        inverse_norms: S, of the rows.
        factor: multiplies every entry.
        order: S, where among the rows each unit vector belongs.
        by_rows: S x D, receives the gradient by the rows, in their order.
    """
    for i in range(len(units)):
        along = _dot(gradient, units, i, i)
        scale = factor * inverse_norms[i]
        row = order[i]
        for d in range(units.shape[1]):
            by_rows[row, d] = (gradient[i, d] - along * units[i, d]) * scale


@compiled(fast={"reassoc", "nsz", "contract"})
def _dot(one: Array, other: Array, i: int, j: int) -> np.floating:
    """Product of two rows, summed side by side, so that no addition waits for the one before."""
    total = one.dtype.type(0)
    for d in range(one.shape[1]):
        total += one[i, d] * other[j, d]
    return total
