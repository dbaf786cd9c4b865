"""What a lookup prints of cases with label sets, on a terminal of 80 columns."""

import io
from dataclasses import replace

from rich.console import Console

from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import Hit, LookupAnswer
from medshadow.retrieval.answer import NOTICE, Archive
from medshadow.retrieval.cautions import LookupWarning
from medshadow.workflows.tables import print_answer

MIND = LookupWarning("poor_quality", "Mind this.")
NAMES = {"D": "diabetic retinopathy", "H": "hypertensive retinopathy", "N": "normal fundus"}


def printed(answer):
    console = Console(width=80, file=io.StringIO())
    print_answer(answer, console)
    return console.file.getvalue()


def answer():
    clear = {"eye": "left", "keywords": "normal fundus", "lens_dust": False, "image_offset": False}
    dusty = {"eye": "right", "keywords": "drusen", "lens_dust": True, "image_offset": False}
    hits = (
        Hit("7_left", "7", "N", frozenset({"N"}), 0.9, 1, clear),
        Hit("9_right", "9", "H", frozenset({"H", "D"}), 0.8, 2, dusty),
    )
    archive = Archive("eyes", 9, 8, "d", frozenset({"D"}), NAMES, "sight-threatening")
    return LookupAnswer(archive, hits, hits[1], False, 2, "", 8, warnings=(MIND,))


def test_says_every_label_its_name_and_the_keywords():
    text = printed(answer())
    assert text.splitlines()[0] == "! Mind this."
    assert text.count("H + D ▲") == 1
    assert "▲ sight-threatening" in text.splitlines()
    for words in ("H: hypertensive retinopathy", "D: diabetic retinopathy", "N: normal fundus"):
        assert words in text.splitlines()
    assert "drusen" in text
    assert "Nearest sight-threatening case: 9_right, hypertensive retinopathy + diabetic" in text
    assert "N 50%, H 50%, D 50%" in text
    assert NOTICE in " ".join(text.split())


def test_flags_are_named_where_they_are_raised():
    text = printed(answer())
    assert "flags" in text
    assert text.count("lens dust") == 1
    assert "False" not in text
    assert "offset" not in text


def test_long_words_stand_below_the_table():
    text = printed(answer())
    assert "keywords, by rank:" not in text
    hits = answer().hits
    long = {**hits[0].metadata, "keywords": "macular epiretinal membrane; drusen"}
    text = printed(replace(answer(), hits=(replace(hits[0], metadata=long), hits[1])))
    assert "keywords, by rank:\n  1  macular epiretinal membrane; drusen\n  2  drusen\n" in text


def test_words_are_not_broken():
    cases = {"dx_type": "histopathology", "age": 55, "sex": "female", "dataset": "rosendahl"}
    cases |= {"localization": "lower extremity", "skin": "II"}
    hits = tuple(replace(hit, case_id="ISIC_0000000", metadata=cases) for hit in answer().hits)
    text = printed(replace(answer(), hits=hits))
    assert all(word in text for word in ("histology", "female", "rosendahl"))
    assert "skin, by rank:\n  1  II\n  2  II\n" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_label_that_is_its_own_name_is_not_explained():
    text = printed(replace(answer(), archive=replace(answer().archive, diagnosis_names={})))
    assert "N: N" not in text


def in_one_line(answer):
    return " ".join(printed(answer).split())


def test_says_the_probability_and_where_the_archive_is_from():
    known = replace(answer().archive, source="eyes.csv", calibrated=True, knows_its_kind=True)
    told = replace(answer(), archive=known, probability=Probability(0.12, 0.07, 0.2, 0.05, 281))
    text = in_one_line(told)
    assert (
        "Probability that it is sight-threatening: 12.0% (95 % interval 7.0% to 20.0%), if 5.0% of "
        "such images are; calibrated on 281 validation images" in text
    )
    assert "Archive: eyes.csv" in text
    assert "Not checked" not in text
    assert "Probability" not in in_one_line(replace(told, probability=None))


def test_says_what_was_not_checked():
    assert "Not checked: whether this is the kind of image" in in_one_line(answer())


def test_a_refined_answer_says_why_it_has_no_vote():
    text = in_one_line(replace(answer(), refined=True))
    assert "No vote and no share: these cases were searched for after some were marked" in text
    assert "Most of them" not in text
    assert "Share in this archive" not in text
