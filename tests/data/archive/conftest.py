"""A small archive of one's own: a table of four images, and DICOM photographs."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from medshadow.data.site_key import SiteKey

SECRET = "k" * 40
KEY = SiteKey(SECRET.encode())
TABLE = pd.DataFrame(
    {
        "file": ["images/1.png", "images/2.png", "images/3.png", "images/4.png"],
        "diagnosis": ["melanoma", "naevus", "naevus", "Naevus"],
        "patient": ["4711", "4711", "4712", "0815"],
        "age": ["64", "64", "", "31.5"],
        "site": ["back", "arm", "", "leg"],
        "number": [f"case {i}" for i in range(4)],
    }
)
NAMED = {
    "image": "file",
    "label": "diagnosis",
    "group": "patient",
    "classes": {"melanoma": "mel", "naevus": "nv"},
}
DIAGNOSES = {"Melanoma": "mel", "Melanocytic naevus": "nv"}
DICOM = {
    "label": "AdmittingDiagnosesDescription",
    "group": "PatientID",
    "classes": DIAGNOSES,
}


@pytest.fixture(autouse=True)
def _site_key(monkeypatch):
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", SECRET)


class SmallArchive:
    """Files of an archive, and how they are named to the reader."""

    secret = SECRET
    key = KEY
    table = TABLE
    named = NAMED
    diagnoses = DIAGNOSES
    dicom = DICOM

    @staticmethod
    def draw(path, seed=0, size=(4, 3)):
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(shade).save(path)

    def write_table(self, root, frame=TABLE, name="cases.csv", draw_images=True, **how):
        for i in range(1, 5) if draw_images else ():
            self.draw(root / "images" / f"{i}.png", i)
        path = root / name
        if name.endswith(".parquet"):
            frame.to_parquet(path)
        else:
            frame.to_csv(path, index=False, **how)
        return path

    @staticmethod
    def write_dicom(path, seed=0, size=(4, 3), **attributes):
        """A photograph of noise around a grey that depends on the diagnosis."""
        diagnosis = attributes.get("AdmittingDiagnosesDescription", "Melanoma")
        rng = np.random.default_rng(seed)
        grey = 60 if diagnosis == "Melanoma" else 180
        pixels = np.clip(rng.normal(grey, 20, (size[1], size[0], 3)), 0, 255).astype(np.uint8)
        data = Dataset()
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
        data.SOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        data.Modality, data.PatientID, data.PatientName = "XC", "4711", "Example^Ann"
        data.PatientBirthDate, data.PatientAge, data.PatientSex = "19570401", "064Y", "F"
        data.AdmittingDiagnosesDescription = "Melanoma"
        data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0
        data.Rows, data.Columns = pixels.shape[:2]
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.PixelData = pixels.tobytes()
        for name, value in attributes.items():
            setattr(data, name, value) if value is not None else delattr(data, name)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        path.parent.mkdir(parents=True, exist_ok=True)
        data.save_as(path, enforce_file_format=True)
        return data

    @staticmethod
    def assert_is_in(table):
        frame = table.frame
        assert frame["label"].tolist() == ["mel", "nv", "nv", "nv"]
        assert frame["case_id"].tolist() == [
            KEY.hashed("case", f"images/{i}.png") for i in range(1, 5)
        ]
        expected = [KEY.hashed("group", g) for g in TABLE["patient"]]
        assert frame["group"].tolist() == expected
        for i, path in enumerate(frame["image"], start=1):
            assert Path(path).is_file()
            assert path.endswith(f"{i}.png")
        assert table.classes == ("mel", "nv")
        assert table.name == "archive"


@pytest.fixture(scope="session")
def archive():
    """The small archive: what is in it, how it is written, and whether a table holds it."""
    return SmallArchive()
