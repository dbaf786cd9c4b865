"""Image files in memory: read like files on disk, and refused by size before they are decoded."""

import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from medshadow.data import image_files
from medshadow.data.in_memory import read_image_bytes
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError, ImageTooLargeError

DICOM = Path(get_testdata_file("examples_rgb_color.dcm"))


def _png(height=5, width=8):
    noise = np.random.default_rng(1).integers(0, 255, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    return noise, file.getvalue()


def test_a_png_comes_back_bit_for_bit():
    noise, content = _png()
    np.testing.assert_array_equal(read_image_bytes(content), noise)


def test_dicom_reads_as_from_its_file():
    np.testing.assert_array_equal(read_image_bytes(DICOM.read_bytes()), read_image(DICOM))


@pytest.mark.parametrize("kind", ["raster", "dicom"])
def test_a_lower_limit_of_pixels_holds_for_this_call_alone(kind):
    content = _png()[1] if kind == "raster" else DICOM.read_bytes()
    pixels = read_image_bytes(content)
    most = pixels.shape[0] * pixels.shape[1]
    assert read_image_bytes(content, max_pixels=most).shape == pixels.shape
    with pytest.raises(ImageTooLargeError, match=rf"expected at most {most - 1} pixels"):
        read_image_bytes(content, max_pixels=most - 1)
    assert read_image_bytes(content).shape == pixels.shape


def test_a_higher_limit_does_not_lift_the_readers_own(monkeypatch):
    monkeypatch.setattr(image_files, "MAX_PIXELS", 39)
    with pytest.raises(ImageTooLargeError):
        read_image_bytes(_png()[1], max_pixels=10**9)


@pytest.mark.parametrize("content", [b"", b"no image", _png()[1][:60]])
def test_what_is_no_whole_image_is_refused_without_a_path(content):
    with pytest.raises(ImageReadError, match=r"^image: "):
        read_image_bytes(content)


def test_burned_in_text_is_refused(monkeypatch):
    from pydicom import dcmread

    dataset = dcmread(DICOM)
    dataset.BurnedInAnnotation = "YES"
    file = io.BytesIO()
    dataset.save_as(file)
    with pytest.raises(ImageReadError, match="BurnedInAnnotation"):
        read_image_bytes(file.getvalue())
    monkeypatch.setenv("MEDSHADOW_BURNED_IN", "allow")
    assert read_image_bytes(file.getvalue()).ndim == 3


def test_no_temporary_file_is_made(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a temporary file was asked for")

    for name in ("TemporaryFile", "NamedTemporaryFile", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    read_image_bytes(_png()[1])
