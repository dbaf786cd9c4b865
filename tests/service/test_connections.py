"""Clients that are slow or many, at a real socket."""

import socket
import threading
import time
from contextlib import closing

import pytest
import uvicorn

from medshadow.service import connections
from medshadow.service.connections import BoundedConnection

pytestmark = pytest.mark.slow

HEAD = b"GET / HTTP/1.1\r\nHost: here\r\n"
MEGABYTES = 24


async def answers(scope, receive, send):
    """As much as no socket's buffers hold."""
    assert scope["type"] == "http"
    length = str(MEGABYTES * 2**20).encode()
    headers = [(b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for left in reversed(range(MEGABYTES)):
        await send({"type": "http.response.body", "body": bytes(2**20), "more_body": left > 0})


@pytest.fixture
def connect(monkeypatch):
    """Open a connection to a service whose patience is half a second."""
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    monkeypatch.setattr(connections, "READING_SECONDS", 0.5)
    config = uvicorn.Config(
        answers, http=BoundedConnection, ws="none", log_config=None, lifespan="off"
    )
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)

    def opened():
        return closing(socket.create_connection(listening.getsockname(), timeout=20))

    opened.server = server
    yield opened
    server.should_exit = True
    thread.join(20)


def closed_after(client):
    """Seconds until the service closes a connection; what it sent before is read."""
    started = time.monotonic()
    try:
        while client.recv(2**20):
            pass
    except ConnectionResetError:
        pass
    return time.monotonic() - started


@pytest.mark.parametrize("begun", [b"", b"G", HEAD], ids=["nothing", "a letter", "no end"])
def test_headers_that_do_not_come_are_not_waited_for(connect, begun):
    with connect() as client:
        client.sendall(begun)
        assert 0.3 < closed_after(client) < 10


def test_headers_that_trickle_are_not_waited_for(connect):
    def trickle():
        for _ in range(100):
            client.sendall(b"G")
            time.sleep(0.1)

    with connect() as client, pytest.raises((BrokenPipeError, ConnectionResetError)):
        trickle()


def test_the_second_request_of_a_connection_may_not_trickle_either(connect):
    with connect() as client:
        client.sendall(HEAD + b"\r\n")
        left = MEGABYTES * 2**20
        while left > 0:
            left -= len(client.recv(2**20))
        client.sendall(b"G")
        # Uvicorn's own patience between two requests is five seconds, but not after a letter.
        assert 0.3 < closed_after(client) < 4


def test_an_answer_that_nobody_takes_is_given_up(connect):
    with connect() as client:
        client.sendall(HEAD + b"\r\n")
        time.sleep(1)
        until = time.monotonic() + 10
        while connect.server.server_state.connections and time.monotonic() < until:
            time.sleep(0.05)
        assert not connect.server.server_state.connections
        assert not connect.server.server_state.tasks


def test_an_answer_that_is_taken_arrives_whole(connect):
    with connect() as client:
        client.sendall(HEAD + b"Connection: close\r\n\r\n")
        received = b""
        while part := client.recv(2**20):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert len(body) == MEGABYTES * 2**20


def test_too_many_connections_are_not_taken(connect, monkeypatch):
    monkeypatch.setattr(connections, "MOST_CONNECTIONS", 2)
    monkeypatch.setattr(connections, "HEADER_SECONDS", 10)
    with connect() as first, connect() as second:
        for client in (first, second):
            client.sendall(b"G")
        time.sleep(0.3)
        with connect() as third:
            assert closed_after(third) < 5
        first.sendall(b"ET / HTTP/1.1\r\nHost: here\r\n\r\n")
        assert first.recv(12) == b"HTTP/1.1 200"
