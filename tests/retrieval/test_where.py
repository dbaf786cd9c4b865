import time

import numpy as np
import pandas as pd
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval.columns import columns_of
from medshadow.retrieval.where import Condition, matching, parse_where

FRAME = pd.DataFrame(
    {
        "case_id": list("abcde"),
        "labels": [frozenset(x) for x in ("D", "DG", "N", "G", "O")],
        "sex": ["female", "Male", None, "female", "male"],
        "age": [50.0, 30.0, None, 49.5, 80.0],
        "site": ["head and neck", "back", "back", "foot", "a=b"],
        "biopsied": [True, False, True, False, True],
        "code": ["007", "7", "x", "y", "z"],
    }
)


def found(where, frame=FRAME):
    met = matching(parse_where(where), columns_of(frame), among=np.ones(len(frame), dtype=bool))
    return "".join(frame["case_id"][met])


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, "abcde"),
        ("sex=female", "ad"),
        ("sex=FEMALE", "ad"),
        ("sex!=female", "be"),  # the case of unknown sex meets neither
        ("age>=50", "ae"),
        ("age>50", "e"),
        ("age<=49.5", "bd"),
        ("age<49.5", "b"),
        ("age=50", "a"),
        ("age!=50", "bde"),
        (" sex = female  AND  age >= 50 ", "a"),
        ("sex=female and age>=50 and case_id=d", ""),
        ('site="head and neck"', "a"),
        ("site='head and neck' and sex=female", "a"),
        ('site="a=b"', "e"),
        ("biopsied=true", "ace"),
        ("biopsied!=true", "bd"),
        ("labels=d", "ab"),
        ("labels!=D", "cde"),
        ("code=007", "a"),
        (["sex=female", "age>=50"], "a"),
        ({"sex": "female", "age>=": 50}, "a"),
        ({"biopsied": True}, "ace"),
        ({"site": "head and neck"}, "a"),
        ({"age !=": 50.0}, "bde"),
        ([Condition("sex", "=", "female")], "ad"),
    ],
)
def test_finds_the_cases_that_meet_every_condition(where, expected):
    assert found(where) == expected


def test_only_rows_that_come_into_question_are_found():
    among = np.array([False, True, True, True, False])
    conditions = parse_where("age>=30")
    columns = columns_of(FRAME)
    assert matching(conditions, columns, among).tolist() == [False, True, False, True, False]
    assert matching((), columns, among).tolist() == among.tolist()
    assert matching((), columns, among) is not among


def test_unknown_key_lists_the_known_ones():
    with pytest.raises(StoreError, match="no key 'gender'; known keys: case_id, labels, sex, age"):
        found("gender=female")


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("", "cannot read"),
        ("sex", "cannot read 'sex'"),
        ("sex=", "cannot read"),
        ("=female", "cannot read"),
        ("sex==female", "cannot read"),
        ("sex=female and", "ends in 'and'"),
        ("sex=female and age", "cannot read 'age'"),
        ("site=head and neck", "cannot read 'neck'.*quotes"),
        ("age>=old", "holds numbers, found 'old'"),
        ("sex>female", "holds no numbers"),
        ({"sex": ["female"]}, "expected text or a number"),
        ({"": "female"}, "expected a column name"),
    ],
)
def test_refuses_what_does_not_read_as_a_filter(where, message):
    with pytest.raises(StoreError, match=message):
        found(where)


@pytest.mark.parametrize("text", ["sex=female", 'site="head and neck"', "site='say \"a\"'"])
def test_a_condition_in_words_reads_back_as_itself(text):
    conditions = parse_where(text)
    assert parse_where(" and ".join(map(str, conditions))) == conditions


@pytest.mark.parametrize("text", ["{}", "a=b and {}", "a={}=", "a{}b", "a=b{}c=d"])
def test_a_filter_of_blanks_takes_no_longer_than_another(text):
    # With the cube of their number these would take a minute.
    started = time.perf_counter()
    with pytest.raises(StoreError, match="cannot read"):
        parse_where(text.format(" " * 2000))
    assert time.perf_counter() - started < 5
