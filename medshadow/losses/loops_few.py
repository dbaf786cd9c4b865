"""Compiled counting for anchors with few positives: every threshold meets every negative.

Comparing them all takes no search and no branch, so a processor does it eight at a time. Arrays
are handed over whole and one by one: a slice or a tuple would be counted as one more owner.

No file of compiled loops calls another's: what is kept on disk is renewed as its own file changes.
"""

from __future__ import annotations

import numpy as np

from medshadow.losses.compiling import compiled

Array = np.ndarray

# Up to this many columns a class, comparing beats sorting and searching.
FEW = 96
# Negatives are filled up to a multiple of this.
_LANES = 16
_int32 = np.int32


@compiled()
def count_few(
    closeness: Array,
    begins: Array,
    sizes: Array,
    owns: Array,
    margin: np.floating,
    hinges: Array,
    active: Array,
    hardest: Array,
    triplets: Array,
) -> None:
    """Count for anchors whose positives are one run of at most ``FEW`` columns.

    Arguments as for :func:`medshadow.losses.loops.count_blocks`.
    """
    rows, width = closeness.shape
    thresholds = np.empty(FEW + 8, closeness.dtype)
    violators = np.empty(FEW + 8, np.int32)  # of each threshold, the negatives above
    values = np.empty(width + _LANES, closeness.dtype)  # the negatives
    counts = np.empty(width + _LANES, np.int32)  # of each of them, the thresholds below
    lanes = np.empty(_LANES, closeness.dtype)
    for i in range(rows):
        negatives, positives = width - sizes[i], sizes[i] - (owns[i] >= 0)
        triplets[i] = max(positives, 0) * negatives
        hinges[i], active[i], hardest[i] = 0.0, 0, -np.inf
        if triplets[i] > 0:
            hinges[i], active[i], hardest[i] = _count_anchor(
                closeness,
                i,
                begins[i],
                sizes[i],
                owns[i],
                margin,
                thresholds,
                violators,
                values,
                counts,
                lanes,
            )
        else:
            for column in range(width):
                closeness[i, column] = 0


@compiled()
def _count_anchor(
    closeness: Array,
    i: int,
    begin: int,
    size: int,
    own: int,
    margin: np.floating,
    thresholds: Array,
    violators: Array,
    values: Array,
    counts: Array,
    lanes: Array,
) -> tuple[float, np.int64, float]:
    negatives = closeness.shape[1] - size
    _take(closeness, i, begin, size, own, margin, thresholds, values, counts)
    padded = (negatives + _LANES - 1) // _LANES * _LANES
    for k in range(0, size, 8):
        _compare_eight(values, padded, thresholds, k, counts, violators)
    active, lowest, pulled = np.int64(0), np.inf, 0.0
    for k in range(size):
        active += violators[k]
        lowest = min(lowest, thresholds[k])
        if violators[k]:  # infinity stands where there is no threshold
            pulled += violators[k] * np.float64(thresholds[k])
    pushed = _product(values, counts, negatives)
    nearest = float(_largest(values, padded, lanes))
    _put_back(closeness, i, begin, size, counts, violators)
    return pushed - pulled, active, nearest - lowest


@compiled()
def _take(
    closeness: Array,
    i: int,
    begin: int,
    size: int,
    own: int,
    margin: np.floating,
    thresholds: Array,
    values: Array,
    counts: Array,
) -> None:
    """Part a row into thresholds and negatives, filled up with what is above and below all."""
    negatives = closeness.shape[1] - size
    for k in range(size):
        thresholds[k] = closeness[i, begin + k] - margin
    if own >= 0:
        thresholds[own - begin] = np.inf
    for k in range(size, size + 8):
        thresholds[k] = np.inf
    for n in range(begin):
        values[n] = closeness[i, n]
    for n in range(begin, negatives):
        values[n] = closeness[i, n + size]
    for n in range(negatives, negatives + _LANES):
        values[n] = -np.inf
    for n in range(negatives + _LANES):
        counts[n] = 0


@compiled()
def _compare_eight(
    values: Array, number: int, thresholds: Array, k: int, counts: Array, violators: Array
) -> None:
    """Compare eight thresholds with every value; add to its count, and count for each of them."""
    t0, t1, t2, t3 = thresholds[k], thresholds[k + 1], thresholds[k + 2], thresholds[k + 3]
    t4, t5, t6, t7 = thresholds[k + 4], thresholds[k + 5], thresholds[k + 6], thresholds[k + 7]
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = _int32(0)
    for n in range(number):
        value = values[n]
        a0, a1, a2, a3 = value > t0, value > t1, value > t2, value > t3
        a4, a5, a6, a7 = value > t4, value > t5, value > t6, value > t7
        # Sums of 32 bits, as wide as the values, or half as many would be compared at once.
        count = _int32(_int32(_int32(_int32(counts[n] + a0) + a1) + a2) + a3)
        counts[n] = _int32(_int32(_int32(_int32(count + a4) + a5) + a6) + a7)
        s0, s1, s2, s3 = _int32(s0 + a0), _int32(s1 + a1), _int32(s2 + a2), _int32(s3 + a3)
        s4, s5, s6, s7 = _int32(s4 + a4), _int32(s5 + a5), _int32(s6 + a6), _int32(s7 + a7)
    violators[k], violators[k + 1], violators[k + 2], violators[k + 3] = s0, s1, s2, s3
    violators[k + 4], violators[k + 5], violators[k + 6], violators[k + 7] = s4, s5, s6, s7


@compiled(fast={"reassoc", "nsz", "nnan"})
def _product(values: Array, counts: Array, number: int) -> float:
    total = 0.0
    for n in range(number):
        total += np.float64(values[n]) * counts[n]
    return total


@compiled()
def _largest(values: Array, number: int, lanes: Array) -> np.floating:
    for lane in range(_LANES):
        lanes[lane] = values[lane]
    for start in range(_LANES, number, _LANES):
        for lane in range(_LANES):
            lanes[lane] = max(lanes[lane], values[start + lane])
    largest = lanes[0]
    for lane in range(1, _LANES):
        largest = max(largest, lanes[lane])
    return largest


@compiled()
def _put_back(
    closeness: Array, i: int, begin: int, size: int, counts: Array, violators: Array
) -> None:
    for n in range(begin):
        closeness[i, n] = counts[n]
    for k in range(size):
        closeness[i, begin + k] = -violators[k]
    for n in range(begin, closeness.shape[1] - size):
        closeness[i, n + size] = counts[n]
