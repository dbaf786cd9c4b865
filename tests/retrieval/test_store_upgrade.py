import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, text

from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore, schema, upgrade, upgrade_store
from medshadow.retrieval.database import store_engine, store_url

# Dumps of stores that MedShadow wrote when these were its versions: one case is suspended, and one,
# number 4, was withdrawn.
DUMPS = Path(__file__).parent / "data"


@pytest.fixture(params=[1, 2])
def old(request, tmp_path):
    """A store of an older version, as MedShadow of that time left it: (path, version)."""
    path = tmp_path / "old.db"
    database = sqlite3.connect(path)
    database.executescript((DUMPS / f"store_version_{request.param}.sql").read_text())
    database.close()
    return path, request.param


def raw(path, query):
    database = sqlite3.connect(path)
    rows = database.execute(query).fetchall()
    database.close()
    return rows


def schema_of(url):
    """The tables and indexes of a database, and how they differ from the present schema."""
    engine = store_engine(store_url(url))
    with engine.connect() as connection:
        stamps = schema.alembic_version.name
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, _: (kind, name) != ("table", stamps),
            },
        )
        # Alembic leaves its own table out of what it finds.
        differences = [d for d in compare_metadata(context, schema.tables) if stamps not in str(d)]
        found = inspect(connection)
        checks = {
            table: sorted(c["sqltext"].replace("'", "") for c in found.get_check_constraints(table))
            for table in found.get_table_names()
        }
    engine.dispose()
    return differences, checks


def test_an_older_store_names_the_command_that_upgrades_it(old):
    path, version = old
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"version {version} .* medshadow index upgrade"):
        CaseStore(path)
    assert path.read_bytes()[100:] == before[100:]


def test_an_upgraded_store_holds_what_it_held(old, some):
    path, version = old
    vectors = b"".join(row[0] for row in raw(path, "SELECT embedding FROM cases ORDER BY id"))
    pictures = dict(raw(path, 'SELECT "case", jpeg FROM thumbnails'))
    copy = upgrade_store(path)
    assert copy == path.with_name(f"old.db.version-{version}")
    assert raw(copy, "SELECT schema_version, version FROM archive") == [(version, 3)]
    assert copy.stat().st_mode & 0o777 == 0o600
    with CaseStore(path) as store:
        snapshot = store.snapshot()
        assert snapshot.frame["case_id"].tolist() == ["c0", "c1", "c2"]
        assert snapshot.frame["consent"].tolist() == ["given", "given", "suspended"]
        assert snapshot.frame["labels"].tolist() == [{"D", "H"}, {"N"}, {"D"}]
        assert snapshot.frame["age"].fillna(-1).tolist() == [50, -1, 61]
        assert snapshot.frame["added"].dt.year.tolist() == [2026] * 3
        assert snapshot.embeddings.tobytes() == vectors
        assert [store.thumbnail(f"c{i}") for i in range(3)] == [pictures.get(i) for i in (1, 2, 3)]
        assert (store.name, store.source, store.malignant) == ("odir5k", "", {"D"})
        assert store.malignant_word == "sight-threatening"
        assert store.diagnosis_names == {"D": "diabetic retinopathy"}
        assert (store.version, store.calibration) == (3, None)
        assert store.changes_since(2) is None
        assert store.verify() == []
        # The withdrawn case had number 4, which must not be given out again.
        some.fill(store, 1, prefix="new")
        assert store.changes_since(3).added.keys.tolist() == [5]
        store.withdraw("c0")
        assert store.trail()["action"].tolist() == ["add", "withdraw"]
        assert store.verify() == []
    assert upgrade_store(path) is None


def test_an_upgraded_store_has_the_schema_of_a_new_one(old, store, tmp_path):
    path, _ = old
    upgrade_store(path)
    differences, checks = schema_of(path)
    assert differences == []
    assert checks == schema_of(tmp_path / "cases.db")[1]
    query = "SELECT name, tbl_name FROM sqlite_master WHERE type IN ('index', 'trigger')"
    named = f"{query} AND name NOT LIKE 'sqlite_%' ORDER BY name"
    assert raw(path, named) == raw(tmp_path / "cases.db", named)
    for file in (path, tmp_path / "cases.db"):
        assert raw(file, "SELECT version_num FROM alembic_version") == [("3",)]


def test_an_upgrade_that_fails_leaves_the_store_as_it_was(old, monkeypatch):
    path, version = old
    before = raw(path, "SELECT name, sql FROM sqlite_master")

    def fail(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        # By then the old tables are gone.
        patch.setattr("medshadow.retrieval.append_only.make_append_only", fail)
        with pytest.raises(OSError, match="disk full"):
            upgrade_store(path)
    assert raw(path, "SELECT name, sql FROM sqlite_master") == before
    assert raw(path, "SELECT schema_version FROM archive") == [(version,)]
    assert upgrade_store(path).exists()


def test_upgrading_erases_what_the_old_tables_held(old, some):
    path, _ = old
    upgrade_store(path).unlink()
    secret = raw(path, "SELECT embedding FROM cases WHERE case_id = 'c0'")[0][0]
    with CaseStore(path) as store:
        store.withdraw("c0")
    left = b"".join(file.read_bytes() for file in path.parent.iterdir())
    assert secret not in left


def test_a_copy_is_never_overwritten(old):
    path, version = old
    path.with_name(f"old.db.version-{version}").write_text("precious")
    with pytest.raises(StoreError, match=r"exists; name a new file"):
        upgrade_store(path)
    assert raw(path, "SELECT schema_version FROM archive") == [(version,)]


def test_upgrading_what_is_no_store(tmp_path):
    with pytest.raises(FileNotFoundError, match="no case store at"):
        upgrade_store(tmp_path / "absent.db")
    sqlite3.connect(tmp_path / "empty.db").close()
    with pytest.raises(StoreError, match="no table 'archive'"):
        upgrade_store(tmp_path / "empty.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be read as one" * 40)
    with pytest.raises(StoreError, match="not a case store"):
        upgrade_store(tmp_path / "text.db")


def test_a_store_of_a_newer_version_is_left_alone(store, tmp_path):
    with store._engine.begin() as connection:
        connection.execute(text("UPDATE archive SET schema_version = 99"))
    with pytest.raises(StoreError, match="version 99; this MedShadow knows 1 to 3"):
        upgrade_store(tmp_path / "cases.db")
    with pytest.raises(StoreError, match="version 99 is of a newer MedShadow; this one reads 3"):
        CaseStore(tmp_path / "cases.db")


def test_a_store_in_postgresql_is_upgraded_too(postgres_url, some):
    engine = store_engine(store_url(postgres_url))
    with engine.begin() as connection:
        upgrade.run_migrations(connection, "base", "2")
        connection.execute(text(
            "INSERT INTO archive VALUES "
            "(1, 2, 7, 'ham10000', 'm1', '{\"preset\": \"dermatology\"}', 4, '[\"mel\"]', '{}', "
            "'malignant')"))  # fmt: skip
        vector = some.vectors(1)[0].tobytes()
        for name in ("kept", "withdrawn"):
            connection.execute(text(
                'INSERT INTO cases (case_id, "group", label, labels, metadata, consent, added, '
                "model_digest, embedding) VALUES (:name, 'g', 'mel', '[\"mel\"]', '{\"age\": 4}', "
                "'given', now(), 'm1', :vector)"), {"name": name, "vector": vector})  # fmt: skip
        connection.execute(text("INSERT INTO thumbnails VALUES (1, :jpeg)"), {"jpeg": b"\xff\xd8"})
        connection.execute(text("DELETE FROM cases WHERE case_id = 'withdrawn'"))
    with pytest.raises(StoreError, match="medshadow index upgrade"):
        CaseStore(postgres_url)
    assert upgrade_store(postgres_url) is None
    with CaseStore(postgres_url) as store:
        assert store.frame()[["case_id", "age"]].to_numpy().tolist() == [["kept", 4]]
        assert store.embeddings()[0].tobytes() == vector
        assert store.thumbnail("kept") == b"\xff\xd8"
        assert (store.version, store.diagnosis_names) == (7, {})
        some.fill(store, 1)
        assert store.snapshot().keys.tolist() == [1, 3]
        assert store.verify() == []
        store.withdraw("kept")
    differences, checks = schema_of(postgres_url)
    assert differences == []
    with engine.begin() as connection:
        schema.tables.drop_all(connection)
    with CaseStore.create(postgres_url, name="x", model_digest="m", embedding_dim=2, preprocess={}):
        assert checks == schema_of(postgres_url)[1]
    engine.dispose()
