"""Searching again after cases were marked as relevant or not."""

import numpy as np
import pytest

from medshadow.errors import StoreError
from medshadow.retrieval import contact_sheet
from medshadow.retrieval.refinement import refined_query


def test_rocchio_s_formula():
    rng = np.random.default_rng(0)
    query, *marked = rng.normal(size=(6, 5))
    moved = query + 0.75 * (marked[0] + marked[1]) / 2 - 0.15 * sum(marked[2:5]) / 3
    expected = moved / np.linalg.norm(moved)
    np.testing.assert_allclose(refined_query(query, marked[:2], marked[2:5]), expected, rtol=1e-6)
    same = refined_query(query / np.linalg.norm(query), [], [])
    np.testing.assert_allclose(same, query / np.linalg.norm(query), rtol=1e-6)
    with pytest.raises(ValueError, match="nothing is left"):
        refined_query(np.array([0.75, 0.0]), [np.array([-1.0, 0.0])], [])


def test_what_was_marked_relevant_comes_nearer(lookup, query):
    before = lookup.lookup(query, k=12, exclude_groups=["lesion00"])
    far = before.hits[-1]
    after = lookup.refine(query, relevant=[far.case_id], k=12, exclude_groups=["lesion00"])
    ranks = {hit.group: hit.rank for hit in after.hits}
    assert ranks[far.group] < far.rank
    assert after.refined
    assert not before.refined
    assert "lesion00" not in ranks


def test_what_was_not_wanted_is_gone_but_the_nearest_malignant_is_not(lookup, query):
    before = lookup.lookup(query, k=6, exclude_groups=["lesion00"])
    unwanted = [hit.case_id for hit in before.hits[:2]]
    after = lookup.refine(
        query, relevant=[], not_relevant=unwanted, k=6, exclude_groups=["lesion00"]
    )
    assert len(after.hits) == 6
    assert not {hit.group for hit in before.hits[:2]} & {hit.group for hit in after.hits}

    nearest = before.nearest_malignant
    marked = lookup.refine(
        query, relevant=[before.hits[0].case_id], not_relevant=[nearest.case_id], k=11,
        exclude_groups=["lesion00"],
    )  # fmt: skip
    assert nearest.group not in {hit.group for hit in marked.hits}
    assert marked.nearest_malignant is not None
    assert marked.is_malignant(marked.nearest_malignant)


def test_a_refined_answer_withholds_vote_share_and_probability_and_says_why(lookup, query):
    hit = lookup.lookup(query, k=1).hits[0]
    answer = lookup.refine(query, relevant=[hit.case_id], k=5)
    read = answer.to_dict()
    assert answer.vote is None
    assert read["vote"] is None
    assert read["share_in_this_archive"] == {}
    assert read["probability"] is None
    assert read["refined"] is True
    assert "marked" in read["why_no_vote"]
    assert "refined" in read["why_no_probability"]
    assert "disagreeing_neighbours" not in {w["code"] for w in read["warnings"]}
    figure = contact_sheet(answer, query, lookup.store.image_of)
    assert any("No vote and no share" in text.get_text() for text in figure.texts)


def test_a_filter_holds_in_a_refined_search(lookup, query):
    hit = lookup.lookup(query, k=3, where="sex=male").hits[0]
    answer = lookup.refine(query, relevant=[hit.case_id], where="sex=male", k=4)
    assert {hit.metadata["sex"] for hit in answer.hits} == {"male"}
    assert answer.where == "sex=male"


def test_refuses_marks_that_say_nothing(lookup, query):
    with pytest.raises(ValueError, match="found none"):
        lookup.refine(query, relevant=[])
    with pytest.raises(ValueError, match="case00a'] as both"):
        lookup.refine(query, relevant=["case00a"], not_relevant=["case00a", "case01a"])
    with pytest.raises(StoreError, match="absent"):
        lookup.refine(query, relevant=["absent"])
    lookup.store.set_consent("case03a", "suspended")
    with pytest.raises(StoreError, match="case03a"):
        lookup.refine(query, relevant=["case03a"])
    lookup.store.set_consent("case03a", "given")
