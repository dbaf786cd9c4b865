"""The document on archives of one's own, its configuration and its commands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.workflows.configuration import configs_folder

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "archive.md"


def documented(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def write_documented_files(archive, root, photographs):
    archive.write_table(root, archive.table[["file", "diagnosis", "patient", "age", "site"]])
    (root / "broken.csv").write_text(
        "file,diagnosis,patient\nimages/1.png,naevus,1\nimages/2.png,naevus,\n"
        "images/9.png,naevus,2\nimages/1.png,,3\n"
    )
    for i, name in enumerate(("melanoma/4711/1.png", "naevus/4711/2.png", "naevus/4712/1.png")):
        archive.draw(root / "sorted" / name, i)
    diagnoses = list(archive.diagnoses)
    for i in range(photographs):
        archive.write_dicom(
            root / "dicom" / f"IM{i:04d}", i, (48, 40), PatientID=f"MARKED{i // 2}",
            AdmittingDiagnosesDescription=diagnoses[i // 2 % 2], BodyPartExamined="SKIN",
        )  # fmt: skip


def test_the_document_runs(tmp_path, archive, monkeypatch, capsys):
    write_documented_files(archive, tmp_path, photographs=4)
    monkeypatch.chdir(tmp_path)
    names = {}
    for code in documented("python"):
        exec(code, names)
    printed = capsys.readouterr().out
    assert printed.startswith("4 ('mel', 'nv') ('age', 'site')\n")
    (message,) = [text for text in documented("text") if text.startswith("broken.csv")]
    assert printed.replace(f"{tmp_path}/", "").count(message) == 1
    assert printed.endswith("3 2\n4 ('mel', 'nv') ('age', 'sex', 'BodyPartExamined')\n")


@pytest.mark.slow
def test_the_documented_command_goes_the_whole_way(tmp_path, archive, monkeypatch, small):
    write_documented_files(archive, tmp_path, photographs=24)
    monkeypatch.chdir(tmp_path)
    (command,) = [code for code in documented("bash") if code.startswith("medshadow train")]
    sets = [f"--set={key}={yaml.safe_dump(value).strip()}" for key, value in small.items()]
    arguments = [*shlex.split(command)[1:], *sets]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    out = tmp_path / "runs" / "archive"
    assert (out / "model" / "model.json").is_file()
    assert (out / "cases.db").is_file()
    told = [b"MARKED", b"Example^Ann", b"19570401", b"IM0001"]
    written = [path for path in out.rglob("*") if path.is_file()]
    assert len(written) > 5
    for path in written:
        content = path.read_bytes()
        assert not [mark for mark in told if mark in content], path.name


def test_the_configuration_differs_from_dermatology_in_the_cases_alone():
    plain, own = (
        yaml.safe_load((configs_folder() / f"{name}.yaml").read_text())
        for name in ("dermatology", "archive")
    )
    arguments = set(own) - set(plain)
    assert arguments == set(own["table"]["cases"]) - {"_target_", "source", "on_error"}
    assert not set(plain) - set(own)
    del plain["pipeline"]["diagnosis_names"]
    for config in (plain, own):
        del config["table"]["cases"], config["data_dir"], config["output_dir"]
        del config["pipeline"]["experiment"], config["near_duplicates"]
    assert {key: value for key, value in own.items() if key not in arguments} == plain


def test_making_a_table_does_not_import_monai():
    code = "import sys; from medshadow.data import archive_cases; print('monai' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"
