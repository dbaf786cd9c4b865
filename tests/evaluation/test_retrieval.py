"""Nearest groups, votes and ranking metrics against slow twins written as plain loops."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import retrieval
from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.retrieval import majority_vote, nearest_groups, vote_codes


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


def slow_vote(labels):
    best = None
    for label in labels:
        if best is None or labels.count(label) > labels.count(best):
            best = label
    return best


class TestNearestGroups:
    @settings(deadline=None)
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


class TestMajorityVote:
    @given(st.lists(st.sampled_from(["mel", "nv", "bcc", "df"]), min_size=1, max_size=9))
    def test_matches_a_loop(self, labels):
        assert majority_vote(labels) == slow_vote(labels)

    def test_a_tie_goes_to_the_nearest(self):
        assert majority_vote(["zz", "aa", "aa", "zz", "mm"]) == "zz"

    def test_nobody_to_ask(self):
        with pytest.raises(ValueError, match="at least one neighbour"):
            majority_vote([])

    def test_missing_neighbours_do_not_vote(self):
        codes = np.array([[1, 0, 0, -1, -1], [2, -1, -1, -1, -1], [-1] * 5])
        assert vote_codes(codes, 3).tolist() == [0, 2, -1]
