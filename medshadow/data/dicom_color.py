"""From the sample values stored in a DICOM frame to RGB (PS3.3 C.7.6.3, C.7.9, C.11.1, C.11.2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut

from medshadow.data.dicom_attributes import PHOTOMETRIC
from medshadow.data.dicom_frames import Samples
from medshadow.data.image_files import grey_to_rgb
from medshadow.errors import ImageReadError

Values = npt.NDArray[Any]
Bytes = npt.NDArray[np.uint8]

_BLOCK = 2**20


def to_rgb(samples: Samples, header: Dataset, frame: int, big_endian: bool, path: object) -> Bytes:
    """The frame as a screen shows it, uint8 of rows x columns x 3, writable.

    Raises:
        ImageReadError: the photometric interpretation has no known way to RGB.
        Exception: whatever follows from attributes that break the standard.
    """
    values, photometric, bits = samples
    grey = photometric in ("MONOCHROME1", "MONOCHROME2")
    if values.ndim == 2 and grey:
        shades = _Grey(header, frame, bits, photometric == "MONOCHROME1", big_endian)
        return grey_to_rgb(_through_table(values, shades))
    if values.ndim == 2 and photometric == "PALETTE COLOR":
        return _through_table(values, lambda index: _palette(index, header, big_endian))
    if values.ndim == 3 and photometric in ("RGB", "YBR_FULL", "YBR_FULL_422"):
        if values.dtype.kind != "u":
            raise ImageReadError(f"{path}: DICOM color with signed samples; expected unsigned")
        color = _eight_bits(values, bits)
        return np.array(color) if photometric == "RGB" else _from_ybr(color)
    named = photometric if photometric in PHOTOMETRIC else "an unknown one"
    raise ImageReadError(
        f"{path}: DICOM with {1 if values.ndim == 2 else 3} samples a pixel and photometric "
        f"interpretation {named}; expected MONOCHROME1, MONOCHROME2 or PALETTE COLOR with one, "
        "RGB, YBR_FULL, YBR_FULL_422, YBR_ICT or YBR_RCT with three"
    )


def _through_table(values: Values, shade: Callable[[Values], Bytes]) -> Bytes:
    """Apply a function of the value alone: once a value where there are fewer of them than pixels.

    In blocks of rows, so that the memory of indices and floats stays small.
    """
    low, high = int(values.min()), int(values.max())
    table = shade(np.arange(low, high + 1)) if high - low < values.size else None

    def shown(block: Values) -> Bytes:
        if table is None:
            return shade(block.astype(np.int64))
        return table.take(np.subtract(block, low, dtype=np.intp), axis=0)

    rows = max(1, _BLOCK // values.shape[1])
    return np.concatenate(
        [shown(values[start : start + rows]) for start in range(0, len(values), rows)]
    )


class _Grey:
    """Stored grey values to 0..255: modality transform, then VOI transform, as the header says."""

    def __init__(
        self, header: Dataset, frame: int, bits: int, inverted: bool, big_endian: bool
    ) -> None:
        self.header = header
        self.sources = [*_frame_items(header, frame), header]
        self.inverted = inverted
        self.big_endian = big_endian
        signed = header.PixelRepresentation == 1
        self.range = (-(2.0 ** (bits - 1)), 2.0 ** (bits - 1) - 1) if signed else (0, 2.0**bits - 1)

    def __call__(self, stored: Values) -> Bytes:
        values, low, high = self._modality(stored)
        level = self._voi(values)
        if level is None:
            level = (values - low) / (high - low)
        # The upper 8 bits, as of a 16-bit PNG: 256 equal steps.
        grey = np.clip(np.floor(level * 256), 0, 255).astype(np.uint8)
        if self.inverted:
            grey = 255 - grey
        first = _number(self.header.get("PixelPaddingValue"))
        if first is not None:
            last = _number(self.header.get("PixelPaddingRangeLimit"))
            last = first if last is None else last
            grey[(stored >= min(first, last)) & (stored <= max(first, last))] = 0
        return grey

    def _modality(self, stored: Values) -> tuple[Values, float, float]:
        """Values in the unit of the modality, and the lowest and highest there can be."""
        sequence = self._find("ModalityLUTSequence")
        if sequence:
            values, bits = _lookup(stored, sequence[0], self.big_endian)
            return values, 0.0, 2.0**bits - 1
        slope = _number(self._find("RescaleSlope"))
        intercept = _number(self._find("RescaleIntercept"))
        low, high = self.range
        if not slope or intercept is None:
            return stored, low, high
        ends = sorted((low * slope + intercept, high * slope + intercept))
        return stored * slope + intercept, ends[0], ends[1]

    def _voi(self, values: Values) -> Values | None:
        """Levels of 0 to 1, or None where the header has no VOI LUT and no valid window."""
        sequence = self._find("VOILUTSequence")
        if sequence and "LUTDescriptor" in sequence[0] and "LUTData" in sequence[0]:
            found, bits = _lookup(values, sequence[0], self.big_endian)
            return found / (2.0**bits - 1)
        center = _number(self._find("WindowCenter"))
        width = _number(self._find("WindowWidth"))
        if center is None or width is None:
            return None
        function = self._find("VOILUTFunction") or "LINEAR"
        if function == "SIGMOID" and width > 0:
            return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        if function == "LINEAR_EXACT" and width > 0:
            return np.clip((values - center) / width + 0.5, 0, 1)
        if function not in ("SIGMOID", "LINEAR_EXACT") and width >= 1:
            # A width of 1 is a step at the center: the standard's "else if" order.
            slope = np.maximum(width - 1, 1e-9)
            return np.clip((values - (center - 0.5)) / slope + 0.5, 0, 1)
        return None

    def _find(self, keyword: str) -> Any:
        found = (source.get(keyword) for source in self.sources if keyword in source)
        return next(found, None)


def _frame_items(header: Dataset, frame: int) -> list[Dataset]:
    """The items of an enhanced file that may hold the frame's own window and rescale."""
    found: list[Dataset] = []
    for keyword, index in (
        ("PerFrameFunctionalGroupsSequence", frame),
        ("SharedFunctionalGroupsSequence", 0),
    ):
        groups = header.get(keyword) or []
        if index < len(groups):
            for name in ("FrameVOILUTSequence", "PixelValueTransformationSequence"):
                found += (groups[index].get(name) or [])[:1]
    return found


def _number(value: Any) -> float | None:
    """The first of one or several values, or None where there is none or it is not finite."""
    if value is None or value == "":
        return None
    try:
        first = float(value)
    except TypeError:
        first = float(value[0]) if len(value) else math.nan
    return first if math.isfinite(first) else None


def _lookup(values: Values, item: Dataset, big_endian: bool) -> tuple[Values, int]:
    """Values through a modality or VOI lookup table, and the bits of its entries."""
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    entries = entries or 2**16
    if not 1 <= bits <= 16:
        raise ValueError("bits of a lookup table")
    data = item.LUTData
    table = _words(data, entries, big_endian) if isinstance(data, bytes) else np.atleast_1d(data)
    if first > 2**15 - 1 and values.min() < 0:
        first -= 2**16  # written as unsigned
    index = np.clip(np.rint(values) - first, 0, entries - 1).astype(np.int64)
    return table[:entries].astype(np.int64)[index], bits


def _words(data: bytes, entries: int, big_endian: bool) -> Values:
    """The entries of a table that was stored as bytes: of 8 or of 16 bits."""
    width = 2 if len(data) // entries >= 2 else 1
    return np.frombuffer(data, f"{'>' if big_endian else '<'}u{width}", count=entries)


def _palette(index: Values, header: Dataset, big_endian: bool) -> Bytes:
    entries, first, bits = (int(number) for number in header.RedPaletteColorLookupTableDescriptor)
    entries = entries or 2**16
    if "RedPaletteColorLookupTableData" not in header:
        if entries > 2**bits:
            raise ValueError("more entries than pydicom can tell apart")
        return _eight_bits(apply_color_lut(index, header)[..., :3], bits)
    names = [f"{color}PaletteColorLookupTableData" for color in ("Red", "Green", "Blue")]
    tables = np.stack([_words(header[name].value, entries, big_endian) for name in names], -1)
    if first > 2**15 - 1 and index.min() < 0:
        first -= 2**16
    return _eight_bits(tables, bits)[np.clip(index - first, 0, entries - 1)]


def _eight_bits(color: Values, bits: int) -> Bytes:
    """Unsigned samples of any depth to 8 bits: the upper ones, or spread over the range."""
    if bits == 8:
        return color.astype(np.uint8, copy=False)
    if bits > 8:
        return (color >> (bits - 8)).astype(np.uint8)
    return (color.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)


def _from_ybr(color: Bytes) -> Bytes:
    packed = np.ascontiguousarray(color)
    size = (packed.shape[1], packed.shape[0])
    image = Image.frombuffer("YCbCr", size, packed, "raw", "YCbCr", 0, 1)
    return np.array(image.convert("RGB"))
