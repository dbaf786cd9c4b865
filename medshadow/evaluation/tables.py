"""The tables of the diagnostics: confusion of the vote, and who was found for whom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.labelsets import Sharing, primary_first
from medshadow.evaluation.retrieval import Neighbours


def confusion_table(truth: np.ndarray, said: np.ndarray, classes: Sequence[str]) -> pd.DataFrame:
    """Count queries by true label (rows) and vote (columns).

    Args:
        truth: int Q, the place of each query's label in ``classes``; of several, the one that the
            vote is held against.
        said: int Q, the place of the vote; -1 for a query without neighbours, which is not counted.
        classes: the labels, in the order of rows and columns.

    Example:
        >>> confusion_table(np.array([0, 1]), np.array([1, 1]), ["mel", "nv"]).loc["mel", "nv"]
        np.int64(1)
    """
    n = len(classes)
    voted = said >= 0
    cells = np.bincount(truth[voted] * n + said[voted], minlength=n * n)
    return pd.DataFrame(
        cells.reshape(n, n),
        index=pd.Index(classes, name="truth"),
        columns=pd.Index(classes, name="vote"),
    )


def neighbour_table(
    gallery: EmbeddedCases, queries: EmbeddedCases, neighbours: Neighbours
) -> pd.DataFrame:
    """One row a query and neighbour, nearest first; ``rank`` counts from 1.

    Where cases carry several labels, ``query_labels`` and ``labels`` hold their sets as text, the
    label that stands for the case first, and ``hit`` says whether the two share a finding.
    """
    query, rank = np.nonzero(neighbours.index >= 0)
    row = neighbours.index[query, rank]
    table = pd.DataFrame(
        {
            "query": queries.case_ids[query],
            "query_label": queries.labels[query],
            "rank": rank + 1,
            "case_id": gallery.case_ids[row],
            "group": gallery.groups[row],
            "label": gallery.labels[row],
            "similarity": neighbours.similarity[query, rank],
        }
    )
    if queries.multi_label or gallery.multi_label:
        for name, cases, rows in (("query_labels", queries, query), ("labels", gallery, row)):
            sets = zip(cases.labels, cases.label_sets, strict=True)
            words = [" + ".join(primary_first(*both)) for both in sets]
            table[name] = np.array(words, dtype=object)[rows]
        everyone = np.arange(len(queries))
        table["hit"] = Sharing(queries, gallery)(everyone, neighbours.index)[query, rank]
    return table
