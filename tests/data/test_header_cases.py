"""Case tables of DICOM headers in memory: as of the same files."""

import pytest
from pydicom.dataset import Dataset

from medshadow.data import archive_cases
from medshadow.data.archive import header_cases
from medshadow.data.archive_dicom import header_elements
from medshadow.errors import DataError

LABEL = "StudyDescription"
CLASSES = {"mole": "nv", "melanoma": "mel"}


@pytest.fixture(autouse=True)
def _site_key(monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "k" * 40)


def header(n, **attributes):
    made = Dataset()
    made.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.5.1"
    made.SOPInstanceUID = f"1.2.3.{n}"
    made.Modality, made.PatientID, made.PatientAge, made.PatientSex = "OP", "4711", "064Y", "F"
    made.ImageLaterality, made.StudyDescription = "L", "Mole"
    made.SeriesNumber, made.InstanceNumber = 2, n
    for keyword, value in attributes.items():
        setattr(made, keyword, value)
    return made


def of(*headers, **changes):
    named = [(f"instances/{at}", made) for at, made in enumerate(headers)]
    return header_cases(named, **{"label": LABEL, "classes": CLASSES, **changes})


def test_headers_give_the_cases_that_their_files_give(tmp_path):
    headers = [header(1), header(2, StudyDescription="MELANOMA", PatientID="0815")]
    for made in headers:
        made.ensure_file_meta()
        made.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        made.save_as(tmp_path / f"{made.InstanceNumber}.dcm", enforce_file_format=True)
    files = archive_cases(tmp_path, label=LABEL, group="PatientID", classes=CLASSES)
    table = of(*headers)
    columns = ["case_id", "group", "label", "labels", "age", "sex", "eye"]
    assert table.frame[columns].equals(files.frame[columns])
    assert table.frame["image"].tolist() == ["instances/0", "instances/1"]
    assert table.classes == ("nv", "mel")


def test_wrong_headers_are_named_by_numbers_alone(caplog):
    wrong = header(7, StudyDescription="Ann Example")
    with pytest.raises(DataError, match="series 2, image 7: label: found a value") as caught:
        of(header(1), wrong)
    table = of(header(1), wrong, on_error="skip")
    (gone,) = table.left_out
    assert (len(table), len(gone.case_id)) == (1, 24)
    assert "Example" not in f"{caught.value}{gone}{caplog.text}"


def test_numbers_that_are_none_are_not_repeated():
    strange = header(1, StudyDescription="")
    del strange.SeriesNumber
    with pytest.raises(DataError, match=r"series \?, image 1: StudyDescription: missing"):
        of(strange)


def test_only_listed_attributes_are_asked_for():
    asked = header_elements(LABEL, "PatientID")
    assert {"SOPInstanceUID", LABEL, "PatientID", "Rows", "PatientAge"} <= set(asked)
    assert not {"PatientName", "PatientBirthDate", "AccessionNumber"} & set(asked)


@pytest.mark.parametrize(
    "changes", [{"label": "PatientName"}, {"group": "PatientName"}, {"metadata": ["PatientName"]}]
)
def test_attributes_that_are_not_listed_are_refused(changes):
    with pytest.raises(DataError, match="PatientName"):
        of(header(1), **changes)
