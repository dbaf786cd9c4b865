"""A miner's own list of triplets or pairs, served tile by tile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, count_violations
from medshadow.losses.selection import Selection, Tile, padded


class ListedTriplets:
    """A miner's triplets (anchor, positive, negative), each counted as often as it is listed."""

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    fused = False
    first = 0
    widest = 0

    def __init__(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor, size: int, soft: bool
    ) -> None:
        order = torch.argsort(anchors, stable=True)
        self._anchors = anchors[order]
        self._positives, self._negatives = positives[order], negatives[order]
        self._offsets = _offsets(self._anchors, size)
        self._soft = soft
        self.triplets = torch.tensor(len(anchors), device=anchors.device)

    def count(self, tile: Tile) -> TileCounts:
        """Count the violations among the listed triplets of some anchors."""
        listed = slice(self._offsets[tile.start], self._offsets[tile.stop])
        row = (self._anchors[listed] - tile.start) * tile.closeness.shape[1]
        positive, negative = row + self._positives[listed], row + self._negatives[listed]
        flat = tile.closeness.view(-1)
        counts, slopes = penalties(flat[negative] - flat[positive], tile, self._soft)
        pull = tile.weights.zero_().view(-1)
        pull.index_add_(0, negative, slopes).index_add_(0, positive, slopes.neg())
        return counts


class ListedPairs:
    """A miner's pairs: an anchor's every listed positive with its every listed negative."""

    anchor_order: Tensor | None = None
    reference_order: Tensor | None = None
    fused = False
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

    def count(self, tile: Tile) -> TileCounts:
        """Count the violations among the listed pairs of some anchors."""
        rows, width = tile.closeness.shape
        listed = slice(self._offsets[tile.start], self._offsets[tile.stop])
        columns, valid = padded(self._positives[listed], self._numbers[tile.start : tile.stop])
        listed = slice(self._negative_offsets[tile.start], self._negative_offsets[tile.stop])
        place = (self._negative_anchors[listed] - tile.start) * width + self._negatives[listed]
        repeats = torch.bincount(place, minlength=rows * width).view(rows, width)
        lowest = torch.finfo(tile.closeness.dtype).min

        def hide(matrix: Tensor) -> object:
            return matrix.masked_fill_(repeats == 0, lowest)

        return count_violations(
            tile.closeness,
            columns,
            valid,
            hide,
            tile.margin,
            tile.weights,
            tile.workspace,
            repeats.to(tile.closeness.dtype),
        )


def penalties(difference: Tensor, tile: Tile, soft: bool) -> tuple[TileCounts, Tensor]:
    """Loss of single triplets from closeness(negative) - closeness(positive), and its slopes.

    The hinge max(0, difference + margin), or the soft margin softplus(difference), of which every
    triplet is active.
    """
    violation = difference + tile.margin
    if soft:
        steepness = difference * tile.scale
        # softplus, split so that a steepness beyond the dtype's range leaves its value finite.
        values = difference.clamp_min(0) + steepness.abs().neg().exp().log1p() / tile.scale
        slopes = torch.sigmoid(steepness)
        active = torch.tensor(difference.numel(), device=difference.device)
    else:
        values, slopes = violation.clamp_min(0), (violation > 0).to(difference.dtype)
        active = slopes.sum(dtype=torch.float64).long()
    floor = violation.new_full((1,), -torch.inf)
    hardest = torch.cat([violation.flatten(), floor]).max()
    return TileCounts(values.sum(dtype=torch.float64), active, hardest), slopes


def select_listed(
    indices: Sequence[Tensor], anchors: int, references: int, soft: bool = False
) -> Selection:
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
        return ListedTriplets(first, positives, others[0], anchors, soft)
    if soft:
        raise ValueError("indices_tuple lists pairs; a soft margin needs triplets (a, p, n)")
    return ListedPairs((first, positives), (others[0], others[1]), anchors)


def _offsets(sorted_rows: Tensor, size: int) -> list[int]:
    """Where each row's entries begin in a sorted list of rows, and at last its length."""
    rows = torch.arange(size + 1, device=sorted_rows.device)
    offsets: list[int] = torch.searchsorted(sorted_rows, rows).tolist()
    return offsets
