"""Which triplets count: all that single labels or label sets allow, served tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, Workspace, added, count_violations
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

    Labels are ordered on the CPU wherever they lie: they are few, and every step is short.

    Args:
        labels: S labels of the anchors.
        reference_labels: R labels of the references; None where these are the anchors themselves.
        own_at: the reference that is the first anchor itself, the others following; None where no
            reference is an anchor.
        device: where the embeddings are.
    """

    def __init__(
        self,
        labels: Tensor,
        reference_labels: Tensor | None,
        own_at: int | None,
        device: torch.device,
    ) -> None:
        self._device = device
        columns, classes = _runs(reference_labels if reference_labels is not None else labels)
        anchors, own = columns, np.arange(len(columns))
        begin, size = (each.repeat(classes.sizes) for each in (classes.begins, classes.sizes))
        if reference_labels is not None:
            anchors, begin, size = classes.of(labels)
            own = np.full(len(anchors), -1)
            if own_at is not None:
                own = np.argsort(columns)[own_at + anchors]
        self._begin, self._size, self._own = begin, size, own
        self._references = len(columns)
        self.anchor_order = torch.from_numpy(anchors).to(device)
        self.reference_order = self.anchor_order
        if reference_labels is not None:
            self.reference_order = torch.from_numpy(columns).to(device)

        positives = size - (own >= 0)
        triplets = int((positives * (len(columns) - size)).sum())
        self.triplets = torch.tensor(triplets, device=device)
        self.first = int(np.count_nonzero(positives <= 0)) if triplets else len(anchors)
        self.widest = int(size[-1]) if len(size) else 0

    @property
    def fused(self) -> bool:
        """Whether compiled loops count."""
        return counts_fused(self._device, len(self._size), self._references)

    def sides(self, tile: Tile) -> Sides:
        """A run of columns for each anchor; every other column is a negative."""
        some = slice(tile.start, tile.stop)
        begin, size, own = (
            torch.from_numpy(each[some, None]).to(self._device)
            for each in (self._begin, self._size, self._own)
        )
        # The last anchor of a tile has the largest class.
        place = torch.arange(self._size[tile.stop - 1], device=self._device)
        columns = begin + torch.minimum(place, size - 1)
        valid = (place < size) & (columns != own)
        lowest = torch.finfo(tile.closeness.dtype).min

        def hide(matrix: Tensor) -> object:
            return matrix.scatter_(1, columns, lowest)

        return Sides(columns, valid, hide)

    def count(self, tile: Tile) -> TileCounts:
        """Count the violations among all triplets of some anchors."""
        if not self.fused:
            return _count_all(tile, self.sides(tile))
        from medshadow.losses import loops, loops_few

        known = [each[tile.start : tile.stop] for each in (self._begin, self._size, self._own)]
        few = int(np.searchsorted(known[1], loops_few.FEW, "right"))  # small classes stand first
        parts = ((loops_few.count_few, slice(few)), (loops.count_blocks, slice(few, None)))
        counts = [
            count_fused(count, tile.closeness[some], tile.margin, [each[some] for each in known])[0]
            for count, some in parts
            if len(known[1][some])
        ]
        return counts[0] if len(counts) == 1 else added(*counts)


class _Classes(NamedTuple):
    """The classes of labels in the order of their runs, small ones first."""

    labels: np.ndarray
    begins: np.ndarray
    sizes: np.ndarray

    def of(self, labels: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Order other labels by these classes' runs: which stands where, its begin and its size.

        Those of no class come first, with a size of 0.
        """
        known = labels.numpy(force=True)
        if not len(self.labels):
            nothing = np.zeros(len(known), np.int64)
            return np.arange(len(known)), nothing, nothing
        ascending = self.labels.argsort()
        found = np.searchsorted(self.labels, known, sorter=ascending)
        place = ascending[found.clip(max=len(ascending) - 1)]
        place[self.labels[place] != known] = -1
        order = place.argsort(kind="stable")
        place = place[order]
        return order, self.begins[place], np.where(place < 0, 0, self.sizes[place])


def _runs(labels: Tensor) -> tuple[np.ndarray, _Classes]:
    """Order labels by class, small classes first: which stands where, and the runs they form.

    A tile's anchors then have about equally many positives.
    """
    known = labels.numpy(force=True)
    order = known.argsort(kind="stable")
    ordered = known[order]
    first = np.ones(len(known), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=first[1:])
    ends = np.append(first.nonzero()[0], len(known))
    begins, sizes = ends[:-1], ends[1:] - ends[:-1]
    by_size = sizes.argsort(kind="stable")
    begins, sizes = begins[by_size], sizes[by_size]
    moved = sizes.cumsum() - sizes
    order = order[np.arange(len(known)) + (begins - moved).repeat(sizes)]
    return order, _Classes(known[order[moved]], moved, sizes)


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
        from medshadow.losses import loops

        counts, triplets = count_fused(
            loops.count_sets,
            tile.closeness,
            tile.margin,
            [anchors[tile.start : tile.stop], own],
            references,
            self._equal,
        )
        self.triplets = self.triplets + int(triplets.sum())
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
    labels: Tensor,
    reference_labels: Tensor | None,
    own_at: int | None,
    positive: str,
    device: torch.device,
) -> LabelSelection:
    """Choose every valid triplet of these labels: S integers, or S x L multi-hot label sets."""
    if labels.ndim == 1:
        return ClassBlocks(labels, reference_labels, own_at, device)
    if reference_labels is None:
        reference_labels, own_at = labels, 0
    return LabelSets(labels.to(device), reference_labels.to(device), own_at, positive)


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
