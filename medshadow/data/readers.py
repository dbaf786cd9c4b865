"""Read image files: whatever the format, RGB uint8 of height x width x 3, or an error saying why.

``ClinicalImageReader`` (the same for MONAI's ``LoadImaged``) is reached from here too; MONAI, which
takes seconds to import, loads only when it is asked for.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from medshadow.errors import ImageReadError

FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
MAX_PIXELS = 2**26
"""Largest image that is decoded, in pixels: 8192 x 8192, 192 MiB as RGB."""
MAX_BYTES = 2**30
"""Largest file that is opened, in bytes: 1 GiB."""

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")


def read_image(path: str | os.PathLike[str], frame: int | None = None) -> npt.NDArray[np.uint8]:
    """Read one raster image (JPEG, PNG, TIFF, BMP, WebP) as RGB.

    What the file holds decides the format, not its name. The EXIF orientation is applied (EXIF too
    damaged to tell counts as upright); palettes, grey and CMYK become RGB; 16-bit samples keep
    their upper 8 bits (65535 is white); transparent pixels are laid over white, as a page shows
    them. Colour profiles are not applied.

    Args:
        path: the image file.
        frame: which frame of a file that holds several, from 0; may be left out when the file holds
            one. The first picture of a camera's multi-picture JPEG counts as its only one.

    Returns:
        uint8 array of height x width x 3, range 0 to 255, writable.

    Raises:
        ImageReadError: the file is missing, empty, truncated, damaged, of another format, above
            ``MAX_BYTES`` or ``MAX_PIXELS`` (refused before decoding), or holds several frames and
            none was named. The message begins with the path.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 2), 200).save(f"{folder}/grey.png")
        ...     pixels = read_image(f"{folder}/grey.png")
        >>> pixels.shape, pixels[0, 0].tolist()
        ((2, 4, 3), [200, 200, 200])
    """
    _check_file(path)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check_size(image, path)
            _choose_frame(image, frame, path)
            _turn_upright(image)
            return _rgb(image, path)
    except ImageReadError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(
            f"{path}: image too large ({error}); expected at most {MAX_PIXELS} pixels"
        ) from error
    except Image.UnidentifiedImageError as error:
        raise ImageReadError(
            f"{path}: not an image of a known format (it begins with {_first_bytes(path)!r}); "
            f"expected one of {', '.join(FORMATS)}"
        ) from error
    # Pillow's decoders raise whatever the damaged bytes lead them into: OSError, SyntaxError,
    # struct.error, ValueError, IndexError and more. All mean the same to the caller.
    except Exception as error:
        raise ImageReadError(
            f"{path}: damaged or truncated image "
            f"({type(error).__name__}: {_without(error, path)}); "
            f"expected a whole {', '.join(FORMATS)} file"
        ) from error


def _check_file(path: str | os.PathLike[str]) -> None:
    expected = f"expected an image file ({', '.join(FORMATS)})"
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path object costs more than the call
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ImageReadError(f"{path}: cannot be opened ({reason}); {expected}") from error
    if not os.path.isfile(path):  # noqa: PTH113
        raise ImageReadError(f"{path}: not a file; {expected}")
    if status.st_size == 0:
        raise ImageReadError(f"{path}: empty file (0 bytes); {expected}")
    if status.st_size > MAX_BYTES:
        raise ImageReadError(
            f"{path}: file of {status.st_size} bytes; expected at most {MAX_BYTES} bytes"
        )


def _check_size(image: Image.Image, path: object) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageReadError(
            f"{path}: image too large ({width} x {height} pixels); "
            f"expected at most {MAX_PIXELS} pixels"
        )


def _choose_frame(image: Image.Image, frame: int | None, path: object) -> None:
    # MPO: a photograph followed by its preview or depth map, not a series.
    count = 1 if image.format in ("JPEG", "MPO", "BMP") else getattr(image, "n_frames", 1)
    if frame is None and count > 1:
        raise ImageReadError(f"{path}: holds {count} frames; expected one, or a frame number")
    if frame is not None and not 0 <= frame < count:
        raise ImageReadError(f"{path}: no frame {frame}; expected 0 to {count - 1}")
    if frame:
        image.seek(frame)
        _check_size(image, path)


def _turn_upright(image: Image.Image) -> None:
    # Looking for EXIF costs as much as decoding a small JPEG; a JPEG's header has told by now.
    if image.format == "JPEG" and not ("exif" in image.info or "xmp" in image.info):
        return
    ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: Image.Image, path: object) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode in _SIXTEEN_BIT:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ("I", "F", "LAB", "HSV"):
        raise ImageReadError(
            f"{path}: {image.format} with pixels of mode {image.mode}, whose way to RGB the file "
            "does not tell; expected grey, palette, RGB or CMYK of 8 bits, or grey of 16"
        )
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        page = Image.new("RGBA", layer.size, "white")
        return np.array(Image.alpha_composite(page, layer).convert("RGB"))
    return np.array(image.convert("RGB"))


def _first_bytes(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(8)


def _without(error: Exception, path: object) -> str:
    return str(error).replace(str(path), "the file")


def __getattr__(name: str) -> Any:
    if name == "ClinicalImageReader":
        from medshadow.data.monai_reader import ClinicalImageReader

        return ClinicalImageReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
