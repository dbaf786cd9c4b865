"""``medshadow demo``: which configuration it runs, on which data, into which folder."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.cli.demo import new_image
from medshadow.workflows import OutputFolder, demo
from medshadow.workflows.configuration import find_config

run = CliRunner().invoke


class Printed:
    """What a run leaves in its folder as far as the demo goes, and what it prints."""

    def __init__(self, output_dir: str) -> None:
        self.output = OutputFolder(output_dir)
        rows = ["case_id,group,label,section", "9,1,mel,test", "7,2,mel,test", "1,3,nv,training"]
        self.output.splits.write_text("\n".join(rows) + "\n")

    def print(self) -> None:
        print("a summary")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """What the demo draws and runs, without doing either."""
    made = {}

    def write_phantoms(root, **options):
        made["drawn"] = options
        (root / "part_1").mkdir(parents=True)
        (root / "part_1" / "7.jpg").touch()
        return root

    def run_config(config, **values):
        made["config"], made["values"] = config, values
        return Printed(values["output_dir"])

    monkeypatch.chdir(tmp_path)
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
    image = str(Path(folder, "phantoms", "part_1", "7.jpg"))
    assert f"drop {image} on the page" in shown.output.replace("\n", "")
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


def test_the_image_to_try_is_one_that_the_index_does_not_hold(tmp_path):
    splits = tmp_path / "splits.csv"
    rows = ["case_id,group,label,section", "b_left,1,D,test", "a_left,2,N,training"]
    splits.write_text("\n".join([*rows, "c_left,3,N,test"]) + "\n")
    (tmp_path / "images").mkdir()
    assert new_image(splits, tmp_path) is None
    for name in ("a_left.jpg", "c_left.jpg", "b_left.png", "b_left_mask.png"):
        (tmp_path / "images" / name).touch()
    assert new_image(splits, tmp_path) == tmp_path / "images" / "b_left.png"


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


@pytest.mark.slow
def test_a_smaller_demo_learns_what_the_frozen_backbone_does_not_know(monkeypatch, tmp_path):
    """The real thing, on a third of its lesions and a quarter of its steps."""
    whole = demo.DEMOS["dermatology"]
    smaller = {
        **whole.settings,
        "embedder#preprocess#size": 96,
        "max_epochs": 2,
        "batches_per_epoch": 15,
        "images_per_class": 6,
        "bootstrap": 0,
        "progress": False,
    }
    drawn = {**whole.phantoms, "lesions": 160, "progress": False}
    monkeypatch.setitem(demo.DEMOS, "dermatology", demo.Demo("ham10000", drawn, smaller))
    found = demo.run_demo(tmp_path).metrics
    assert found["test/map_at_r"] > 2 * found["frozen/map_at_r"]
    assert found["test/recall_at_1"] > found["frozen/recall_at_1"] + 0.1
    assert found["test/recall_at_1"] > found["majority/recall_at_1"] + 0.1
