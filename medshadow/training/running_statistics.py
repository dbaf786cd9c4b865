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
        # One for each call in a forward pass. Held from the start on: kept tensors that are made
        # between a chunk's activations would leave holes where those of the next do not fit.
        self._seen = [[_Pool(m)] for m in self._layers]

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
        for layer, pools in zip(self._layers, self._seen, strict=True):
            for pool in pools:
                if not pool.number:
                    continue
                layer.num_batches_tracked += 1
                share = layer.momentum
                if share is None:
                    share = 1 / float(layer.num_batches_tracked)
                for running, new in (
                    (layer.running_mean, pool.mean),
                    (layer.running_var, pool.squares / (pool.number - 1)),
                ):
                    running.copy_((1 - share) * running.double() + share * new)

    def _note(self, at: int, layer: Any, output: Tensor) -> None:
        call, pools = self._calls[at], self._seen[at]
        self._calls[at] += 1
        if call == len(pools):
            pools.append(_Pool(layer))
        pools[call].add(output.numel() // output.shape[1], layer.running_mean, layer.running_var)


class _Pool:
    """Number, mean and squared deviations from it of the values of each channel, chunk by chunk.

    Source: Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing
    sample variances", 1979.
    """

    def __init__(self, layer: Any) -> None:
        self.number = 0
        self.mean = torch.zeros_like(layer.running_mean, dtype=torch.float64)
        self.squares = torch.zeros_like(self.mean)

    def add(self, number: int, mean: Tensor, variance: Tensor) -> None:
        """Add a chunk: values a channel, their mean and unbiased variance."""
        if not number:
            return
        together = self.number + number
        off = mean - self.mean
        self.squares += (number - 1) * variance.double()
        self.squares += off.square() * (self.number * number / together)
        self.mean += off * (number / together)
        self.number = together


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
