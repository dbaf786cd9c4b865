"""A whole run on DICOM files with a marked patient: nothing that it leaves behind names them."""

import logging
import warnings
import zipfile

import numpy as np
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medshadow.workflows import run_config

pytestmark = pytest.mark.slow

NAME, NUMBER, BIRTH, UID = "ZZMARKEDNAME", "ZZ7130042", "19340217", "1.2.71300421934"
TEXT = "AE AS CS DA DS DT IS LO LT PN SH ST TM UC UI UR UT".split()  # noqa: SIM905
DIAGNOSES = {"Melanoma": "mel", "Melanocytic naevus": "nv"}
# What makes it an image; read_image refuses a file where these hold nonsense.
NEEDED = (
    "PhotometricInterpretation",
    "NumberOfFrames",
    "WindowCenter",
    "WindowWidth",
    "RescaleSlope",
    "RescaleIntercept",
    "BurnedInAnnotation",
    "SpecificCharacterSet",
)


def write_marked(path, number, diagnosis):
    """A photograph whose every text element holds the name, the number and the day of birth."""
    file = Dataset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for tag, (vr, _, _, retired, keyword) in DicomDictionary.items():
            if vr in TEXT and keyword and not retired and tag >> 16 not in (0, 2):
                mark = {"DA": BIRTH, "DS": BIRTH, "IS": BIRTH, "AS": BIRTH, "UI": UID}
                value = mark.get(vr, f"{NAME} {NUMBER} {BIRTH}"[: 16 if vr in ("SH", "CS") else 64])
                if keyword not in NEEDED:
                    element = pydicom.DataElement(tag, vr, value, validation_mode=0)
                    file.add(element)
        file.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
        file.SOPInstanceUID = f"{UID}.{number}"
        file.PatientID = f"{NUMBER}{number // 2}"
        file.AdmittingDiagnosesDescription = diagnosis
        shade = np.random.default_rng(number).normal(90 if diagnosis == "Melanoma" else 170, 25)
        noise = np.random.default_rng(number).normal(shade, 20, (48, 64, 3))
        file.SamplesPerPixel, file.PhotometricInterpretation, file.PlanarConfiguration = 3, "RGB", 0
        file.Rows, file.Columns = 48, 64
        file.BitsAllocated = file.BitsStored = 8
        file.HighBit, file.PixelRepresentation = 7, 0
        file.PixelData = np.clip(noise, 0, 255).astype(np.uint8).tobytes()
        file.file_meta = FileMetaDataset()
        file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file.save_as(path, enforce_file_format=True)


def everything_in(folder):
    """(name, bytes) of every file and of every member of a packed one."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        yield str(path.relative_to(folder)), path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as packed:
                for member in packed.namelist():
                    yield f"{path.name}/{member}", member.encode() + packed.read(member)


def test_marked_identifiers_are_in_no_byte_of_a_run(tmp_path, small, monkeypatch, capfd):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "k" * 40)
    source, out = tmp_path / "dicom", tmp_path / "out"
    source.mkdir()
    for number in range(48):
        diagnosis = list(DIAGNOSES)[number // 2 % 2]
        write_marked(source / f"{NAME}{number}.dcm", number, diagnosis)
    assert (source / f"{NAME}0.dcm").read_bytes().count(NAME.encode()) > 100
    records = []
    handler = logging.Handler(logging.DEBUG)
    handler.emit = lambda record: records.append(record.getMessage())
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.INFO)  # as the command does
    try:
        run_config(
            "archive",
            data_dir=str(source),
            output_dir=str(out),
            label="AdmittingDiagnosesDescription",
            group="PatientID",
            classes=DIAGNOSES,
            malignant=["mel"],
            metadata=["Modality", "BodyPartExamined", "SOPClass"],
            **small,
        )
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    said = "\n".join([*records, *capfd.readouterr()]).encode()
    left = [("log and output", said), *everything_in(out)]
    assert {"cases.db", "mlflow.db", "splits.csv"} <= {name for name, _ in left}
    for name, content in left:
        for mark in (NAME, NUMBER, BIRTH, UID):
            for form in (mark.encode(), mark.lower().encode(), mark.encode("utf-16-le")):
                assert form not in content, (name, mark)
