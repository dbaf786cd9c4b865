"""Shadow Loss: the deviation it is made of, and the loss module to train with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medshadow.losses.listed import select_listed
from medshadow.losses.mining import MinedTriplets, rule_named
from medshadow.losses.selection import Selection
from medshadow.losses.triplets import (
    TILE_BYTES,
    TripletStatistics,
    check_settings,
    outside_graphs,
    select_triplets,
    triplet_hinge,
)
from medshadow.losses.walk import ZERO_NORM, power_of_two

MININGS = ("batch_all", "semihard", "hardest_negative", "batch_hard")


def shadow_deviation(
    embeddings: Tensor, references: Tensor | None = None, *, normalize: bool = True
) -> Tensor:
    """How far each reference's shadow on an anchor misses the anchor's own length.

    delta_a(x) = | ||a|| - (a . x) / ||a|| |, with every row of ``embeddings`` as anchor a and
    every row of ``references`` as x. On the unit sphere that is 1 - cos(a, x).

    Args:
        embeddings: S x D anchors, any floating dtype.
        references: R x D; the embeddings themselves when None.
        normalize: put every row on the unit sphere first. A row of norm below 1e-12 has no
            direction and deviates by 1 from everything. Without normalising, such an anchor
            deviates by 0 from everything, and the deviation ignores whatever is orthogonal to
            the anchor: a = [1, 0] and x = [1, 100] give 0.

    Returns:
        S x R deviations, >= 0; at most 2 when normalised, infinite otherwise where one is beyond
        the dtype's range; float32 for half precisions. Differentiable any number of times.

    Source: Shadow loss, arXiv 2311.14012, equations 8 and 9.

    Example:
        >>> shadow_deviation(torch.tensor([[3.0, 4.0]]), torch.tensor([[4.0, 3.0], [-3.0, -4.0]]))
        tensor([[0.0400, 2.0000]])
        >>> rows = torch.tensor([[1.0, 0.0], [1.0, 100.0]])
        >>> shadow_deviation(rows[:1], rows[1:], normalize=False)
        tensor([[0.]])
    """
    if references is None:
        references = embeddings
    dtype = torch.promote_types(embeddings.dtype, references.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    embeddings, references = embeddings.to(dtype), references.to(dtype)
    if normalize:
        directions, others = (_directions(rows)[1] for rows in (embeddings, references))
        # Rounding may put a cosine just above 1; a deviation is never negative.
        return (1 - directions @ others.T).clamp(0, 2)
    scale = power_of_two([embeddings.detach(), references.detach()])
    norms, directions = _directions(embeddings, scale)
    return (norms - directions @ (references / scale).T).abs() * scale


def _directions(rows: Tensor, scale: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Norms (N x 1) in units of ``scale``, and unit vectors; 0, with gradient 0, without a norm."""
    largest = rows.detach().abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    shrunk = rows / largest
    directed = shrunk.detach().norm(dim=1, keepdim=True) * largest > ZERO_NORM
    length = torch.where(directed, shrunk, 1).norm(dim=1, keepdim=True)
    norms = torch.where(directed, length * (largest / scale), 0)
    return norms, torch.where(directed, shrunk / length, 0)


class ShadowLoss(nn.Module):
    """Shadow Loss over a batch: the triplet hinge on projection deviations, all of it or mined.

    On unit vectors it equals the cosine triplet hinge max(0, cos(a, n) - cos(a, p) + margin),
    and half the squared Euclidean triplet loss of twice the margin; what it adds is that every
    valid triplet of a large batch counts, exactly, at memory linear in the batch.

    Called as ``loss(embeddings, labels, indices_tuple=None, ref_emb=None, ref_labels=None)``, the
    shape of pytorch-metric-learning, so that its trainers can call it and its miners can choose
    the triplets: ``indices_tuple`` is (a, p, n), or (a1, p, a2, n) for all pairs of an anchor's
    listed positives and negatives. Inside ``torch.compile`` a call is one graph break; its
    backward pass is one multiplication and cannot be differentiated again.

    Args:
        margin: in units of the deviation, >= 0: cosine distance when normalised, so FaceNet's 0.2
            on squared Euclidean distance is 0.1 here.
        mining: which triplets count when no ``indices_tuple`` is given. ``batch_all``: every valid
            one. ``semihard``: for each anchor and positive the hardest negative that is farther,
            yet within the margin. ``hardest_negative``: for each anchor and positive the nearest
            negative. ``batch_hard``: for each anchor its farthest positive and nearest negative.
        reduction: ``mean`` over those triplets, ``mean_active`` over those with a positive hinge
            (the default of pytorch-metric-learning), or ``sum``.
        normalize: put embeddings on the unit sphere inside the loss. False is the paper's general
            form: it ignores error orthogonal to the anchor and rewards growing norms. The
            loss is in units of length then; beyond the dtype's range it is its largest number.
        soft: softplus(delta_p - delta_n) instead of the hinge; with mining of single triplets.
            Every triplet is active then, and the margin only bounds ``semihard``.
        fallback: what ``semihard`` takes for a pair without such a negative: the anchor's
            ``hardest`` one, its ``easiest``, or ``skip`` the pair.
        positive: for label sets (S x L zeros and ones): positive when they intersect (``any``) or
            are ``equal``; negative when disjoint.
        tile_bytes: memory for one tile of anchors, in bytes.

    Raises:
        ValueError: a setting that is not known; the message names those that are.

    Source: Shadow loss, arXiv 2311.14012; docs/shadow-loss.md has the mathematics.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]])
        >>> loss = ShadowLoss(margin=0.5)
        >>> round(loss(embeddings, torch.tensor([0, 0, 1, 1])).item(), 4)
        0.565
        >>> loss.statistics["triplets"], loss.statistics["active_fraction"]
        (8, 0.75)
    """

    def __init__(
        self,
        margin: float = 0.2,
        mining: str = "batch_all",
        reduction: str = "mean",
        normalize: bool = True,
        *,
        soft: bool = False,
        fallback: str = "hardest",
        positive: str = "any",
        tile_bytes: int = TILE_BYTES,
    ) -> None:
        super().__init__()
        self.margin = float(margin)
        self.mining = mining
        self.reduction = reduction
        self.normalize = normalize
        self.soft = soft
        self.fallback = fallback
        self.positive = positive
        self.tile_bytes = tile_bytes
        self._check()
        self._statistics: TripletStatistics | None = None

    @outside_graphs
    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor | None = None,
        indices_tuple: Sequence[Tensor] | None = None,
        ref_emb: Tensor | None = None,
        ref_labels: Tensor | None = None,
        *,
        own_at: int | None = None,
    ) -> Tensor:
        """Return the reduced loss of a batch.

        Args:
            embeddings: S x D, any floating dtype.
            labels: S integers, or S x L label sets; not needed with ``indices_tuple``.
            indices_tuple: a miner's triplets (a, p, n) or pairs (a1, p, a2, n); p and n index the
                references when these are given.
            ref_emb: R x D, from which positives and negatives are taken instead; the batch itself
                when None or when both it and ``ref_labels`` are the very tensors of the batch.
            ref_labels: labels of ``ref_emb``.
            own_at: where the batch itself begins among the references, if they hold it, so that no
                anchor is its own positive.

        Returns:
            A scalar, float32 (float64 for float64 embeddings), 0 where there is no triplet.
        """
        self._check()
        if ref_emb is embeddings and ref_labels is labels:
            ref_emb = ref_labels = own_at = None
        if indices_tuple is None:
            selection = self._select(embeddings, labels, ref_emb, ref_labels, own_at)
        else:
            count = len(embeddings if ref_emb is None else ref_emb)
            indices = [index.to(embeddings.device) for index in indices_tuple]
            selection = select_listed(indices, len(embeddings), count, self.soft)
        loss, self._statistics = triplet_hinge(
            embeddings,
            ref_emb,
            selection,
            margin=self.margin,
            reduction=self.reduction,
            normalize=self.normalize,
            tile_bytes=self.tile_bytes,
        )
        return loss

    @property
    def statistics(self) -> dict[str, float]:
        """The last call's ``active_fraction``, ``hardest_violation`` and number of ``triplets``.

        ``active_fraction`` is the share of triplets with a positive hinge: it says whether the
        batch still holds information (0 when there was no triplet). ``hardest_violation`` is the
        largest delta_p - delta_n + margin (nan when there was none). Reading them waits for the
        device, calling the loss does not. Empty before the first call.
        """
        if self._statistics is None:
            return {}
        triplets = int(self._statistics.triplets)
        return {
            "active_fraction": int(self._statistics.active) / max(1, triplets),
            "hardest_violation": float(self._statistics.hardest),
            "triplets": triplets,
        }

    def _select(
        self,
        embeddings: Tensor,
        labels: Tensor | None,
        ref_emb: Tensor | None,
        ref_labels: Tensor | None,
        own_at: int | None,
    ) -> Selection:
        if labels is None:
            raise ValueError("ShadowLoss needs labels, or an indices_tuple in their place")
        allowed = select_triplets(embeddings, labels, ref_emb, ref_labels, self.positive, own_at)
        if self.mining == "batch_all":
            if self.soft:
                raise ValueError(
                    "soft=True with mining='batch_all': a soft margin goes with mining of single "
                    f"triplets; expected one of {', '.join(MININGS[1:])}"
                )
            return allowed
        return MinedTriplets(allowed, rule_named(self.mining, self.fallback), soft=self.soft)

    def _check(self) -> None:
        """Raise ValueError unless the settings, which a curriculum changes, can be used."""
        check_settings(self.margin, self.reduction, self.tile_bytes, self.normalize, self.positive)
        if self.mining not in MININGS:
            raise ValueError(f"mining={self.mining!r}; known are: {', '.join(MININGS)}")
        rule_named(MININGS[1], self.fallback)

    def extra_repr(self) -> str:
        """Show the settings in ``repr(loss)``."""
        return (
            f"margin={self.margin}, mining={self.mining!r}, reduction={self.reduction!r}, "
            f"normalize={self.normalize}, soft={self.soft}"
        )
