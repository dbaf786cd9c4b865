"""Warnings: their codes, their order, and when cases disagree."""

import pytest

from medshadow.retrieval import Hit, LookupAnswer, LookupWarning
from medshadow.retrieval.answer import Archive
from medshadow.retrieval.cautions import CODES, disagreeing, few_cases, most_serious_first
from medshadow.retrieval.facts import facts_of


def answer_of(*labels, refined=False):
    hits = tuple(
        Hit(f"c{rank}", f"g{rank}", label, frozenset({label}), 1 - rank / 100, rank)
        for rank, label in enumerate(labels, start=1)
    )
    archive = Archive("lesions", 99, 99, "d", frozenset({"mel"}))
    return LookupAnswer(archive, hits, None, False, len(hits), "", 99, refined=refined)


def test_warnings_come_most_serious_first_and_keep_their_order_within_a_kind():
    given = [LookupWarning(code, text) for code in reversed(CODES) for text in ("first", "second")]
    found = most_serious_first(given)
    assert tuple(dict.fromkeys(warning.code for warning in found)) == CODES
    assert [warning.text for warning in found] == ["first", "second"] * len(CODES)


def test_an_unknown_code_is_refused():
    with pytest.raises(ValueError, match="'odd' is not known"):
        LookupWarning("odd", "text")


@pytest.mark.parametrize(
    ("labels", "warned"),
    [
        (["nv", "nv", "mel", "bkl"], False),
        (["nv", "nv", "mel", "bkl", "bcc"], True),
        (["nv"] * 7 + ["mel"] * 6 + ["bcc"] * 3, True),
        (["nv"] * 8 + ["mel"] * 8, False),
        (["nv", "mel"], False),
        ([], False),
    ],
)
def test_cases_disagree_where_no_diagnosis_is_that_of_half_of_them(labels, warned):
    found = disagreeing(answer_of(*labels))
    assert [warning.code for warning in found] == ["disagreeing_neighbours"] * warned
    if warned:
        assert f"{labels.count('mel')} of {len(labels)} are malignant" in found[0].text


def test_a_refined_answer_has_no_vote_to_disagree_about():
    assert disagreeing(answer_of("nv", "mel", "bkl", "bcc", refined=True)) == []


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"dx_type": "histo"}, "histology"),
        ({"dx_type": "follow_up"}, "follow-up"),
        ({"dx_type": "confocal"}, "confocal microscopy"),
        ({"dx_type": "consensus"}, "consensus"),
        ({"diagnosis_confirm_type": "serial imaging showing no change"}, "follow-up"),
        ({"established": "second opinion", "dx_type": "histo"}, "second opinion"),
        ({"dx_type": "unknown"}, None),
        ({"dx_type": None}, None),
        ({}, None),
    ],
)
def test_how_a_case_was_established_is_said_in_words(metadata, expected):
    assert facts_of(metadata)["established"] == expected


def test_facts_have_one_name_whatever_the_data_set_calls_them():
    lesion = facts_of({"localization": "back", "age": 40.0, "sex": "female"})
    assert (lesion["site"], lesion["age"], lesion["sex"]) == ("back", 40.0, "female")
    eye = facts_of({"eye": "left", "keywords": "drusen", "age": 0})
    assert (eye["laterality"], eye["keywords"], eye["age"]) == ("left", "drusen", 0)
    assert list(facts_of({})) == ["established", "age", "sex", "site", "laterality", "keywords"]
    assert set(facts_of({"sex": "unknown", "site": ""}).values()) == {None}


@pytest.mark.parametrize(
    ("found", "where", "text"),
    [
        (1, "", "Only 1 distinct case is in the archive; 3 were asked for."),
        (1, "age>80", "Only 1 distinct case meets the filter age>80; 3 were asked for."),
        (0, "", "Only 0 distinct cases are in the archive; 3 were asked for."),
        (2, "age>80", "Only 2 distinct cases meet the filter age>80; 3 were asked for."),
    ],
)
def test_few_cases_are_told_in_words(found, where, text):
    assert few_cases(found, 3, where) == [LookupWarning("few_cases", text)]
    assert few_cases(3, 3, where) == []
