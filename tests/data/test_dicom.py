"""DICOM files: opened, refused, and read and damaged."""

import io
import logging
import subprocess
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.data import get_testdata_file

from medshadow.data import dicom, readers
from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

GREY = np.arange(60, dtype=np.uint8).reshape(6, 10) * 4


def data_set(whole):
    """What follows the file meta, whose length stands at its beginning."""
    return whole[144 + int.from_bytes(whole[140:144], "little") :]


@pytest.mark.parametrize(
    "syntax",
    [
        uid.ImplicitVRLittleEndian,
        uid.ExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.DeflatedExplicitVRLittleEndian,
    ],
    ids=lambda syntax: syntax.name,
)
def test_uncompressed_syntaxes_come_back_bit_for_bit(write_dicom, pixels, syntax):
    np.testing.assert_array_equal(read_image(write_dicom(pixels, syntax=syntax)), pixels)
    deep = np.array([[0, 255, 256, 65535]], np.uint16)
    read = read_image(write_dicom(deep, "deep.dcm", syntax=syntax))
    assert read[0, :, 0].tolist() == [0, 0, 1, 255]


def test_odd_sizes_in_big_endian_words(write_dicom):
    color = np.arange(27, dtype=np.uint8).reshape(3, 3, 3)
    path = write_dicom(color, syntax=uid.ExplicitVRBigEndian)
    np.testing.assert_array_equal(read_image(path), color)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian])
def test_files_without_preamble_are_recognised(write_dicom, pixels, syntax):
    path = write_dicom(pixels, syntax=syntax)
    path.write_bytes(path.read_bytes()[132:])
    np.testing.assert_array_equal(read_image(path), pixels)


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian],
)
def test_files_without_file_meta_are_recognised(write_dicom, syntax):
    path = write_dicom(GREY, syntax=syntax)
    path.write_bytes(data_set(path.read_bytes()))
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY)


def test_the_content_decides_not_the_name(write_dicom, pixels):
    np.testing.assert_array_equal(read_image(write_dicom(pixels, "photo.jpg")), pixels)


def test_frames_are_read_one_by_one(write_dicom, pixels):
    series = np.stack([pixels, pixels[::-1], pixels // 2])
    path = write_dicom(series, frames=3)
    with pytest.raises(ImageReadError, match=r"image\.dcm: holds 3 frames; expected one"):
        read_image(path)
    for frame, expected in enumerate(series):
        np.testing.assert_array_equal(read_image(path, frame=frame), expected)
    with pytest.raises(ImageReadError, match="no frame 3; expected 0 to 2"):
        read_image(path, frame=3)


def test_a_frame_of_a_long_series_is_read_without_the_others(write_dicom, monkeypatch):
    series = np.arange(50, dtype=np.uint8)[:, None, None] * np.ones((1, 200, 200), np.uint8)
    path = write_dicom(series, frames=50)
    asked = []

    class Counting(io.FileIO):
        def read(self, size=-1):
            asked.append(size)
            return super().read(size)

    with Counting(path) as file:
        assert dicom.read_dicom(file, path, 7, "refuse").max() == 7
    assert sum(asked) < 2 * 200 * 200


def test_burned_in_text_is_refused_unless_told_otherwise(write_dicom, monkeypatch):
    path = write_dicom(GREY, BurnedInAnnotation="YES")
    with pytest.raises(ImageReadError, match=r"image\.dcm: BurnedInAnnotation is YES.*allow"):
        read_image(path)
    assert read_image(path, burned_in="allow").shape == (6, 10, 3)
    monkeypatch.setenv(readers.BURNED_IN, "allow")
    assert read_image(path).shape == (6, 10, 3)
    with pytest.raises(ImageReadError, match="BurnedInAnnotation"):
        read_image(path, burned_in="refuse")
    monkeypatch.setenv(readers.BURNED_IN, "maybe")
    with pytest.raises(ValueError, match=r"MEDSHADOW_BURNED_IN\) is 'maybe'; expected \"refuse\""):
        read_image(path)
    assert read_image(
        write_dicom(GREY, "no.dcm", BurnedInAnnotation="NO"), burned_in="refuse"
    ).any()


@pytest.mark.parametrize(
    ("attributes", "found"),
    [
        ({"PixelData": None}, "without pixel data"),
        ({"Rows": None}, "without Rows"),
        ({"Columns": 0}, r"0 x 6 pixels; expected at least one"),
        ({"Rows": 60_000, "Columns": 60_000}, r"image too large \(60000 x 60000 pixels\)"),
        ({"Rows": 2, "Columns": 50_000}, r"image too large \(50000 x 2 pixels\)"),
        ({"Rows": 7}, r"60 bytes of pixel data; expected 70"),
        ({"NumberOfFrames": 10**6}, r"60 bytes of pixel data; expected 60000000"),
        ({"NumberOfFrames": 10**9}, r"more than 1048576 frames"),
        ({"PhotometricInterpretation": "RGB"}, r"1 samples a pixel and photometric .* RGB;"),
        ({"PhotometricInterpretation": "WHO"}, r"damaged .* breaks the standard"),
        ({"PhotometricInterpretation": "HSV"}, r"interpretation HSV; expected MONOCHROME1"),
        ({"BitsAllocated": 7, "BitsStored": 7}, r"breaks the standard \(ValueError\)"),
        ({"SamplesPerPixel": 2}, r"breaks the standard|bytes of pixel data"),
    ],
)
def test_what_cannot_be_read_is_named(write_dicom, attributes, found):
    path = write_dicom(GREY, **attributes)
    frame = 5 if "NumberOfFrames" in attributes else None
    with pytest.raises(ImageReadError, match=rf"image\.dcm: .*{found}"):
        read_image(path, frame=frame)


def test_floating_point_pixels_are_refused(write_dicom):
    path = write_dicom(GREY, PixelData=None, FloatPixelData=GREY.astype(np.float32).tobytes())
    with pytest.raises(ImageReadError, match="FloatPixelData; expected whole-number samples"):
        read_image(path)


def test_truncated_files_are_refused_by_name(write_dicom, pixels):
    path = write_dicom(pixels)
    whole = path.read_bytes()
    for kept in (133, 200, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:kept])
        with pytest.raises(ImageReadError, match=r"image\.dcm: .*expected"):
            read_image(path)


def test_a_deflated_bomb_is_not_inflated(write_dicom, monkeypatch):
    monkeypatch.setattr(dicom, "MAX_INFLATED", 10**5)
    path = write_dicom(GREY, syntax=uid.DeflatedExplicitVRLittleEndian)
    whole = path.read_bytes()
    pressed = zlib.compressobj(wbits=-15)
    bomb = pressed.compress(bytes(10**7)) + pressed.flush()
    path.write_bytes(whole[: -len(data_set(whole))] + bomb)
    with pytest.raises(ImageReadError, match="deflated DICOM file that holds more than 100000"):
        read_image(path)


def test_unknown_transfer_syntaxes_are_not_quoted(write_dicom):
    path = write_dicom(GREY)
    path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.1.2.1\0", b"1.9.19700101.1.1.1.\0"))
    with pytest.raises(ImageReadError) as caught:
        read_image(path)
    assert "19700101" not in str(caught.value)


def test_pydicoms_warnings_records_and_errors_stay_inside(write_dicom):
    # pydicom quotes a value that is no number in a warning, a record and an error.
    path = write_dicom(GREY, WindowCenter="123456", WindowWidth="7")
    path.write_bytes(path.read_bytes().replace(b"123456", b"Marked"))
    records = []
    handler = logging.Handler()
    handler.emit = records.append
    logging.getLogger().addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            with pytest.raises(ImageReadError, match="breaks the standard") as error:
                read_image(path)
    finally:
        logging.getLogger().removeHandler(handler)
    assert not caught
    assert not [record for record in records if record.name.startswith("pydicom")]
    assert error.value.__cause__ is None
    assert error.value.__context__ is None
    assert "Marked" not in str(error.value)


@settings(max_examples=100, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=6),
    keep=st.floats(0, 1),
    which=st.sampled_from(
        [
            "MR_small_jp2klossless.dcm",
            "SC_rgb_rle.dcm",
            "SC_rgb_small_odd_jpeg.dcm",
            "MR_small_implicit.dcm",
        ]
    ),
)
def test_damaged_bytes_give_an_image_or_our_error(tmp_path_factory, edits, keep, which):
    data = bytearray(Path(get_testdata_file(which)).read_bytes())
    for place, value in edits:
        data[place % len(data)] = value
    file = tmp_path_factory.getbasetemp() / "damaged.dcm"
    file.write_bytes(data[: max(1, int(len(data) * keep))])
    try:
        read = read_image(file)
    except ImageReadError as error:
        assert str(error).startswith(f"{file}: ")  # noqa: PT017 - both ways out are right
    else:
        assert read.ndim == 3
        assert read.shape[2] == 3


def test_reading_leaves_pydicom_unloaded_until_it_is_needed():
    code = (
        "import sys; from medshadow.data.readers import read_image;"
        "print({'pydicom', 'nibabel'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
