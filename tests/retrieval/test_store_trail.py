import datetime

import numpy as np
import pytest
from sqlalchemy.exc import DatabaseError

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore

DIGEST = "0f" * 32


def test_the_trail_tells_who_did_what_and_who_saw_what(any_store, database, some):
    before = datetime.datetime.now(datetime.UTC)
    any_store.add(some.frame(3), some.vectors(3), model_digest="m1", by="import")
    any_store.record_lookup(by="Dr B", query_digest=DIGEST, shown=["c2", "c0"])
    any_store.update("c0", label="mel", by="Dr A")
    replacing = some.frame(2).assign(case_id=["c1", "new"])
    any_store.add(replacing, some.vectors(2), model_digest="m1", replace=True, by="import")
    any_store.set_consent(["c0", "c1"], "suspended", by="Dr C")
    any_store.set_consent("c0", "given", by="Dr C")
    any_store.withdraw("c2", by="Dr C")
    any_store.record_lookup(by="Dr B", query_digest=DIGEST, shown=[])
    with CaseStore(database) as again:
        trail = again.trail()
    assert trail.columns.tolist() == ["when", "by", "action", "query_digest", "cases"]
    assert trail[["by", "action", "cases"]].to_numpy().tolist() == [
        ["import", "add", ("c0", "c1", "withdrawn")],
        ["Dr B", "lookup", ("withdrawn", "c0")],
        ["Dr A", "update", ("c0",)],
        ["import", "add", ("new",)],
        ["import", "replace", ("c1",)],
        ["Dr C", "consent suspended", ("c0", "c1")],
        ["Dr C", "consent given", ("c0",)],
        ["Dr C", "withdraw", ("withdrawn",)],
        ["Dr B", "lookup", ()],
    ]
    assert trail["query_digest"].tolist() == ["", DIGEST, *[""] * 6, DIGEST]
    assert trail["when"].is_monotonic_increasing
    now = datetime.datetime.now(datetime.UTC)
    assert trail["when"].between(before, now).all()


def test_the_newest_entries_of_the_trail_stay_in_their_order(any_store, some):
    some.fill(any_store, 3)
    for name in ("Dr A", "Dr B", "Dr C"):
        any_store.record_lookup(by=name, query_digest=DIGEST, shown=["c1"])
    assert any_store.trail(2)["by"].tolist() == ["Dr B", "Dr C"]
    assert any_store.trail(100).equals(any_store.trail())


def test_an_empty_trail_has_its_columns(any_store):
    trail = any_store.trail()
    assert trail.columns.tolist() == ["when", "by", "action", "query_digest", "cases"]
    assert trail.empty
    assert any_store.withdrawn().empty


@pytest.mark.parametrize("table", ["trail", "tombstones"])
@pytest.mark.parametrize("change", ["UPDATE {} SET \"by\" = 'nobody'", "DELETE FROM {}"])
def test_the_database_itself_refuses_to_rewrite_the_trail(any_store, some, table, change):
    some.fill(any_store, 2)
    any_store.withdraw("c0", by="Dr A")
    with (
        pytest.raises(DatabaseError, match=f"table {table} is append-only"),
        any_store._engine.begin() as connection,
    ):
        connection.exec_driver_sql(change.format(table))
    assert any_store.withdrawn()["by"].tolist() == ["Dr A"]
    assert len(any_store.trail()) == 2


def test_postgresql_refuses_to_empty_the_trail(postgres_url, settings):
    with (
        CaseStore.create(postgres_url, **settings) as store,
        pytest.raises(DatabaseError, match="table trail is append-only"),
        store._engine.begin() as connection,
    ):
        connection.exec_driver_sql("TRUNCATE trail")


def test_a_lookup_does_not_move_the_version(any_store, some):
    some.fill(any_store, 1)
    version = any_store.version
    any_store.record_lookup(by="Dr B", query_digest=DIGEST, shown=["c0"])
    assert any_store.version == version


def test_a_case_withdrawn_between_being_shown_and_being_noted(any_store, some):
    some.fill(any_store, 2)
    any_store.withdraw("c1")
    any_store.record_lookup(by="Dr B", query_digest=DIGEST, shown=["c1", "c0"])
    assert any_store.trail()["cases"].tolist()[-1] == ("withdrawn", "c0")
    assert any_store.verify() == []
    with pytest.raises(StoreError, match="1 of the 2 cases shown were never in this store"):
        any_store.record_lookup(by="Dr B", query_digest=DIGEST, shown=["c0", "nobody"])


@pytest.mark.parametrize("digest", ["", "anna.jpg", "0F" * 32, "0f" * 33])
def test_refuses_what_is_no_digest(store, digest):
    with pytest.raises(StoreError, match=r"query digest .* is none"):
        store.record_lookup(by="Dr B", query_digest=digest, shown=[])


def test_an_image_has_one_digest_in_a_store(store, tmp_path):
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    digest = store.query_digest(pixels)
    assert len(digest) == 64
    assert store.query_digest(np.asfortranarray(pixels)) == digest
    with CaseStore(tmp_path / "cases.db") as again:
        assert again.query_digest(pixels.copy()) == digest
    changed = pixels.copy()
    changed[0, 0, 0] ^= 1
    different = [changed, pixels.reshape(4, 2, 3), pixels.astype(np.uint16)]
    assert len({digest, *map(store.query_digest, different)}) == 4
