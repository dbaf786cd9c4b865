"""Every transfer syntax and color, on pydicom's own files."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut

from medshadow.data.readers import read_image

FOLDERS = [Path(get_testdata_file(name)).parent for name in ("CT_small.dcm", "SC_rgb.dcm")]
OWN = sorted(path for folder in FOLDERS for path in folder.glob("*.dcm"))
# No image; damaged on purpose; without a decoder; larger than a unit test wants, with small twins.
LEFT_OUT = (
    "ExplVR_BigEndNoMeta", "ExplVR_LitEndNoMeta", "UN_sequence", "empty_charset_LEI",
    "meta_missing_tsyntax", "nested_priv_SQ", "no_meta", "no_meta_group_length", "priv_SQ",
    "reportsi", "reportsi_with_empty_number_tags", "rtplan", "rtplan_truncated", "rtstruct",
    "test-SR", "waveform_ecg", "JPEG2000-embedded-sequence-delimiter", "MR_truncated", "badVR",
    "bad_sequence", "JPEG-lossy", "JPGExtended", "JPEG-LL", "JPGLosslessP14SV1_1s_1f_8b",
    "SC_rgb_jpeg_gdcm", "RG1_J2KI", "RG1_J2KR", "RG1_UNCI", "RG1_UNCR", "RG3_J2KI", "RG3_J2KR",
    "RG3_UNCI", "RG3_UNCR", "MR2_J2KI", "MR2_J2KR", "MR2_UNCI", "MR2_UNCR", "693_J2KR",
    "693_UNCR", "693_UNCI", "gdcm-US-ALOKA-16_big",
    "color3d_jpeg_baseline",
    # Where pydicom 3.0.2 itself is wrong or fails; tested apart.
    "OBXXXX1A_expb", "OBXXXX1A_expb_2frame", "OT-PAL-8-face", "eCT_Supplemental",
    "emri_small_jpeg_2k_lossless_too_short",
)  # fmt: skip


def as_pydicom_shows_it(file, frame):
    """The same picture by pydicom's own functions, of every pixel in floating point."""
    values = file.pixel_array.astype(np.int64)
    values = values[frame] if file.get("NumberOfFrames", 1) > 1 else values
    if file.PhotometricInterpretation == "PALETTE COLOR":
        color = apply_color_lut(values, file)
        return color / (256 if color.dtype == np.uint16 else 1)
    if values.ndim == 3:
        return np.floor(values / 2.0 ** (file.BitsStored - 8))
    low, high = 0, 2**file.BitsStored - 1
    if file.PixelRepresentation:
        low, high = -(2 ** (file.BitsStored - 1)), 2 ** (file.BitsStored - 1) - 1
    slope, intercept = file.get("RescaleSlope", 1), file.get("RescaleIntercept", 0)
    low, high = low * slope + intercept, high * slope + intercept
    if "ModalityLUTSequence" in file:
        low, high = 0, 2 ** file.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    source = file
    if "SharedFunctionalGroupsSequence" in file:
        group = file.PerFrameFunctionalGroupsSequence[frame]
        source = group.FrameVOILUTSequence[0] if "FrameVOILUTSequence" in group else Dataset()
        source.PhotometricInterpretation = file.PhotometricInterpretation
        source.BitsStored, source.PixelRepresentation = file.BitsStored, file.PixelRepresentation
    shown = apply_voi_lut(apply_modality_lut(values, file), source)
    if "VOILUTSequence" in file:
        low, high = 0, 2 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1
    level = (shown - low) / (high - low)
    level = 1 - level if file.PhotometricInterpretation == "MONOCHROME1" else level
    return np.repeat(np.clip(level * 255, 0, 255)[..., None], 3, -1)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "path", [path for path in OWN if path.stem not in LEFT_OUT], ids=lambda path: path.stem
)
def test_pydicoms_own_files_look_as_pydicom_shows_them(path):
    file = pydicom.dcmread(path)
    frame = file.get("NumberOfFrames", 1) - 1
    read = read_image(path, frame=frame)
    np.testing.assert_allclose(read, as_pydicom_shows_it(file, frame), atol=2)


@pytest.mark.parametrize(
    "stem",
    [
        "SC_rgb_rle",
        "SC_rgb_16bit",
        "SC_rgb_rle_16bit",
        "SC_rgb_32bit",
        "SC_rgb_expb",
        "SC_rgb_expb_16bit",
        "SC_rgb_gdcm2k_uncompressed",
    ],
)
def test_one_picture_in_many_syntaxes(stem):
    known = read_image(get_testdata_file("SC_rgb.dcm"))
    # From pydicom's documentation of the file: bars of these colors.
    bars = [known[row, 50].tolist() for row in (5, 15, 25, 35, 45, 55, 65, 75, 85, 95)]
    full, half = 255, 128
    assert bars == [
        [full, 0, 0], [full, half, half], [0, full, 0], [half, full, half], [0, 0, full],
        [half, half, full], [0, 0, 0], [64, 64, 64], [192, 192, 192], [full, full, full],
    ]  # fmt: skip
    np.testing.assert_array_equal(read_image(get_testdata_file(f"{stem}.dcm")), known)


def test_a_palette_of_big_endian_words():
    # pydicom 3.0.2 reads its entries with their bytes swapped.
    little, big = (read_image(get_testdata_file(f"OBXXXX1A{end}.dcm")) for end in ("", "_expb"))
    np.testing.assert_array_equal(big, little)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RG1", "RG3", "MR2", "693", "US1"])
def test_lossless_jpeg2000_is_lossless(name):
    packed = read_image(get_testdata_file(f"{name}_J2KR.dcm"))
    np.testing.assert_array_equal(packed, read_image(get_testdata_file(f"{name}_UNCR.dcm")))


def test_lossless_jpeg_with_the_extra():
    pytest.importorskip("gdcm")
    plain = read_image(get_testdata_file("SC_rgb.dcm"))
    np.testing.assert_array_equal(read_image(get_testdata_file("SC_rgb_jpeg_gdcm.dcm")), plain)
