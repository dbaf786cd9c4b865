"""Fixtures for every room: the real data, drawn data, and one small run of the whole way."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(autouse=True)
def _same_torch_randomness():
    torch.manual_seed(0)


def _need(found: bool, missing: str) -> None:
    if found:
        return
    if os.environ.get("MEDSHADOW_REQUIRE_INTEGRATIONS") == "1":
        pytest.fail(f"required here: {missing}")
    pytest.skip(missing)


def _real_data(name: str) -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDSHADOW_DATA", default)) / name
    _need(
        root.is_dir(),
        f"real data set {name} not found; set MEDSHADOW_DATA to the folder that holds it",
    )
    return root


@pytest.fixture(scope="session")
def ham10000_root() -> Path:
    """The folder of the real HAM10000."""
    return _real_data("ham10000")


@pytest.fixture(scope="session")
def odir5k_root() -> Path:
    """The folder of the real ODIR-5K."""
    return _real_data("odir5k")


@pytest.fixture(scope="session")
def integration() -> Callable[[bool, str], None]:
    """Skip a test whose server or program is missing; fail it where integrations are required."""
    return _need


SMALL = {
    "train_size": 64,
    "embedder#preprocess#size": 64,
    "max_epochs": 2,
    "batches_per_epoch": 3,
    "images_per_class": 3,
    "fractions": {"training": 0.6, "validation": 0.1, "test": 0.3},
    "bootstrap": 50,
    "progress": False,
}


@pytest.fixture
def small():
    """Settings of the shared run."""
    return dict(SMALL)


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory):
    """A small HAM10000 of drawn lesions."""
    from medshadow.data import write_phantoms

    return write_phantoms(tmp_path_factory.mktemp("phantoms"), lesions=80, progress=False)


@pytest.fixture(scope="session")
def finished_run(phantoms, tmp_path_factory):
    """(output folder, summary) of a small run of the whole way."""
    from medshadow.workflows import run_config

    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_config("dermatology", data_dir=str(phantoms), output_dir=str(out), **SMALL)
