"""One query against every case: exact ranking of groups, and what is found first."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from medshadow.retrieval.loaded import LoadedCases
from medshadow.retrieval.similarities import LOWEST

# As in medshadow.evaluation.nearest_groups: the finest step that float32 tells apart just below 1.
_STEPS = 2**24
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Hit:
    """A case found by a search.

    Args:
        case_id: the case.
        group: its lesion or patient.
        label: its diagnosis.
        labels: its label set; ``{label}`` where cases carry one diagnosis.
        similarity: cosine in [-1, 1].
        rank: 1 for the nearest group, counted among the distinct groups that were ranked.
        metadata: the store's metadata columns for it; None where a value is missing.
    """

    case_id: str
    group: str
    label: str
    labels: frozenset[str]
    similarity: float
    rank: int
    metadata: dict[str, Any] = field(default_factory=dict)


class Ranking:
    """Every case compared with one query.

    Similarities are rough at first, float32 products wherever the vectors lie; those that can
    decide an answer are computed again in float64 and compared in steps of 2^-24, so that copies of
    one vector tie. Ties go to the case that was added first.

    Args:
        loaded: the cases.
        query: D values, a unit vector.
        allowed: N booleans, the rows that may be found.

    Attributes:
        cases: how many cases may be found.
        archive_cases: how many cases there are, filtered out or not.
    """

    def __init__(self, loaded: LoadedCases, query: np.ndarray, allowed: np.ndarray) -> None:
        self._loaded = loaded
        self._query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
        # Most that a float32 product of stored vectors is off from their cosine, on both sides.
        self._slack = 2 * (len(query) * float(np.finfo(np.float32).eps) + loaded.vectors.deviation)
        self._allowed = allowed
        self._rough = loaded.vectors.similarities(self._query.astype(np.float32), allowed)
        self.cases = int(np.count_nonzero(allowed))
        self.archive_cases = loaded.cases

    @cached_property
    def groups(self) -> int:
        """How many distinct groups the cases that may be found belong to."""
        if self.cases == self.archive_cases:
            return self._loaded.groups
        return self._loaded.groups_among(self._allowed)

    @property
    def archive_groups(self) -> int:
        """How many distinct groups there are, filtered out or not."""
        return self._loaded.groups

    def nearest(self, k: int) -> list[Hit]:
        """The min(k, groups) nearest groups, each by its case nearest to the query.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; found {k}")
        rows, steps = self._settled(lambda: self._near(k))
        _, first = np.unique(self._loaded.group_of_row[rows], return_index=True)
        return [
            self._hit(rows[at], steps[at], rank)
            for rank, at in enumerate(np.sort(first)[:k], start=1)
        ]

    def nearest_with(self, labels: Iterable[str]) -> Hit | None:
        """The nearest case that carries any of the labels, however far; None if there is none.

        Its rank is one more than the number of other groups that hold a nearer case.
        """
        carrying = self._loaded.carrying(labels)

        def near() -> np.ndarray:
            rough = self._rough.among(carrying)
            return rough.above(rough.floor(1) - self._slack)[0]

        rows, steps = self._settled(near)
        if not len(rows):
            return None
        return self._hit(rows[0], steps[0], 1 + self._groups_before(rows[0], steps[0]))

    def _near(self, k: int) -> np.ndarray:
        """Every row that may belong to one of the k nearest groups."""
        wanted = 4 * k
        while True:
            floor = self._rough.floor(wanted)
            rows, rough = self._rough.above(floor)
            order = np.argsort(-rough)
            _, first = np.unique(self._loaded.group_of_row[rows[order]], return_index=True)
            if len(first) >= k or floor == LOWEST:
                break
            wanted *= 8
        if not len(rows):
            return rows
        last = order[np.sort(first)[:k][-1]]
        return self._rough.above(rough[last] - self._slack)[0]

    def _settled(self, choose: Callable[[], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The rows chosen in their exact order; chosen again while some are being erased."""
        while True:
            chosen = choose()
            rows, steps = self._exact(chosen)
            if len(rows) == len(chosen):
                return rows, steps
            self._rough.forget(np.setdiff1d(chosen, rows))

    def _groups_before(self, row: int, step: int) -> int:
        group = self._loaded.group_of_row
        similarity = step / _STEPS
        rows, rough = self._rough.above(similarity - self._slack)
        sure = rough > similarity + self._slack
        close, steps = self._exact(rows[~sure])
        nearer = (steps > step) | ((steps == step) & (close < row))
        ahead = np.concatenate([rows[sure], close[nearer]])
        return self._loaded.groups_among(ahead[group[ahead] != group[row]])

    def _exact(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows in their exact order, and the cosine of each in steps of 2^-24.

        Left out are rows that have not the length they were stored with: another process is
        erasing them.
        """
        kept, steps = [], []
        for first in range(0, max(len(rows), 1), _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            vectors = self._loaded.vectors.of(some).astype(np.float64)
            lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
            sound = np.abs(lengths - 1) <= self._loaded.vectors.deviation
            cosine = np.einsum("nd,d->n", vectors[sound], self._query) / lengths[sound]
            kept.append(some[sound])
            steps.append(np.rint(np.clip(cosine, -1, 1) * _STEPS).astype(np.int64))
        all_kept, all_steps = np.concatenate(kept), np.concatenate(steps)
        order = np.lexsort((all_kept, -all_steps))
        return all_kept[order], all_steps[order]

    def _hit(self, row: int, step: int, rank: int) -> Hit:
        values = self._loaded.values(row)
        return Hit(
            case_id=values.pop("case_id"),
            group=values.pop("group"),
            label=values.pop("label"),
            labels=values.pop("labels"),
            similarity=float(step) / _STEPS,
            rank=rank,
            metadata=values,
        )
