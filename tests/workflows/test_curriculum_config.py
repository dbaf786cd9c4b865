"""The curriculum configuration on phantoms: its three stages, as MLflow shows them."""

import mlflow
import pytest
import yaml

from medshadow.evaluation import curves
from medshadow.workflows import run_config
from medshadow.workflows.configuration import configs_folder

pytestmark = pytest.mark.slow


def test_three_epochs_are_three_stages_in_the_curves(phantoms, small, tmp_path, monkeypatch):
    drawn = []

    def drawing(epochs, score):
        drawn.extend(epochs)
        return curves.curves_figure(epochs, score)

    monkeypatch.setattr("medshadow.workflows.evaluation.curves_figure", drawing)
    settings = {**small, "max_epochs": 3, "images_per_class": 2, "bootstrap": 0}
    summary = run_config(
        "dermatology_curriculum", data_dir=str(phantoms), output_dir=str(tmp_path), **settings
    )
    client = mlflow.MlflowClient(summary.tracking_uri)

    def curve(name):
        return [m.value for m in client.get_metric_history(summary.run_id, name)]

    classes = curve("curriculum/batch_size")[0] / 2
    assert curve("curriculum/stage") == [1, 2, 3]
    assert curve("curriculum/batch_size") == [2 * classes, 3 * classes, 4 * classes]
    assert curve("curriculum/margin") == [0.1] * 3
    assert len(curve("train/loss")) == 9
    assert len(curve("probe/hardest_loss")) == 3
    for name in ("spread", "spread_share", "effective_rank", "rank_share", "centroid_cosine",
                 "loss_ratio", "alarm", "rollbacks"):  # fmt: skip
        assert len(curve(f"collapse/{name}")) == 3, name
    assert (tmp_path / "model" / "model.json").is_file()
    assert [row["mining"] for row in drawn] == ["semihard", "hardest_negative", "batch_hard"]
    assert [row["curriculum/stage"] for row in drawn] == [1, 2, 3]
    assert (tmp_path / "figures" / "training.png").is_file()


def test_it_differs_from_the_plain_configuration_in_the_stages_alone():
    plain, staged = (
        yaml.safe_load((configs_folder() / f"{name}.yaml").read_text())
        for name in ("dermatology", "dermatology_curriculum")
    )
    assert not set(plain) - set(staged)
    different = {key for key in plain if plain[key] != staged[key]}
    assert different <= {"output_dir", "loss", "trainer", "pipeline"}
    assert staged["loss"] == {**plain["loss"], "margin": "@margin"}
    assert staged["margin"] == plain["loss"]["margin"]
    assert {**staged["trainer"], "parts": None} == {**plain["trainer"], "parts": None}
