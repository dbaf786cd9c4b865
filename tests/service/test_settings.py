"""What a service must be told before it starts."""

from dataclasses import replace

import pytest

from medshadow.service import ServiceSettings, read_token

LONG = "0123456789abcdef"
BASE = {"cases": "cases.db", "model": "model"}


@pytest.mark.parametrize(
    "given",
    [
        {"reader_token": LONG},
        {"curator_token": LONG},
        {"reader_token": LONG, "host": "0.0.0.0"},
        {"insecure_local": True},
        {"insecure_local": True, "host": "::1"},
        {"insecure_local": True, "host": "localhost"},
        {"identity_header": "X-User", "trusted_proxies": ("10.0.0.0/8",), "host": "0.0.0.0"},
    ],
)
def test_whoever_can_be_told_apart_may_start(given):
    ServiceSettings(**BASE, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "nobody may look"),
        ({"host": "0.0.0.0"}, "nobody may look"),
        ({"insecure_local": True, "host": "0.0.0.0"}, "loopback"),
        ({"insecure_local": True, "host": "192.168.0.7"}, "loopback"),
        ({"insecure_local": True, "host": "clinic.example"}, "loopback"),
        ({"reader_token": LONG[:-1]}, "15 characters"),
        ({"curator_token": ""}, "0 characters"),
        ({"reader_token": LONG, "curator_token": LONG}, "are the same"),
        ({"identity_header": "X-User"}, "go together"),
        ({"trusted_proxies": ("10.0.0.1",), "reader_token": LONG}, "go together"),
        ({"identity_header": "X-User", "trusted_proxies": ("proxy",)}, "proxy"),
    ],
)
def test_all_others_are_refused(given, words):
    with pytest.raises(ValueError, match=words):
        ServiceSettings(**BASE, **given)


def test_tokens_are_not_shown():
    settings = ServiceSettings(**BASE, reader_token=LONG, curator_token=LONG + "x")
    assert LONG not in repr(settings)
    assert LONG not in repr(replace(settings, port=1))


def test_a_token_comes_from_a_file_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDSHADOW_TOKEN", f"{LONG}-environment")
    (tmp_path / "token").write_text(f"  {LONG}-file\n")
    assert read_token(tmp_path / "token", "MEDSHADOW_TOKEN") == f"{LONG}-file"
    assert read_token(None, "MEDSHADOW_TOKEN") == f"{LONG}-environment"
    monkeypatch.delenv("MEDSHADOW_TOKEN")
    assert read_token(None, "MEDSHADOW_TOKEN") is None


@pytest.mark.parametrize("content", ["", " \n", "two words"])
def test_what_holds_no_one_token_is_refused(tmp_path, content):
    (tmp_path / "token").write_text(content)
    with pytest.raises(ValueError, match="expected one token"):
        read_token(tmp_path / "token", "MEDSHADOW_TOKEN")
