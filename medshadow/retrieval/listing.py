"""Some cases of a store at a time, for pages and programs: never the whole archive."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
from sqlalchemy import select

from medshadow.retrieval import schema
from medshadow.retrieval.database import reading
from medshadow.retrieval.rows import can_be_kept

if TYPE_CHECKING:
    from medshadow.retrieval.store import CaseStore

_MOST_VALUES = 60
# What names a case rather than describing it, or is not a filter's business.
_NO_FILTER = frozenset({"case_id", "group", "labels", "consent", "added"})


def case_page(
    store: CaseStore, after: int, limit: int, *, suspended: bool = False
) -> tuple[list[dict[str, Any]], int | None]:
    """The next cases in the order added, and where to go on.

    Args:
        store: the cases.
        after: where the page before ended; 0 for the first.
        limit: cases at most.
        suspended: whether cases whose consent is suspended are listed too.

    Returns:
        The cases, each as ``case_id, group, label, labels, metadata, consent, added``, and what
        ``after`` is for the next page: None at the end.
    """
    c = schema.cases.c
    query = (
        select(c.id, c.case_id, c.group, c.label, c.labels, c.metadata, c.consent, c.added)
        .where(c.id > after)
        .order_by(c.id)
        .limit(limit + 1)
    )
    if not suspended:
        query = query.where(c.consent == "given")
    with reading(store._engine) as connection:
        rows = [row._asdict() for row in connection.execute(query)]
    page = rows[:limit]
    following = page[-1]["id"] if len(rows) > limit else None
    return [{key: value for key, value in row.items() if key != "id"} for row in page], following


def may_be_shown(store: CaseStore, case_ids: Iterable[str]) -> dict[str, bytes | None]:
    """Those of some cases that are in the store with consent given, each with its thumbnail.

    Args:
        store: the cases.
        case_ids: some hundred at most.
    """
    asked = [case_id for case_id in case_ids if can_be_kept(case_id)]
    joined = schema.cases.join(schema.thumbnails, isouter=True)
    query = (
        select(schema.cases.c.case_id, schema.thumbnails.c.jpeg)
        .select_from(joined)
        .where(schema.cases.c.case_id.in_(asked), schema.cases.c.consent == "given")
    )
    with reading(store._engine) as connection:
        return {row.case_id: row.jpeg for row in connection.execute(query)}


def filterable_columns(frame: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """What a filter may ask for.

    Args:
        frame: cases, as ``CaseStore.frame`` gives them.

    Returns:
        By column: ``{"kind": "number", "least": ..., "most": ...}``, ``{"kind": "choice", "values":
        [...]}`` most frequent first, or ``{"kind": "text"}`` where there are more than 60 values.

    Example:
        >>> frame = pd.DataFrame({"sex": ["male", "male", "female"], "age": [40, 50, None]})
        >>> filterable_columns(frame)["age"]
        {'kind': 'number', 'least': 40.0, 'most': 50.0}
        >>> filterable_columns(frame)["sex"]
        {'kind': 'choice', 'values': ['male', 'female']}
    """
    wanted = [column for column in frame.columns if column not in _NO_FILTER]
    return {str(column): _described(frame[column].dropna()) for column in wanted}


def _described(values: pd.Series) -> dict[str, Any]:
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        if values.empty:
            return {"kind": "number", "least": None, "most": None}
        return {"kind": "number", "least": float(values.min()), "most": float(values.max())}
    counts = values.astype(str).value_counts()
    if len(counts) > _MOST_VALUES:
        return {"kind": "text"}
    return {"kind": "choice", "values": [str(value) for value in counts.index]}
