"""``medshadow lookup``: which eye, what prevalence, and what is noted of it."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from medshadow.cli import app

run = CliRunner().invoke


@pytest.fixture
def asked(monkeypatch):
    """What the lookup is asked for, in place of looking up."""
    import medshadow.data
    import medshadow.networks
    import medshadow.retrieval

    calls, recorded = [], []

    class Answer:
        def to_dict(self):
            return {}

        def shown(self):
            return [SimpleNamespace(case_id="near"), SimpleNamespace(case_id="far")]

    class Lookup:
        def __init__(self, *_, **__):
            pass

        def lookup(self, *_, **options):
            calls.append(options)
            return Answer()

    class Store:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def query_digest(self, pixels):
            return "digest"

        def record_lookup(self, **entry):
            recorded.append(entry)

    monkeypatch.setattr(medshadow.data, "read_image", lambda path: None, raising=False)
    monkeypatch.setattr(medshadow.networks.Embedder, "load", lambda folder: None)
    monkeypatch.setattr(medshadow.retrieval, "CaseLookup", Lookup, raising=False)
    monkeypatch.setattr(medshadow.retrieval, "CaseStore", Store, raising=False)
    return SimpleNamespace(calls=calls, recorded=recorded)


@pytest.mark.parametrize(
    ("words", "laterality"),
    [([], None), (["--laterality", "left"], "left"), (["--laterality", "right"], "right")],
)
def test_which_eye_reaches_the_lookup(asked, words, laterality):
    done = run(app, ["lookup", "eye.jpg", "--json", *words])
    assert done.exit_code == 0, done.output
    assert [options["laterality"] for options in asked.calls] == [laterality]


def test_another_word_is_a_mistake(asked):
    done = run(app, ["lookup", "eye.jpg", "--laterality", "up"])
    assert done.exit_code == 2
    assert all(word in done.output for word in ("--laterality", "left", "right"))
    assert asked.calls == []


def test_the_prevalence_reaches_the_lookup(asked):
    done = run(app, ["lookup", "lesion.jpg", "--json", "--prevalence", "0.05"])
    assert done.exit_code == 0, done.output
    assert asked.calls[0]["prevalence"] == 0.05
    wrong = run(app, ["lookup", "lesion.jpg", "--prevalence", "5"])
    assert wrong.exit_code == 2
    assert "between 0 and 1" in wrong.output
    assert len(asked.calls) == 1


def test_what_was_shown_is_noted_in_the_trail(asked):
    assert run(app, ["lookup", "lesion.jpg", "--json"]).exit_code == 0
    assert asked.recorded == [
        {"by": "command line", "query_digest": "digest", "shown": ["near", "far"]}
    ]
