import importlib.util
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore


def run(script, *arguments):
    """Run Python in a process of its own that finds what this one finds."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def test_sqlite_is_set_up_to_share_and_to_erase(store):
    expected = {"journal_mode": "wal", "foreign_keys": 1, "secure_delete": 1, "synchronous": 2}
    with store._engine.begin() as connection:
        for pragma, value in expected.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_only_its_owner_may_read_a_store(store, some):
    some.fill(store, 1)
    files = list(store.vectors_path.parent.iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


def test_postgresql_keeps_no_values_in_its_statistics(postgres_url, some, settings):
    with CaseStore.create(postgres_url, **settings) as store:
        some.fill(store, 50)
        with store._engine.begin() as connection:
            connection.execute(text("ANALYZE"))
            query = text("SELECT count(*) FROM pg_stats WHERE tablename IN ('cases', 'thumbnails')")
            assert connection.execute(query).scalar_one() == 0


def test_readers_go_on_while_another_writes(any_store, database, some):
    some.fill(any_store, 2)
    with CaseStore(database) as other, other._engine.connect() as writer:
        writer.execute(text("DELETE FROM cases"))
        assert any_store.snapshot().frame["case_id"].tolist() == ["c0", "c1"]
        writer.rollback()


def test_two_writers_take_turns(any_store, database, some):
    def add_one_by_one(prefix):
        with CaseStore(database) as own:
            own.add(some.frame(12, prefix), some.vectors(12), model_digest="m1", batch_size=1)
            own.record_lookup(by=prefix, query_digest="0" * 64, shown=[f"{prefix}0"])
            own.withdraw(f"{prefix}1")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add_one_by_one, ["left", "right"]))
    assert len(any_store) == 22
    assert any_store.version == 26
    assert len(any_store.trail()) == 28
    assert any_store.verify() == []


def test_a_snapshot_is_of_one_moment(any_store, database, some, monkeypatch):
    some.fill(any_store, 3)
    from medshadow.retrieval import snapshot

    read = snapshot._read

    def slowly(connection, version, *arguments):
        with CaseStore(database) as other:
            some.fill(other, 2, prefix=f"after{version}-")
        return read(connection, version, *arguments)

    monkeypatch.setattr(snapshot, "_read", slowly)
    before = any_store.snapshot()
    changes = any_store.changes_since(before.version)
    assert (before.version, len(before.frame)) == (1, 3)
    assert changes.version == 2
    assert changes.added.frame["case_id"].tolist() == ["after1-0", "after1-1"]


def test_killed_while_adding_keeps_the_batches_before(any_store, database):
    script = """
        import os, signal, sys, numpy as np, pandas as pd
        from medshadow.retrieval import CaseStore, jpeg_thumbnail
        jpeg = jpeg_thumbnail(np.zeros((6, 8, 3), dtype=np.uint8))
        def thumbnails():
            for i in range(40):
                if i == 25:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield jpeg
        store = CaseStore(sys.argv[1])
        ids = [f"c{i}" for i in range(40)]
        cases = pd.DataFrame({"case_id": ids, "group": ids, "label": "nv"})
        rows = np.tile(np.float32([1, 0, 0, 0]), (40, 1))
        store.add(cases, rows, model_digest="m1", thumbnails=thumbnails(), batch_size=10)
    """
    assert run(script, database).returncode == -signal.SIGKILL
    with CaseStore(database) as after:
        assert after.frame()["case_id"].tolist() == [f"c{i}" for i in range(20)]
        assert after.thumbnail("c19") is not None
        assert after.verify() == []


def test_a_server_that_does_not_answer(integration, settings):
    integration(importlib.util.find_spec("psycopg") is not None, "psycopg: medshadow[postgres]")
    url = "postgresql://someone:hush@127.0.0.1:1/cases"
    for attempt in (lambda: CaseStore(url), lambda: CaseStore.create(url, **settings)):
        with pytest.raises(StoreError, match=r"someone:\*\*\*@127.0.0.1:1/cases: cannot be opened"):
            attempt()


def test_opening_what_is_no_store(tmp_path, settings):
    with pytest.raises(FileNotFoundError, match="no case store at"):
        CaseStore(tmp_path / "absent.db")
    assert not (tmp_path / "absent.db").exists()
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one" * 40)
    with pytest.raises(StoreError, match="not a case store"):
        CaseStore(tmp_path / "text.db")
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE runs (id)")
    other.close()
    with pytest.raises(StoreError, match="no table 'archive'"):
        CaseStore(tmp_path / "other.db")
    with pytest.raises(StoreError, match="holds other tables"):
        CaseStore.create(tmp_path / "other.db", **settings)


def test_a_store_is_made_once(any_store, database, settings):
    with pytest.raises(StoreError, match="holds a case store"):
        CaseStore.create(database, **settings)


def test_a_server_that_is_not_there(integration):
    there = importlib.util.find_spec("psycopg") is not None
    integration(there, "no psycopg; pip install 'medshadow[postgres]'")
    with pytest.raises(StoreError, match="refused") as refused:
        CaseStore("postgresql://somebody:secret@127.0.0.1:1/cases")
    assert "secret" not in str(refused.value)


def test_opens_by_url_and_makes_the_folder(tmp_path, settings):
    path = tmp_path / "new" / "folder" / "cases.db"
    CaseStore.create(path, **settings).close()
    with CaseStore(f"sqlite:///{path}") as opened:
        assert len(opened) == 0
        assert opened.embeddings().shape == (0, 4)
        assert opened.frame().empty
        assert opened.vectors_path == path.with_name("cases.db.vectors")


def test_there_is_no_file_of_vectors_beside_a_server(postgres_url, settings):
    with CaseStore.create(postgres_url, **settings) as store:
        assert store.vectors_path is None
