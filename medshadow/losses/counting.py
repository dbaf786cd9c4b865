"""How many of an anchor's positives does each negative violate: exact ranks and their counts."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Devices with ways of counting of their own; all others, GPUs, sort and search with torch. Tests
# empty this set to send a CPU's tensors along the ways of GPUs.
OWN_WAYS = frozenset({"cpu"})
# Up to this many thresholds a row, comparing with each in turn beats any search.
_COMPARE_EACH = 8
# Cells of the look-up table a row: enough that few thresholds share one, few enough to be built.
_FEWEST_CELLS, _MOST_CELLS = 64, 4096


class TileCounts(NamedTuple):
    """What some anchors add to the loss: their hinges' sum, how many, and the largest violation."""

    hinges: Tensor
    active: Tensor
    hardest: Tensor


def added(one: TileCounts, other: TileCounts) -> TileCounts:
    """What all of these anchors add to the loss."""
    hinges, active = one.hinges + other.hinges, one.active + other.active
    return TileCounts(hinges, active, torch.maximum(one.hardest, other.hardest))


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


def has_own_ways(device: torch.device) -> bool:
    """Whether this device counts by ways made for the caches of processors."""
    return device.type in OWN_WAYS


def sort_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Sort each row and say where each value stood, as ``torch.sort``; ties in any order.

    On CPUs NumPy sorts bare numbers faster than torch. A float32 leaves 29 binary digits of a
    float64 unused: the place is written there and travels along.
    """
    if rows.dtype != torch.float32 or not has_own_ways(rows.device):
        values, places = rows.sort(1)
        return values, places
    limits = torch.finfo(rows.dtype)
    # An infinity with digits written into it would be a NaN.
    keys = rows.clamp(limits.min, limits.max).double()
    digits = keys.view(torch.int64)
    digits |= torch.arange(rows.shape[1])
    keys.numpy().sort(axis=1)
    places = digits.bitwise_and_(2**29 - 1)
    return rows.gather(1, places), places


def count_below(
    thresholds: Tensor, numbers: Tensor, values: Tensor, counts: Tensor, workspace: Workspace
) -> None:
    """Count, for each value, the thresholds of its row that are strictly smaller.

    Args:
        thresholds: T x K, each row ascending; +inf fills up short rows.
        numbers: T, how many thresholds each row really has.
        values: T x R, finite.
        counts: T x R of the same dtype, overwritten with whole numbers, exact below 2**24.
        workspace: for what is needed on the way.
    """
    if thresholds.shape[1] <= _COMPARE_EACH:
        _compare_each(thresholds, values, counts, workspace)
    elif has_own_ways(values.device):
        _look_up(thresholds, numbers, values, counts, workspace)
    else:
        counts.copy_(torch.searchsorted(thresholds, values))


def _compare_each(thresholds: Tensor, values: Tensor, counts: Tensor, workspace: Workspace) -> None:
    counts.zero_()
    above = workspace.take("probe", values.shape, values.dtype)
    for threshold in thresholds.split(1, dim=1):
        counts += torch.gt(values, threshold, out=above)


def _look_up(
    thresholds: Tensor, numbers: Tensor, values: Tensor, counts: Tensor, workspace: Workspace
) -> None:
    """Find each value's cell in a table of its row's thresholds, then search within the cell.

    The cell is a monotone function of the value, so thresholds of lower cells are smaller for
    certain and those of higher cells are not: only the value's own cell needs comparing.
    """
    rows, width = thresholds.shape
    cells = min(max(_FEWEST_CELLS, values.shape[1] // 2), _MOST_CELLS)
    largest = torch.finfo(values.dtype).max
    low = thresholds[:, :1].clamp(max=largest)
    high = thresholds.gather(1, (numbers - 1).clamp_(min=0)[:, None]).clamp_(max=largest)
    # The highest threshold lands inside the last cell; fillers (+inf) get one beyond, where no
    # value is looked up.
    scale = (cells - 0.5) / (high - low).clamp_(1e-30, 1e37)
    homes = (thresholds - low).mul_(scale).clamp_(max=cells).long()
    below = values.new_zeros(rows, cells + 2)
    occupancy = below[:, 1:].scatter_add_(1, homes, values.new_ones(1, 1).expand_as(homes))
    steps = int(occupancy[:, :-1].amax()).bit_length()
    below.cumsum_(1)

    spot = workspace.take("probe", values.shape, values.dtype)
    index = workspace.take("index", values.shape, torch.int64)
    torch.sub(values, low, out=spot).mul_(scale).clamp_(0, cells - 1)
    torch.gather(below, 1, index.copy_(spot), out=counts)

    filled = thresholds.new_full((rows, width + (1 << steps)), torch.inf)
    filled[:, :width] = thresholds
    for step in (1 << power for power in reversed(range(steps))):
        torch.gather(filled[:, step - 1 :], 1, index.copy_(counts), out=spot)
        counts.add_(spot.lt_(values), alpha=step)


def count_violations(
    closeness: Tensor,
    columns: Tensor,
    valid: Tensor,
    hide: Callable[[Tensor], object],
    margin: Tensor,
    weights: Tensor,
    workspace: Workspace,
    repeats: Tensor | None = None,
) -> TileCounts:
    """Count every triplet of some anchors that violates the margin, without listing triplets.

    Args:
        closeness: T x R, the larger the closer. Overwritten.
        columns: T x K, each anchor's positives among the references.
        valid: T x K, False where ``columns`` is only filled up.
        hide: writes the dtype's minimum into ``closeness`` wherever there is no negative.
        margin: 0-d, in the units of ``closeness``.
        weights: T x R, overwritten with the derivative of the sum of hinges by ``closeness``: plus
            the violated positives of each negative, minus the violating negatives of each
            positive.
        workspace: for what is needed on the way.
        repeats: T x R, how often each negative counts; once each when None.
    """
    nearness = closeness.gather(1, columns)
    thresholds, order = sort_rows((nearness - margin).masked_fill_(~valid, torch.inf))
    hide(closeness)
    hardest = (closeness.amax(1) - thresholds[:, 0]).max()

    count_below(thresholds, valid.sum(1), closeness, weights, workspace)
    ranks = workspace.take("index", weights.shape, torch.int64).copy_(weights)
    up_to = closeness.new_zeros(len(closeness), columns.shape[1] + 1)
    times = closeness.new_ones(1, 1).expand_as(closeness) if repeats is None else repeats
    up_to.scatter_add_(1, ranks, times).cumsum_(1)
    violators = up_to[:, -1:] - up_to[:, :-1]
    if repeats is not None:
        weights *= repeats

    # Hidden entries have weight 0 and fillers no violators, so neither adds anything here.
    pushed = closeness.mul_(weights).sum(1)
    pulled = thresholds.masked_fill_(violators == 0, 0).mul_(violators).sum(1)
    weights.scatter_add_(1, columns.gather(1, order), violators.neg())
    return TileCounts(
        hinges=(pushed - pulled).sum(dtype=torch.float64),
        active=violators.sum(dtype=torch.float64).long(),
        hardest=hardest,
    )
