import json

import numpy as np
import pytest
import torch
from PIL import Image

from medshadow.data import read_image
from medshadow.errors import ImageReadError, StoreError
from medshadow.evaluation.retrieval import majority_vote
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseLookup, contact_sheet, encode_cases
from medshadow.retrieval.answer import NOTICE
from medshadow.retrieval.cautions import LookupWarning


def codes(answer):
    return [warning.code for warning in answer.warnings]


def expected_ranking(embedder, cases, path, allowed):
    vectors = encode_cases(embedder, cases, progress=False).astype(np.float64)
    similarity = vectors @ encode_cases(embedder, [path], progress=False)[0]
    rows = [row for row in np.argsort(-similarity) if allowed[row]]
    firsts = cases.frame["group"].to_numpy()[rows]
    return [rows[i] for i in sorted(np.unique(firsts, return_index=True)[1])], similarity


def test_answers_with_distinct_cases_their_vote_and_the_nearest_malignant(
    lookup, embedder, drawn_cases, query
):
    frame = drawn_cases.frame
    answer = lookup.lookup(query, k=6, exclude_groups=["lesion00"])
    allowed = (frame["group"] != "lesion00").to_numpy()
    rows, similarity = expected_ranking(embedder, drawn_cases, query, allowed)
    labels = frame["label"][rows].tolist()

    assert [hit.case_id for hit in answer.hits] == frame["case_id"][rows[:6]].tolist()
    np.testing.assert_allclose(
        [hit.similarity for hit in answer.hits], similarity[rows[:6]], atol=1e-6
    )
    assert len({hit.group for hit in answer.hits}) == 6
    assert answer.vote == majority_vote(labels[:6])
    assert sum(answer.share_in_this_archive.values()) == pytest.approx(1)
    assert answer.share_in_this_archive == {
        label: pytest.approx(labels[:6].count(label) / 6) for label in set(labels[:6])
    }
    first = next(i for i, label in enumerate(labels) if label in ("mel", "bcc"))
    assert answer.nearest_malignant.case_id == frame["case_id"][rows[first]]
    assert answer.nearest_malignant.rank == first + 1
    assert answer.matching_groups == 11
    assert answer.warnings == ()
    assert (answer.archive.cases, answer.archive.groups) == (24, 12)


def test_the_nearest_malignant_is_shown_however_far(lookup, query):
    answer = lookup.lookup(query, k=1)
    assert answer.hits[0].label == "nv"
    nearest = answer.nearest_malignant
    assert answer.is_malignant(nearest)
    assert nearest.rank > 1
    shown = answer.frame()
    assert shown["case_id"].tolist() == ["case00a", nearest.case_id]
    assert shown["malignant"].tolist() == [False, True]
    assert shown["rank"].tolist() == [1, nearest.rank]
    whole = lookup.lookup(query, k=12)
    assert whole.nearest_malignant in whole.hits
    assert len(whole.frame()) == 12


def test_an_image_of_the_archive_is_found_and_said_so(lookup, query, tmp_path):
    answer = lookup.lookup(query, k=3)
    assert answer.hits[0].case_id == "case00a"
    assert answer.hits[0].similarity > 1 - 1e-6
    assert codes(answer) == ["same_image"]
    assert "case00a shows the query image itself" in answer.warnings[0].text
    assert "Exclude group lesion00" in answer.warnings[0].text

    Image.open(query).save(tmp_path / "again.jpg", quality=95)
    again = lookup.lookup(tmp_path / "again.jpg", k=3)
    assert "case00a shows the query image itself" in again.warnings[0].text

    changed = read_image(query)
    changed[:, :, 0] //= 2
    Image.fromarray(changed).save(tmp_path / "other.png")
    assert lookup.lookup(tmp_path / "other.png", k=3).warnings == ()


def test_without_thumbnails_the_same_vector_tells(lookup, embedder, drawn_cases, query):
    lookup.store.add(
        drawn_cases,
        encode_cases(embedder, drawn_cases, progress=False),
        model_digest=embedder.digest,
        replace=True,
    )
    answer = lookup.lookup(query, k=3)
    assert [w.text.split()[1] for w in answer.warnings] == ["case00a"]


def test_a_model_of_lesions_does_not_ask_which_eye(lookup, query):
    assert lookup.lookup(query, k=3, exclude_groups=["lesion00"]).warnings == ()
    with pytest.raises(ValueError, match='"left", "right" or None; found \'up\''):
        lookup.lookup(query, laterality="up")


def test_pixels_are_looked_up_as_their_file_is(lookup, query):
    assert lookup.lookup(read_image(query), k=5) == lookup.lookup(query, k=5)


def test_a_filter_comes_first_and_says_how_many_meet_it(lookup, query):
    answer = lookup.lookup(query, k=16, where={"sex": "female", "age>=": 50})
    assert answer.where == "sex=female and age>=50"
    assert {hit.group for hit in answer.hits} == {"lesion06", "lesion08", "lesion10"}
    assert answer.matching_groups == 3
    assert answer.warnings[0] == LookupWarning(
        "few_cases",
        "Only 3 distinct cases meet the filter sex=female and age>=50; 16 were asked for.",
    )


def test_a_filter_does_not_hide_the_nearest_malignant_case(lookup, query):
    answer = lookup.lookup(query, k=2, where="label=nv", exclude_groups=["lesion00"])
    assert {hit.label for hit in answer.hits} == {"nv"}
    assert answer.malignant_outside_filter
    unfiltered = lookup.lookup(query, k=2, exclude_groups=["lesion00"])
    assert answer.nearest_malignant == unfiltered.nearest_malignant
    assert "does not meet it" in answer.warnings[-1].text
    assert answer.to_dict()["nearest_malignant"]["outside_filter"] is True

    within = lookup.lookup(query, k=2, where="label=bcc")
    assert within.nearest_malignant.label == "bcc"
    assert not within.malignant_outside_filter


def test_a_filter_that_nothing_meets(lookup, query):
    answer = lookup.lookup(query, where="age>200")
    assert answer.hits == ()
    assert answer.vote is None
    assert answer.to_dict()["vote"] is None
    assert answer.share_in_this_archive == {}
    assert answer.warnings[0].text.startswith("Only 0 distinct cases")
    assert answer.nearest_malignant is not None
    contact_sheet(answer, query, lookup.store.image_of).canvas.draw()


def test_an_archive_without_malignant_cases_says_so(lookup, query, drawn_cases):
    frame = drawn_cases.frame
    lookup.store.withdraw(frame["case_id"][frame["label"].isin(["mel", "bcc"])])
    answer = lookup.lookup(query, k=1, exclude_groups=["lesion00"])
    assert answer.nearest_malignant is None
    assert answer.to_dict()["nearest_malignant"] is None
    assert "no_malignant" in codes(answer)


def test_refuses_another_model(lookup):
    torch.manual_seed(4)
    other = Embedder(
        Backbone("other", torch.nn.Conv2d(3, 4, 3)),
        embedding_dim=16,
        preprocess={"preset": "dermatology", "size": 32},
    )
    with pytest.raises(StoreError, match="whose vectors do not compare"):
        CaseLookup(lookup.store, other)


def test_refuses_what_it_cannot_look_up(lookup, tmp_path, query):
    with pytest.raises(ImageReadError, match="absent"):
        lookup.lookup(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="uint8"):
        lookup.lookup(np.zeros((5, 5, 3)))
    with pytest.raises(ValueError, match="k must be at least 1"):
        lookup.lookup(query, k=0)
    with pytest.raises(StoreError, match="known keys: case_id, group, label, labels, dx_type"):
        lookup.lookup(query, where="gender=female")


def test_a_withdrawn_case_is_gone_at_the_next_lookup(lookup, query):
    assert lookup.lookup(query, k=1).hits[0].case_id == "case00a"
    lookup.store.withdraw(["case00a", "case00b"])
    assert lookup.lookup(query, k=1).hits[0].group != "lesion00"


def test_json_has_everything_in_plain_types(lookup, query):
    answer = lookup.lookup(query, k=12)
    read = json.loads(json.dumps(answer.to_dict(), allow_nan=False))
    assert read == answer.to_dict()
    assert set(read) == {
        *(
            "notice",
            "warnings",
            "not_checked",
            "archive",
            "query",
            "refined",
            "vote",
            "share_in_this_archive",
        ),
        *("why_no_vote", "probability", "why_no_probability", "hits", "nearest_malignant"),
    }
    assert read["notice"] == NOTICE
    assert read["archive"] == {
        "name": "drawn",
        "source": "",
        "malignant_word": "malignant",
        "cases": 24,
        "groups": 12,
        "model_digest": lookup.embedder.digest,
    }
    assert read["query"] == {
        "k": 12,
        "where": "",
        "matching_groups": 12,
        "excluded_groups": [],
        "laterality": "",
    }
    hit = {row["group"]: row for row in read["hits"]}["lesion04"]
    assert hit["diagnosis"] == "basal cell carcinoma"
    assert hit["labels"] == ["bcc"]
    assert hit["malignant"] is True
    assert (hit["established"], hit["age"], hit["sex"]) == ("follow-up", None, "female")
    assert (hit["site"], hit["laterality"], hit["keywords"]) == ("lower extremity", None, None)
    assert hit["metadata"] == {
        "dx_type": "follow_up",
        "age": None,
        "sex": "female",
        "localization": "lower extremity",
    }
    assert -1 <= hit["similarity"] <= 1
    assert [row["rank"] for row in read["hits"]] == list(range(1, 13))
    assert not set(query.split("/")[1:]) & set(json.dumps(read).split('"'))


def test_the_table_has_a_row_for_each_case(lookup, query):
    table = lookup.lookup(query, k=12).frame()
    assert table.columns.tolist() == [
        *("rank", "similarity", "case_id", "group", "label", "labels", "diagnosis", "malignant"),
        *("established", "age", "sex", "site", "laterality", "keywords"),
        *("dx_type", "localization"),
    ]
    assert table["diagnosis"][table["label"] == "bkl"].tolist()[0] == "bkl"


def words_on(figure):
    texts = [t.get_text() for t in figure.texts]
    for axes in figure.axes:
        texts += [axes.get_title(), axes.get_xlabel(), *(t.get_text() for t in axes.texts)]
    return texts


def test_the_contact_sheet_shows_and_says_everything(lookup, query):
    answer = lookup.lookup(query, k=7, exclude_groups=["lesion03"])
    figure = contact_sheet(answer, query, lookup.store.image_of)
    assert len(figure.axes) == 1 + len(answer.shown())
    assert all(len(axes.images) == 1 for axes in figure.axes)
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), read_image(query))
    words = words_on(figure)
    assert answer.notice in words
    assert any("shows the query image itself" in w for w in words)
    assert any("Archive drawn: 24 images of 12 distinct cases" in w for w in words)
    for axes, hit in zip(figure.axes[1:], answer.shown(), strict=True):
        assert f"rank {hit.rank}, similarity {hit.similarity:.3f}" in axes.get_title()
        assert hit.case_id in axes.get_xlabel()
        assert ("MALIGNANT" in axes.get_title()) == answer.is_malignant(hit)
        assert bool(axes.patches) == answer.is_malignant(hit)


def test_nothing_on_the_contact_sheet_runs_over_anything_else(lookup, query):
    answer = lookup.lookup(query, k=11, where="sex=female")
    figure = contact_sheet(answer, query, lookup.store.image_of)
    figure.canvas.draw()
    boxes = [text.get_window_extent() for text in figure.texts]
    for axes in figure.axes:
        boxes.append(axes.get_tightbbox())
    inside = figure.bbox
    for i, box in enumerate(boxes):
        assert box.x0 >= inside.x0
        assert box.x1 <= inside.x1
        assert box.y0 >= inside.y0
        assert box.y1 <= inside.y1
        for other in boxes[:i]:
            assert not box.overlaps(other)


def test_the_contact_sheet_does_without_pictures(lookup, query):
    answer = lookup.lookup(query, k=2, where="label=nv")
    words = words_on(contact_sheet(answer, read_image(query)))
    assert words.count("no picture kept") == len(answer.shown()) == 3
    assert any("does not meet the filter" in w for w in words)
