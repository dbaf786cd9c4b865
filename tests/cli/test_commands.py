"""The command as its users meet it: real processes for exit codes, the app itself for the rest."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.cli.train import parse_setting

run = CliRunner().invoke
INDEX = (
    *("build", "add", "calibrate", "withdraw", "consent", "verify", "backup", "rebuild", "upgrade"),
    "trail",
)


def command(*words, **options):
    """Run the command in a process of its own."""
    code = "from medshadow.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize(
    "words",
    [
        *([], ["audit"], ["train"], ["evaluate"], ["lookup"], ["demo"], ["index"]),
        *(["index", part] for part in INDEX),
    ],
)
def test_help_says_what_it_does(words):
    shown = run(app, [*words, "--help"])
    assert shown.exit_code == 0
    assert "Usage" in shown.output
    if words and words != ["index"]:
        assert f"Example: medshadow {' '.join(words)}" in " ".join(shown.output.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["lookup", "nowhere.jpg"], 1, "nowhere.jpg"),
        (["audit", "nowhere"], 1, "nowhere"),
        (["train", "--data", "nowhere", "--out", "out"], 1, "nowhere"),
        (["train", "--data", "x", "--out", "out", "--set", "margin"], 2, "KEY=VALUE"),
        (["train", "--data", "x", "--out", "out", "--set", "no_such_key=1"], 1, "no_such_key"),
        (["train", "--data", "x", "--out", "out", "--config", "nope.yaml"], 1, "nope.yaml"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_mistakes_end_with_a_message_and_no_traceback(words, code, message, tmp_path):
    done = command(*words, cwd=tmp_path)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_are_read_as_yaml():
    assert parse_setting("fractions={training: 0.8, test: 0.2}")[1] == {
        "training": 0.8,
        "test": 0.2,
    }
    assert parse_setting("name=a=b") == ("name", "a=b")


@pytest.mark.slow
def test_audit_prints_a_table_and_json(phantoms):
    shown = run(app, ["audit", str(phantoms)])
    assert shown.exit_code == 0
    assert "sets of identical files" in shown.output
    found = json.loads(run(app, ["audit", str(phantoms), "--json"]).stdout)
    assert len(found["same_groups"]) == 1


@pytest.mark.slow
def test_index_built_by_hand_answers_lookups(finished_run, phantoms, tmp_path):
    out, _ = finished_run
    store = tmp_path / "cases.db"
    built = run(
        app,
        ["index", "build", "--data", str(phantoms), "--model", str(out / "model"), "--cases",
         str(store), "--splits", str(out / "splits.csv")],
    )  # fmt: skip
    assert built.exit_code == 0, built.output
    image = next(phantoms.glob("*/ISIC_PHANTOM00003.jpg"))
    words = ["lookup", str(image), "--cases", str(store), "--model", str(out / "model"), "-k", "5"]
    shown = run(app, [*words, "--where", "sex=female", "--sheet", str(tmp_path / "sheet.png")])
    assert shown.exit_code == 0, shown.output
    assert "Research use only" in shown.output
    assert "Nearest malignant case" in shown.output
    assert (tmp_path / "sheet.png").stat().st_size > 10_000

    answer = json.loads(run(app, [*words, "--json", "--where", "sex=female"]).stdout)
    assert len(answer["hits"]) == 5
    assert {hit["metadata"]["sex"] for hit in answer["hits"]} == {"female"}
    again = command(
        "index", "build", "--data", phantoms, "--model", out / "model", "--cases", store
    )
    assert again.returncode == 1
    assert "exists" in again.stderr


@pytest.mark.slow
def test_evaluate_repeats_the_figures_of_the_run(finished_run, phantoms, tmp_path):
    out, _ = finished_run
    words = ["evaluate", "--data", str(phantoms), "--model", str(out / "model")]
    words += ["--splits", str(out / "splits.csv"), "--figures", str(tmp_path / "figures"), "--json"]
    found = json.loads(run(app, words).stdout)
    stored = json.loads((out / "metrics.json").read_text())
    for name in ("test/recall_at_1", "frozen/recall_at_1", "majority/recall_at_1"):
        assert found[name] == pytest.approx(stored[name], abs=1e-5)
    assert (tmp_path / "figures" / "confusion.png").is_file()
