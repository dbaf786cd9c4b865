"""Compiled loops that count the violations of a tile on CPUs, row by row. Importing needs numba.

For each anchor: sort the thresholds of its positives, place every negative among them through a
table of cells, and write each count over the closeness it came from. A cell is a monotone function
of the value, so thresholds of lower cells are smaller for certain and those of higher cells are
not: only the value's own cell needs comparing, and ties are exact.

Branches that no processor could predict are written as arithmetic, and indices are unsigned so that
none of them is taken to count from the end.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medshadow.losses.compiling import compiled

Array = np.ndarray

# Cells of the table: enough that few thresholds share one, few enough for a core's own cache.
_FEWEST_CELLS, _MOST_CELLS = 64, 8192
# Negatives placed at a time: their intermediate results stay in the fastest cache.
_CHUNK = 1024
_ONE = np.uint32(1)


class Scratch(NamedTuple):
    """Room for one anchor at a time."""

    keys: Array  # thresholds as they come
    columns: Array  # and where each comes from
    thresholds: Array  # sorted, then filled up with infinity
    places: Array  # the columns of the sorted ones
    starts: Array  # for each cell, the thresholds in lower cells
    tally: Array  # negatives of each count, four columns that are added up at last
    cells: np.ndarray
    homes: Array  # cells of the thresholds


@compiled()
def count_blocks(
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
    """Count for anchors whose positives are one run of columns, and negatives all others.

    Args:
        closeness: T x R, overwritten with the derivative of the sum of hinges by it.
        begins: T, the first column of each anchor's class.
        sizes: T, how many columns it has.
        owns: T, the anchor's own column, or -1.
        margin: of the dtype of ``closeness``, as all numbers here.
        hinges: T, receives each anchor's sum of hinges.
        active: T, receives how many of them are positive.
        hardest: T, receives the largest violation, -inf where there is no triplet.
        triplets: T, receives the number of triplets.
    """
    scratch = _scratch(sizes.max(), closeness)
    for i in range(len(closeness)):
        row, begin, end, own = closeness[i], begins[i], begins[i] + sizes[i], owns[i]
        number = 0
        for column in range(begin, end):
            scratch.keys[number] = row[column] - margin
            scratch.columns[number] = column
            number += column != own
            row[column] = 0
        negatives = len(row) - sizes[i]
        triplets[i] = number * negatives
        hinges[i], active[i], hardest[i] = _count_row(row, begin, end, number, negatives, scratch)


@compiled()
def count_sets(
    closeness: Array,
    labels: Array,
    owns: Array,
    reference_labels: Array,
    equal: bool,
    margin: np.floating,
    hinges: Array,
    active: Array,
    hardest: Array,
    triplets: Array,
) -> None:
    """Count for anchors whose positives and negatives follow from label sets.

    Args:
        closeness: as for :func:`count_blocks`, as are ``owns`` and what follows ``equal``.
        labels: T x W, the label sets of the anchors as bits of W words.
        reference_labels: W x R, those of the references.
        equal: positives have the anchor's very labels instead of any of them.
    """
    rows, width = closeness.shape
    scratch = _scratch(width, closeness)
    lowest = closeness.dtype.type(np.finfo(closeness.dtype).min)
    alike = np.empty(width, np.uint64)
    apart = np.empty(width, np.uint64)
    known = np.zeros(width, np.uint64)
    for w in range(len(reference_labels)):
        for column in range(width):
            known[column] |= reference_labels[w, column]
    for i in range(rows):
        row, own = closeness[i], owns[i]
        any_label = np.uint64(0)
        for column in range(width):
            alike[column] = 0
            apart[column] = 0
        for w in range(len(reference_labels)):
            mine = labels[i, w]
            any_label |= mine
            for column in range(width):
                alike[column] |= mine & reference_labels[w, column]
                apart[column] |= mine ^ reference_labels[w, column]
        number, negatives = 0, 0
        for column in range(width):
            shared = alike[column] != 0
            scratch.keys[number] = row[column] - margin
            scratch.columns[number] = column
            number += shared & (column != own) & ((not equal) | (apart[column] == 0))
            negative = (not shared) & (any_label != 0) & (known[column] != 0)
            negatives += negative
            row[column] = row[column] if negative else lowest
        triplets[i] = number * negatives
        hinges[i], active[i], hardest[i] = _count_row(row, 0, 0, number, negatives, scratch)


@compiled()
def _scratch(widest: int, closeness: Array) -> Scratch:
    """Room for anchors of up to so many positives."""
    cells = _number_of_cells(widest)
    return Scratch(
        np.empty(widest + 1, closeness.dtype),
        np.empty(widest + 1, np.int64),
        np.empty(3 * widest + 8, closeness.dtype),
        np.empty(widest, np.int64),
        np.empty(cells, np.uint32),
        np.empty(4 * (widest + 1), np.uint32),
        np.empty(_CHUNK, np.uint32),
        np.empty(widest, np.uint32),
    )


@compiled()
def _number_of_cells(number: int) -> int:
    cells = _FEWEST_CELLS
    while cells < 2 * number and cells < _MOST_CELLS:
        cells *= 2
    return cells


@compiled()
def _count_row(
    row: Array, begin: int, end: int, number: int, negatives: int, scratch: Scratch
) -> tuple[float, np.int64, float]:
    """Count one anchor, whose keys are in the scratch; no column of begin:end is a negative."""
    if number == 0 or negatives == 0:
        for column in range(len(row)):
            row[column] = 0
        return 0.0, np.int64(0), -np.inf
    low, scale, last = _scale(scratch.keys, number, row)
    _into_cells(scratch.keys[:number], low, scale, last, scratch.homes)
    crowd = _sort_into_table(number, int(last) + 1, scratch)
    for k in range(4 * (number + 1)):
        scratch.tally[k] = 0
    pushed = 0.0
    nearest = -np.inf
    for first, stop in ((0, begin), (end, len(row))):
        for start in range(first, stop, _CHUNK):
            values = row[start : min(start + _CHUNK, stop)]
            ranks = scratch.cells[: len(values)]
            _into_cells(values, low, scale, last, ranks)
            _count_below(values, scratch.starts, scratch.thresholds, crowd, ranks)
            _tally(ranks, scratch.tally)
            total, most = _product_and_largest(values, ranks)
            pushed += total
            nearest = max(nearest, float(most))
            for n in range(len(values)):
                values[n] = np.int32(ranks[n])
    violators, active, pulled = np.int64(0), np.int64(0), 0.0
    for k in range(number - 1, -1, -1):
        for column in range(4):
            violators += np.int64(scratch.tally[4 * (k + 1) + column])
        row[scratch.places[k]] = -violators
        active += violators
        pulled += violators * np.float64(scratch.thresholds[k])
    return pushed - pulled, active, nearest - scratch.thresholds[0]


@compiled()
def _scale(keys: Array, number: int, row: Array) -> tuple[np.floating, np.floating, np.floating]:
    """What turns a value into its cell: the lowest threshold, a factor, and the last cell."""
    largest = row.dtype.type(np.finfo(row.dtype).max)
    low, high = largest, -largest
    for k in range(number):
        low, high = min(low, keys[k]), max(high, keys[k])
    low = max(low, -largest)
    cells = _number_of_cells(number)
    span = min(max(high - low, row.dtype.type(1e-30)), row.dtype.type(1e37))
    return low, (row.dtype.type(cells) - row.dtype.type(0.5)) / span, row.dtype.type(cells - 1)


@compiled()
def _into_cells(
    values: Array, low: np.floating, scale: np.floating, last: np.floating, cells: Array
) -> None:
    """The one way from a value to its cell: it must round alike for thresholds and negatives."""
    for n in range(len(values)):
        cells[n] = np.uint32(np.int32(min(max((values[n] - low) * scale, last - last), last)))


@compiled()
def _sort_into_table(number: int, cells: int, scratch: Scratch) -> np.uint32:
    """Sort the keys by their cells, then within; return the most that share a cell."""
    starts, thresholds, places = scratch.starts, scratch.thresholds, scratch.places
    for cell in range(cells):
        starts[cell] = 0
    for k in range(number):
        starts[np.uintp(scratch.homes[k])] += _ONE
    crowd = total = np.uint32(0)
    for cell in range(cells):
        crowd = max(crowd, starts[cell])
        total += starts[cell]
        starts[cell] = total
    for k in range(number):
        home = np.uintp(scratch.homes[k])
        starts[home] -= _ONE
        place = np.uintp(starts[home])
        thresholds[place], places[place] = scratch.keys[k], scratch.columns[k]
    _shell_sort(thresholds, places, number, np.int64(crowd))
    # As many as a search beyond the last threshold may meet.
    for k in range(number, 3 * number + 8):
        thresholds[k] = np.inf
    return crowd


@compiled()
def _shell_sort(keys: Array, columns: Array, number: int, crowd: np.int64) -> None:
    """Sort keys that are at most ``crowd`` places from their own, and their columns along."""
    gap = 1
    while 3 * gap + 1 < crowd:
        gap = 3 * gap + 1
    while gap > 0:
        for k in range(gap, number):
            key, column, hole = keys[k], columns[k], k
            while hole >= gap and keys[hole - gap] > key:
                keys[hole], columns[hole] = keys[hole - gap], columns[hole - gap]
                hole -= gap
            keys[hole], columns[hole] = key, column
        gap //= 3


@compiled()
def _count_below(
    values: Array, starts: Array, thresholds: Array, crowd: np.uint32, ranks: Array
) -> None:
    """Turn each value's cell into the number of thresholds below it."""
    if crowd < 8:
        for n in range(len(values)):
            value = values[n]
            rank = starts[np.uintp(ranks[n])]
            rank += np.uint32(thresholds[np.uintp(rank) + np.uintp(3)] < value) << np.uint32(2)
            rank += np.uint32(thresholds[np.uintp(rank) + np.uintp(1)] < value) << _ONE
            rank += np.uint32(thresholds[np.uintp(rank)] < value)
            ranks[n] = rank
        return
    for n in range(len(values)):
        ranks[n] = starts[np.uintp(ranks[n])]
    step = _ONE
    while step <= crowd:
        step <<= _ONE
    while step > _ONE:
        step >>= _ONE
        for n in range(len(values)):
            below = thresholds[np.uintp(ranks[n] + step - _ONE)] < values[n]
            ranks[n] += np.uint32(below) * step


@compiled()
def _tally(ranks: Array, tally: Array) -> None:
    # Neighbours often have one rank: in four columns, no addition waits for the one before.
    for n in range(len(ranks)):
        tally[np.uintp(np.uint32(4) * ranks[n] + np.uint32(n & 3))] += _ONE


@compiled(fast={"reassoc", "nsz", "nnan"})
def _product_and_largest(values: Array, ranks: Array) -> tuple[float, np.floating]:
    total, largest = 0.0, values[0]
    for n in range(len(values)):
        total += np.float64(values[n]) * np.int32(ranks[n])
        largest = max(largest, values[n])
    return total, largest
