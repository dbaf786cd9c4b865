"""Small files that decoders would spend hours on are refused at once."""

import io
import random
import struct
import time
import zlib

import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit

from medshadow.data.image_parts import check_parts
from medshadow.data.in_memory import read_image_bytes
from medshadow.errors import ImageReadError


def saved(kind, **options):
    file = io.BytesIO()
    Image.effect_noise((60, 40), 90).convert("RGB").save(file, kind, **options)
    return file.getvalue()


def drawn_over(times):
    """A progressive JPEG whose last scan comes again and again."""
    code = saved("JPEG", progressive=True)
    last = code[code.rindex(b"\xff\xda") : -2]
    return code[:-2] + last * times + b"\xff\xd9"


def chunk(name, value=b""):
    return (
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
    )


def with_chunks(count):
    code = saved("PNG")
    return code[:33] + chunk(b"abCd") * count + code[33:]


def with_pages(count):
    """A TIFF of pages that are one and the same."""
    code = bytearray(saved("TIFF"))
    (first,) = struct.unpack_from("<I", code, 4)
    end = first + 2 + 12 * struct.unpack_from("<H", code, first)[0]
    page = bytes(code[first:end])
    struct.pack_into("<I", code, end, len(code))
    for left in reversed(range(count - 1)):
        after = len(code) + len(page) + 4
        code += page + struct.pack("<I", after if left else 0)
    return bytes(code)


def in_dicom(code):
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    image.SOPClassUID, image.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.77.1.4", "1.2.3"
    image.Rows, image.Columns, image.SamplesPerPixel = 40, 60, 3
    image.PhotometricInterpretation, image.PlanarConfiguration = "YBR_FULL_422", 0
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    image.PixelData = encapsulate([code])
    image["PixelData"].VR = "OB"
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (drawn_over(10_000), "100 scans"),
        (in_dicom(drawn_over(2_000)), "100 scans"),
        (saved("JPEG")[:2] + b"\xff\xfe\0\2" * 1_000_000 + saved("JPEG")[2:], "segments"),
        (with_chunks(200_000), "chunks"),
        (with_pages(20_000), "pages"),
    ],
    ids=["scans", "scans in DICOM", "segments", "chunks", "pages"],
)
def test_files_of_very_many_parts_are_refused_at_once(content, words):
    started = time.perf_counter()
    with pytest.raises(ImageReadError, match=words):
        read_image_bytes(content)
    assert time.perf_counter() - started < 2


def test_a_chain_of_pages_in_a_circle_ends():
    code = bytearray(saved("TIFF"))
    (first,) = struct.unpack_from("<I", code, 4)
    end = first + 2 + 12 * struct.unpack_from("<H", code, first)[0]
    struct.pack_into("<I", code, end, first)
    with pytest.raises(ImageReadError, match="pages"):
        check_parts(bytes(code), "image")


@pytest.mark.parametrize(
    "content",
    [
        saved("JPEG"),
        saved("JPEG", progressive=True),
        saved("JPEG", exif=b"Exif\0\0" + b"\xff\xda" * 1000),
        saved("JPEG") + b"\xff\xda\x00\x02" * 1000,  # a film behind the photograph
        drawn_over(20),
        in_dicom(saved("JPEG")),
        saved("PNG"),
        with_chunks(1000),
        saved("TIFF"),
        saved("TIFF", compression="tiff_lzw"),
        saved("BMP"),
        saved("WEBP"),
    ],
)
def test_files_as_programs_write_them_are_read(content):
    assert read_image_bytes(content).shape == (40, 60, 3)


def test_a_book_is_told_from_a_flood():
    with pytest.raises(ImageReadError, match="holds 5 frames"):
        read_image_bytes(with_pages(5))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_damage_is_left_to_the_decoder(kind):
    draw = random.Random(kind)
    code = saved(kind)
    for _ in range(200):
        damaged = bytearray(code[: draw.randrange(4, len(code) + 1)])
        for _ in range(3):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        check_parts(bytes(damaged), "image")
