"""The cases of a store in memory, as a search needs them, kept up with what changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from medshadow.retrieval.columns import Column, ValueColumn, columns_of, extended
from medshadow.retrieval.held import HeldVectors, Vectors
from medshadow.retrieval.snapshot import Changes, Snapshot
from medshadow.retrieval.vectors import VectorFile, case_marks

# What the store's frame tells of a case that no filter may ask.
_STATE = ("consent", "added")


@dataclass(frozen=True, eq=False)
class LoadedCases:
    """Cases in the order added; later versions share what they have in common with earlier ones.

    Attributes:
        version: the version of the store.
        keys: int64 N, the cases' internal numbers, ever higher but where a row was erased.
        columns: what is known of each case, and what a filter may name.
        vectors: their vectors.
        shown: N booleans, the rows that may be found; the others were withdrawn or suspended.
    """

    version: int
    keys: np.ndarray
    columns: Mapping[str, Column]
    vectors: Vectors
    shown: np.ndarray

    @classmethod
    def of(cls, snapshot: Snapshot) -> LoadedCases:
        """Arrange a snapshot; cases whose consent is suspended are left out."""
        given = (snapshot.frame["consent"] == "given").to_numpy()
        return cls.elsewhere(snapshot, lambda _: HeldVectors.all_of(snapshot.embeddings[given]))

    @classmethod
    def elsewhere(
        cls, snapshot: Snapshot, vectors_of: Callable[[np.ndarray], Vectors]
    ) -> LoadedCases:
        """Arrange a snapshot as :meth:`of`, whose vectors need not have been read.

        Args:
            snapshot: the cases.
            vectors_of: given the keys of those that may be shown, where their vectors are.
        """
        given = (snapshot.frame["consent"] == "given").to_numpy()
        keys = snapshot.keys[given]
        return cls(
            version=snapshot.version,
            keys=keys,
            columns=columns_of(_asked(snapshot.frame[given])),
            vectors=vectors_of(keys),
            shown=np.ones(len(keys), dtype=bool),
        )

    @classmethod
    def of_file(cls, file: VectorFile, snapshot: Snapshot) -> LoadedCases | None:
        """Put what a snapshot tells of cases beside a file's vectors; the others are not shown.

        Args:
            file: the vectors.
            snapshot: the cases, of which the vectors need not have been read.

        Returns:
            None where the file is of another store: one of its keys is another case there.
        """
        row_of = pd.Index(snapshot.keys).get_indexer(file.keys)
        there = row_of >= 0
        if (case_marks(snapshot.frame)[row_of[there]] != file.marks[there]).any():
            return None
        shown = np.zeros(len(row_of), dtype=bool)
        shown[there] = (snapshot.frame["consent"] == "given").to_numpy()[row_of[there]]
        if len(row_of) and not len(snapshot.keys):
            return None
        # A row of the file that belongs to no case takes another's values, and is never looked at.
        columns = columns_of(_asked(snapshot.frame))
        return cls(
            version=snapshot.version,
            keys=file.keys,
            columns={name: column.taken(row_of) for name, column in columns.items()},
            vectors=HeldVectors((file.vectors,), file.deviation),
            shown=shown,
        )

    def after(self, changes: Changes) -> LoadedCases | None:
        """These cases as they are after some changes, without reading those that stayed.

        One thread at a time may ask this, and only of the latest version.

        Returns:
            None where a column changes its kind: then everything has to be read again.
        """
        added = changes.added
        shown = self.shown & ~np.isin(self.keys, changes.removed)
        kept = replace(self, version=changes.version, shown=shown)
        if not len(added.keys):
            return kept
        columns = extended(self.columns, len(self), _asked(added.frame))
        if columns is None:
            return None
        return replace(
            kept,
            keys=np.concatenate([self.keys, added.keys]),
            columns=columns,
            vectors=self.vectors.extended(added),
            shown=np.concatenate([shown, np.ones(len(added.keys), dtype=bool)]),
        )

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def group_of_row(self) -> np.ndarray:
        """int32 N, the number of each row's group."""
        return self._values_of("group").codes

    @cached_property
    def cases(self) -> int:
        """How many cases may be found."""
        return int(np.count_nonzero(self.shown))

    @cached_property
    def groups(self) -> int:
        """How many distinct groups they belong to."""
        return self.groups_among(self.shown)

    def groups_among(self, rows: np.ndarray) -> int:
        """How many distinct groups some rows (N booleans, or their positions) belong to."""
        seen = np.zeros(self._values_of("group").known, dtype=bool)
        seen[self.group_of_row[rows]] = True
        return int(np.count_nonzero(seen))

    def in_groups(self, groups: Iterable[str]) -> np.ndarray:
        """Which rows belong to any of these groups: N booleans; unknown groups hold none."""
        return np.isin(self.group_of_row, self._values_of("group").codes_of(map(str, groups)))

    def carrying(self, labels: Iterable[str]) -> np.ndarray:
        """Which rows carry any of these labels: N booleans."""
        wanted = frozenset(labels)
        return self._values_of("labels").meets(lambda carried: not wanted.isdisjoint(carried))

    def row_of(self, case_id: str) -> int | None:
        """The row of a case that may be found; None where there is none."""
        column = self._values_of("case_id")
        rows = np.flatnonzero(np.isin(column.codes, column.codes_of([case_id])) & self.shown)
        return int(rows[0]) if len(rows) else None

    def values(self, row: int) -> dict[str, Any]:
        """What is known of a case, in plain Python values; None where something is missing."""
        return {name: column.value(row) for name, column in self.columns.items()}

    def _values_of(self, name: str) -> ValueColumn:
        column = self.columns[name]
        assert isinstance(column, ValueColumn)
        return column


def only(snapshot: Snapshot, rows: np.ndarray) -> Snapshot:
    """A snapshot of some of its rows: N booleans."""
    return Snapshot(
        version=snapshot.version,
        frame=snapshot.frame[rows],
        embeddings=snapshot.embeddings[rows],
        keys=snapshot.keys[rows],
    )


def _asked(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop(columns=list(_STATE))
