"""Ctrl-C before the first epoch has ended, in a real process, and the way on from there."""

import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient

pytestmark = pytest.mark.slow

STEPS = 40
# A test run in the background passes a handler on that ignores the signal.
CODE = """
import signal; signal.signal(signal.SIGINT, signal.default_int_handler)
from medshadow.cli import main; main()
"""


def start(data, out, *words):
    settings = {
        "train_size": 32,
        "embedder#preprocess#size": 32,
        "images_per_class": 2,
        "fractions": "{training: 0.6, validation: 0.1, test: 0.3}",
        "max_epochs": 1,
        "batches_per_epoch": STEPS,
        "bootstrap": 0,
        "near_duplicates": False,
        "progress": False,
    }
    values = [word for item in settings.items() for word in ("--set", "{}={}".format(*item))]
    command = ["train", "--data", data, "--out", out, *values, *words]
    return subprocess.Popen(
        [sys.executable, "-c", CODE, *map(str, command)], stderr=subprocess.PIPE, text=True
    )


def losses(out):
    """The loss of each step; of a step that was done twice, the last."""
    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    run_id = (out / "mlflow_run_id.txt").read_text().strip()
    history = client.get_metric_history(run_id, "train/loss")
    return {m.step: m.value for m in sorted(history, key=lambda m: m.timestamp)}


def test_ctrl_c_in_the_first_epoch_leaves_a_checkpoint_that_resumes_to_the_same_losses(
    phantoms, tmp_path
):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    process = start(phantoms, whole)
    assert (process.communicate(timeout=400), process.returncode)[1] == 0

    process = start(phantoms, stopped)
    first = stopped / "checkpoints" / "checkpoint_epoch=0.pt"
    deadline = time.monotonic() + 300
    while not first.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130, errors
    assert "--resume" in errors
    assert "Traceback" not in errors
    assert [p.name for p in first.parent.iterdir()] == [first.name]
    assert len(losses(stopped)) < STEPS

    process = start(phantoms, stopped, "--resume")
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "resuming from checkpoint_epoch=0.pt" in errors
    expected = losses(whole)
    assert sorted(expected) == list(range(1, STEPS + 1))
    assert losses(stopped) == pytest.approx(expected, abs=1e-6)
