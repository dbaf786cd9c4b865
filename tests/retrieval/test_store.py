import datetime
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest

from medshadow.data import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, jpeg_thumbnail


def vectors(n, dim=4, seed=0):
    made = np.random.default_rng(seed).normal(size=(n, dim))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


def frame(n, prefix="c", **columns):
    ids = [f"{prefix}{i}" for i in range(n)]
    groups = [f"g{i // 2}" for i in range(n)]
    return pd.DataFrame({"case_id": ids, "group": groups, "label": "nv", **columns})


def picture(value):
    return jpeg_thumbnail(np.full((6, 8, 3), value, dtype=np.uint8))


def test_gives_back_what_it_was_given(store):
    cases = frame(3, age=[50.0, None, 7.5], sex=["female", None, "male"], count=[1, 2, 3])
    cases["labels"] = [frozenset({"nv", "x"}), frozenset({"nv"}), frozenset({"nv"})]
    cases["seen"] = pd.to_datetime(["2020-01-02", None, "2021-03-04"])
    given = vectors(3)
    before = datetime.datetime.now(datetime.UTC)
    store.add(cases, given, model_digest="m1", thumbnails=[picture(10), None, picture(30)])

    with CaseStore(store._where.removeprefix("sqlite:///")) as again:
        kept = again.frame()
        assert again.embeddings().dtype == np.float32
        np.testing.assert_array_equal(again.embeddings(), given)
        assert len(again) == 3
        assert (again.name, again.model_digest, again.embedding_dim) == ("tiny", "m1", 4)
        assert again.preprocess == {"preset": "dermatology", "size": 32}
        assert again.malignant == {"mel"}
        assert again.diagnosis_names == {"mel": "melanoma"}
        assert again.verify() == []
        assert again.thumbnail("c0") == picture(10)
        assert again.thumbnail("c1") is None
        assert again.image_of("c1") is None
        assert again.image_of("c2").shape == (6, 8, 3)
        assert abs(int(again.image_of("c2")[0, 0, 0]) - 30) <= 2

    assert kept["case_id"].tolist() == ["c0", "c1", "c2"]
    assert kept["group"].tolist() == ["g0", "g0", "g1"]
    assert kept["labels"].tolist() == cases["labels"].tolist()
    assert kept["age"].fillna(-1).tolist() == [50.0, -1, 7.5]
    assert kept["sex"].isna().tolist() == [False, True, False]
    assert kept["count"].tolist() == [1, 2, 3]
    assert kept["seen"].tolist()[0] == "2020-01-02T00:00:00"
    assert set(kept["consent"]) == {"given"}
    assert (kept["added"] >= before).all()


def test_keeps_no_path_and_no_split(store, tmp_path):
    cases = frame(2).assign(image=["/secret/place/anna.jpg", "/secret/place/ben.jpg"])
    store.add(CaseTable(cases.assign(section="test")), vectors(2), model_digest="m1")
    assert not {"image", "section"} & set(store.frame())
    store.close()
    for file in tmp_path.iterdir():
        assert b"anna" not in file.read_bytes()
        assert b"secret" not in file.read_bytes()


def test_keeps_label_sets_and_flags_and_no_findings(store):
    cases = frame(2, lens_dust=[True, False], keywords=["drusen; lens dust", "normal fundus"])
    cases["labels"] = [frozenset({"nv", "O"}), frozenset({"nv"})]
    cases["findings"] = [frozenset({"nv", "O: drusen"}), frozenset({"nv"})]
    store.add(CaseTable(cases.assign(image="x.png")), vectors(2), model_digest="m1")
    kept = store.frame()
    assert kept["labels"].tolist() == [{"nv", "O"}, {"nv"}]
    assert kept["lens_dust"].tolist() == [True, False]
    assert kept["keywords"].tolist() == ["drusen; lens dust", "normal fundus"]
    assert "findings" not in kept
    assert store.verify() == []


def test_refuses_metadata_that_holds_file_names(store):
    cases = frame(1).assign(image=["/secret/anna.jpg"], source=["C:\\scans\\anna.jpg"])
    with pytest.raises(StoreError, match="'source' holds the images' file names"):
        store.add(cases, vectors(1), model_digest="m1")
    assert len(store) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v[:2], r"shape \(2, 4\); expected \(3, 4\)"),
        (lambda v: v[:, :3], r"shape \(3, 3\); expected \(3, 4\)"),
        (lambda v: v * np.float32(1.01), "case 'c0' has length 1.01"),
        (lambda v: np.where(np.arange(3)[:, None] == 1, np.nan, v), "case 'c1' is not finite"),
        (lambda v: np.where(np.arange(3)[:, None] == 2, 0, v), "case 'c2' has length 0"),
    ],
)
def test_refuses_vectors_that_are_not_unit_vectors_of_its_dimension(store, change, message):
    with pytest.raises(StoreError, match=message):
        store.add(frame(3), change(vectors(3)), model_digest="m1")
    assert len(store) == 0


def test_refuses_vectors_of_another_model(store):
    with pytest.raises(StoreError, match=r"vectors of model other refused; .* of model m1"):
        store.add(frame(1), vectors(1), model_digest="other")


@pytest.mark.parametrize(
    ("cases", "message"),
    [
        (frame(2).drop(columns="group"), r"missing columns \['group'\]"),
        (frame(2).assign(case_id="c0"), "case_id 'c0' stands twice"),
        (frame(2).assign(group=["g", " "]), "'group' is empty in row 1"),
        (frame(2).assign(consent="given"), r"columns \['consent'\] have names"),
        (frame(2).assign(size=[1.0, float("inf")]), "'c1': column 'size' holds inf"),
        (frame(2).assign(box=[[1], [2]]), "'c0': column 'box' holds"),
        (frame(2).assign(labels=["nv", "nv"]), "'c0': labels must be a set that holds .*'nv'"),
        (frame(2).assign(labels=[{"nv"}, {"mel"}]), "'c1': labels must be a set that holds"),
    ],
)
def test_refuses_rows_that_cannot_be_kept(store, cases, message):
    with pytest.raises(StoreError, match=message):
        store.add(cases, vectors(2), model_digest="m1")
    assert len(store) == 0


def test_a_case_comes_twice_only_to_be_replaced(store):
    store.add(frame(3), vectors(3), model_digest="m1", thumbnails=[picture(9)] * 3)
    newer = frame(1).assign(case_id="c1", label="mel")
    with pytest.raises(StoreError, match=r"already in the store: \['c1'\]"):
        store.add(newer, vectors(1, seed=9), model_digest="m1")
    store.add(newer, vectors(1, seed=9), model_digest="m1", replace=True)
    assert store.frame()["case_id"].tolist() == ["c0", "c2", "c1"]
    assert store.frame()["label"].tolist() == ["nv", "nv", "mel"]
    np.testing.assert_array_equal(store.embeddings()[2], vectors(1, seed=9)[0])
    assert store.thumbnail("c1") is None
    assert store.verify() == []


@pytest.mark.parametrize(
    ("thumbnails", "message"),
    [
        ([b"GIF89a", None], "case 'c0' is not a JPEG"),
        ([None, b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00"], "case 'c1' carries EXIF"),
        ([None], "thumbnails end before case 'c1'"),
        ([None, None, None], "more thumbnails than the 2 cases"),
    ],
)
def test_refuses_wrong_thumbnails(store, thumbnails, message):
    with pytest.raises(StoreError, match=message):
        store.add(frame(2), vectors(2), model_digest="m1", thumbnails=thumbnails)


def test_more_cases_than_a_statement_takes_parameters(store):
    n = 1203
    store.add(frame(n), vectors(n), model_digest="m1", thumbnails=[picture(1)] * n)
    assert len(store) == n
    assert store.thumbnail("c1202") == picture(1)
    store.withdraw(f"c{i}" for i in range(n - 1))
    assert store.frame()["case_id"].tolist() == ["c1202"]


def test_withdrawing_gives_the_room_back(store, tmp_path):
    store.add(frame(500), vectors(500), model_digest="m1", thumbnails=[picture(1)] * 500)
    store.withdraw("c0")
    full = (tmp_path / "cases.db").stat().st_size
    store.withdraw(f"c{i}" for i in range(1, 499))
    assert (tmp_path / "cases.db").stat().st_size < full / 2


def test_withdrawing_leaves_no_byte_behind(store, tmp_path):
    marked = vectors(1, seed=7)
    cases = frame(40).assign(note="kept")
    store.add(cases, vectors(40), model_digest="m1", thumbnails=[picture(i) for i in range(40)])
    gone = frame(1, prefix="withdrawn-case-").assign(note="zebra-rash-on-thumb", group="gone-group")
    store.add(gone, marked, model_digest="m1", thumbnails=[picture(200)])
    secrets = [b"withdrawn-case-0", b"zebra-rash", b"gone-group", marked.tobytes(), picture(200)]

    def bytes_on_disk():
        return b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert all(secret in bytes_on_disk() for secret in secrets)
    version = store.version
    store.withdraw("withdrawn-case-0")
    assert not any(secret in bytes_on_disk() for secret in secrets)
    assert vectors(40)[39].tobytes() in bytes_on_disk()
    assert len(store) == 40
    assert store.version > version
    assert store.verify() == []


def test_withdrawing_says_when_a_reader_keeps_the_log(store, tmp_path, caplog, monkeypatch):
    monkeypatch.setattr("medshadow.retrieval.database.BUSY_MILLISECONDS", 50)
    with CaseStore(tmp_path / "cases.db") as other:
        store.add(frame(2), vectors(2), model_digest="m1")
        reader = sqlite3.connect(tmp_path / "cases.db", isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM cases").fetchone()
        other.withdraw("c0")
        reader.close()
        assert "their bytes stay in the database" in caplog.text
        assert len(store) == 1
        caplog.clear()
        other.withdraw("c1")
        assert caplog.text == ""


def test_withdraws_all_or_nothing(store):
    store.add(frame(2), vectors(2), model_digest="m1")
    with pytest.raises(StoreError, match=r"no cases \['nobody'\]"):
        store.withdraw(["c0", "nobody"])
    assert len(store) == 2
    with pytest.raises(StoreError, match="no case 'nobody'"):
        store.thumbnail("nobody")


def test_consent_is_given_or_suspended(store):
    store.add(frame(2), vectors(2), model_digest="m1")
    store.set_consent("c1", "suspended")
    assert store.frame()["consent"].tolist() == ["given", "suspended"]
    with pytest.raises(StoreError, match="'maybe' is not known"):
        store.set_consent("c1", "maybe")
    with pytest.raises(StoreError, match="no cases"):
        store.set_consent("nobody", "given")


def test_every_change_moves_the_version_on(store):
    seen = [store.version]
    for change in (
        lambda: store.add(frame(2), vectors(2), model_digest="m1"),
        lambda: store.add(frame(1), vectors(1), model_digest="m1", replace=True),
        lambda: store.set_consent("c0", "suspended"),
        lambda: store.withdraw("c0"),
    ):
        change()
        seen.append(store.version)
    assert seen == sorted(set(seen))


def test_sqlite_is_set_up_to_share_and_to_erase(store):
    expected = {"journal_mode": "wal", "foreign_keys": 1, "secure_delete": 1, "synchronous": 2}
    with store._engine.begin() as connection:
        for pragma, value in expected.items():
            assert connection.exec_driver_sql(f"PRAGMA {pragma}").scalar() == value


def test_readers_go_on_while_another_writes(store, tmp_path):
    store.add(frame(2), vectors(2), model_digest="m1")
    writer = sqlite3.connect(tmp_path / "cases.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM cases")
    assert store.snapshot().frame["case_id"].tolist() == ["c0", "c1"]
    writer.execute("ROLLBACK")
    writer.close()


def test_two_writers_take_turns(store, tmp_path):
    def add_one_by_one(prefix):
        with CaseStore(tmp_path / "cases.db") as own:
            own.add(frame(30, prefix), vectors(30), model_digest="m1", batch_size=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add_one_by_one, ["left", "right"]))
    assert len(store) == 60
    assert store.version == 60


def test_a_snapshot_is_of_one_moment(store):
    store.add(frame(5), vectors(5), model_digest="m1")
    snapshot = store.snapshot()
    assert snapshot.version == store.version
    assert len(snapshot.frame) == len(snapshot.embeddings) == 5


def test_killed_while_adding_keeps_the_batches_before(store, tmp_path):
    store.close()
    script = f"""
        import os, signal, numpy as np, pandas as pd
        from medshadow.retrieval import CaseStore, jpeg_thumbnail
        jpeg = jpeg_thumbnail(np.zeros((6, 8, 3), dtype=np.uint8))
        def thumbnails():
            for i in range(40):
                if i == 25:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield jpeg
        store = CaseStore({str(tmp_path / "cases.db")!r})
        ids = [f"c{{i}}" for i in range(40)]
        cases = pd.DataFrame({{"case_id": ids, "group": ids, "label": "nv"}})
        rows = np.tile(np.float32([1, 0, 0, 0]), (40, 1))
        store.add(cases, rows, model_digest="m1", thumbnails=thumbnails(), batch_size=10)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    with CaseStore(tmp_path / "cases.db") as after:
        assert after.frame()["case_id"].tolist() == [f"c{i}" for i in range(20)]
        assert after.thumbnail("c19") is not None
        assert after.verify() == []


def test_verify_finds_what_was_tampered_with(store, tmp_path):
    store.add(frame(4), vectors(4), model_digest="m1", thumbnails=[picture(1)] * 4)
    assert store.verify() == []
    tamper = sqlite3.connect(tmp_path / "cases.db")
    tamper.execute("UPDATE cases SET embedding = zeroblob(16) WHERE case_id = 'c0'")
    tamper.execute("UPDATE cases SET embedding = x'0011' WHERE case_id = 'c1'")
    tamper.execute("UPDATE cases SET model_digest = 'old' WHERE case_id = 'c2'")
    tamper.execute("UPDATE cases SET label = 'mel' WHERE case_id = 'c3'")
    tamper.execute("INSERT INTO thumbnails VALUES (99, x'ffd8ff')")
    tamper.commit()
    tamper.close()
    found = " | ".join(store.verify())
    for words in (
        "'c0' has length 0",
        "'c1': vector of 2 bytes, expected 16",
        "'c2': vector of another model",
        "'c3': label 'mel' is not among",
        "'thumbnails': row 99 belongs to no case",
    ):
        assert words in found


def test_opening_what_is_no_store(tmp_path):
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
    settings = {"name": "x", "model_digest": "m", "embedding_dim": 2, "preprocess": {}}
    with pytest.raises(StoreError, match="holds other tables"):
        CaseStore.create(tmp_path / "other.db", **settings)


def test_a_store_is_made_once(store, tmp_path):
    with pytest.raises(StoreError, match="holds a case store"):
        CaseStore.create(
            tmp_path / "cases.db", name="x", model_digest="m", embedding_dim=2, preprocess={}
        )


def test_a_store_of_another_schema_is_refused(store, tmp_path):
    store.close()
    later = sqlite3.connect(tmp_path / "cases.db")
    later.execute("UPDATE archive SET schema_version = 99")
    later.commit()
    later.close()
    with pytest.raises(StoreError, match="schema version 99 is of a newer MedShadow; this one reads 3"):
        CaseStore(tmp_path / "cases.db")


def test_opens_by_url_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "cases.db"
    settings = {"name": "x", "model_digest": "m", "embedding_dim": 2, "preprocess": {}}
    CaseStore.create(path, **settings).close()
    with CaseStore(f"sqlite:///{path}") as opened:
        assert len(opened) == 0
        assert opened.embeddings().shape == (0, 2)
        assert opened.frame().empty
