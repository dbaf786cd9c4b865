"""Several ranks train as one: embeddings gathered with gradient, gradients averaged.

Every rank encodes its share of the joint batch, gathers all embeddings, and computes the loss of
the joint batch. Each function here is a collective: all ranks of the default process group of
``torch.distributed`` must call it, in the same order. Without a process group they do nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")

# The others wait while the first rank searches duplicates, encodes baselines and validates.
_LONGEST_WAIT = timedelta(hours=12)


@contextmanager
def process_group() -> Iterator[None]:
    """Join the ranks that ``torchrun`` started, for as long as the context lasts.

    Outside ``torchrun`` (``WORLD_SIZE`` not set, or 1) nothing happens. Each rank takes the CUDA
    device of its local rank where there are as many, else the CPU.

    Raises:
        ValueError: a machine has CUDA devices, but fewer than the ranks on it.

    Example:
        >>> with process_group():
        ...     rank_and_world_size()
        (0, 1)
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or rank_and_world_size()[1] > 1:
        yield
        return
    devices, ranks = torch.cuda.device_count(), int(os.environ["LOCAL_WORLD_SIZE"])
    if 0 < devices < ranks:
        raise ValueError(
            f"torchrun started {ranks} ranks on a machine with {devices} CUDA devices; expected "
            f"--nproc-per-node {devices}, or CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    if devices:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    # gloo beside nccl: labels and metrics are exchanged from the CPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if devices else "gloo", timeout=_LONGEST_WAIT)
    try:
        yield
    finally:
        dist.destroy_process_group()


def check_joined() -> None:
    """Raise ValueError where ``torchrun`` started several ranks and none has joined the others."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started > 1 and rank_and_world_size()[1] == 1:
        raise ValueError(
            f"torchrun started {started} ranks, but only `medshadow train` and the pipelines join "
            "them; expected one of those, or to be started without torchrun"
        )


def rank_and_world_size() -> tuple[int, int]:
    """This process's rank and the number of ranks; (0, 1) without a process group.

    Example:
        >>> rank_and_world_size()
        (0, 1)
    """
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(), dist.get_world_size()


def gather_with_gradient(embeddings: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings and labels of all ranks, rank by rank; the gradient flows back to each rank's own.

    Ranks may hold different numbers of rows, also none. The gradient that reaches a rank's rows is
    the sum of what all ranks' losses want of them; where every rank computes the same loss of the
    joint batch, averaging the parameters' gradients over the ranks (:func:`average_gradients`, or
    ``DistributedDataParallel``) therefore gives the gradient of that loss, and averaging leaves a
    loss's own parameters the gradient that each rank already has.

    Args:
        embeddings: S x D of this rank.
        labels: S integers or S x L label sets of this rank, on the same device.

    Returns:
        The joint embeddings and labels, the sum of all S long.

    Raises:
        ValueError: the ranks' embeddings or labels do not fit together; on every rank.

    Example:
        >>> embeddings, labels = torch.eye(2), torch.tensor([0, 1])
        >>> gather_with_gradient(embeddings, labels)[0] is embeddings  # without a process group
        True
    """
    if rank_and_world_size()[1] == 1:
        return embeddings, labels
    counts = _row_counts(embeddings, labels)
    joint: Tensor = _GatherRows.apply(embeddings, counts)
    return joint, _gather_rows(labels, counts)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each parameter's gradient by its mean over the ranks, in place.

    A rank that has no gradient for a parameter counts as zero; one that no rank has stays None.
    Unlike ``DistributedDataParallel`` this needs no hook, so that a step may call ``backward`` any
    number of times before it.

    Args:
        parameters: the same ones in the same order on every rank.
    """
    _, world_size = rank_and_world_size()
    trained = [p for p in parameters if p.requires_grad]
    if world_size == 1 or not trained:
        return
    present = torch.tensor([float(p.grad is not None) for p in trained], device=trained[0].device)
    dist.all_reduce(present, dist.ReduceOp.MAX)
    found = [p for p, there in zip(trained, present.tolist(), strict=True) if there]
    for p in found:
        if p.grad is None:
            p.grad = torch.zeros_like(p)
    _average([p.grad for p in found if p.grad is not None], world_size)


def average_statistics(module: nn.Module) -> None:
    """Replace each floating buffer (a batch norm's running statistics) by its mean over the ranks.

    Running statistics are linear in what they have seen, so averaging them at the end of an epoch
    gives what averaging them after every step would.
    """
    _, world_size = rank_and_world_size()
    if world_size > 1:
        _average([b for b in module.buffers() if b.is_floating_point()], world_size)


def share_state(module: nn.Module) -> None:
    """Give every rank the first rank's parameters and buffers."""
    if rank_and_world_size()[1] == 1:
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            dense = tensor.contiguous()
            dist.broadcast(dense, 0)
            tensor.copy_(dense)


def from_first_rank(compute: Callable[[], T]) -> T:
    """Call a function on the first rank alone and hand its result to all.

    Example:
        >>> from_first_rank(lambda: {"map_at_r": 0.5})
        {'map_at_r': 0.5}
    """
    rank, world_size = rank_and_world_size()
    result: list[Any] = [compute() if rank == 0 else None]
    if world_size > 1:
        dist.broadcast_object_list(result, 0)
    value: T = result[0]
    return value


def check_ranks_agree(what: str, value: object) -> None:
    """Wait for all ranks, and raise ValueError on each of them unless all hold the same value."""
    _, world_size = rank_and_world_size()
    if world_size == 1:
        return
    values: list[Any] = [None] * world_size
    dist.all_gather_object(values, value)
    if any(other != values[0] for other in values):
        found = ", ".join(f"rank {rank}: {other}" for rank, other in enumerate(values))
        raise ValueError(f"{what} must be the same on every rank; found {found}")


def _row_counts(embeddings: Tensor, labels: Tensor) -> list[int]:
    """Rows of every rank; ValueError on all ranks where their shapes do not fit together."""
    width = labels.shape[1] if labels.ndim == 2 else 0
    shape = torch.tensor(
        [len(embeddings), len(labels), embeddings.shape[1], width], device=embeddings.device
    )
    shapes = [torch.empty_like(shape) for _ in range(dist.get_world_size())]
    dist.all_gather(shapes, shape)
    found = torch.stack(shapes).tolist()
    for rows, label_rows, *widths in found:
        if rows != label_rows or widths != found[0][2:]:
            raise ValueError(
                "embeddings S x D and labels (S, or S x L) must fit together over the ranks; found "
                f"[rows, labels, D, L or 0] of each rank: {found}"
            )
    return [rows for rows, *_ in found]


def _gather_rows(rows: Tensor, counts: list[int]) -> Tensor:
    """The rows of all ranks, padded to the longest on their way."""
    padded = rows.new_zeros(max(counts), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])


class _GatherRows(torch.autograd.Function):
    """Rows of all ranks forward, the sum of all ranks' gradients by the own rows backward."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        first = sum(counts[: dist.get_rank()])
        ctx.own = slice(first, first + len(rows))
        return _gather_rows(rows, counts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, by_all: Tensor) -> tuple[Tensor, None]:
        by_all = by_all.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(by_all)
        return by_all[ctx.own], None


def _average(tensors: list[Tensor], world_size: int) -> None:
    """Average tensors over the ranks in place, those of one dtype in one message."""
    with torch.no_grad():
        for dtype in sorted({t.dtype for t in tensors}, key=str):
            some = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in some])
            dist.all_reduce(flat)
            flat /= world_size
            for tensor, mean in zip(some, flat.split([t.numel() for t in some]), strict=True):
                tensor.copy_(mean.view(tensor.shape))
