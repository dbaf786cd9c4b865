"""``medshadow index withdraw``, ``consent`` and ``trail``, on a store of six cases."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.data.site_key import SiteKey
from medshadow.retrieval import CaseStore

run = CliRunner().invoke
KEY = "k" * 32


@pytest.fixture
def cases(tmp_path):
    """Three patients of two images each, a to f; the last of them as an own archive names them."""
    key = SiteKey(KEY.encode())
    frame = pd.DataFrame(
        {
            "case_id": [*"abcd", key.hashed("case", "e.png"), key.hashed("case", "f.png")],
            "group": ["p1", "p1", "p2", "p2", *[key.hashed("group", "4711")] * 2],
            "label": ["mel", "nv"] * 3,
        }
    )
    path = tmp_path / "cases.db"
    with CaseStore.create(
        path, name="six", model_digest="m", embedding_dim=2, preprocess={"preset": "x", "size": 8}
    ) as store:
        store.add(frame, np.tile(np.float32([0.6, 0.8]), (6, 1)), model_digest="m")
    return path


def left(path):
    with CaseStore(path) as store:
        return set(store.frame()["case_id"])


def index(*words, **options):
    return run(app, ["index", *map(str, words)], **options)


def test_withdrawing_asks_first(cases):
    asked = index("withdraw", "a", "--cases", cases, input="n\n")
    assert asked.exit_code == 1
    assert "Erase 1 of 6 cases of six for good?" in asked.output
    assert "a" in left(cases)
    done = index("withdraw", "a", "--cases", cases, input="y\n")
    assert done.exit_code == 0, done.output
    assert "1 cases erased, 5 left" in done.output
    assert "a" not in left(cases)


def test_without_an_answer_nothing_is_erased(cases):
    assert index("withdraw", "-", "--cases", cases, input="a\n").exit_code == 1
    assert "a" in left(cases)


@pytest.mark.parametrize(
    ("words", "given", "gone"),
    [
        (["a", "c"], None, {"a", "c"}),
        (["-"], "a\n\n  d \n", {"a", "d"}),
        (["p2", "--groups"], None, {"c", "d"}),
    ],
)
def test_those_named_are_erased_and_no_others(cases, words, given, gone):
    before = left(cases)
    done = index("withdraw", *words, "--cases", cases, "--yes", "--json", input=given)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"withdrawn": len(gone), "cases": 6 - len(gone)}
    assert left(cases) == before - gone


@pytest.mark.parametrize(
    ("words", "count"), [(["e.png"], 1), (["e.png", "f.png"], 2), (["4711", "--groups"], 2)]
)
def test_an_own_archive_s_ids_are_hashed_with_the_site_s_key(cases, words, count, monkeypatch):
    words = ["withdraw", *words, "--own-ids", "--cases", cases, "--yes"]
    monkeypatch.delenv("MEDSHADOW_SITE_KEY", raising=False)
    assert "there is no key" in str(index(*words).exception)
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", KEY)
    assert index(*words).exit_code == 0
    assert len(left(cases)) == 6 - count


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["a", "z"], r"no cases ['z'] in the store"),
        (["p9", "--groups"], r"no lesions or patients ['p9']"),
        (["-"], "no ids given"),
    ],
)
def test_an_unknown_id_stops_all(cases, words, message):
    done = index("withdraw", *words, "--cases", cases, "--yes", input="")
    assert done.exit_code == 1
    assert message in str(done.exception)
    assert len(left(cases)) == 6


def test_reason_and_person_are_on_record(cases):
    words = ["withdraw", "a", "--cases", cases, "--yes", "--reason", "duplicate", "--by", "Ann"]
    assert index(*words).exit_code == 0
    with CaseStore(cases) as store:
        (tombstone,) = store.withdrawn().to_dict("records")
    assert (tombstone["reason"], tombstone["by"]) == ("duplicate", "Ann")


def test_consent_is_suspended_and_given_again(cases):
    assert index("consent", "suspended", "p1", "--groups", "--cases", cases).exit_code == 0
    with CaseStore(cases) as store:
        states = store.frame().set_index("case_id")["consent"]
    assert states[["a", "b", "c"]].tolist() == ["suspended", "suspended", "given"]
    done = index("consent", "given", "a", "--cases", cases, "--json")
    assert json.loads(done.stdout) == {"cases": 1, "consent": "given"}
    with CaseStore(cases) as store:
        assert store.frame().set_index("case_id")["consent"]["a"] == "given"
    assert index("consent", "revoked", "a", "--cases", cases).exit_code == 2


def test_the_trail_tells_who_did_what(cases):
    index("consent", "suspended", "a", "--cases", cases, "--by", "Ann")
    index("withdraw", "a", "--cases", cases, "--yes", "--by", "Ben")
    with CaseStore(cases) as store:
        digest = store.query_digest(np.zeros((2, 2, 3), np.uint8))
        store.record_lookup(by="Eve", query_digest=digest, shown=["b", "c", "d", "b"])
    entries = json.loads(index("trail", "--cases", cases, "--json").stdout)
    assert [entry["by"] for entry in entries[-3:]] == ["Ann", "Ben", "Eve"]
    assert entries[-1]["cases"] == ["b", "c", "d", "b"]
    assert entries[-2]["cases"] == ["withdrawn"]
    assert entries[-1]["query_digest"] == digest
    shown = index("trail", "--cases", cases, "--last", "1").output
    assert "Eve" in shown
    assert "Ben" not in shown
    assert "and 1 more" in " ".join(shown.split())
