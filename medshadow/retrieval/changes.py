"""The statements that change the cases of a store, each inside a writer's turn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from sqlalchemy import bindparam, delete, insert, literal, select, update
from sqlalchemy.engine import Connection

from medshadow.errors import StoreError
from medshadow.retrieval.database import Turn
from medshadow.retrieval.rows import can_be_kept, checked_labels, checked_metadata
from medshadow.retrieval.schema import archive, cases, removals, thumbnails

# SQLite takes a bounded number of parameters in one statement.
_A_STATEMENT = 500


def parts(values: list[Any]) -> Iterator[list[Any]]:
    """A list in pieces that fit into one statement."""
    for first in range(0, len(values), _A_STATEMENT):
        yield values[first : first + _A_STATEMENT]


def numbers_of(connection: Connection, case_ids: list[str]) -> dict[str, int]:
    """The internal numbers of those case ids that are in the store."""
    found: dict[str, int] = {}
    for part in parts([case_id for case_id in case_ids if can_be_kept(case_id)]):
        query = select(cases.c.case_id, cases.c.id).where(cases.c.case_id.in_(part))
        found.update((row.case_id, row.id) for row in connection.execute(query))
    return found


def required_numbers(connection: Connection, case_ids: list[str]) -> list[int]:
    """The internal numbers of case ids, in their order.

    Raises:
        StoreError: one is not in the store.
    """
    numbers = numbers_of(connection, case_ids)
    unknown = sorted(set(case_ids) - set(numbers))
    if unknown:
        raise StoreError(f"no cases {unknown[:5]} in the store")
    return [numbers[case_id] for case_id in case_ids]


def put_cases(
    turn: Turn,
    rows: list[dict[str, Any]],
    vectors: np.ndarray,
    jpegs: list[bytes | None],
    model_digest: str,
) -> None:
    """Add rows (see ``plain_rows``) with their vectors, and the thumbnails there are.

    A case that is there already is replaced: it keeps its internal number and its consent.
    """
    connection = turn.connection
    kept = _delete_for_replacing(turn, [row["case_id"] for row in rows])
    keys = _new_keys(connection, len(rows))
    same = {"changed": turn.version, "added": turn.when, "model_digest": model_digest}
    values = []
    for row, key, vector in zip(rows, keys, vectors, strict=True):
        number, consent = kept.get(row["case_id"], (key, "given"))
        own = {"id": number, "key": key, "consent": consent, "embedding": vector.tobytes()}
        values.append({**row, **same, **own})
    connection.execute(insert(cases), values)
    pictures = [
        {"case": value["id"], "jpeg": jpeg}
        for value, jpeg in zip(values, jpegs, strict=True)
        if jpeg is not None
    ]
    if pictures:
        connection.execute(insert(thumbnails), pictures)
    added = [value["id"] for value in values if value["case_id"] not in kept]
    replaced = [number for number, _ in kept.values()]
    for action, numbers in (("add", added), ("replace", replaced)):
        if numbers:
            turn.record(action, numbers)


def renew_keys(turn: Turn, numbers: list[int]) -> None:
    """Give cases new keys, so that every reader reads them again."""
    retire_keys(turn, numbers)
    statement = (
        update(cases)
        .where(cases.c.id == bindparam("number"))
        .values(key=bindparam("new_key"), changed=turn.version)
    )
    keys = _new_keys(turn.connection, len(numbers))
    values = [{"number": n, "new_key": key} for n, key in zip(numbers, keys, strict=True)]
    if values:
        turn.connection.execute(statement, values)


def retire_keys(turn: Turn, numbers: list[int]) -> None:
    """Note that the present keys of cases are no longer to be found."""
    columns = (cases.c.key, cases.c.id, cases.c.changed, literal(turn.version))
    for part in parts(numbers):
        retired = select(removals.c.key).where(removals.c.key == cases.c.key).exists()
        there = select(*columns).where(cases.c.id.in_(part), ~retired)
        names = ["key", "case", "made", "version"]
        turn.connection.execute(insert(removals).from_select(names, there))


def write_consent(turn: Turn, numbers: list[int], consent: str) -> None:
    """Set the consent state of cases; those that have it already are passed by."""
    differ = [
        number
        for part in parts(numbers)
        for number in turn.connection.scalars(
            select(cases.c.id).where(cases.c.id.in_(part), cases.c.consent != consent)
        )
    ]
    for part in parts(differ):
        statement = update(cases).where(cases.c.id.in_(part)).values(consent=consent)
        turn.connection.execute(statement)
    if consent == "given":
        renew_keys(turn, differ)
    else:
        retire_keys(turn, differ)
    turn.record(f"consent {consent}", numbers)


def update_case(
    turn: Turn,
    case_id: str,
    label: str | None,
    labels: Iterable[str] | None,
    metadata: Mapping[str, Any] | None,
) -> None:
    """Correct what is said of a case; see ``CaseStore.update``."""
    if label is None and labels is None and not metadata:
        raise StoreError(f"case {case_id!r}: nothing to update; name a label, labels or metadata")
    (number,) = required_numbers(turn.connection, [case_id])
    columns = (cases.c.label, cases.c.labels, cases.c.metadata)
    row = turn.connection.execute(select(*columns).where(cases.c.id == number)).one()
    if labels is None:
        alone = label is not None and row.labels == [row.label]
        labels = [str(label)] if alone else row.labels
    label = row.label if label is None else label
    values = {
        "label": label,
        "labels": checked_labels(case_id, label, frozenset(labels)),
        "metadata": {**row.metadata, **checked_metadata(case_id, metadata or {})},
    }
    turn.connection.execute(update(cases).where(cases.c.id == number).values(values))
    renew_keys(turn, [number])
    turn.record("update", [number])


def delete_cases(connection: Connection, numbers: Iterable[int]) -> None:
    """Delete cases with their vectors and thumbnails."""
    for part in parts(list(numbers)):
        connection.execute(delete(cases).where(cases.c.id.in_(part)))


def _delete_for_replacing(turn: Turn, case_ids: list[str]) -> dict[str, tuple[int, str]]:
    """Delete those cases that are there: case id to the internal number and consent it keeps."""
    kept: dict[str, tuple[int, str]] = {}
    for part in parts(case_ids):
        query = select(cases.c.case_id, cases.c.id, cases.c.consent)
        for row in turn.connection.execute(query.where(cases.c.case_id.in_(part))):
            kept[row.case_id] = (row.id, row.consent)
    numbers = [number for number, _ in kept.values()]
    retire_keys(turn, numbers)
    delete_cases(turn.connection, numbers)
    return kept


def _new_keys(connection: Connection, count: int) -> range:
    connection.execute(update(archive).values(last_key=archive.c.last_key + count))
    last = connection.execute(select(archive.c.last_key)).scalar_one()
    return range(last - count + 1, last + 1)
