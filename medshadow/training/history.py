"""What every epoch of a training came to: the curves that are drawn at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from ignite.engine import Engine, Events

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer


class History:
    """One row an epoch, kept in the checkpoints; every :class:`MetricTrainer` has one.

    Attributes:
        epochs: a dictionary for each whole epoch: its number as ``epoch``; ``train/loss`` and,
            where the loss says it, ``train/active_fraction``, means over its steps; the loss's
            ``mining``, where it has one; and the metrics of validation and of the other parts
            under their own names.
    """

    def __init__(self) -> None:
        self.epochs: list[dict[str, float | str]] = []
        self._steps: list[dict[str, float]] = []

    def attach(self, trainer: MetricTrainer) -> None:
        """Follow a trainer; called by it, after all other parts."""
        self._loss: Any = trainer.loss
        engine = trainer.engine
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The rows so far."""
        return {"epochs": [dict(row) for row in self.epochs]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another run was."""
        self.epochs = [dict(row) for row in state["epochs"]]

    def _start_epoch(self, engine: Engine) -> None:
        self._steps = []
        # A cross-batch memory holds the loss proper. Read here: a guard may change it at the end.
        self._mining = getattr(getattr(self._loss, "loss", self._loss), "mining", None)

    def _note_step(self, engine: Engine) -> None:
        output = engine.state.output
        step = {"train/loss": output["loss"]}
        if "active_fraction" in output["statistics"]:
            step["train/active_fraction"] = output["statistics"]["active_fraction"]
        self._steps.append(step)

    def _note_epoch(self, engine: Engine) -> None:
        row: dict[str, float | str] = {"epoch": engine.state.epoch}
        if self._mining is not None:
            row["mining"] = str(self._mining)
        row |= {name: float(value) for name, value in engine.state.metrics.items()}
        self.epochs.append(row | pd.DataFrame(self._steps).mean().to_dict())
