"""The collection is made from the store, whatever became of it, and forgets what is withdrawn."""

import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from threading import Event

import numpy as np
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, ExactSearch


@pytest.fixture
def filled(store, some):
    """Forty cases, two in a group."""
    some.fill(store, 40)
    return store


@pytest.fixture
def search(filled, milvus):
    return milvus(filled)


@pytest.fixture
def query(some):
    return some.vectors(1, seed=9)[0]


def found(search, query):
    return search.search(query, 99)


def collections(search):
    """The collections of the search's store that there are on the server."""
    mirror = search._mirror
    return mirror.server.collections(mirror._prefix)


def erased(search):
    """Wait until withdrawn cases are erased."""
    search._mirror._eraser.join()


def test_it_tells_milvus_keys_and_vectors_alone(search, filled, some):
    client = search._mirror.server._client
    rows = client.query(search._mirror.name, "key > 0", ["*"], consistency_level="Strong")
    rows.sort(key=lambda row: row["key"])
    assert all(set(row) == {"key", "mark", "vector"} for row in rows)
    assert [row["key"] for row in rows] == filled.snapshot().keys.tolist()
    np.testing.assert_array_equal([row["vector"] for row in rows], some.vectors(40))
    name = search._mirror.name
    assert filled.name not in name
    assert filled.model_digest not in name.split("_")


def test_another_model_or_store_has_another_collection(search, milvus, tmp_path, settings, some):
    with CaseStore.create(tmp_path / "other.db", **settings) as other:
        some.fill(other, 2)
        assert not set(collections(milvus(other))) & set(collections(search))


def test_a_withdrawn_vector_leaves_the_server_s_disk(search, filled, milvus_server, query):
    def files_with(vector):
        there = (path for path in milvus_server.folder.rglob("*") if path.is_file())
        return [path.name for path in there if holds(path, vector.tobytes())]

    name, vectors = search._mirror.name, filled.embeddings()
    search._mirror.server._client.flush(name)
    assert files_with(vectors[7])
    filled.withdraw("c7")
    assert found(search, query) == found(ExactSearch(filled), query)
    erased(search)
    assert collections(search) == [search._mirror.name] != [name]
    assert found(search, query) == found(ExactSearch(filled), query)
    give_up = time.monotonic() + 60
    while files_with(vectors[7]):
        assert time.monotonic() < give_up, files_with(vectors[7])
        time.sleep(0.5)


def holds(path, content):
    try:
        return content in path.read_bytes()
    except FileNotFoundError:
        return False


def test_what_others_do_to_the_collection_is_made_good(search, filled, milvus, query, monkeypatch):
    expected = found(ExactSearch(filled), query)
    mirror, server = search._mirror, search._mirror.server
    client = server._client

    server.drop(mirror.name)
    assert found(search, query) == expected

    client.release_collection(mirror.name)
    assert found(search, query) == expected

    # Rows that a server loses in a fall are missed when it answers again.
    def down(*_):
        raise StoreError("down")

    monkeypatch.setattr(server, "nearest", down)
    with pytest.raises(StoreError, match="down"):
        found(search, query)
    monkeypatch.undo()
    client.delete(mirror.name, filter="key in [3, 4, 5]")
    search.rank(query)
    assert len(server.marks(mirror.name, 1, 99)[0]) == 40
    assert found(search, query) == expected

    # Rows that go while it answers are missed where every row is asked for.
    client.delete(mirror.name, filter="key in [3, 4, 5]")
    assert len(server.marks(mirror.name, 1, 99)[0]) == 37
    assert found(search, query) == expected

    # And a service's own look, however large the archive.
    client.delete(mirror.name, filter="key in [3, 4, 5]")
    search.check()
    assert len(server.marks(mirror.name, 1, 99)[0]) == 40

    # Another case under the same key.
    name, keys = mirror.name, filled.snapshot().keys
    marks = server.marks(name, 1, 99)[1]
    marks[7] += 1
    server.put(name, keys, marks, filled.embeddings()[::-1].copy())
    assert found(milvus(filled), query) == expected
    assert collections(search) != [name]
    assert found(search, query) == expected


def test_a_collection_of_another_kind_is_not_taken(filled, milvus, query):
    search = milvus(filled)
    server, name = search._mirror.server, search._mirror.name
    server.drop(name)
    server.create(name, 5)
    assert server.publish(name.rpartition("_")[0], name, None)
    again = milvus(filled)
    assert again._mirror.name != name
    assert found(again, query) == found(ExactSearch(filled), query)


def test_two_searches_while_cases_come_and_go(search, filled, milvus, tmp_path, query, some):
    done = Event()
    with CaseStore(tmp_path / "cases.db") as other:
        reader = milvus(other)

        def keep_searching():
            counts = []
            while not done.wait(0.01):
                counts.append(len(found(reader, query)))
            return counts

        with ThreadPoolExecutor(1) as thread:
            running = thread.submit(keep_searching)
            try:
                for turn in range(3):
                    some.fill(filled, 2, prefix=f"n{turn}", seed=turn)
                    filled.withdraw([f"c{2 * turn}", f"n{turn}1"])
                    assert found(search, query) == found(ExactSearch(filled), query)
                    erased(search)
            finally:
                done.set()
            assert min(running.result()) >= 20
        assert found(reader, query) == found(search, query)
        if reader._mirror._eraser is not None:
            erased(reader)
        assert found(reader, query) == found(search, query)
        assert len(collections(search)) == 1


def test_two_that_open_at_once_share_one_collection(filled, milvus, query):
    with ThreadPoolExecutor(2) as threads:
        pair = list(threads.map(milvus, [filled, filled]))
    expected = found(ExactSearch(filled), query)
    assert [found(search, query) for search in pair] == [expected, expected]
    assert collections(pair[0]) == [pair[0]._mirror.name] == [pair[1]._mirror.name]


def test_a_copy_of_the_store_that_went_another_way(search, filled, milvus, tmp_path, some, query):
    with (
        closing(sqlite3.connect(tmp_path / "cases.db")) as original,
        closing(sqlite3.connect(tmp_path / "copy.db")) as copy,
    ):
        original.backup(copy)
    some.fill(filled, 3, prefix="new", seed=5)
    assert len(found(search, query)) == len(found(ExactSearch(filled), query))
    with CaseStore(tmp_path / "copy.db") as restored:
        # The same keys as those of the new ones, for other cases.
        some.fill(restored, 3, prefix="old", seed=6)
        assert found(milvus(restored), query) == found(ExactSearch(restored), query)


def test_much_that_is_shown_no_longer_is_filled_anew(search, filled, milvus, monkeypatch, query):
    name = search._mirror.name
    filled.set_consent(["c1", "c2", "c3"], "suspended")
    assert milvus(filled)._mirror.name == name
    monkeypatch.setattr("medshadow.retrieval.milvus_mirror._STALE_KEYS", 2)
    again = milvus(filled)
    assert again._mirror.name != name
    assert found(again, query) == found(search, query) == found(ExactSearch(filled), query)
