"""Training in stages: from easy triplets to the hardest ones, and from small batches to large."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ignite.engine import Engine, Events

from medshadow.losses.shadow import MININGS

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer

logger = logging.getLogger(__name__)

# What is mined after a collapse: single hardest negatives are what drives one.
GENTLER = {
    "batch_hard": "semihard",
    "hardest_negative": "semihard",
    "semihard": "batch_all",
    "batch_all": "batch_all",
}


@dataclass(frozen=True)
class Stage:
    """One stage of a curriculum: which triplets, of which batches, and for how long.

    Args:
        mining: "batch_all", "semihard", "hardest_negative" or "batch_hard".
        margin: of the loss, >= 0.
        classes_per_batch: P, or None for all classes.
        images_per_class: K.
        epochs: the most epochs it lasts.
        patience: epochs without a better validation metric after which it ends.
        soft: whether the margin is soft; not with "batch_all".

    A stage ends by ``epochs`` or by ``patience``, whichever comes first, and needs one of them
    unless it is the last.

    Raises:
        ValueError: a setting is out of its range; the message names it.

    Example:
        >>> Stage("semihard", 0.3, None, 16, epochs=4).mining
        'semihard'
    """

    mining: str
    margin: float
    classes_per_batch: int | None
    images_per_class: int
    epochs: int | None = None
    patience: int | None = None
    soft: bool = False

    def __post_init__(self) -> None:
        if self.mining not in MININGS:
            raise ValueError(f"mining={self.mining!r}; known are: {', '.join(MININGS)}")
        if self.soft and self.mining == "batch_all":
            raise ValueError("soft=True with mining='batch_all'; it goes with the other minings")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin must be a number >= 0; found {self.margin}")
        for name, least in (
            *(("classes_per_batch", 2), ("images_per_class", 2)),
            *(("epochs", 1), ("patience", 1)),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}; found {value}")


class MiningCurriculum:
    """Takes a training through stages; a part of a :class:`~medshadow.training.MetricTrainer`.

    At the first epoch of a stage the loss is given its mining, margin and soft, the sampler its P
    and K, a cross-batch memory is emptied, and the count of epochs without a better metric begins
    anew. An epoch has equally many batches in every stage, so a learning-rate schedule by steps
    holds. After the last stage's epochs training goes on in it, to the trainer's ``max_epochs``.
    Losses of two stages cannot be compared: :class:`~medshadow.training.Probe` has a number that
    can.

    A harder stage often begins below the best metric of the one before it. The trainer's own
    ``patience`` therefore counts in the last stage alone, from that stage's best: it neither ends
    training before its last stage nor just after a change.

    Metrics of each epoch: ``curriculum/stage`` (from 1), ``curriculum/margin``,
    ``curriculum/batch_size`` (P*K, over all ranks).

    Args:
        stages: in their order, as :class:`Stage` or its settings by name.
        select_by: the validation metric, larger being better, that ``patience`` watches.

    Raises:
        ValueError: no stage, a stage that would never end before another, or, when attached, a
            loss without mining, a loader without P and K, or more classes than there are.

    Example:
        >>> curriculum = MiningCurriculum([
        ...     {"mining": "semihard", "margin": 0.3, "classes_per_batch": None,
        ...      "images_per_class": 8, "epochs": 4},
        ...     Stage("batch_hard", 0.3, None, 24, epochs=1)])
        >>> [stage.mining for stage in curriculum.stages]
        ['semihard', 'batch_hard']
    """

    def __init__(
        self, stages: Sequence[Stage | Mapping[str, Any]], *, select_by: str = "map_at_r"
    ) -> None:
        self.stages = tuple(s if isinstance(s, Stage) else Stage(**s) for s in stages)
        if not self.stages:
            raise ValueError("a curriculum needs at least one stage; found none")
        for number, stage in enumerate(self.stages[:-1], 1):
            if stage.epochs is None and stage.patience is None:
                raise ValueError(f"stage {number} never ends: give it epochs or patience")
        self._select_by = select_by
        self._begin(0)
        self._in_epoch = False
        self._gentler: str | None = None

    @property
    def stage(self) -> int:
        """Number of the present stage, from 1: that of the last epoch that has begun."""
        return self._at + 1

    def attach(self, trainer: MetricTrainer) -> None:
        """Follow a trainer; called by it."""
        self._trainer = trainer
        self._loss: Any = trainer.loss
        # A cross-batch memory holds the loss proper.
        self._mined: Any = getattr(trainer.loss, "loss", trainer.loss)
        sampler: Any = trainer.loader.batch_sampler
        if not (hasattr(self._mined, "mining") and hasattr(self._mined, "margin")):
            raise ValueError(
                f"a curriculum sets mining and margin; {type(self._mined).__name__} has none"
            )
        if not hasattr(sampler, "set_batch"):
            raise ValueError(
                "a curriculum sets P and K of a PKSampler; the loader's batch sampler is "
                f"{type(sampler).__name__}"
            )
        for stage in reversed(self.stages):  # whatever a stage cannot have is said now
            sampler.set_batch(stage.classes_per_batch, stage.images_per_class)
        self._sampler = sampler
        self._compare_with(trainer.engine.state.max_epochs)
        trainer.engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        trainer.engine.add_event_handler(Events.EPOCH_COMPLETED, self._end_epoch)

    def step_back(self, at_most: int) -> None:
        """Begin an earlier stage after a collapse: its loss now, its batches with the next epoch.

        That is the stage before the present one, or ``at_most`` where that is earlier still: the
        stage of the weights that training goes back to. The stages after it follow again. Before
        the first there is none: it begins again itself and mines more gently from now on,
        "semihard" in place of the single hardest negatives, "batch_all" in place of "semihard".
        """
        if self._at == 0:
            self._gentler = GENTLER[self._mining]
        # What is left of an epoch under way is no epoch of the stage.
        self._begin(max(0, min(at_most, self._at) - 1), epochs=-1 if self._in_epoch else 0)
        self._set_loss()

    def state_dict(self) -> dict[str, Any]:
        """The stage, the epochs in it, and what its plateau is counted from."""
        return {
            "stage": self._at,
            "epochs": self._epochs,
            "best": self._best,
            "waited": self._waited,
            "over": self._over,
            "gentler": self._gentler,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another run was."""
        if state["stage"] + state["over"] >= len(self.stages):
            raise ValueError(
                f"the run to resume was in stage {state['stage'] + 1}; this curriculum has "
                f"{len(self.stages)}"
            )
        self._over, self._gentler = state["over"], state["gentler"]
        self._at, self._epochs = state["stage"], state["epochs"]
        self._best, self._waited = state["best"], state["waited"]

    def _begin(self, at: int, epochs: int = 0) -> None:
        self._at, self._epochs, self._best, self._waited = at, epochs, -math.inf, 0
        self._over = False

    @property
    def _mining(self) -> str:
        eased = self._at == 0 and self._gentler is not None
        return str(self._gentler) if eased else self.stages[self._at].mining

    @property
    def _is_last(self) -> bool:
        return self._at == len(self.stages) - 1

    def _start_epoch(self, engine: Engine) -> None:
        if self._over:
            self._begin(self._at + 1)
        stage = self.stages[self._at]
        self._in_epoch = True
        if self._epochs == 0 or not self._is_last:
            self._trainer.restart_patience()
        # Set every time: a resumed run's loss and sampler are new.
        self._set_loss(clear=self._epochs == 0)
        self._sampler.set_batch(stage.classes_per_batch, stage.images_per_class)
        if self._epochs == 0:
            logger.info(
                "epoch %d: stage %d of %d, %s%s, margin %g, batches of %d x %d",
                *(engine.state.epoch, self.stage, len(self.stages)),
                *(self._mining, " with a soft margin" if self._mined.soft else "", stage.margin),
                *(self._sampler.classes_per_batch, self._sampler.images_per_class),
            )

    def _end_epoch(self, engine: Engine) -> None:
        self._in_epoch = False
        stage = self.stages[self._at]
        size = self._sampler.classes_per_batch * self._sampler.images_per_class
        engine.state.metrics |= {
            "curriculum/stage": self.stage,
            "curriculum/margin": stage.margin,
            "curriculum/batch_size": size,
        }
        self._epochs += 1
        self._over = self._epochs > 0 and not self._is_last and self._is_over(stage, engine)

    def _is_over(self, stage: Stage, engine: Engine) -> bool:
        if stage.patience is not None:
            if self._select_by not in engine.state.metrics:
                raise ValueError(
                    f"stage {self.stage} waits for {self._select_by!r}, which is not among the "
                    f"validation metrics {list(engine.state.metrics)}"
                )
            value = engine.state.metrics[self._select_by]
            better = value > self._best
            self._best, self._waited = (value, 0) if better else (self._best, self._waited + 1)
            if self._waited >= stage.patience:
                return True
        return stage.epochs is not None and self._epochs >= stage.epochs

    def _set_loss(self, clear: bool = True) -> None:
        stage = self.stages[self._at]
        # One after the other: a soft margin is not for every mining.
        self._mined.soft = False
        self._mined.mining, self._mined.margin = self._mining, stage.margin
        self._mined.soft = stage.soft and self._mining != "batch_all"
        if clear and hasattr(self._loss, "clear"):
            self._loss.clear()

    def _compare_with(self, max_epochs: int) -> None:
        before_last = [stage.epochs for stage in self.stages[:-1]]
        if all(before_last) and sum(filter(None, before_last)) >= max_epochs:
            logger.warning(
                "the stages before the last take %s epochs; training ends after %d",
                *(" + ".join(map(str, before_last)), max_epochs),
            )
