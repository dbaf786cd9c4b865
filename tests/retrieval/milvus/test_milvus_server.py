"""What is said when Milvus does not answer, and that nobody learns the token from it."""

import logging
import socket
import sys
import time

import pytest

from medshadow.errors import OptionalDependencyError, StoreError
from medshadow.retrieval import MilvusSearch, milvus_server
from medshadow.retrieval.milvus_server import MilvusServer

SECRET = "somebody:very-secret"


@pytest.mark.parametrize("uri", ["milvus.db", "host:19530", "ftp://host", "http:///nowhere"])
def test_an_address_that_is_none(uri):
    with pytest.raises(StoreError, match=r"must look like http://host:19530"):
        MilvusServer(uri)


def test_without_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(OptionalDependencyError, match=r"pip install 'medshadow\[milvus\]'"):
        MilvusServer("http://127.0.0.1:1")


@pytest.mark.parametrize("listening", [False, True])
def test_a_server_that_does_not_answer(store, caplog, capfd, listening, integration, monkeypatch):
    integration(_has_pymilvus(), "no pymilvus; pip install 'medshadow[milvus]'")
    assert milvus_server._SECONDS < 10
    monkeypatch.setattr(milvus_server, "_SECONDS", 1.0)
    caplog.set_level(logging.DEBUG)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        port = silent.getsockname()[1]
        if listening:
            silent.listen()
        start = time.monotonic()
        with pytest.raises(StoreError, match=rf"Milvus at http://127\.0\.0\.1:{port} ") as raised:
            MilvusSearch(store, f"http://who:hidden@127.0.0.1:{port}", SECRET)
        assert time.monotonic() - start < 3
    said = f"{raised.value!r} {raised.value.__cause__} {caplog.text} {capfd.readouterr()}"
    assert "very-secret" not in said
    assert "hidden" not in said


def test_a_wrong_token(request, store, caplog, capfd):
    server = request.getfixturevalue("milvus_server")
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StoreError, match="Milvus at http://127") as raised:
        MilvusSearch(store, server.uri, SECRET)
    assert "very-secret" not in f"{raised.value!r} {caplog.text} {capfd.readouterr()}"


def test_a_server_that_answers_no_longer(milvus, store, some, monkeypatch):
    import grpc

    class TooLateError(grpc.RpcError):
        def code(self):
            return grpc.StatusCode.DEADLINE_EXCEEDED

    def wait(*_, **__):
        raise TooLateError

    some.fill(store, 2)
    search = milvus(store)
    monkeypatch.setattr(search._mirror.server._client, "search", wait)
    with pytest.raises(StoreError, match=r"Milvus at http://127.* DEADLINE_EXCEEDED"):
        search.search(some.vectors(1)[0], 1)


def _has_pymilvus():
    from importlib.util import find_spec

    return find_spec("pymilvus") is not None
