import datetime

import numpy as np
import pandas as pd
import pytest

from medshadow.data import CaseTable
from medshadow.errors import StoreError
from medshadow.retrieval import CaseStore


def test_gives_back_what_it_was_given(any_store, database, some):
    cases = some.frame(3, age=[50.0, None, 7.5], sex=["female", None, "male"], count=[1, 2, 3])
    cases["labels"] = [frozenset({"nv", "x"}), frozenset({"nv"}), frozenset({"nv"})]
    cases["seen"] = pd.to_datetime(["2020-01-02", None, "2021-03-04"])
    given = some.vectors(3)
    pictures = [some.picture(10), None, some.picture(30)]
    before = datetime.datetime.now(datetime.UTC)
    any_store.add(cases, given, model_digest="m1", thumbnails=pictures)

    with CaseStore(database) as again:
        kept = again.frame()
        assert again.embeddings().dtype == np.float32
        np.testing.assert_array_equal(again.embeddings(), given)
        assert len(again) == 3
        assert (again.name, again.model_digest, again.embedding_dim) == ("tiny", "m1", 4)
        assert again.source == "Drawn for tests"
        assert again.preprocess == {"preset": "dermatology", "size": 32}
        assert again.malignant == {"mel"}
        assert again.diagnosis_names == {"mel": "melanoma"}
        assert again.verify() == []
        assert [again.thumbnail(f"c{i}") for i in range(3)] == pictures
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
    now = datetime.datetime.now(datetime.UTC)
    assert kept["added"].between(before, now).all()


def test_keeps_no_path_and_no_split(store, tmp_path, some):
    cases = some.frame(2).assign(image=["/secret/place/anna.jpg", "/secret/place/ben.jpg"])
    store.add(CaseTable(cases.assign(section="test")), some.vectors(2), model_digest="m1")
    assert not {"image", "section"} & set(store.frame())
    store.close()
    for file in tmp_path.iterdir():
        assert b"anna" not in file.read_bytes()
        assert b"secret" not in file.read_bytes()


def test_keeps_label_sets_and_flags_and_no_findings(store, some):
    cases = some.frame(2, lens_dust=[True, False], keywords=["drusen; lens dust", "normal fundus"])
    cases["labels"] = [frozenset({"nv", "O"}), frozenset({"nv"})]
    cases["findings"] = [frozenset({"nv", "O: drusen"}), frozenset({"nv"})]
    store.add(CaseTable(cases.assign(image="x.png")), some.vectors(2), model_digest="m1")
    kept = store.frame()
    assert kept["labels"].tolist() == [{"nv", "O"}, {"nv"}]
    assert kept["lens_dust"].tolist() == [True, False]
    assert kept["keywords"].tolist() == ["drusen; lens dust", "normal fundus"]
    assert "findings" not in kept
    assert store.verify() == []


def test_refuses_metadata_that_holds_file_names(store, some):
    cases = some.frame(1).assign(image=["/secret/anna.jpg"], source=["C:\\scans\\anna.jpg"])
    with pytest.raises(StoreError, match="'source' holds the images' file names"):
        store.add(cases, some.vectors(1), model_digest="m1")
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
def test_refuses_vectors_that_are_not_unit_vectors_of_its_dimension(store, some, change, message):
    with pytest.raises(StoreError, match=message):
        store.add(some.frame(3), change(some.vectors(3)), model_digest="m1")
    assert len(store) == 0


def test_refuses_vectors_of_another_model(store, some):
    with pytest.raises(StoreError, match=r"vectors of model other refused; .* of model m1"):
        store.add(some.frame(1), some.vectors(1), model_digest="other")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="group"), r"missing columns \['group'\]"),
        (lambda f: f.assign(case_id="c0"), "case_id 'c0' stands twice"),
        (lambda f: f.assign(group=["g", " "]), "'group' in row 1 is empty"),
        (lambda f: f.assign(consent="given"), r"columns \['consent'\] have names"),
        (lambda f: f.assign(size=[1.0, float("inf")]), "'c1': column 'size' holds inf"),
        (lambda f: f.assign(box=[[1], [2]]), "'c0': column 'box' holds"),
        (lambda f: f.assign(labels=["nv", "nv"]), "'c0': labels must be a set .* holds .*'nv'"),
        (lambda f: f.assign(labels=[{"nv"}, {"mel"}]), "'c1': labels must be a set that holds"),
    ],
)
def test_refuses_rows_that_cannot_be_kept(store, some, change, message):
    with pytest.raises(StoreError, match=message):
        store.add(change(some.frame(2)), some.vectors(2), model_digest="m1")
    assert len(store) == 0


@pytest.mark.parametrize(
    ("thumbnails", "message"),
    [
        ([b"GIF89a", None], "case 'c0' is not a JPEG"),
        ([None, b"\xff\xd8\xff\xe1\x00\x20Exif\x00\x00"], "case 'c1' carries EXIF"),
        ([None], "thumbnails end before case 'c1'"),
        ([None, None, None], "more thumbnails than the 2 cases"),
    ],
)
def test_refuses_wrong_thumbnails(store, some, thumbnails, message):
    with pytest.raises(StoreError, match=message):
        store.add(some.frame(2), some.vectors(2), model_digest="m1", thumbnails=thumbnails)


def test_more_cases_than_a_statement_takes_parameters(any_store, some):
    n = 1203
    pictures = [some.picture(1)] * n
    any_store.add(some.frame(n), some.vectors(n), model_digest="m1", thumbnails=pictures)
    assert len(any_store) == n
    assert any_store.thumbnail("c1202") == some.picture(1)
    any_store.withdraw(f"c{i}" for i in range(n - 1))
    assert any_store.frame()["case_id"].tolist() == ["c1202"]
    assert len(any_store.withdrawn()) == n - 1


def test_consent_is_given_or_suspended(any_store, some):
    some.fill(any_store, 2)
    any_store.set_consent("c1", "suspended")
    assert any_store.frame()["consent"].tolist() == ["given", "suspended"]
    with pytest.raises(StoreError, match="'maybe' is not known"):
        any_store.set_consent("c1", "maybe")
    with pytest.raises(StoreError, match="no cases"):
        any_store.set_consent("nobody", "given")


def test_keeps_a_calibration(any_store, database):
    assert any_store.calibration is None
    before = any_store.version
    any_store.set_calibration({"cases": 12, "curve": [0.1, 0.5], "of": {"mel": None}})
    assert any_store.version == before + 1
    with CaseStore(database) as again:
        assert again.calibration == {"cases": 12, "curve": [0.1, 0.5], "of": {"mel": None}}
    any_store.set_calibration({"cases": 13})
    assert any_store.calibration == {"cases": 13}
    for wrong in ({"x": float("nan")}, {"x": np.float32(1)}, {"x": {1, 2}}):
        with pytest.raises(StoreError, match="cannot be kept as JSON"):
            any_store.set_calibration(wrong)
    any_store.set_calibration(None)
    assert any_store.calibration is None
