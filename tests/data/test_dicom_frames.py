"""Every transfer syntax and color, on files written here."""

import io
import time

import highdicom
import numpy as np
import pydicom
import pytest
from highdicom.sc import SCImage
from PIL import Image
from pydicom import uid
from pydicom.encaps import encapsulate

from medshadow.data.readers import read_image
from medshadow.errors import ImageReadError

DERMOSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.7"
FUNDUS = "1.2.840.10008.5.1.4.1.1.77.1.5.1"


def jpeg(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def without_marker(code):
    """A JPEG without its first segment, which says how its colors are stored."""
    return code[:2] + code[4 + int.from_bytes(code[4:6], "big") :]


@pytest.fixture
def photo():
    """Smooth colors of 40 x 64 pixels, which survive lossy compression."""
    y, x = np.mgrid[0:40, 0:64] / 64
    return np.stack([230 - 90 * y, 120 + 60 * x, 40 + 50 * y], -1).astype(np.uint8)


@pytest.mark.parametrize("sop_class", [DERMOSCOPY, FUNDUS])
@pytest.mark.parametrize(
    ("syntax", "photometric", "tolerance"),
    [
        (uid.ExplicitVRLittleEndian, "RGB", 0),
        (uid.RLELossless, "RGB", 0),
        (uid.JPEGLSLossless, "RGB", 0),
        (uid.JPEG2000Lossless, "YBR_RCT", 0),
        (uid.JPEG2000, "YBR_ICT", 4),
        (uid.JPEGBaseline8Bit, "YBR_FULL_422", 4),
    ],
)
def test_photographs_as_highdicom_writes_them(
    tmp_path, photo, sop_class, syntax, photometric, tolerance
):
    file = SCImage(
        pixel_array=photo,
        photometric_interpretation=photometric,
        bits_allocated=8,
        coordinate_system="PATIENT",
        study_instance_uid=highdicom.UID(),
        series_instance_uid=highdicom.UID(),
        sop_instance_uid=highdicom.UID(),
        series_number=1,
        instance_number=1,
        manufacturer="none",
        patient_orientation=("L", "P"),
        transfer_syntax_uid=syntax,
    )
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = sop_class
    file.save_as(tmp_path / "photo.dcm")
    read = read_image(tmp_path / "photo.dcm")
    np.testing.assert_allclose(read.astype(int), photo.astype(int), atol=tolerance)


@pytest.mark.parametrize("planes", [0, 1])
@pytest.mark.parametrize("bits", [8, 16])
def test_planar_configuration_and_depth(write_dicom, pixels, planes, bits):
    stored = pixels.astype(np.uint16) * 256 + 7 if bits == 16 else pixels
    data = (stored.transpose(2, 0, 1) if planes else stored).tobytes()
    path = write_dicom(stored, data=data, PlanarConfiguration=planes)
    np.testing.assert_array_equal(read_image(path), pixels)


def test_samples_of_fewer_bits_fill_the_range(write_dicom):
    color = np.array([[[0, 15, 31], [1, 30, 16]]], np.uint8)
    path = write_dicom(color, BitsStored=5, HighBit=4)
    assert read_image(path)[0].tolist() == [[0, 123, 255], [8, 246, 131]]
    deep = color.astype(np.uint16) << 5
    path = write_dicom(deep, "deep.dcm", BitsStored=10, HighBit=9)
    assert read_image(path)[0].tolist() == [[0, 120, 248], [8, 240, 128]]


def test_signed_color_is_refused(write_dicom, pixels):
    with pytest.raises(ImageReadError, match=r"image\.dcm: DICOM color with signed samples"):
        read_image(write_dicom(pixels, PixelRepresentation=1))


def test_ybr_full(write_dicom, photo):
    stored = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    read = read_image(write_dicom(stored, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(read.astype(int), photo.astype(int), atol=3)


def test_ybr_full_422_of_halved_colors(write_dicom, photo):
    ybr = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    halved = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], -1)
    path = write_dicom(ybr, data=halved.tobytes(), PhotometricInterpretation="YBR_FULL_422")
    read = read_image(path)
    np.testing.assert_allclose(read.astype(int), photo.astype(int), atol=4)
    whole = write_dicom(ybr, "whole.dcm", PhotometricInterpretation="YBR_FULL_422")
    with pytest.raises(ImageReadError, match=r"7680 bytes of pixel data; expected 5120"):
        read_image(whole)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("marker", ["JFIF", "Adobe YCbCr", "Adobe RGB", "none"])
def test_a_jpeg_frame_tells_its_colors_itself(write_dicom, photo, photometric, marker):
    code = jpeg(photo, keep_rgb=marker == "Adobe RGB", subsampling=0)
    if marker == "Adobe YCbCr":
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x01"
        code = code[:2] + adobe + without_marker(code)[2:]
    if marker == "none":
        code = without_marker(jpeg(photo, subsampling=0))
    path = write_dicom(
        photo,
        syntax=uid.JPEGBaseline8Bit,
        data=encapsulate([code]),
        PhotometricInterpretation=photometric,
    )
    expected = photo
    if marker == "none" and photometric == "RGB":  # then the header decides
        expected = np.asarray(Image.fromarray(photo).convert("YCbCr"))
    np.testing.assert_allclose(read_image(path).astype(int), expected.astype(int), atol=4)


def test_grey_jpeg_of_several_frames(write_dicom, photo):
    frames = np.stack([photo[..., 0], photo[::-1, :, 0]])
    for has_table in (True, False):
        data = encapsulate([jpeg(frame) for frame in frames], has_bot=has_table)
        path = write_dicom(frames, syntax=uid.JPEGBaseline8Bit, data=data, frames=2)
        read = read_image(path, frame=1)
        np.testing.assert_allclose(read[..., 0].astype(int), frames[1].astype(int), atol=4)


@pytest.mark.parametrize(
    "syntax",
    [uid.RLELossless, uid.JPEGLSLossless, uid.JPEG2000Lossless],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("bits", [8, 10, 12, 16])
@pytest.mark.parametrize("signed", [False, True])
def test_compressed_grey_reads_as_the_same_uncompressed(write_dicom, syntax, bits, signed):
    values = np.random.default_rng(bits).integers(0, 2**bits, (40, 36))
    lowest = 2 ** (bits - 1) if signed else 0
    kind = ("i" if signed else "u") + ("1" if bits == 8 else "2")
    plain = write_dicom((values - lowest).astype(kind), BitsStored=bits, HighBit=bits - 1)
    np.testing.assert_array_equal(read_image(plain)[..., 0], values >> (bits - 8))
    file = pydicom.dcmread(plain)
    file.compress(syntax, generate_instance_uid=False)
    packed = plain.with_name("packed.dcm")
    file.save_as(packed)
    np.testing.assert_array_equal(read_image(packed), read_image(plain))


@pytest.mark.parametrize("syntax", [uid.JPEGBaseline8Bit, uid.JPEG2000Lossless, uid.JPEGLSLossless])
def test_a_frame_larger_than_its_header_is_not_decoded(write_dicom, photo, syntax):
    code = pydicom.dcmread(_compressed(write_dicom, photo, syntax)).PixelData
    path = write_dicom(photo[:6, :10], "bomb.dcm", syntax=syntax, data=code)
    with pytest.raises(ImageReadError, match=r"holds 64 x 40 pixels of 3 .* expected 10 x 6 of 3"):
        read_image(path)


def _compressed(write_dicom, photo, syntax):
    if syntax == uid.JPEGBaseline8Bit:
        return write_dicom(photo, syntax=syntax, data=encapsulate([jpeg(photo)]))
    path = write_dicom(photo)
    file = pydicom.dcmread(path)
    file.compress(syntax, generate_instance_uid=False)
    file.save_as(path)
    return path


def test_a_cut_jpeg_ls_frame_is_refused_at_once(write_dicom, photo):
    path = _compressed(write_dicom, photo, uid.JPEGLSLossless)
    code = pydicom.encaps.get_frame(pydicom.dcmread(path).PixelData, 0, number_of_frames=1)
    data = encapsulate([code[: len(code) // 2]])
    path = write_dicom(photo, "cut.dcm", syntax=uid.JPEGLSLossless, data=data)
    started = time.perf_counter()
    with pytest.raises(ImageReadError, match=r"cut\.dcm: damaged or truncated frame"):
        read_image(path)
    assert time.perf_counter() - started < 5


def test_rle_that_runs_over_its_end_is_refused(write_dicom):
    # Four segments, for the four bytes of a sample; a run of 128 where 100 are wanted.
    values = np.zeros((10, 10), np.uint32)
    segment = bytes([156, 7, 129, 7])  # 101 and 128 times 7
    starts = [64 + index * len(segment) for index in range(4)]
    code = np.array([4, *starts, *[0] * 11], "<u4").tobytes() + segment * 4
    path = write_dicom(values, syntax=uid.RLELossless, data=encapsulate([code]))
    with pytest.raises(ImageReadError, match=r"image\.dcm: damaged or truncated"):
        read_image(path)


def test_jpeg2000_of_a_million_tiles_or_endless_boxes_is_refused(write_dicom, photo):
    path = _compressed(write_dicom, photo, uid.JPEG2000Lossless)
    code = bytearray(path.read_bytes())
    at = code.index(b"\xff\x4f\xff\x51")
    code[at + 24 : at + 32] = (1).to_bytes(4, "big") * 2
    code[at + 8 : at + 16] = (30_000).to_bytes(4, "big") * 2
    path.write_bytes(code)
    with pytest.raises(ImageReadError, match="damaged or truncated frame"):
        read_image(path)
    endless = b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40)  # a box of no length
    path = write_dicom(photo, "endless.dcm", syntax=uid.JPEG2000, data=encapsulate([endless]))
    with pytest.raises(ImageReadError, match="damaged or truncated frame"):
        read_image(path)


@pytest.mark.parametrize(
    ("syntax", "package"),
    [
        (uid.JPEGLosslessSV1, r"JPEG Lossless.*python-gdcm.*medshadow\[gdcm\]"),
        (uid.JPEGLossless, r"JPEG Lossless.*python-gdcm"),
        (uid.JPEGExtended12Bit, r"JPEG Extended.*pylibjpeg-libjpeg.*GPL"),
    ],
)
def test_a_missing_decoder_is_named_with_its_package(
    write_dicom, monkeypatch, photo, syntax, package
):
    code = bytearray(jpeg(photo))
    at = code.index(b"\xff\xc0")
    code[at + 4] = 12  # bits
    path = write_dicom(photo, syntax=syntax, data=encapsulate([bytes(code)]))
    decoder = pydicom.pixels.get_decoder(syntax)
    monkeypatch.setattr(decoder, "_available", {})
    with pytest.raises(ImageReadError, match=rf"image\.dcm: pixels in {package}"):
        read_image(path)


def test_video_has_no_decoder(write_dicom, photo):
    path = write_dicom(photo, syntax=uid.MPEG2MPML, data=encapsulate([bytes(100)]))
    with pytest.raises(ImageReadError, match=r"pixels in MPEG2.*there is no decoder"):
        read_image(path)
