"""Read image files that are in memory, such as uploads, which must not touch the disk."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from medshadow.data import readers
from medshadow.data.image_files import (
    FORMATS,
    HEAD,
    MAX_PIXELS,
    at_most_pixels,
    is_dicom,
    is_nifti,
)
from medshadow.errors import ImageReadError

_NAME = "image"


def read_image_bytes(
    content: bytes, frame: int | None = None, *, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.uint8]:
    """Read one image whose file is in memory, as ``read_image`` reads it; nothing is written.

    Args:
        content: the whole file.
        frame: which frame or slice of a file that holds several, from 0.
        max_pixels: larger images are refused before they are decoded; ``MAX_PIXELS`` at most.

    Returns:
        uint8 array of height x width x 3, range 0 to 255, writable.

    Raises:
        ImageTooLargeError: more pixels than that.
        ImageReadError: as for ``read_image``; the message begins with "image".

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 200).save(file, "PNG")
        >>> read_image_bytes(file.getvalue()).shape
        (2, 4, 3)
    """
    if not content:
        raise ImageReadError(f"{_NAME}: empty file (0 bytes); expected an image ({FORMATS})")
    file, head = io.BytesIO(content), content[:HEAD]
    with at_most_pixels(max_pixels):
        if is_dicom(head):
            from medshadow.data.dicom import read_dicom

            return read_dicom(file, _NAME, frame, readers.burned_in_policy())
        if is_nifti(head):
            from medshadow.data.nifti import read_nifti

            return read_nifti(file, _NAME, frame)
        return readers._read_raster(file, head, _NAME, frame)
