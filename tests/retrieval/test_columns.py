import numpy as np
import pandas as pd
import pytest

from medshadow.retrieval.columns import NumberColumn, ValueColumn, columns_of, extended

FIRST = pd.DataFrame(
    {
        "sex": ["female", None, "male"],
        "age": [50, 30, 40],
        "labels": [frozenset("D"), frozenset("DG"), frozenset("D")],
        "biopsied": [True, None, False],
    }
)
MORE = pd.DataFrame(
    {"sex": ["other", "male"], "age": [None, 7.5], "labels": [frozenset("N"), frozenset("D")]}
)


def rows_of(columns, rows):
    return [{name: column.value(row) for name, column in columns.items()} for row in range(rows)]


def test_values_are_pythons_own():
    (row, *_) = rows_of(columns_of(FIRST), 3)
    assert row == {"sex": "female", "age": 50, "labels": frozenset("D"), "biopsied": True}
    assert [type(value) for value in row.values()] == [str, int, frozenset, bool]


def test_more_rows_read_as_if_all_had_come_at_once():
    longer = extended(columns_of(FIRST), 3, MORE)
    at_once = columns_of(pd.concat([FIRST, MORE], ignore_index=True))
    assert rows_of(longer, 5) == rows_of(at_once, 5)
    assert {name: type(column) for name, column in longer.items()} == {
        name: type(column) for name, column in at_once.items()
    }


def test_a_column_that_only_the_later_rows_have():
    longer = extended(columns_of(FIRST[["sex"]]), 3, MORE)
    assert [row["age"] for row in rows_of(longer, 5)] == [None, None, None, None, 7.5]
    assert [row["labels"] for row in rows_of(longer, 5)][:3] == [None] * 3


def test_the_column_before_stays_as_it_was():
    before = columns_of(FIRST)["sex"]
    after = before.extended(MORE["sex"], 2)
    assert before.meets(lambda value: value != "female").tolist() == [False, False, True]
    assert after.meets(lambda value: value != "female").tolist() == [False, False, True, True, True]
    assert before.codes_of(["male", "unheard of"]).tolist() == [1]


@pytest.mark.parametrize(
    ("before", "more"),
    [([1, 2], ["a", "b"]), (["a", None], [1, 2]), ([None, None], [1, 2]), ([True, None], [1, 0])],
)
def test_a_column_that_changes_its_kind_is_not_extended(before, more):
    columns = columns_of(pd.DataFrame({"x": before}))
    assert extended(columns, 2, pd.DataFrame({"x": more})) is None


def test_missing_rows_meet_nothing():
    text = ValueColumn(np.array([0, -1], np.int32), ["a"])
    assert text.meets(lambda value: True).tolist() == [True, False]
    numbers = NumberColumn(np.array([1.0, np.nan]))
    assert numbers.meets(lambda values: values != 7).tolist() == [True, False]


def test_rows_taken_in_another_order():
    columns = columns_of(FIRST)
    assert [columns["sex"].taken(np.array([2, 0])).value(i) for i in (0, 1)] == ["male", "female"]
    assert [columns["age"].taken(np.array([2, 0])).value(i) for i in (0, 1)] == [40, 50]
