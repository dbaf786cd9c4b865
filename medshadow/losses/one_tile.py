"""The hinge over a batch that one tile holds, on CPUs: few steps, each of them compiled.

A batch of a few hundred takes well under a millisecond for its matrix products; steps between them
that wake threads or make many small tensors would take longer. The results are the walk's.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from medshadow.losses.counting import Workspace
from medshadow.losses.selection import Selection, Tile

# From this width on it costs less to add the weights' transpose than to multiply by it.
_ADDED_FROM = 192


def fits_one_tile(
    embeddings: Tensor,
    references: Tensor | None,
    selection: Selection,
    normalize: bool,
    tile_bytes: int,
) -> bool:
    """Whether :class:`OneTile` can count this batch."""
    size = len(embeddings)
    entry = max(embeddings.element_size(), torch.float32.itemsize)
    return (
        selection.fused
        and normalize
        and references is None
        and selection.first < size
        and size * size * entry <= tile_bytes
    )


class OneTile:
    """Sums, counts and the gradient of the sum of hinges of normalised rows among themselves.

    Args:
        embeddings: S x D on the CPU.
        selection: which of their triplets count; one that is ``fused``.
        margin: in units of the deviation.
        zero_norm: rows of at most this norm have no direction.
    """

    def __init__(
        self, embeddings: Tensor, selection: Selection, margin: float, zero_norm: float
    ) -> None:
        from medshadow.losses import loops_rows

        self._loops = loops_rows
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        # A plain tensor, also of a MONAI network, whose kind has ways of its own.
        rows = embeddings.detach().to(dtype).contiguous().as_subclass(Tensor)
        # First the largest: what lives on after it is freed would else leave a hole before it.
        self._weights = rows.new_empty(len(rows), len(rows))
        order = selection.anchor_order
        self._order = np.arange(len(rows)) if order is None else order.numpy()
        self._units = torch.empty_like(rows)
        self._inverse_norms = np.empty(len(rows))
        self._finite: bool = loops_rows.directions(
            rows.numpy(), self._order, zero_norm, self._units.numpy(), self._inverse_norms
        )
        if not self._finite:
            self._units.zero_()
        torch.mm(self._units, self._units.T, out=self._weights)
        width, unit = (torch.tensor(number, dtype=dtype) for number in (margin, 1.0))
        self._counts = selection.count(
            Tile(0, self._weights, self._weights, width, unit, Workspace(rows.device))
        )
        self._triplets = selection.triplets

    def reduced(
        self, reduction: str, differentiate: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the loss and its gradient by the embeddings; there are no references."""
        number = {"mean": self._triplets, "mean_active": self._counts.active}.get(reduction)
        share = 1.0 if number is None else 1 / max(1, int(number))
        if not self._finite:
            share = math.nan
        # The closed form subtracts large sums: rounding may leave an empty hinge just below zero.
        loss = self._units.new_tensor(max(0.0, self._counts.hinges.item()) * share)
        return loss, self._gradient(share) if differentiate else None, None

    def _gradient(self, share: float) -> Tensor:
        """Gradient by the embeddings of a share of the summed hinges."""
        weights, units = self._weights, self._units
        if units.shape[1] >= _ADDED_FROM:
            self._loops.add_transposed(weights.numpy())
            by_direction = weights @ units
        else:
            by_direction = (weights @ units).addmm_(weights.T, units)
        by_rows = torch.empty_like(units)
        self._loops.through_directions(
            by_direction.numpy(),
            units.numpy(),
            self._inverse_norms,
            share,
            self._order,
            by_rows.numpy(),
        )
        return by_rows

    def statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """Triplets, active triplets and the largest violation."""
        hardest = self._counts.hardest
        if not (self._finite and self._triplets):
            hardest = torch.full_like(hardest, math.nan)
        return self._triplets, self._counts.active, hardest
