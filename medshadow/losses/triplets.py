"""The exact engine: the hinge over every valid triplet, tile by tile, its gradient included."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple, ParamSpec, TypeVar

import torch
from torch import Tensor

from medshadow.losses.selection import (
    POSITIVE_RULES,
    LabelSelection,
    Selection,
    select_by_labels,
)
from medshadow.losses.walk import TripletHinge

P = ParamSpec("P")
T = TypeVar("T")

TILE_BYTES = 32 * 2**20
REDUCTIONS = ("mean", "mean_active", "sum")
# On the unit sphere, where a margin above 2 already keeps every triplet active.
LARGEST_MARGIN = 1e6


class TripletStatistics(NamedTuple):
    """By-products of one call, 0-d tensors that cost nothing until they are read.

    ``triplets`` counts the valid triplets and ``active`` those with a positive hinge (int64);
    ``hardest`` is the largest delta_p - delta_n + margin, nan when there is no triplet.
    """

    triplets: Tensor
    active: Tensor
    hardest: Tensor


def outside_graphs(function: Callable[P, T]) -> Callable[P, T]:
    """Make a function one graph break inside ``torch.compile``: its course follows label values.

    Done when called, not when defined: naming the compiler imports it, which takes seconds.
    """

    @wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return called


@outside_graphs
def all_triplet_hinge(
    embeddings: Tensor,
    labels: Tensor,
    *,
    margin: float,
    reduction: str = "mean",
    normalize: bool = True,
    positive: str = "any",
    references: Tensor | None = None,
    reference_labels: Tensor | None = None,
    tile_bytes: int = TILE_BYTES,
) -> Tensor:
    """Hinge max(0, delta_a(p) - delta_a(n) + margin) over every valid triplet, exactly.

    Triplets are never listed: time grows as S x R x D, working memory as S x D plus one tile. The
    gradient is accumulated while the tiles are walked, so the backward pass is one multiplication
    and cannot itself be differentiated. Inside ``torch.compile`` a call is one graph break.

    Args:
        embeddings: S x D anchors, any floating dtype; half precisions are computed in float32.
        labels: S integers, or S x L label sets of zeros and ones. A row without any label belongs
            to no triplet.
        margin: in units of the deviation, >= 0. On the unit sphere that is cosine distance, half
            of FaceNet's margin on squared Euclidean distance, and at most 1e6.
        reduction: ``mean`` over the valid triplets, ``mean_active`` over those with a positive
            hinge, or ``sum``. 0 when there is none.
        normalize: put every row on the unit sphere first; rows of norm below 1e-12 become zero,
            deviate by 1 from everything and get no gradient. False is the paper's general form,
            which ignores error orthogonal to the anchor and rewards growing norms.
        positive: label sets are positive when they intersect (``any``) or are ``equal``; they are
            negative when disjoint.
        references: R x D; positives and negatives are taken from here instead of the batch, and
            none of them counts as an anchor itself.
        reference_labels: labels of ``references``, in the form of ``labels``.
        tile_bytes: memory for one tile of anchors, in bytes.

    Returns:
        A scalar in float32 (float64 for float64 input). NaN, with NaN gradients, when an embedding
        is not finite. Of finite embeddings loss and gradient are finite: the dtype's largest number
        where they are beyond it, as a sum without normalising may be.

    Raises:
        ValueError: shapes, dtypes or settings that do not fit, each named.

    Source: Shadow loss, arXiv 2311.14012, equations 8-10, summed in closed form
    (docs/shadow-loss.md).

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
        >>> loss = all_triplet_hinge(embeddings, torch.tensor([0, 0, 1, 1]), margin=0.5)
        >>> round(loss.item(), 4)
        0.565
    """
    check_settings(margin, reduction, tile_bytes, normalize, positive)
    loss, _ = triplet_hinge(
        embeddings,
        references,
        select_triplets(embeddings, labels, references, reference_labels, positive),
        margin=margin,
        reduction=reduction,
        normalize=normalize,
        tile_bytes=tile_bytes,
    )
    return loss


def triplet_hinge(
    embeddings: Tensor,
    references: Tensor | None,
    selection: Selection,
    *,
    margin: float,
    reduction: str,
    normalize: bool,
    tile_bytes: int,
) -> tuple[Tensor, TripletStatistics]:
    """Hinge over the triplets of a selection, and the statistics of the walk."""
    check_settings(margin, reduction, tile_bytes, normalize)
    _check_rows(embeddings, "embeddings")
    if references is not None:
        _check_rows(references, "references")
        if references.shape[1] != embeddings.shape[1] or references.device != embeddings.device:
            raise ValueError(
                f"references are {tuple(references.shape)} on {references.device}; expected R x "
                f"{embeddings.shape[1]} on {embeddings.device}, as the embeddings"
            )
    loss, *statistics = TripletHinge.apply(
        embeddings, references, selection, margin, reduction, normalize, tile_bytes
    )
    return loss, TripletStatistics(*statistics)


def select_triplets(
    embeddings: Tensor,
    labels: Tensor,
    references: Tensor | None,
    reference_labels: Tensor | None,
    positive: str,
    own_at: int | None = None,
) -> LabelSelection:
    """Choose every valid triplet of checked labels; raise ValueError where they do not fit."""
    if (references is None) != (reference_labels is None):
        found, missing = "references", "reference_labels"
        if references is None:
            found, missing = missing, found
        raise ValueError(f"{found} were given without {missing}")
    _check_labels(labels, embeddings, "labels", "embeddings")
    if references is not None and reference_labels is not None:
        _check_labels(reference_labels, references, "reference_labels", "references")
        if labels.shape[1:] != reference_labels.shape[1:]:
            raise ValueError(
                f"labels are {tuple(labels.shape)} and reference_labels "
                f"{tuple(reference_labels.shape)}; expected both single labels or both label sets "
                "over the same labels"
            )
    if own_at is not None and (
        references is None or not 0 <= own_at <= len(references) - len(embeddings)
    ):
        found = "none" if references is None else str(len(references))
        raise ValueError(
            f"own_at={own_at!r} with {found} references; expected the place of the "
            f"{len(embeddings)} embeddings among them"
        )
    return select_by_labels(labels, reference_labels, own_at, positive, embeddings.device)


def check_settings(
    margin: float,
    reduction: str,
    tile_bytes: int,
    normalize: bool,
    positive: str = POSITIVE_RULES[0],
) -> None:
    """Raise ValueError, naming what is known, unless the settings can be used."""
    if positive not in POSITIVE_RULES:
        raise ValueError(f"positive={positive!r}; expected one of {', '.join(POSITIVE_RULES)}")
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin!r}; expected a finite number >= 0")
    if normalize and margin > LARGEST_MARGIN:
        raise ValueError(
            f"margin={margin!r} with normalize=True; expected at most {LARGEST_MARGIN:g}: there a "
            "deviation is at most 2, and beside a larger number float32 holds none"
        )
    if reduction == "none":
        raise ValueError(
            "reduction='none' is not offered: the gradient is accumulated while the triplets are "
            "counted, before the weights of a later reduction could be known; expected one of "
            + ", ".join(REDUCTIONS)
        )
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction={reduction!r}; expected one of {', '.join(REDUCTIONS)}")
    if tile_bytes < 1:
        raise ValueError(f"tile_bytes={tile_bytes!r}; expected at least 1")


def _check_rows(rows: Tensor, name: str) -> None:
    if rows.ndim != 2 or not rows.is_floating_point():
        raise ValueError(
            f"{name} are {tuple(rows.shape)} {rows.dtype}; expected a matrix of floating point rows"
        )


def _check_labels(labels: Tensor, rows: Tensor, name: str, rows_name: str) -> None:
    _check_rows(rows, rows_name)
    if labels.ndim not in (1, 2) or len(labels) != len(rows):
        raise ValueError(
            f"{name} are {tuple(labels.shape)} for {len(rows)} {rows_name}; expected "
            f"{len(rows)} integers or {len(rows)} x L label sets"
        )
    if labels.ndim == 1 and (labels.is_floating_point() or labels.is_complex()):
        raise ValueError(f"{name} are {labels.dtype}; expected integers")
