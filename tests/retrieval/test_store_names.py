"""Case ids, groups and words of every script come back as they went in, or are refused by name."""

import pytest

from medshadow.errors import StoreError

ODD = [
    "a/b\\c",
    "na\u00efve \u2603 \U0001d4b3",
    "\u00e9",
    "e\u0301",  # the same letter to the eye, another id
    "x'; DROP TABLE cases; --",
    "line\nbreak\ttab",
    "%_*?",
    " before and after ",
    "withdrawn",
    "\u75c5" * 512,
]
UNKEPT = ["\ud800", "a\x00b"]


def test_odd_names_come_back_as_they_went_in(any_store, some):
    cases = some.frame(len(ODD)).assign(case_id=ODD, group=ODD, label=ODD, note=ODD)
    any_store.add(cases, some.vectors(len(ODD)), model_digest="m1",
                  thumbnails=[some.picture(20 * at) for at in range(len(ODD))])  # fmt: skip
    kept = any_store.frame()
    for column in ("case_id", "group", "label", "note"):
        assert kept[column].tolist() == ODD
    for at, case_id in enumerate(ODD):
        assert any_store.thumbnail(case_id) == some.picture(20 * at)
        any_store.update(case_id, metadata={"note": case_id[::-1]}, by=case_id)
        any_store.withdraw(case_id, by=case_id)
        assert any_store.withdrawn_among(ODD) == set(ODD[: at + 1])
    assert any_store.trail()["by"].tolist()[1:] == [by for by in ODD for _ in range(2)]
    assert any_store.verify() == []


@pytest.mark.parametrize("unkept", UNKEPT)
@pytest.mark.parametrize("column", ["case_id", "group", "label", "note"])
def test_text_that_a_database_cannot_keep_is_refused(any_store, some, column, unkept):
    cases = some.frame(3).assign(note="fine").astype(object)
    cases.loc[1, column] = unkept
    with pytest.raises(StoreError, match=rf"'{column}'.* a character that cannot be kept"):
        any_store.add(cases, some.vectors(3), model_digest="m1")
    assert len(any_store) == 0


@pytest.mark.parametrize("column", ["case_id", "group", "label"])
def test_names_too_long_for_an_index_are_refused(any_store, some, column):
    cases = some.frame(2)
    cases.loc[1, column] = "\u75c5" * 513
    with pytest.raises(StoreError, match=rf"'{column}' in row 1 has 513 characters; expected 512"):
        any_store.add(cases, some.vectors(2), model_digest="m1")


def test_a_correction_is_checked_like_what_it_corrects(any_store, some):
    some.fill(any_store, 1)
    with pytest.raises(StoreError, match="case 'c0': a label is empty"):
        any_store.update("c0", label=" ")
    with pytest.raises(StoreError, match="a label holds a character"):
        any_store.update("c0", labels={"nv", "\ud800"})
    with pytest.raises(StoreError, match="column 'note' holds a character"):
        any_store.update("c0", metadata={"note": "a\x00b"})
    assert any_store.version == 1


@pytest.mark.parametrize("unkept", UNKEPT)
def test_asking_for_what_cannot_be_there_finds_nothing(any_store, some, unkept):
    some.fill(any_store, 1)
    for ask in (any_store.thumbnail, any_store.withdraw):
        with pytest.raises(StoreError, match="no case"):
            ask(unkept)
    assert any_store.withdrawn_among([unkept]) == frozenset()
    digest = "0" * 64
    with pytest.raises(StoreError, match="1 of the 2 cases shown were never in this store"):
        any_store.record_lookup(by="", query_digest=digest, shown=["c0", unkept])
