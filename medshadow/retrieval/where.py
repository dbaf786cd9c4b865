"""The filter language of a lookup: ``sex=female and age>=50``, read, typed and applied."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medshadow.errors import StoreError
from medshadow.retrieval.columns import Column, NumberColumn

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_CONDITION = re.compile(
    r"""\s*(?P<key>[^\s=!<>"'][^=!<>"']*?)\s*(?P<op>!=|>=|<=|=|>|<)\s*
        (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s=!<>"'][^=!<>"']*?))
        \s*(?:\sand\s|$)""",
    re.VERBOSE | re.IGNORECASE,
)
_KEY_WITH_OPERATOR = re.compile(r"\s*(?P<key>[^=!<>]+?)\s*(?P<op>!=|>=|<=|=|>|<)?\s*$")


@dataclass(frozen=True)
class Condition:
    """One test of one column: ``key`` ``operator`` ``value``.

    Args:
        key: a column of the store's frame (``label``, ``sex``, ``age``, ...).
        operator: one of ``=  !=  >=  <=  >  <``.
        value: compared as a number where the column holds numbers, else as text, letter case
            aside. On ``labels``, ``=`` asks whether the label is among the case's labels.
    """

    key: str
    operator: str
    value: str

    def __str__(self) -> str:
        plain = re.fullmatch(r"[^\s=!<>\"']+", self.value)
        return f"{self.key}{self.operator}{self.value if plain else _quoted(self.value)}"

    def mask(self, columns: Mapping[str, Column]) -> np.ndarray:
        """Which rows meet the condition: N booleans. A missing value meets none, ``!=`` included.

        Raises:
            StoreError: no such column (the message lists the columns), a value that is no number
                on a column of numbers, or an order asked of text.
        """
        if self.key not in columns:
            raise StoreError(
                f"filter {str(self)!r}: no key {self.key!r}; known keys: {', '.join(columns)}"
            )
        column = columns[self.key]
        if isinstance(column, NumberColumn):
            wanted = self._number()
            return column.meets(lambda numbers: _OPERATORS[self.operator](numbers, wanted))
        if self.operator not in ("=", "!="):
            raise StoreError(
                f"filter {str(self)!r}: {self.key!r} holds no numbers; use = or != on it"
            )
        return column.meets(self._meets)

    def _number(self) -> float:
        try:
            return float(self.value)
        except ValueError:
            raise StoreError(
                f"filter {str(self)!r}: {self.key!r} holds numbers, found {self.value!r}"
            ) from None

    def _meets(self, value: Any) -> bool:
        wanted = self.value.casefold()
        if self.key == "labels":
            equal = any(str(label).casefold() == wanted for label in value)
        else:
            equal = str(value).casefold() == wanted
        return equal == (self.operator == "=")


Where = str | Iterable[str | Condition] | Mapping[str, Any] | None


def parse_where(where: Where) -> tuple[Condition, ...]:
    """Read a filter into its conditions, all of which must hold.

    Args:
        where: text with conditions joined by ``and`` (quote a value that holds "and" or an
            operator sign); several such texts or conditions; a mapping whose keys may end in an
            operator: ``{"sex": "female", "age>=": 50}``; or None for no condition.

    Returns:
        The conditions, in the order given; whether their keys exist shows when they are applied.

    Raises:
        StoreError: a text that does not read as conditions; the message quotes it.

    Example:
        >>> [str(c) for c in parse_where("sex=female and age >= 50")]
        ['sex=female', 'age>=50']
        >>> parse_where({"sex": "female", "age>=": 50}) == parse_where("sex=female and age>=50")
        True
    """
    if where is None:
        return ()
    if isinstance(where, str):
        return _parse_text(where)
    if isinstance(where, Mapping):
        return tuple(_of_item(key, value) for key, value in where.items())
    parts = ((part,) if isinstance(part, Condition) else _parse_text(part) for part in where)
    return tuple(condition for part in parts for condition in part)


def matching(
    conditions: Iterable[Condition], columns: Mapping[str, Column], among: np.ndarray
) -> np.ndarray:
    """Which rows meet every condition: N booleans.

    Args:
        conditions: what must hold.
        columns: what is known of the rows.
        among: N booleans, the rows that come into question.

    Raises:
        StoreError: as :meth:`Condition.mask`.
    """
    met = among.copy()
    for condition in conditions:
        met &= condition.mask(columns)
    return met


def _parse_text(text: str) -> tuple[Condition, ...]:
    conditions: list[Condition] = []
    at = 0
    while at < len(text) or not conditions:
        found = _CONDITION.match(text, at)
        if found is None:
            raise StoreError(
                f"filter {text!r}: cannot read {text[at:].strip()!r}; expected conditions like "
                "sex=female or age>=50 joined by 'and', with quotes around a value that holds 'and'"
            )
        value = next(v for v in found.group("double", "single", "bare") if v is not None)
        conditions.append(Condition(found["key"], found["op"], value.strip()))
        at = found.end()
    if re.search(r"\sand\s*$", text, re.IGNORECASE):
        raise StoreError(f"filter {text!r}: ends in 'and'")
    return tuple(conditions)


def _of_item(key: str, value: Any) -> Condition:
    found = _KEY_WITH_OPERATOR.match(key)
    if found is None:
        raise StoreError(
            f"filter key {key!r}: expected a column name, an operator after it or none"
        )
    if not isinstance(value, str | bool | int | float | np.generic):
        raise StoreError(f"filter {key!r}: expected text or a number, found {value!r}")
    return Condition(found["key"], found["op"] or "=", str(value).strip())


def _quoted(value: str) -> str:
    return f"'{value}'" if '"' in value else f'"{value}"'
