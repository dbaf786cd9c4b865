"""The REST interface: what is asked and what is answered."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from medshadow.retrieval import CaseLookup


def _look_up(client, image, **fields):
    return client.post("/api/lookup", files={"image": ("a.png", image)}, data=fields)


def test_a_lookup_answers_with_cases_and_a_token(reader, lesion):
    answer = _look_up(reader, lesion, k=3, where="sex=female").json()
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert answer["hits"][0]["similarity"] > answer["hits"][2]["similarity"]
    assert {hit["sex"] for hit in answer["hits"]} == {"female"}
    assert answer["hits"][0]["established"] == "histology"
    assert answer["hits"][0]["thumbnail"] is None
    assert answer["nearest_malignant"]["malignant"]
    assert answer["archive"]["cases"] == 12
    assert "Research use only" in answer["notice"]
    assert len(answer["token"]) >= 40


def test_nothing_that_an_answer_says_is_left_out(reader, lesion):
    store = reader.app.state.engine.store
    embedder = reader.app.state.engine._lookup.embedder
    pixels = np.array(Image.open(io.BytesIO(lesion)).convert("RGB"))
    told = CaseLookup(store, embedder).lookup(pixels, k=3).to_dict()
    answer = _look_up(reader, lesion, k=3).json()
    assert set(told) <= set(answer)
    assert answer["not_checked"] == told["not_checked"]
    assert told["not_checked"].startswith("Not checked")


def test_thumbnails_come_along_when_asked_for(reader, lesion):
    answer = _look_up(reader, lesion, k=2, thumbnails="true").json()
    jpeg = base64.b64decode(answer["hits"][0]["thumbnail"])
    assert jpeg[:2] == b"\xff\xd8"


def test_excluded_groups_are_not_found(reader, lesion):
    nearest = _look_up(reader, lesion, k=1).json()["hits"][0]["group"]
    answer = _look_up(reader, lesion, k=12, exclude_groups=[nearest, "unknown"]).json()
    assert nearest not in {hit["group"] for hit in answer["hits"]}
    assert len(answer["hits"]) == 11


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"k": 0}, "k"),
        ({"k": 101}, "k"),
        ({"where": "site=back"}, "no key 'site'"),
        ({"where": "age is 5"}, "cannot read"),
        ({"where": "a" * 501}, "where"),
        ({"laterality": "up"}, "laterality"),
        ({"prevalence": 1}, "prevalence"),
    ],
)
def test_a_wrong_field_is_named(reader, lesion, fields, words):
    response = _look_up(reader, lesion, **fields)
    assert response.status_code == 422
    assert words in response.text


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 cut off"])
def test_what_is_no_image_is_refused(reader, content):
    response = _look_up(reader, content)
    assert response.status_code == 422
    assert response.json()["detail"].startswith("image: ")


def test_a_lookup_without_an_image_is_refused(reader):
    response = reader.post("/api/lookup", files={"picture": b"x"})
    assert response.status_code == 422
    assert "image" in response.json()["detail"]


def test_a_reference_needs_a_server_to_ask(reader):
    instance = "studies/1.2/series/1.2.3/instances/1.2.3.4"
    asked = {"reference": (None, instance)}
    response = reader.post("/api/lookup", files=asked)
    assert response.status_code == 422
    assert "no DICOMweb server" in response.json()["detail"]


def test_the_archive_is_described(reader):
    found = reader.get("/api/archive").json()
    assert (found["name"], found["cases"], found["groups"]) == ("drawn lesions", 12, 12)
    assert found["columns"]["age"] == {
        "kind": "number", "least": 20.0, "most": 75.0, "values": None,
    }  # fmt: skip
    assert found["columns"]["sex"]["values"] == ["female", "male"]
    assert "case_id" not in found["columns"]


def test_cases_are_listed_page_by_page(reader):
    seen, cursor = [], ""
    while cursor is not None:
        page = reader.get("/api/cases", params={"limit": 5, "cursor": cursor}).json()
        assert len(page["cases"]) <= 5
        seen += [case["case_id"] for case in page["cases"]]
        cursor = page["next"]
        assert cursor is None or "case" not in base64.b64decode(cursor + "==").decode()
    assert seen == [f"case{n:02}" for n in range(12)]


def test_suspended_cases_are_listed_for_curators_alone(serve, tokens):
    client = serve()
    client.app.state.engine.store.set_consent("case03", "suspended")

    def listed(token):
        got = client.get("/api/cases", headers={"Authorization": f"Bearer {token}"}).json()
        return {case["case_id"]: case["consent"] for case in got["cases"]}

    assert "case03" not in listed(tokens.reader)
    assert listed(tokens.curator)["case03"] == "suspended"
    assert client.app.state.engine.thumbnail("case03") is None
    assert client.app.state.engine.thumbnail("case04") is not None


@pytest.mark.parametrize("cursor", ["x", "é", "YWZ0ZXIgLTE", "YWZ0ZXIgw6k"])
def test_a_foreign_cursor_is_refused(reader, cursor):
    assert reader.get("/api/cases", params={"cursor": cursor}).status_code == 422


def test_health_and_readiness_need_no_token(stranger):
    assert stranger.get("/health").json() == {"status": "ok"}
    assert stranger.get("/ready").json() == {"status": "ready"}


def test_not_ready_without_its_archive(stranger, monkeypatch, caplog):
    store = type(stranger.app.state.engine.store)
    monkeypatch.setattr(store, "version", property(lambda _: 1 / 0))
    response = stranger.get("/ready")
    assert response.status_code == 503
    assert "the archive cannot be read (ZeroDivisionError)" in caplog.text
    assert response.headers["retry-after"]
    assert stranger.get("/health").status_code == 200


def test_a_large_photograph_of_any_format_is_taken(reader):
    file = io.BytesIO()
    Image.new("RGB", (1200, 900), (200, 150, 140)).save(file, "TIFF")
    assert _look_up(reader, file.getvalue(), k=1).status_code == 200
