"""The printed table has the rows that fit the table's kind."""

import io
import shlex

import pytest
from rich.console import Console

from medshadow.workflows import OutputFolder
from medshadow.workflows.summary import HEADLINES, HEADLINES_OF_LABEL_SETS, Summary


def printed(metrics):
    console = Console(width=140, file=io.StringIO())
    console.print(Summary(None, metrics, None, "sqlite://", "run").metrics_table())
    return console.file.getvalue()


def everything(names):
    metrics = {f"{who}/{name}": 0.25 for who in ("majority", "frozen", "test") for name in names}
    metrics |= {f"test/{name}_low": 0.125 for name in names}
    return metrics | {f"test/{name}_high": 0.375 for name in names}


@pytest.mark.parametrize(
    ("shown", "own"),
    [
        (HEADLINES, "own lesion excluded"),
        (HEADLINES_OF_LABEL_SETS, "own patient excluded"),
    ],
)
def test_rows_are_those_of_the_kind_of_table(shown, own):
    text = printed(everything(shown))
    assert own in text
    for words in shown.values():
        row = next(line for line in text.splitlines() if f" {words} " in line)
        assert row.count("0.250") == 3
        assert "0.125 to 0.375" in row
    rows = len([line for line in text.splitlines() if "0.250" in line])
    assert rows == len(shown)


def test_what_a_baseline_does_not_have_stays_empty():
    names = ("recall_at_1", "exact_set_at_1", "map_at_r_macro")
    metrics = {f"test/{name}": 0.5 for name in names} | {"majority/recall_at_1": 0.25}
    text = printed(metrics)
    row = next(line for line in text.splitlines() if "mean over labels" in line)
    assert row.count("0.500") == 1
    assert "diseased" not in text


@pytest.mark.parametrize(
    ("called", "searched", "word"),
    [
        (".venv/bin/medshadow", None, ".venv/bin/medshadow"),
        ("/usr/bin/medshadow", "/usr/bin/medshadow", "medshadow"),
        ("pipelines/dermatology.py", None, "medshadow"),
    ],
)
def test_the_end_says_how_to_serve_the_index(tmp_path, monkeypatch, called, searched, word):
    monkeypatch.setattr("sys.argv", [called, "demo"])
    monkeypatch.setattr("shutil.which", lambda name: searched)
    out = tmp_path / "my runs"
    words = shlex.split(Summary(OutputFolder(out), {}, None, "sqlite://", "run").serve_command())
    assert words[:2] == [word, "serve"]
    assert words[2:] == [
        *("--cases", str(out / "cases.db"), "--model", str(out / "model"), "--insecure-local")
    ]
