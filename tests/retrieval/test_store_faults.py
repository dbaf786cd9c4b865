"""A full disk, a locked or read-only file, a server that goes, a clock that runs backwards."""

import resource
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError

from medshadow.errors import StoreUnavailableError
from medshadow.retrieval import CaseStore, ExactSearch, database, schema
from medshadow.retrieval.database import reading, writing


def every_connection(store, *pragmas):
    """Have each connection of a store begin with some settings."""

    @event.listens_for(store._engine, "connect")
    def _(connection, _record):
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    store.close()


def test_a_full_disk_keeps_the_batches_before(store, tmp_path, some):
    cases, vectors = some.frame(300, note="secret" * 200), some.vectors(300)
    every_connection(store, "max_page_count = 60")
    with pytest.raises(StoreUnavailableError, match="now: database or disk is full") as full:
        store.add(cases, vectors, model_digest="m1", batch_size=20)
    assert full.value.__cause__ is None
    assert "secret" not in str(full.value)
    with CaseStore(tmp_path / "cases.db") as roomier:
        kept = len(roomier)
        assert 0 < kept < 300
        assert kept % 20 == 0
        assert roomier.verify() == []
        roomier.add(cases, vectors, model_digest="m1", resume=True)
        assert len(roomier) == 300
        assert roomier.verify() == []


def test_a_writer_that_never_finishes(store, tmp_path, some, monkeypatch):
    some.fill(store, 1)
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 50)
    with CaseStore(tmp_path / "cases.db") as other, writing(store._engine, by=""):
        with pytest.raises(StoreUnavailableError, match="database is locked"):
            other.update("c0", label="mel")
        assert other.frame()["label"].tolist() == ["nv"]


def test_a_store_that_may_only_be_read(store, some):
    some.fill(store, 2)
    every_connection(store, "query_only = ON")
    for change in (
        lambda: store.withdraw("c0"),
        lambda: store.record_lookup(by="", query_digest="0" * 64, shown=["c0"]),
        lambda: store.set_calibration({}),
    ):
        with pytest.raises(StoreUnavailableError, match="attempt to write a readonly database"):
            change()
    assert store.frame()["case_id"].tolist() == ["c0", "c1"]


def test_a_backup_that_finds_no_room(store, tmp_path, some):
    some.fill(store, 300, note="x" * 1000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(StoreUnavailableError, match=r"copy\.db cannot be written"):
            store.backup(tmp_path / "copy.db")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.glob("copy.db*"))
    store.backup(tmp_path / "copy.db")
    with CaseStore(tmp_path / "copy.db") as copy:
        assert len(copy) == 300


def test_a_damaged_file(store, tmp_path, some):
    some.fill(store, 200, note="x" * 500)
    store.close()
    whole = (tmp_path / "cases.db").read_bytes()
    (tmp_path / "cases.db").write_bytes(whole[:8192] + b"\xff" * (len(whole) - 8192))
    with pytest.raises(StoreUnavailableError, match="malformed"):
        CaseStore(tmp_path / "cases.db").frame()


def test_a_server_that_goes_while_it_is_asked(postgres_url, some, settings):
    def ask_twice():
        with reading(store._engine) as connection:
            own = connection.scalar(text("SELECT pg_backend_pid()"))
            with store._engine.begin() as other:
                other.execute(text("SELECT pg_terminate_backend(:own)"), {"own": own})
            connection.scalar(text("SELECT 1"))

    with CaseStore.create(postgres_url, **settings) as store:
        some.fill(store, 1)
        with pytest.raises(StoreUnavailableError, match="terminating connection"):
            ask_twice()
        assert store.version == 1  # the next asks through a new connection


def test_an_error_does_not_quote_what_was_to_be_written(store):
    grave = {"case": 1, "withdrawn": datetime.now(UTC), "by": "Ann Example", "reason": "none"}
    with store._engine.begin() as connection, pytest.raises(IntegrityError) as refused:
        connection.execute(schema.tombstones.insert(), {**grave, "digest": b""})
    assert "Ann Example" not in str(refused.value)


def test_writers_go_on_while_a_withdrawal_waits_for_a_reader(store, tmp_path, some, monkeypatch):
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 3000)
    some.fill(store, 4)
    with CaseStore(tmp_path / "cases.db") as reader, CaseStore(tmp_path / "cases.db") as writer:
        slow = reader._engine.connect()
        slow.execute(text("SELECT count(*) FROM cases")).all()
        withdrawing = threading.Thread(target=store.withdraw, args=["c0"])
        withdrawing.start()
        while len(writer) == 4:
            time.sleep(0.01)
        time.sleep(0.3)  # now it waits
        waits = []
        for _ in range(3):
            started = time.monotonic()
            writer.record_lookup(by="", query_digest="0" * 64, shown=["c1"])
            waits.append(time.monotonic() - started)
        assert withdrawing.is_alive()
        slow.close()
        withdrawing.join()
    assert max(waits) < 1.5
    assert store.verify() == []


def test_readers_go_on_while_a_withdrawal_waits_for_a_lock(
    postgres_url, some, settings, caplog, monkeypatch
):
    monkeypatch.setattr(database, "BUSY_MILLISECONDS", 700)
    with CaseStore.create(postgres_url, **settings) as store:
        some.fill(store, 2)
        with store._engine.connect() as slow:
            slow.execute(text("LOCK TABLE cases IN ACCESS SHARE MODE"))  # as a long COPY has
            withdrawing = threading.Thread(target=store.withdraw, args=["c0"])
            withdrawing.start()
            while len(store) == 2:
                time.sleep(0.01)
            waits = []
            while withdrawing.is_alive():
                started = time.monotonic()
                len(store)
                waits.append(time.monotonic() - started)
                time.sleep(0.01)
        assert max(waits) < 0.5
        assert "their bytes stay in the database" in caplog.text
        assert "not finished" in store.verify()[0]
    with CaseStore(postgres_url) as again:
        assert again.verify() == []


def test_a_clock_that_runs_backwards_changes_no_order(any_store, some, monkeypatch):
    class Backwards(datetime):
        moment = datetime(2026, 3, 29, 3, tzinfo=UTC)

        @classmethod
        def now(cls, tz=None):
            cls.moment -= timedelta(minutes=10)
            return cls.moment.astimezone(tz)

    monkeypatch.setattr(database, "datetime", Backwards)
    search = ExactSearch(any_store)
    for at in range(3):
        case = some.frame(1, f"{at}-").assign(group=f"g{at}")
        any_store.add(case, some.vectors(1, seed=at), model_digest="m1")
        assert search.search(some.vectors(1, seed=at)[0], 1)[0].case_id == f"{at}-0"
    any_store.update("0-0", label="mel")
    any_store.withdraw("1-0")
    assert any_store.frame()["case_id"].tolist() == ["2-0", "0-0"]
    assert any_store.trail()["action"].tolist() == ["add"] * 3 + ["update", "withdraw"]
    assert any_store.trail()["when"].is_monotonic_decreasing
    assert [hit.case_id for hit in search.search(some.vectors(1, seed=2)[0], 9)] == ["2-0", "0-0"]
    assert any_store.verify() == []
