import logging
import shutil
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from threading import Event

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import event

from medshadow.retrieval import CaseStore, ExactSearch, loading
from medshadow.retrieval.loaded import LoadedCases
from medshadow.retrieval.ranking import Ranking
from medshadow.retrieval.vectors import VectorFileError, erase_vectors, open_vectors

READER = """
import sys
import numpy as np
from medshadow.retrieval.search import ExactSearch
from medshadow.retrieval.store import CaseStore
search = ExactSearch(CaseStore(sys.argv[1]))
for line in sys.stdin:
    print(search.search(np.array([1.0, 0, 0, 0]), k=1)[0].case_id, flush=True)
"""


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def some_cases(rng, names):
    frame = pd.DataFrame({"case_id": names})
    frame["group"] = rng.integers(0, 8, len(names)).astype(str)
    frame["label"] = rng.choice(["nv", "mel"], len(names))
    frame["sex"] = rng.choice(["female", "male", None], len(names))
    frame["age"] = rng.choice([20.0, 50.0, np.nan], len(names))
    # Few directions, so that many cases tie.
    return frame, unit(rng.integers(-1, 2, (len(names), 4)) + np.array([0.5, 0, 0, 0]))


@pytest.fixture
def filled(store):
    store.add(
        *some_cases(np.random.default_rng(1), [f"c{i}" for i in range(40)]), model_digest="m1"
    )
    return store


@pytest.fixture
def path(filled):
    ExactSearch(filled)
    return filled.vectors_path


@pytest.fixture
def without_vectors(filled, monkeypatch):
    """The store refuses to give all vectors."""
    snapshot = filled.snapshot

    def refuse(*, with_embeddings=True):
        assert not with_embeddings
        return snapshot(with_embeddings=False)

    monkeypatch.setattr(filled, "snapshot", refuse)


def found(search, query=0):
    """Everything in its order, without the columns of which a case knows nothing."""
    query = unit(np.random.default_rng(query).normal(size=4))
    ranking = search.rank(query)
    hits = [*ranking.nearest(100), *filter(None, [ranking.nearest_with({"mel"})])]
    known = [{k: v for k, v in hit.metadata.items() if v is not None} for hit in hits]
    plain = [replace(hit, metadata=k) for hit, k in zip(hits, known, strict=True)]
    return plain, ranking.groups, ranking.archive_cases


class InMemory:
    """The same search without file and catching up."""

    def __init__(self, store):
        self.loaded = LoadedCases.of(store.snapshot())

    def rank(self, query):
        return Ranking(self.loaded, query, self.loaded.shown)


def expected(store, query=0):
    return found(InMemory(store), query)


def test_the_file_is_made_and_then_taken(path, filled, without_vectors):
    search = ExactSearch(filled)
    assert search._loaded.vectors.parts[0].base is not None
    assert len(search._loaded.vectors.parts[0]) == 40
    assert open_vectors(path).version == filled.version


def test_finds_the_same_from_the_file_as_from_the_store(path, filled):
    assert found(ExactSearch(filled)) == expected(filled)


def test_what_the_file_lacks_is_read_from_the_store(path, filled, without_vectors):
    before = path.read_bytes()
    filled.add(*some_cases(np.random.default_rng(2), ["n1", "n2"]), model_digest="m1")
    filled.set_consent(["c3", "c4"], "suspended")
    filled.set_consent("c4", "given")
    filled.withdraw("c7")
    search = ExactSearch(filled)
    assert [len(part) for part in search._loaded.vectors.parts] == [40, 3]
    assert search._loaded.cases == 40
    assert len(path.read_bytes()) == len(before)


def test_a_file_that_is_far_behind_is_made_anew(path, filled, monkeypatch):
    monkeypatch.setattr(loading, "_STALE_CASES", 1)
    filled.add(*some_cases(np.random.default_rng(2), ["n1", "n2", "n3"]), model_digest="m1")
    assert [len(part) for part in ExactSearch(filled)._loaded.vectors.parts] == [43]
    assert open_vectors(path).version == filled.version


def test_a_damaged_file_is_made_anew_and_it_is_said(path, filled, caplog):
    good = path.read_bytes()
    path.write_bytes(good[:-7] + b"damaged")
    assert found(ExactSearch(filled)) == expected(filled)
    assert path.read_bytes() == good
    assert "read from the store again: cases.db.vectors: row 39 of 40 is damaged" in caplog.text


@pytest.mark.parametrize("other", [{"model_digest": "m2"}, {"embedding_dim": 5}])
def test_a_file_of_another_model_is_made_anew(path, filled, tmp_path, other):
    settings = {"name": "x", "model_digest": "m1", "embedding_dim": 4, "preprocess": {}} | other
    with CaseStore.create(tmp_path / "other.db", **settings) as store:
        shutil.copy(path, store.vectors_path)
        frame, vectors = some_cases(np.random.default_rng(1), [f"c{i}" for i in range(40)])
        vectors = np.eye(1, settings["embedding_dim"]).repeat(40, axis=0)
        store.add(frame, vectors, model_digest=settings["model_digest"])
        assert ExactSearch(store).vector_of("c0").tolist() == vectors[0].tolist()


def test_a_copy_of_the_database_that_went_another_way(filled, tmp_path):
    with (
        closing(sqlite3.connect(tmp_path / "cases.db")) as original,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        original.backup(copy)
    filled.add(*some_cases(np.random.default_rng(2), ["n1", "n2"]), model_digest="m1")
    ExactSearch(filled)
    with CaseStore(tmp_path / "copy.db") as restored:
        shutil.copy(filled.vectors_path, restored.vectors_path)
        assert ExactSearch(restored)._loaded.cases == 40
        shutil.copy(filled.vectors_path, restored.vectors_path)
        frame, vectors = some_cases(np.random.default_rng(3), ["n1", "n2"])
        restored.add(frame, vectors[::-1], model_digest="m1")
        assert restored.version == filled.version
        assert found(ExactSearch(restored)) == expected(restored)


def test_a_folder_that_cannot_be_written(filled, monkeypatch, caplog):
    def refuse(*_, **__):
        raise PermissionError(13, "permission denied")

    monkeypatch.setattr(loading, "write_vectors", refuse)
    assert found(ExactSearch(filled)) == expected(filled)
    assert not filled.vectors_path.exists()
    assert "vectors are kept in memory" in caplog.text


def test_a_store_that_is_replaced_while_it_is_read_is_searched_in_memory(
    filled, monkeypatch, caplog
):
    monkeypatch.setattr(filled, "changes_since", lambda _: None)
    assert found(ExactSearch(filled)) == expected(filled)
    with pytest.raises(VectorFileError):
        open_vectors(filled.vectors_path)
    assert "the store was replaced while it was read" in caplog.text


def test_a_case_withdrawn_while_the_file_is_made_is_not_in_it(filled, monkeypatch):
    snapshot = filled.snapshot()
    every = [row.tobytes() for row in snapshot.embeddings]
    vector = next(row for row in every if every.count(row) == 1)

    def late():
        filled.withdraw(snapshot.frame["case_id"][every.index(vector)])
        return snapshot

    monkeypatch.setattr(filled, "snapshot", late)
    search = ExactSearch(filled)
    monkeypatch.undo()
    assert vector not in filled.vectors_path.read_bytes()
    assert found(search) == expected(filled)


def test_a_case_withdrawn_between_two_readings_is_not_found(path, filled, monkeypatch):
    filled.add(*some_cases(np.random.default_rng(2), ["n1", "n2"]), model_digest="m1")
    snapshot = filled.snapshot

    def then_withdraw(*, with_embeddings=True):
        monkeypatch.setattr(filled, "snapshot", snapshot)
        read = snapshot(with_embeddings=with_embeddings)
        filled.withdraw("n1")
        return read

    monkeypatch.setattr(filled, "snapshot", then_withdraw)
    assert found(ExactSearch(filled)) == expected(filled)


def test_a_case_that_only_the_file_has_lost_is_found(path, filled):
    erase_vectors(path, filled.snapshot().keys[3:5])
    assert found(ExactSearch(filled)) == expected(filled)
    assert len(open_vectors(path).keys) == np.count_nonzero(open_vectors(path).keys) == 40


@pytest.mark.parametrize("seed", range(3))
def test_catching_up_finds_what_reading_anew_finds(store, seed):
    rng = np.random.default_rng(seed)
    search = ExactSearch(store)
    new = iter(range(1000))
    for step in range(16):
        there = store.frame()
        some = rng.permutation(there["case_id"])[: int(rng.integers(1, 4))].tolist()
        action = rng.choice(["add", "withdraw", "suspended", "given", "replace", "update"])
        if action == "add" or not some:
            names = [f"n{next(new)}" for _ in range(int(rng.integers(1, 9)))]
            store.add(*some_cases(rng, names), model_digest="m1")
        elif action == "withdraw":
            store.withdraw(some)
        elif action == "replace":
            store.add(*some_cases(rng, some), model_digest="m1", replace=True)
        elif action == "update":
            store.update(some[0], label="mel", metadata={"site": f"place {step}"})
        else:
            store.set_consent(some, action)
        if rng.random() < 0.7:
            assert found(search, query=step) == expected(store, query=step), action
    assert found(ExactSearch(store)) == expected(store)
    assert store.verify() == []


def test_a_column_that_becomes_text_is_read_anew(filled):
    search = ExactSearch(filled)
    frame, vectors = some_cases(np.random.default_rng(2), ["n1", "n2"])
    filled.add(frame.assign(age="unknown"), vectors, model_digest="m1")
    assert found(search) == expected(filled)
    assert len(search.search(vectors[0], k=9, where="age=unknown")) == frame["group"].nunique()


def test_many_small_additions_lie_in_few_parts(path, filled, without_vectors):
    search = ExactSearch(filled)
    frame, vectors = some_cases(np.random.default_rng(2), [f"n{i}" for i in range(30)])
    for row in range(30):
        part = slice(row, row + 1)
        filled.add(frame[part], vectors[part], model_digest="m1")
        assert len(search.search(vectors[row], k=1)) == 1
    assert len(search._loaded.vectors.parts) <= 5
    assert search.vector_of("n17").tolist() == vectors[17].tolist()


def test_few_changes_are_found_without_walking_through_all_cases(filled):
    asked = []
    event.listen(filled._engine, "before_cursor_execute", lambda *call: asked.append(call[2:4]))
    assert filled.changes_since(filled.version) is not None
    with filled._engine.begin() as connection:
        plans = [
            row.detail
            for statement, values in list(asked)
            if "cases" in statement or "removals" in statement
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
        ]
    assert len(plans) == 2
    assert all(plan.startswith("SEARCH") for plan in plans), plans


def test_threads_search_while_the_store_changes(path, filled):
    search = ExactSearch(filled)
    frame, vectors = some_cases(np.random.default_rng(2), [f"n{i}" for i in range(4)])
    done = Event()

    def keep_searching():
        counts = []
        while not done.wait(0.005):
            counts.append(len(search.search(vectors[0], k=99, where="sex=female")))
        return counts

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(keep_searching) for _ in range(2)]
        for row in range(4):
            filled.add(frame[row : row + 1], vectors[row : row + 1], model_digest="m1")
            filled.withdraw(f"c{row}")
        done.set()
        assert all(0 < min(future.result()) <= 8 for future in running)
    assert found(search) == expected(filled)


def test_another_process_sees_a_withdrawal_at_its_next_query(filled, tmp_path, caplog):
    caplog.set_level(logging.ERROR)
    query = np.array([1.0, 0, 0, 0])
    command = [sys.executable, "-c", READER, str(tmp_path / "cases.db")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as reader:
        for _ in range(3):
            nearest = ExactSearch(filled).search(query, k=1)[0].case_id
            reader.stdin.write("\n")
            assert reader.stdout.readline().strip() == nearest
            filled.withdraw(nearest)
        reader.stdin.close()
        assert reader.wait() == 0
