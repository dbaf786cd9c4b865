"""The lookup behind the service: what it records, what a change does, what it keeps."""

import numpy as np
import pytest

from medshadow.retrieval import CaseStore, database
from medshadow.service import Problem
from medshadow.service.queries import Queries, Query
from medshadow.service.settings import Limits


def test_the_trail_says_who_was_shown_what(serve, tokens, lesion):
    client = serve()
    headers = {"Authorization": f"Bearer {tokens.reader}"}
    answer = client.post("/api/lookup", files={"image": lesion}, data={"k": 2}, headers=headers)
    curator = {"Authorization": f"Bearer {tokens.curator}"}
    newest = client.get("/api/trail", params={"limit": 1}, headers=curator).json()["entries"][0]
    assert (newest["by"], newest["action"]) == ("reader", "lookup")
    shown = [hit["case_id"] for hit in answer.json()["hits"]]
    assert newest["cases"][:2] == shown
    assert len(newest["query_digest"]) == 64


def test_without_a_trail_there_is_no_answer(reader, lesion, monkeypatch):
    store = reader.app.state.engine.store
    monkeypatch.setattr(type(store), "record_lookup", lambda *_, **__: 1 / 0)
    assert reader.post("/api/lookup", files={"image": lesion}).status_code == 500


def test_a_database_that_refuses_is_said_and_may_be_asked_again(
    curator, lesion, monkeypatch, caplog
):
    store = curator.app.state.engine.store
    with monkeypatch.context() as patch:
        patch.setattr(database, "BUSY_MILLISECONDS", 50)
        store.close()  # connections wait for as long as it was when they were opened
        with CaseStore(store._engine.url.database) as other, database.writing(other._engine, ""):
            refused = curator.post("/api/lookup", files={"image": lesion})
    assert refused.status_code == 503
    assert "the log tells why" in refused.json()["detail"]
    assert "written now: database is locked" in caplog.text
    store.close()
    assert curator.post("/api/lookup", files={"image": lesion}).status_code == 200


def test_withdrawing_takes_effect_at_the_next_lookup(serve, tokens, lesion):
    client = serve()
    look_up = {"files": {"image": lesion}, "data": {"k": 1}}
    headers = {"Authorization": f"Bearer {tokens.curator}"}
    nearest = client.post("/api/lookup", **look_up, headers=headers).json()["hits"][0]["case_id"]
    body = {"case_ids": [nearest], "reason": "error"}
    done = client.post("/api/cases/withdraw", json=body, headers=headers)
    assert done.json() == {"cases": 1}
    after = client.post("/api/lookup", **look_up, headers=headers).json()
    assert after["hits"][0]["case_id"] != nearest
    assert after["archive"]["cases"] == 11
    again = client.post("/api/cases/withdraw", json=body, headers=headers)
    assert again.status_code == 404
    assert nearest not in again.text
    assert client.get("/api/archive", headers=headers).json()["cases"] == 11


def test_consent_suspended_and_given_again(curator, lesion):
    look_up = {"files": {"image": lesion}, "data": {"k": 12}}
    for consent, found in (("suspended", 11), ("given", 12)):
        body = {"case_ids": ["case05"], "consent": consent}
        assert curator.post("/api/cases/consent", json=body).json() == {"cases": 1}
        assert len(curator.post("/api/lookup", **look_up).json()["hits"]) == found


def test_queries_are_forgotten_by_number_size_and_age():
    now = [0.0]
    limits = Limits(kept_queries=3, kept_bytes=250, kept_seconds=60)
    queries = Queries(limits, clock=lambda: now[0])
    small = Query(np.zeros((5, 5, 3), np.uint8))
    tokens = [queries.keep(small) for _ in range(4)]
    assert len(set(tokens)) == 4
    assert len(queries) == 3
    with pytest.raises(Problem, match="404"):
        queries.get(tokens[0])
    large = queries.keep(Query(np.zeros((8, 9, 3), np.uint8)))
    assert len(queries) == 1
    now[0] = 59.9
    assert queries.get(large).pixels.shape == (8, 9, 3)
    now[0] = 60
    queries.forget_old()
    assert len(queries) == 0
