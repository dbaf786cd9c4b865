"""An archive of one's own as folders of classes, and as DICOM files."""

import logging

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import OphthalmicPhotography8BitImageStorage, generate_uid

from medshadow.data import archive_cases
from medshadow.data.archive_dicom import GROUPS, LABELS
from medshadow.errors import DataError


def test_class_folders(tmp_path, archive, caplog):
    for i, name in enumerate(
        ("melanoma/4711/1.png", "naevus/4711/2.png", "naevus/4712/a/1.JPG", "naevus/3.png")
    ):
        archive.draw(tmp_path / name, i)
    (tmp_path / "naevus" / "notes.txt").touch()
    with caplog.at_level(logging.WARNING):
        table = archive_cases(tmp_path, malignant={"melanoma"})
    frame = table.frame.set_index("case_id")
    expected = {
        "melanoma/4711/1.png": ("melanoma", "4711"),
        "naevus/4711/2.png": ("naevus", "4711"),
        "naevus/4712/a/1.JPG": ("naevus", "4712/a"),
        "naevus/3.png": ("naevus", "naevus/3.png"),
    }
    assert len(frame) == 4
    for case, (label, group) in expected.items():
        row = frame.loc[archive.key.hashed("case", case)]
        assert (row["label"], row["group"]) == (label, archive.key.hashed("group", group))
        assert row["image"] == str(tmp_path / case)
    assert "1 images have no group" in caplog.text
    archive.draw(tmp_path / "5.png")
    with pytest.raises(DataError, match=r"file '5\.png': lies in no class's folder"):
        archive_cases(tmp_path)


def test_folders_without_images(tmp_path, archive):
    with pytest.raises(DataError, match="no image in the folders below; expected a folder for"):
        archive_cases(tmp_path)
    with pytest.raises(DataError, match=r"no DICOM file there"):
        archive_cases(tmp_path, label=LABELS[0], group=GROUPS[0], classes={"a": "b"})


def test_dicom_files(tmp_path, archive):
    first = archive.write_dicom(tmp_path / "a" / "IM0001", 1, BodyPartExamined="SKIN")
    archive.write_dicom(
        tmp_path / "a" / "IM0002.dcm", 2, AdmittingDiagnosesDescription="melanocytic Naevus "
    )
    archive.write_dicom(tmp_path / "b" / "1", 3, PatientID="4712", PatientAge=None, PatientSex=None)
    (tmp_path / "README").write_text("no DICOM")
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "b" / "1").read_bytes())
    table = archive_cases(
        tmp_path, **archive.dicom, metadata=["BodyPartExamined"], malignant={"mel"}
    )
    frame = table.frame
    assert table.metadata_columns == ("age", "sex", "BodyPartExamined")
    assert frame["label"].tolist() == ["mel", "nv", "mel"]
    assert frame["case_id"][0] == archive.key.hashed("case", first.SOPInstanceUID)
    assert frame["group"].tolist() == [
        archive.key.hashed("group", g) for g in ("4711", "4711", "4712")
    ]
    np.testing.assert_array_equal(frame["age"], [64, 64, np.nan])
    assert frame["sex"].tolist() == ["female", "female", "unknown"]
    assert frame["BodyPartExamined"].tolist() == ["SKIN", "", ""]
    assert table.classes == ("mel", "nv")


def test_dicom_files_of_eyes_tell_the_side(tmp_path, archive):
    for side in ("L", "R"):
        archive.write_dicom(
            tmp_path / side, SOPClassUID=OphthalmicPhotography8BitImageStorage, Modality="OP",
            ImageLaterality=side, PatientAge="018M",
        )  # fmt: skip
    table = archive_cases(tmp_path, **archive.dicom)
    assert table.frame["eye"].tolist() == ["left", "right"]
    assert table.frame["age"].tolist() == [1.5, 1.5]


def test_dicom_attributes_of_several_values_and_of_codes(tmp_path, archive):
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "372244006", "SCT", "Melanoma"
    archive.write_dicom(
        tmp_path / "1",
        AdmittingDiagnosesDescription=["Melanoma", "Melanocytic naevus"],
        AdmittingDiagnosesCodeSequence=[code],
    )
    assert archive_cases(tmp_path, **archive.dicom).frame["labels"][0] == {"mel", "nv"}
    coded = {
        **archive.dicom,
        "label": "AdmittingDiagnosesCodeSequence",
        "classes": {372244006: "mel"},
    }
    assert archive_cases(tmp_path, **coded).frame["labels"][0] == {"mel"}


def test_attributes_that_are_on_no_list_are_refused(tmp_path, archive):
    archive.write_dicom(tmp_path / "1")
    for what, value in (("label", "PatientName"), ("group", "PatientBirthDate")):
        with pytest.raises(DataError, match=rf"{what}: found \['{value}'\]; expected some of"):
            archive_cases(tmp_path, **{**archive.dicom, what: value})
    with pytest.raises(DataError, match=r"metadata: found \['PatientName'\]; expected some of"):
        archive_cases(tmp_path, **archive.dicom, metadata=["PatientName"])
    with pytest.raises(DataError, match="classes: expected for DICOM files"):
        archive_cases(tmp_path, **{**archive.dicom, "classes": None})


def test_wrong_dicom_files_are_named_and_their_values_are_not(tmp_path, archive, caplog):
    archive.write_dicom(tmp_path / "1")
    archive.write_dicom(tmp_path / "2", AdmittingDiagnosesDescription="Ann Example")
    archive.write_dicom(tmp_path / "3", PatientID=None, AdmittingDiagnosesDescription=None)
    archive.write_dicom(
        tmp_path / "4", SOPInstanceUID=generate_uid(entropy_srcs=[str(tmp_path / "1")])
    )
    (tmp_path / "5").write_bytes((tmp_path / "1").read_bytes()[:380])
    with pytest.raises(DataError) as caught:
        archive_cases(tmp_path, **archive.dicom)
    text = str(caught.value)
    assert "4 of 5 rows are wrong" in text
    assert "file '2': label: found a value that is none of classes" in text
    assert "file '3': AdmittingDiagnosesDescription: missing or empty; PatientID: missing" in text
    assert "file '4': the case id of another file again" in text
    assert "file '5': " in text
    assert "Ann" not in text
    with caplog.at_level(logging.INFO):
        table = archive_cases(tmp_path, **archive.dicom, on_error="skip")
    assert len(table) == 1
    on_record = f"{caplog.text} {table.left_out}"
    for told in ("Ann", "4711", "file '", str(tmp_path)):
        assert told not in on_record


def marked(data):
    """Put a mark into text elements that could come near the table, and a birth date."""
    for keyword in (
        "PatientName", "PatientID", "OtherPatientNames", "PatientComments", "PatientAddress",
        "AccessionNumber", "InstitutionName", "ReferringPhysicianName", "StudyDescription",
        "SeriesDescription", "ImageComments", "StudyID", "BodyPartExamined", "StationName",
        "Laterality", "PatientMotherBirthName", "OperatorsName", "ProtocolName",
    ):  # fmt: skip
        setattr(data, keyword, "MARKED" if keyword != "PatientName" else "Marked^MARKED")
    data.PatientBirthDate = "19570401"
    return data


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_marked_values_stay_out_of_the_table(tmp_path, archive, caplog):
    data = marked(archive.write_dicom(tmp_path / "1"))
    data.save_as(tmp_path / "1", enforce_file_format=True)
    assert pydicom.dcmread(tmp_path / "1").PatientComments == "MARKED"
    with caplog.at_level(logging.DEBUG):
        table = archive_cases(
            tmp_path, **archive.dicom, metadata=["BodyPartExamined", "Laterality", "Modality"]
        )
    rows = table.frame.drop(columns="image").to_csv()
    assert "XC" in rows
    for told in ("MARKED", "Marked", "19570401"):
        assert told not in rows + caplog.text + repr(table.left_out)
