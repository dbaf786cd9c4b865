"""A real Orthanc on loopback, and DICOM photographs of a person who does not exist."""

import json
import shutil
import socket
import subprocess
import time
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from PIL import Image, ImageDraw
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

from medshadow.service.dicomweb import DicomWeb

CREDENTIALS = "medshadow:secret of the tests"
PLUGINS = ("/usr/share/orthanc/plugins", "/usr/lib/orthanc/plugins", "/usr/local/share/orthanc")
STUDY = "1.2.826.0.1.3680043.10.999.77"
# Whatever of these is found in a store, a log or an address of ours has leaked.
PERSON = ("Mustermann", "Erika", "PAT-4711", "ACC-0815", "19630812", STUDY)


@pytest.fixture(scope="session")
def person():
    """What identifies the person who does not exist."""
    return PERSON


@pytest.fixture(scope="session")
def study():
    """The UID of that person's study."""
    return STUDY


@pytest.fixture(scope="session")
def photograph():
    """Make a DICOM photograph: a data set of number ``n``, its attributes changed as given."""

    def make(n, *, frames=None, jpeg=False, study=STUDY, **attributes):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
        image.SpecificCharacterSet = "ISO_IR 100"
        image.SOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
        image.StudyInstanceUID, image.SeriesInstanceUID = study, f"{study}.1"
        image.SOPInstanceUID = f"{study}.1.{n}"
        image.PatientName, image.PatientID = "Mustermann^Erika^Jörg", "PAT-4711"
        image.PatientBirthDate, image.PatientSex, image.PatientAge = "19630812", "F", "057Y"
        image.StudyDate, image.StudyTime, image.StudyID = "20201103", "101500", "7"
        image.AccessionNumber, image.ReferringPhysicianName = "ACC-0815", "Doe^Jane"
        image.Modality, image.SeriesNumber, image.InstanceNumber = "XC", 1, n
        image.Laterality = ""
        image.AdmittingDiagnosesDescription = ("Melanoma in situ", "Naevus")[n % 2]
        pixels = picture(n)
        image.Rows, image.Columns = pixels.shape[:2]
        image.SamplesPerPixel, image.PlanarConfiguration = 3, 0
        image.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
        image.BitsAllocated = image.BitsStored = 8
        image.HighBit, image.PixelRepresentation = 7, 0
        if frames:
            image.NumberOfFrames = frames
        content = b"".join(picture(n + at).tobytes() for at in range(frames or 1))
        image.PixelData = encapsulate([_jpeg(pixels)]) if jpeg else content
        image["PixelData"].VR = "OB"
        for keyword, value in attributes.items():
            setattr(image, keyword, value)
        return image

    return make


def picture(n):
    """A blot on skin, uint8 40 x 50 x 3."""
    rng = np.random.default_rng(n)
    drawn = Image.new("RGB", (50, 40), tuple(int(v) for v in rng.integers(150, 240, 3)))
    x, y = rng.uniform(5, 20, 2)
    ImageDraw.Draw(drawn).ellipse(
        [x, y, x + rng.uniform(10, 25), y + rng.uniform(6, 15)],
        fill=tuple(int(v) for v in rng.integers(20, 150, 3)),
    )
    return np.array(drawn)


@pytest.fixture(scope="session")
def pixels_of():
    """The pixels of photograph ``n``."""
    return picture


def _jpeg(pixels):
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="session")
def _orthanc(tmp_path_factory, integration):
    """Start Orthanc with its DICOMweb plug-in, with a password, in a folder of its own."""
    program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
    plugin = next(
        (path for folder in PLUGINS for path in Path(folder).glob("libOrthancDicomWeb.so*")), None
    )
    integration(
        program is not None and plugin is not None,
        "Orthanc with DICOMweb is missing: apt-get install orthanc orthanc-dicomweb",
    )
    folder = tmp_path_factory.mktemp("orthanc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user, _, password = CREDENTIALS.partition(":")
    settings = {
        "Name": "tests",
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "Plugins": [str(plugin)],
        "HttpPort": port,
        "DicomServerEnabled": False,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {user: password},
        "OverwriteInstances": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [program, str(folder / "orthanc.json")], cwd=folder, stdout=log, stderr=log
        )
    root = f"http://127.0.0.1:{port}"
    try:
        _wait_for(f"{root}/dicom-web/studies", (user, password), process, folder / "log")
        yield SimpleNamespace(root=root, auth=(user, password), folder=folder)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait_for(url, auth, process, log):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            if requests.get(url, auth=auth, timeout=5).status_code == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    raise AssertionError(f"Orthanc does not answer: {log.read_text()[-2000:]}")


@pytest.fixture
def orthanc(_orthanc):
    """Orthanc without a study in it: its root address, its password, its file of an instance."""
    for study in requests.get(f"{_orthanc.root}/studies", auth=_orthanc.auth, timeout=20).json():
        requests.delete(f"{_orthanc.root}/studies/{study}", auth=_orthanc.auth, timeout=20)

    def file_of(uid):
        found = requests.post(
            f"{_orthanc.root}/tools/lookup", uid, auth=_orthanc.auth, timeout=20
        ).json()
        path = next(item["Path"] for item in found if item["Type"] == "Instance")
        return requests.get(f"{_orthanc.root}{path}/file", auth=_orthanc.auth, timeout=20).content

    return SimpleNamespace(url=f"{_orthanc.root}/dicom-web", file_of=file_of, **vars(_orthanc))


@pytest.fixture
def dicomweb(orthanc):
    """A client of it."""
    return DicomWeb(orthanc.url, credentials=CREDENTIALS)
