"""From stored values to shades: windows, lookup tables, padding, palettes."""

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medshadow.data.readers import read_image

RAMP = np.arange(0, 4096, dtype=np.uint16).reshape(64, 64)
TWELVE = {"BitsStored": 12, "HighBit": 11}


def grey(path, frame=None):
    read = read_image(path, frame)
    assert (read[..., 0] == read[..., 1]).all()
    assert (read[..., 0] == read[..., 2]).all()
    return read[..., 0]


def table(entries, first=0, bits=16):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 65536, first, bits]
    item.LUTData = np.asarray(entries, "<u2").tobytes()
    item["LUTData"].VR = "OW"
    item["LUTDescriptor"].VR = "US" if first >= 0 else "SS"
    return Sequence([item])


def test_without_a_window_the_stored_bits_are_the_range(write_dicom):
    np.testing.assert_array_equal(grey(write_dicom(RAMP, **TWELVE)), RAMP >> 4)
    signed = (RAMP.astype(np.int16) - 2048).astype(np.int16)
    path = write_dicom(signed, "signed.dcm", RescaleSlope=2, RescaleIntercept=-5, **TWELVE)
    np.testing.assert_array_equal(grey(path), RAMP >> 4)
    falling = write_dicom(RAMP, "falling.dcm", RescaleSlope=-1, RescaleIntercept=0, **TWELVE)
    np.testing.assert_array_equal(grey(falling), (4095 - RAMP) >> 4)


def test_monochrome1_is_inverted(write_dicom):
    path = write_dicom(RAMP, PhotometricInterpretation="MONOCHROME1", **TWELVE)
    np.testing.assert_array_equal(grey(path), 255 - (RAMP >> 4))


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        # By hand: center 1000, width 401 -> LINEAR spans 799.5 to 1199.5.
        ("LINEAR", {799: 0, 800: 0, 999: 127, 1000: 128, 1199: 255, 1300: 255}),
        ("LINEAR_EXACT", {799: 0, 1000: 128, 1200: 255}),
        ("SIGMOID", {0: 0, 1000: 128, 1100: 187, 4095: 255}),
    ],
)
def test_windows(write_dicom, function, expected):
    path = write_dicom(
        RAMP, WindowCenter="1000", WindowWidth="401", VOILUTFunction=function, **TWELVE
    )
    shown = grey(path)
    for value, level in expected.items():
        assert shown[value == RAMP] == level, value


def test_the_window_is_in_units_of_the_rescale_and_the_first_of_several(write_dicom):
    path = write_dicom(
        RAMP,
        RescaleSlope=2,
        RescaleIntercept=-1000,
        WindowCenter=["100.5", "5"],
        WindowWidth=["257", "5"],
        **TWELVE,
    )
    # 2 v - 1000 from -28 to 228 is black to white: v from 486 to 614.
    np.testing.assert_array_equal(grey(path), np.clip((RAMP.astype(int) - 486) * 2, 0, 255))


@pytest.mark.parametrize(
    ("center", "width", "function"),
    [("5", "0", "LINEAR"), ("5", "-3", "SIGMOID"), ("5", "0", "LINEAR_EXACT"), ("", "", "LINEAR")],
)
def test_a_window_that_the_standard_does_not_allow_counts_as_none(
    write_dicom, center, width, function
):
    path = write_dicom(
        RAMP, WindowCenter=center, WindowWidth=width, VOILUTFunction=function, **TWELVE
    )
    np.testing.assert_array_equal(grey(path), RAMP >> 4)


def test_a_width_of_one_is_a_step(write_dicom):
    shown = grey(write_dicom(RAMP, WindowCenter="1000", WindowWidth="1", **TWELVE))
    np.testing.assert_array_equal(shown, np.where(RAMP >= 1000, 255, 0))


@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian])
def test_a_voi_table_of_more_entries_than_its_bits(write_dicom, syntax):
    # 4096 entries of 8 bits: pydicom 3.0.2 takes the index modulo 256.
    entries = 255 - np.arange(4096) // 16
    path = write_dicom(RAMP, VOILUTSequence=table(entries, bits=8), syntax=syntax, **TWELVE)
    np.testing.assert_array_equal(grey(path), 255 - (RAMP >> 4))


def test_values_outside_a_table_take_its_ends(write_dicom):
    path = write_dicom(
        RAMP, VOILUTSequence=table(np.linspace(0, 65535, 256), first=100), WindowCenter="1",
        WindowWidth="2", **TWELVE,
    )  # fmt: skip
    np.testing.assert_array_equal(grey(path), np.clip(RAMP.astype(int) - 100, 0, 255))


def test_modality_table_then_window(write_dicom):
    path = write_dicom(
        RAMP[:16], ModalityLUTSequence=table(np.arange(1024)[::-1], bits=10), WindowCenter="512.5",
        WindowWidth="1025", **TWELVE,
    )  # fmt: skip
    np.testing.assert_array_equal(grey(path), (1023 - RAMP[:16]) >> 2)
    plain = write_dicom(
        RAMP[:16], "plain.dcm", ModalityLUTSequence=table(np.arange(1024)[::-1], bits=10), **TWELVE
    )
    np.testing.assert_array_equal(grey(plain), (1023 - RAMP[:16]) >> 2)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(write_dicom, photometric):
    signed = RAMP.astype(np.int16) - 2048
    path = write_dicom(
        signed.astype(np.int16),
        PixelPaddingValue=-2048,
        PixelPaddingRangeLimit=-2000,
        PhotometricInterpretation=photometric,
        **TWELVE,
    )
    shown = grey(path)
    assert (shown[signed <= -2000] == 0).all()
    assert shown[signed == -1999] == (3 if photometric == "MONOCHROME2" else 252)


def test_the_frames_own_window_comes_before_the_shared_one(write_dicom):
    def group(center, width):
        window, item = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, width
        item.FrameVOILUTSequence = Sequence([window])
        return item

    rescale, shared = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, -1000
    shared.PixelValueTransformationSequence = Sequence([rescale])
    path = write_dicom(
        np.stack([RAMP, RAMP]),
        frames=2,
        WindowCenter="3000",
        WindowWidth="2",
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence([group("0.5", "257"), group("1000.5", "257")]),
        **TWELVE,
    )
    for frame, middle in ((0, 1000), (1, 2000)):
        expected = np.clip(RAMP.astype(int) - middle + 128, 0, 255)
        np.testing.assert_array_equal(grey(path, frame), expected)


def test_few_pixels_of_many_values_and_many_of_few_agree(write_dicom):
    wide = np.array([[0, 2**31 - 1, 2**30, 5]], np.int32)
    window = {"WindowCenter": str(2.0**30), "WindowWidth": str(2.0**31)}
    few = grey(write_dicom(wide, **window))
    assert few.tolist() == [[0, 255, 128, 0]]
    many = grey(write_dicom(np.repeat(wide[:, 3:], 3000, 0), "many.dcm", **window))
    assert set(np.unique(many)) == {0}


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("first", [0, 10])
def test_palettes(write_dicom, bits, first):
    index = np.arange(40, dtype=np.uint8).reshape(4, 10)
    tables = {}
    for number, color in enumerate(("Red", "Green", "Blue"), start=1):
        entries = (np.arange(20) * 4 * number) * (257 if bits == 16 else 1)
        data = entries.astype("<u2" if bits == 16 else "u1").tobytes()
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [20, first, bits]
        tables[f"{color}PaletteColorLookupTableData"] = data
    path = write_dicom(index, PhotometricInterpretation="PALETTE COLOR", **tables)
    place = np.clip(index.astype(int) - first, 0, 19)
    np.testing.assert_array_equal(
        read_image(path), np.stack([place * 4, place * 8, place * 12], -1)
    )


def test_a_palette_of_4096_entries_of_8_bits(write_dicom):
    # pydicom 3.0.2 takes the index modulo 256.
    data = (np.arange(4096) // 16).astype(np.uint8).tobytes()
    tables = {"PhotometricInterpretation": "PALETTE COLOR", **TWELVE}
    for color in ("Red", "Green", "Blue"):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [4096, 0, 8]
        tables[f"{color}PaletteColorLookupTableData"] = data
    np.testing.assert_array_equal(grey(write_dicom(RAMP, **tables)), RAMP >> 4)


def test_segmented_palettes(write_dicom):
    # A straight line from 0 to 255 in 256 steps: discrete 0, then a linear segment.
    segments = np.array([0, 1, 0, 1, 255, 255], "<u2").astype("u1").tobytes()
    tables = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color in ("Red", "Green", "Blue"):
        tables[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, 8]
        tables[f"Segmented{color}PaletteColorLookupTableData"] = segments
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(grey(write_dicom(index, **tables)), index)


def test_one_bit_a_pixel(write_dicom):
    bits = np.random.default_rng(0).integers(0, 2, (5, 9), dtype=np.uint8)
    data = np.packbits(bits, bitorder="little").tobytes()
    path = write_dicom(bits, data=data, BitsAllocated=1, BitsStored=1, HighBit=0)
    np.testing.assert_array_equal(grey(path), bits * 255)
    assert pydicom.dcmread(path).BitsAllocated == 1
