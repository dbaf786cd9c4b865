"""Weights and optimizer as they were at one moment of a training, and the way back to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer

# What schedules compute a group's rate from; OneCycleLR keeps its own in the group.
_RATES = ("lr", "initial_lr", "max_lr", "min_lr")


def take(trainer: MetricTrainer) -> dict[str, Any]:
    """Copy the embedder, the loss's state and the optimizer's moments to the CPU."""
    return copied(
        {
            "network": trainer.embedder.state_dict(),
            "loss": trainer.loss.state_dict(),
            "moments": trainer.optimizer.state_dict()["state"],
        }
    )


def restore(trainer: MetricTrainer, snapshot: Mapping[str, Any]) -> None:
    """Give a trainer the weights and moments of a snapshot; its learning rates stay as they are."""
    # The optimizer would train the snapshot's own tensors otherwise.
    state = copied(snapshot)
    trainer.embedder.load_state_dict(state["network"])
    trainer.loss.load_state_dict(state["loss"])
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": state["moments"], "param_groups": groups})


def lower_rates(optimizer: Optimizer, scheduler: LRScheduler | None, factor: float) -> None:
    """Multiply the learning rates, and what a schedule makes the coming ones from, by a factor."""
    for group in optimizer.param_groups:
        group.update({name: group[name] * factor for name in _RATES if name in group})
    if scheduler is not None:
        scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


def copied(value: Any) -> Any:
    """A copy of nested mappings, sequences, tensors (to the CPU) and plain values."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {key: copied(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [copied(v) for v in value]
    return value
