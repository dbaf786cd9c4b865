"""The walk over tiles of anchors: hinges, counts and gradient in one pass, as an autograd node."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from medshadow.losses.counting import TileCounts, Workspace, added, has_own_ways
from medshadow.losses.one_tile import OneTile, fits_one_tile
from medshadow.losses.selection import Selection, Tile

# Entries that each core counts at once: four working arrays of them fit its own cache.
BLOCK_ENTRIES = 2**17
# Below this norm a row has no direction: the bound torch.nn.functional.normalize uses.
ZERO_NORM = 1e-12


class _Side:
    """Anchors or references in the engine's order: directions, norms, and the way back.

    Directions are those of the rows as they came, norms are in units of ``scale``. ``compared`` is
    what an anchor's direction meets: directions, or without normalising the rows in those units.
    """

    def __init__(self, rows: Tensor, order: Tensor | None, scale: Tensor, normalize: bool) -> None:
        self.order = order
        if order is not None:
            rows = rows[order]
        # Dividing by the largest entry first keeps squares of huge entries finite.
        largest = (
            rows.abs().amax(1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
        )
        self.finite = torch.isfinite(largest).all()
        limits = torch.finfo(rows.dtype)
        largest = torch.where(self.finite, largest, 0).clamp_min(limits.tiny)
        shrunk = (rows / largest).masked_fill_(~self.finite, 0)
        length = shrunk.norm(dim=1, keepdim=True)
        directed = length * largest > ZERO_NORM
        self.units = shrunk.div_(length.clamp_min(ZERO_NORM)).masked_fill_(~directed, 0)
        self.compared = self.units
        if not normalize:
            self.compared = (rows / scale).masked_fill_(~self.finite, 0)
        self.norms = torch.where(directed, length * (largest / scale), 0)
        # A norm far below the scale may vanish beside it; what it divides stays finite.
        inverse = (1 / self.norms).clamp_max(limits.max)
        self.inverse_norms = torch.where(directed, inverse, 0)

    def through_direction(self, gradient: Tensor) -> Tensor:
        """Turn a gradient by the directions into one by the rows themselves, in place."""
        along = (gradient * self.units).sum(1, keepdim=True)
        return gradient.addcmul_(self.units, along, value=-1).mul_(self.inverse_norms)

    def restored(self, gradient: Tensor) -> Tensor:
        """Put the rows of a gradient back into the order they came in."""
        if self.order is None:
            return gradient
        return torch.empty_like(gradient).index_copy_(0, self.order, gradient)


class _Walk:
    """One pass over all tiles: sums, counts, and the gradient of the sum of hinges."""

    def __init__(
        self,
        embeddings: Tensor,
        references: Tensor | None,
        selection: Selection,
        margin: float,
        normalize: bool,
        tile_bytes: int,
        wanted: tuple[bool, bool],
    ) -> None:
        rows = [embeddings] if references is None else [embeddings, references]
        dtype = torch.float32
        for side in rows:
            dtype = torch.promote_types(dtype, side.dtype)
        rows = [side.detach().to(dtype) for side in rows]
        unscaled = rows[0].new_full((), min(margin, torch.finfo(dtype).max))
        # Huge rows, or a huge margin, are divided by a power of two while they are computed with.
        self.scale = rows[0].new_ones(()) if normalize else power_of_two([*rows, unscaled])
        orders = [selection.anchor_order, selection.reference_order]
        sides = [
            _Side(side, order, self.scale, normalize)
            for side, order in zip(rows, orders, strict=False)
        ]
        self.anchors, self.references = sides[0], sides[-1]
        self.finite = self.anchors.finite & self.references.finite
        self.normalize = normalize
        self.selection, self.fused = selection, selection.fused
        self.margin = unscaled / self.scale
        self.compared = self.references.compared

        zero = torch.zeros((), device=embeddings.device)
        self.counts = TileCounts(zero.double(), zero.long(), (zero - torch.inf).to(dtype))
        self._accumulate(tile_bytes, wanted)

    def _accumulate(self, tile_bytes: int, wanted: tuple[bool, bool]) -> None:
        anchors, compared = self.anchors, self.compared
        self.by_reference = torch.zeros_like(compared) if any(wanted) else None
        shared = self.normalize and self.references is anchors
        self.by_direction = self.by_reference if shared else None
        if wanted[0] and not shared:
            self.by_direction = torch.zeros_like(anchors.units)
        self.by_norm = torch.zeros_like(anchors.norms)

        workspace = Workspace(compared.device)
        for start, stop in self._tiles(tile_bytes):
            units = anchors.units[start:stop]
            shape = (stop - start, len(compared))
            closeness = workspace.take("closeness", shape, units.dtype)
            weights = closeness
            if not self.fused:
                weights = workspace.take("weights", shape, units.dtype)
            torch.mm(units, compared.T, out=closeness)
            if not self.normalize:
                difference = workspace.take("difference", shape, units.dtype)
                torch.sub(anchors.norms[start:stop], closeness, out=difference)
                torch.abs(difference, out=closeness).neg_()
            self._count(start, closeness, weights, workspace)
            if not self.normalize:
                weights.mul_(difference.sign_())
                self.by_norm[start:stop] = -weights.sum(1, keepdim=True)
            if self.by_direction is not None:
                self.by_direction[start:stop].addmm_(weights, compared)
            if self.by_reference is not None:
                self.by_reference.addmm_(weights.T, units)

    def _count(self, start: int, closeness: Tensor, weights: Tensor, workspace: Workspace) -> None:
        """Count a tile's violations, on CPUs in blocks that stay in the cores' own cache."""
        rows, width = closeness.shape
        block = rows
        if has_own_ways(closeness.device) and not self.fused:
            block = max(1, BLOCK_ENTRIES * torch.get_num_threads() // width)
        for first in range(0, rows, block):
            part = slice(first, first + block)
            counts = self.selection.count(
                Tile(
                    start + first,
                    closeness[part],
                    weights[part],
                    self.margin,
                    self.scale,
                    workspace,
                )
            )
            self.counts = added(self.counts, counts)

    def _tiles(self, tile_bytes: int) -> list[tuple[int, int]]:
        """Cut the anchors that have triplets into runs of equal length within the budget."""
        begin, end, width = self.selection.first, len(self.anchors.units), len(self.compared)
        if begin >= end or width == 0:
            return []
        size = self.compared.element_size()
        if self.fused:
            row_bytes = width * size * (1 if self.normalize else 2)
        else:
            row_bytes = width * (4 * size + 8) + self.selection.widest * (4 * size + 24)
        count = math.ceil((end - begin) / max(1, tile_bytes // row_bytes))
        length = math.ceil((end - begin) / count)
        return [(start, min(start + length, end)) for start in range(begin, end, length)]

    def reduced(
        self, reduction: str, differentiate: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the loss and its gradients by the embeddings and by the references."""
        triplets = {
            "mean": self.selection.triplets,
            "mean_active": self.counts.active,
            "sum": torch.ones_like(self.counts.active),
        }[reduction]
        share = 1 / triplets.double().clamp_min(1)
        share = torch.where(self.finite, share, torch.nan)
        # The closed form subtracts large sums: rounding may leave an empty hinge just below zero.
        loss = self.as_given(self.counts.hinges.clamp_min(0) * share)
        by_anchor, by_reference = self._gradients() if differentiate else (None, None)
        for gradient in (by_anchor, by_reference):
            if gradient is not None:
                gradient.mul_(share.to(gradient.dtype))
        return loss, by_anchor, by_reference

    def as_given(self, number: Tensor) -> Tensor:
        """A number in the units of the embeddings: the largest there is in place of an infinity."""
        largest = torch.finfo(self.scale.dtype).max
        return (number.double() * self.scale).clamp(-largest, largest).to(self.scale.dtype)

    def _gradients(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of the summed hinges by the embeddings and by the references, as given."""
        anchors, references = self.anchors, self.references
        own = references is anchors
        by_anchor, by_reference = self.by_direction, self.by_reference
        if by_anchor is not None:
            by_anchor = anchors.through_direction(by_anchor)
        if by_anchor is not None and not self.normalize:
            by_anchor.addcmul_(anchors.units, self.by_norm)
            if own and by_reference is not None:
                by_anchor += by_reference
            largest = torch.finfo(by_anchor.dtype).max
            by_anchor.clamp_(-largest, largest)
        if own or by_reference is None:
            by_reference = None
        elif self.normalize:
            by_reference = references.through_direction(by_reference)
        return (
            None if by_anchor is None else anchors.restored(by_anchor),
            None if by_reference is None else references.restored(by_reference),
        )

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Triplets, active triplets and the largest violation."""
        triplets = self.selection.triplets.clone()
        hardest = torch.where(triplets > 0, self.as_given(self.counts.hardest), torch.nan)
        return triplets, self.counts.active, torch.where(self.finite, hardest, torch.nan)


def power_of_two(rows: list[Tensor]) -> Tensor:
    """The power of two below the largest entry, at least 1: what to divide huge rows by.

    Products and sums of the quotients stay finite, and no digit is lost in dividing.
    """
    largest = torch.stack([rows[0].new_ones(()), *(r.abs().max() for r in rows if r.numel())]).max()
    largest = torch.where(torch.isfinite(largest), largest, 1)
    return largest / (2 * torch.frexp(largest).mantissa)


class TripletHinge(torch.autograd.Function):
    """Forward walks the tiles and keeps the finished gradient; backward multiplies it."""

    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        references: Tensor | None,
        selection: Selection,
        margin: float,
        reduction: str,
        normalize: bool,
        tile_bytes: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, then triplets, active triplets and the largest violation."""
        wanted = (bool(ctx.needs_input_grad[0]), bool(ctx.needs_input_grad[1]))
        with torch.autocast(embeddings.device.type, enabled=False):
            done: OneTile | _Walk
            if fits_one_tile(embeddings, references, selection, normalize, tile_bytes):
                done = OneTile(embeddings, selection, margin, ZERO_NORM)
            else:
                done = _Walk(
                    embeddings, references, selection, margin, normalize, tile_bytes, wanted
                )
            loss, *gradients = done.reduced(reduction, any(wanted))
        ctx.save_for_backward(embeddings, references, *gradients)
        statistics = done.statistics()
        ctx.mark_non_differentiable(*statistics)
        return loss, *statistics

    @staticmethod
    def backward(ctx: Any, by_loss: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        """Multiply the finished gradients by that of the loss."""
        embeddings, references, by_embeddings, by_references = ctx.saved_tensors
        first = second = None
        if by_embeddings is not None and ctx.needs_input_grad[0]:
            first = _Multiplied.apply(embeddings, by_embeddings, by_loss)
        if by_references is not None:
            second = _Multiplied.apply(references, by_references, by_loss)
        return first, second, None, None, None, None, None


class _Multiplied(torch.autograd.Function):
    """The backward pass of the hinge, a node of its own so that a second derivative is refused."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gradient: Tensor, by_loss: Tensor) -> Tensor:
        # A short row's gradient can be too long for float16: largest there is, never infinite.
        largest = torch.finfo(rows.dtype).max
        return (gradient * by_loss).clamp_(-largest, largest).to(rows.dtype)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise RuntimeError(
            "the exact triplet hinge cannot be differentiated twice: its gradient is accumulated "
            "in the forward pass and carries no graph of its own. Leave the loss out of terms "
            "built with create_graph=True, or build it from shadow_deviation, which is "
            "differentiable any number of times"
        )
