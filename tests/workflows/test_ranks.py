"""``medshadow train`` under torchrun: two processes train one model and write one run."""

import os
import subprocess
import sys
from pathlib import Path

import mlflow
import pytest

from medshadow.workflows import OutputFolder
from medshadow.workflows.demo import run_demo

pytestmark = pytest.mark.slow

PIPELINE = Path(__file__).parents[2] / "pipelines" / "dermatology.py"


def torchrun(*words, ranks=2):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", str(ranks)]  # fmt: skip
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "GLOO_SOCKET_IFNAME": "lo",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
    }
    return subprocess.run(
        [*launcher, *map(str, words)], env=environment, capture_output=True, text=True, timeout=600
    )


@pytest.fixture(scope="module")
def ranks_run(phantoms, tmp_path_factory):
    """(output folder, what the command said, its words) of a run of the whole way on two ranks."""
    out = tmp_path_factory.mktemp("ranks") / "out"
    settings = {
        "train_size": 64,
        "embedder#preprocess#size": 64,
        "max_epochs": 2,
        "batches_per_epoch": 3,
        "images_per_class": 4,
        "fractions": "{training: 0.6, validation: 0.1, test: 0.3}",
        "bootstrap": 0,
        "progress": "false",
    }
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words = [PIPELINE, "--data", phantoms, "--out", out, *sets]
    done = torchrun(*words)
    assert done.returncode == 0, done.stderr
    return out, done, words


def test_one_run_is_written_and_printed(ranks_run):
    out, done, _ = ranks_run
    promised = {"model", "splits.csv", "metrics.json", "figures", "cases.db", "audit.json"}
    assert promised <= {path.name for path in out.iterdir()}
    assert done.stdout.count("MLflow run") == 1
    assert done.stderr.count("encoding the training section") == 1
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.status == "FINISHED"
    assert run.data.params["ranks"] == "2"
    steps = [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_the_loss_is_that_of_the_joint_batch(ranks_run):
    out, *_ = ranks_run
    client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    found = client.get_metric_history(run.info.run_id, "train/triplets")[0].value
    # 28 images of 7 classes hold some 2,000 triplets, the 14 of one rank some 200.
    assert found > 1000


def test_it_is_never_overwritten_unasked(ranks_run):
    *_, words = ranks_run
    refused = torchrun(*words)
    assert refused.returncode != 0
    assert "pass --resume to go" in refused.stderr


def test_ranks_that_nobody_joins_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for run in (OutputFolder, run_demo):
        with pytest.raises(ValueError, match="torchrun started 2 ranks, but only `medshadow tr"):
            run(tmp_path / "out")
    assert not (tmp_path / "out").exists()
