"""What the page makes of an answer, without a browser."""

import re
from pathlib import Path

import pytest
from scipy.stats import binomtest

pytest.importorskip("fastapi")
import medshadow.service
from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import Hit, LookupAnswer
from medshadow.retrieval.answer import Archive
from medshadow.retrieval.cautions import LookupWarning, same_image
from medshadow.service.page_marks import diagnosis_marks
from medshadow.service.page_shares import wilson
from medshadow.service.page_view import answer_view

ARCHIVE = Archive(
    "example", 9, 8, "d", frozenset({"mel", "bcc"}), {"nv": "naevus", "mel": "melanoma"}
)
FILES = Path(medshadow.service.__file__).parent


def hit(case, rank, *labels, **metadata):
    return Hit(case, f"lesion-{case}", labels[0], frozenset(labels), 1 - rank / 10, rank, metadata)


def answer_of(*hits, **changes):
    far = hit("far", 7, "mel")
    given = {
        "archive": ARCHIVE, "hits": hits, "nearest_malignant": far,
        "malignant_outside_filter": False, "k": 3, "where": "", "matching_groups": 8, **changes,
    }  # fmt: skip
    return LookupAnswer(**given)


def view_of(answer, judged=None, filtered=()):
    return answer_view(answer, ["nv", "mel", "bcc"], {}, judged or {}, filtered)


def test_a_card_says_what_is_known_and_that_the_rest_is_not():
    known = hit("a", 1, "nv", age=40.0, sex="male", localization="back", dx_type="histo")
    view = view_of(answer_of(known, hit("b", 2, "nv")))
    first, second = view["cases"]
    assert first.established == "histology"
    assert first.facts == ("40 years", "male", "back")
    assert (second.established, second.facts) == ("", ())


def test_the_nearest_malignant_case_is_there_though_not_found():
    view = view_of(answer_of(hit("a", 1, "nv")))
    assert view["nearest"].case_id == "far"
    assert not view["nearest_found"]
    found = hit("a", 1, "mel")
    assert view_of(answer_of(found, nearest_malignant=found))["nearest_found"]


def test_malignant_cases_are_counted_once_whatever_they_carry():
    hits = (hit("a", 1, "mel", "bcc"), hit("b", 2, "bcc"), hit("c", 3, "nv"))
    view = view_of(answer_of(*hits))
    assert (view["malignant_share"].count, view["malignant_share"].of) == (2, 3)
    assert {row.mark.label: row.count for row in view["shares"]} == {"bcc": 2, "mel": 1, "nv": 1}


@pytest.mark.parametrize(("count", "of"), [(0, 1), (0, 16), (12, 16), (64, 64)])
def test_intervals_are_wilsons(count, of):
    peer = binomtest(count, of).proportion_ci(0.95, method="wilson")
    assert wilson(count, of) == pytest.approx((peer.low, peer.high), abs=1e-6)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["nv", "nv", "mel"], "Most of them: naevus, 2 of 3"),
        (["nv", "nv", "mel", "bcc"], "No majority; most often naevus, 2 of 4"),
        (["nv", "mel"], "No majority; most often naevus and melanoma, 1 of 2 each"),
    ],
)
def test_the_commonest_of_many_is_called_no_majority(labels, said):
    hits = [hit(str(rank), rank, label) for rank, label in enumerate(labels, 1)]
    assert view_of(answer_of(*hits))["most_often"] == said


@pytest.mark.parametrize("code", ["wrong_kind", "unlike_archive"])
def test_after_a_grave_warning_the_vote_is_held_back(code):
    view = view_of(answer_of(hit("a", 1, "nv"), warnings=(LookupWarning(code, "Not skin."),)))
    assert view["warnings"][0]["grave"]
    assert "nothing to do with this image" in view["held_back"]


@pytest.mark.parametrize(
    ("column", "held"), [("labels", True), ("keywords", True), ("sex", False), ("age", False)]
)
def test_a_vote_among_cases_of_one_diagnosis_is_held_back(column, held):
    view = view_of(answer_of(hit("a", 1, "nv")), filtered=[column])
    assert bool(view["held_back"]) is held


def test_the_image_itself_can_be_left_out():
    hits = (hit("a1", 1, "nv"), hit("a", 2, "nv"))
    view = view_of(answer_of(*hits, warnings=(same_image(hits[1]),)))
    assert view["warnings"][0]["group"] == "lesion-a"


def test_a_probability_is_in_percent_with_what_it_supposes():
    probability = Probability(0.234, 0.1, 0.456, 0.05, 1234)
    view = view_of(answer_of(hit("a", 1, "nv"), probability=probability))
    assert view["probability"] == {
        "value": "23.4", "low": "10.0", "high": "45.6", "prevalence": "5", "cases": "1,234",
    }  # fmt: skip


def test_marks_of_cases_no_longer_shown_are_kept():
    view = view_of(answer_of(hit("a", 1, "nv")), {"a": "relevant", "gone": "not"})
    assert view["cases"][0].judged == "relevant"
    assert view["unseen_marks"] == [("mark:gone", "not")]


def test_no_two_diagnoses_look_the_same():
    marks = diagnosis_marks({}, [f"label{n}" for n in range(60)])
    assert len({(mark.colour, mark.shape) for mark in marks.values()}) == 60


def test_no_file_of_the_page_names_another_host_or_holds_a_script():
    pages = sorted((FILES / "templates").iterdir())
    assert len(pages) > 5
    for path in [*pages, *(FILES / "static").glob("*.css"), *(FILES / "static").glob("*.js")]:
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        if path.name != "htmx.min.js":
            assert not re.search(r"https?://|url\(", text), path.name
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?! src)", text), path.name
