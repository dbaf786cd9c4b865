"""Answers whose cases carry label sets."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import ImageOps
from PIL.Image import fromarray

from medshadow.data import read_image
from medshadow.errors import StoreError
from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import Hit, LookupAnswer, contact_sheet
from medshadow.retrieval.answer import Archive
from medshadow.retrieval.facts import metadata_in_words


def answer_of(*cases, malignant=frozenset({"D", "G"})):
    hits = tuple(
        Hit(f"c{rank}", f"g{rank}", label, frozenset(labels), 1 - rank / 10, rank)
        for rank, (label, labels) in enumerate(cases, start=1)
    )
    names = {"D": "diabetic retinopathy", "H": "hypertensive retinopathy"}
    archive = Archive("eyes", 9, 9, "d", malignant, names)
    return LookupAnswer(archive, hits, None, False, len(hits), "", 9)


def test_a_case_counts_for_each_of_its_labels():
    answer = answer_of(("H", "DH"), ("C", "CD"), ("N", "N"), ("D", "D"))
    assert answer.vote == "D"
    assert answer.share_in_this_archive == {"D": 0.75, "H": 0.25, "C": 0.25, "N": 0.25}
    assert next(iter(answer.share_in_this_archive)) == "D"
    row = answer.to_dict()["hits"][0]
    assert (row["label"], row["labels"]) == ("H", ["D", "H"])
    assert row["diagnosis"] == "hypertensive retinopathy + diabetic retinopathy"
    assert answer.to_dict()["vote"]["diagnosis"] == "diabetic retinopathy"


def test_malignant_is_what_carries_any_such_label():
    answer = answer_of(("H", "DH"), ("H", "H"))
    assert answer.frame()["malignant"].tolist() == [True, False]
    assert answer.frame()["labels"].tolist() == ["H + D", "H"]


def test_metadata_is_shown_without_what_is_missing_or_false():
    given = {"eye": "left", "age": 0, "sex": None, "lens_dust": True, "image_offset": False,
             "low_image_quality": True}  # fmt: skip
    assert metadata_in_words(given) == {
        "eye": "left",
        "age": 0,
        "flags": "lens dust, low image quality",
    }
    assert metadata_in_words({"lens_dust": False}) == {}


def test_the_nearest_malignant_may_carry_it_among_others(eye_lookup, drawn_eyes):
    query = drawn_eyes.frame["image"][4]  # of patient 2, whose fundus is normal
    answer = eye_lookup.lookup(query, k=1, exclude_groups=["2"], laterality="right")
    nearest = answer.nearest_malignant
    assert nearest.labels & {"D", "G"}
    vectors = eye_lookup.store.embeddings().astype(np.float64)
    frame = eye_lookup.store.frame()
    suspect = [bool(labels & {"D", "G"}) for labels in frame["labels"]]
    asked = vectors[frame["case_id"] == "2_right"][0]
    expected = frame["group"][suspect].iloc[int(np.argmax(vectors[suspect] @ asked))]
    assert nearest.group == expected


def test_a_left_eye_is_found_as_such_and_said_to_be_one(eye_lookup, drawn_eyes):
    frame = drawn_eyes.frame
    query = read_image(frame["image"][frame["case_id"] == "3_left"].iloc[0])
    told = eye_lookup.lookup(query, k=6, laterality="left")
    assert told.hits[0].group == "3"
    assert told.hits[0].similarity > 0.999
    assert told.to_dict()["query"]["laterality"] == "left"
    assert "which_eye" not in [warning.code for warning in told.warnings]

    as_right = np.array(ImageOps.mirror(fromarray(query)))
    mirrored = eye_lookup.lookup(as_right, k=6, laterality="right")
    assert [h.group for h in mirrored.hits] == [h.group for h in told.hits]
    np.testing.assert_allclose(
        [h.similarity for h in mirrored.hits], [h.similarity for h in told.hits], atol=1e-3
    )
    untold = eye_lookup.lookup(query, k=6)
    assert "which_eye" in [warning.code for warning in untold.warnings]
    assert untold.hits[0].similarity < told.hits[0].similarity


def test_keywords_stand_on_the_sheet_and_in_json_and_findings_do_not(eye_lookup, drawn_eyes):
    answer = eye_lookup.lookup(drawn_eyes.frame["image"][0], k=6, laterality="right")
    read = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    hits = {hit["group"]: hit for hit in read["hits"]}
    assert hits["4"]["metadata"]["keywords"] == "glaucoma; laser spot"
    assert hits["4"]["labels"] == ["G", "O"]
    assert "findings" not in hits["4"]["metadata"]
    figure = contact_sheet(answer, drawn_eyes.frame["image"][0], eye_lookup.store.image_of)
    words = {axes.get_xlabel().split("\n")[-1]: axes.get_xlabel() for axes in figure.axes[1:]}
    shown = " ".join(words[hits["1"]["case_id"]].split())
    assert "diabetic retinopathy (D)" in shown
    assert "lens dust" in shown
    assert "False" not in shown


def test_many_words_do_not_run_over_the_next_row(eye_lookup, drawn_eyes):
    store = eye_lookup.store
    cases = drawn_eyes.frame.assign(keywords="severe nonproliferative retinopathy; " * 6)
    store.add(cases, store.embeddings(), model_digest=store.model_digest, replace=True)
    answer = eye_lookup.lookup(cases["image"][0], k=6, laterality="right")
    figure = contact_sheet(answer, cases["image"][0], store.image_of)
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
        assert box.y0 >= 0


@pytest.mark.parametrize("where", ["labels=O", "keywords='glaucoma; laser spot'", "lens_dust=true",
                                   "eye=left and age>=52"])  # fmt: skip
def test_filters_read_sets_keywords_flags_and_eyes(eye_lookup, drawn_eyes, where):
    answer = eye_lookup.lookup(drawn_eyes.frame["image"][0], k=6, where=where, laterality="right")
    expected = {
        "labels=O": {"3", "4"},
        "lens_dust=true": {"1"},
        "eye=left and age>=52": set("2345"),
    }
    assert {hit.group for hit in answer.hits} == expected.get(where, {"4"})


def test_explains_with_the_eye_that_each_image_shows(eye_lookup, drawn_eyes, monkeypatch):
    import medshadow.retrieval.explain as module

    asked = []
    real = module.explain
    monkeypatch.setattr(module, "explain", lambda *a, **o: asked.append(o) or real(*a, **o))
    query = drawn_eyes.frame["image"][0]
    found = eye_lookup.explain(query, "3_left", laterality="right")
    assert asked == [{"laterality": "right", "case_laterality": "left"}]
    assert found.query_map.shape == found.case_map.shape == (80, 96)
    hits = eye_lookup.lookup(query, k=6, where="eye=left", laterality="right").hits
    hit = next(hit for hit in hits if hit.case_id == "3_left")
    assert found.similarity == pytest.approx(hit.similarity, abs=0.05)


def test_explains_no_case_that_may_not_be_shown_or_has_no_picture(eye_lookup, drawn_eyes):
    query, store = drawn_eyes.frame["image"][0], eye_lookup.store
    store.set_consent("3_left", "suspended")
    with pytest.raises(StoreError, match="3_left"):
        eye_lookup.explain(query, "3_left")
    vector = store.embeddings()[:1]
    row = drawn_eyes.frame.head(1).assign(case_id="bare", group="bare")
    store.add(row, vector, model_digest=store.model_digest)
    with pytest.raises(StoreError, match="no picture"):
        eye_lookup.explain(query, "bare")


def test_the_contact_sheet_says_probability_source_and_what_was_not_checked(drawn_eyes):
    plain = answer_of(("H", "DH"), ("N", "N"))
    known = replace(plain.archive, source="eyes.csv")
    told = replace(plain, archive=known, probability=Probability(0.3, 0.2, 0.4, 0.1, 99))
    lines = [t.get_text() for t in contact_sheet(told, drawn_eyes.frame["image"][0]).texts]
    assert any(line.startswith("Probability that it is malignant: 30.0%") for line in lines)
    assert any(line.startswith("Not checked") for line in lines)
    assert any(line.startswith("Archive eyes (eyes.csv): 9 images") for line in lines)
