"""Searches in Milvus find what exact searches in process find."""

import numpy as np
import pandas as pd
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, ExactSearch, milvus_vectors

WHERE = [None, "sex=female", "age>=50", "label=mel and sex!=male", "labels=df", "age>100"]


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def some_cases(rng, names, groups, dim):
    """Cases of which many tie, some have several labels, and some values are missing."""
    n = len(names)
    frame = pd.DataFrame({"case_id": names})
    # A few groups hold most cases.
    frame["group"] = np.minimum(rng.geometric(0.15, n), groups).astype(str)
    frame["label"] = rng.choice(["nv", "mel", "bcc"], n)
    frame["labels"] = [
        frozenset({label}) | ({"df"} if rng.random() < 0.2 else set()) for label in frame["label"]
    ]
    frame["sex"] = rng.choice(["female", "male", None], n)
    frame["age"] = [50.0, *rng.choice([20.0, 50.0, 90.0, np.nan], n - 1)]
    return frame, unit(rng.integers(-1, 2, (n, dim)) + 0.01 * rng.integers(0, 2, (n, dim)) + 0.1)


@pytest.fixture
def settings(settings):
    return settings | {"embedding_dim": 6}


@pytest.fixture
def store(tmp_path, settings):
    with CaseStore.create(tmp_path / "cases.db", **settings) as opened:
        yield opened


def everything(search, query, where=None, excluded=(), k=16):
    ranking = search.rank(query, where, excluded)
    return (
        ranking.nearest(k),
        ranking.nearest_with({"mel"}),
        ranking.nearest_with({"none"}),
        ranking.groups,
        ranking.cases,
        ranking.archive_groups,
    )


def assert_same(search, exact, rng):
    for query in unit(rng.normal(size=(2, 6))):
        for where in WHERE:
            for k, excluded in ((5, ["1", "3"]), (500, ())):
                expected = everything(exact, query, where, excluded, k)
                assert everything(search, query, where, excluded, k) == expected
                assert len(expected[0]) == min(k, expected[3])


def test_finds_what_exact_search_finds(store, milvus, monkeypatch):
    rng = np.random.default_rng(1)
    search = milvus(store)
    # What is added is put in, not missed and then looked for.
    monkeypatch.setattr(search._mirror, "renew", None)
    assert everything(search, unit(np.ones(6))) == ([], None, None, 0, 0, 0)
    for before, cases in ((0, 1), (1, 40), (40, 700)):
        names = [f"c{i}" for i in range(before, cases)]
        store.add(*some_cases(rng, names, 60, 6), model_digest="m1")
        store.set_consent(names[3:9], "suspended")
        assert_same(search, ExactSearch(store), rng)


def test_finds_what_exact_search_finds_beyond_what_milvus_gives_at_once(store, milvus, monkeypatch):
    monkeypatch.setattr(milvus_vectors, "MOST_HITS", 64)
    monkeypatch.setattr(milvus_vectors, "_KEYS_AT_ONCE", 20)
    monkeypatch.setattr(milvus_vectors, "_SPAN", 48)
    rng = np.random.default_rng(4)
    store.add(*some_cases(rng, [f"c{i}" for i in range(400)], 90, 6), model_digest="m1")
    search = milvus(store)
    assert_same(search, ExactSearch(store), rng)
    assert search.vector_of("c7").tolist() == ExactSearch(store).vector_of("c7").tolist()
    store.set_consent("c7", "suspended")
    with pytest.raises(StoreError, match="no case 'c7' that may be shown"):
        search.vector_of("c7")


def test_a_case_suspended_while_a_ranking_is_asked_is_not_shown(store, milvus):
    frame, vectors = some_cases(np.random.default_rng(3), list("abcd"), 4, 6)
    store.add(frame.assign(group=list("1234")), vectors, model_digest="m1")
    ranking = milvus(store).rank(vectors[2])
    store.set_consent("c", "suspended")
    assert {hit.case_id for hit in ranking.nearest(9)} == {"a", "b", "d"}


def test_sees_every_change_at_the_next_search(store, milvus):
    rng = np.random.default_rng(0)
    search = milvus(store)
    new = iter(range(1000))
    for _ in range(16):
        there = store.frame()["case_id"]
        some = rng.permutation(there)[: int(rng.integers(1, 4))].tolist()
        action = rng.choice(["add", "withdraw", "suspended", "given", "replace", "update"])
        if action == "add" or not some:
            names = [f"n{next(new)}" for _ in range(int(rng.integers(1, 9)))]
            store.add(*some_cases(rng, names, 9, 6), model_digest="m1")
        elif action == "withdraw":
            store.withdraw(some)
        elif action == "replace":
            store.add(*some_cases(rng, some, 9, 6), model_digest="m1", replace=True)
        elif action == "update":
            store.update(some[0], label="mel", labels={"mel"})
        else:
            store.set_consent(some, action)
        query = unit(rng.normal(size=6))
        assert everything(search, query) == everything(ExactSearch(store), query), action
    assert everything(milvus(store), query) == everything(ExactSearch(store), query)
    assert store.frame()["case_id"].size > 5
