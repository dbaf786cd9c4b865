"""One query against every case in memory: exact ranking of groups, and what is found first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from medshadow.retrieval.rows import UNIT_TOLERANCE
from medshadow.retrieval.snapshot import Snapshot

# As in medshadow.evaluation.nearest_groups: the finest step that float32 tells apart just below 1.
_STEPS = 2**24


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


@dataclass(frozen=True, eq=False)
class LoadedCases:
    """The cases of a snapshot that may be shown, ordered so that each group is one run of rows.

    Attributes:
        version: the store's version when it was read.
        filterable: the columns that a filter may name, text as categories.
        values: the same columns as plain Python values, None where one is missing.
        vectors: float32 N x D.
        added: int64 N, each row's place in the order added.
        starts: the first row of each group.
        group_of_row: int64 N, each row's group as a position in ``groups``.
        groups: the group names.
    """

    version: int
    filterable: pd.DataFrame
    values: dict[str, np.ndarray]
    vectors: np.ndarray
    added: np.ndarray
    starts: np.ndarray
    group_of_row: np.ndarray
    groups: pd.Index

    @classmethod
    def of(cls, snapshot: Snapshot) -> LoadedCases:
        """Arrange a snapshot for ranking; cases whose consent is suspended are left out."""
        shown = (snapshot.frame["consent"] == "given").to_numpy()
        frame = snapshot.frame[shown].drop(columns=["consent", "added"])
        codes, groups = pd.factorize(frame["group"])
        order = np.argsort(codes, kind="stable")
        frame = frame.iloc[order].reset_index(drop=True)
        return cls(
            version=snapshot.version,
            filterable=frame.assign(**{str(c): _as_categories(frame[c]) for c in frame.columns}),
            values={
                str(c): frame[c].astype(object).where(frame[c].notna(), None).to_numpy()
                for c in frame.columns
            },
            vectors=np.ascontiguousarray(snapshot.embeddings[shown][order]),
            added=order,
            starts=np.flatnonzero(np.diff(codes[order], prepend=-1)),
            group_of_row=codes[order],
            groups=pd.Index(groups, dtype=object),
        )

    def __len__(self) -> int:
        return len(self.vectors)

    def in_groups(self, groups: Iterable[str]) -> np.ndarray:
        """Which rows belong to any of these groups: N booleans; unknown groups hold none."""
        codes = self.groups.get_indexer(pd.Index([str(g) for g in groups], dtype=object))
        return np.isin(self.group_of_row, codes[codes >= 0])

    def carrying(self, labels: Iterable[str]) -> np.ndarray:
        """Which rows carry any of these labels: N booleans."""
        wanted = frozenset(labels)
        sets = self.filterable["labels"].cat
        carries = np.array([not wanted.isdisjoint(s) for s in sets.categories], dtype=bool)
        return carries[sets.codes.to_numpy()] if len(carries) else np.zeros(len(self), bool)


class Ranking:
    """Every case compared with one query.

    Similarities are rough at first, from one float32 product; those that can decide an answer are
    computed again in float64 and compared in steps of 2^-24, so that copies of one vector tie. Ties
    go to the case that was added first.

    Args:
        loaded: the cases.
        query: D values, a unit vector.
        allowed: N booleans, the rows that may be found.

    Attributes:
        cases: how many cases may be found.
        groups: how many distinct groups they belong to.
        archive_cases: how many cases there are, filtered out or not.
        archive_groups: how many distinct groups those are.
    """

    def __init__(self, loaded: LoadedCases, query: np.ndarray, allowed: np.ndarray) -> None:
        self._loaded = loaded
        self._query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
        # Most that a float32 product of stored vectors is off from their cosine, on both sides.
        self._slack = 2 * (len(query) * float(np.finfo(np.float32).eps) + UNIT_TOLERANCE)
        self._rough = loaded.vectors @ self._query.astype(np.float32)
        self._rough[~allowed] = -np.inf
        self._best = np.maximum.reduceat(self._rough, loaded.starts) if len(loaded) else self._rough
        self.cases = int(allowed.sum())
        self.groups = int(np.isfinite(self._best).sum())
        self.archive_cases = len(loaded)
        self.archive_groups = len(loaded.starts)

    def nearest(self, k: int) -> list[Hit]:
        """The min(k, groups) nearest groups, each by its case nearest to the query.

        Raises:
            ValueError: k is below 1.
        """
        if k < 1:
            raise ValueError(f"k must be at least 1; found {k}")
        k = min(k, self.groups)
        if k == 0:
            return []
        threshold = np.partition(self._best, -k)[-k] - self._slack
        rows, steps = self._exact(np.flatnonzero(self._rough >= threshold))
        _, first = np.unique(self._loaded.group_of_row[rows], return_index=True)
        return [
            self._hit(rows[at], steps[at], rank)
            for rank, at in enumerate(np.sort(first)[:k], start=1)
        ]

    def nearest_with(self, labels: Iterable[str]) -> Hit | None:
        """The nearest case that carries any of the labels, however far; None if there is none.

        Its rank is one more than the number of other groups that hold a nearer case.
        """
        rough = np.where(self._loaded.carrying(labels), self._rough, -np.inf)
        highest = rough.max(initial=-np.inf)
        if not np.isfinite(highest):
            return None
        rows, steps = self._exact(np.flatnonzero(rough >= highest - self._slack))
        return self._hit(rows[0], steps[0], 1 + self._groups_before(rows[0], steps[0]))

    def _groups_before(self, row: int, step: int) -> int:
        added, group = self._loaded.added, self._loaded.group_of_row
        similarity = step / _STEPS
        close = np.flatnonzero(np.abs(self._rough - similarity) <= self._slack)
        close, steps = self._exact(close)
        nearer = (steps > step) | ((steps == step) & (added[close] < added[row]))
        sure = np.flatnonzero(self._rough > similarity + self._slack)
        groups = np.unique(np.concatenate([group[sure], group[close[nearer]]]))
        return int((groups != group[row]).sum())

    def _exact(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows in their exact order, and the cosine of each in steps of 2^-24."""
        vectors = self._loaded.vectors[rows].astype(np.float64)
        cosine = np.einsum("nd,d->n", vectors, self._query) / np.linalg.norm(vectors, axis=1)
        steps = np.rint(np.clip(cosine, -1, 1) * _STEPS).astype(np.int64)
        order = np.lexsort((self._loaded.added[rows], -steps))
        return rows[order], steps[order]

    def _hit(self, row: int, step: int, rank: int) -> Hit:
        values = {
            column: column_values[row] for column, column_values in self._loaded.values.items()
        }
        return Hit(
            case_id=values.pop("case_id"),
            group=values.pop("group"),
            label=values.pop("label"),
            labels=values.pop("labels"),
            similarity=float(step) / _STEPS,
            rank=rank,
            metadata=values,
        )


def _as_categories(column: pd.Series) -> pd.Series:
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column
    codes, values = pd.factorize(column)
    categories = pd.Categorical.from_codes(codes, categories=pd.Index(values, dtype=object))
    return pd.Series(categories, index=column.index, name=column.name)
