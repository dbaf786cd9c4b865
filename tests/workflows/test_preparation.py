import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medshadow.data.cases import CaseTable
from medshadow.workflows import OutputFolder, preparation, prepare_cases
from medshadow.workflows.preparation import data_digest

pytestmark = pytest.mark.slow

HALVES = {"training": 0.5, "test": 0.5}


def scene(seed, cut):
    coarse = np.random.default_rng(seed).integers(0, 255, (40, 40, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((200, 200), Image.Resampling.BICUBIC)
    return image.crop((cut, cut, 180 + cut, 180 + cut))


@pytest.fixture
def cases(tmp_path):
    """Six patients; the first and the last are one, photographed twice."""
    folder = tmp_path / "images"
    folder.mkdir()
    for patient in range(6):
        scene(patient % 5, cut=patient).save(folder / f"{patient}.png")
    frame = pd.DataFrame(
        {
            "case_id": [f"case{i}" for i in range(6)],
            "image": [str(folder / f"{i}.png") for i in range(6)],
            "group": [f"patient{i}" for i in range(6)],
            "label": "N",
        }
    )
    return CaseTable(frame)


@pytest.fixture
def audits(monkeypatch):
    """How many audits were made."""
    made = []
    audit = preparation.audit

    def counted(*args, **options):
        made.append(options)
        return audit(*args, **options)

    monkeypatch.setattr(preparation, "audit", counted)
    return made


def prepared(cases, folder, **options):
    return prepare_cases(cases, OutputFolder(folder, **options), HALVES, progress=False)


def test_the_same_patient_under_two_ids_stays_in_one_section(cases, tmp_path):
    for seed in range(5):
        output = OutputFolder(tmp_path / str(seed))
        table = prepare_cases(cases, output, HALVES, seed, progress=False)
        sections = table.frame.set_index("case_id")["section"]
        assert sections["case0"] == sections["case5"]
    found = json.loads((tmp_path / "0" / "audit.json").read_text())
    assert found["same_groups"] == [["patient0", "patient5"]]


def test_the_search_can_be_left_out(cases, tmp_path):
    output = OutputFolder(tmp_path / "out")
    table = prepare_cases(cases, output, HALVES, progress=False, near_duplicates=False)
    assert table.frame["group"].nunique() == 6
    assert json.loads(output.audit.read_text())["near_duplicates"] is None


def test_a_resumed_run_does_not_search_again(cases, tmp_path, audits):
    first = prepared(cases, tmp_path / "out")
    again = prepared(cases, tmp_path / "out", resume=True)
    assert len(audits) == 1
    pd.testing.assert_frame_equal(first.frame, again.frame)


def test_changed_files_are_audited_anew(cases, tmp_path, audits):
    prepared(cases, tmp_path / "out")
    scene(77, cut=0).save(cases.frame["image"][3])
    prepared(cases, tmp_path / "out", resume=True)
    assert len(audits) == 2


def test_the_digest_of_the_data_covers_the_pixels_and_the_rows(cases, tmp_path, monkeypatch):
    output = OutputFolder(tmp_path / "out")
    table = prepare_cases(cases, output, HALVES, progress=False)
    digest = data_digest(table, output)
    assert digest == data_digest(table, OutputFolder(tmp_path / "never audited"))
    assert digest != data_digest(table.merge_groups([("patient1", "patient2")]), output)
    monkeypatch.setattr(preparation, "content_digest", pytest.fail)
    assert digest == data_digest(table, output)  # the audit's reading serves
    monkeypatch.undo()

    with Image.open(cases.frame["image"][2]) as image:
        image.putpixel((0, 0), (1, 2, 3))
        image.save(cases.frame["image"][2])
    changed = prepare_cases(cases, OutputFolder(tmp_path / "new"), HALVES, progress=False)
    assert changed.digest == table.digest
    assert data_digest(changed, OutputFolder(tmp_path / "new", resume=True)) != digest


def test_a_report_without_the_search_does_not_stand_for_one_with_it(cases, tmp_path, audits):
    output = OutputFolder(tmp_path / "out")
    prepare_cases(cases, output, HALVES, progress=False, near_duplicates=False)
    (tmp_path / "out" / "splits.csv").unlink()
    table = prepared(cases, tmp_path / "out", resume=True)
    assert [made["near"] for made in audits] == [False, True]
    assert table.frame["group"].nunique() == 5
