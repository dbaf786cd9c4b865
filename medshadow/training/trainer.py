"""Training an embedder with a metric loss on MONAI's engine, resumable to the same losses."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint, EarlyStopping, ProgressBar
from monai.handlers import CheckpointLoader, LrScheduleHandler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from medshadow.networks import Embedder
from medshadow.training.checkpoints import WholeFiles, epoch_files, epoch_of
from medshadow.training.distributed import (
    average_statistics,
    check_ranks_agree,
    from_first_rank,
    rank_and_world_size,
    share_state,
)
from medshadow.training.history import History
from medshadow.training.precision import keep_freed_memory, training_dtype
from medshadow.training.step import MetricEngine

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
    checkpoint is written before the first step and after each epoch; Ctrl-C leaves the last of
    them, and resuming starts the interrupted epoch anew.

    Several ranks (a process group of ``torch.distributed`` exists when the trainer is made): each
    encodes its share of the joint batch, the loss sees all of it, and every rank takes the step of
    the joint gradient. The first rank's weights are the first weights of all; batch norm normalises
    each rank's share by itself, and its running statistics are averaged after every epoch. The
    first rank validates and writes the checkpoints, into a folder that all ranks can read.

    Args:
        embedder: the network, trained in place.
        loss: called as ``loss(embeddings, labels)``, gives a scalar.
        loader: batches as :func:`~medshadow.training.training_loader` makes them.
        optimizer: over the embedder's parameters (and the loss's, if it has any).
        max_epochs: epochs in all, counted over resumed runs.
        checkpoints: folder of the checkpoints, that of the last epoch and ``best.pt``.
        scheduler: learning-rate schedule, stepped after each batch.
        validate: gives validation metrics of the embedder, called after each epoch.
        select_by: the validation metric whose largest value marks the best model.
        patience: epochs without a better value after which training stops, or None. A curriculum
            counts them in its last stage alone.
        parts: further parts of the training by the name their state has in the checkpoint.
        clip_norm: the gradient, of the embedder and of the loss's parameters together, is scaled
            down to this norm.
        chunk_size: images encoded at a time, on each rank; None: the whole batch. A chunk bounds
            the memory of a step at the cost of a second forward pass, with the same gradient
            (:func:`~medshadow.training.cached_backward`).
        precision: "auto", "float32" or "bfloat16".
        seed: seed of dropout and stochastic depth.
        device: where to train; the current CUDA device, else the CPU, when None.
        progress: whether to show a bar.

    Attributes:
        embedder, loss, loader, optimizer, scheduler, select_by: as given, on the device.
        history: what every epoch came to; see :class:`~medshadow.training.history.History`.
        engine: MONAI's trainer, to attach further handlers to. ``engine.state.output`` holds
            ``loss`` and the loss's ``statistics``, ``engine.state.metrics`` the last validation.

    Raises:
        ValueError: ``chunk_size`` is below 1, or the optimizer lacks parameters of the loss.
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
        chunk_size: int | None = None,
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
        self.scheduler = scheduler
        self.loss = loss.to(self.device)
        self.select_by = select_by
        self._early_stop: EarlyStopping | None = None
        self.engine = MetricEngine(
            self,
            loader,
            optimizer,
            max_epochs,
            clip_norm=clip_norm,
            chunk_size=chunk_size,
            seed=seed,
        )
        # Handlers of one event run in the order they are attached: the schedule and the metrics
        # must be up to date when the checkpoint is written.
        self.engine.add_event_handler(Events.EPOCH_STARTED, _set_epoch, loader)
        self.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _: average_statistics(self.embedder)
        )
        state: dict[str, Any] = {"network": embedder, "loss": loss, "optimizer": optimizer}
        if scheduler is not None:
            LrScheduleHandler(scheduler, print_lr=False, epoch_level=False).attach(self.engine)
            state["scheduler"] = scheduler
        if validate is not None:
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._validate, validate)
            if patience is not None:
                self._early_stop = EarlyStopping(patience, self._score, self.engine)
                self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._early_stop)
                state["early_stop"] = self._early_stop
            state["best_saver"] = self._best_saver()
            self.engine.add_event_handler(Events.EPOCH_COMPLETED, state["best_saver"])
        self.history = History()
        for name, part in {**(parts or {}), "history": self.history}.items():
            part.attach(self)
            state[f"part_{name}"] = part
        self._state = {**state, "best": _BestMetrics(self), "trainer": self.engine}
        self._saver = self._last_saver()
        self.engine.add_event_handler(Events.EPOCH_COMPLETED, self._saver)
        if progress and rank_and_world_size()[0] == 0:
            ProgressBar(desc="train", persist=True).attach(
                self.engine, output_transform=lambda output: {"loss": output["loss"]}
            )

    def run(self, resume: bool = False) -> Embedder:
        """Train to ``max_epochs`` and return the embedder with the best (else the last) weights.

        Args:
            resume: go on from the newest checkpoint of an earlier run, if there is one.

        Raises:
            KeyboardInterrupt: the user stopped; the checkpoint of the last whole epoch stands, or
                that of the untrained network.
            ValueError: the ranks' loaders differ in length, or the ranks see different checkpoints.
        """
        if self.device.type == "cpu":
            keep_freed_memory()
        newest = self._newest_checkpoint() if resume else None
        check_ranks_agree("the number of batches in an epoch", self.engine.state.epoch_length)
        check_ranks_agree("the checkpoint to resume from", newest and newest.name)
        share_state(self.embedder)
        share_state(self.loss)
        if newest is not None:
            logger.info("resuming from %s", newest.name)
            where = str(self.device)
            CheckpointLoader(str(newest), self._state, map_location=where).attach(self.engine)
            self.engine.add_event_handler(Events.STARTED, self._stay_stopped)
        else:
            self.engine.add_event_handler(Events.STARTED, self._saver)
        finished = newest is not None and epoch_of(newest) >= self.engine.state.max_epochs
        if newest is not None and finished:
            kept = torch.load(newest, map_location="cpu", weights_only=True)
            self.history.load_state_dict(kept["part_history"])
        else:
            self.engine.run()
        check_ranks_agree("the last epoch", self.engine.state.epoch)  # and all files are written
        best = self.checkpoints / "best.pt"
        chosen = best if best.is_file() else newest if finished else None
        if chosen is not None:
            weights = torch.load(chosen, map_location=self.device, weights_only=True)
            # A checkpoint of one object, as the best one is, holds it bare.
            self.embedder.load_state_dict(weights.get("network", weights))
        return self.embedder.eval()

    def restart_patience(self) -> None:
        """Count the epochs without a better value anew: what is trained has become another task."""
        if self._early_stop is not None:
            self._early_stop.reset()

    def _validate(self, engine: Engine, validate: Validate) -> None:
        found = from_first_rank(lambda: dict(validate(self.embedder.eval())))
        # A checkpoint with numbers of NumPy could not be read again.
        metrics = {name: float(value) for name, value in found.items()}
        if self.select_by not in metrics:
            raise ValueError(
                f"select_by {self.select_by!r} is not among the validation metrics {list(metrics)}"
            )
        engine.state.metrics.update(metrics)
        if not self.best_metrics or self._score(engine) > self.best_metrics[self.select_by]:
            self.best_metrics = {**metrics, "epoch": float(engine.state.epoch)}

    def _stay_stopped(self, engine: Engine) -> None:
        if self._early_stop is not None and self._early_stop.counter >= self._early_stop.patience:
            engine.terminate()

    def _score(self, engine: Engine) -> float:
        score: float = engine.state.metrics[self.select_by]
        return score if math.isfinite(score) else -math.inf

    def _best_saver(self) -> Checkpoint:
        files = WholeFiles(self.checkpoints)
        network = {"network": self.embedder}
        return Checkpoint(network, files, score_function=self._score, filename_pattern="best.pt")

    def _last_saver(self) -> Checkpoint:
        files = WholeFiles(self.checkpoints)
        return Checkpoint(
            self._state, files, score_function=lambda e: e.state.epoch, score_name="epoch"
        )

    def _newest_checkpoint(self) -> Path | None:
        found = epoch_files(self.checkpoints)
        return found[-1] if found else None


class _BestMetrics:
    """The best validation metrics so far, as a checkpoint keeps them."""

    def __init__(self, trainer: MetricTrainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, float]:
        return dict(self._trainer.best_metrics)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._trainer.best_metrics = dict(state)


def _set_epoch(engine: Engine, loader: DataLoader[Any]) -> None:
    sampler: Any = loader.batch_sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(engine.state.epoch - 1)
