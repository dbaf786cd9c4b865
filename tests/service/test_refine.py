"""Searching again by example, and explaining, from the token of a lookup."""

import base64
import io

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def answer(reader, lesion):
    """A lookup's answer: four cases."""
    return reader.post("/api/lookup", files={"image": lesion}, data={"k": 4}).json()


def _refined(client, answer, relevant, not_relevant=(), **more):
    asked = {"token": answer["token"], "relevant": relevant, "not_relevant": list(not_relevant)}
    return client.post("/api/refine", json={**asked, **more})


def _ids(answer):
    return [hit["case_id"] for hit in answer["hits"]]


def test_marked_cases_move_the_search(reader, answer):
    shown = _ids(answer)
    refined = _refined(reader, answer, shown[2:3], shown[:1], k=3).json()
    assert refined["refined"]
    assert shown[0] not in _ids(refined)
    assert _ids(refined) != shown[1:4]
    assert shown[2] in _ids(refined)
    assert refined["vote"] is None
    assert refined["share_in_this_archive"] == {}
    assert refined["why_no_vote"]
    assert refined["token"] == answer["token"]


def test_what_a_refinement_shows_can_be_marked_next(reader, answer):
    refined = _refined(reader, answer, _ids(answer)[3:], _ids(answer)[:2], k=6).json()
    new = [case_id for case_id in _ids(refined) if case_id not in _ids(answer)]
    assert _refined(reader, answer, new[:1]).status_code == 200


def test_refinements_stand_in_the_trail(serve, tokens, lesion):
    client = serve(token=tokens.curator)
    answer = client.post("/api/lookup", files={"image": lesion}, data={"k": 2}).json()
    _refined(client, answer, _ids(answer)[:1])
    entries = client.get("/api/trail", params={"limit": 2}).json()["entries"]
    assert [entry["action"] for entry in entries] == ["lookup", "lookup"]
    assert entries[0]["query_digest"] == entries[1]["query_digest"]


@pytest.mark.parametrize(
    ("marked", "more", "status", "words"),
    [
        (lambda ids: (ids[:1], ids[:1]), {}, 422, "relevant"),
        (lambda ids: ([], []), {}, 422, "relevant"),
        (lambda ids: (["case-of-another"], []), {}, 422, "not shown"),
        (lambda ids: (ids[:1], []), {"where": "site=back"}, 422, "no key"),
        (lambda ids: (ids[:1], []), {"k": 0}, 422, "see errors"),
        (lambda ids: (ids[:1], []), {"token": "of-nobody"}, 404, "no longer kept"),
        (lambda ids: (ids[:1], []), {"surprise": 1}, 422, "see errors"),
    ],
)
def test_what_cannot_be_refined_is_said(reader, answer, marked, more, status, words):
    response = _refined(reader, answer, *marked(_ids(answer)), **more)
    assert response.status_code == status
    assert words in response.json()["detail"]


def test_a_case_withdrawn_meanwhile_is_gone(reader, answer):
    gone = _ids(answer)[0]
    reader.app.state.engine.store.withdraw(gone)
    response = _refined(reader, answer, [gone])
    assert response.status_code == 410
    assert gone not in response.text
    explained = reader.post("/api/explain", json={"token": answer["token"], "case_id": gone})
    assert explained.status_code == 410


def test_a_case_is_explained_in_two_pictures(reader, answer, lesion):
    asked = {"token": answer["token"], "case_id": _ids(answer)[0]}
    explained = reader.post("/api/explain", json=asked).json()
    # Of the image as it stands and of the kept picture: about what the lookup found.
    assert explained["similarity"] == pytest.approx(answer["hits"][0]["similarity"], abs=0.3)
    for name in ("query_overlay", "case_overlay"):
        overlay = Image.open(io.BytesIO(base64.b64decode(explained[name])))
        assert overlay.format == "PNG"
        assert overlay.size == (90, 68)
        assert np.asarray(overlay).std() > 1
    plain = np.asarray(Image.open(io.BytesIO(lesion)))
    marked = Image.open(io.BytesIO(base64.b64decode(explained["query_overlay"])))
    assert (np.asarray(marked) != plain).any()


def test_only_what_was_shown_is_explained(reader, answer):
    hidden = next(f"case{n:02}" for n in range(12) if f"case{n:02}" not in str(answer))
    response = reader.post("/api/explain", json={"token": answer["token"], "case_id": hidden})
    assert response.status_code == 422


def test_pixels_are_kept_for_the_token(reader, answer):
    assert reader.app.state.engine.pixels(answer["token"]).shape == (68, 90, 3)
