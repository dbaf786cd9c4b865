"""Fixtures for every room: where the real data is, and one thread so that tests share a machine."""

import os
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


def _real_data(name: str) -> Path:
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("MEDSHADOW_DATA", default)) / name
    if not root.is_dir():
        pytest.skip(
            f"real data set {name} not found; set MEDSHADOW_DATA to the folder that holds it"
        )
    return root


@pytest.fixture(scope="session")
def ham10000_root() -> Path:
    """The folder of the real HAM10000."""
    return _real_data("ham10000")
