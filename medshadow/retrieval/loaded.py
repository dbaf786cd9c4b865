"""The cases of a store in memory, as a search needs them, kept up with what changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from medshadow.retrieval.columns import Column, ValueColumn, columns_of, extended
from medshadow.retrieval.products import products_into
from medshadow.retrieval.snapshot import Changes, Snapshot
from medshadow.retrieval.vectors import VectorFile, case_marks, length_deviation

# Rows beyond which a product with the vectors of all of them is cheaper than picking theirs.
_FEW = 1 / 8
_ROWS_AT_ONCE = 1 << 14
# What the store's frame tells of a case that no filter may ask.
_STATE = ("consent", "added")


@dataclass(frozen=True, eq=False)
class LoadedCases:
    """Cases in the order added; later versions share what they have in common with earlier ones.

    Attributes:
        version: the version of the store.
        keys: int64 N, the cases' internal numbers, ever higher but where a row was erased.
        columns: what is known of each case, and what a filter may name.
        parts: the vectors, float32, N rows in all.
        shown: N booleans, the rows that may be found; the others were withdrawn or suspended.
        deviation: the most that a vector's length is off from 1.
    """

    version: int
    keys: np.ndarray
    columns: Mapping[str, Column]
    parts: tuple[np.ndarray, ...]
    shown: np.ndarray
    deviation: float

    @classmethod
    def of(cls, snapshot: Snapshot) -> LoadedCases:
        """Arrange a snapshot; cases whose consent is suspended are left out."""
        snapshot = only(snapshot, (snapshot.frame["consent"] == "given").to_numpy())
        return cls(
            version=snapshot.version,
            keys=snapshot.keys,
            columns=columns_of(_asked(snapshot.frame)),
            parts=(snapshot.embeddings,),
            shown=np.ones(len(snapshot.keys), dtype=bool),
            deviation=length_deviation(snapshot.embeddings),
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
            parts=(file.vectors,),
            shown=shown,
            deviation=file.deviation,
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
            parts=_with_part(self.parts, added.embeddings),
            shown=np.concatenate([shown, np.ones(len(added.keys), dtype=bool)]),
            deviation=max(self.deviation, length_deviation(added.embeddings)),
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

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of some rows, as stored: float32 R x D."""
        if len(self.parts) == 1:
            return self.parts[0][rows]
        picked = np.empty((len(rows), self.parts[0].shape[1]), np.float32)
        for first, part in self._placed_parts():
            here = (rows >= first) & (rows < first + len(part))
            picked[here] = part[rows[here] - first]
        return picked

    def products(self, query: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """The product of a vector with that of each allowed row, in float32; -inf elsewhere.

        Args:
            query: float32 D.
            allowed: N booleans.
        """
        count = np.count_nonzero(allowed)
        if count >= _FEW * len(self):
            found = np.empty(len(self), np.float32)
            for first, part in self._placed_parts():
                products_into(found[first : first + len(part)], part, query)
            found[~allowed] = -np.inf
            return found
        found = np.full(len(self), -np.inf, np.float32)
        rows = np.flatnonzero(allowed)
        for first in range(0, count, _ROWS_AT_ONCE):
            some = rows[first : first + _ROWS_AT_ONCE]
            found[some] = np.einsum("nd,d->n", self.vectors(some), query)
        return found

    def _placed_parts(self) -> Iterator[tuple[int, np.ndarray]]:
        first = 0
        for part in self.parts:
            yield first, part
            first += len(part)

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


def _with_part(parts: tuple[np.ndarray, ...], part: np.ndarray) -> tuple[np.ndarray, ...]:
    # The first part is large and stays. Among the others each is more than twice as large as the
    # next, so that a row is copied only a few times however often cases are added.
    later = [*parts[1:], part]
    while len(later) > 1 and len(later[-2]) <= 2 * len(later[-1]):
        later[-2:] = [np.concatenate(later[-2:])]
    return (parts[0], *later)
