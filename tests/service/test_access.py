"""Who gets in, as what, and how those who try are slowed down."""

import hmac

import pytest

from medshadow.service.access import Person, Sessions
from medshadow.service.settings import Limits

PROXY = {"identity_header": "X-User", "trusted_proxies": ("127.0.0.1",)}


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


@pytest.mark.parametrize("path", ["/api/archive", "/api/cases", "/api/openapi.json", "/api/none"])
def test_strangers_get_nothing(stranger, path):
    response = stranger.get(path)
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.headers["content-type"] == "application/problem+json"


def test_an_unknown_token_is_refused_wherever_it_stands(stranger, tokens):
    for header in (bearer(tokens.reader + "x"), bearer(""), {"Authorization": tokens.reader}):
        assert stranger.get("/api/archive", headers=header).status_code == 401
    assert stranger.get(f"/api/archive?token={tokens.reader}").status_code == 401
    assert stranger.get("/api/archive", headers=bearer(tokens.reader)).status_code == 200


def test_tokens_are_compared_in_constant_time(stranger, tokens, monkeypatch):
    compared = []
    real = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or real(a, b))
    for token in (tokens.reader, tokens.curator, "x"):
        compared.clear()
        stranger.get("/api/archive", headers=bearer(token))
        # Digests of one length, and every token each time, found or not.
        assert [(len(a), len(b)) for a, b in compared] == [(32, 32), (32, 32)]


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/cases/withdraw"), ("POST", "/api/cases/consent"), ("GET", "/api/trail")],
)
def test_readers_are_no_curators(serve, tokens, method, path):
    client = serve()
    body = None if method == "GET" else {"case_ids": ["case01"], "consent": "given"}
    response = client.request(method, path, json=body, headers=bearer(tokens.reader))
    assert response.status_code == 403
    response = client.request(method, path, json=body, headers=bearer(tokens.curator))
    assert response.status_code != 403


def test_wrong_tokens_are_slowed_down_by_address(serve, tokens, log_in):
    client = serve(limits=Limits(failed_logins_per_minute=3))
    statuses = [client.get("/api/archive", headers=bearer("wrong")).status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    blocked = client.get("/api/archive", headers=bearer(tokens.reader))
    assert blocked.status_code == 429
    assert 0 < int(blocked.headers["retry-after"]) <= 20
    assert log_in(client, tokens.reader).status_code == 429


def test_a_browser_session(stranger, tokens, log_in):
    assert log_in(stranger, "wrong-token-of-tests").status_code == 401
    response = log_in(stranger, tokens.reader)
    assert (response.status_code, response.headers["location"]) == (303, "/")
    cookie = response.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()
    assert tokens.reader not in cookie
    assert stranger.get("/api/archive").status_code == 200
    assert stranger.get("/api/trail").status_code == 403
    assert stranger.post("/logout").status_code == 403  # no CSRF token
    person = stranger.app.state.access.sessions
    name = stranger.cookies["medshadow"]
    form = stranger.app.state.forms.token(Person("reader", "reader", name))
    assert stranger.post("/logout", data={"csrf_token": form + "0"}).status_code == 403
    assert stranger.post("/logout", headers={"X-CSRF-Token": form}).status_code == 303
    assert person.role(name) is None
    stranger.cookies.set("medshadow", name)
    assert stranger.get("/api/archive").status_code == 401


def test_cookies_are_secure_unless_the_service_is_local(serve, tokens, log_in):
    client = serve(host="0.0.0.0", base_url="https://clinic.example")
    visit = client.get("/login").headers["set-cookie"]
    response = log_in(client, tokens.reader)
    cookie, left = response.headers.get_list("set-cookie")
    assert visit.startswith("__Host-medshadow-visit=")
    assert left.startswith('__Host-medshadow-visit="";')
    assert cookie.startswith("__Host-medshadow=")
    for one in (visit, cookie, left):
        assert "; Secure" in one
        assert "Path=/" in one
        assert "HttpOnly" in one
        assert "Domain" not in one
    assert response.headers["strict-transport-security"]
    assert client.get("/api/archive").status_code == 200


def test_a_session_ends_after_eight_hours():
    now = [0.0]
    sessions = Sessions(clock=lambda: now[0])
    name = sessions.begin("reader")
    now[0] = 8 * 3600 - 1
    assert sessions.role(name) == "reader"
    now[0] += 1
    assert sessions.role(name) is None


def test_a_trusted_proxy_names_the_person(serve, tokens, caplog):
    client = serve(**PROXY)
    assert client.get("/api/archive").status_code == 401
    with caplog.at_level("INFO", "medshadow.service"):
        assert client.get("/api/archive", headers={"X-User": "dr.who"}).status_code == 200
    assert caplog.messages[-1].endswith("ms dr.who")
    assert client.get("/api/trail", headers={"X-User": "dr.who"}).status_code == 403
    both = {"X-User": "dr.who", **bearer(tokens.curator)}
    assert client.get("/api/trail", headers=both).status_code == 200


@pytest.mark.parametrize("name", ["", "a" * 129, "two\tnames", "<b>"])
def test_an_identity_header_that_holds_no_name_is_refused(serve, name):
    assert serve(**PROXY).get("/api/archive", headers={"X-User": name}).status_code == 401


def test_two_identities_are_refused(serve):
    twice = [("X-User", "dr.who"), ("x-user", "dr.no")]
    assert serve(**PROXY).get("/api/archive", headers=twice).status_code == 401


def test_the_identity_header_of_anybody_else_is_not_believed(serve):
    client = serve(identity_header="X-User", trusted_proxies=("10.0.0.1",))
    assert client.get("/api/archive", headers={"X-User": "dr.who"}).status_code == 401


def test_behind_a_proxy_addresses_are_told_apart(serve):
    client = serve(**PROXY, limits=Limits(failed_logins_per_minute=1))

    def attempt(forwarded):
        headers = {**bearer("wrong"), "X-Forwarded-For": forwarded}
        return client.get("/api/archive", headers=headers).status_code

    assert [attempt("192.0.2.1"), attempt("192.0.2.1")] == [401, 429]
    assert attempt("192.0.2.2") == 401
    # What the client itself put in front does not make it another one.
    assert attempt("198.51.100.9, 192.0.2.1") == 429
    own, proxys = ("X-Forwarded-For", "198.51.100.9"), ("X-Forwarded-For", "192.0.2.1")
    twice = [*bearer("wrong").items(), own, proxys]
    assert client.get("/api/archive", headers=twice).status_code == 429


def test_an_open_local_service_answers_to_its_own_name_alone(serve):
    client = serve(reader_token=None, curator_token=None, insecure_local=True)
    assert client.get("/api/archive").status_code == 200
    assert client.get("/api/trail").status_code == 403
    for host in ("localhost:8000", "127.0.0.1", "[::1]:80"):
        assert client.get("/api/archive", headers={"Host": host}).status_code == 200
    for host in ("attacker.example", "127.0.0.1.attacker.example", "localhost.example:8000"):
        assert client.get("/api/archive", headers={"Host": host}).status_code == 421


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Sec-Fetch-Site": "same-origin"}, 401),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1"}, 401),
        ({"Origin": "http://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:81"}, 403),
    ],
)
def test_other_sites_post_nothing(stranger, log_in, headers, status):
    assert log_in(stranger, "wrong-token-of-tests", headers=headers).status_code == status


def test_a_password_that_a_browser_sends_by_itself_is_no_token(serve, lesion):
    client = serve(**PROXY)
    headers = {"X-User": "dr.who", "Authorization": "Basic dXNlcjpwYXNz"}
    files = {"image": ("a.png", lesion)}
    for site, status in (("http://attacker.example", 403), ("http://127.0.0.1", 200)):
        from_site = {**headers, "Origin": site}
        assert client.post("/api/lookup", files=files, headers=from_site).status_code == status


def test_no_other_site_may_read(reader):
    response = reader.get("/api/archive", headers={"Origin": "http://attacker.example"})
    assert not [name for name in response.headers if name.startswith("access-control")]
    preflight = reader.options("/api/archive", headers={"Origin": "http://attacker.example"})
    assert preflight.status_code == 405
