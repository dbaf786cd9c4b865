"""Geometry of embeddings against loops over all pairs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import silhouette_samples

from medshadow.evaluation import geometry
from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.geometry import (
    alignment,
    effective_rank,
    hubness,
    silhouettes,
    uniformity,
)


def cases(embeddings, labels, groups=None):
    n = len(labels)
    groups = list(range(n)) if groups is None else groups
    frame = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "group": [str(g) for g in groups],
            "label": [str(label) for label in labels],
        }
    )
    return EmbeddedCases(np.asarray(embeddings, dtype=np.float32), frame)


@st.composite
def small_cases(draw):
    """A few vectors with whole-number coordinates, copies and zero vectors among them."""
    dims = draw(st.integers(1, 3))
    vector = st.lists(st.integers(-2, 2), min_size=dims, max_size=dims)
    row = st.tuples(vector, st.sampled_from(["mel", "nv", "df"]), st.integers(0, 3))
    return cases(*zip(*draw(st.lists(row, min_size=1, max_size=9)), strict=True))


def unit(some):
    rows = []
    for row in some.embeddings.astype(np.float64):
        length = math.sqrt(sum(v * v for v in row))
        rows.append(row / length if length else row)
    return rows


def squared_distance(x, y):
    return float(((x - y) ** 2).sum())


def slow_silhouettes(some):
    x, labels = unit(some), list(some.labels)
    values = []
    for i in range(len(x)):
        to_class = {}
        for j in range(len(x)):
            if j != i:
                to_class.setdefault(labels[j], []).append(1 - float(x[i] @ x[j]))
        own = to_class.pop(labels[i], None)
        if own is None:
            values.append(0.0 if len(set(labels)) > 1 else math.nan)
            continue
        if not to_class:
            values.append(math.nan)
            continue
        a, b = np.mean(own), min(np.mean(d) for d in to_class.values())
        values.append((b - a) / max(a, b) if max(a, b) > 1e-12 else 0.0)
    return values


def slow_alignment(some):
    x, means = unit(some), []
    for label in sorted(set(some.labels)):
        pairs = [
            squared_distance(x[i], x[j])
            for i in range(len(x))
            for j in range(i)
            if some.labels[i] == some.labels[j] == label and some.groups[i] != some.groups[j]
        ]
        if pairs:
            means.append(sum(pairs) / len(pairs))
    return sum(means) / len(means) if means else math.nan


def slow_uniformity(some):
    x = unit(some)
    near = [math.exp(-2 * squared_distance(x[i], x[j])) for i in range(len(x)) for j in range(i)]
    return math.log(sum(near) / len(near)) if near else math.nan


def slow_hubness(index, groups):
    counts = dict.fromkeys(groups, 0)
    for row in index:
        for i in row:
            if i >= 0:
                counts[groups[i]] += 1
    values = list(counts.values())
    mean = sum(values) / len(values)
    second = sum((v - mean) ** 2 for v in values) / len(values)
    third = sum((v - mean) ** 3 for v in values) / len(values)
    return third / second**1.5 if second else 0.0


class TestSilhouettes:
    @settings(deadline=None, max_examples=60)
    @given(small_cases())
    def test_matches_loops_over_pairs(self, some):
        np.testing.assert_allclose(silhouettes(some), slow_silhouettes(some), atol=1e-9)

    def test_agrees_with_scikit_learn(self):
        rng = np.random.default_rng(0)
        some = cases(rng.normal(size=(60, 5)) + 1, rng.choice(list("abc"), 60))
        expected = silhouette_samples(some.embeddings, some.labels.astype(str), metric="cosine")
        np.testing.assert_allclose(silhouettes(some), expected, atol=1e-5)


def slow_effective_rank(some):
    """From the eigenvalues of the pairwise cosines, found by Jacobi's rotations, pair by pair."""
    rows = unit(some)
    gram = [[sum(a * b for a, b in zip(x, y, strict=True)) for y in rows] for x in rows]
    for _ in range(30):
        for p, q in itertools.combinations(range(len(gram)), 2):
            angle = 0.5 * math.atan2(2 * gram[p][q], gram[q][q] - gram[p][p])
            c, s = math.cos(angle), math.sin(angle)
            for row in gram:
                row[p], row[q] = c * row[p] - s * row[q], s * row[p] + c * row[q]
            gram[p], gram[q] = (
                [c * a - s * b for a, b in zip(gram[p], gram[q], strict=True)],
                [s * a + c * b for a, b in zip(gram[p], gram[q], strict=True)],
            )
    # Rounding leaves a null eigenvalue at some 1e-16, whose root would count.
    values = [math.sqrt(gram[i][i]) for i in range(len(gram)) if gram[i][i] > 1e-12]
    return math.exp(-sum(v / sum(values) * math.log(v / sum(values)) for v in values))


class TestEffectiveRank:
    @settings(deadline=None, max_examples=60)
    @given(small_cases())
    def test_matches_rotations_by_hand(self, some):
        expected = slow_effective_rank(some) if some.embeddings.any() else 0.0
        assert effective_rank(some) == pytest.approx(expected, abs=1e-5)

    def test_by_hand(self):
        # Two directions, one three times as frequent: singular values sqrt(3) and 1.
        p = math.sqrt(3) / (math.sqrt(3) + 1)
        expected = math.exp(-p * math.log(p) - (1 - p) * math.log(1 - p))
        some = cases([[1, 0], [1, 0], [1, 0], [0, 1]], ["nv"] * 4)
        assert effective_rank(some) == pytest.approx(expected)

    def test_a_collapsed_embedding_uses_one_dimension(self):
        noise = np.random.default_rng(0).normal(size=(50, 16)) * 1e-6
        assert effective_rank(cases(noise + 1, ["nv"] * 50)) == pytest.approx(1, abs=1e-3)

    def test_spread_evenly_it_uses_all(self):
        some = cases(np.repeat(np.eye(6), 3, axis=0), ["nv"] * 18)
        assert effective_rank(some) == pytest.approx(6)

    def test_nothing_but_zeros(self):
        assert effective_rank(cases(np.zeros((3, 2)), ["nv"] * 3)) == 0


class TestAlignmentAndUniformity:
    @settings(deadline=None, max_examples=60)
    @given(small_cases())
    def test_match_loops_over_pairs(self, some):
        assert alignment(some) == pytest.approx(slow_alignment(some), abs=1e-9, nan_ok=True)
        assert uniformity(some) == pytest.approx(slow_uniformity(some), abs=1e-9, nan_ok=True)

    def test_blocks_do_not_change_uniformity(self, monkeypatch):
        some = cases(np.random.default_rng(1).normal(size=(17, 3)), ["nv"] * 17)
        whole = uniformity(some)
        monkeypatch.setattr(geometry, "_BLOCK_VALUES", 4 * 17)
        assert uniformity(some) == pytest.approx(whole, rel=1e-12)


class TestHubness:
    @given(
        st.lists(st.lists(st.integers(-1, 5), min_size=2, max_size=2), min_size=1, max_size=8),
        st.lists(st.sampled_from("abcd"), min_size=6, max_size=6),
    )
    def test_matches_a_loop(self, index, groups):
        fast = hubness(np.array(index), np.array(groups, dtype=object))
        assert fast == pytest.approx(slow_hubness(index, groups), abs=1e-9)
