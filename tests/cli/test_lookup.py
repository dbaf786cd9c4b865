"""``medshadow lookup``: which eye an image shows."""

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

    calls = []

    class Answer:
        def to_dict(self):
            return {}

    class Lookup:
        def __init__(self, *_):
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

    monkeypatch.setattr(medshadow.data, "read_image", lambda path: None, raising=False)
    monkeypatch.setattr(medshadow.networks.Embedder, "load", lambda folder: None)
    monkeypatch.setattr(medshadow.retrieval, "CaseLookup", Lookup, raising=False)
    monkeypatch.setattr(medshadow.retrieval, "CaseStore", Store, raising=False)
    return calls


@pytest.mark.parametrize(
    ("words", "laterality"),
    [([], None), (["--laterality", "left"], "left"), (["--laterality", "right"], "right")],
)
def test_which_eye_reaches_the_lookup(asked, words, laterality):
    done = run(app, ["lookup", "eye.jpg", "--json", *words])
    assert done.exit_code == 0, done.output
    assert [options["laterality"] for options in asked] == [laterality]


def test_another_word_is_a_mistake(asked):
    done = run(app, ["lookup", "eye.jpg", "--laterality", "up"])
    assert done.exit_code == 2
    assert all(word in done.output for word in ("--laterality", "left", "right"))
    assert asked == []
