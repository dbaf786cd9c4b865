import numpy as np
import pandas as pd
import pytest

from medshadow.errors import StoreError


def test_a_case_comes_twice_only_to_be_replaced(any_store, some):
    pictures = [some.picture(9)] * 3
    any_store.add(some.frame(3), some.vectors(3), model_digest="m1", thumbnails=pictures)
    newer = some.frame(1).assign(case_id="c1", label="mel")
    with pytest.raises(StoreError, match=r"already in the store: \['c1'\]"):
        any_store.add(newer, some.vectors(1, seed=9), model_digest="m1")
    any_store.add(newer, some.vectors(1, seed=9), model_digest="m1", replace=True)
    assert any_store.frame()["case_id"].tolist() == ["c0", "c2", "c1"]
    assert any_store.frame()["label"].tolist() == ["nv", "nv", "mel"]
    np.testing.assert_array_equal(any_store.embeddings()[2], some.vectors(1, seed=9)[0])
    assert any_store.thumbnail("c1") is None
    assert any_store.verify() == []


def test_a_replaced_case_stays_suspended(any_store, some):
    some.fill(any_store, 2)
    any_store.set_consent("c0", "suspended")
    any_store.add(some.frame(2), some.vectors(2, seed=1), model_digest="m1", replace=True)
    assert any_store.frame()["consent"].tolist() == ["suspended", "given"]


def test_resuming_passes_by_what_is_there(any_store, some):
    cases = some.frame(5, age=[1.0, None, 3.0, 4.0, 5.0], sex=[None, "f", "m", "f", "m"])
    cases["labels"] = [frozenset({"nv", "x"})] * 5
    given = some.vectors(5)
    asked = []

    def pictures():
        for i in range(5):
            asked.append(i)
            yield some.picture(i)

    any_store.add(cases[:3], given[:3], model_digest="m1", thumbnails=[some.picture(100)] * 3)
    # Encoding again in other batches moves the last digits.
    again = given + np.float32(3e-5)
    any_store.add(cases, again, model_digest="m1", thumbnails=pictures(), resume=True, batch_size=2)
    assert any_store.frame()["case_id"].tolist() == [f"c{i}" for i in range(5)]
    np.testing.assert_array_equal(any_store.embeddings()[:3], given[:3])
    assert any_store.thumbnail("c0") == some.picture(100)
    assert any_store.thumbnail("c4") == some.picture(4)
    assert asked == list(range(5))

    version = any_store.version
    any_store.add(cases, given, model_digest="m1", resume=True)
    assert any_store.version == version
    assert any_store.trail()["cases"].map(len).tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda f, v: (f.assign(group="other"), v), "'group'"),
        (lambda f, v: (f.assign(label="mel"), v), "'label', 'labels'"),
        (lambda f, v: (f.assign(labels=[{"nv", "x"}] * 2), v), "'labels'"),
        (lambda f, v: (f.assign(age=51.0), v), "'metadata'"),
        (lambda f, v: (f, -v), "'embedding'"),
    ],
)
def test_resuming_refuses_another_content(store, some, change, named):
    frame, vectors = some.frame(2, age=50.0), some.vectors(2)
    store.add(frame[1:], vectors[1:], model_digest="m1")
    frame, vectors = change(frame, vectors)
    with pytest.raises(StoreError, match=rf"case 'c1' is in the store .*\[{named}\] differ"):
        store.add(frame, vectors, model_digest="m1", resume=True)
    assert len(store) == 1


def test_one_cannot_replace_and_resume(store, some):
    with pytest.raises(ValueError, match="replace and resume are both True"):
        store.add(some.frame(1), some.vectors(1), model_digest="m1", replace=True, resume=True)


def test_updating_merges(any_store, some):
    cases = some.frame(2, age=[50, 60], sex="female")
    pictures = [some.picture(1)] * 2
    any_store.add(cases, some.vectors(2), model_digest="m1", thumbnails=pictures)
    any_store.update("c0", label="mel", metadata={"age": np.int64(51), "site": "back"}, by="Dr A")
    kept = any_store.frame().set_index("case_id")
    assert kept.index.tolist() == ["c1", "c0"]
    assert kept.loc["c0", ["label", "labels", "age", "sex", "site"]].tolist() == [
        "mel", {"mel"}, 51, "female", "back",
    ]  # fmt: skip
    assert kept.loc["c1", ["label", "age"]].tolist() == ["nv", 60]
    assert any_store.thumbnail("c0") == some.picture(1)
    np.testing.assert_array_equal(any_store.embeddings(), some.vectors(2)[::-1])

    any_store.update("c0", labels={"mel", "nv"}, metadata={"sex": None})
    any_store.update("c0", label="nv")
    row = any_store.frame().set_index("case_id").loc["c0"]
    assert (row["label"], row["labels"], row["site"]) == ("nv", {"mel", "nv"}, "back")
    assert pd.isna(row["sex"])
    assert any_store.verify() == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, "'c0': nothing to update"),
        ({"metadata": {}}, "'c0': nothing to update"),
        ({"labels": {"mel"}}, "'c0': labels must be a set that holds its label 'nv'"),
        ({"metadata": {"consent": "given"}}, r"\['consent'\] are not metadata"),
        ({"metadata": {"image": "anna.jpg"}}, r"\['image'\] are not metadata"),
        ({"metadata": {"age": [1]}}, "column 'age' holds"),
    ],
)
def test_refuses_updates_that_cannot_be_kept(store, some, change, message):
    some.fill(store, 1)
    before = store.snapshot()
    with pytest.raises(StoreError, match=message):
        store.update("c0", **change)
    assert store.snapshot().keys.tolist() == before.keys.tolist()
    with pytest.raises(StoreError, match=r"no cases \['nobody'\]"):
        store.update("nobody", label="mel")
