"""Which attributes leave a DICOM file, and that nothing that names a patient does."""

import logging
import traceback
import warnings

import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary, keyword_for_tag
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medshadow.data.dicom import dicom_metadata
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

MARKS = ("ZZMARKEDNAME", "ZZ7130042", "19340217")
TEXT = "AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split()  # noqa: SIM905


def coded(value, scheme, meaning="ZZMARKEDNAME"):
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def test_what_the_standard_defines_may_pass(write_dicom, pixels):
    region = coded("73897004", "SCT")  # the dictionary's meaning, not the file's
    region.AnatomicRegionModifierSequence = Sequence([coded("24028007", "SCT")])
    path = write_dicom(
        pixels,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.77.1.7",
        Modality="DMS",
        PatientSex="F",
        PatientAge="047Y",
        ImageLaterality="R",
        BodyPartExamined="SKIN",
        PupilDilated="NO",
        AnatomicRegionSequence=Sequence([region]),
        AcquisitionDeviceTypeCodeSequence=Sequence([coded("409898007", "SCT")]),
    )
    assert dicom_metadata(path) == {
        "SOPClass": "Dermoscopic Photography Image Storage",
        "Modality": "DMS",
        "PatientSex": "F",
        "PatientAge": "047Y",
        "ImageLaterality": "R",
        "BodyPartExamined": "SKIN",
        "PupilDilated": "NO",
        "AnatomicRegion": "Skin structure of face (body structure)",
        "AnatomicRegionModifier": "Right",
        "AcquisitionDevice": "Fundus Camera",
        "PhotometricInterpretation": "RGB",
        "Rows": "6",
        "Columns": "10",
    }


@pytest.mark.parametrize(
    ("age", "expected"),
    [("089Y", "089Y"), ("090Y", "090Y"), ("107Y", "090Y"), ("012W", "012W"), ("A47Y", None)],
)
def test_ages_above_89_are_one(write_dicom, pixels, age, expected):
    path = write_dicom(pixels, PatientAge="047Y")
    path.write_bytes(path.read_bytes().replace(b"047Y", age.encode()))
    assert dicom_metadata(path).get("PatientAge") == expected


def test_older_codes_are_understood(write_dicom, pixels):
    path = write_dicom(pixels, AnatomicRegionSequence=Sequence([coded("T-AA000", "SRT")]))
    assert dicom_metadata(path)["AnatomicRegion"].startswith("Structure of eye")
    path = write_dicom(pixels, AnatomicRegionSequence=Sequence([coded("T-AA000", "99MINE")]))
    assert "AnatomicRegion" not in dicom_metadata(path)


def test_a_real_file():
    found = dicom_metadata(get_testdata_file("CT_small.dcm"))
    assert found["Modality"] == "CT"
    assert found["SOPClass"] == "CT Image Storage"
    assert set(found) <= {
        "SOPClass", "Modality", "PatientSex", "PatientAge", "Rows", "Columns", "BodyPartExamined",
        "PhotometricInterpretation",
    }  # fmt: skip


def test_what_is_no_dicom_is_named(tmp_path, write_dicom, pixels):
    path = tmp_path / "photo.dcm"
    with pytest.raises(ImageReadError, match=r"photo\.dcm: cannot be opened"):
        dicom_metadata(path)
    path.write_bytes(b"\x89PNG")
    with pytest.raises(ImageReadError, match=r"photo\.dcm: not a DICOM file"):
        dicom_metadata(path)
    whole = write_dicom(pixels).read_bytes()
    path.write_bytes(whole.replace(b"\x08\x00\x16\x00UI", b"\x08\x00\x16\x00SQ"))
    with pytest.raises(ImageReadError, match=r"photo\.dcm: .*DICOM"):
        dicom_metadata(path)


def marked(path, target, kept):
    """Every text element of the standard's dictionary with the three marks, but those kept."""
    file = pydicom.dcmread(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
            group = tag >> 16
            if vr not in TEXT or not keyword or retired or group in (0, 2) or keyword in kept:
                continue
            mark = {"PN": MARKS[0], "DA": MARKS[2], "UI": f"1.2.{MARKS[2]}"}.get(
                vr, " ".join(MARKS)
            )
            mark = {"DS": MARKS[2], "IS": MARKS[2], "AS": MARKS[2]}.get(vr, mark)
            file.add(pydicom.DataElement(tag, vr, mark, validation_mode=pydicom.config.IGNORE))
        nested = Dataset()
        nested.PatientName, nested.CodeMeaning = MARKS[0], MARKS[0]
        file.AnatomicRegionSequence = Sequence([nested])
        file.OtherPatientIDsSequence = Sequence([nested])
        pydicom.dcmwrite(target, file)
    return target


NEEDED = {
    "PhotometricInterpretation", "NumberOfFrames", "WindowCenter", "WindowWidth", "RescaleSlope",
    "RescaleIntercept", "BurnedInAnnotation",
}  # fmt: skip


@pytest.mark.parametrize("kept", [NEEDED, *({*NEEDED} - {name} for name in sorted(NEEDED))])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_marked_identifiers_leave_by_no_way(tmp_path, write_dicom, pixels, kept, syntax, capfd):
    plain = write_dicom(pixels[..., 0], syntax=syntax)
    path = marked(plain, tmp_path / "marked.dcm", kept)
    assert all(path.read_bytes().count(mark.encode()) > 30 for mark in MARKS)
    records, said = [], []
    handler = logging.Handler(0)
    handler.emit = lambda record: records.append(record.getMessage())
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(0)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            whole = path.read_bytes()
            for kept_bytes in (len(whole), len(whole) - 7, len(whole) // 2, 400):
                path.write_bytes(whole[:kept_bytes])
                for function in (dicom_metadata, read_image):
                    try:
                        said.append(repr(function(path)))
                    except ImageReadError:
                        said.append(traceback.format_exc())
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    out, err = capfd.readouterr()
    everything = "\n".join([*said, *records, *map(str, caught), out, err])
    assert "ImageReadError" in everything
    for mark in MARKS:
        assert mark not in everything
    assert keyword_for_tag(0x00100010) == "PatientName"
