"""Training an embedder with a metric loss on MONAI's engine, resumable to the same losses."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EarlyStopping, ProgressBar
from monai.engines import SupervisedTrainer
from monai.handlers import CheckpointLoader, CheckpointSaver, LrScheduleHandler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medshadow.errors import NonFiniteLossError
from medshadow.networks import Embedder
from medshadow.training.precision import keep_freed_memory, training_dtype

logger = logging.getLogger(__name__)

Validate = Callable[[Embedder], Mapping[str, float]]


class TrainingPart(Protocol):
    """What a trainer can be given besides: a curriculum, a collapse guard.

    ``attach`` adds handlers to ``trainer.engine``; those of the end of an epoch find the validation
    metrics in ``engine.state.metrics`` and may add their own, named ``group/name``. The state is
    kept in every checkpoint, written after they ran, and handed back when training resumes.
    """

    def attach(self, trainer: MetricTrainer) -> None:
        """Add handlers to the trainer's engine."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What must survive an interruption: plain values and tensors."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the state of an interrupted run."""
        ...


class MetricTrainer:
    """Trains an embedder on P x K batches and keeps the best model by a validation metric.

    Every random choice of a step is a function of (seed, step), and of (seed, epoch, position) in
    the batches, so a run that was stopped and resumed meets the losses of one that was not. A
    checkpoint is written after each epoch; Ctrl-C leaves that of the last whole epoch, and resuming
    starts the interrupted epoch anew.

    Args:
        embedder: the network, trained in place.
        loss: called as ``loss(embeddings, labels)``, gives a scalar.
        loader: batches as :func:`~medshadow.training.training_loader` makes them.
        optimizer: over the embedder's parameters (and the loss's, if it has any).
        max_epochs: epochs in all, counted over resumed runs.
        checkpoints: folder of the checkpoints, ``epoch_<n>`` of the last epoch and ``best.pt``.
        scheduler: learning-rate schedule, stepped after each batch.
        validate: gives validation metrics of the embedder, called after each epoch.
        select_by: the validation metric whose largest value marks the best model.
        patience: epochs without a better value after which training stops, or None.
        parts: further parts of the training by the name their state has in the checkpoint.
        clip_norm: the gradient is scaled down to this norm.
        precision: "auto", "float32" or "bfloat16".
        seed: seed of dropout and stochastic depth.
        device: where to train; the first CUDA device, else the CPU, when None.
        progress: whether to show a bar.

    Attributes:
        embedder, loss, loader, optimizer: as given, on the device.
        engine: MONAI's trainer, to attach further handlers to. ``engine.state.output`` holds
            ``loss`` and the loss's ``statistics``, ``engine.state.metrics`` the last validation.

    Raises:
        NonFiniteLossError: a loss or gradient is not finite; the message names the batch's cases.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        loader: DataLoader[Any],
        optimizer: Optimizer,
        *,
        max_epochs: int,
        checkpoints: str | Path,
        scheduler: LRScheduler | None = None,
        validate: Validate | None = None,
        select_by: str = "map_at_r",
        patience: int | None = None,
        parts: Mapping[str, TrainingPart] | None = None,
        clip_norm: float = 1.0,
        precision: str = "auto",
        seed: int = 0,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> None:
        chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.device = torch.device(chosen)
        self.dtype = training_dtype(precision, self.device)
        self.embedder = embedder.to(self.device, memory_format=torch.channels_last)
        self.checkpoints = Path(checkpoints)
        self.best_metrics: dict[str, float] = {}
        self.loader = loader
        self.optimizer = optimizer
        self.loss = loss.to(self.device)
        self._select_by = select_by
        self.engine = _MetricEngine(self, loader, optimizer, max_epochs, clip_norm, seed)
        # Handlers of one event run in the order they are attached: the schedule and the metrics
        # must be up to date when the checkpoint is written.
        self.engine.add_event_handler(Events.EPOCH_STARTED, _set_epoch, loader)
        state: dict[str, Any] = {"network": embedder, "loss": loss, "optimizer": optimizer}
        if scheduler is not None:
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=False).attach(self.engine)
            state["scheduler"] = scheduler
        if validate is not None:
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate, validate)
            if patience is not None:
                stop = EarlyStopping(patience, self._score, self.engine)
                self.engine.add_event_handler(Events.EPOCH_COMPLETED, stop)
                state["early_stop"] = stop
            self._best_saver(state).attach(self.engine)
        for name, part in (parts or {}).items():
            part.attach(self)
            state[f"part_{name}"] = part
        self._state = {**state, "best": _BestMetrics(self), "trainer": self.engine}
        self._last_saver().attach(self.engine)
        if progress:
            ProgressBar(desc="train", persist=True).attach(
                self.engine, output_transform=lambda output: {"loss": output["loss"]}
            )

    def run(self, resume: bool = False) -> Embedder:
        """Train to ``max_epochs`` and return the embedder with the best (else the last) weights.

        Args:
            resume: go on from the newest checkpoint of an earlier run, if there is one.

        Raises:
            KeyboardInterrupt: the user stopped; the checkpoint of the last whole epoch stands.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        newest = self._newest_checkpoint() if resume else None
        if newest is not None:
            logger.info("resuming from %s", newest.name)
            where = str(self.device)
            CheckpointLoader(str(newest), self._state, map_location=where).attach(self.engine)
        finished = newest is not None and _epoch_of(newest) >= self.engine.state.max_epochs
        if not finished:
            self.engine.run()
        best = self.checkpoints / "best.pt"
        chosen = best if best.is_file() else newest if finished else None
        if chosen is not None:
            weights = torch.load(chosen, map_location=self.device, weights_only=True)
            # A checkpoint of one object, as the best one is, holds it bare.
            self.embedder.load_state_dict(weights.get("network", weights))
        return self.embedder.eval()

    def _validate(self, engine: Engine, validate: Validate) -> None:
        metrics = dict(validate(self.embedder.eval()))
        if self._select_by not in metrics:
            raise ValueError(
                f"select_by {self._select_by!r} is not among the validation metrics {list(metrics)}"
            )
        engine.state.metrics.update(metrics)
        if not self.best_metrics or self._score(engine) > self.best_metrics[self._select_by]:
            self.best_metrics = {**metrics, "epoch": float(engine.state.epoch)}

    def _score(self, engine: Engine) -> float:
        score: float = engine.state.metrics[self._select_by]
        return score if math.isfinite(score) else -math.inf

    def _best_saver(self, state: dict[str, Any]) -> CheckpointSaver:
        saver = CheckpointSaver(
            str(self.checkpoints),
            {"network": state["network"]},
            save_key_metric=True,
            key_metric_name=self._select_by,
            key_metric_filename="best.pt",
        )
        state["best_saver"] = saver._key_metric_checkpoint
        return saver

    def _last_saver(self) -> CheckpointSaver:
        return CheckpointSaver(str(self.checkpoints), self._state, save_interval=1, n_saved=1)

    def _newest_checkpoint(self) -> Path | None:
        found = [p for p in self.checkpoints.glob("*.pt") if _epoch_of(p) > 0]
        return max(found, key=_epoch_of, default=None)


class _MetricEngine(SupervisedTrainer):
    """MONAI's supervised trainer with a step whose loss sees the whole batch of embeddings."""

    def __init__(
        self,
        owner: MetricTrainer,
        loader: DataLoader[Any],
        optimizer: Optimizer,
        max_epochs: int,
        clip_norm: float,
        seed: int,
    ) -> None:
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
        self._frozen = [m for m in owner.embedder.modules() if _is_frozen(m)]

    def _iteration(self, engine: Engine, batch: dict[str, Any]) -> dict[str, Any]:
        self.network.train()
        for module in self._frozen:
            module.eval()
        _seed_step(self._seed, engine.state.iteration)
        device = engine.state.device
        images = batch["image"].to(device, memory_format=torch.channels_last, non_blocking=True)
        labels = batch["label"].to(device, non_blocking=True)
        with torch.autocast(device.type, self._dtype, enabled=self._dtype != torch.float32):
            embeddings = self.network(images)
        loss: Tensor = self.loss_function(embeddings, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), self._clip_norm)
        value = loss.item()
        if not (math.isfinite(value) and math.isfinite(norm.item())):
            raise NonFiniteLossError(
                f"loss {value}, gradient norm {norm.item()} at step {engine.state.iteration}; "
                f"cases of the batch: {', '.join(batch['case_id'])}"
            )
        self.optimizer.step()
        statistics = {k: float(v) for k, v in getattr(self.loss_function, "statistics", {}).items()}
        return {"loss": value, "gradient_norm": norm.item(), "statistics": statistics}


class _BestMetrics:
    """The best validation metrics so far, as a checkpoint keeps them."""

    def __init__(self, trainer: MetricTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, float]:
        return dict(self._trainer.best_metrics)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._trainer.best_metrics = dict(state)


def _is_frozen(module: nn.Module) -> bool:
    parameters = list(module.parameters())
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def _set_epoch(engine: Engine, loader: DataLoader[Any]) -> None:
    sampler: Any = loader.batch_sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(engine.state.epoch - 1)


def _seed_step(seed: int, iteration: int) -> None:
    torch.manual_seed(int(np.random.SeedSequence([seed, iteration]).generate_state(1)[0]))


def _epoch_of(path: Path) -> int:
    found = re.search(r"epoch=(\d+)", path.name)
    return int(found.group(1)) if found else 0
