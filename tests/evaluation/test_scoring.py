"""Scores of whole rankings against loops, by findings and label by label."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import retrieval
from medshadow.evaluation.scoring import score_by_label, score_rankings


def slow_ranking(query, group, gallery):
    """Gallery rows for one query: every row compared, then one a group."""
    scored = []
    for row in range(len(gallery)):
        if gallery.groups[row] == group:
            continue
        known = gallery.embeddings[row].astype(np.float64)
        asked = query.astype(np.float64)
        length = np.sqrt((asked**2).sum()) * np.sqrt((known**2).sum())
        cosine = float((asked * known).sum() / length) if length > 0 else 0.0
        scored.append((-round(cosine, 6), row))
    seen, ranking = set(), []
    for _, row in sorted(scored):
        if gallery.groups[row] not in seen:
            seen.add(gallery.groups[row])
            ranking.append(row)
    return ranking


def slow_scores(row, k):
    """Every score of one ranking, given as a list of booleans, in the words of its definition."""
    R = row.count(True)
    shown = row[:k]
    return {
        "recall_at_1": float(True in row[:1]),
        f"recall_at_{k}": float(True in shown),
        f"precision_at_{k}": sum(shown) / len(shown) if shown else 0.0,
        "r_precision": sum(row[:R]) / R if R else 0.0,
        "map_at_r": sum(sum(row[:i]) / i for i in range(1, R + 1) if row[i - 1]) / R if R else 0.0,
        "mrr": 1 / (row.index(True) + 1) if R else 0.0,
    }


@settings(deadline=None, max_examples=60)
@given(st.data(), st.integers(1, 7))
def test_match_loops_over_the_whole_gallery(label_set_archives, data, k):
    gallery, queries = data.draw(label_set_archives)
    labels = ["C", "D", "G", "N", "O", "of nobody"]
    depths = {"recall_at": (1, k), "precision_at": k}
    scores, by_label = score_by_label(queries, gallery, labels, **depths)
    pd.testing.assert_frame_equal(scores, score_rankings(queries, gallery, **depths))
    for q in range(len(queries)):
        ranking = slow_ranking(queries.embeddings[q], queries.groups[q], gallery)
        row = [bool(queries.findings[q] & gallery.findings[g]) for g in ranking]
        expected = {**slow_scores(row, k), "relevant": row.count(True)}
        assert scores.loc[q].to_dict() == pytest.approx(expected)
        for code, label in enumerate(labels):
            row = [label in gallery.label_sets[g] for g in ranking]
            carries = label in queries.label_sets[q]
            for name, value in slow_scores(row, k).items():
                found = by_label[name][q, code]
                assert found == pytest.approx(value if carries else 0.0), (name, label)


def test_blocks_do_not_change_the_scores(eyes, monkeypatch):
    rng = np.random.default_rng(3)

    def some(n, first):
        sets = [set(rng.choice(list("CDN"), rng.integers(1, 3))) for _ in range(n)]
        return eyes(rng.normal(size=(n, 4)), range(first, first + n), sets)

    gallery, queries = some(30, 0), some(11, 25)
    depths = {"recall_at": (1, 5), "precision_at": 5}
    whole, by_label = score_by_label(queries, gallery, list("CDN"), **depths)
    monkeypatch.setattr(retrieval, "_BLOCK_VALUES", 4 * 30)
    parts, by_label_in_parts = score_by_label(queries, gallery, list("CDN"), **depths)
    pd.testing.assert_frame_equal(whole, parts)
    assert set(by_label) == set(by_label_in_parts)
    for name, table in by_label.items():
        np.testing.assert_array_equal(table, by_label_in_parts[name])


def test_the_query_s_own_lesion_is_no_hit(eyes):
    gallery = eyes([[1, 0], [0, 1]], ["mine", "other"], [{"mel"}, {"nv"}])
    query = eyes([[1, 0]], ["mine"], [{"mel"}])
    scores = score_rankings(query, gallery, recall_at=(1,), precision_at=1)
    assert scores.loc[0, ["recall_at_1", "relevant", "map_at_r"]].tolist() == [0, 0, 0]


def test_a_label_s_hit_need_not_share_the_keyword(eyes):
    gallery = eyes(np.eye(2), "ab", [{"O"}, {"N"}], [{"O: drusen"}, {"N"}])
    query = eyes([[1, 0]], ["q"], [{"O"}], [{"O: laser spot"}])
    scores, by_label = score_by_label(query, gallery, ["O"], recall_at=(1,), precision_at=1)
    assert scores["recall_at_1"].tolist() == [0]
    assert by_label["recall_at_1"].tolist() == [[1]]
