"""Optimizer and learning-rate schedules in the shape a configuration needs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from medshadow.networks import Embedder


def adamw(
    embedder: Embedder,
    learning_rate: float = 3e-4,
    head_learning_rate: float = 1e-3,
    weight_decay: float = 1e-2,
    frozen: Sequence[str] = (),
    loss: nn.Module | None = None,
    loss_learning_rate: float = 1e-2,
) -> AdamW:
    """AdamW with a learning rate each for the pretrained backbone, the new head, and the loss.

    Biases, normalisation weights and the loss's parameters are not decayed.

    Args:
        embedder: what is trained.
        learning_rate: of the backbone.
        head_learning_rate: of the head.
        weight_decay: of matrices and convolutions.
        frozen: names of the backbone's modules that keep their weights and, in training, their
            normalisation statistics. Early layers of a pretrained network change little and cost
            the most.
        loss: what has parameters of its own to train, as SoftTriple has its proxies; a loss
            without any changes nothing.
        loss_learning_rate: of those; 0.01 is SoftTriple's for its centres (Qian et al. 2019).
            Only their direction counts there, so decaying their length would raise their rate.

    Raises:
        ValueError: the backbone has no module of a name in ``frozen``.

    Example:
        >>> from medshadow.networks import backbone
        >>> net = Embedder(backbone("resnet18", pretrained=False), 8)
        >>> [(g["lr"], g["weight_decay"]) for g in adamw(net).param_groups]
        [(0.0003, 0.01), (0.0003, 0.0), (0.001, 0.01), (0.001, 0.0)]
        >>> from medshadow.training import objective
        >>> proxies = objective("soft_triple", classes=7, embedding_dim=8)
        >>> adamw(net, loss=proxies).param_groups[-1]["lr"]
        0.01
    """
    modules = dict(embedder.backbone.named_modules())
    for name in frozen:
        if name not in modules:
            raise ValueError(
                f"frozen: backbone {embedder.backbone.name!r} has no module {name!r}; its modules "
                f"begin with {[n for n in modules if n][:8]}"
            )
        modules[name].requires_grad_(False)
    groups = []
    for module, rate in ((embedder.backbone, learning_rate), (embedder.head, head_learning_rate)):
        for decay, parameters in ((weight_decay, _matrices(module)), (0.0, _vectors(module))):
            if parameters:
                groups.append({"params": parameters, "lr": rate, "weight_decay": decay})
    proxies = [p for p in loss.parameters() if p.requires_grad] if loss is not None else []
    if proxies:
        groups.append({"params": proxies, "lr": loss_learning_rate, "weight_decay": 0.0})
    return AdamW(groups)


def one_cycle(optimizer: Optimizer, steps: int, warmup: float = 0.1) -> OneCycleLR:
    """Rise to each group's learning rate over a share of the steps, then fall to nearly zero.

    Args:
        optimizer: its groups' learning rates are the peaks.
        steps: number of optimizer steps of the whole training.
        warmup: share of the steps that the rise takes, in (0, 1).
    """
    peaks = [group["lr"] for group in optimizer.param_groups]
    return OneCycleLR(optimizer, max_lr=peaks, total_steps=steps, pct_start=warmup)


def cosine(optimizer: Optimizer, steps: int, warmup: float = 0.1) -> LRScheduler:
    """Rise linearly to each group's learning rate, then fall to zero along a half cosine.

    Args:
        optimizer: its groups' learning rates are the peaks.
        steps: number of optimizer steps of the whole training.
        warmup: share of the steps that the rise takes, in [0, 1).
    """
    rise = round(steps * warmup)

    def share(step: int) -> float:
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rise) / max(1, steps - rise))))

    return LambdaLR(optimizer, share)


def _matrices(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad and p.ndim > 1]


def _vectors(module: nn.Module) -> list[nn.Parameter]:
    return [p for p in module.parameters() if p.requires_grad and p.ndim <= 1]
