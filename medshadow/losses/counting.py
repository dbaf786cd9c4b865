"""How many of an anchor's positives does each negative violate: exact ranks and their counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Up to this many thresholds a row, comparing with each in turn beats any search.
_COMPARE_EACH = 8
# Cells of the look-up table a row: enough that few thresholds share one, few enough to be built.
_FEWEST_CELLS, _MOST_CELLS = 64, 4096


class TileCounts(NamedTuple):
    """What one tile of anchors adds to the loss.

    ``weights`` is the derivative of the tile's sum of hinges by its closeness matrix (anchors x
    references): plus the violated positives of each negative, minus the violating negatives of
    each positive.
    """

    weights: Tensor
    hinges: Tensor
    active: Tensor
    hardest: Tensor


class Workspace:
    """Buffers that every tile uses again, so that no tile waits for fresh memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: torch.Size | tuple[int, int], dtype: torch.dtype) -> Tensor:
        """Return the buffer of this name in this shape, its content undefined."""
        wanted = shape[0] * shape[1]
        buffer = self._buffers.get((name, dtype))
        if buffer is None or buffer.numel() < wanted:
            buffer = torch.empty(wanted, dtype=dtype, device=self._device)
            self._buffers[name, dtype] = buffer
        return buffer[:wanted].view(shape)


def count_below(thresholds: Tensor, values: Tensor, workspace: Workspace) -> Tensor:
    """Count, for each value, the thresholds of its row that are strictly smaller.

    Args:
        thresholds: T x K, each row ascending; +inf fills up short rows.
        values: T x R, finite.
        workspace: where the T x R answer is written.

    Returns:
        T x R counts in the dtype of ``values``: whole numbers, exact below 2**24.
    """
    counts = workspace.take("counts", values.shape, values.dtype)
    if thresholds.shape[1] <= _COMPARE_EACH:
        return _compare_each(thresholds, values, counts, workspace)
    if values.device.type != "cpu":
        return counts.copy_(torch.searchsorted(thresholds, values))
    return _look_up(thresholds, values, counts, workspace)


def _compare_each(
    thresholds: Tensor, values: Tensor, counts: Tensor, workspace: Workspace
) -> Tensor:
    counts.zero_()
    above = workspace.take("probe", values.shape, values.dtype)
    for column in range(thresholds.shape[1]):
        counts += torch.gt(values, thresholds[:, column : column + 1], out=above)
    return counts


def _look_up(thresholds: Tensor, values: Tensor, counts: Tensor, workspace: Workspace) -> Tensor:
    """Find each value's cell in a table of its row's thresholds, then search within the cell.

    The cell is a monotone function of the value, so thresholds of lower cells are smaller for
    certain and those of higher cells are not: only the value's own cell needs comparing. This
    is three to four times faster on CPUs than a binary search over all thresholds.
    """
    rows, width = thresholds.shape
    cells = min(max(_FEWEST_CELLS, values.shape[1] // 2), _MOST_CELLS)
    finite = torch.isfinite(thresholds)
    low = torch.where(finite[:, :1], thresholds[:, :1], 0)
    high = torch.where(finite, thresholds, low).amax(1, keepdim=True)
    scale = cells / (high - low).clamp(1e-30, 1e37)

    # Fillers (+inf) get a cell of their own, which no value is looked up in.
    homes = ((thresholds - low) * scale).clamp_(max=cells - 1).long()
    homes.masked_fill_(~finite, cells)
    occupancy = values.new_zeros(rows, cells + 2)
    occupancy.scatter_add_(1, homes + 1, values.new_ones(1, 1).expand_as(homes))
    steps = int(occupancy[:, 1:-1].max()).bit_length()
    below = occupancy.cumsum_(1)

    spot = workspace.take("probe", values.shape, values.dtype)
    index = workspace.take("index", values.shape, torch.int64)
    torch.sub(values, low, out=spot).mul_(scale).clamp_(0, cells - 1)
    torch.gather(below, 1, index.copy_(spot), out=counts)

    filled = thresholds.new_full((rows, width + (1 << steps)), torch.inf)
    filled[:, :width] = thresholds
    for step in (1 << power for power in reversed(range(steps))):
        torch.gather(filled[:, step - 1 :], 1, index.copy_(counts), out=spot)
        counts.add_(spot.lt_(values), alpha=step)
    return counts


def count_violations(
    closeness: Tensor,
    columns: Tensor,
    valid: Tensor,
    hide: Callable[[Tensor], object],
    margin: Tensor,
    workspace: Workspace,
    repeats: Tensor | None = None,
) -> TileCounts:
    """Count every triplet of a tile that violates the margin, without listing triplets.

    Args:
        closeness: T x R, the larger the closer. Overwritten.
        columns: T x K, each anchor's positives among the references.
        valid: T x K, False where ``columns`` is only filled up.
        hide: writes the dtype's minimum into ``closeness`` wherever there is no negative.
        margin: 0-d, in the units of ``closeness``.
        workspace: holds the answer's ``weights`` until the next tile.
        repeats: T x R, how often each negative counts; once each when None.
    """
    nearness = closeness.gather(1, columns)
    thresholds, order = torch.where(valid, nearness - margin, torch.inf).sort(1)
    hide(closeness)
    hardest = closeness.amax(1) - thresholds[:, 0]

    weights = count_below(thresholds, closeness, workspace)
    ranks = workspace.take("index", weights.shape, torch.int64).copy_(weights)
    by_rank = closeness.new_zeros(len(closeness), columns.shape[1] + 1)
    times = closeness.new_ones(1, 1).expand_as(closeness) if repeats is None else repeats
    up_to = by_rank.scatter_add_(1, ranks, times).cumsum_(1)
    violators = up_to[:, -1:] - up_to[:, :-1]
    if repeats is not None:
        weights *= repeats

    # Hidden entries have weight 0 and fillers no violators, so neither adds anything here.
    pushed = closeness.mul_(weights).sum(1)
    pulled = (violators * thresholds.masked_fill(thresholds.isinf(), 0)).sum(1)
    weights.scatter_add_(1, columns.gather(1, order), violators.neg())
    return TileCounts(
        weights=weights,
        hinges=(pushed - pulled).sum(dtype=torch.float64),
        active=violators.sum(dtype=torch.float64).long(),
        hardest=hardest.max(),
    )
