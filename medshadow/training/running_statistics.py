"""Batch norm's running statistics of a whole batch that is encoded chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm


class PooledStatistics:
    """One update of the running statistics for a batch, from the statistics of all its chunks.

    A layer called with chunks of n_i values a channel, of mean m_i and unbiased variance v_i, is
    updated as by one call with all n values: mean m = sum n_i m_i / n, variance
    (sum (n_i - 1) v_i + sum n_i (m_i - m)^2) / (n - 1), one step of its momentum (or of the
    cumulative mean where that is None) and one batch counted. A layer that a forward pass calls
    several times is updated as often. Layers in evaluation mode, or without running statistics, are
    left alone.

    Args:
        network: its batch norm layers are meant; in training mode or not, as they are.

    Raises:
        ValueError: a layer's running statistics in training are none that can be pooled.
    """

    def __init__(self, network: nn.Module) -> None:
        self._layers: list[Any] = [m for m in network.modules() if _is_updated(m)]
        # Of each layer and each of its calls in a forward pass: (n, mean, variance) of the chunks.
        self._seen: list[list[list[tuple[int, Tensor, Tensor]]]] = [[] for _ in self._layers]

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """While it lasts, forward passes are noted, and change buffers that are to be put back."""
        momenta = [m.momentum for m in self._layers]
        hooks = [
            m.register_forward_hook(lambda m, _, output, i=i: self._note(i, m, output))
            for i, m in enumerate(self._layers)
        ]
        try:
            for layer in self._layers:
                layer.momentum = 1.0  # then the running statistics are those of the chunk
            yield
        finally:
            for hook in hooks:
                hook.remove()
            for layer, momentum in zip(self._layers, momenta, strict=True):
                layer.momentum = momentum

    def begin_chunk(self) -> None:
        """Tell that a chunk's forward pass begins."""
        self._calls = [0] * len(self._layers)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While it lasts, forward passes leave the running statistics as they are."""
        try:
            for layer in self._layers:
                layer.track_running_stats = False
            yield
        finally:
            for layer in self._layers:
                layer.track_running_stats = True

    @torch.no_grad()
    def update(self) -> None:
        """Update every layer once from what was collected."""
        for layer, calls in zip(self._layers, self._seen, strict=True):
            for chunks in filter(None, calls):
                layer.num_batches_tracked += 1
                share = layer.momentum
                if share is None:
                    share = 1 / float(layer.num_batches_tracked)
                mean, variance = _pooled(chunks)
                for running, new in ((layer.running_mean, mean), (layer.running_var, variance)):
                    running.copy_((1 - share) * running.double() + share * new)

    def _note(self, at: int, layer: Any, output: Tensor) -> None:
        call, calls = self._calls[at], self._seen[at]
        self._calls[at] += 1
        if call == len(calls):
            calls.append([])
        values = output.numel() // output.shape[1]
        if values:
            found = values, layer.running_mean.clone(), layer.running_var.clone()
            calls[call].append(found)


def _pooled(chunks: list[tuple[int, Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance of all values, float64."""
    counts = torch.tensor([[n] for n, _, _ in chunks], dtype=torch.float64)
    means = torch.stack([mean.double() for _, mean, _ in chunks])
    variances = torch.stack([variance.double() for _, _, variance in chunks])
    counts = counts.to(means.device)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    within, between = (counts - 1) * variances, counts * (means - mean).square()
    return mean, (within + between).sum(0) / (total - 1)


def _is_updated(layer: Any) -> bool:
    """Whether a forward pass changes a layer's running statistics; ValueError if it must not."""
    kinds = (_BatchNorm, _InstanceNorm)
    if not (isinstance(layer, kinds) and layer.training and layer.track_running_stats):
        return False
    if isinstance(layer, nn.SyncBatchNorm | _InstanceNorm):
        raise ValueError(
            f"{type(layer).__name__} with running statistics cannot be trained with chunk_size: "
            "its statistics are not those of a chunk; expected BatchNorm, a layer in evaluation "
            "mode, or chunk_size=None"
        )
    return True
