"""Decode one frame of a DICOM file to the sample values that are stored in it.

JPEG baseline is decoded by Pillow alone, whose libjpeg goes by the markers inside the frame:
pydicom 3.0 converts YCbCr twice where an Adobe marker announces it. The other syntaxes go through
pydicom's decoders, each by one named plugin, so that an installed extra changes no pixel.
"""

from __future__ import annotations

import io
import struct
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels import as_pixel_options, get_decoder
from pydicom.uid import UID

from medshadow.data.image_files import MAX_FRAME_BYTES, check_size, too_large
from medshadow.data.image_parts import check_parts
from medshadow.errors import ImageReadError

_MAX_TILES = 2**14

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit)
_JPEG2000 = (*uid.JPEG2000TransferSyntaxes, uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)
_PLUGINS = {
    **dict.fromkeys(_JPEG2000, ("pylibjpeg",)),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, ("pyjpegls",)),
    uid.RLELossless: ("pylibjpeg", "pydicom"),
    uid.JPEGLossless: ("gdcm", "pylibjpeg"),
    uid.JPEGLosslessSV1: ("gdcm", "pylibjpeg"),
    uid.JPEGExtended12Bit: ("pylibjpeg",),
}
_PACKAGES = {
    **dict.fromkeys(_JPEG2000, "pylibjpeg and pylibjpeg-openjpeg"),
    **dict.fromkeys(uid.JPEGLSTransferSyntaxes, "pyjpegls"),
    uid.JPEGLossless: "python-gdcm (the extra medshadow[gdcm])",
    uid.JPEGLosslessSV1: "python-gdcm (the extra medshadow[gdcm])",
    uid.JPEGExtended12Bit: "pylibjpeg and pylibjpeg-libjpeg, which is under the GPL",
}


class Pixels(NamedTuple):
    """The pixel data of an open file: where its value begins, and what it is said to hold."""

    file: BinaryIO
    syntax: UID
    keyword: str
    vr: str
    length: int
    frames: int


class Samples(NamedTuple):
    """One frame: rows x columns (x 3), how its samples make a color, and their bits."""

    values: npt.NDArray[Any]
    photometric: str
    bits: int


def decode_frame(header: Dataset, pixels: Pixels, frame: int, path: object) -> Samples:
    """Decode a frame; sizes are checked before anything of that size is held.

    Raises:
        ImageReadError: the transfer syntax has no decoder here, or the frame is too large or not
            of the size that the header names.
        Exception: whatever pydicom and the decoders make of damaged bytes.
    """
    for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored"):
        if not isinstance(header.get(keyword), int):
            raise ImageReadError(f"{path}: DICOM file without {keyword}; expected an image")
    check_size(path, header.Columns, header.Rows)
    samples = header.Rows * header.Columns * header.SamplesPerPixel
    if samples * header.BitsAllocated > 8 * MAX_FRAME_BYTES:
        found = f"{samples} samples of {header.BitsAllocated} bits"
        raise too_large(path, found)
    if not pixels.syntax.is_encapsulated:
        return _native(header, pixels, frame, path)
    offsets = None
    if header.get("ExtendedOffsetTable") and header.get("ExtendedOffsetTableLengths"):
        offsets = (header.ExtendedOffsetTable, header.ExtendedOffsetTableLengths)
    code = get_frame(pixels.file, frame, extended_offsets=offsets, number_of_frames=pixels.frames)
    _check_code(header, pixels.syntax, code, path)
    check_parts(code, path)
    if pixels.syntax in _JPEG and _precision(code) == 8:
        return _jpeg(header, code)
    return _compressed(header, pixels, code, path)


def _native(header: Dataset, pixels: Pixels, frame: int, path: object) -> Samples:
    options = _options(header, pixels, pixels.frames)
    bits = header.Rows * header.Columns * header.SamplesPerPixel * header.BitsAllocated
    if header.PhotometricInterpretation == "YBR_FULL_422":
        bits = bits // 3 * 2
    held, expected = pixels.length, -(-bits * pixels.frames // 8)
    # Half as much again in a file that claims halved colors: they are not halved, and whether
    # they are YBR at all is anyone's guess.
    misnamed = header.PhotometricInterpretation == "YBR_FULL_422" and held >= expected * 3 // 2
    if held < expected or misnamed:
        raise ImageReadError(
            f"{path}: {held} bytes of pixel data; expected {expected} for {pixels.frames} frames "
            f"of {header.Columns} x {header.Rows} pixels"
        )
    options["view_only"] = True
    values, found = get_decoder(pixels.syntax).as_array(
        pixels.file, index=frame, raw=True, **options
    )
    return Samples(values, str(found["photometric_interpretation"]), header.BitsStored)


def _compressed(header: Dataset, pixels: Pixels, code: bytes, path: object) -> Samples:
    decoder = get_decoder(pixels.syntax)
    wanted = _PLUGINS[pixels.syntax]
    plugin = next((name for name in wanted if name in decoder.available_plugins), None)
    if plugin is None:
        raise ImageReadError(
            f"{path}: pixels in {pixels.syntax.name}, which needs a decoder that is not "
            f"installed; expected {_PACKAGES[pixels.syntax]}"
        )
    try:
        values, found = decoder.as_array(
            encapsulate([code], has_bot=False),
            raw=True,
            decoding_plugin=plugin,
            **_options(header, pixels, 1),
        )
    except BaseException as error:
        # What pylibjpeg-rle, written in Rust, raises where it fails is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        values = None
    if values is None:
        raise ImageReadError(f"{path}: damaged or truncated frame; expected {pixels.syntax.name}")
    return Samples(values, str(found["photometric_interpretation"]), header.BitsStored)


def _options(header: Dataset, pixels: Pixels, frames: int) -> dict[str, Any]:
    options = as_pixel_options(header, number_of_frames=frames)
    options.pop("extended_offsets", None)
    return {**options, "pixel_keyword": pixels.keyword, "pixel_vr": pixels.vr}


def _jpeg(header: Dataset, code: bytes) -> Samples:
    with Image.open(io.BytesIO(code), formats=("JPEG",)) as image:
        if image.mode == "L":
            return Samples(np.asarray(image), header.PhotometricInterpretation, 8)
        marked = "jfif" in image.info or "adobe_transform" in image.info
        # A frame that does not tell is taken for YCbCr by libjpeg; the header knows better. The
        # "draft" leaves its three components as they are.
        if header.PhotometricInterpretation == "RGB" and not marked:
            named = bytes(component[0] for component in image.layer) in (b"RGB", b"rgb")  # type: ignore[attr-defined]
            if not named:
                image.draft("YCbCr", image.size)
        return Samples(np.asarray(image), "RGB", 8)


def _check_code(header: Dataset, syntax: UID, code: bytes, path: object) -> None:
    """Refuse a compressed frame that would decode to another size than the header's."""
    if syntax not in _PLUGINS and syntax not in _JPEG:
        raise ImageReadError(f"{path}: pixels in {syntax.name}, for which there is no decoder")
    if syntax == uid.RLELossless:
        return
    found = _size_in_jpeg2000(code) if syntax in _JPEG2000 else _size_in_jpeg(code)
    expected = (header.Columns, header.Rows, header.SamplesPerPixel)
    # CharLS 2.4 searches a cut frame for bits that are not there for many seconds.
    cut = syntax in uid.JPEGLSTransferSyntaxes and not code.rstrip(b"\0").endswith(b"\xff\xd9")
    if found is None or cut:
        raise ImageReadError(f"{path}: damaged or truncated frame; expected {syntax.name}")
    if found != expected:
        raise ImageReadError(
            f"{path}: the frame holds {found[0]} x {found[1]} pixels of {found[2]} samples; "
            f"expected {expected[0]} x {expected[1]} of {expected[2]} as in the header"
        )


def _size_in_jpeg(code: bytes) -> tuple[int, int, int] | None:
    at = _start_of_frame(code)
    if at is None:
        return None
    rows, columns, components = struct.unpack(">HHB", code[at + 5 : at + 10])
    return columns, rows, components


def _precision(code: bytes) -> int | None:
    at = _start_of_frame(code)
    return None if at is None else code[at + 4]


def _start_of_frame(code: bytes) -> int | None:
    """Where the segment lies that names the size (ISO 10918-1 B.2.2, 14495-1 C.2.2)."""
    at = 2
    while at + 10 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:  # fill
            at += 1
        elif marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return at
        else:
            at += 2 + int.from_bytes(code[at + 2 : at + 4], "big")
    return None


def _size_in_jpeg2000(code: bytes) -> tuple[int, int, int] | None:
    """Width, height and components of a codestream, bare or in a JP2 file (ISO 15444-1 A.5.1)."""
    at = 0
    if code.startswith(b"\0\0\0\x0cjP  "):
        while code[at + 4 : at + 8] != b"jp2c":
            length = int.from_bytes(code[at : at + 4], "big")
            if length < 8 or at > len(code):
                return None
            at += length
        at += 8
    if code[at : at + 4] != b"\xff\x4f\xff\x51" or len(code) < at + 42:
        return None
    right, lower, left, upper, tile_width, tile_height = struct.unpack(
        ">6I", code[at + 8 : at + 32]
    )
    width, height = right - left, lower - upper
    components = int.from_bytes(code[at + 40 : at + 42], "big")
    tiles = -(-width // max(1, tile_width)) * -(-height // max(1, tile_height))
    if tiles > _MAX_TILES:  # each costs OpenJPEG kilobytes before any is decoded
        return None
    return width, height, components
