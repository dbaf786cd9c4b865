"""Votes and what they are worth, against plain loops and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from medshadow.evaluation.votes import (
    auc,
    class_means,
    majority_vote,
    mean_of_classes,
    member_means,
    share_of,
    vote_codes,
)


def slow_vote(labels):
    best = None
    for label in labels:
        if best is None or labels.count(label) > labels.count(best):
            best = label
    return best


def slow_auc(scores, positive, weights):
    wins = pairs = 0.0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if positive[i] and not positive[j]:
                both = weights[i] * weights[j]
                pairs += both
                wins += both * (1.0 if scores[i] > scores[j] else scores[i] == scores[j] and 0.5)
    return wins / pairs if pairs else float("nan")


def slow_class_means(values, codes, classes, weights):
    means = []
    for c in range(classes):
        mine = [i for i in range(len(values)) if codes[i] == c]
        count = sum(weights[i] for i in mine)
        means.append(sum(weights[i] * values[i] for i in mine) / count if count else float("nan"))
    return means


@st.composite
def weighted_queries(draw):
    n = draw(st.integers(1, 9))
    resamples = draw(st.integers(1, 3))
    numbers = st.integers(0, 3)
    values = draw(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=n, max_size=n))
    codes = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))
    weights = draw(
        st.lists(st.lists(numbers, min_size=n, max_size=n), min_size=resamples, max_size=resamples)
    )
    return np.array(values), np.array(codes), np.array(weights, dtype=np.float64)


class TestMajorityVote:
    @given(st.lists(st.sampled_from(["mel", "nv", "bcc", "df"]), min_size=1, max_size=9))
    def test_matches_a_loop(self, labels):
        assert majority_vote(labels) == slow_vote(labels)

    def test_a_tie_goes_to_the_nearest(self):
        assert majority_vote(["zz", "aa", "aa", "zz", "mm"]) == "zz"

    @pytest.mark.parametrize(
        ("neighbours", "vote"),
        [
            ([("C", "CD"), ("H", "DH"), ("N", "N")], "D"),
            ([("N", "N"), ("D", "DG"), ("G", "DG")], "D"),
            ([("G", "DG"), ("N", "N")], "G"),
            ([("G", "ADG")], "G"),
            ([("M", "M"), ("G", "ADG"), ("M", "ADM")], "M"),
            ([("M", "M"), ("G", "ADG"), ("N", "ADN")], "A"),
        ],
    )
    def test_each_neighbour_counts_for_every_label_it_carries(self, neighbours, vote):
        labels, sets = zip(*neighbours, strict=True)
        assert majority_vote(labels, [frozenset(own) for own in sets]) == vote

    def test_nobody_to_ask(self):
        with pytest.raises(ValueError, match="at least one neighbour"):
            majority_vote([])

    @given(st.lists(st.lists(st.integers(0, 3), max_size=6), min_size=1, max_size=5))
    def test_many_queries_at_once(self, rows):
        codes = np.full((len(rows), 6), -1)
        for i, row in enumerate(rows):
            codes[i, : len(row)] = row
        expected = [-1 if not row else slow_vote(row) for row in rows]
        assert vote_codes(codes, 4).tolist() == expected


def test_share_counts_only_the_neighbours_there_are():
    chosen = np.array([[True, True, False, False], [True, False, False, False], [False] * 4])
    assert share_of(chosen, np.array([4, 1, 0])).tolist() == [0.5, 1.0, 0.0]


class TestWeightedStatistics:
    @given(weighted_queries())
    def test_class_means_match_a_loop(self, queries):
        values, codes, weights = queries
        expected = [slow_class_means(values, codes, 3, row) for row in weights]
        np.testing.assert_allclose(class_means(values, codes, 3, weights), expected, rtol=1e-12)

    @given(weighted_queries(), st.integers(0, 2**16))
    def test_member_means_match_a_loop(self, queries, seed):
        _, _, weights = queries
        rng = np.random.default_rng(seed)
        member = rng.random((weights.shape[1], 4)) < 0.5
        values = rng.random(member.shape)
        found = member_means(values, member, weights)
        for label in range(4):
            mine = np.where(member[:, label], 0, 1)
            expected = [slow_class_means(values[:, label], mine, 1, row)[0] for row in weights]
            np.testing.assert_allclose(found[:, label], expected, rtol=1e-12)

    @given(weighted_queries())
    def test_auc_matches_a_loop_over_pairs(self, queries):
        values, codes, weights = queries
        expected = [slow_auc(values, codes == 0, row) for row in weights]
        np.testing.assert_allclose(auc(values, codes == 0, weights), expected, rtol=1e-12)

    @given(weighted_queries())
    def test_weights_mean_that_a_query_is_there_so_many_times(self, queries):
        values, codes, weights = queries
        for row in weights:
            often = np.repeat(np.arange(len(values)), row.astype(int))
            ones = np.ones((1, len(often)))
            for a, b in [
                (auc(values, codes == 0, row[None]), auc(values[often], codes[often] == 0, ones)),
                (
                    class_means(values, codes, 3, row[None]),
                    class_means(values[often], codes[often], 3, ones),
                ),
            ]:
                np.testing.assert_allclose(a, b, rtol=1e-12)

    def test_agree_with_scikit_learn(self):
        rng = np.random.default_rng(0)
        truth, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
        share = rng.integers(0, 17, 200) / 16
        ones = np.ones((1, 200))
        ours = mean_of_classes(class_means(said == truth, truth, 4, ones))[0]
        assert ours == pytest.approx(balanced_accuracy_score(truth, said))
        assert auc(share, truth > 1, ones)[0] == pytest.approx(roc_auc_score(truth > 1, share))

    def test_classes_without_queries_are_left_out_of_the_mean(self):
        means = np.array([[1.0, np.nan, 0.5], [np.nan, np.nan, np.nan]])
        np.testing.assert_array_equal(mean_of_classes(means), [0.75, np.nan])
