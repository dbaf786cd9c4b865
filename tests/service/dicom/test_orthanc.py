"""The DICOMweb client against a real Orthanc."""

import io
import logging

import numpy as np
import pydicom
import pytest

from medshadow.errors import ImageReadError
from medshadow.service.dicomweb import DicomWeb
from medshadow.service.dicomweb_line import CREDENTIALS, DicomWebError, InstanceNotFoundError


def test_what_is_stored_is_found_and_fetched(dicomweb, photograph, pixels_of, study):
    stored = {dicomweb.store(photograph(n)) for n in (1, 2, 3)}
    assert stored == set(dicomweb.instances(study))
    reference = f"studies/{study}/series/{study}.1/instances/{study}.1.2"
    found = dicomweb.instance(reference)
    np.testing.assert_array_equal(found.pixels, pixels_of(2))
    np.testing.assert_array_equal(dicomweb.pixels(f"{dicomweb.url}/{reference}"), pixels_of(2))
    assert found.header.PatientID == "PAT-4711"
    assert "PixelData" not in found.header
    assert "PAT-4711" not in repr(found)


def test_compressed_images_come_as_they_were_stored(dicomweb, orthanc, photograph, pixels_of):
    reference = dicomweb.store(photograph(4, jpeg=True))
    file = pydicom.dcmread(io.BytesIO(orthanc.file_of(reference.rsplit("/", 1)[1])))
    assert file.file_meta.TransferSyntaxUID.name.startswith("JPEG Baseline")
    difference = dicomweb.pixels(reference).astype(int) - pixels_of(4)
    assert np.abs(difference).mean() < 6


def test_a_frame_is_named_where_there_are_several(dicomweb, photograph, pixels_of):
    reference = dicomweb.store(photograph(5, frames=3))
    np.testing.assert_array_equal(dicomweb.pixels(f"{reference}/frames/2"), pixels_of(6))
    with pytest.raises(ImageReadError, match="holds 3 frames"):
        dicomweb.pixels(reference)
    with pytest.raises(ImageReadError, match="no frame 3"):
        dicomweb.pixels(f"{reference}/frames/4")


@pytest.mark.parametrize(
    ("modality", "side", "expected"), [("OP", "L", "left"), ("OP", "R", "right"), ("XC", "L", "")]
)
def test_the_header_tells_which_eye_it_is(dicomweb, photograph, modality, side, expected):
    reference = dicomweb.store(photograph(6, Modality=modality, Laterality=side))
    assert dicomweb.instance(reference).laterality == expected


def test_only_the_attributes_asked_for_are_looked_at(dicomweb, photograph):
    reference = dicomweb.store(photograph(7))
    header = dicomweb.header(reference, ["PatientAge", "Rows", "AnatomicRegionSequence"])
    assert {element.keyword for element in header} == {"PatientAge", "Rows"}
    assert header.PatientAge == "057Y"


def test_text_burned_in_is_refused(dicomweb, photograph):
    reference = dicomweb.store(photograph(8, BurnedInAnnotation="YES"))
    with pytest.raises(ImageReadError, match="BurnedInAnnotation is YES"):
        dicomweb.pixels(reference)


def test_what_is_not_there_is_said_so(dicomweb, photograph, study):
    with pytest.raises(InstanceNotFoundError, match="no instance of that study"):
        dicomweb.instances(study)
    with pytest.raises(InstanceNotFoundError) as caught:
        dicomweb.pixels(f"studies/{study}/series/1.2/instances/1.3")
    assert study not in str(caught.value)


def test_wrong_credentials_are_said_to_be_wrong(orthanc, study, monkeypatch):
    for wrong in ("medshadow:wrong", "a-bearer-token", ""):
        with pytest.raises(DicomWebError, match=r"these credentials \(401\)"):
            DicomWeb(orthanc.url, credentials=wrong).instances(study)
    monkeypatch.setenv(CREDENTIALS, ":".join(orthanc.auth))
    with pytest.raises(InstanceNotFoundError):
        DicomWeb(orthanc.url).instances(study)


def test_nothing_that_identifies_is_logged(dicomweb, photograph, study, person, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    # A name that is no DICOM name: libraries would quote it.
    reference = dicomweb.store(photograph(9, PatientName="Erika Mustermann"))
    dicomweb.instances(study)
    dicomweb.instance(reference)
    dicomweb.header(reference, ["PatientAge"])
    with pytest.raises(InstanceNotFoundError):
        dicomweb.instance(f"{reference}.5")
    said = caplog.text + "".join(capfd.readouterr())
    assert not [word for word in (*person, "secret of the tests") if word in said]
