"""Watching that the embeddings do not shrink to one point, and going back when they do."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from ignite.engine import Engine, Events

from medshadow.evaluation import collapse_signs
from medshadow.training.curriculum import GENTLER, MiningCurriculum
from medshadow.training.distributed import from_first_rank
from medshadow.training.probe import Probe
from medshadow.training.snapshot import copied, lower_rates, restore, take

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer

logger = logging.getLogger(__name__)

POLICIES = ("warn", "stop", "rollback")
LOSSES_KEPT = 5


class CollapseGuard:
    """Measures after each epoch whether the embeddings have shrunk to one point, and acts on it.

    A part of a :class:`~medshadow.training.MetricTrainer`. The signs are taken on a probe's cases
    (:func:`~medshadow.evaluation.collapse_signs`) and logged:

    - ``collapse/spread`` and ``collapse/spread_share``, its share of the largest so far;
    - ``collapse/effective_rank`` and ``collapse/rank_share``, likewise, of what lies above 1, the
      rank of a single point;
    - ``collapse/centroid_cosine``, of the centroids of primary labels;
    - ``collapse/loss_ratio``: the training loss, mean of the last 5 steps, over the value it has
      when all embeddings are equal: the margin, or ln 2 with a soft one;
    - ``collapse/alarm``, 1 where all signs agree, and ``collapse/rollbacks``.

    The first measurement is taken before training. A network whose embeddings lie close together
    then, as a small untrained one's may, can stay there without an alarm.

    Collapse is declared only when **all** of them say so. The loss near the margin is no sign by
    itself: random embeddings start there under "batch_all". For a loss without mining and margin
    its value is not known and the others decide.

    Policies:

    - ``warn``: log it.
    - ``stop``: end training; the best model so far is kept. Resuming does not go on either.
    - ``rollback``: go back to the weights and optimizer of the last healthy measurement, one with
      neither a small spread nor centroids close together, or else of the first; mine more gently;
      and multiply all learning rates, those to come in the schedule included, by ``rate_factor``.
      With a ``curriculum``, more gently means the stage before the one that collapsed, or the stage
      of the healthy weights if that is earlier still; the stages after it follow again. Without
      one, and in the first stage, "semihard" takes the place of "batch_hard" and
      "hardest_negative", and "batch_all" that of "semihard", to the end. Steps, epochs and the
      schedule's position go on; the trainer's ``patience`` counts anew. After ``max_rollbacks`` the
      next collapse ends training. The healthy copy is kept in memory and in every checkpoint, which
      grows to twice its size.

    Args:
        probe: whose cases are encoded; may be a part of the same trainer, they are encoded once.
        policy: "warn", "stop" or "rollback".
        curriculum: the trainer's curriculum, if it has one, for ``rollback``.
        every: measure also every so many steps: collapse comes within tens of them.
        spread_share: collapsed below this share of the spread.
        rank_share: collapsed below this share of the effective rank less 1.
        centroid_cosine: collapsed above it.
        loss_tolerance: collapsed when the loss ratio is within 1 +- this.
        rate_factor: of the learning rates after a rollback.
        max_rollbacks: how often to go back.

    Attributes:
        collapsed: whether the last measurement found a collapse that still stands.
        rollbacks: how often training went back.

    Raises:
        ValueError: the policy is not known.

    Example:
        >>> import pandas as pd
        >>> from medshadow.data import CaseTable
        >>> table = CaseTable(pd.DataFrame({
        ...     "case_id": list("abcd"), "image": list("abcd"), "group": list("abcd"),
        ...     "label": ["mel", "mel", "nv", "nv"], "section": "validation"}))
        >>> guard = CollapseGuard(Probe(table), policy="rollback")
        >>> guard.collapsed, guard.rollbacks
        (False, 0)
    """

    def __init__(
        self,
        probe: Probe,
        *,
        policy: str = "warn",
        curriculum: MiningCurriculum | None = None,
        every: int | None = None,
        spread_share: float = 0.2,
        rank_share: float = 0.25,
        centroid_cosine: float = 0.99,
        loss_tolerance: float = 0.1,
        rate_factor: float = 0.1,
        max_rollbacks: int = 2,
    ) -> None:
        if policy not in POLICIES:
            raise ValueError(f"policy={policy!r}; known are: {', '.join(POLICIES)}")
        self._probe, self._policy, self._curriculum, self._every = probe, policy, curriculum, every
        self._spread_share, self._rank_share = spread_share, rank_share
        self._centroid_cosine, self._loss_tolerance = centroid_cosine, loss_tolerance
        self._rate_factor, self._max_rollbacks = rate_factor, max_rollbacks
        self.rollbacks = 0
        self.collapsed = False
        self._stopped = False
        self._largest: dict[str, float] = {}
        self._ratios: list[float] = []
        self._healthy: dict[str, Any] = {}
        self._gentler: str | None = None

    def attach(self, trainer: MetricTrainer) -> None:
        """Follow a trainer; called by it."""
        self._trainer = trainer
        # A cross-batch memory holds the loss proper.
        self._mined: Any = getattr(trainer.loss, "loss", trainer.loss)
        engine = trainer.engine
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_loss)
        if self._every is not None:
            engine.add_event_handler(Events.ITERATION_COMPLETED(every=self._every), self._check)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._check)

    def state_dict(self) -> dict[str, Any]:
        """What was measured, what was done, and the healthy weights to go back to."""
        return {
            "largest": dict(self._largest),
            "ratios": list(self._ratios),
            "collapsed": self.collapsed,
            "stopped": self._stopped,
            "rollbacks": self.rollbacks,
            "healthy": self._healthy,
            "gentler": self._gentler,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another run was."""
        self._largest, self._ratios = dict(state["largest"]), list(state["ratios"])
        self.collapsed, self._stopped = state["collapsed"], state["stopped"]
        self.rollbacks, self._healthy = state["rollbacks"], copied(state["healthy"])
        self._gentler = state["gentler"]

    def _start_epoch(self, engine: Engine) -> None:
        if self._stopped:
            logger.error("this training was stopped because its embeddings collapsed")
            engine.terminate()
        elif not self._largest:
            self._keep(engine, self._signs(engine))
        elif self._gentler is not None:
            self._mine(self._gentler)  # a resumed run's loss is new

    def _note_loss(self, engine: Engine) -> None:
        value = collapse_value(self._mined)
        if value is not None:
            self._ratios = [*self._ratios, engine.state.output["loss"] / value][-LOSSES_KEPT:]

    def _check(self, engine: Engine) -> None:
        if self._stopped:
            return
        signs = self._signs(engine)
        agree = self._agreeing(signs)
        collapsed = all(agree.values())
        # Not by the rank: it falls in a healthy training too, to about the number of classes.
        if not (agree["spread"] or agree["centroid_cosine"]):
            self._keep(engine, signs)
        if collapsed and not (self.collapsed and self._policy == "warn"):
            self.collapsed = self._act(engine, signs)
        else:
            self.collapsed = collapsed
        self._report(engine, signs, collapsed)

    def _signs(self, engine: Engine) -> dict[str, float]:
        def measure() -> dict[str, float]:
            embeddings = self._probe.embeddings(self._trainer.embedder, engine.state.iteration)
            ratio = float(np.mean(self._ratios)) if self._ratios else math.nan
            return {**collapse_signs(embeddings, self._probe.classes), "loss_ratio": ratio}

        # Ranks must act as one; their running statistics differ within an epoch.
        return from_first_rank(measure)

    def _shares(self, signs: Mapping[str, float]) -> dict[str, float]:
        spread = signs["spread"] / max(self._largest["spread"], 1e-12)
        above = max(self._largest["effective_rank"] - 1, 1e-12)
        return {"spread_share": spread, "rank_share": (signs["effective_rank"] - 1) / above}

    def _agreeing(self, signs: Mapping[str, float]) -> dict[str, bool]:
        shares = self._shares(signs)
        ratio = signs["loss_ratio"]
        return {
            "spread": shares["spread_share"] < self._spread_share,
            "effective_rank": shares["rank_share"] < self._rank_share,
            "centroid_cosine": signs["centroid_cosine"] > self._centroid_cosine,
            "loss_ratio": math.isnan(ratio) or abs(ratio - 1) <= self._loss_tolerance,
        }

    def _report(self, engine: Engine, signs: Mapping[str, float], collapsed: bool) -> None:
        values = {**signs, **self._shares(signs), "alarm": collapsed, "rollbacks": self.rollbacks}
        engine.state.metrics |= {f"collapse/{name}": float(v) for name, v in values.items()}

    def _act(self, engine: Engine, signs: Mapping[str, float]) -> bool:
        """Do as the policy says; returns whether the embeddings are still collapsed."""
        where = f"epoch {engine.state.epoch}, step {engine.state.iteration}"
        found = f"{where}: the embeddings have collapsed: {self._words(signs)}"
        if self._policy == "warn":
            logger.warning("%s", found)
            return True
        # A run resumed under another policy may hold no healthy copy.
        able = self._healthy and self.rollbacks < self._max_rollbacks
        if self._policy == "rollback" and able:
            self._roll_back()
            logger.warning(
                "%s; going back to the weights of step %d, learning rates times %g, mining %s; "
                "rollback %d of at most %d",
                *(found, self._healthy["step"], self._rate_factor, self._mined_now()),
                *(self.rollbacks, self._max_rollbacks),
            )
            return False
        self._stopped = True
        logger.error("%s; training ends here", found)
        engine.terminate()
        return True

    def _words(self, signs: Mapping[str, float]) -> str:
        shares = self._shares(signs)
        ratio = signs["loss_ratio"]
        loss = "" if math.isnan(ratio) else f", loss at {ratio:.2f} of the value of a single point"
        return (
            f"spread {signs['spread']:.4f} ({shares['spread_share']:.0%} of the largest), "
            f"effective rank {signs['effective_rank']:.2f} (largest "
            f"{self._largest['effective_rank']:.2f}), "
            f"cosine between class centroids {signs['centroid_cosine']:.4f}{loss}"
        )

    def _keep(self, engine: Engine, signs: Mapping[str, float]) -> None:
        self._largest = {
            name: max(signs[name], self._largest.get(name, 0.0))
            for name in ("spread", "effective_rank")
        }
        if self._policy == "rollback":
            self._healthy = {**take(self._trainer), "step": engine.state.iteration}
            if self._curriculum is not None:
                self._healthy["stage"] = self._curriculum.stage

    def _roll_back(self) -> None:
        self.rollbacks += 1
        restore(self._trainer, self._healthy)
        lower_rates(self._trainer.optimizer, self._trainer.scheduler, self._rate_factor)
        self._probe.forget()
        self._ratios = []
        self._trainer.restart_patience()
        if self._curriculum is not None:
            self._curriculum.step_back(self._healthy.get("stage", 1))
            return
        if hasattr(self._mined, "mining"):
            self._gentler = GENTLER[self._mined.mining]
            self._mine(self._gentler)
        loss: Any = self._trainer.loss
        if hasattr(loss, "clear"):
            loss.clear()

    def _mine(self, mining: str) -> None:
        if mining == "batch_all" and hasattr(self._mined, "soft"):
            self._mined.soft = False  # it goes with single triplets
        self._mined.mining = mining

    def _mined_now(self) -> str:
        return str(getattr(self._mined, "mining", "as before"))


def collapse_value(loss: Any) -> float | None:
    """What the loss is when all embeddings are equal; None where that is not known."""
    if not (hasattr(loss, "mining") and hasattr(loss, "margin")):
        return None
    value = math.log(2) if getattr(loss, "soft", False) else float(loss.margin)
    if getattr(loss, "reduction", "mean") == "sum":
        value *= loss.statistics["triplets"]
    return value or None
