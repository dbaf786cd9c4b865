"""Requests that no page and no program of good will sends: refused, and never a server error."""

import asyncio
import json
import time
from base64 import urlsafe_b64encode

import pytest

from medshadow.service import guard
from medshadow.service.settings import Limits

PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


def multipart(*fields, end=b"--b--\r\n"):
    return b"".join(PART % field for field in fields) + end


def refused(response, *statuses):
    assert response.status_code in statuses, response.text
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("charset", ["punycode", '"idna"', "unicode_escape", "zlib", "utf-16"])
def test_no_codec_but_utf_8_is_let_near_a_form(reader, charset):
    kind = f"multipart/form-data; boundary=b; Charset={charset}"
    # Megabytes of punycode would keep the service from everything else for minutes.
    slow = b"a" * 2**19 + b"-" + b"999a" * 2**16
    started = time.perf_counter()
    content = multipart((b"where", slow))
    refused(reader.post("/api/lookup", content=content, headers={"Content-Type": kind}), 415)
    assert time.perf_counter() - started < 5


def test_forms_in_utf_8_are_read(reader, lesion):
    file = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + lesion
    content = multipart((b"k", b"1"), end=file + b"\r\n--b--\r\n")
    for kind in (
        "multipart/form-data; boundary=b; charset=UTF-8",
        "Multipart/Form-Data;boundary=b",
    ):
        response = reader.post("/api/lookup", content=content, headers={"Content-Type": kind})
        assert response.status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        multipart(*[(b"f%d" % n, b"") for n in range(1001)]),
        multipart(*[(b'f%d"; filename="a' % n, b"") for n in range(1001)]),
        multipart((b"where", bytes(2**20 + 1))),
        multipart((b'image"; filename="' + b"a" * 8192, b"")),
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"A: b\r\n" * 5000,
        b"--c\r\n",
        b"",
    ],
    ids=["fields", "files", "field", "name", "no name", "headers", "boundary", "empty"],
)
def test_forms_of_too_much_or_too_little_are_refused(reader, content):
    kind = {"Content-Type": "multipart/form-data; boundary=b"}
    refused(reader.post("/api/lookup", content=content, headers=kind), 400, 422)


def test_a_page_s_form_has_no_more_fields_than_a_page(stranger, tokens, log_in):
    log_in(stranger, tokens.reader)
    for fields, status in ((401, 400), (400, 403)):
        content = multipart(*[(b"f%d" % n, b"") for n in range(fields)])
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        refused(stranger.post("/lookup", content=content, headers=kind), status)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"k": ' * 100_000,
        b'{"token": "a", "case_id": "b", "k": ' + b"9" * 10_000 + b"}",
        b'{"token": "\\ud800", "case_id": "b"}',
        b'{"token": "a", "case_id": NaN}',
        b"\xff\xfe{",
        json.dumps({"token": "a", "case_id": "b"}).encode("utf-32"),
        b"",
    ],
    ids=["list", "object", "number", "surrogate", "NaN", "bytes", "utf-32", "empty"],
)
def test_json_of_every_kind_is_no_server_error(reader, content):
    kind = {"Content-Type": "application/json"}
    refused(reader.post("/api/explain", content=content, headers=kind), 400, 404, 422)


@pytest.mark.parametrize("place", [2**63, 10**23, 2**63 - 1, 0])
def test_a_cursor_may_be_any_number(reader, place):
    cursor = urlsafe_b64encode(f"after {place}".encode()).decode().rstrip("=")
    assert len(cursor) <= 40
    response = reader.get("/api/cases", params={"cursor": cursor})
    assert response.status_code == (200 if place < 2**63 else 422)


@pytest.mark.parametrize("case", ["\0", "a\0b", "\x1b[2J", "é" * 200, "'; drop table cases"])
def test_case_ids_of_every_kind_are_only_not_found(curator, case):
    for path, more in (("withdraw", {}), ("consent", {"consent": "given"})):
        response = curator.post(f"/api/cases/{path}", json={"case_ids": [case], **more})
        refused(response, 404, 422)


@pytest.mark.parametrize(
    "where",
    ["age>=nan", "age>=1e999", "age>=" + "9" * 400, "sex=\0", "(" * 400, "age " * 100,
     "and=and and and=and", "sex=" + "\\" * 400, '"' * 401, "nothing=1", "label=\x1b"],
)  # fmt: skip
def test_filters_of_every_kind_are_answered_soon(reader, lesion, where):
    started = time.perf_counter()
    response = reader.post("/api/lookup", files={"image": lesion}, data={"where": where})
    assert response.status_code in (200, 422)
    assert time.perf_counter() - started < 5


def test_strangers_do_not_take_the_places_of_those_who_are_known(serve, tokens, monkeypatch):
    monkeypatch.setattr(guard, "_STRANGERS_REQUESTS", 3)
    app = serve(limits=Limits(seconds=20)).app
    middleware = guard.Guard(_until_the_body_is_there, app.state.access, app.state.settings)
    known = (b"authorization", f"Bearer {tokens.reader}".encode())
    statuses = asyncio.run(_at_one_time(middleware, app, [()] * 5 + [(known,)] * 5))
    assert sorted(statuses[:5]) == [200, 200, 200, 503, 503]
    assert statuses[5:] == [200] * 5


def test_strangers_have_less_time(serve, monkeypatch):
    monkeypatch.setattr(guard, "_STRANGERS_SECONDS", 0.1)
    app = serve(limits=Limits(seconds=60)).app
    middleware = guard.Guard(_until_the_body_is_there, app.state.access, app.state.settings)
    started = time.perf_counter()
    assert asyncio.run(_at_one_time(middleware, app, [()], arrives=30)) == [408]
    assert time.perf_counter() - started < 10


async def _until_the_body_is_there(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def _at_one_time(app, outer, headers, arrives=0.5):
    """The statuses of requests sent at one time, whose bodies arrive after some seconds."""

    async def ask(own):
        sent = []

        async def receive():
            await asyncio.sleep(arrives)
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/login", "raw_path": b"/login",
            "query_string": b"", "root_path": "", "scheme": "http", "http_version": "1.1",
            "headers": [(b"host", b"127.0.0.1"), *own], "client": ("127.0.0.1", 5000),
            "server": ("127.0.0.1", 8000), "app": outer,
        }  # fmt: skip
        await app(scope, receive, send)
        return sent[0]["status"]

    return await asyncio.gather(*map(ask, headers))
