"""Searching, looking up and building on a real PostgreSQL server, as on a SQLite file."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from medshadow.data import read_image
from medshadow.retrieval import CaseLookup, CaseStore, ExactSearch
from medshadow.workflows import building
from medshadow.workflows.building import build_store

CONDITIONS = [None, "sex=female", "age>=30 and sex=male", "label=mel", "age>1000"]


@pytest.fixture
def pair(store, postgres_url, settings, some):
    """A SQLite and a PostgreSQL store of the same forty cases, and a search in each."""
    rng = np.random.default_rng(6)
    frame = some.frame(
        40,
        sex=rng.choice(["female", "male"], 40),
        age=[None if n % 9 == 4 else 20.0 + n for n in range(40)],
    ).assign(label=rng.choice(["nv", "mel", "bkl"], 40))
    with CaseStore.create(postgres_url, **settings) as postgres:
        assert postgres.vectors_path is None
        for one in (store, postgres):
            one.add(frame, some.vectors(40), model_digest="m1")
        yield (store, ExactSearch(store)), (postgres, ExactSearch(postgres))


@pytest.mark.parametrize("where", CONDITIONS)
def test_finds_what_a_search_in_sqlite_finds(pair, some, where):
    (_, in_file), (_, on_server) = pair
    for query in some.vectors(5, seed=9):
        for excluded in ((), ("g0", "g7")):
            expected = in_file.search(query, 12, where, excluded)
            assert on_server.search(query, 12, where, excluded) == expected
            assert bool(expected) == (where != "age>1000")
            nearest = [
                search.rank(query, where, excluded).nearest_with({"mel"})
                for search in (in_file, on_server)
            ]
            assert nearest[1] == nearest[0]


def test_a_change_is_seen_by_the_next_query(pair, postgres_url, some):
    (file, in_file), (_, on_server) = pair
    query = some.vectors(1, seed=9)[0]

    def nearest():
        hits = on_server.search(query, 40)
        assert hits == in_file.search(query, 40)
        return hits[0].case_id

    before = nearest()
    new = pd.DataFrame({"case_id": ["new"], "group": ["new"], "label": ["mel"]})
    # Another connection, as of another process.
    with CaseStore(postgres_url) as other:
        for store in (file, other):
            store.add(new, query[None], model_digest="m1")
        assert nearest() == "new"
        for store in (file, other):
            store.set_consent("new", "suspended")
        assert nearest() == before
        for store in (file, other):
            store.set_consent("new", "given")
        assert nearest() == "new"
        for store in (file, other):
            store.withdraw("new")
        assert nearest() == before
        for store in (file, other):
            store.withdraw(before)
        assert nearest() not in (before, "new")


def test_a_built_store_answers_and_the_trail_says_so(
    postgres_url, lookup, embedder, drawn_cases, query
):
    names = lookup.store.diagnosis_names
    with build_store(
        embedder, drawn_cases, postgres_url, diagnosis_names=names, by="Dr A", progress=False
    ) as store:
        on_server = CaseLookup(store, embedder)
        answer = on_server.lookup(query, k=6, where="sex=female")
        assert answer == lookup.lookup(query, k=6, where="sex=female")
        assert answer.hits[0].case_id == "case00a"
        refined = {"relevant": ["case02a"], "not_relevant": ["case00a"], "k": 6}
        assert on_server.refine(query, **refined) == lookup.refine(query, **refined)
        assert on_server.explain(query, "case02a").case_overlay.any()

        digest = store.query_digest(read_image(query))
        shown = [hit.case_id for hit in answer.shown()]
        version = store.version
        store.record_lookup(by="Dr B", query_digest=digest, shown=shown)
        assert store.version == version
    with CaseStore(postgres_url) as again:
        trail = again.trail()
        assert trail["action"].tolist() == ["add", "lookup"]
        assert trail["by"].tolist() == ["Dr A", "Dr B"]
        last = trail.iloc[-1]
        assert (last["cases"], last["query_digest"]) == (tuple(shown), digest)


@pytest.fixture
def added(monkeypatch):
    """What each building added and what it found there already."""
    made, real = [], building.add_cases

    def counted(*arguments, **options):
        found = real(*arguments, **options)
        made.append((found.added, found.known))
        return found

    monkeypatch.setattr(building, "add_cases", counted)
    return made


def test_building_twice_gives_one_whole_store(postgres_url, embedder, drawn_cases, query, added):
    for _ in range(2):
        with build_store(embedder, drawn_cases, postgres_url, progress=False) as store:
            assert store.frame()["case_id"].tolist() == drawn_cases.frame["case_id"].tolist()
            assert store.verify() == []
            assert store.image_of("case11b") is not None
            assert CaseLookup(store, embedder).lookup(query, k=1).hits[0].case_id == "case00a"
    assert added == [(24, 0), (0, 24)]


def test_a_stopped_building_is_gone_on_with(
    postgres_url, embedder, drawn_cases, added, monkeypatch
):
    real = building.add_cases

    def stopped(store, model, cases, **options):
        real(store, model, replace(cases, frame=cases.frame[:10]), **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(building, "add_cases", stopped)
        with pytest.raises(KeyboardInterrupt):
            build_store(embedder, drawn_cases, postgres_url, progress=False)
    with build_store(embedder, drawn_cases, postgres_url, progress=False) as store:
        assert len(store) == 24
        assert store.verify() == []
    assert added == [(10, 0), (14, 10)]
