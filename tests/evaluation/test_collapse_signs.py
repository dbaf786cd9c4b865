"""Signs of collapse against loops, and at both ends of their ranges."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import collapse_signs


def unit(row):
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row] if length > 1e-12 else [0.0] * len(row)


def spelt_out(rows, labels):
    """The three signs in plain Python; the rank by the eigenvalues of the Gram matrix."""
    rows = [unit([float(v) for v in row]) for row in rows]
    dims = list(zip(*rows, strict=True))
    means = [sum(d) / len(d) for d in dims]
    deviations = [
        math.sqrt(sum((v - m) ** 2 for v in d) / len(d)) for d, m in zip(dims, means, strict=True)
    ]
    centroids = []
    for label in sorted(set(labels)):
        own = [row for row, other in zip(rows, labels, strict=True) if other == label]
        centroids.append(unit([sum(column) for column in zip(*own, strict=True)]))
    cosines = [
        sum(a * b for a, b in zip(centroids[i], centroids[j], strict=True))
        for i in range(len(centroids))
        for j in range(i)
    ]
    values = np.sqrt(np.clip(np.linalg.eigvalsh(np.array(rows) @ np.array(rows).T), 0, None))
    shares = [v / values.sum() for v in values if v > 1e-9]
    return {
        "spread": sum(deviations) / len(deviations),
        "effective_rank": math.exp(-sum(p * math.log(p) for p in shares)),
        "centroid_cosine": sum(cosines) / len(cosines),
    }


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(*[st.integers(-3, 3)] * 3).filter(any),
        min_size=3,
        max_size=9,
    ),
    st.integers(0, 2**16),
)
def test_signs_are_those_of_the_loops(rows, seed):
    labels = [0, 1, *np.random.default_rng(seed).integers(0, 3, len(rows) - 2)]
    found = collapse_signs(np.array(rows), np.array(labels))
    assert found == pytest.approx(spelt_out(rows, labels), abs=1e-6)


def test_one_point_is_the_end_of_every_range():
    signs = collapse_signs(np.tile([[3.0, 4.0]], (6, 1)), np.array([0, 0, 1, 1, 2, 2]))
    assert signs == pytest.approx({"spread": 0, "effective_rank": 1, "centroid_cosine": 1})


def test_lengths_do_not_count():
    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(12, 5)), np.arange(12) % 3
    stretched = rows * rng.uniform(0.1, 10, (12, 1))
    assert collapse_signs(stretched, labels) == pytest.approx(collapse_signs(rows, labels))


def test_random_directions_fill_the_range():
    rng = np.random.default_rng(0)
    signs = collapse_signs(rng.normal(size=(4000, 16)), np.arange(4000) % 4)
    assert signs["spread"] == pytest.approx(1 / 4, abs=0.01)
    assert signs["effective_rank"] == pytest.approx(16, abs=0.1)
    assert abs(signs["centroid_cosine"]) < 0.5


def test_one_class_has_no_centroids_to_compare():
    signs = collapse_signs(np.eye(3), np.array(["nv"] * 3))
    assert math.isnan(signs["centroid_cosine"])
    assert signs["effective_rank"] == pytest.approx(3)


@pytest.mark.parametrize(
    ("embeddings", "labels"),
    [
        (np.eye(3), np.zeros(2)),
        (np.ones(3), np.zeros(3)),
        (np.empty((0, 3)), np.empty(0)),
        (np.array([[1.0, np.nan], [0, 1]]), np.zeros(2)),
    ],
)
def test_mistakes_are_refused(embeddings, labels):
    with pytest.raises(ValueError, match=r"expected N x D|not finite"):
        collapse_signs(embeddings, labels)
