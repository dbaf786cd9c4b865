"""Requests made up from the OpenAPI document, before DICOMweb servers sound and unsound.

Whatever such a server does, the service answers with what it answers by right, or with a 502 or a
503 as problem details.
"""

import itertools
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from medshadow.service.dicomweb_line import CREDENTIALS
from medshadow.service.settings import Limits

EXAMPLES = 16
HOLDING = (
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
)
ABSENT = "studies/1.2.3/series/1.2.3.4/instances/1.2.3.4.5"
BROKEN = (
    "studies/1.2",
    "studies/../series/1/instances/1",
    "/",
    "\0",
    "http://[",
    ABSENT + "/frames/0",
)
RELATED = 'multipart/related; type="application/dicom"; boundary=b'
PART = b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n--b--\r\n"
ERRORS = [(code, "text/plain", b"Mustermann^Erika") for code in (400, 401, 403, 404, 409, 410, 418)]
ERRORS += [(code, "text/plain", b"Mustermann^Erika") for code in (204, 302, 500, 502, 503)]
GARBAGE = [
    (200, "text/html", b"<h1>It works</h1>"),
    (200, RELATED, b""),
    (200, RELATED, PART % b"no DICOM"),
    (200, RELATED, PART % (bytes(128) + b"DICM")),
    (200, RELATED, PART % (bytes(128) + b"DICM\x02\x00\x00\x00UL\x04\x00\xff\xff\xff\xff")),
    (200, "multipart/related", PART % b""),
    (200, "application/dicom+json", b"[{"),
    (200, "application/dicom+json", b"[[[]]]"),
    (200, "application/dicom+json; charset=zlib", b'{"0020000D": {"Value": [null]}}'),
    (200, "application/dicom", bytes(range(256))),
]


@contextmanager
def serving(answers, wait=0.0):
    """A server that gives these answers in turn, each after some seconds; its address."""
    turn = itertools.cycle(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, kind, body = next(turn)
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status == 302:
                self.send_header("Location", "http://127.0.0.1:1/elsewhere")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body:
                time.sleep(wait)
                self.wfile.write(bytes([byte]))

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.do_GET()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/dicom-web"
        server.shutdown()
        thread.join()


@pytest.fixture
def ask_all(serve, tokens):
    """Send what the document lets one send, with these references; returns the answers."""

    def ask(dicomweb, references, examples=EXAMPLES, seconds=600.0):
        limits = Limits(requests_per_minute=1_000_000, seconds=seconds)
        app = serve(token=tokens.reader, dicomweb=dicomweb, limits=limits).app
        headers = {"Authorization": f"Bearer {tokens.reader}"}
        document = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=headers)
        checks = [CHECKS.get_one(name) for name in HOLDING]
        answers = []
        for path in ("/api/lookup", "/api/report"):

            @settings(
                max_examples=examples,
                deadline=None,
                derandomize=True,
                database=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(
                case=document[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE),
                reference=st.sampled_from(references),
            )
            def attempt(case, reference):
                assume(isinstance(case.body, dict))
                body = {k: v for k, v in case.body.items() if k not in ("image", "where")}
                case.body = {**body, "reference": reference}
                answers.append(case.call_and_validate(headers=headers, checks=checks))

            attempt()
        return answers

    return ask


def statuses(answers):
    """The statuses that there were; problems are told as problems, and quote nobody."""
    for answer in answers:
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == ["application/problem+json"]
        assert "Mustermann" not in answer.text
    return {answer.status_code for answer in answers}


def test_with_a_sound_server(ask_all, orthanc, dicomweb, photograph, monkeypatch):
    monkeypatch.setenv(CREDENTIALS, ":".join(orthanc.auth))
    stored = [dicomweb.store(photograph(n)) for n in (21, 22)]
    answers = ask_all(orthanc.url, [*stored, ABSENT, *BROKEN], examples=40)
    assert {200, 201, 404, 422} <= statuses(answers) <= {200, 201, 404, 413, 422}


@pytest.mark.parametrize("answers", [ERRORS, GARBAGE], ids=["errors", "garbage"])
def test_with_an_unsound_server(ask_all, answers):
    with serving(answers) as url:
        found = statuses(ask_all(url, [ABSENT]))
    assert 502 in found
    assert found <= {404, 422, 502}


def test_with_a_server_that_takes_its_time(ask_all):
    with serving([(200, RELATED, PART % bytes(40))], wait=0.02) as url:
        started = time.monotonic()
        assert {503} <= statuses(ask_all(url, [ABSENT], examples=3, seconds=0.5)) <= {422, 503}
        assert time.monotonic() - started < 60
    with serving([(200, RELATED, PART % bytes(4))], wait=0.001) as url:
        assert {502} <= statuses(ask_all(url, [ABSENT], examples=3)) <= {422, 502}


def test_a_server_that_is_slow_keeps_nobody_from_uploading(serve, tokens, settings, lesion):
    limits = replace(settings.limits, seconds=10, queue=2)
    with serving([(200, RELATED, PART % bytes(400))], wait=0.02) as url:
        client = serve(token=tokens.reader, dicomweb=url, limits=limits)
        asked = {"reference": (None, ABSENT)}
        waiting = [
            threading.Thread(target=client.post, args=("/api/lookup",), kwargs={"files": asked})
            for _ in range(6)
        ]
        for thread in waiting:
            thread.start()
        until = time.monotonic() + 20
        while client.app.state.waiting.pending < 6 and time.monotonic() < until:
            time.sleep(0.01)
        refused = client.post("/api/lookup", files=asked)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        assert client.post("/api/lookup", files={"image": lesion}).status_code == 200
        for thread in waiting:
            thread.join()
