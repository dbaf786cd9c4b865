"""What the readers share: what kind of image a file holds, how large one may be, grey as RGB."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import numpy.typing as npt

from medshadow.errors import ImageReadError, ImageTooLargeError

MAX_BYTES = 2**30
"""Largest file that is opened, in bytes: 1 GiB."""
MAX_PIXELS = 2**26
"""Largest image that is decoded, in pixels: 8192 x 8192, 192 MiB as RGB."""
MAX_SIDE = 2**15 - 2
"""Longest side that is decoded, in pixels: OpenCV's warps take no longer one."""
MAX_FRAME_BYTES = 2**29
"""Largest picture as stored, in bytes: 8192 x 8192 pixels of 3 x 16 bits, and some."""
HEAD = 352
"""How many bytes of a file ``is_dicom`` and ``is_nifti`` look at."""
FORMATS = "JPEG, PNG, TIFF, BMP, WEBP, DICOM or NIfTI"

_lower_limit: ContextVar[int | None] = ContextVar("medshadow_max_pixels", default=None)


@contextmanager
def at_most_pixels(pixels: int) -> Iterator[None]:
    """Within it and in its thread, images of more pixels than these are not decoded."""
    token = _lower_limit.set(pixels)
    try:
        yield
    finally:
        _lower_limit.reset(token)


def _max_pixels() -> int:
    lower = _lower_limit.get()
    return MAX_PIXELS if lower is None else min(lower, MAX_PIXELS)


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise ``ImageReadError`` unless there is a file, not empty and not too large to open."""
    expected = f"expected an image file ({FORMATS})"
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageReadError(f"{path}: cannot be opened ({reason}); {expected}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ImageReadError(f"{path}: not a file; {expected}")
    check_not_empty(path, status.st_size)
    if status.st_size > MAX_BYTES:
        raise ImageReadError(
            f"{path}: file of {status.st_size} bytes; expected at most {MAX_BYTES} bytes"
        )


def check_not_empty(path: object, size: int) -> None:
    """Raise ``ImageReadError`` for a file of no bytes."""
    if size == 0:
        raise ImageReadError(f"{path}: empty file (0 bytes); expected an image file ({FORMATS})")


def check_size(path: object, width: int, height: int) -> None:
    """Raise ``ImageReadError`` for an image without pixels, or with too many to decode."""
    if width < 1 or height < 1:
        raise ImageReadError(f"{path}: {width} x {height} pixels; expected at least one")
    if width * height > _max_pixels() or max(width, height) > MAX_SIDE:
        raise too_large(path, f"{width} x {height} pixels")


def too_large(path: object, found: object) -> ImageTooLargeError:
    """The error for an image that is not decoded because of its size."""
    return ImageTooLargeError(
        f"{path}: image too large ({found}); expected at most {_max_pixels()} pixels, "
        f"{MAX_SIDE} on a side and {MAX_FRAME_BYTES} bytes"
    )


def check_frame(path: object, count: int, frame: int | None) -> int:
    """The index of the frame to read; an ``ImageReadError`` where it is missing or wanting."""
    if frame is None and count > 1:
        raise ImageReadError(f"{path}: holds {count} frames; expected one, or a frame number")
    if frame is not None and not 0 <= frame < count:
        raise ImageReadError(f"{path}: no frame {frame}; expected 0 to {count - 1}")
    return frame or 0


def is_dicom(head: bytes) -> bool:
    """Whether a file that begins with these bytes is DICOM.

    Files without the preamble are recognised by their first element, of group 2 or 8.
    """
    if head[128:132] == b"DICM":
        return True
    known_vr = head[4:6].isalpha() and head[4:6].isupper()
    if head[:2] in (b"\x02\x00", b"\x00\x08"):
        return known_vr
    short = head[6:8] == b"\0\0" and head[4:6] != b"\0\0"  # implicit VR: a length, not nothing
    return head[:2] == b"\x08\x00" and (known_vr or short)


def is_nifti(head: bytes) -> bool:
    """Whether a file that begins with these bytes is NIfTI-1 or NIfTI-2, or may be its gzip."""
    magic = (head[344:348], head[4:8])
    return head[:2] == b"\x1f\x8b" or any(
        found in magic for found in (b"n+1\0", b"ni1\0", b"n+2\0", b"ni2\0")
    )


def grey_to_rgb(grey: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Rows x columns as rows x columns x 3; by channels, four times as fast as by pixels."""
    color = np.empty((*grey.shape, 3), np.uint8)
    for channel in range(3):
        color[..., channel] = grey
    return color
