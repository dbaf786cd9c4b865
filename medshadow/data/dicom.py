"""Read the pictures of DICOM files, and the few attributes of them that may go further.

A DICOM file carries names, numbers and dates beside its picture. Only the elements that are needed
are read at all, and what pydicom says about them goes nowhere: its errors, warnings and log records
quote the values that they are about.
"""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID

from medshadow.data.dicom_attributes import ATTRIBUTES, allowed_values
from medshadow.data.dicom_color import to_rgb
from medshadow.data.dicom_frames import Pixels, decode_frame
from medshadow.data.image_files import HEAD, check_file, check_frame, is_dicom
from medshadow.errors import ImageReadError

MAX_FRAMES = 2**20
"""More frames than this are taken for a damaged header."""
MAX_INFLATED = 2**29
"""Largest data set that a deflated file may hold, in bytes."""

_PIXELS = {
    0x7FE00008: "FloatPixelData",
    0x7FE00009: "DoubleFloatPixelData",
    0x7FE00010: "PixelData",
}
_NEEDED = [
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "BurnedInAnnotation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "ModalityLUTSequence",
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence",
    "RedPaletteColorLookupTableDescriptor", "GreenPaletteColorLookupTableDescriptor",
    "BluePaletteColorLookupTableDescriptor", "RedPaletteColorLookupTableData",
    "GreenPaletteColorLookupTableData", "BluePaletteColorLookupTableData",
    "SegmentedRedPaletteColorLookupTableData", "SegmentedGreenPaletteColorLookupTableData",
    "SegmentedBluePaletteColorLookupTableData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip
_DISPLAY = [tag_for_keyword(name) for name in _NEEDED]


def read_dicom(
    file: BinaryIO, path: object, frame: int | None, burned_in: str
) -> npt.NDArray[np.uint8]:
    """Read one frame of an open DICOM file as RGB; see ``medshadow.data.read_image``."""
    silence_pydicom()
    try:
        return _read(file, path, frame, burned_in)
    except ImageReadError:
        raise
    except Exception as error:
        kind = type(error).__name__
    # Outside the handler, so that pydicom's error does not travel along as the context of ours.
    raise ImageReadError(
        f"{path}: damaged or truncated DICOM file, or one that breaks the standard ({kind}); "
        "expected a whole DICOM image"
    )


def dicom_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """The attributes of a DICOM file that a case table may carry: an allow-list.

    Names, identifiers, dates and free text are never read. What is left is checked against the
    values that the standard defines, so that a name that was typed into the wrong field stays out
    too; coded concepts give the meaning that the standard's dictionary has for their code, not the
    text that stands in the file. Ages above 89 become "090Y".

    Args:
        path: the file.

    Returns:
        Value by attribute, for those that the file has with a value that may pass: "Modality",
        "SOPClass", "PatientSex", "PatientAge", "Laterality", "ImageLaterality",
        "BodyPartExamined", "AnatomicRegion", "AnatomicRegionModifier",
        "PrimaryAnatomicStructure", "View", "AcquisitionDevice", "PupilDilated",
        "BurnedInAnnotation", "PhotometricInterpretation", "Rows", "Columns", "NumberOfFrames".

    Raises:
        ImageReadError: the file is missing, no DICOM file, or damaged; the message names the file
            and none of its values.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> found = dicom_metadata(get_testdata_file("examples_rgb_color.dcm"))
        >>> found["Modality"], found["SOPClass"], "PatientName" in found
        ('US', 'Ultrasound Image Storage', False)
    """
    silence_pydicom()
    check_file(path)
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            if not is_dicom(file.read(HEAD)):
                raise ImageReadError(f"{path}: not a DICOM file")
            header, _ = _open(file, path, [tag_for_keyword(name) for name in ATTRIBUTES])
            return allowed_values(header)
    except ImageReadError:
        raise
    except Exception as error:
        kind = type(error).__name__
    raise ImageReadError(f"{path}: damaged or truncated DICOM file ({kind}); expected a whole one")


def _read(file: BinaryIO, path: object, frame: int | None, burned_in: str) -> npt.NDArray[np.uint8]:
    header, pixels = _open(file, path, _DISPLAY)
    if burned_in == "refuse" and str(header.get("BurnedInAnnotation", "")).upper() == "YES":
        raise ImageReadError(
            f"{path}: BurnedInAnnotation is YES, so the picture may show who the patient is; "
            'expected NO, or burned_in="allow" (MEDSHADOW_BURNED_IN=allow) once it was looked at'
        )
    if pixels is None:
        raise ImageReadError(f"{path}: DICOM file without pixel data; expected an image")
    if pixels.keyword != "PixelData":
        raise ImageReadError(f"{path}: DICOM with {pixels.keyword}; expected whole-number samples")
    if pixels.frames > MAX_FRAMES:
        raise ImageReadError(f"{path}: DICOM of more than {MAX_FRAMES} frames; expected fewer")
    index = check_frame(path, pixels.frames, frame)
    samples = decode_frame(header, pixels, index, path)
    return to_rgb(samples, header, index, not pixels.syntax.is_little_endian, path)


def _open(file: BinaryIO, path: object, tags: list[Any]) -> tuple[Dataset, Pixels | None]:
    """The wanted elements, and the pixel data with the file standing at its value."""
    file.seek(128)
    if file.read(4) != b"DICM":
        file.seek(0)
    meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag >> 16 != 2)
    syntax = UID(meta.get("TransferSyntaxUID") or _guessed_syntax(file))
    if not syntax.is_transfer_syntax:
        raise ImageReadError(f"{path}: DICOM in a transfer syntax that the standard does not know")
    if syntax.is_deflated:
        file = _inflated(file, path)
    header = read_dataset(
        file,
        syntax.is_implicit_VR,
        syntax.is_little_endian,
        stop_when=lambda tag, vr, length: tag in _PIXELS,
        specific_tags=tags,
    )
    header.set_original_encoding(syntax.is_implicit_VR, syntax.is_little_endian)
    return header, _pixels(file, syntax, header)


def _guessed_syntax(file: BinaryIO) -> UID:
    start = file.read(6)
    file.seek(-len(start), io.SEEK_CUR)
    if start[:2] == b"\x00\x08":
        return uid.ExplicitVRBigEndian
    return uid.ExplicitVRLittleEndian if start[4:6].isalpha() else uid.ImplicitVRLittleEndian


def _pixels(file: BinaryIO, syntax: UID, header: Dataset) -> Pixels | None:
    order = "<" if syntax.is_little_endian else ">"
    start = file.read(8)
    if len(start) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", start[:4])
    # Compressed files have been written with the implicit header that none of them may have.
    explicit = start[4:6] in (b"OB", b"OW", b"UN", b"OF", b"OD")
    vr, length = (start[4:6].decode(), file.read(4)) if explicit else ("OW", start[4:])
    frames = int(header.get("NumberOfFrames") or 1)
    return Pixels(
        file,
        syntax,
        _PIXELS[group << 16 | element],
        vr,
        struct.unpack(f"{order}L", length)[0],
        max(1, frames),
    )


def _inflated(file: BinaryIO, path: object) -> BinaryIO:
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    whole = io.BytesIO()
    while chunk := file.read(2**20):
        whole.write(engine.decompress(chunk, MAX_INFLATED + 1 - whole.tell()))
        if whole.tell() > MAX_INFLATED:
            raise ImageReadError(
                f"{path}: deflated DICOM file that holds more than {MAX_INFLATED} bytes; "
                "expected at most that"
            )
    whole.seek(0)
    return whole


def silence_pydicom() -> None:
    """Keep pydicom's warnings and log records, which quote element values, inside the process.

    Said anew with each file: test runners and others put the filters back.
    """
    logging.getLogger("pydicom").propagate = False
    if _IGNORED not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def _ignored() -> Any:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
        return warnings.filters[0]


_IGNORED = _ignored()
