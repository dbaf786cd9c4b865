"""Which triplets count: class blocks, label sets, or a miner's list, each served tile by tile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, Workspace, count_violations

POSITIVE_RULES = ("any", "equal")


class Selection(Protocol):
    """A choice of triplets over anchors and references in an order of its own.

    ``first`` is the first anchor in that order that has triplets, ``widest`` the largest number of
    positives, and ``triplets`` counts all triplets chosen, once every tile has been counted.
    """

    @property
    def anchor_order(self) -> Tensor | None:
        """Which anchor stands where; None as given."""
        ...

    @property
    def reference_order(self) -> Tensor | None:
        """Which reference stands where; None as given."""
        ...

    first: int
    widest: int
    triplets: Tensor

    def count(
        self,
        start: int,
        closeness: Tensor,
        weights: Tensor,
        margin: Tensor,
        scale: Tensor,
        workspace: Workspace,
    ) -> TileCounts:
        """Count the violations of anchors ``start, start + 1, ...``.

        ``closeness`` (their rows, all references) is overwritten; ``weights``, of its shape,
        receives the derivative of the sum of hinges by it.
        """
        ...


class ClassBlocks:
    """Every valid triplet of single labels; a class is one run of columns, found by ordering."""

    def __init__(self, labels: Tensor, reference_labels: Tensor | None) -> None:
        own = reference_labels is None
        together = labels if reference_labels is None else torch.cat([labels, reference_labels])
        classes, codes = torch.unique(together, return_inverse=True)
        codes, reference_codes = codes[: len(labels)], codes if own else codes[len(labels) :]
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
        self._own = own
        positives, negatives = self._size - int(own), len(reference_codes) - self._size
        self.triplets = (positives * negatives).sum()
        self._sizes: list[int] = self._size.tolist()
        self.first = int((positives <= 0).sum()) if bool(self.triplets) else len(labels)
        self.widest = max(self._sizes, default=0)

    def count(
        self,
        start: int,
        closeness: Tensor,
        weights: Tensor,
        margin: Tensor,
        scale: Tensor,
        workspace: Workspace,
    ) -> TileCounts:
        """Count the violations of some anchors, whose positives are runs of columns."""
        stop = start + len(closeness)
        size = self._size[start:stop, None]
        place = torch.arange(self._sizes[stop - 1], device=closeness.device)
        columns = self._begin[start:stop, None] + torch.minimum(place, size - 1)
        valid = place < size
        if self._own:
            valid &= columns != torch.arange(start, stop, device=closeness.device)[:, None]
        lowest = torch.finfo(closeness.dtype).min

        def hide(matrix: Tensor) -> object:
            return matrix.scatter_(1, columns, lowest)

        return count_violations(closeness, columns, valid, hide, margin, weights, workspace)


class LabelSets:
    """Every valid triplet of label sets, through masks made for each tile.

    Two rows are positive when their sets intersect (``any``) or are equal (``equal``), negative
    when they are disjoint. A row without any label is neither, to anyone.
    """

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    first = 0

    def __init__(self, labels: Tensor, reference_labels: Tensor | None, positive: str) -> None:
        self._own = reference_labels is None
        self._anchors = _multi_hot(labels, "labels")
        self._references = (
            self._anchors
            if reference_labels is None
            else _multi_hot(reference_labels, "reference_labels")
        )
        self._anchor_size = self._anchors.sum(1, keepdim=True)
        self._reference_size = self._references.sum(1)
        self._equal = positive == "equal"
        self.widest = len(self._references)
        self.triplets = torch.zeros((), dtype=torch.int64, device=labels.device)

    def count(
        self,
        start: int,
        closeness: Tensor,
        weights: Tensor,
        margin: Tensor,
        scale: Tensor,
        workspace: Workspace,
    ) -> TileCounts:
        """Count the violations of some anchors and add their triplets to ``triplets``."""
        positive, negative = self._masks(start, start + len(closeness))
        numbers = positive.sum(1)
        self.triplets = self.triplets + (numbers * negative.sum(1)).sum()
        columns, valid = _padded(positive.nonzero()[:, 1], numbers)
        lowest = torch.finfo(closeness.dtype).min
        absent = negative.logical_not_()

        def hide(matrix: Tensor) -> object:
            return matrix.masked_fill_(absent, lowest)

        return count_violations(closeness, columns, valid, hide, margin, weights, workspace)

    def _masks(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        size = self._anchor_size[start:stop]
        shared = self._anchors[start:stop] @ self._references.T
        negative = (shared == 0) & (size > 0) & (self._reference_size > 0)
        positive = shared > 0
        if self._equal:
            positive &= (shared == size) & (shared == self._reference_size)
        if self._own:
            positive.diagonal(start).fill_(False)
        return positive, negative


class ListedTriplets:
    """A miner's triplets (anchor, positive, negative), each counted as often as it is listed."""

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    first = 0
    widest = 0

    def __init__(self, anchors: Tensor, positives: Tensor, negatives: Tensor, size: int) -> None:
        order = torch.argsort(anchors, stable=True)
        self._anchors = anchors[order]
        self._positives, self._negatives = positives[order], negatives[order]
        self._offsets = _offsets(self._anchors, size)
        self.triplets = torch.tensor(len(anchors), device=anchors.device)

    def count(
        self,
        start: int,
        closeness: Tensor,
        weights: Tensor,
        margin: Tensor,
        scale: Tensor,
        workspace: Workspace,
    ) -> TileCounts:
        """Count the violations among the listed triplets of some anchors."""
        rows, width = closeness.shape
        listed = slice(self._offsets[start], self._offsets[start + rows])
        row = (self._anchors[listed] - start) * width
        positive, negative = row + self._positives[listed], row + self._negatives[listed]
        flat = closeness.view(-1)
        violation = flat[negative] - flat[positive] + margin
        active = (violation > 0).to(closeness.dtype)
        weights.zero_().view(-1).index_add_(0, negative, active).index_add_(
            0, positive, active.neg()
        )
        floor = violation.new_full((1,), -torch.inf)
        return TileCounts(
            hinges=violation.clamp_min(0).sum(dtype=torch.float64),
            active=active.sum(dtype=torch.float64).long(),
            hardest=torch.cat([violation, floor]).max(),
        )


class ListedPairs:
    """A miner's pairs: an anchor's every listed positive with its every listed negative."""

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    first = 0

    def __init__(
        self, pulled: tuple[Tensor, Tensor], pushed: tuple[Tensor, Tensor], size: int
    ) -> None:
        order = torch.argsort(pulled[0], stable=True)
        anchors, self._positives = pulled[0][order], pulled[1][order]
        self._offsets = _offsets(anchors, size)
        self._numbers = torch.bincount(anchors, minlength=size)
        order = torch.argsort(pushed[0], stable=True)
        self._negative_anchors, self._negatives = pushed[0][order], pushed[1][order]
        self._negative_offsets = _offsets(self._negative_anchors, size)
        self.triplets = (self._numbers * torch.bincount(pushed[0], minlength=size)).sum()
        self.widest = int(self._numbers.max()) if size else 0

    def count(
        self,
        start: int,
        closeness: Tensor,
        weights: Tensor,
        margin: Tensor,
        scale: Tensor,
        workspace: Workspace,
    ) -> TileCounts:
        """Count the violations among the listed pairs of some anchors."""
        rows, width = closeness.shape
        stop = start + rows
        listed = slice(self._offsets[start], self._offsets[stop])
        columns, valid = _padded(self._positives[listed], self._numbers[start:stop])
        listed = slice(self._negative_offsets[start], self._negative_offsets[stop])
        place = (self._negative_anchors[listed] - start) * width + self._negatives[listed]
        repeats = torch.bincount(place, minlength=rows * width).view(rows, width)
        lowest = torch.finfo(closeness.dtype).min

        def hide(matrix: Tensor) -> object:
            return matrix.masked_fill_(repeats == 0, lowest)

        repeated = repeats.to(closeness.dtype)
        return count_violations(
            closeness, columns, valid, hide, margin, weights, workspace, repeated
        )


def select_by_labels(labels: Tensor, reference_labels: Tensor | None, positive: str) -> Selection:
    """Choose every valid triplet of these labels: S integers, or S x L multi-hot label sets."""
    if labels.ndim == 2:
        return LabelSets(labels, reference_labels, positive)
    return ClassBlocks(labels, reference_labels)


def select_listed(indices: Sequence[Tensor], anchors: int, references: int) -> Selection:
    """Choose the triplets of a miner's tuple: (a, p, n), or pairs (a1, p, a2, n)."""
    names = {3: ("anchor", "positive", "negative"), 4: ("a1", "positive", "a2", "negative")}
    if len(indices) not in names:
        raise ValueError(
            f"indices_tuple has {len(indices)} tensors; expected 3 (anchor, positive, negative) "
            "or 4 (anchor, positive, anchor, negative)"
        )
    for name, index in zip(names[len(indices)], indices, strict=True):
        limit = anchors if name.startswith("a") else references
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < limit:
            raise ValueError(
                f"indices_tuple: {name} indices run from {int(index.min())} to "
                f"{int(index.max())}; expected 0 to {limit - 1}"
            )
    lengths = [len(index) for index in indices]
    if lengths[0] != lengths[1] or lengths[-1] != lengths[-2]:
        raise ValueError(
            f"indices_tuple has tensors of lengths {lengths}; expected each anchor tensor as long "
            "as the indices that follow it"
        )
    first, positives, *others = indices
    if len(indices) == 3:
        return ListedTriplets(first, positives, others[0], anchors)
    return ListedPairs((first, positives), (others[0], others[1]), anchors)


def _multi_hot(labels: Tensor, name: str) -> Tensor:
    known = labels.to(torch.float32)
    if not bool(((known == 0) | (known == 1)).all()):
        raise ValueError(f"{name}: a label set is a row of zeros and ones; found other values")
    return known


def _padded(columns: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Spread a run of columns for each row over a matrix, filled up with column 0."""
    width = max(1, int(numbers.max()) if len(numbers) else 0)
    valid = torch.arange(width, device=numbers.device) < numbers[:, None]
    return torch.zeros_like(valid, dtype=torch.int64).masked_scatter_(valid, columns), valid


def _offsets(sorted_rows: Tensor, size: int) -> list[int]:
    """Where each row's entries begin in a sorted list of rows, and at last its length."""
    rows = torch.arange(size + 1, device=sorted_rows.device)
    offsets: list[int] = torch.searchsorted(sorted_rows, rows).tolist()
    return offsets
