import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from medshadow.errors import TrackingError
from medshadow.tracking import check_tracking, tracking_uri
from medshadow.tracking.server import without_password


def test_default_is_sqlite_in_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:9")
    assert tracking_uri(tmp_path) == "http://localhost:9"


def test_refused_connection_is_an_error_at_once():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    with pytest.raises(TrackingError, match=f"127.0.0.1:{port}"):
        check_tracking(f"http://127.0.0.1:{port}")
    assert time.monotonic() - started < 10


@pytest.mark.slow
def test_server_that_never_answers_is_an_error_within_ten_seconds():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        started = time.monotonic()
        with pytest.raises(TrackingError, match="timed out"):
            check_tracking(f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - started < 10


def test_server_that_answers_passes():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK")

        threading.Thread(target=answer, daemon=True).start()
        check_tracking(f"http://127.0.0.1:{server.getsockname()[1]}")


@pytest.mark.parametrize(
    ("status", "passes"), [(401, True), (404, True), (500, False), (503, False)]
)
def test_a_proxy_without_its_server_is_an_error(status, passes):
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(status)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        uri = f"http://127.0.0.1:{server.server_port}"
        if passes:
            check_tracking(uri)
        else:
            with pytest.raises(TrackingError, match=f"answers with status {status}"):
                check_tracking(uri)


def test_database_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match="sqlite"):
        check_tracking(f"sqlite:///{tmp_path}/file/mlflow.db")


def test_password_is_not_shown():
    assert without_password("http://user:secret@host:1/x") == "http://host:1/x"
    assert without_password("sqlite:///a.db") == "sqlite:///a.db"
