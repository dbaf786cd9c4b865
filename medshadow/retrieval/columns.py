"""Columns of the cases in memory: compact, quick to filter, and able to take more rows."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd


class NumberColumn:
    """Numbers, NaN where one is missing.

    Args:
        numbers: N integers or floats.
    """

    def __init__(self, numbers: np.ndarray) -> None:
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def value(self, row: int) -> int | float | None:
        """One row's number in Python's own type, None where it is missing."""
        number: int | float = self._numbers[row].item()
        return None if number != number else number

    def meets(self, test: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Which rows pass a test of all numbers at once: N booleans; a missing one does not."""
        return test(self._numbers) & (self._numbers == self._numbers)

    def taken(self, rows: np.ndarray) -> NumberColumn:
        """This column with some of its rows, each as often as it is named."""
        return NumberColumn(self._numbers[rows])

    def extended(self, part: pd.Series | None, rows: int) -> NumberColumn | None:
        """This column with more rows, those of a part or all missing; None: not of its kind."""
        if part is None or part.isna().all():
            more = np.full(rows, np.nan)
        elif _holds_numbers(part):
            more = part.to_numpy()
        else:
            return None
        return NumberColumn(np.concatenate([self._numbers, more]))

    @classmethod
    def missing(cls, rows: int) -> NumberColumn:
        """A column of which nothing is known yet."""
        return cls(np.full(rows, np.nan))


class ValueColumn:
    """Text, label sets or truth values: each distinct one once, and its number in each row.

    Args:
        codes: int32 N, positions in ``values``; -1 where a value is missing.
        values: the distinct values.

    Attributes:
        codes: as given.
        known: how many distinct values there are.
    """

    def __init__(self, codes: np.ndarray, values: list[Any]) -> None:
        self.codes = codes
        self.known = len(values)
        self._values = values
        self._code_of: dict[Hashable, int] = {value: code for code, value in enumerate(values)}

    def __len__(self) -> int:
        return len(self.codes)

    def value(self, row: int) -> Any:
        """One row's value, None where it is missing."""
        code = self.codes[row]
        return None if code < 0 else self._values[code]

    def codes_of(self, values: Iterable[Hashable]) -> np.ndarray:
        """The numbers of those values that are known."""
        codes = [self._code_of[value] for value in values if value in self._code_of]
        return np.array(codes, dtype=np.int32)

    def meets(self, test: Callable[[Any], bool]) -> np.ndarray:
        """Which rows hold a value that passes a test: N booleans; a missing one does not.

        Each distinct value is tested once.
        """
        passes = np.zeros(self.known + 1, dtype=bool)
        passes[:-1] = [test(value) for value in islice(self._values, self.known)]
        # A missing value has code -1, which picks the last entry.
        return passes[self.codes]

    def taken(self, rows: np.ndarray) -> ValueColumn:
        """This column with some of its rows, each as often as it is named."""
        return self._with_codes(self.codes[rows])

    def extended(self, part: pd.Series | None, rows: int) -> ValueColumn | None:
        """This column with more rows, those of a part or all missing; None: not of its kind.

        The distinct values are shared with the column before, which looks at none that came later.
        One thread at a time may do this, and only to the longest column there is.
        """
        if part is None or part.isna().all():
            codes = np.full(rows, -1, np.int32)
        elif _holds_numbers(part):
            return None
        else:
            codes, values = _factorized(part)
            for value in values:
                if value not in self._code_of:
                    self._code_of[value] = len(self._values)
                    self._values.append(value)
            codes = np.append(self.codes_of(values), np.int32(-1))[codes]
        return self._with_codes(np.concatenate([self.codes, codes]))

    @classmethod
    def missing(cls, rows: int) -> ValueColumn:
        """A column of which nothing is known yet."""
        return cls(np.full(rows, -1, np.int32), [])

    def _with_codes(self, codes: np.ndarray) -> ValueColumn:
        column = ValueColumn(codes, [])
        column.known, column._values = len(self._values), self._values
        column._code_of = self._code_of
        return column


Column = NumberColumn | ValueColumn


def columns_of(frame: pd.DataFrame) -> dict[str, Column]:
    """The columns of a frame."""
    return {
        str(name): NumberColumn(frame[name].to_numpy())
        if _holds_numbers(frame[name])
        else ValueColumn(*_factorized(frame[name]))
        for name in frame.columns
    }


def extended(
    columns: Mapping[str, Column], rows: int, part: pd.DataFrame
) -> dict[str, Column] | None:
    """Columns with the rows of a part put after those they have.

    Args:
        columns: what there is.
        rows: how many rows they have.
        part: more rows; columns that only one side knows are missing on the other.

    Returns:
        None where a column holds numbers on one side and something else on the other: then the
        columns have to be made of all rows at once.
    """
    longer: dict[str, Column] = {}
    for name in [*columns, *(str(name) for name in part.columns if name not in columns)]:
        more = part[name] if name in part.columns else None
        kind = NumberColumn if more is not None and _holds_numbers(more) else ValueColumn
        before = columns[name] if name in columns else kind.missing(rows)
        after = before.extended(more, len(part))
        if after is None:
            return None
        longer[name] = after
    return longer


def _holds_numbers(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _factorized(column: pd.Series) -> tuple[np.ndarray, list[Any]]:
    codes, values = pd.factorize(column)
    return codes.astype(np.int32), pd.Index(values).tolist()
