"""One task that stays the same throughout a training: the hardest triplets of a fixed set."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medshadow.data.cases import CaseTable
from medshadow.data.dataset import CaseDataset
from medshadow.losses import ShadowLoss
from medshadow.networks import Embedder
from medshadow.training.distributed import from_first_rank
from medshadow.transforms import preset

if TYPE_CHECKING:
    from medshadow.training.trainer import MetricTrainer

logger = logging.getLogger(__name__)


class Probe:
    """A fixed set of cases and, after each epoch, ``probe/hardest_loss`` on it.

    That is the batch-hard hinge at one margin, the embedder in evaluation mode: for each case with
    a positive and a negative in the set, max(0, d(farthest positive) - d(nearest negative) +
    margin), d being the cosine distance; the mean over those cases, from 0 to 2 + margin, and the
    margin when all embeddings are equal. Unlike the training loss it can be compared between the
    stages of a curriculum. A part of a :class:`~medshadow.training.MetricTrainer`.

    The set is drawn once, by the seed: up to K images of each class, different groups first. Their
    transformed images stay in memory (34 MB for 7 x 16 of 160 pixels). Of a table of label sets, a
    class is a primary ``label``; positive are two cases that share a finding, negative two that
    share none.

    Args:
        table: a table with sections.
        section: the section to draw from.
        images_per_class: K; a class with fewer gives all it has.
        margin: of the hinge.
        seed: seed of the draw.
        batch_size: images that go through the network together.

    Attributes:
        cases: the table of the cases drawn.
        labels: what the hinge is computed from: N integers, the class of each, or N x L zeros and
            ones over the table's ``finding_names`` where it is ``multi_label``.
        classes: N names, the primary label of each.

    Raises:
        DataError: the section holds no case.

    Example:
        >>> import pandas as pd
        >>> table = CaseTable(pd.DataFrame({
        ...     "case_id": list("abcdef"), "image": list("abcdef"), "group": list("abcdef"),
        ...     "label": ["mel"] * 2 + ["nv"] * 4, "section": "validation"}))
        >>> probe = Probe(table, images_per_class=2)
        >>> len(probe.cases), round(probe.hardest_loss(np.ones((4, 8), dtype=np.float32)), 6)
        (4, 0.2)
    """

    def __init__(
        self,
        table: CaseTable,
        *,
        section: str = "validation",
        images_per_class: int = 16,
        margin: float = 0.2,
        seed: int = 0,
        batch_size: int = 64,
    ) -> None:
        self.cases = _drawn(table.section(section), images_per_class, seed)
        self.labels = np.array([item["label"] for item in self.cases.datalist()])
        self.classes = self.cases.frame["label"].to_numpy(dtype=str)
        self._loss = ShadowLoss(margin=margin, mining="batch_hard")
        self._batch_size = batch_size
        self._images: list[Tensor] = []
        self._known: tuple[int, np.ndarray] | None = None
        if math.isnan(self.hardest_loss(np.ones((len(self.cases), 1), dtype=np.float32))):
            logger.warning(
                "%s: the %s section has no triplet to probe: %d cases of %d classes",
                *(table.name, section, len(self.cases), len(set(self.classes))),
            )

    def attach(self, trainer: MetricTrainer) -> None:
        """Measure after each epoch of a trainer; called by it."""
        trainer.engine.add_event_handler(Events.EPOCH_COMPLETED, self._measure, trainer.embedder)

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the set follows from the table and the seed."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing to take."""

    def embeddings(self, embedder: Embedder, step: int) -> np.ndarray:
        """Embeddings of the cases, float32 N x D; computed once for a step.

        Args:
            embedder: encodes in evaluation mode, in float32; training flags are left as they were.
            step: the training step that the embedder stands at.
        """
        if self._known is None or self._known[0] != step:
            self._known = step, self._encode(embedder)
        return self._known[1]

    def forget(self) -> None:
        """Compute the embeddings anew when next asked for: the weights were changed."""
        self._known = None

    def hardest_loss(self, embeddings: np.ndarray) -> float:
        """The batch-hard hinge of the cases; nan where they hold no triplet."""
        loss = self._loss(torch.from_numpy(embeddings), torch.from_numpy(self.labels)).item()
        return loss if self._loss.statistics["triplets"] else float("nan")

    def _measure(self, engine: Engine, embedder: Embedder) -> None:
        step = engine.state.iteration
        loss = from_first_rank(lambda: self.hardest_loss(self.embeddings(embedder, step)))
        engine.state.metrics["probe/hardest_loss"] = loss

    def _encode(self, embedder: Embedder) -> np.ndarray:
        if not self._images:
            self._images = self._load(embedder)
        device = next(embedder.parameters()).device
        modes = {module: module.training for module in embedder.modules()}
        embedder.eval()
        vectors = []
        with torch.inference_mode(), torch.autocast(device.type, enabled=False):
            for batch in self._images:
                images = batch.to(device, memory_format=torch.channels_last)
                vectors.append(embedder(images).float().cpu().numpy())
        for module, training in modes.items():
            module.training = training
        return np.concatenate(vectors)

    def _load(self, embedder: Embedder) -> list[Tensor]:
        settings = embedder.preprocess
        transform = preset(settings["preset"])(settings["size"], False)
        items = CaseDataset(self.cases, transform, cache_rate=0.0, progress=False)
        images = torch.stack([torch.as_tensor(items[i]["image"]) for i in range(len(items))])
        return list(images.split(self._batch_size))


def _drawn(cases: CaseTable, images_per_class: int, seed: int) -> CaseTable:
    mixed = cases.frame.sample(frac=1, random_state=seed)
    turn = mixed.groupby(["label", "group"]).cumcount().sort_values(kind="stable")
    frame = mixed.loc[turn.index].groupby("label").head(images_per_class)
    return replace(cases, frame=frame.reset_index(drop=True))
