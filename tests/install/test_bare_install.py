"""``pip install .`` in an empty environment gives a working library and command."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]

LIBRARY_AT_WORK = """
import sys
import pandas as pd, torch
import medshadow
from medshadow.losses import ShadowLoss
from medshadow.workflows.configuration import find_config

assert "site-packages" in medshadow.__file__, medshadow.__file__
assert "site-packages" in str(find_config("dermatology"))
assert not {"monai", "mlflow", "albumentations"} & set(sys.modules)
ShadowLoss()(torch.randn(8, 4, requires_grad=True), torch.arange(8) % 2).backward()
for name in medshadow.__all__:
    getattr(medshadow, name)
"""


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory):
    """The Python of a new environment that holds MedShadow and what it depends on, nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*install, "--constraint", REPOSITORY / "constraints.txt", REPOSITORY], check=True
    )
    return python


def run(*words, cwd):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [str(w) for w in words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the environment's layout is another there")
def test_library_and_command_work_without_extras(bare_python, tmp_path, phantoms):
    done = run(bare_python, "-W", "ignore", "-c", LIBRARY_AT_WORK, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    shown = run(bare_python.parent / "medshadow", "audit", phantoms, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "sets of identical files" in shown.stdout
    absent = run(bare_python, "-c", "import pytest", cwd=tmp_path)
    assert absent.returncode != 0
