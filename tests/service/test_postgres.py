"""The whole service on PostgreSQL: found, withdrawn, never found again."""

import pytest

from medshadow.networks import Embedder
from medshadow.retrieval import CaseStore, encode_images, jpeg_thumbnail


@pytest.fixture
def postgres(settings, postgres_url, draw_lesion):
    """The address of a store in PostgreSQL, of six drawn lesions."""
    import pandas as pd

    embedder = Embedder.load(settings.model)
    pixels = [draw_lesion(seed) for seed in range(6)]
    ids = [f"case{n:02}" for n in range(6)]
    frame = pd.DataFrame({"case_id": ids, "group": ids, "label": ["nv", "mel"] * 3})
    with CaseStore.create(
        postgres_url,
        name="drawn lesions",
        model_digest=embedder.digest,
        embedding_dim=embedder.embedding_dim,
        preprocess=embedder.preprocess,
        malignant={"mel"},
    ) as store:
        thumbnails = [jpeg_thumbnail(image) for image in pixels]
        vectors = encode_images(embedder, pixels)
        store.add(frame, vectors, model_digest=embedder.digest, thumbnails=thumbnails)
    return postgres_url


def found(client, tokens, image):
    headers = {"Authorization": f"Bearer {tokens.reader}"}
    response = client.post(
        "/api/lookup", files={"image": image}, data={"thumbnails": "true"}, headers=headers
    )
    assert response.status_code == 200, response.text
    return response.json()


def test_what_a_curator_withdraws_is_gone_from_the_next_lookup(serve, tokens, postgres, lesion):
    client = serve(cases=postgres)
    curator = {"Authorization": f"Bearer {tokens.curator}"}
    assert client.get("/ready").status_code == 200
    first = found(client, tokens, lesion)
    assert len(first["hits"]) == 6
    assert all(hit["thumbnail"] for hit in first["hits"])
    gone = first["hits"][0]["case_id"]

    asked = {"case_ids": [gone]}
    reader = {"Authorization": f"Bearer {tokens.reader}"}
    assert client.post("/api/cases/withdraw", json=asked, headers=reader).status_code == 403
    assert len(found(client, tokens, lesion)["hits"]) == 6
    withdrawn = client.post("/api/cases/withdraw", json=asked, headers=curator)
    assert withdrawn.json() == {"cases": 1}

    after = found(client, tokens, lesion)
    left = [hit["case_id"] for hit in after["hits"]]
    assert left == [hit["case_id"] for hit in first["hits"][1:]]
    assert after["archive"]["cases"] == 5
    assert gone not in client.get("/api/cases", headers=curator).text
    # The image of before can still be asked about, but not beside the case that is gone.
    marked = {"token": first["token"], "relevant": [gone]}
    assert client.post("/api/refine", json=marked, headers=reader).status_code == 410
    seen = {"token": first["token"], "case_id": gone}
    assert client.post("/api/explain", json=seen, headers=reader).status_code == 410
    assert client.post("/api/cases/withdraw", json=asked, headers=curator).status_code == 404
    # Beside the file there is a second process: it sees the same.
    assert len(found(serve(cases=postgres), tokens, lesion)["hits"]) == 5
    trail = client.get("/api/trail", headers=curator).json()["entries"]
    actions = [entry["action"] for entry in trail]
    assert actions == ["lookup", "lookup", "withdraw", "lookup", "lookup", "add"]
    assert gone not in str(trail)


@pytest.mark.parametrize("case", ["\0", "a\0b", "\ud7ff", "x" * 200])
def test_what_postgresql_cannot_hold_is_only_not_found(serve, tokens, postgres, lesion, case):
    client = serve(token=tokens.curator, cases=postgres)
    for path, more in (("withdraw", {}), ("consent", {"consent": "given"})):
        response = client.post(f"/api/cases/{path}", json={"case_ids": [case], **more})
        assert response.status_code in (404, 422)
    for field in ("where", "exclude_groups"):
        value = f"label={case}" if field == "where" else case
        response = client.post("/api/lookup", files={"image": lesion}, data={field: value})
        assert response.status_code in (200, 422), response.text
    cursor = {"cursor": "YWZ0ZXIgOTIyMzM3MjAzNjg1NDc3NTgwNw"}  # after 2^63 - 1
    assert client.get("/api/cases", params=cursor).json() == {"cases": [], "next": None}
