"""Read image files that are in memory, such as uploads, which must not touch the disk."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt

from medshadow.data.image_files import MAX_PIXELS, at_most_pixels, check_not_empty
from medshadow.data.image_parts import check_parts
from medshadow.data.readers import decode

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
        ImageReadError: as for ``read_image``, and for a file of very many parts (see
            ``check_parts``); the message begins with "image".

    Example:
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (4, 2), 200).save(file, "PNG")
        >>> read_image_bytes(file.getvalue()).shape
        (2, 4, 3)
    """
    check_not_empty(_NAME, len(content))
    check_parts(content, _NAME)
    with at_most_pixels(max_pixels):
        return decode(io.BytesIO(content), _NAME, frame)
