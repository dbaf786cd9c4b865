"""What the package promises as a whole: its imports, its rooms, the README's examples."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGE = REPOSITORY / "medshadow"

FLOORS = (
    {"errors", "losses", "evaluation"},
    {"data", "transforms"},
    {"networks"},
    {"training", "retrieval"},
    {"tracking"},
    {"workflows"},
    {"service"},
    {"cli"},
)
# Said in the design: data sets pull their transforms, transforms their readers.
SIDEWAYS = {("data", "transforms"), ("transforms", "data")}


def loaded_by(statement):
    code = f"import sys; {statement}; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


def test_import_loads_nothing_heavy():
    heavy = {
        "monai",
        "mlflow",
        "albumentations",
        "cv2",
        "sklearn",
        "pandas",
        "matplotlib",
        "ignite",
    }
    assert not heavy & loaded_by("import medshadow")


def test_losses_need_torch_alone():
    others = {
        "monai",
        "mlflow",
        "pandas",
        "sklearn",
        "scipy",
        "pytorch_metric_learning",
        "matplotlib",
    }
    assert not others & loaded_by("import medshadow.losses; medshadow.losses.ShadowLoss()")


def test_rooms_import_downwards_only():
    floor_of = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "lazy"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "medshadow."
            ):
                continue
            other = node.module.split(".")[1]
            allowed = other in (room, "errors", "lazy") or floor_of[other] < floor_of[room]
            assert allowed or (room, other) in SIDEWAYS, f"{path}: {node.module}"


def test_every_room_is_in_the_wheel():
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
    listed = set(settings["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(PACKAGE.parent) for p in PACKAGE.rglob("*.py")}
    assert listed == {".".join(folder.parts) for folder in folders} | {"medshadow.configs"}


def test_public_names_are_there():
    import medshadow

    for name in medshadow.__all__:
        assert getattr(medshadow, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        medshadow.nonsense  # noqa: B018
    assert callable(medshadow.audit)


def readme_examples():
    text = (REPOSITORY / "README.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)


def test_readme_shows_python():
    assert len(readme_examples()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("example", range(2))
def test_readme_examples_run(example, finished_run, phantoms, tmp_path, monkeypatch):
    shutil.copytree(finished_run[0], tmp_path / "runs" / "demo")
    shutil.copytree(phantoms, tmp_path / "runs" / "demo" / "phantoms")
    monkeypatch.chdir(tmp_path)
    exec(compile(readme_examples()[example], f"README example {example}", "exec"), {})
