"""What a ranking asks of Milvus, against answers computed here: no row is lost on the way."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.errors import StoreError
from medshadow.retrieval import milvus_vectors
from medshadow.retrieval.milvus_vectors import MilvusVectors
from medshadow.retrieval.similarities import LOWEST


class Collection:
    """Answers as a collection does, at most so many at once; keys of the past are in it too.

    Filters of Milvus that name keys alone are read as Python's.
    """

    def __init__(self, keys, similarities, most):
        self.keys, self.similarities, self.most = keys, similarities, most
        self.server = SimpleNamespace(address="http://milvus:19530")
        self.name, self.renewed = "c", 0

    def nearest(self, query, limit, where=""):
        assert 0 < limit <= self.most
        met = np.array([eval(where or "True", {"key": key}) for key in self.keys.tolist()], bool)
        order = np.argsort(-self.similarities[met], kind="stable")[:limit]
        return self.keys[met][order], self.similarities[met][order]

    def renew(self, failed):
        self.renewed += 1


def vectors_in(collection, keys, gone=()):
    """What a search has of it: the store no longer shows some keys."""
    store = SimpleNamespace(
        embedding_dim=2,
        vectors_of=lambda asked: np.tile(~np.isin(asked, list(gone))[:, None], 2).astype("f4"),
    )
    return MilvusVectors(store, collection, keys)


@pytest.fixture(autouse=True)
def few_at_once(monkeypatch):
    monkeypatch.setattr(milvus_vectors, "MOST_HITS", 12)
    monkeypatch.setattr(milvus_vectors, "_SPAN", 6)
    monkeypatch.setattr(milvus_vectors, "_KEYS_AT_ONCE", 8)


@st.composite
def questions(draw):
    n = draw(st.integers(1, 60))
    every = np.sort(draw(st.permutations(range(1, 100)))[: n + n // 12])
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    # In few steps, so that many tie at the edge of an answer.
    similarities = (rng.integers(-5, 6, len(every)) / 5).astype(np.float32)
    known = np.sort(rng.permutation(len(every))[:n])
    allowed = rng.random(n) < draw(st.sampled_from([0.05, 0.5, 1.0]))
    return every, similarities, known, allowed


@settings(max_examples=150, deadline=None)
@given(asked=questions(), at_once=st.sampled_from([2, 8]), wanted=st.integers(1, 70))
def test_what_is_found_is_everything_that_reaches_a_similarity(asked, at_once, wanted):
    every, similarities, known, allowed = asked
    milvus_vectors._KEYS_AT_ONCE, before = at_once, milvus_vectors._KEYS_AT_ONCE
    try:
        collection = Collection(every, similarities, most=12)
        vectors = vectors_in(collection, every[known])
        found = vectors.similarities(np.zeros(2, np.float32), allowed)
        of_row = np.where(allowed, similarities[known], -np.inf)
        for part, may in ((found, of_row), (found.among(known % 2 == 0), None)):
            may = np.where(known % 2 == 0, of_row, -np.inf) if may is None else may
            floor = part.floor(wanted)
            assert (floor == LOWEST) == (wanted >= np.count_nonzero(may > LOWEST))
            assert np.count_nonzero(may >= floor) >= min(wanted, np.count_nonzero(may > LOWEST))
            for value in (floor, 0.4, -0.2, LOWEST):
                rows, reached = part.above(value)
                assert sorted(rows) == np.flatnonzero(may >= value).tolist()
                np.testing.assert_array_equal(reached, may[rows].astype(np.float32))
        gone = np.flatnonzero(allowed)[:2]
        found.forget(gone)
        assert not np.isin(gone, found.above(LOWEST)[0]).any()
        assert collection.renewed == 0
    finally:
        milvus_vectors._KEYS_AT_ONCE = before


def test_a_row_that_is_not_in_the_collection_is_looked_for_and_then_an_error():
    keys = np.arange(1, 31)
    collection = Collection(np.delete(keys, 6), np.linspace(0, 1, 29, dtype="f4"), most=12)
    found = vectors_in(collection, keys).similarities(np.zeros(2), np.ones(30, bool))
    with pytest.raises(StoreError, match="Milvus at http://milvus:19530 does not find 1 of 30"):
        found.above(LOWEST)
    assert collection.renewed == 1


def test_a_row_that_was_withdrawn_meanwhile_is_not_missed():
    keys = np.arange(1, 31)
    collection = Collection(np.delete(keys, 6), np.linspace(0, 1, 29, dtype="f4"), most=12)
    vectors = vectors_in(collection, keys, gone=[7])
    rows, _ = vectors.similarities(np.zeros(2), np.ones(30, bool)).above(LOWEST)
    assert sorted(rows) == np.delete(np.arange(30), 6).tolist()
    assert collection.renewed == 0
