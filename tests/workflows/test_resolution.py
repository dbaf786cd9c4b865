"""What is recorded of the configuration that runs."""

import pytest
import yaml
from monai.bundle import ConfigParser

from medshadow.workflows.resolution import running_configuration


class Recorder:
    """Records the configuration that made it when it runs, as the pipeline does."""

    def __init__(self, **settings):
        self.settings = settings
        self.half = 0.5

    def run(self):
        return running_configuration()


CONFIG = """
data_dir: /home/someone/HAM10000
output_dir: runs/x
seed: 3
epochs: 4
steps: "$@epochs * 25"
fractions: {training: 0.75, test: 0.25}
nothing: null
words: ["a", "@seed", "$@steps + 1", {deep: "@fractions#test"}]
names: "$dict(mel='melanoma')"
copied: "@names"
accented: naïve
network: {_target_: torch.nn.Linear, in_features: "@epochs", out_features: 2}
weight: "$@network.weight"
features: "$@network.in_features"
checkpoints: "$@output_dir + '/checkpoints'"
again: "@checkpoints"
unused: "$1 / 0"
recorder:
  _target_: tests_resolution.Recorder
  root: "@data_dir"
  fractions: "@fractions"
  network: "@network"
  size: "@network#out_features"
  steps: "@steps"
  names: "@names"
  features: "@features"
  weight: "@weight"
  places: "@again"
  all: "@words"
half: "$@recorder.half"
record: "$@recorder.run()"
run: ["@record"]
"""


@pytest.fixture
def parser(tmp_path, monkeypatch):
    import sys
    import types

    module = types.ModuleType("tests_resolution")
    module.Recorder = Recorder
    monkeypatch.setitem(sys.modules, "tests_resolution", module)
    return ConfigParser(yaml.safe_load(CONFIG))


@pytest.fixture
def recorded(parser):
    return yaml.safe_load(parser.get_parsed_content("run")[0])


def test_references_and_expressions_of_plain_values_are_resolved(recorded):
    assert recorded["steps"] == 100
    assert recorded["words"] == ["a", 3, 101, {"deep": 0.25}]
    assert recorded["names"] == recorded["copied"] == {"mel": "melanoma"}
    assert recorded["features"] == 4
    assert recorded["accented"] == "naïve"
    assert recorded["nothing"] is None
    made = recorded["recorder"]
    assert made["fractions"] == {"training": 0.75, "test": 0.25}
    assert (made["size"], made["steps"], made["features"]) == (2, 100, 4)
    assert made["names"] == {"mel": "melanoma"}


def test_objects_keep_their_definitions(recorded):
    assert recorded["network"] == {
        "_target_": "torch.nn.Linear", "in_features": 4, "out_features": 2,
    }  # fmt: skip
    assert recorded["recorder"]["network"] == "@network"
    assert recorded["weight"] == "$@network.weight"
    assert recorded["recorder"]["weight"] == "@weight"
    assert recorded["run"] == ["@record"]


def test_what_was_not_evaluated_is_not_evaluated_for_the_record(recorded):
    assert recorded["unused"] == "$1 / 0"
    assert recorded["half"] == "$@recorder.half"


def test_places_and_what_is_made_of_them_are_not_recorded(recorded):
    assert recorded["data_dir"] == recorded["output_dir"] == "(not recorded)"
    assert recorded["recorder"]["root"] == "@data_dir"
    assert recorded["checkpoints"] == "$@output_dir + '/checkpoints'"
    assert recorded["again"] == "@checkpoints"
    assert "someone" not in str(recorded)
    assert "runs/x" not in str(recorded)


def test_the_record_runs_again_to_the_same_record(recorded, parser):
    parser.read_config(yaml.safe_load(yaml.safe_dump(recorded)))
    parser["data_dir"] = "elsewhere"
    assert yaml.safe_load(parser.get_parsed_content("run")[0]) == recorded


def test_without_a_configuration_there_is_no_record():
    assert Recorder().run() is None
