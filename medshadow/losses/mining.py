"""Mined triplets: one negative for each pair, or one pair for each anchor, found tile by tile."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, count_below
from medshadow.losses.listed import penalties
from medshadow.losses.selection import LabelSelection, Sides, Tile
from medshadow.losses.triplets import TILE_BYTES, select_triplets, triplet_hinge

FALLBACKS = ("hardest", "easiest", "skip")


class Mined(NamedTuple):
    """The triplets a rule takes from a tile, T x M, those that are not ``valid`` to be left out.

    ``positives`` and ``negatives`` are columns of the references, ``difference`` is
    closeness(negative) - closeness(positive).
    """

    positives: Tensor
    negatives: Tensor
    difference: Tensor
    valid: Tensor


Rule = Callable[[Tile, Sides], Mined]


def semihard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    fallback: str = "hardest",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    normalize: bool = True,
    positive: str = "any",
    tile_bytes: int = TILE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor and positive, the hardest negative that is farther, yet within the margin.

    That is the n of smallest delta_n with delta_p < delta_n < delta_p + margin: FaceNet's condition
    (Schroff et al. 2015). The condition margin + delta_p < delta_n, also found in print, selects
    the triplets without loss.

    Args:
        embeddings: S x D anchors, any floating dtype.
        labels: S integers, or S x L label sets.
        margin: in units of the deviation, as for :class:`~medshadow.losses.ShadowLoss`.
        fallback: for a pair without such a negative, the anchor's ``hardest`` negative of all, its
            ``easiest`` (TensorFlow Addons), or ``skip`` the pair.
        references: R x D, from which positives and negatives are taken instead.
        reference_labels: labels of ``references``.
        normalize: put every row on the unit sphere first.
        positive: for label sets: positive when they intersect (``any``) or are ``equal``.
        tile_bytes: memory for one tile of anchors, in bytes.

    Returns:
        Indices (anchor, positive, negative), int64, M each, M <= S * (largest class - 1); an
        ``indices_tuple`` for this library's and pytorch-metric-learning's triplet losses.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit, each named.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> [i.tolist() for i in semihard(rows, torch.tensor([0, 0, 1, 1]), margin=0.5)]
        [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1]]
    """
    rule = rule_named("semihard", fallback)
    selection = select_triplets(embeddings, labels, references, reference_labels, positive)
    return _listed(rule, selection, embeddings, references, normalize, tile_bytes, margin)


def hardest_negative(
    embeddings: Tensor,
    labels: Tensor,
    *,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    normalize: bool = True,
    positive: str = "any",
    tile_bytes: int = TILE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor and positive, the anchor's nearest negative.

    Arguments, result and errors as for :func:`semihard`.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
        >>> [i.tolist() for i in hardest_negative(rows, torch.tensor([0, 0, 1, 1]))]
        [[0, 1, 2, 3], [1, 0, 3, 2], [2, 2, 1, 1]]
    """
    selection = select_triplets(embeddings, labels, references, reference_labels, positive)
    return _listed(_hardest_negative, selection, embeddings, references, normalize, tile_bytes)


def batch_hard(
    embeddings: Tensor,
    labels: Tensor,
    *,
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    normalize: bool = True,
    positive: str = "any",
    tile_bytes: int = TILE_BYTES,
) -> tuple[Tensor, Tensor, Tensor]:
    """For each anchor, its farthest positive and its nearest negative (Hermans et al. 2017).

    Arguments, result and errors as for :func:`semihard`; one triplet an anchor at most.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0], [0.0, -1.0]])
        >>> [i.tolist() for i in batch_hard(rows, torch.tensor([0, 0, 1, 1, 0]))]
        [[0, 1, 2, 3, 4], [4, 4, 3, 2, 1], [2, 2, 1, 1, 2]]
    """
    selection = select_triplets(embeddings, labels, references, reference_labels, positive)
    return _listed(_batch_hard, selection, embeddings, references, normalize, tile_bytes)


def rule_named(name: str, fallback: str = FALLBACKS[0]) -> Rule:
    """The rule of that name; raise ValueError for a fallback that is not known."""
    if fallback not in FALLBACKS:
        raise ValueError(f"fallback={fallback!r}; expected one of {', '.join(FALLBACKS)}")
    rules: dict[str, Rule] = {
        "semihard": partial(_semihard, fallback=fallback),
        "hardest_negative": _hardest_negative,
        "batch_hard": _batch_hard,
    }
    return rules[name]


class MinedTriplets:
    """Of all triplets that labels allow, those that a rule takes."""

    fused = False

    def __init__(self, allowed: LabelSelection, rule: Rule, *, soft: bool, keep: bool = False):
        self._allowed, self._rule, self._soft = allowed, rule, soft
        self._kept: list[Tensor] | None = [] if keep else None
        self.anchor_order = allowed.anchor_order
        self.reference_order = allowed.reference_order
        self.first, self.widest = allowed.first, allowed.widest
        self.triplets = torch.zeros_like(allowed.triplets)

    def count(self, tile: Tile) -> TileCounts:
        """Mine a tile's triplets and count their violations."""
        mined = self._rule(tile, self._allowed.sides(tile))
        row, place = mined.valid.nonzero(as_tuple=True)
        positives, negatives = mined.positives[row, place], mined.negatives[row, place]
        counts, slopes = penalties(mined.difference[row, place], tile, self._soft)
        pull, row_starts = tile.weights.zero_().view(-1), row * tile.weights.shape[1]
        pull.index_add_(0, row_starts + negatives, slopes)
        pull.index_add_(0, row_starts + positives, slopes.neg())
        self.triplets = self.triplets + len(row)
        if self._kept is not None:
            self._kept.append(torch.stack([tile.start + row, positives, negatives]))
        return counts

    def listed(self) -> tuple[Tensor, Tensor, Tensor]:
        """The triplets taken, as indices of the rows as they were given, sorted."""
        empty = self.triplets.new_empty(3, 0)
        anchors, positives, negatives = torch.cat([empty, *(self._kept or [])], dim=1)
        if self.anchor_order is not None:
            anchors = self.anchor_order[anchors]
        if self.reference_order is not None:
            positives, negatives = self.reference_order[positives], self.reference_order[negatives]
        order = torch.argsort(positives, stable=True)
        order = order[torch.argsort(anchors[order], stable=True)]
        return anchors[order], positives[order], negatives[order]


def _listed(
    rule: Rule,
    allowed: LabelSelection,
    embeddings: Tensor,
    references: Tensor | None,
    normalize: bool,
    tile_bytes: int,
    margin: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    mined = MinedTriplets(allowed, rule, soft=False, keep=True)
    with torch.no_grad():
        triplet_hinge(
            embeddings,
            references,
            mined,
            margin=margin,
            reduction="sum",
            normalize=normalize,
            tile_bytes=tile_bytes,
        )
    return mined.listed()


def _hardest_negative(tile: Tile, sides: Sides) -> Mined:
    nearness = tile.closeness.gather(1, sides.columns)
    sides.hide(tile.closeness)
    best, negatives = tile.closeness.max(1, keepdim=True)
    return Mined(
        positives=sides.columns,
        negatives=negatives.expand_as(sides.columns),
        difference=best - nearness,
        valid=sides.valid & ~_hidden(best),
    )


def _batch_hard(tile: Tile, sides: Sides) -> Mined:
    nearness = tile.closeness.gather(1, sides.columns).masked_fill_(~sides.valid, torch.inf)
    worst, place = nearness.min(1, keepdim=True)
    sides.hide(tile.closeness)
    best, negatives = tile.closeness.max(1, keepdim=True)
    return Mined(
        positives=sides.columns.gather(1, place),
        negatives=negatives,
        difference=best - worst,
        valid=torch.isfinite(worst) & ~_hidden(best),
    )


def _semihard(tile: Tile, sides: Sides, fallback: str) -> Mined:
    nearness = tile.closeness.gather(1, sides.columns)
    sides.hide(tile.closeness)
    # Sorted by distance: a negative with c positives nearer than itself can serve those c alone.
    distances, order = nearness.neg().masked_fill_(~sides.valid, torch.inf).sort(1)
    nearest, negatives = _next_farther(tile, distances, sides.valid.sum(1))
    found = nearest < distances + tile.margin
    valid = torch.isfinite(distances)
    if fallback == "skip":
        valid &= found
    else:
        other, column = _extreme(tile.closeness, hardest=fallback == "hardest")
        nearest = torch.where(found, nearest, -other)
        negatives = torch.where(found, negatives, column)
        valid &= ~_hidden(other)
    return Mined(
        positives=sides.columns.gather(1, order),
        negatives=negatives,
        difference=torch.where(valid, distances - nearest, 0),
        valid=valid,
    )


def _next_farther(tile: Tile, distances: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """For each sorted positive the nearest negative that is strictly farther: distance, column.

    Every negative goes into the bucket of its count of nearer positives; the least distance of each
    bucket, and from the last bucket on the least so far, answer for all positives at once.
    """
    farness = tile.closeness.neg()
    count_below(distances, numbers, farness, tile.weights, tile.workspace)
    bucket = tile.weights.long()
    least = farness.new_full((len(farness), distances.shape[1] + 1), torch.inf)
    least.scatter_reduce_(1, bucket, farness, "amin")

    rows, columns = (farness == least.gather(1, bucket)).nonzero(as_tuple=True)
    first = torch.full_like(least, farness.shape[1], dtype=torch.int64)
    places = rows * least.shape[1] + bucket[rows, columns]
    first.view(-1).scatter_reduce_(0, places, columns, "amin")

    nearest, at = least.flip(1).cummin(1)
    behind = slice(0, -1)  # of the flipped buckets: those beyond each positive
    nearest, at = nearest[:, behind].flip(1), at[:, behind].flip(1)
    negatives = first.gather(1, least.shape[1] - 1 - at)
    return nearest, negatives.clamp_max(farness.shape[1] - 1)


def _extreme(closeness: Tensor, *, hardest: bool) -> tuple[Tensor, Tensor]:
    """Closeness and column of each anchor's nearest, or farthest, negative, T x 1 each."""
    if hardest:
        best, column = closeness.max(1, keepdim=True)
        return best, column
    best, column = closeness.masked_fill(_hidden(closeness), torch.inf).min(1, keepdim=True)
    return torch.where(torch.isfinite(best), best, torch.finfo(best.dtype).min), column


def _hidden(closeness: Tensor) -> Tensor:
    return closeness == torch.finfo(closeness.dtype).min
