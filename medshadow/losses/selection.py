"""Which triplets count: all that single labels or label sets allow, served tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, Workspace, count_violations
from medshadow.losses.fused import count_fused, counts_fused

POSITIVE_RULES = ("any", "equal")


class Tile(NamedTuple):
    """Some anchors against all references, in the order of a selection.

    ``start`` is the first anchor's place; ``closeness`` (T x R) may be overwritten; ``weights``, of
    its shape, receives the derivative of the sum of losses by it: the same matrix where the
    selection is ``fused``. ``margin`` is in the units of closeness, ``scale`` one such unit in
    deviations.
    """

    start: int
    closeness: Tensor
    weights: Tensor
    margin: Tensor
    scale: Tensor
    workspace: Workspace

    @property
    def stop(self) -> int:
        """The place after the last anchor's."""
        return self.start + len(self.closeness)


class Sides(NamedTuple):
    """Positives and negatives of a tile's anchors.

    ``columns`` (T x K) are the positives among the references, ``valid`` is False where a row is
    only filled up; ``hide`` writes the dtype's minimum wherever there is no negative.
    """

    columns: Tensor
    valid: Tensor
    hide: Callable[[Tensor], object]


class Selection(Protocol):
    """A choice of triplets over anchors and references in an order of its own.

    ``first`` is the first anchor in that order that has triplets, ``widest`` the largest number of
    positives, and ``triplets`` counts all triplets chosen, once every tile has been counted.
    ``fused`` says that ``count`` writes weights over closeness and divides its work itself.
    """

    @property
    def anchor_order(self) -> Tensor | None:
        """Which anchor stands where; None as given."""
        ...

    @property
    def reference_order(self) -> Tensor | None:
        """Which reference stands where; None as given."""
        ...

    @property
    def fused(self) -> bool:
        """Whether ``count`` reads closeness and writes weights in one matrix."""
        ...

    first: int
    widest: int
    triplets: Tensor

    def count(self, tile: Tile) -> TileCounts:
        """Count a tile's violations and write its weights."""
        ...


class LabelSelection(Selection, Protocol):
    """Every triplet that labels allow, with the sides it is made from."""

    def sides(self, tile: Tile) -> Sides:
        """Positives and negatives of a tile's anchors."""
        ...


class ClassBlocks:
    """Every valid triplet of single labels; a class is one run of columns, found by ordering.

    Args:
        labels: S labels of the anchors.
        reference_labels: R labels of the references.
        own_at: the reference that is the first anchor itself, the others following; None where no
            reference is an anchor.
    """

    def __init__(self, labels: Tensor, reference_labels: Tensor, own_at: int | None) -> None:
        together = torch.cat([labels, reference_labels])
        classes, codes = torch.unique(together, return_inverse=True)
        codes, reference_codes = codes[: len(labels)], codes[len(labels) :]
        population = torch.bincount(reference_codes, minlength=len(classes))

        # Small classes first: a tile's anchors then have about equally many positives.
        by_size = torch.argsort(population, stable=True)
        rank = torch.argsort(by_size)
        self.reference_order = torch.argsort(rank[reference_codes], stable=True)
        self.anchor_order = torch.argsort(rank[codes], stable=True)
        begins = torch.zeros_like(population)
        begins[by_size] = population[by_size].cumsum(0) - population[by_size]

        ordered = codes[self.anchor_order]
        self._begin, self._size = begins[ordered], population[ordered]
        self._own: Tensor | None = None
        if own_at is not None:
            self._own = torch.argsort(self.reference_order)[own_at + self.anchor_order]
        positives = self._size - int(own_at is not None)
        negatives = len(reference_codes) - self._size
        self.triplets = (positives * negatives).sum()
        self._sizes: list[int] = self._size.tolist()
        self.first = int((positives <= 0).sum()) if bool(self.triplets) else len(labels)
        self.widest = max(self._sizes, default=0)

    @property
    def fused(self) -> bool:
        """Whether compiled loops count."""
        return counts_fused(self._size.device, len(self._size), len(self.reference_order))

    def sides(self, tile: Tile) -> Sides:
        """A run of columns for each anchor; every other column is a negative."""
        some = slice(tile.start, tile.stop)
        size = self._size[some, None]
        place = torch.arange(self._sizes[tile.stop - 1], device=size.device)
        columns = self._begin[some, None] + torch.minimum(place, size - 1)
        valid = place < size
        if self._own is not None:
            valid &= columns != self._own[some, None]
        lowest = torch.finfo(tile.closeness.dtype).min

        def hide(matrix: Tensor) -> object:
            return matrix.scatter_(1, columns, lowest)

        return Sides(columns, valid, hide)

    def count(self, tile: Tile) -> TileCounts:
        """Count the violations among all triplets of some anchors."""
        if not self.fused:
            return _count_all(tile, self.sides(tile))
        own = torch.full_like(self._size, -1) if self._own is None else self._own
        by_row = [each[tile.start : tile.stop].numpy() for each in (self._begin, self._size, own)]
        return count_fused("count_blocks", tile.closeness, tile.margin, by_row)[0]


class LabelSets:
    """Every valid triplet of label sets, through masks made for each tile.

    Two rows are positive when their sets intersect (``any``) or are equal (``equal``), negative
    when they are disjoint. A row without any label is neither, to anyone.
    """

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    first = 0

    def __init__(
        self, labels: Tensor, reference_labels: Tensor, own_at: int | None, positive: str
    ) -> None:
        self._own_at = own_at
        self._anchors = _multi_hot(labels, "labels")
        self._references = _multi_hot(reference_labels, "reference_labels")
        self._anchor_size = self._anchors.sum(1, keepdim=True)
        self._reference_size = self._references.sum(1)
        self._equal = positive == "equal"
        self.widest = len(self._references)
        self.triplets = torch.zeros((), dtype=torch.int64, device=labels.device)

    @property
    def fused(self) -> bool:
        """Whether compiled loops count."""
        return counts_fused(self._anchors.device, len(self._anchors), len(self._references))

    def sides(self, tile: Tile) -> Sides:
        """Gathered columns of the positives; ``triplets`` grows by the tile's."""
        positive, negative = self._masks(tile.start, tile.stop)
        numbers = positive.sum(1)
        self.triplets = self.triplets + (numbers * negative.sum(1)).sum()
        columns, valid = padded(positive.nonzero()[:, 1], numbers)
        lowest = torch.finfo(tile.closeness.dtype).min
        absent = negative.logical_not_()

        def hide(matrix: Tensor) -> object:
            return matrix.masked_fill_(absent, lowest)

        return Sides(columns, valid, hide)

    def count(self, tile: Tile) -> TileCounts:
        """Count the violations among all triplets of some anchors."""
        if not self.fused:
            return _count_all(tile, self.sides(tile))
        own = np.arange(tile.start, tile.stop) + (self._own_at or 0)
        if self._own_at is None:
            own[:] = -1
        anchors, references = self._words
        counts, triplets = count_fused(
            "count_sets",
            tile.closeness,
            tile.margin,
            [anchors[tile.start : tile.stop], own],
            references,
            self._equal,
        )
        self.triplets = self.triplets + triplets.sum()
        return counts

    @cached_property
    def _words(self) -> tuple[np.ndarray, np.ndarray]:
        """Label sets as bits of 64-bit words: S x W of the anchors, W x R of the references."""
        anchors = _bits(self._anchors)
        return anchors, np.ascontiguousarray(_bits(self._references).T)

    def _masks(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        size = self._anchor_size[start:stop]
        shared = self._anchors[start:stop] @ self._references.T
        negative = (shared == 0) & (size > 0) & (self._reference_size > 0)
        positive = shared > 0
        if self._equal:
            positive &= (shared == size) & (shared == self._reference_size)
        if self._own_at is not None:
            positive.diagonal(self._own_at + start).fill_(False)
        return positive, negative


def select_by_labels(
    labels: Tensor, reference_labels: Tensor | None, own_at: int | None, positive: str
) -> LabelSelection:
    """Choose every valid triplet of these labels: S integers, or S x L multi-hot label sets."""
    if reference_labels is None:
        reference_labels, own_at = labels, 0
    if labels.ndim == 2:
        return LabelSets(labels, reference_labels, own_at, positive)
    return ClassBlocks(labels, reference_labels, own_at)


def _count_all(tile: Tile, sides: Sides) -> TileCounts:
    return count_violations(tile.closeness, *sides, tile.margin, tile.weights, tile.workspace)


def _multi_hot(labels: Tensor, name: str) -> Tensor:
    known = labels.to(torch.float32)
    if not bool(((known == 0) | (known == 1)).all()):
        raise ValueError(f"{name}: a label set is a row of zeros and ones; found other values")
    return known


def _bits(sets: Tensor) -> np.ndarray:
    sets = torch.nn.functional.pad(sets, (0, -sets.shape[1] % 64))
    return np.packbits(sets.bool().numpy(), axis=1, bitorder="little").view(np.uint64)


def padded(columns: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Spread a run of columns for each row over a matrix, filled up with column 0."""
    width = max(1, int(numbers.max()) if len(numbers) else 0)
    valid = torch.arange(width, device=numbers.device) < numbers[:, None]
    return torch.zeros_like(valid, dtype=torch.int64).masked_scatter_(valid, columns), valid
