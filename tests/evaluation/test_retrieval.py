"""Nearest groups and ranking metrics against slow twins written as plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import retrieval
from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.retrieval import (
    map_at_r,
    nearest_groups,
    precision_at_k,
    r_precision,
    recall_at_k,
    reciprocal_rank,
)


def cases(embeddings, groups, labels=None, prefix="c"):
    n = len(groups)
    frame = pd.DataFrame(
        {
            "case_id": [f"{prefix}{i}" for i in range(n)],
            "group": [str(g) for g in groups],
            "label": [str(x) for x in (labels if labels is not None else ["nv"] * n)],
        }
    )
    return EmbeddedCases(np.asarray(embeddings, dtype=np.float32), frame)


@st.composite
def archives(draw):
    """A small gallery and queries with many ties, groups of several images, some shared."""
    dims = draw(st.integers(1, 3))
    # Few whole-number coordinates: copies, opposite vectors and zero vectors turn up often.
    vector = st.lists(st.integers(-1, 1), min_size=dims, max_size=dims)
    row = st.tuples(vector, st.integers(0, 4), st.sampled_from(["mel", "nv", "df"]))
    gallery = draw(st.lists(row, min_size=1, max_size=9))
    queries = draw(st.lists(row, min_size=1, max_size=5))
    made = [
        cases(*zip(*rows, strict=True), prefix=p) for rows, p in ((gallery, "g"), (queries, "q"))
    ]
    return made[0], made[1]


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
    for negative, row in sorted(scored, key=lambda pair: (pair[0], pair[1])):
        if gallery.groups[row] not in seen:
            seen.add(gallery.groups[row])
            ranking.append((row, -negative))
    return ranking


class TestNearestGroups:
    @settings(deadline=None, max_examples=60)
    @given(archives(), st.one_of(st.none(), st.integers(1, 7)))
    def test_matches_a_loop_over_all_rows(self, archive, k):
        gallery, queries = archive
        found = nearest_groups(queries, gallery, k)
        width = len(set(gallery.groups)) if k is None else k
        assert found.index.shape == found.similarity.shape == (len(queries), width)
        assert found.index.dtype == np.int64
        assert found.similarity.dtype == np.float32
        for i in range(len(queries)):
            expected = slow_ranking(queries.embeddings[i], queries.groups[i], gallery)[:width]
            padding = width - len(expected)
            assert found.index[i].tolist() == [row for row, _ in expected] + [-1] * padding
            np.testing.assert_allclose(
                found.similarity[i], [s for _, s in expected] + [np.nan] * padding, atol=2e-6
            )

    def test_blocks_do_not_change_the_answer(self, monkeypatch):
        rng = np.random.default_rng(0)
        gallery = cases(rng.normal(size=(40, 5)), rng.integers(0, 15, 40))
        queries = cases(rng.normal(size=(23, 5)), rng.integers(10, 30, 23))
        whole = nearest_groups(queries, gallery, 4)
        monkeypatch.setattr(retrieval, "_BLOCK_VALUES", 7 * 40)
        parts = nearest_groups(queries, gallery, 4)
        np.testing.assert_array_equal(whole.index, parts.index)
        np.testing.assert_array_equal(whole.similarity, parts.similarity)

    def test_copies_of_an_image_tie_and_go_in_gallery_order(self):
        rng = np.random.default_rng(1)
        one = rng.normal(size=(1, 64))
        gallery = cases(np.repeat(one, 50, axis=0), range(50))
        found = nearest_groups(cases(rng.normal(size=(9, 64)), ["x"] * 9), gallery, None)
        assert (found.index == np.arange(50)).all()

    def test_zero_and_minus_zero_similarity_tie(self):
        gallery = cases([[0, 1], [0, -1], [0, 1]], [0, 1, 2])
        found = nearest_groups(cases([[-1e-30, 0]], ["x"]), gallery, None)
        assert found.index.tolist() == [[0, 1, 2]]

    def test_scale_of_embeddings_does_not_matter(self):
        rng = np.random.default_rng(2)
        known, asked = rng.normal(size=(12, 4)), rng.normal(size=(5, 4))
        scale = rng.uniform(1e-3, 1e3, size=(12, 1))
        plain = nearest_groups(cases(asked, ["x"] * 5), cases(known, range(12)), 3)
        scaled = nearest_groups(cases(asked, ["x"] * 5), cases(known * scale, range(12)), 3)
        np.testing.assert_array_equal(plain.index, scaled.index)

    def test_k_below_one_is_refused(self):
        some = cases(np.eye(2), [0, 1])
        with pytest.raises(ValueError, match=r"k must be at least 1.*found 0"):
            nearest_groups(some, some, 0)

    def test_other_dimension_is_refused(self):
        with pytest.raises(ValueError, match="2 dimensions, the gallery 3"):
            nearest_groups(cases(np.eye(2), [0, 1]), cases(np.eye(3), [0, 1, 2]), 1)


@st.composite
def rankings(draw):
    """Relevance of up to 12 neighbours, and how many there are, for some queries."""
    width = draw(st.integers(1, 12))
    rows = draw(st.lists(st.lists(st.booleans(), max_size=width), min_size=1, max_size=5))
    relevant = np.zeros((len(rows), width), dtype=bool)
    for i, row in enumerate(rows):
        relevant[i, : len(row)] = row
    return rows, relevant, np.array([len(row) for row in rows])


def slow_recall(row, k):
    return 1.0 if True in row[:k] else 0.0


def slow_precision(row, k):
    shown = row[:k]
    return sum(shown) / len(shown) if shown else 0.0


def slow_r_precision(row):
    R = row.count(True)
    return row[:R].count(True) / R if R else 0.0


def slow_map_at_r(row):
    R = row.count(True)
    total = 0.0
    for i in range(1, R + 1):
        if row[i - 1]:
            total += row[:i].count(True) / i
    return total / R if R else 0.0


def slow_reciprocal_rank(row):
    return 1 / (row.index(True) + 1) if True in row else 0.0


class TestRankingMetrics:
    @given(rankings(), st.integers(1, 14))
    def test_match_their_loops(self, ranked, k):
        rows, relevant, available = ranked
        for fast, slow in [
            (recall_at_k(relevant, k), [slow_recall(row, k) for row in rows]),
            (precision_at_k(relevant, available, k), [slow_precision(row, k) for row in rows]),
            (r_precision(relevant), [slow_r_precision(row) for row in rows]),
            (map_at_r(relevant), [slow_map_at_r(row) for row in rows]),
            (reciprocal_rank(relevant), [slow_reciprocal_rank(row) for row in rows]),
        ]:
            assert fast.dtype == np.float64
            np.testing.assert_allclose(fast, slow, rtol=1e-12)

    def test_a_short_gallery_does_not_lower_precision(self):
        relevant = np.array([[True, True, False, False]])
        assert precision_at_k(relevant, np.array([2]), 16).tolist() == [1.0]
        assert precision_at_k(relevant, np.array([4]), 16).tolist() == [0.5]

    def test_map_at_r_by_hand(self):
        # R = 3; hits at places 1 and 3 count 1/1 and 2/3; the hit at place 5 is beyond R.
        relevant = np.array([[True, False, True, False, True]])
        assert map_at_r(relevant)[0] == pytest.approx((1 + 2 / 3) / 3)

    def test_k_below_one_is_refused(self):
        with pytest.raises(ValueError, match="k must be at least 1"):
            recall_at_k(np.ones((1, 1), dtype=bool), 0)
