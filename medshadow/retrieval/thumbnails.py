"""Small pictures for a case store: pixels encoded anew, so that nothing else of a file stays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from medshadow.data.readers import read_image
from medshadow.retrieval.ahead import ahead

LONGER_SIDE = 192
QUALITY = 85


def jpeg_thumbnail(image: np.ndarray, longer_side: int = LONGER_SIDE) -> bytes:
    """A small JPEG of an image, without any metadata.

    Args:
        image: uint8 H x W x 3, RGB.
        longer_side: pixels of the longer side at most; a smaller image keeps its size.

    Returns:
        JPEG bytes of quality 85, without EXIF, comment or colour profile.

    Raises:
        ValueError: the array is no uint8 H x W x 3.

    Example:
        >>> jpeg = jpeg_thumbnail(np.zeros((450, 600, 3), dtype=np.uint8))
        >>> Image.open(BytesIO(jpeg)).size
        (192, 144)
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"expected uint8 H x W x 3; found {image.dtype} {image.shape}")
    picture = Image.fromarray(image)
    picture.thumbnail((longer_side, longer_side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    buffer = BytesIO()
    picture.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def decode_thumbnail(jpeg: bytes) -> np.ndarray:
    """The pixels of a thumbnail: uint8 H x W x 3, RGB."""
    with Image.open(BytesIO(jpeg), formats=["JPEG"]) as picture:
        return np.array(picture.convert("RGB"))


def thumbnails_of(
    paths: Iterable[str | Path], *, num_workers: int = 2, progress: bool = True
) -> Iterator[bytes]:
    """Thumbnails of image files, one after another, read ahead on a few threads.

    Args:
        paths: image files.
        num_workers: threads; 0 reads each file when its thumbnail is asked for.
        progress: whether to show a progress bar.

    Raises:
        ImageReadError: a file cannot be read; the message names it.
    """
    files = list(paths)
    made = ahead(_thumbnail_of, files, workers=num_workers, depth=8 * max(1, num_workers))
    yield from tqdm(made, total=len(files), desc="thumbnails", disable=not progress)


def _thumbnail_of(path: str | Path) -> bytes:
    return jpeg_thumbnail(read_image(path))
