"""``medshadow demo``: which configuration it runs, on which data, into which folder."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.workflows import demo
from medshadow.workflows.configuration import find_config

run = CliRunner().invoke


class Printed:
    def print(self) -> None:
        print("a summary")


@pytest.fixture
def calls(monkeypatch):
    """What the demo draws and runs, without doing either."""
    made = {}

    def write_phantoms(root, **options):
        made["drawn"] = options
        return root

    def run_config(config, **values):
        made["config"], made["values"] = config, values
        return Printed()

    monkeypatch.setattr(demo, "write_phantoms", write_phantoms)
    monkeypatch.setattr(demo, "run_config", run_config)
    return made


@pytest.mark.parametrize(
    ("words", "config", "drawn", "folder"),
    [
        ([], "dermatology", {"kind": "lesions", "lesions": 480}, "runs/demo"),
        (["--kind", "fundus"], "fundus", {"kind": "fundi", "patients": 400}, "runs/demo-fundus"),
        (["--kind", "fundus", "--out", "here"], "fundus", None, "here"),
    ],
)
def test_phantoms_of_the_kind_are_drawn_and_its_configuration_run(
    calls, words, config, drawn, folder
):
    shown = run(app, ["demo", *words])
    assert shown.exit_code == 0, shown.output
    assert "a summary" in shown.output
    assert calls["config"] == config
    if drawn:
        assert calls["drawn"] == drawn
    assert Path(calls["values"]["output_dir"]) == Path(folder)
    assert Path(calls["values"]["data_dir"]) == Path(folder) / "phantoms"
    assert calls["values"]["overwrite"] is True
    assert calls["values"]["max_epochs"] < 8


@pytest.mark.parametrize(
    ("kind", "folder"), [("dermatology", "runs/ham10000"), ("fundus", "runs/odir5k")]
)
def test_real_data_get_the_whole_configuration_and_are_gone_on_with(calls, kind, folder, tmp_path):
    shown = run(app, ["demo", "--kind", kind, "--data", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert "drawn" not in calls
    assert calls["config"] == kind
    assert calls["values"] == {
        "data_dir": str(tmp_path),
        "output_dir": str(Path(folder)),
        "resume": True,
    }


def test_unknown_kinds_are_named():
    assert run(app, ["demo", "--kind", "xray"]).exit_code == 2
    with pytest.raises(ValueError, match=r"\['dermatology', 'fundus'\].*'xray'"):
        demo.run_demo("out", kind="xray")


@pytest.mark.parametrize("kind", demo.DEMOS)
def test_every_kind_is_a_packaged_configuration_whose_keys_the_demo_sets(kind):
    import yaml

    config = yaml.safe_load(find_config(kind).read_text())
    for key in demo.DEMOS[kind].settings:
        at = config
        for part in key.split("#"):
            assert part in at, key
            at = at[part]
