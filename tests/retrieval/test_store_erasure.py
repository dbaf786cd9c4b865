import sqlite3
import threading
from pathlib import Path

import numpy as np
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, ExactSearch, erasure

SECRET = b"zebra-rash-on-thumb"


def put_secret(store, some):
    """One case with an unmistakable id, group, note, vector and picture; what it looks like."""
    gone = some.frame(1, prefix="withdrawn-case-").assign(note=SECRET.decode(), group="gone-group")
    vector = some.vectors(1, seed=7)
    store.add(gone, vector, model_digest="m1", thumbnails=[some.picture(200)])
    return [b"withdrawn-case-0", SECRET, b"gone-group", vector.tobytes(), some.picture(200)]


def fill_with_pictures(store, some, n=40):
    pictures = [some.picture(i % 250) for i in range(n)]
    store.add(some.frame(n, note="kept"), some.vectors(n), model_digest="m1", thumbnails=pictures)


def bytes_in(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_withdrawing_leaves_no_byte_behind(store, tmp_path, some):
    fill_with_pictures(store, some)
    secrets = put_secret(store, some)
    kept, gone = some.vectors(40)[39].tobytes(), secrets[3]
    ExactSearch(store)  # writes the file of vectors beside the store
    vectors = tmp_path / "cases.db.vectors"
    assert kept in vectors.read_bytes()
    assert gone in vectors.read_bytes()
    assert all(secret in bytes_in(tmp_path) for secret in secrets)
    version = store.version
    store.withdraw("withdrawn-case-0")
    left = bytes_in(tmp_path)
    assert not any(secret in left for secret in secrets)
    assert kept in left
    assert kept in vectors.read_bytes()
    assert len(store) == 40
    assert store.version > version
    assert store.verify() == []


def test_nothing_stays_of_what_a_case_was_before_it_was_changed(store, tmp_path, some):
    fill_with_pictures(store, some)
    secrets = put_secret(store, some)
    store.update("withdrawn-case-0", label="mel", metadata={"note": "harmless"})
    other = some.frame(1, prefix="withdrawn-case-").assign(note="harmless")
    store.add(other, some.vectors(1, seed=8), model_digest="m1", replace=True)
    store.withdraw("withdrawn-case-0")
    left = bytes_in(tmp_path)
    assert not any(secret in left for secret in [*secrets, some.vectors(1, seed=8).tobytes()])


def test_withdrawing_on_postgresql_leaves_no_byte_in_its_tables(postgres_url, some, settings):
    import psycopg

    with CaseStore.create(postgres_url, **settings) as store:
        fill_with_pictures(store, some)
        secrets = put_secret(store, some)
        with psycopg.connect(
            store._engine.url.set(drivername="postgresql").render_as_string(hide_password=False),
            autocommit=True,
        ) as admin:
            admin.execute("ANALYZE")
            admin.execute("CHECKPOINT")
            (where,) = admin.execute("SHOW data_directory").fetchone()
            tables = Path(where) / "base"
            assert all(secret in bytes_in(tables) for secret in secrets[:3])
            store.withdraw("withdrawn-case-0")
            admin.execute("CHECKPOINT")
        left = bytes_in(tables)
        assert not any(secret in left for secret in secrets)
        assert b"harmless" not in left
        assert some.vectors(40)[39].tobytes() in left
        assert store.verify() == []


def test_every_key_a_case_ever_had_is_erased_from_the_vectors(store, some, monkeypatch):
    erased = []
    monkeypatch.setattr(
        "medshadow.retrieval.vectors.erase_vectors", lambda path, keys: erased.append((path, keys))
    )
    some.fill(store, 3)
    store.update("c0", label="mel")
    store.set_consent("c1", "suspended")
    store.withdraw(["c0", "c1"])
    ((path, keys),) = erased
    assert path == store.vectors_path
    assert keys.dtype == np.int64
    assert keys.tolist() == [1, 2, 4]


def test_a_withdrawal_cut_short_is_finished_at_the_next_opening(store, tmp_path, some, monkeypatch):
    fill_with_pictures(store, some)
    secrets = put_secret(store, some)

    def cut_short(_engine, _patience):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "erase_leftovers", cut_short)
        with pytest.raises(KeyboardInterrupt):
            store.withdraw("withdrawn-case-0")
    assert len(store) == 40
    assert any(secret in bytes_in(tmp_path) for secret in secrets)
    assert "erasing 1 keys of withdrawn cases is not finished" in store.verify()[0]
    with CaseStore(tmp_path / "cases.db") as again:
        assert not any(secret in bytes_in(tmp_path) for secret in secrets)
        assert again.verify() == []


def test_a_withdrawal_that_cannot_erase_says_so(store, tmp_path, some, monkeypatch, caplog):
    some.fill(store, 2)

    def full(_engine, _patience):
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(erasure, "erase_leftovers", full)
        with pytest.raises(StoreError, match=r"are withdrawn, but their bytes stay .* is full"):
            store.withdraw("c0")
        assert len(store) == 1
        with CaseStore(tmp_path / "cases.db") as again:
            assert again.frame()["case_id"].tolist() == ["c1"]
        assert "disk is full" in caplog.text
    CaseStore(tmp_path / "cases.db").close()
    assert store.verify() == []


def test_withdrawing_says_when_a_reader_keeps_the_bytes(
    any_store, database, some, caplog, monkeypatch
):
    monkeypatch.setattr("medshadow.retrieval.database.BUSY_MILLISECONDS", 50)
    some.fill(any_store, 2)
    with CaseStore(database) as other:
        reader = any_store._engine.connect()
        if reader.dialect.name == "postgresql":
            reader = reader.execution_options(isolation_level="REPEATABLE READ")
        reader.exec_driver_sql("SELECT count(*) FROM cases").all()
        other.withdraw("c0")
        reader.close()
        assert "their bytes stay in the database" in caplog.text
        assert len(any_store) == 1
        assert "not finished" in other.verify()[0]
        caplog.clear()
        other.withdraw("c1")
        assert caplog.text == ""
        assert other.verify() == []


def test_withdrawing_waits_for_readers_that_soon_finish(any_store, database, some, caplog):
    some.fill(any_store, 2)
    with CaseStore(database) as other:
        reader = any_store._engine.connect()
        reader.exec_driver_sql("SELECT count(*) FROM cases").all()
        closing = threading.Timer(0.3, reader.close)
        closing.start()
        other.withdraw("c0")
        closing.join()
    assert caplog.text == ""


def test_withdrawing_gives_the_room_back(store, tmp_path, some):
    fill_with_pictures(store, some, 500)
    store.withdraw("c0")
    full = (tmp_path / "cases.db").stat().st_size
    store.withdraw(f"c{i}" for i in range(1, 499))
    assert (tmp_path / "cases.db").stat().st_size < full / 2


def test_a_tombstone_names_nobody(any_store, some):
    some.fill(any_store, 3)
    any_store.withdraw(["c1", "c1"], by="Dr A", reason="error")
    any_store.withdraw("c0")
    graves = any_store.withdrawn()
    assert graves.columns.tolist() == ["case", "withdrawn", "by", "reason"]
    assert graves[["case", "by", "reason"]].to_numpy().tolist() == [
        [2, "Dr A", "error"],
        [1, "", "consent"],
    ]
    assert graves["withdrawn"].dt.tz is not None
    with pytest.raises(StoreError, match="reason 'bored' is not known"):
        any_store.withdraw("c2", reason="bored")


def test_a_withdrawn_case_does_not_slip_back_in(any_store, some):
    some.fill(any_store, 3)
    any_store.withdraw("c1")
    for resume in (False, True):
        with pytest.raises(StoreError, match=r"withdrawn from this store before: \['c1'\]"):
            any_store.add(
                some.frame(3) if resume else some.frame(3)[1:2],
                some.vectors(3) if resume else some.vectors(1),
                model_digest="m1",
                resume=resume,
            )
    assert len(any_store) == 2
    back = some.frame(3)[1:2]
    any_store.add(back, some.vectors(1), model_digest="m1", replace=True)
    assert any_store.frame()["case_id"].tolist() == ["c0", "c2", "c1"]
    any_store.add(back, some.vectors(1), model_digest="m1", resume=True)
    assert any_store.verify() == []
    any_store.withdraw("c1")
    assert any_store.withdrawn()["case"].tolist() == [2, 4]


def test_two_stores_know_the_same_case_by_different_digests(tmp_path, some, settings):
    digests = set()
    for name in ("one.db", "two.db"):
        with CaseStore.create(tmp_path / name, **settings) as store:
            some.fill(store, 1)
            store.withdraw("c0")
            digests.add(store.query_digest(np.zeros((2, 2, 3), np.uint8)))
        raw = sqlite3.connect(tmp_path / name)
        digests.add(raw.execute("SELECT digest FROM tombstones").fetchone()[0])
        raw.close()
    assert len(digests) == 4
