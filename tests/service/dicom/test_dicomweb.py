"""The DICOMweb client against servers that misbehave."""

import logging
import socket
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from pydicom.dataset import Dataset

from medshadow.errors import DataError
from medshadow.service import dicomweb_line
from medshadow.service.dicomweb import DicomWeb
from medshadow.service.dicomweb_line import DicomWebError, InstanceNotFoundError

INSTANCE = "studies/1.2.77/series/1.2.3/instances/1.2.3.4"


@contextmanager
def serving(answer):
    """A server on loopback; ``answer(handler)`` answers. Yields its address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            asked.append((self.path, self.headers))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            answer(self)

        do_POST = do_GET  # noqa: N815 - named by the library

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def sends(status, body=b"", **headers):
    def answer(handler):
        handler.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            handler.send_header(name.replace("_", "-"), str(value))
        handler.end_headers()
        handler.wfile.write(body)

    return answer


@pytest.mark.parametrize(
    "url",
    [
        "pacs.example/dicom-web",
        "ftp://pacs.example/dicom-web",
        "http://",
        "https://user:password@pacs.example/dicom-web",
        "https://pacs.example/dicom-web?key=1",
    ],
)
def test_an_address_that_is_none_is_refused_and_not_repeated(url):
    with pytest.raises(DataError, match="DICOMweb address") as caught:
        DicomWeb(url)
    assert "password@" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "studies/1.2/series/1.2.3",
        "studies/1.2/series/1.2.3/instances/1.2.3.4/rendered",
        "studies/1.2/series/1.2.3/instances/../../../admin",
        "studies/1.2/series/1.2.3/instances/1.2.3.4?x=http://elsewhere.example",
        "studies/1.2/series/1.2.3/instances/1.2.3.4#",
        "studies/1.2/series/1.2.3/instances/1.2.3.4/frames/0",
        f"studies/1.2/series/1.2.3/instances/{'1' * 65}",
        "studies/1.2/series/1.2.3/instances/1.2\n.3",
        "studies/1.2/series/1.2.3/instances/\uff11.2",
    ],
)
def test_a_reference_that_is_none_is_refused(text):
    with pytest.raises(DataError, match=r"reference: (expected|names another)"):
        DicomWeb("https://pacs.example/dicom-web").reference(text)


@pytest.mark.parametrize(
    "root",
    [
        "https://elsewhere.example/dicom-web",
        "http://pacs.example/dicom-web",
        "https://pacs.example.elsewhere.example/dicom-web",
        "https://pacs.example:8443/dicom-web",
        "https://pacs.example@elsewhere.example/dicom-web",
        "https://pacs.example/dicom-web-too",
        "file:///etc",
    ],
)
def test_another_server_is_never_asked(root):
    with pytest.raises(DataError, match="names another server") as caught:
        DicomWeb("https://pacs.example/dicom-web").reference(f"{root}/{INSTANCE}")
    assert "elsewhere" not in str(caught.value)


def test_references_are_read_whole_or_as_paths():
    server = DicomWeb("https://pacs.example/dicom-web/")
    for text in (INSTANCE, f"/{INSTANCE}/", f" https://pacs.example/dicom-web/{INSTANCE}\n"):
        assert str(server.reference(text)) == INSTANCE
    framed = server.reference(f"{INSTANCE}/frames/12")
    assert (framed.frame, str(framed)) == (12, f"{INSTANCE}/frames/12")
    assert "1.2.77" not in repr(framed)


def test_no_redirect_is_followed():
    with serving(sends(200)) as (elsewhere, asked_there):
        target = f"{elsewhere}/{INSTANCE}"
        with (
            serving(sends(302, Location=target)) as (url, _),
            pytest.raises(DicomWebError, match="does not answer") as caught,
        ):
            DicomWeb(url).instance(INSTANCE)
    assert asked_there == []
    assert "1.2.77" not in str(caught.value)
    assert caught.value.__context__ is None


def test_neither_proxies_nor_passwords_come_from_the_environment(monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with serving(sends(200)) as (proxy, through_proxy):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        with serving(sends(404)) as (url, asked), pytest.raises(InstanceNotFoundError):
            DicomWeb(url).instance(INSTANCE)
    assert through_proxy == []
    assert "Authorization" not in asked[0][1]


@pytest.mark.parametrize(
    ("credentials", "expected"),
    [("Jörg:a:b", "Basic SsO2cmc6YTpi"), ("a-token", "Bearer a-token"), ("", None)],
)
def test_credentials_are_basic_or_bearer(credentials, expected):
    with serving(sends(404)) as (url, asked), pytest.raises(InstanceNotFoundError):
        DicomWeb(url, credentials=credentials).instance(INSTANCE)
    assert asked[0][1].get("Authorization") == expected


def test_an_answer_too_large_is_given_up(monkeypatch):
    monkeypatch.setattr(dicomweb_line, "MAX_BYTES", 10_000)

    def endless(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/related; boundary=b")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            for _ in range(100_000):
                handler.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
        except OSError:
            pass

    with serving(endless) as (url, _), pytest.raises(DicomWebError, match="more than 10000 bytes"):
        DicomWeb(url).instance(INSTANCE)


def test_an_answer_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(dicomweb_line, "_TRANSFER_SECONDS", 0.2)

    def drip(handler):
        handler.send_response(200)
        handler.send_header("Content-Type", "multipart/related; boundary=b")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        try:
            for _ in range(100):
                handler.wfile.write(b"400\r\n" + b"x" * 1024 + b"\r\n")
                time.sleep(0.05)
        except OSError:
            pass

    with serving(drip) as (url, _), pytest.raises(DicomWebError, match="sent for more than"):
        DicomWeb(url).instance(INSTANCE)


def test_a_silent_server_is_given_up(monkeypatch):
    monkeypatch.setattr(dicomweb_line, "_ANSWER_SECONDS", 0.2)
    with (
        serving(lambda handler: time.sleep(1)) as (url, _),
        pytest.raises(DicomWebError, match="does not answer"),
    ):
        DicomWeb(url).instance(INSTANCE)


def test_a_server_that_is_not_there_is_said_so():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DicomWebError, match="does not answer") as caught:
        DicomWeb(url).instance(INSTANCE)
    assert "1.2.77" not in str(caught.value)


PART = b"--b\r\nContent-Type: application/dicom\r\n\r\nnot DICOM\r\n--b--"


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"<html>", "text/html"),
        (PART, "multipart/related; boundary=b"),
        (b"", "multipart/related; boundary=b"),
    ],
)
def test_what_is_not_dicomweb_is_said_so(body, kind):
    with (
        serving(sends(200, body, Content_Type=kind)) as (url, _),
        pytest.raises(DicomWebError, match="is not DICOMweb's"),
    ):
        DicomWeb(url).instance(INSTANCE)


@pytest.mark.parametrize("body", [b'[{"x": 1}]', b"[1]", b'[{"0020000E": {"Value": ["../x"]}}]'])
def test_a_strange_list_of_instances_is_refused(body):
    answer = sends(200, body, Content_Type="application/dicom+json")
    with serving(answer) as (url, _), pytest.raises(DicomWebError, match="is not DICOMweb's"):
        DicomWeb(url).instances("1.2.77")


def test_a_server_that_knows_no_offset_does_not_keep_us():
    body = b'[{"0020000E": {"Value": ["1.2"]}, "00080018": {"Value": ["1.3"]}}]'
    answer = sends(200, body, Content_Type="application/dicom+json")
    with serving(answer) as (url, asked):
        assert DicomWeb(url).instances("1.2.77") == ["studies/1.2.77/series/1.2/instances/1.3"]
    assert len(asked) == 2


def test_a_study_that_is_no_uid_is_refused():
    for study in ("", "1.2/series", "x", "1" * 65, "1..2"):
        with pytest.raises(DataError, match="Study Instance UID"):
            DicomWeb("http://127.0.0.1:1").instances(study)


def test_a_busy_server_is_asked_again():
    with serving(sends(503)) as (url, asked), pytest.raises(DicomWebError):
        DicomWeb(url).header(INSTANCE, ["Rows"])
    assert len(asked) == 3


def test_a_value_that_breaks_the_standard_counts_as_absent():
    body = (
        b'[{"00280010": {"vr": "US", "Value": ["many"]}, "00280011": {"vr": "US", "Value": [5]}}]'
    )
    answer = sends(200, body, Content_Type="application/dicom+json")
    with serving(answer) as (url, _):
        header = DicomWeb(url).header(INSTANCE, ["Rows", "Columns"])
    assert (header.get("Rows"), header.Columns) == (None, 5)


def test_an_instance_that_was_not_taken_is_an_error():
    answer = Dataset()
    failed = Dataset()
    failed.ReferencedSOPInstanceUID, failed.FailureReason = "1.2.3.4", 0x0110
    answer.FailedSOPSequence = [failed]
    sent = Dataset()
    sent.StudyInstanceUID = sent.SeriesInstanceUID = sent.SOPInstanceUID = "1.2.3.4"
    sent.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.22"
    sent.ensure_file_meta()
    sent.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    for status in (200, 202):
        respond = sends(status, answer.to_json().encode(), Content_Type="application/dicom+json")
        with serving(respond) as (url, _), pytest.raises(DicomWebError, match="did not store"):
            DicomWeb(url).store(sent)
    with serving(sends(409)) as (url, _), pytest.raises(DicomWebError, match="status 409"):
        DicomWeb(url).store(sent)


def test_unencrypted_lines_are_warned_of(caplog):
    caplog.set_level(logging.WARNING)
    DicomWeb("http://127.0.0.1:8042/dicom-web")
    DicomWeb("http://localhost:8042/dicom-web")
    DicomWeb("https://pacs.example/dicom-web")
    assert caplog.text == ""
    DicomWeb("http://pacs.example/dicom-web")
    assert "unencrypted" in caplog.text


def test_credentials_do_not_show():
    assert "secret" not in repr(DicomWeb("https://pacs.example", credentials="me:secret"))
