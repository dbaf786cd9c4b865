"""Limits, headers, problems and the log: what every request passes."""

import asyncio
import logging
import tempfile
import time

import pytest

from medshadow.service import guard
from medshadow.service.settings import Limits


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing-here", 404),
        ("GET", "/api/nothing-here", 404),
        ("DELETE", "/api/cases", 405),
        ("GET", "/api/cases?limit=x", 422),
        ("POST", "/api/lookup", 415),
        ("POST", "/api/cases/consent", 415),
    ],
)
def test_every_error_is_a_problem_with_headers(reader, method, path, status):
    response = reader.request(method, path)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert (problem["status"], problem["type"]) == (status, "about:blank")
    assert problem["title"]
    assert problem["detail"]
    for name in guard.HEADERS:
        assert name in response.headers


def test_what_was_sent_is_not_sent_back(reader):
    response = reader.get("/api/cases", params={"limit": "Mrs-Jones"})
    assert response.json()["errors"][0]["field"] == "query.limit"
    assert "Jones" not in response.text


def test_headers_keep_scripts_caches_and_frames_out(reader):
    headers = reader.get("/api/archive").headers
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_too_many_bytes_are_refused(serve, tokens, lesion):
    client = serve(token=tokens.reader, limits=Limits(max_bytes=len(lesion)))
    assert client.post("/api/lookup", files={"image": lesion}).status_code == 200
    large = client.post("/api/lookup", files={"image": lesion + bytes(guard._FORM_BYTES)})
    assert large.status_code == 413
    assert client.post("/api/cases/consent", content=bytes(guard.MOST_BYTES + 1)).status_code == 413


def test_bytes_are_counted_where_their_number_is_not_told(serve, tokens):
    client = serve(token=tokens.reader, limits=Limits(max_bytes=1000))

    def endless():
        for _ in range(1000):
            yield bytes(2**14)

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    response = client.post("/api/lookup", content=endless(), headers=headers)
    assert response.status_code == 413


def test_strangers_send_next_to_nothing(stranger):
    assert stranger.post("/login", data={"token": "x" * 2**14}).status_code == 413


def test_too_many_pixels_are_refused_before_they_are_decoded(serve, tokens, lesion, monkeypatch):
    from PIL import ImageFile

    client = serve(token=tokens.reader, limits=Limits(max_pixels=90 * 68 - 1))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: 1 / 0)
    response = client.post("/api/lookup", files={"image": lesion})
    assert response.status_code == 413
    assert "90 x 68 pixels" in response.json()["detail"]


def test_uploads_stay_in_memory(reader, monkeypatch):
    from PIL import Image

    def refuse(*_, **__):
        raise AssertionError("a temporary file was asked for")

    noise = Image.effect_noise((1500, 1500), 100).convert("RGB")
    from io import BytesIO

    file = BytesIO()
    noise.save(file, "BMP")
    assert len(file.getvalue()) > 6 * 2**20
    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    assert reader.post("/api/lookup", files={"image": file.getvalue()}).status_code == 200


def test_a_person_in_a_hurry_has_to_wait(serve, tokens):
    client = serve(limits=Limits(requests_per_minute=2))
    headers = {"Authorization": f"Bearer {tokens.reader}"}
    statuses = [client.get("/api/cases", headers=headers).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    curator = {"Authorization": f"Bearer {tokens.curator}"}
    assert client.get("/api/cases", headers=curator).status_code == 200
    assert client.get("/health").status_code == 200


def test_the_log_names_route_and_person_and_nothing_else(reader, lesion, caplog):
    with caplog.at_level(logging.INFO):
        reader.post("/api/lookup", files={"image": ("Mrs-Jones.png", lesion)}, data={"k": 1})
        reader.get("/Mrs-Jones?name=Jones")
        reader.get("/api/cases", params={"cursor": "Jones"})
    ours = [r.getMessage() for r in caplog.records if r.name.startswith("medshadow")]
    assert ours[0].startswith("POST /api/lookup 200 ")
    assert ours[0].endswith(" ms reader")
    assert ours[1].startswith("GET (no route) 404 ")
    everything = " ".join(
        record.getMessage() for record in caplog.records if record.name != "httpx2"
    )
    assert "Jones" not in everything
    assert "case0" not in everything


def test_an_unforeseen_error_tells_nothing_of_its_message(reader, monkeypatch, caplog):
    def fail(*_, **__):
        raise RuntimeError("case07 of Mrs Jones")

    monkeypatch.setattr(reader.app.state.engine, "archive", fail)
    response = reader.get("/api/archive")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "Jones" not in response.text + caplog.text
    assert "RuntimeError at" in caplog.text
    assert "test_guard.py" in caplog.text


def test_a_body_that_does_not_arrive_is_given_up():
    async def silent():
        await asyncio.sleep(10)

    async def attempt():
        await guard._bounded(silent, 100, 0.05)()

    started = time.perf_counter()
    with pytest.raises(guard.Problem) as raised:
        asyncio.run(attempt())
    assert raised.value.status_code == 408
    assert time.perf_counter() - started < 5
