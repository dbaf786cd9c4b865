"""Every query's complete ranking scored: by findings shared and, where asked, label by label."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.labelsets import Sharing, multi_hot
from medshadow.evaluation.retrieval import (
    map_at_r,
    precision_at_k,
    r_precision,
    ranked_blocks,
    recall_at_k,
    reciprocal_rank,
)


def score_rankings(
    queries: EmbeddedCases, gallery: EmbeddedCases, *, recall_at: Sequence[int], precision_at: int
) -> pd.DataFrame:
    """Rank all gallery groups for each query (see `nearest_groups`) and score every ranking.

    A neighbour is relevant if the shown image, the one of its group nearest to the query, shares a
    finding with it: where cases carry one label each, if it carries the query's label. Queries are
    worked through in blocks: memory does not grow with their number.

    Args:
        queries: Q cases.
        gallery: N cases.
        recall_at: each k for recall@k.
        precision_at: the k for precision@k.

    Returns:
        Q rows in query order, float64 columns ``recall_at_<k>``, ``precision_at_<k>``,
        ``r_precision``, ``map_at_r``, ``mrr``, and ``relevant``: R, the number of relevant
        neighbours there are (0: no other group of the gallery shares a finding).
    """
    scores, _ = score_by_label(queries, gallery, (), recall_at=recall_at, precision_at=precision_at)
    return scores


def score_by_label(
    queries: EmbeddedCases,
    gallery: EmbeddedCases,
    labels: Sequence[str],
    *,
    recall_at: Sequence[int],
    precision_at: int,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """`score_rankings`, and the same rankings scored anew for each label that a query carries.

    For the scores of a label a neighbour is relevant if the shown image carries that label,
    whatever else it carries; R counts the neighbours that do. A query that carries a label which no
    other gallery group carries has 0 for it.

    Args:
        queries: Q cases.
        gallery: N cases.
        labels: L labels to score one by one.
        recall_at: each k for recall@k.
        precision_at: the k for precision@k.

    Returns:
        The frame of `score_rankings`; and name -> float64 Q x L, its columns less ``relevant``,
        0 where the query does not carry the label.
    """
    shares = Sharing(queries, gallery)
    asked, known = (multi_hot(cases.label_sets, labels) for cases in (queries, gallery))
    blocks = []
    by_label: dict[str, np.ndarray] = {}
    for rows, index, _ in ranked_blocks(queries, gallery, None):
        there = index >= 0
        relevant = shares(rows, index)
        scores = _scores(relevant, there.sum(axis=1), recall_at, precision_at)
        blocks.append(pd.DataFrame({**scores, "relevant": relevant.sum(axis=1, dtype=np.float64)}))
        for code in range(len(labels)):
            mine = np.flatnonzero(asked[rows, code])
            carrying = there[mine] & known[index[mine], code]
            found = _scores(carrying, there[mine].sum(axis=1), recall_at, precision_at)
            for name, values in found.items():
                table = by_label.setdefault(name, np.zeros(asked.shape))
                table[rows.start + mine, code] = values
    return pd.concat(blocks, ignore_index=True), by_label


def _scores(
    relevant: np.ndarray, available: np.ndarray, recall_at: Sequence[int], precision_at: int
) -> dict[str, np.ndarray]:
    return {
        **{f"recall_at_{k}": recall_at_k(relevant, k) for k in recall_at},
        f"precision_at_{precision_at}": precision_at_k(relevant, available, precision_at),
        "r_precision": r_precision(relevant),
        "map_at_r": map_at_r(relevant),
        "mrr": reciprocal_rank(relevant),
    }
