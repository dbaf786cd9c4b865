"""Building a case store and adding to it, in batches that can be gone on with after a stop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from medshadow.data.cases import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, encode_cases, thumbnails_of
from medshadow.retrieval.rows import checked_frame, plain_rows

if TYPE_CHECKING:
    from medshadow.networks import Embedder

# Of the store's own making, in its frame.
_OWN_COLUMNS = ["consent", "added"]


@dataclass(frozen=True)
class Added:
    """What adding a table to a store came to, in cases.

    Attributes:
        added: encoded and written now, those replaced among them.
        known: left as they were: in the store already, with the same content.
        withdrawn: left out: they were withdrawn from the store before.
    """

    added: int
    known: int
    withdrawn: int = 0


def add_cases(
    store: CaseStore,
    embedder: Embedder,
    cases: CaseTable,
    *,
    embeddings: np.ndarray | None = None,
    replace_changed: bool = False,
    batch_size: int = 512,
    by: str = "",
    progress: bool = True,
) -> Added:
    """Encode the cases that a store does not have yet, and add them.

    Each batch is in the store for good before the next is encoded. After a stop at any point the
    same call goes on with what is missing, and a second call after the last finds nothing to do.
    Cases that were withdrawn from the store before stay out.

    Args:
        store: where to.
        embedder: the model whose vectors the store keeps.
        cases: the table; its order is the order of adding.
        embeddings: float32 N x D of the table's cases by this model, where they are at hand.
        replace_changed: whether to replace cases whose label, group or metadata differ from the
            table's, and to take cases back that were withdrawn.
        batch_size: cases encoded and written at a time.
        by: who adds, for the trail.
        progress: whether to show a bar.

    Raises:
        StoreError: the store holds another model's vectors; there are not as many embeddings as
            cases; or, unless ``replace_changed``, a case is in the store with other content.
            Nothing is written then.
        ImageReadError: an image cannot be read; the batches before it are kept.
    """
    check_model(store, embedder)
    if embeddings is not None and len(embeddings) != len(cases):
        raise StoreError(f"{len(embeddings)} embeddings for {len(cases)} cases; expected one each")
    found = compared(store, cases)
    if found.changed and not replace_changed:
        raise StoreError(
            f"{len(found.changed)} cases are in the store with other content: "
            f"{found.changed[:5]}; replace them (--replace), or leave them out of the table"
        )
    withdrawn = frozenset() if replace_changed else store.withdrawn_among(found.missing)
    wanted = cases.frame["case_id"].isin({*found.missing, *found.changed} - withdrawn)
    rows = cases.frame[wanted].reset_index(drop=True)
    at_hand = None if embeddings is None else embeddings[wanted.to_numpy()]
    with tqdm(total=len(rows), desc="adding", unit="image", disable=not progress) as bar:
        for first in range(0, len(rows), batch_size):
            batch = slice(first, first + batch_size)
            part = replace(cases, frame=rows[batch].reset_index(drop=True))
            store.add(
                part,
                encode_cases(embedder, part, progress=False) if at_hand is None else at_hand[batch],
                model_digest=embedder.digest,
                thumbnails=thumbnails_of(part.frame["image"], progress=False),
                replace=replace_changed,
                resume=not replace_changed,
                by=by,
            )
            bar.update(len(part))
    return Added(len(rows), len(cases) - len(rows) - len(withdrawn), len(withdrawn))


def check_model(store: CaseStore, embedder: Embedder) -> None:
    """Refuse a model whose vectors the store does not take.

    Raises:
        StoreError: the store holds another model's vectors.
    """
    if embedder.digest != store.model_digest:
        raise StoreError(
            f"the store holds vectors of model {store.model_digest[:12]}; found model "
            f"{embedder.digest[:12]}; vectors of two models cannot be compared"
        )


@dataclass(frozen=True)
class Comparison:
    """What a store has of a table's cases, by case ids in the table's order.

    Attributes:
        missing: the store has not.
        changed: it has with another label, group or metadata.
        others: cases of the store that the table has not.
    """

    missing: list[str]
    changed: list[str]
    others: list[str]


def compared(store: CaseStore, cases: CaseTable) -> Comparison:
    """Compare a store with a table, vectors and pictures apart."""
    there = store.frame().drop(columns=_OWN_COLUMNS)
    named = there["case_id"].isin(cases.frame["case_id"])
    known, wanted = _contents(there[named]), _contents(cases.frame)
    return Comparison(
        missing=[case for case in wanted if case not in known],
        changed=[case for case, told in wanted.items() if known.get(case, told) != told],
        others=there["case_id"][~named].tolist(),
    )


def _contents(frame: pd.DataFrame) -> dict[str, Any]:
    """What a store keeps of each case besides vector and thumbnail; empty metadata left out."""
    rows = plain_rows(checked_frame(frame)) if len(frame) else ()
    return {row["case_id"]: {**row, "metadata": _told(row["metadata"])} for row in rows}


def _told(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metadata.items() if value is not None}
