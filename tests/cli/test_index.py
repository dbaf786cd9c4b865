"""``medshadow index build``, ``add`` and what keeps a store, on drawn data of every kind."""

import csv
import json
import sqlite3

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import medshadow.retrieval
from medshadow.cli import app
from medshadow.data import ham10k_cases, split_cases, write_phantoms
from medshadow.data.splits import save_split
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseStore
from medshadow.workflows import additions

run = CliRunner().invoke


def small_model(seed=3):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    settings = {"preset": "dermatology", "size": 32}
    return Embedder(Backbone("small", net), embedding_dim=4, preprocess=settings).eval()


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    """A network of one convolution in the place of each model folder."""
    embedder = small_model()
    monkeypatch.setattr(Embedder, "load", lambda folder: embedder)


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    return write_phantoms(tmp_path_factory.mktemp("lesions"), lesions=22, progress=False)


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eyes")
    return write_phantoms(folder, kind="fundi", patients=24, progress=False)


@pytest.fixture
def archive(lesions, tmp_path, monkeypatch):
    """A table of five images of an own archive."""
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "k" * 32)
    table = tmp_path / "own.csv"
    images = sorted(lesions.glob("*/*.jpg"))[:5]
    rows = [(str(image), ("mel", "nv")[i % 2], f"patient{i}") for i, image in enumerate(images)]
    write_rows(table, rows)
    return table


def write_rows(table, rows):
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("file", "diagnosis", "patient"), *rows])


def read_rows(table):
    with table.open(newline="") as file:
        return list(csv.reader(file))[1:]


OWN = ["--set", "image=file", "--set", "label=diagnosis", "--set", "group=patient"]


def index(*words, **options):
    return run(app, ["index", *map(str, words)], **options)


def build(data, cases, *words):
    done = index("build", "--data", data, "--model", "model", "--cases", cases, "--json", *words)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def add(data, cases, *words):
    return index("add", "--data", data, "--model", "model", "--cases", cases, "--json", *words)


def test_lesions_are_recognised_and_their_diagnoses_named(lesions, tmp_path):
    found = build(lesions, tmp_path / "cases.db")
    with CaseStore(tmp_path / "cases.db") as store:
        assert found == {"cases": len(store)}
        assert store.diagnosis_names["mel"] == "melanoma"
        assert store.malignant_word == "malignant"
        assert store.verify() == []
    assert [path.name for path in tmp_path.iterdir()] == ["cases.db"]


def test_eyes_are_recognised_and_their_diagnoses_named(eyes, tmp_path):
    build(eyes, tmp_path / "cases.db")
    with CaseStore(tmp_path / "cases.db") as store:
        assert store.diagnosis_names["G"] == "glaucoma"
        assert store.malignant_word == "sight-threatening"
        assert {"eye", "keywords"} <= set(store.frame())


def test_an_own_archive_is_read_by_its_columns(archive, tmp_path):
    assert build(archive, tmp_path / "cases.db", *OWN) == {"cases": 5}
    with CaseStore(tmp_path / "cases.db") as store:
        assert store.diagnosis_names == {}
        assert store.source == "own.csv"
        assert not any("patient" in group for group in store.frame()["group"])


def test_the_training_section_is_stored_and_the_validation_section_learned_from(lesions, tmp_path):
    table = split_cases(ham10k_cases(lesions), (0.5, 0.25, 0.25))
    save_split(table, tmp_path / "splits.csv")
    build(lesions, tmp_path / "cases.db", "--splits", tmp_path / "splits.csv")
    with CaseStore(tmp_path / "cases.db") as store:
        assert set(store.frame()["case_id"]) == set(table.section("training").frame["case_id"])
        first = store.calibration
    assert first is not None
    done = index("calibrate", "--data", lesions, "--model", "model", "--json",
                 "--cases", tmp_path / "cases.db", "--splits", tmp_path / "splits.csv")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"validation": len(table.section("validation"))}
    with CaseStore(tmp_path / "cases.db") as store:
        assert store.calibration == first


def test_without_validation_cases_there_is_nothing_to_learn_from(lesions, tmp_path):
    save_split(split_cases(ham10k_cases(lesions), {"training": 1.0}), tmp_path / "splits.csv")
    build(lesions, tmp_path / "cases.db", "--splits", tmp_path / "splits.csv")
    with CaseStore(tmp_path / "cases.db") as store:
        assert store.calibration is None
    done = index("calibrate", "--data", lesions, "--model", "model",
                 "--cases", tmp_path / "cases.db", "--splits", tmp_path / "splits.csv")  # fmt: skip
    assert "no validation cases" in str(done.exception)


def test_a_store_that_exists_is_left_alone(archive, tmp_path):
    cases = tmp_path / "cases.db"
    build(archive, cases, *OWN)
    before = cases.read_bytes()
    done = index("build", "--data", archive, "--model", "model", "--cases", cases, *OWN)
    assert done.exit_code == 1
    assert "medshadow index add" in str(done.exception)
    assert cases.read_bytes() == before


def test_a_stopped_build_shows_no_store_and_goes_on(archive, tmp_path, monkeypatch):
    cases, real, seen = tmp_path / "cases.db", additions.add_cases, []
    words = ["build", "--data", archive, "--model", "model", "--cases", cases, *OWN]

    def two_then_stop(store, embedder, table, **options):
        real(store, embedder, additions.replace(table, frame=table.frame[:2]), **options)
        raise KeyboardInterrupt

    monkeypatch.setattr("medshadow.workflows.building.add_cases", two_then_stop)
    assert index(*words).exit_code == 130
    assert not cases.exists()

    def counted(*arguments, **options):
        seen.append(real(*arguments, **options))

    monkeypatch.setattr("medshadow.workflows.building.add_cases", counted)
    assert index(*words).exit_code == 0
    assert [(found.added, found.known) for found in seen] == [(3, 2)]
    with CaseStore(cases) as store:
        assert len(store) == 5
    assert not list(tmp_path.glob("*.part*"))


def test_a_store_that_somebody_else_has_open_does_not_lose_its_log(archive, tmp_path, monkeypatch):
    real = additions.add_cases

    def read_by_another(store, *arguments, **options):
        other = sqlite3.connect(tmp_path / "cases.db.part")
        others.append(other)
        other.execute("BEGIN")
        other.execute("SELECT * FROM cases").fetchall()
        return real(store, *arguments, **options)

    others = []
    monkeypatch.setattr("medshadow.workflows.building.add_cases", read_by_another)
    words = ["build", "--data", archive, "--model", "model", "--cases", tmp_path / "cases.db", *OWN]
    assert "open in another process" in str(index(*words).exception)
    others[0].close()
    monkeypatch.undo()
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "k" * 32)
    monkeypatch.setattr(Embedder, "load", lambda folder: small_model())
    assert build(archive, tmp_path / "cases.db", *OWN) == {"cases": 5}


@pytest.mark.parametrize("other", ["model", "cases"])
def test_what_was_begun_otherwise_is_begun_anew(archive, tmp_path, monkeypatch, other):
    cases, real = tmp_path / "cases.db", additions.add_cases

    def stopped(*arguments, **options):
        real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("medshadow.workflows.building.add_cases", stopped)
        words = ["build", "--data", archive, "--model", "model", "--cases", cases, *OWN]
        assert index(*words).exit_code == 130
    second = small_model(seed=4) if other == "model" else small_model()
    monkeypatch.setattr(Embedder, "load", lambda folder: second)
    if other == "cases":
        monkeypatch.setenv("MEDSHADOW_SITE_KEY", "o" * 32)
    assert build(archive, cases, *OWN) == {"cases": 5}
    with CaseStore(cases) as store:
        assert store.model_digest == second.digest
        assert store.verify() == []


def test_adding_twice_adds_once(archive, tmp_path):
    cases, rows = tmp_path / "cases.db", read_rows(archive)
    write_rows(archive, rows[:3])
    build(archive, cases, *OWN)
    write_rows(archive, rows)
    for added in (2, 0):
        found = json.loads(add(archive, cases, *OWN).stdout)
        assert found == {"added": added, "known": 5 - added, "withdrawn": 0, "cases": 5}


def test_changed_content_is_an_error_unless_it_replaces(archive, tmp_path):
    cases, rows = tmp_path / "cases.db", read_rows(archive)
    build(archive, cases, *OWN)
    rows[0][1] = "bcc"
    write_rows(archive, rows)
    assert "other content" in str(add(archive, cases, *OWN).exception)
    assert json.loads(add(archive, cases, *OWN, "--replace").stdout)["added"] == 1
    with CaseStore(cases) as store:
        assert sorted(store.frame()["label"]) == ["bcc", "mel", "mel", "nv", "nv"]


def test_what_was_withdrawn_is_counted_and_stays_out(archive, tmp_path):
    cases = tmp_path / "cases.db"
    build(archive, cases, *OWN)
    index("withdraw", "patient0", "--groups", "--own-ids", "--cases", cases, "--yes")
    shown = index("add", "--data", archive, "--model", "model", "--cases", cases, *OWN)
    assert "0 cases added, 4 were there, 1 withdrawn before stay out; 4 in" in shown.output


def test_verify_ends_with_one_where_anything_is_wrong(archive, tmp_path, monkeypatch):
    cases = tmp_path / "cases.db"
    build(archive, cases, *OWN)
    sound = index("verify", "--cases", cases, "--json")
    assert (sound.exit_code, json.loads(sound.stdout)) == (0, {"cases": 5, "problems": []})
    monkeypatch.setattr(CaseStore, "verify", lambda store: ["case 3: a label is missing"])
    broken = index("verify", "--cases", cases)
    assert broken.exit_code == 1
    assert "case 3: a label is missing\n1 problems among 5 cases" in broken.output


def test_a_backup_is_a_store_of_its_own(archive, tmp_path):
    cases, copy = tmp_path / "cases.db", tmp_path / "copy.db"
    build(archive, cases, *OWN)
    done = index("backup", copy, "--cases", cases)
    assert done.exit_code == 0, done.output
    assert f"5 cases in {copy}" in done.output
    with CaseStore(copy) as store:
        assert len(store) == 5
    assert "exists" in str(index("backup", copy, "--cases", cases).exception)


def test_the_file_of_vectors_is_made_anew(archive, tmp_path):
    cases = tmp_path / "cases.db"
    build(archive, cases, *OWN)
    vectors = tmp_path / "cases.db.vectors"
    vectors.write_bytes(b"no vectors")
    done = index("rebuild", "--cases", cases, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"cases": 5}
    assert vectors.stat().st_size > 5 * 4 * 2
    with CaseStore(cases) as store:
        assert store.verify() == []


def test_upgrading_says_where_the_old_store_is(archive, tmp_path, monkeypatch):
    cases = tmp_path / "cases.db"
    build(archive, cases, *OWN)
    upgraded = []

    def upgrade_store(place):
        upgraded.append(place)
        return tmp_path / "cases.db.version-2"

    monkeypatch.setattr(medshadow.retrieval, "upgrade_store", upgrade_store, raising=False)
    done = index("upgrade", "--cases", cases)
    assert done.exit_code == 0, done.output
    assert upgraded == [str(cases)]
    assert "cases.db.version-2" in done.output.replace("\n", "")


def test_a_password_is_not_shown():
    from medshadow.cli.index import _shown

    assert _shown("postgresql+psycopg://ann:secret@db/cases") == (
        "postgresql+psycopg://ann:***@db/cases"
    )
    assert _shown("runs/cases.db") == "runs/cases.db"
