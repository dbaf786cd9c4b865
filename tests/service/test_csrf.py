"""Forms must come from our own page, in the browser that it was sent to; the one to sign in too."""

import re

import pytest

FORM_TOKEN = re.compile(r'name="csrf_token" value="(\w+)"')


def form_of(client, path="/login"):
    return FORM_TOKEN.search(client.get(path).text)[1]


def sign_in(client, token):
    """A new session of a browser: the token of the forms on the page that it sees."""
    client.cookies.clear()
    data = {"csrf_token": form_of(client), "token": token}
    assert client.post("/login", data=data).status_code == 303
    return form_of(client, "/")


@pytest.mark.parametrize("path", ["/lookup", "/refine", "/explain", "/report"])
def test_the_page_s_forms_must_come_from_this_session(stranger, tokens, lesion, path):
    earlier = sign_in(stranger, tokens.reader)
    own = sign_in(stranger, tokens.reader)
    assert own != earlier
    store = stranger.app.state.engine.store
    files = {"image": ("a.png", lesion)}
    page = stranger.post("/lookup", data={"csrf_token": own}, files=files).text
    case = re.search(r'name="mark:(\w+)"', page)[1]
    image = re.search(r'name="token" value="([^"]+)"', page)[1]
    form = {"token": image, f"mark:{case}": "relevant", "case_id": case}

    entries = len(store.trail())
    for wrong in ({}, {"csrf_token": ""}, {"csrf_token": earlier}, {"csrf_token": own + "0"}):
        response = stranger.post(path, data={**form, **wrong})
        assert response.status_code == 403
        assert "not from this page" in response.text
        assert case not in response.text
    header = {"X-CSRF-Token": earlier}
    assert stranger.post(path, data={**form, "csrf_token": own}, headers=header).status_code == 403
    assert len(store.trail()) == entries
    response = stranger.post(path, data={**form, "csrf_token": own})
    # Without a DICOMweb server there is nowhere to store a report.
    assert response.status_code == (422 if path == "/report" else 200)
    assert path == "/report" or case in response.text


def test_nobody_is_signed_in_by_another_page(serve, tokens):
    victim, attacker = serve(), serve()
    attacker.app.state.forms = victim.app.state.forms
    theirs = form_of(attacker)
    sent = {"token": tokens.reader}
    # Neither without a visit, nor with the form of another browser, nor without a form.
    assert victim.post("/login", data={**sent, "csrf_token": theirs}).status_code == 403
    own = form_of(victim)
    assert own != theirs
    for wrong in ({}, {"csrf_token": ""}, {"csrf_token": theirs}, {"csrf_token": own + "0"}):
        response = victim.post("/login", data={**sent, **wrong})
        assert response.status_code == 403
        assert "medshadow" not in victim.cookies
    assert attacker.post("/login", data={**sent, "csrf_token": theirs}).status_code == 303
    assert victim.post("/login", data={**sent, "csrf_token": own}).status_code == 303


def test_strangers_without_a_cookie_have_no_token_in_common(stranger, tokens):
    nobodys = stranger.app.state.forms.token(None, "")
    for cookie in ("", "medshadow", "x" * 44, "x" * 42 + "ü"):
        stranger.cookies.clear()
        headers = {"Cookie": f"medshadow-visit={cookie}".encode()}
        data = {"csrf_token": nobodys, "token": tokens.reader}
        assert stranger.post("/login", data=data, headers=headers).status_code == 403


def test_the_form_stays_good_until_it_was_used(stranger, tokens):
    first = form_of(stranger)
    assert form_of(stranger) == first  # a second tab
    wrong = {"csrf_token": first, "token": "wrong-token-of-tests"}
    refused = stranger.post("/login", data=wrong, headers={"Accept": "text/html"})
    assert refused.status_code == 401
    assert FORM_TOKEN.search(refused.text)[1] == first
    data = {"csrf_token": first, "token": tokens.reader}
    assert stranger.post("/login", data=data).status_code == 303
    assert "medshadow-visit" not in stranger.cookies


def test_a_form_of_an_earlier_process_is_answered_with_a_new_one(serve, tokens):
    before, after = serve(), serve()
    old = form_of(before)
    after.cookies.update(before.cookies)
    data = {"csrf_token": old, "token": tokens.reader}
    refused = after.post("/login", data=data, headers={"Accept": "text/html"})
    assert refused.status_code == 403
    assert "load the page again" in refused.text
    new = FORM_TOKEN.search(refused.text)[1]
    assert after.post("/login", data={**data, "csrf_token": new}).status_code == 303
