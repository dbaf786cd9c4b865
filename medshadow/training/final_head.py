"""The last layer of a trained embedder, fitted to its training cases' features as they are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medshadow.data.sampler import PKSampler
from medshadow.losses import CrossBatchMemory
from medshadow.networks.whitening import Whitening

_LEARNING_RATE = 1e-3
_DROPOUT = 0.5


@dataclass(frozen=True)
class FinalHead:
    """How the last layer is fitted; see :func:`fit_final_head`.

    Args:
        whitening: what the whitening's part of a vector weighs beside the retrained part; 0 leaves
            it out.
        heads: how many times rows are trained, from other first weights and on other draws. The
            similarity is the mean of theirs, brought back to the wanted dimensions.
        steps: batches that each of them is trained on.

    Raises:
        ValueError: ``whitening`` is below 0, or ``heads`` or ``steps`` below 1.
    """

    whitening: float = 1.0
    heads: int = 1
    steps: int = 300

    def __post_init__(self) -> None:
        for name, least in (("whitening", 0), ("heads", 1), ("steps", 1)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}; found {getattr(self, name)!r}")


def fit_final_head(
    features: np.ndarray,
    classes: Sequence[object],
    targets: Tensor,
    loss: nn.Module,
    sampler: PKSampler,
    dim: int,
    how: FinalHead | None = None,
) -> Whitening:
    """Fit the layer that replaces a trained head: retrained rows beside whitening ones.

    In training a head sees augmented images through batch statistics that move. Here it is trained
    once more, by the same loss and the same draws, on the features of the training images as they
    will be searched. That alone pulls classes so tight that a doubtful case's neighbours can all be
    of one class, so the rows of a :class:`~medshadow.networks.Whitening` of the same features stand
    beside it, both parts brought to one mean length before they are weighed.

    Args:
        features: N x C unit vectors: pooled features of the training section.
        classes: the class of each.
        targets: what the loss takes for each: N integers, or N x L label sets.
        loss: the loss of the training, as it stands after it.
        sampler: draws rows of ``features`` in batches, as in training; its seed decides the first
            weights and dropout too. The global generator is left as it was.
        dim: D of the retrained rows, and of the whitening ones (C where that is less).
        how: weights and lengths; ``FinalHead()`` unless given.

    Returns:
        The layer, on the CPU.

    Raises:
        ValueError: see ``Whitening.fit``.
    """
    how = how or FinalHead()
    whitening = Whitening.fit(features, classes, min(dim, features.shape[1]))
    moved = torch.tensor(features, dtype=torch.float32) - whitening.mean
    scale = moved.std(0) + 1e-6
    heads = _retrained(moved / scale, targets, loss, sampler, dim, how)
    parts = [_of_mean_length(_joined([rows / scale for rows in heads], moved, dim), moved)]
    if how.whitening > 0:
        parts.append(how.whitening * _of_mean_length(whitening.projection, moved))
    layer = Whitening(features.shape[1], sum(len(rows) for rows in parts))
    layer.mean.copy_(whitening.mean)
    layer.projection.copy_(torch.cat(parts))
    return layer


def _of_mean_length(rows: Tensor, inputs: Tensor) -> Tensor:
    """Rows scaled so that what they make of N x C inputs has a mean length of 1."""
    return rows / (inputs @ rows.T).norm(dim=1).mean()


def _joined(heads: list[Tensor], inputs: Tensor, dim: int) -> Tensor:
    """At most D rows whose inner products are, as nearly as so few can, the mean of the heads'."""
    if len(heads) == 1:
        return heads[0]
    rows = torch.cat([_of_mean_length(head, inputs) for head in heads]) / math.sqrt(len(heads))
    # Their outputs' principal axes; uncentred, since inner products are what counts.
    outputs = inputs @ rows.T
    _, axes = torch.linalg.eigh(outputs.T @ outputs)
    return axes[:, -dim:].flip(1).T @ rows


def _retrained(
    inputs: Tensor,
    targets: Tensor,
    loss: nn.Module,
    sampler: PKSampler,
    dim: int,
    how: FinalHead,
) -> list[Tensor]:
    """D x C rows trained on N x C standardised features, as often as is wanted."""
    if isinstance(loss, CrossBatchMemory):
        loss.clear()
    device = next((p.device for p in loss.parameters()), inputs.device)
    batches, heads = _batches(sampler), []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(sampler.seed)
        for _ in range(how.heads):
            layer = nn.Linear(inputs.shape[1], dim, bias=False).to(device)
            optimizer = torch.optim.AdamW(layer.parameters(), _LEARNING_RATE)
            schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, how.steps)
            for rows in islice(batches, how.steps):
                seen = F.dropout(inputs[rows], _DROPOUT).to(device)
                value = loss(F.normalize(layer(seen), dim=1), targets[rows].to(device))
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                schedule.step()
            heads.append(layer.weight.detach().cpu())
    return heads


def _batches(sampler: PKSampler) -> Iterator[list[int]]:
    """Batches without end, of the epochs from 10,000 on: none of training's own."""
    for epoch in count(10_000):
        sampler.set_epoch(epoch)
        yield from ([int(draw) for draw in batch] for batch in sampler)
