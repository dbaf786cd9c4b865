"""The last layer of a trained embedder, fitted to its training cases' features as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medshadow.data.sampler import PKSampler
from medshadow.losses import CrossBatchMemory
from medshadow.networks.whitening import Whitening

_STEPS = 300
_LEARNING_RATE = 1e-3
_DROPOUT = 0.5


def fit_final_head(
    features: np.ndarray,
    classes: Sequence[object],
    targets: Tensor,
    loss: nn.Module,
    sampler: PKSampler,
    dim: int,
) -> Whitening:
    """Fit the layer that replaces a trained head: retrained rows beside whitening ones.

    In training a head sees augmented images through batch statistics that move. Here it is trained
    once more, by the same loss and the same draws, on the features of the training images as they
    will be searched. That alone pulls classes so tight that a doubtful case's neighbours are all of
    one class, so the rows of a :class:`~medshadow.networks.Whitening` of the same features stand
    beside it, both parts brought to one mean length.

    Args:
        features: N x C unit vectors: pooled features of the training section.
        classes: the class of each.
        targets: what the loss takes for each: N integers, or N x L label sets.
        loss: the loss of the training, as it stands after it.
        sampler: draws rows of ``features`` in batches, as in training; its seed decides the first
            weights and dropout too. The global generator is left as it was.
        dim: D of the retrained rows, and of the whitening ones (C where that is less).

    Returns:
        The layer, on the CPU.

    Raises:
        ValueError: see ``Whitening.fit``.
    """
    whitening = Whitening.fit(features, classes, min(dim, features.shape[1]))
    moved = torch.tensor(features, dtype=torch.float32) - whitening.mean
    scale = moved.std(0) + 1e-6
    retrained = _retrained(moved / scale, targets, loss, sampler, dim) / scale
    parts = [
        rows / (moved @ rows.T).norm(dim=1).mean() for rows in (retrained, whitening.projection)
    ]
    joined = Whitening(features.shape[1], sum(len(rows) for rows in parts))
    joined.mean.copy_(whitening.mean)
    joined.projection.copy_(torch.cat(parts))
    return joined


def _retrained(
    inputs: Tensor, targets: Tensor, loss: nn.Module, sampler: PKSampler, dim: int
) -> Tensor:
    """D x C rows trained on N x C standardised features."""
    if isinstance(loss, CrossBatchMemory):
        loss.clear()
    device = next((p.device for p in loss.parameters()), inputs.device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sampler.seed)
        layer = nn.Linear(inputs.shape[1], dim, bias=False).to(device)
        optimizer = torch.optim.AdamW(layer.parameters(), _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, _STEPS)
        for rows in islice(_batches(sampler), _STEPS):
            seen = F.dropout(inputs[rows], _DROPOUT).to(device)
            value = loss(F.normalize(layer(seen), dim=1), targets[rows].to(device))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
    return layer.weight.detach().cpu()


def _batches(sampler: PKSampler) -> Iterator[list[int]]:
    """Batches without end, of the epochs from 10,000 on: none of training's own."""
    for epoch in count(10_000):
        sampler.set_epoch(epoch)
        yield from ([int(draw) for draw in batch] for batch in sampler)
