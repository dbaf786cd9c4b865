"""Looking up through Milvus: the class, the command and the service."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.data import read_image
from medshadow.networks import Embedder
from medshadow.retrieval import CaseLookup
from medshadow.retrieval.encoders import TorchEncoder
from medshadow.service import Limits, ServiceSettings, create_app, engine

run = CliRunner().invoke


@pytest.fixture
def archive(lookup, embedder, milvus_server, tmp_path, monkeypatch):
    """A store on disk whose model is always found, and the token in the environment."""
    monkeypatch.setattr(Embedder, "load", lambda folder: embedder)
    monkeypatch.setenv("MEDSHADOW_MILVUS_TOKEN", milvus_server.token)
    return SimpleNamespace(cases=tmp_path / "cases.db", uri=milvus_server.uri)


def test_the_same_answer_as_without(lookup, embedder, milvus, query):
    elsewhere = CaseLookup(lookup.store, embedder, search=milvus(lookup.store))
    for where in (None, "sex=male", "age>1000"):
        expected = lookup.lookup(query, k=5, where=where)
        assert elsewhere.lookup(query, k=5, where=where) == expected
    marked = {"relevant": ["case01a"], "not_relevant": ["case02b"]}
    assert elsewhere.refine(query, **marked) == lookup.refine(query, **marked)


def test_the_command(archive, lookup, query):
    words = ["lookup", query, "--cases", str(archive.cases)]
    expected = run(app, [*words, "--json"])
    done = run(app, [*words, "--json", "--milvus", archive.uri])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads(expected.stdout)
    assert run(app, [*words, "--milvus", "http://127.0.0.1:1"]).exit_code == 1
    assert lookup.store.trail()["action"].tolist().count("lookup") == 2


def test_withdrawing_by_command_erases_from_milvus_too(archive, lookup, milvus):
    search = milvus(lookup.store)
    mirror, before = search._mirror, search._mirror.name
    words = ["index", "withdraw", "--yes", "--cases", str(archive.cases), "--milvus"]
    assert run(app, [*words, archive.uri, "case03a"]).exit_code == 0
    (after,) = mirror.server.collections(mirror._prefix)
    assert after != before
    assert len(mirror.server.marks(after, 1, 99)[0]) == 23
    done = run(app, [*words, "http://127.0.0.1:1", "case04a"])
    assert "their vectors stay in Milvus until" in str(done.exception)
    assert len(lookup.store) == 22


def test_the_service(archive, lookup, query, milvus_server, monkeypatch, caplog):
    monkeypatch.setattr(engine, "best_encoder", lambda embedder, threads: TorchEncoder(embedder))
    settings = ServiceSettings(
        archive.cases,
        "model",
        reader_token="reader-token-of-the-tests",
        curator_token="curator-token-of-the-tests",
        milvus=archive.uri,
        milvus_token=milvus_server.token,
        limits=Limits(seconds=600),
    )
    assert milvus_server.token not in repr(settings)
    curator = {"Authorization": "Bearer curator-token-of-the-tests"}
    with TestClient(create_app(settings), headers=curator) as client:
        assert client.get("/ready").json() == {"status": "ready"}
        image = {"image": Path(query).read_bytes()}
        answer = client.post("/api/lookup", files=image, data={"k": "3"})
        hits = lookup.lookup(read_image(query), k=3).hits
        found = [case["case_id"] for case in answer.json()["hits"]]
        assert found == [hit.case_id for hit in hits]
        mirror = client.app.state.engine._lookup.search._mirror
        before = mirror.name
        gone = {"case_ids": [found[0]]}
        assert client.post("/api/cases/withdraw", json=gone).status_code == 200
        mirror._eraser.join()
        assert mirror.server.collections(mirror._prefix) == [mirror.name] != [before]
        monkeypatch.setattr(mirror.server, "count", _down)
        assert client.get("/ready").status_code == 503
        assert "http://milvus" not in caplog.text
        monkeypatch.undo()
        assert client.get("/ready").status_code == 200


def _down(*_):
    from medshadow.errors import StoreError

    raise StoreError("Milvus at http://milvus is down")
