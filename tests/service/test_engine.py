"""The worker pool: bounded, in time, and never in the event loop's way."""

import asyncio
import threading

import pytest

from medshadow.service import Problem
from medshadow.service.queries import Queries, Query
from medshadow.service.settings import Limits


@pytest.fixture
def engine_within(serve, tokens):
    """An engine with two workers, room for one more, and so many seconds for each."""

    def start(seconds):
        limits = Limits(workers=2, queue=1, seconds=seconds)
        return serve(token=tokens.reader, limits=limits).app.state.engine

    return start


def test_work_beyond_the_queue_is_refused_at_once(engine_within):
    engine = engine_within(seconds=600)
    gate = threading.Event()

    async def crowd():
        waiting = [asyncio.create_task(engine.run(gate.wait)) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Problem) as refused:
            await engine.run(gate.wait)
        gate.set()
        await asyncio.gather(*waiting)
        assert await engine.run(lambda: 5) == 5
        return refused.value

    problem = asyncio.run(crowd())
    assert problem.status_code == 503
    assert problem.headers["Retry-After"]


def test_work_that_takes_too_long_keeps_its_place_until_it_ends(engine_within):
    engine = engine_within(seconds=0.3)
    gate = threading.Event()

    async def slow():
        crowd = [engine.run(gate.wait) for _ in range(3)]
        answers = await asyncio.gather(*crowd, return_exceptions=True)
        with pytest.raises(Problem):  # both workers are still at it, one waits
            await asyncio.gather(*(engine.run(lambda: 1) for _ in range(2)))
        gate.set()
        while engine._pending:
            await asyncio.sleep(0.01)
        return answers, await engine.run(lambda: 7)

    answers, after = asyncio.run(slow())
    assert {answer.status_code for answer in answers} == {503}
    assert after == 7


def test_the_event_loop_goes_on_while_workers_work(engine_within):
    engine = engine_within(seconds=600)
    gate = threading.Event()

    async def both():
        work = asyncio.create_task(engine.run(lambda: gate.wait(60)))
        for _ in range(10):
            await asyncio.sleep(0.01)
        assert not work.done()
        gate.set()  # by the loop itself: it was free while the worker waited
        return await work

    assert asyncio.run(both())


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
    import numpy as np

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
