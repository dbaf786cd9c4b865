import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medshadow.errors import StoreError
from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.retrieval import nearest_groups
from medshadow.retrieval import CaseStore, ExactSearch
from medshadow.retrieval.columns import columns_of
from medshadow.retrieval.loaded import LoadedCases
from medshadow.retrieval.ranking import Ranking
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.where import matching, parse_where

# Few directions, so that many cases tie.
DIRECTIONS = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0], [0, 0, 1], [-1, 0, 0], [0.8, 0, 0.6]])


def unit(rows):
    rows = np.asarray(rows, dtype=np.float64)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def snapshot(groups, labels, vectors, consent=None, ages=None, more=None):
    n = len(groups)
    frame = pd.DataFrame(
        {
            "case_id": [f"c{i}" for i in range(n)],
            "group": [str(g) for g in groups],
            "label": labels,
            "labels": [
                frozenset({label}) | own
                for label, own in zip(labels, more or [frozenset()] * n, strict=True)
            ],
            "age": [None] * n if ages is None else ages,
            "consent": ["given"] * n if consent is None else consent,
            "added": pd.Timestamp("2020-01-01", tz="UTC"),
        }
    )
    vectors = np.asarray(vectors, dtype=np.float32)
    return Snapshot(1, frame.astype({"age": float}), vectors, np.arange(1, n + 1))


def steps(snapshot, query):
    stored = snapshot.embeddings.astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    query = query.astype(np.float64) / np.linalg.norm(query.astype(np.float64))
    return [round(sum(a * b for a, b in zip(row, query, strict=True)) * 2**24) for row in stored]


def slow_ranking(snapshot, query, allowed):
    """One row a group, by falling similarity, ties to the earlier row."""
    similarity = steps(snapshot, query)
    rows = sorted((i for i in range(len(similarity)) if allowed[i]), key=lambda i: -similarity[i])
    best, seen = [], set()
    for row in rows:
        group = snapshot.frame["group"][row]
        if group not in seen:
            seen.add(group)
            best.append(row)
    return best, similarity


@st.composite
def archives(draw):
    n = draw(st.integers(1, 14))
    drawn = st.lists(st.floats(-1, 1), min_size=3, max_size=3).filter(
        lambda v: np.linalg.norm(v) > 0.1
    )
    vector = st.one_of(st.sampled_from(list(DIRECTIONS)), drawn)
    made = snapshot(
        groups=draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)),
        labels=draw(st.lists(st.sampled_from(["nv", "mel", "bcc"]), min_size=n, max_size=n)),
        vectors=unit(draw(st.lists(vector, min_size=n, max_size=n))),
        consent=draw(
            st.lists(st.sampled_from(["given"] * 4 + ["suspended"]), min_size=n, max_size=n)
        ),
        ages=draw(st.lists(st.sampled_from([10.0, 50.0, 90.0, None]), min_size=n, max_size=n)),
        more=draw(st.lists(st.frozensets(st.sampled_from(["mel", "df"])), min_size=n, max_size=n)),
    )
    return made, unit(draw(vector))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    archive=archives(),
    k=st.integers(1, 8),
    where=st.sampled_from([None, "age>=50", "label=mel", "age>=50 and label!=nv", "label=none"]),
    excluded=st.sets(st.integers(0, 5), max_size=2),
)
def test_finds_what_a_slow_search_finds(archive, k, where, excluded):
    cases, query = archive
    loaded = LoadedCases.of(cases)
    allowed = matching(parse_where(where), loaded.columns, loaded.shown)
    allowed &= ~loaded.in_groups(map(str, excluded))
    ranking = Ranking(loaded, query, allowed)

    frame = cases.frame
    may = (
        matching(parse_where(where), columns_of(frame), (frame["consent"] == "given").to_numpy())
        & ~frame["group"].isin({str(g) for g in excluded}).to_numpy()
    )
    expected, similarity = slow_ranking(cases, query, may)
    hits = ranking.nearest(k)
    assert [hit.case_id for hit in hits] == [f"c{row}" for row in expected[:k]]
    assert [hit.rank for hit in hits] == list(range(1, len(hits) + 1))
    assert [hit.similarity * 2**24 for hit in hits] == [similarity[row] for row in expected[:k]]
    assert ranking.groups == len(expected)
    assert ranking.cases == may.sum()
    assert ranking.archive_cases == (frame["consent"] == "given").sum()
    assert ranking.archive_groups == frame["group"][frame["consent"] == "given"].nunique()


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(archive=archives(), wanted=st.sampled_from([{"mel"}, {"mel", "bcc"}, {"none"}]))
def test_the_nearest_of_some_labels_and_its_rank(archive, wanted):
    cases, query = archive
    loaded = LoadedCases.of(cases)
    given_consent = (cases.frame["consent"] == "given").to_numpy()
    hit = Ranking(loaded, query, np.ones(len(loaded), bool)).nearest_with(wanted)

    carries = given_consent & [bool(labels & wanted) for labels in cases.frame["labels"]]
    candidates, similarity = slow_ranking(cases, query, carries)
    if not candidates:
        assert hit is None
        return
    nearest = candidates[0]
    group = cases.frame["group"][nearest]
    others = given_consent & (cases.frame["group"] != group).to_numpy()
    best, _ = slow_ranking(cases, query, others)
    ahead = [r for r in best if (-similarity[r], r) < (-similarity[nearest], nearest)]
    assert hit.case_id == f"c{nearest}"
    assert hit.rank == 1 + len(ahead)


def test_many_close_vectors_rank_as_in_float64():
    rng = np.random.default_rng(1)
    centre = rng.normal(size=128)
    close = unit(centre + 1e-4 * rng.normal(size=(3000, 128)))
    cases = snapshot(np.arange(3000) // 2, ["nv"] * 3000, close)
    query = unit(centre + 1e-4 * rng.normal(size=128))
    ranking = Ranking(LoadedCases.of(cases), query, np.ones(3000, bool))
    expected, _ = slow_ranking(cases, query, np.ones(3000, bool))
    for k in (1, 50, 2000):
        assert [hit.case_id for hit in ranking.nearest(k)] == [f"c{row}" for row in expected[:k]]


def test_finds_what_the_diagnostics_find():
    rng = np.random.default_rng(2)
    gallery = unit(rng.normal(size=(400, 16)))
    gallery[200:250] = gallery[:50]
    queries = unit(rng.normal(size=(20, 16)))
    groups = rng.permutation(np.arange(400) // 3)
    cases = snapshot(groups, ["nv"] * 400, gallery)
    asked = pd.DataFrame({"case_id": range(20), "group": groups[:20], "label": "nv"}).astype(str)
    neighbours = nearest_groups(
        EmbeddedCases(queries, asked), EmbeddedCases(gallery, cases.frame), k=16
    )
    loaded = LoadedCases.of(cases)
    for query, own, index in zip(queries, asked["group"], neighbours.index, strict=True):
        hits = Ranking(loaded, query, ~loaded.in_groups([own])).nearest(16)
        assert [hit.case_id for hit in hits] == [f"c{row}" for row in index]


@pytest.fixture
def small(tmp_path):
    settings = {"name": "x", "model_digest": "m", "embedding_dim": 3, "preprocess": {}}
    with CaseStore.create(tmp_path / "cases.db", **settings) as store:
        frame = pd.DataFrame(
            {
                "case_id": list("abcdef"),
                "group": list("112234"),
                "label": ["nv", "nv", "mel", "mel", "bcc", "nv"],
                "sex": ["female", "male", None, "female", "male", "female"],
                "age": [40.0, 40.0, None, 60.0, 70.0, 80.0],
            }
        )
        store.add(frame, unit(DIRECTIONS), model_digest="m")
        yield store


def ids(hits):
    return "".join(hit.case_id for hit in hits)


def test_hits_carry_the_case_and_plain_values(small):
    hit = ExactSearch(small).search(unit([0.6, 0.8, 0]), k=1)[0]
    assert (hit.case_id, hit.group, hit.label, hit.labels) == ("c", "2", "mel", {"mel"})
    assert hit.similarity == 1.0
    assert hit.metadata == {"sex": None, "age": None}


def test_filters_come_before_ranking(small):
    search = ExactSearch(small)
    query = unit([-1, 0, 0])
    assert ids(search.search(query, k=2)) == "eb"
    assert ids(search.search(query, k=2, where="sex=female")) == "df"
    assert ids(search.search(query, k=9, where="sex=female")) == "dfa"
    assert ids(search.search(query, k=9, exclude_groups=["3", "2", "unknown"])) == "bf"
    assert search.search(query, k=9, where="age>100") == []


@pytest.mark.parametrize(
    ("query", "k", "message"),
    [
        ([1, 0, 0], 0, "k must be at least 1; found 0"),
        ([1, 0], 1, r"shape \(2,\); expected \(3,\)"),
        ([[1, 0, 0]], 1, r"shape \(1, 3\)"),
        ([1, 1, 0], 1, "length 1.4142"),
        ([np.nan, 0, 0], 1, "length nan"),
    ],
)
def test_refuses_a_query_that_is_no_unit_vector(small, query, k, message):
    with pytest.raises(ValueError, match=message):
        ExactSearch(small).search(np.array(query, dtype=float), k)


def test_filters_cannot_name_what_only_the_store_keeps(small):
    with pytest.raises(StoreError, match=r"known keys: case_id, group, label, labels, sex, age$"):
        ExactSearch(small).search(unit([1, 0, 0]), k=1, where="consent=given")


def test_sees_what_another_connection_changes(small, tmp_path):
    search = ExactSearch(small)
    query = unit([1, 0, 0])
    assert ids(search.search(query, k=1)) == "a"
    with CaseStore(tmp_path / "cases.db") as other:
        other.withdraw("a")
        assert ids(search.search(query, k=1)) == "f"
        other.set_consent("f", "suspended")
        assert ids(search.search(query, k=1)) == "c"
        other.set_consent("f", "given")
        assert ids(search.search(query, k=1)) == "f"
        new = pd.DataFrame({"case_id": ["n"], "group": ["n"], "label": ["nv"]})
        other.add(new, unit([[1, 0, 0]]), model_digest="m")
        assert ids(search.search(query, k=1)) == "n"
    assert small.frame()["sex"].isna().sum() == 2


def test_reads_only_what_changed(small, monkeypatch):
    search = ExactSearch(small)
    asked = []
    changes_since = small.changes_since
    monkeypatch.setattr(small, "snapshot", None)
    monkeypatch.setattr(small, "changes_since", lambda v: asked.append(v) or changes_since(v))
    search.search(unit([1, 0, 0]), k=1)
    assert asked == []
    before = small.version
    small.withdraw("f")
    search.search(unit([1, 0, 0]), k=1)
    search.search(unit([1, 0, 0]), k=1)
    assert asked == [before]


def test_the_vector_of_a_case(small):
    search = ExactSearch(small)
    assert search.vector_of("c").tolist() == unit([0.6, 0.8, 0]).tolist()
    small.set_consent("c", "suspended")
    with pytest.raises(StoreError, match="no case 'c' that may be shown"):
        search.vector_of("c")
    small.set_consent("c", "given")
    assert search.vector_of("c").tolist() == unit([0.6, 0.8, 0]).tolist()


@pytest.mark.parametrize("k", [1, 40])
def test_a_case_that_is_being_erased_is_not_found_and_not_missed(k):
    vectors = unit(np.random.default_rng(4).normal(size=(900, 8)))
    cases = snapshot(np.arange(900), ["nv"] * 900, vectors)
    loaded = LoadedCases.of(cases)
    query = vectors[3]
    expected, _ = slow_ranking(cases, query, np.arange(900) != 3)
    ranking = Ranking(loaded, query, loaded.shown)
    loaded.vectors.parts[0][3] = 0  # as another process does to the rows of a mapped file
    assert ids(ranking.nearest(k)) == "".join(f"c{row}" for row in expected[:k])
    again = Ranking(loaded, query, loaded.shown)
    assert ids(again.nearest(k)) == "".join(f"c{row}" for row in expected[:k])
    assert ranking.nearest_with({"nv"}).case_id == f"c{expected[0]}"


def test_a_group_of_many_near_cases_does_not_crowd_out_the_others():
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(3000, 8))
    vectors[:2000] = vectors[0] + 0.01 * rng.normal(size=(2000, 8))
    cases = snapshot(np.maximum(np.arange(3000) - 1999, 0), ["nv"] * 3000, unit(vectors))
    loaded = LoadedCases.of(cases)
    expected, _ = slow_ranking(cases, cases.embeddings[0], loaded.shown)
    hits = Ranking(loaded, cases.embeddings[0], loaded.shown).nearest(20)
    assert [hit.case_id for hit in hits] == [f"c{row}" for row in expected[:20]]


def test_rows_in_runs_of_which_a_filter_leaves_few():
    vectors = unit(np.random.default_rng(6).normal(size=(6000, 4)))
    cases = snapshot(np.arange(6000) // 2, ["nv"] * 6000, vectors)
    loaded = LoadedCases.of(cases)
    for allowed in (np.arange(6000) < 900, np.arange(6000) % 9 == 0, np.arange(6000) == 4321):
        expected, _ = slow_ranking(cases, vectors[0], allowed)
        for k in (1, 16, 300):
            hits = Ranking(loaded, vectors[0], allowed).nearest(k)
            assert [hit.case_id for hit in hits] == [f"c{row}" for row in expected[:k]]


def test_an_empty_store_gives_no_hit(store):
    query = np.array([1.0, 0, 0, 0])
    ranking = ExactSearch(store).rank(query)
    assert ranking.nearest(3) == []
    assert ranking.nearest_with({"mel"}) is None
    assert (ranking.cases, ranking.groups, ranking.archive_groups) == (0, 0, 0)
