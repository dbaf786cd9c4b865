import re
import sqlite3
import threading

import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, ExactSearch


def tamper(path, *statements):
    database = sqlite3.connect(path)
    for statement in statements:
        database.execute(statement)
    database.commit()
    database.close()


def test_a_backup_is_a_whole_store(store, tmp_path, some):
    pictures = [some.picture(i) for i in range(4)]
    store.add(some.frame(4, age=5), some.vectors(4), model_digest="m1", thumbnails=pictures)
    store.withdraw("c3", by="Dr A")
    store.set_calibration({"cases": 3})
    copy = tmp_path / "backups"
    copy.mkdir()
    store.backup(copy / "cases.db")
    assert [file.name for file in copy.iterdir()] == ["cases.db"]
    assert (copy / "cases.db").stat().st_mode & 0o777 == 0o600
    with CaseStore(copy / "cases.db") as again:
        assert again.verify() == []
        assert again.frame().equals(store.frame())
        assert again.embeddings().tobytes() == store.embeddings().tobytes()
        assert again.thumbnail("c2") == pictures[2]
        assert again.trail().equals(store.trail())
        assert again.withdrawn().equals(store.withdrawn())
        assert again.calibration == {"cases": 3}
        with pytest.raises(StoreError, match="withdrawn from this store before"):
            again.add(some.frame(4, age=5), some.vectors(4), model_digest="m1", resume=True)


def test_a_backup_put_back_is_not_taken_for_the_store_it_was(store, tmp_path, some):
    some.fill(store, 4)
    store.backup(tmp_path / "copy.db")
    store.withdraw("c0")
    some.fill(store, 2, prefix="later", seed=5)
    known = store.version
    ExactSearch(store)
    store.close()
    for name in ("cases.db", "cases.db-wal", "cases.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / "copy.db").rename(tmp_path / "cases.db")
    with CaseStore(tmp_path / "cases.db") as put_back:
        assert put_back.changes_since(known) is None
        some.fill(put_back, 2, prefix="other", seed=6)
        assert put_back.changes_since(known) is None
        assert put_back.snapshot().keys[4] > 2**40
        found = ExactSearch(put_back).search(some.vectors(2, seed=6)[0], k=1)
        assert found[0].case_id == "other0"
        assert put_back.verify() == []


def test_a_backup_is_taken_while_others_write(store, tmp_path, some):
    go_on = threading.Event()
    go_on.set()

    def write():
        with CaseStore(tmp_path / "cases.db") as own:
            for i in range(1000):
                if not go_on.is_set():
                    return
                some.fill(own, 2, prefix=f"p{i}-", seed=i)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for i in range(5):
            store.backup(tmp_path / f"copy{i}.db")
    finally:
        go_on.clear()
        writer.join()
    for i in range(5):
        with CaseStore(tmp_path / f"copy{i}.db") as copy:
            assert copy.verify() == []
            assert len(copy) % 2 == 0


def test_a_backup_overwrites_nothing(store, tmp_path):
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(StoreError, match="exists; name a new file"):
        store.backup(tmp_path / "copy.db")
    assert (tmp_path / "copy.db").read_text() == "precious"


def test_a_backup_that_fails_leaves_nothing(store, tmp_path, monkeypatch):
    def fail(_copy):
        raise OSError("disk full")

    monkeypatch.setattr("medshadow.retrieval.backup._begin_anew", fail)
    with pytest.raises(OSError, match="disk full"):
        store.backup(tmp_path / "copy.db")
    assert not list(tmp_path.glob("copy.db*"))


def test_postgresql_is_backed_up_by_its_own_program(postgres_url, tmp_path, settings):
    with (
        CaseStore.create(postgres_url, **settings) as store,
        pytest.raises(StoreError, match="pg_dump") as refused,
    ):
        store.backup(tmp_path / "copy.db")
    assert store._engine.url.password not in str(refused.value)


def test_verify_finds_cases_that_were_tampered_with(store, tmp_path, some):
    pictures = [some.picture(1)] * 6
    store.add(some.frame(6), some.vectors(6), model_digest="m1", thumbnails=pictures)
    store.set_consent("c4", "suspended")
    assert store.verify() == []
    tamper(
        tmp_path / "cases.db",
        "UPDATE cases SET embedding = zeroblob(16) WHERE case_id = 'c0'",
        "UPDATE cases SET embedding = x'0011' WHERE case_id = 'c1'",
        "UPDATE cases SET model_digest = 'old' WHERE case_id = 'c2'",
        "UPDATE cases SET label = 'mel' WHERE case_id = 'c3'",
        "UPDATE cases SET consent = 'given' WHERE case_id = 'c4'",
        "UPDATE cases SET key = 77 WHERE case_id = 'c5'",
        "INSERT INTO thumbnails VALUES (99, x'ffd8ff')",
    )
    found = store.verify()
    for words in (
        "'c0' has length 0",
        "'c1': vector of 2 bytes, expected 16",
        "'c2': vector of another model",
        "'c3': label 'mel' is not among",
        "'c4': it may be shown, but readers were told that it is gone",
        "'c5': its key is above 6",
        "'thumbnails': row 99 belongs to no case",
    ):
        assert any(words in sentence for sentence in found), words
    assert len(found) == 7


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["DROP TRIGGER trail_no_delete"], "'trail': the triggers .* are missing"),
        (["DROP TRIGGER tombstones_no_update"], "'tombstones': the triggers .* are missing"),
        (["DELETE FROM trail WHERE id = 2"], "trail: 1 of 4 entries are missing, the first 2"),
        (["DELETE FROM trail WHERE id = 4"], "trail: 1 of 4 entries are missing, the first 4"),
        (["UPDATE trail SET id = 9 WHERE id = 4"], "trail: 4 entries, but the store wrote 4"),
        (["DELETE FROM cases WHERE id = 1"], "trail: entry 1 names case number 1, .* neither"),
        (["DELETE FROM tombstones"], "trail: entry 1 names case number 3, .* neither"),
        (['UPDATE tombstones SET "case" = 2'], "case number 2 has a tombstone and is still"),
        (["UPDATE archive SET version = 0"], "'c0': it was changed after the store's version 0"),
    ],
)
def test_verify_finds_what_was_done_behind_its_back(store, tmp_path, some, statements, words):
    some.fill(store, 3)
    store.update("c1", label="mel")
    store.record_lookup(by="Dr A", query_digest="0" * 64, shown=["c0"])
    store.withdraw("c2")
    assert store.verify() == []
    triggers = [
        f"DROP TRIGGER IF EXISTS {table}_no_{action}"
        for table in ("trail", "tombstones")
        for action in ("update", "delete")
        if not statements[0].startswith("DROP")
    ]
    tamper(tmp_path / "cases.db", *triggers, *statements)
    assert any(re.search(words, sentence) for sentence in store.verify())


def test_verify_reads_the_file_of_vectors(store, some):
    some.fill(store, 4)
    ExactSearch(store)
    whole = store.vectors_path.read_bytes()
    assert store.verify() == []
    store.withdraw("c1")
    assert store.verify() == []
    # A copy put back from before the withdrawal.
    store.vectors_path.write_bytes(whole)
    assert store.verify() == ["file of vectors: it still holds key 2, of a withdrawn case"]
    store.vectors_path.write_bytes(whole[:-1])
    assert "file of vectors" in store.verify()[0]
    store.vectors_path.unlink()
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cases SET embedding = ? WHERE case_id = 'c2'",
                                   (some.vectors(1, seed=9).tobytes(),))  # fmt: skip
    assert store.verify() == []
    ExactSearch(store)
    with store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE cases SET embedding = ? WHERE case_id = 'c2'",
                                   (some.vectors(1, seed=8).tobytes(),))  # fmt: skip
    assert store.verify() == ["case 'c2': the file of vectors holds something else"]
