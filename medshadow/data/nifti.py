"""Read the pictures of NIfTI-1 and NIfTI-2 files (.nii, .nii.gz): photographs, slices of volumes.

Only the numbers of the header are read: its free text (description, intent, extensions) may name a
patient.
"""

from __future__ import annotations

import gzip
import io
import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt
from nibabel.arrayproxy import ArrayProxy
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header

from medshadow.data.image_files import (
    MAX_BYTES,
    MAX_FRAME_BYTES,
    check_frame,
    check_size,
    grey_to_rgb,
    too_large,
)
from medshadow.errors import ImageReadError

_HEAD = 540
_MAX_OFFSET = 2**24
"""Extensions of a header before its pixels: 16 MiB; in a gzip file they cost time to skip."""


def read_nifti(file: BinaryIO, path: object, frame: int | None) -> npt.NDArray[np.uint8]:
    """Read one picture of an open NIfTI file as RGB; see ``medshadow.data.read_image``."""
    try:
        return _read(file, path, frame)
    except ImageReadError:
        raise
    except Exception as error:
        kind = type(error).__name__
    raise ImageReadError(
        f"{path}: damaged or truncated NIfTI file ({kind}); expected a whole .nii or .nii.gz file"
    )


def _header_class(head: bytes) -> Any:
    if head[344:348] in (b"n+1\0", b"ni1\0"):
        return Nifti1Header
    return Nifti2Header if head[4:8] in (b"n+2\0", b"ni2\0") else None


def _read(file: BinaryIO, path: object, frame: int | None) -> npt.NDArray[np.uint8]:
    source: Any = file
    if file.read(2) == b"\x1f\x8b":
        source = gzip.GzipFile(fileobj=file)
        file.seek(0)
    source.seek(0)
    head = source.read(_HEAD)
    kind = _header_class(head)
    if kind is None:
        raise ImageReadError(f"{path}: a gzip file without a NIfTI image; expected .nii.gz")
    if head[344:347] == b"ni1" or head[4:7] == b"ni2":
        raise ImageReadError(
            f"{path}: NIfTI header whose pixels are in another file (.hdr and .img); expected "
            "one file, .nii or .nii.gz"
        )
    header = kind.from_fileobj(io.BytesIO(head), check=False)
    layout = _layout(header, path)
    dims = header.get_data_shape()
    check_size(path, dims[0], dims[1])
    index = check_frame(path, layout.frames, frame)
    _check_bytes(header, layout, file if source is file else None, path)
    slope, intercept = (None, None) if layout.named else header.get_slope_inter()
    place = int(header["vox_offset"])
    stored = header.get_data_dtype()
    # Nibabel reads the one picture alone, and applies the scale.
    data = ArrayProxy(source, (dims, stored, place, slope or 1.0, intercept or 0.0), mmap=False)
    picture = np.asarray(data[layout.slicer(index)])
    if layout.named:
        picture = np.stack([picture[name] for name in stored.names], axis=-1)
    # Columns come first in the file, rows first in a picture.
    turned = picture.swapaxes(0, 1)
    return _rgb(_eight_bits(turned, header))


class _Layout(NamedTuple):
    """Which axes beyond the second hold the frames and the colors; None: no axis does."""

    dims: tuple[int, ...]
    frame_axis: int | None
    color_axis: int | None
    named: bool

    @property
    def frames(self) -> int:
        return 1 if self.frame_axis is None else self.dims[self.frame_axis]

    def slicer(self, frame: int) -> tuple[Any, ...]:
        kept = {0, 1, self.color_axis}
        return tuple(
            slice(None) if axis in kept else frame if axis == self.frame_axis else 0
            for axis in range(len(self.dims))
        )


def _layout(header: Any, path: object) -> _Layout:
    dims = tuple(int(size) for size in header.get_data_shape())
    stored = header.get_data_dtype()
    named = stored.names is not None and set(stored.names) <= set("RGBA")
    if len(dims) < 2 or min(dims) < 1 or (stored.kind not in "iuf" and not named):
        raise ImageReadError(
            f"{path}: NIfTI of {dims} values of type {stored}; expected two axes or more of whole "
            "or floating-point numbers or of RGB"
        )
    axes = [axis for axis in range(2, len(dims)) if dims[axis] > 1]
    color = axes.pop() if not named and axes and dims[axes[-1]] == 3 else None
    if len(axes) > 1:
        raise ImageReadError(
            f"{path}: NIfTI of {' x '.join(map(str, dims))} values; expected a picture, a volume, "
            "or either with a last axis of 3 for the colors"
        )
    return _Layout(dims, axes[0] if axes else None, color, named)


def _check_bytes(header: Any, layout: _Layout, file: BinaryIO | None, path: object) -> None:
    """Refuse what is too large, or not there, before any of it is read or inflated."""
    size = header.get_data_dtype().itemsize
    picture = size * layout.dims[0] * layout.dims[1] * (1 if layout.color_axis is None else 3)
    whole = size * math.prod(layout.dims)
    place = float(header["vox_offset"])
    if not _HEAD - 192 <= place <= _MAX_OFFSET:
        raise ImageReadError(
            f"{path}: NIfTI whose pixels begin at byte {place:g}; expected {_HEAD - 192} to "
            f"{_MAX_OFFSET}"
        )
    if picture > MAX_FRAME_BYTES or whole > MAX_BYTES:
        raise too_large(path, f"{whole} bytes, {picture} a picture")
    held = None if file is None else file.seek(0, io.SEEK_END) - int(place)
    if held is not None and held < whole:
        raise ImageReadError(f"{path}: truncated NIfTI ({held} bytes of pixels; expected {whole})")


def _eight_bits(values: npt.NDArray[Any], header: Any) -> npt.NDArray[np.uint8]:
    if values.dtype == np.uint8:
        return values
    low, high = float(header["cal_min"]), float(header["cal_max"])
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    shown = np.zeros(values.shape, np.uint8)
    if low < high:
        for row, line in zip(shown, values, strict=True):
            finite = np.nan_to_num(line.astype(np.float64), nan=low, posinf=high, neginf=low)
            # Halves, since the whole span of two large numbers may be infinite.
            level = (np.clip(finite, low, high) / 2 - low / 2) / (high / 2 - low / 2)
            row[...] = np.minimum(np.floor(level * 256), 255)
    return shown


def _rgb(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    if picture.ndim == 2:
        return grey_to_rgb(picture)
    if picture.shape[2] == 4:  # over white
        color, opaque = picture[..., :3].astype(np.uint16), picture[..., 3:].astype(np.uint16)
        return ((color * opaque + 255 * (255 - opaque) + 127) // 255).astype(np.uint8)
    return np.array(picture, order="C")
