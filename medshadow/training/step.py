"""One training step on MONAI's engine: encode, loss of the joint batch, gradient, optimizer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.engines import SupervisedTrainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from medshadow.errors import NonFiniteLossError
from medshadow.training.distributed import (
    average_gradients,
    gather_with_gradient,
    rank_and_world_size,
)
from medshadow.training.large_batch import cached_backward, check_chunk_size

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer


class MetricEngine(SupervisedTrainer):
    """MONAI's supervised trainer with a step whose loss sees the joint batch of all ranks."""

    def __init__(
        self,
        owner: MetricTrainer,
        loader: DataLoader[Any],
        optimizer: Optimizer,
        max_epochs: int,
        *,
        clip_norm: float,
        chunk_size: int | None,
        seed: int,
    ) -> None:
        if chunk_size is not None:
            check_chunk_size(chunk_size)
        _check_loss_is_trained(owner.loss, optimizer)
        super().__init__(
            device=owner.device,
            max_epochs=max_epochs,
            train_data_loader=loader,
            network=owner.embedder,
            optimizer=optimizer,
            loss_function=owner.loss,
            decollate=False,
            optim_set_to_none=True,
        )
        self._dtype, self._clip_norm, self._seed = owner.dtype, clip_norm, seed
        self._chunk_size = chunk_size
        self._frozen = [m for m in owner.embedder.modules() if _is_frozen(m)]

    def _iteration(self, engine: Engine, batch: dict[str, Any]) -> dict[str, Any]:
        self.network.train()
        for module in self._frozen:
            module.eval()
        _seed_step(self._seed, engine.state.iteration)
        self.optimizer.zero_grad(set_to_none=True)
        value = self._backward(batch["image"], batch["label"]).item()
        trained = [*self.network.parameters(), *self.loss_function.parameters()]
        average_gradients(trained)
        norm = nn.utils.clip_grad_norm_(trained, self._clip_norm).item()
        if not (math.isfinite(value) and math.isfinite(norm)):
            raise NonFiniteLossError(
                f"loss {value}, gradient norm {norm} at step {engine.state.iteration}; "
                f"cases of the batch: {', '.join(batch['case_id'])}"
            )
        self.optimizer.step()
        statistics = {k: float(v) for k, v in getattr(self.loss_function, "statistics", {}).items()}
        return {"loss": value, "gradient_norm": norm, "statistics": statistics}

    def _backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Leave the gradient of the loss with the parameters, and return the loss."""
        labels = labels.to(self.state.device, non_blocking=True)
        if self._chunk_size is None:
            loss = self._joint_loss(self._encode(images), labels)
            loss.backward()
            return loss.detach()
        return cached_backward(
            self.network, self._joint_loss, images, labels, self._chunk_size, encode=self._encode
        )

    def _encode(self, images: Tensor) -> Tensor:
        device = self.state.device
        images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            embeddings: Tensor = self.network(images)
        return embeddings

    def _joint_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.loss_function(*gather_with_gradient(embeddings, labels))
        return loss


def _check_loss_is_trained(loss: nn.Module, optimizer: Optimizer) -> None:
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    wanted = {name: id(p) for name, p in loss.named_parameters() if p.requires_grad}
    left_out = [name for name, place in wanted.items() if place not in trained]
    if left_out:
        raise ValueError(
            f"the loss's parameters {left_out[:5]} are not in the optimizer and would keep their "
            "random first values; expected adamw(embedder, loss=loss)"
        )


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _seed_step(seed: int, iteration: int) -> None:
    """Seed dropout and stochastic depth, differently on each rank."""
    rank, _ = rank_and_world_size()
    torch.manual_seed(int(np.random.SeedSequence([seed, iteration, rank]).generate_state(1)[0]))
