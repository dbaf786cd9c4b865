"""Read image files: whatever the format, RGB uint8 of height x width x 3, or an error saying why.

``ClinicalImageReader`` (the same for MONAI's ``LoadImaged``) is reached from here too; MONAI,
pydicom and nibabel load only when they are needed.
"""

from __future__ import annotations

import io
import os
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, TiffImagePlugin

from medshadow.data.image_files import (
    FORMATS,
    HEAD,
    MAX_BYTES,
    check_file,
    check_frame,
    check_not_empty,
    check_size,
    grey_to_rgb,
    is_dicom,
    is_nifti,
    too_large,
)
from medshadow.data.packed import Opened, inside_zip, open_file
from medshadow.errors import ImageReadError

SUFFIXES = (
    ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom", ".nii", ".nii.gz",
)  # fmt: skip
"""How files of these formats are usually called; what they hold decides."""
BURNED_IN = "MEDSHADOW_BURNED_IN"
"""Environment variable: what becomes of DICOM files with text burned in, where no call says."""

_RASTER = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_PHOTOMETRIC, _MIN_IS_WHITE = 262, 0
# The one kind of 16-bit grey TIFF that Pillow does not list: big-endian, and 0 is white.
TiffImagePlugin.OPEN_INFO.setdefault((b"MM", _MIN_IS_WHITE, (1,), 1, (16,), ()), ("I;16B", "I;16B"))


def read_image(
    path: str | os.PathLike[str], frame: int | None = None, *, burned_in: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read one image (JPEG, PNG, TIFF, BMP, WebP, DICOM, NIfTI) as RGB.

    What the file holds decides the format, not its name. Color profiles are not applied.

    **Raster images.** The EXIF orientation is applied (EXIF too damaged to tell counts as upright);
    palettes, grey and CMYK become RGB; 16-bit samples keep their upper 8 bits (65535 is white);
    transparent pixels are laid over white, as a page shows them.

    **DICOM.** Every photometric interpretation of PS3.3 C.7.6.3.1.2 that is not retired. Grey goes
    through modality and VOI LUT or window (the first; in enhanced files the frame's own), and
    without them the range of the stored bits becomes 0 to 255; a window of a width that the
    standard does not allow counts as none; padding is black. Deeper samples keep their upper 8
    bits. 12-bit JPEG needs a decoder that cannot come with MedShadow, lossless JPEG the extra
    ``gdcm``.

    **NIfTI.** The first axis runs along the columns, the second along the rows, as stored: the
    affine turns nothing. A last axis of 3 holds the colors, another one is the index of the slice;
    axes of one are skipped. Unscaled uint8 stays as it is; all else is mapped from the header's
    ``cal_min`` and ``cal_max`` if they are a range, or from the lowest and highest value of the
    picture, to 0 to 255. RGBA is laid over white.

    Args:
        path: the image file; that of a zip file by a path that goes on into it, as
            ``images.zip/lesion.jpg``.
        frame: which frame or slice of a file that holds several, from 0; may be left out when the
            file holds one. The first picture of a camera's multi-picture JPEG counts as its only
            one.
        burned_in: DICOM files whose BurnedInAnnotation is YES, which may show a name: "refuse" or
            "allow". Unless given, the environment variable MEDSHADOW_BURNED_IN says, and without
            it they are refused.

    Returns:
        uint8 array of height x width x 3, range 0 to 255, writable.

    Raises:
        ImageReadError: the file is missing, empty, truncated, damaged, of another format, above
            ``MAX_BYTES``, ``MAX_PIXELS`` or ``MAX_SIDE`` (refused before decoding), holds several
            frames and none was named, needs a decoder that is not installed, or has text burned in.
            The message begins with the path; of a DICOM or NIfTI file it quotes no text.
        ValueError: ``burned_in`` is neither of its values.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("L", (4, 2), 200).save(f"{folder}/grey.png")
        ...     pixels = read_image(f"{folder}/grey.png")
        >>> pixels.shape, pixels[0, 0].tolist()
        ((2, 4, 3), [200, 200, 200])
    """
    with open_image(path) as file:
        return decode(file, path, frame, burned_in)


def open_image(path: str | os.PathLike[str]) -> Opened:
    """Open an image file, or one in a zip file, to be read by ``decode``.

    Raises:
        ImageReadError: it is missing, empty, above ``MAX_BYTES`` or damaged in its zip file.
    """
    try:
        if inside_zip(path) is None:
            check_file(path)
        file = open_file(path, MAX_BYTES)
    except ImageReadError:
        raise
    except OSError as error:
        raise ImageReadError(f"{path}: cannot be opened ({error.strerror})") from error
    if isinstance(file, io.BytesIO):
        check_not_empty(path, file.getbuffer().nbytes)
    return file


def decode(
    file: BinaryIO, path: object, frame: int | None = None, burned_in: str | None = None
) -> npt.NDArray[np.uint8]:
    """Read the image of an open file, from its beginning; ``path`` is what errors call it."""
    head = file.read(HEAD)
    file.seek(0)
    if is_dicom(head):
        from medshadow.data.dicom import read_dicom

        return read_dicom(file, path, frame, burned_in_policy(burned_in))
    if is_nifti(head):
        from medshadow.data.nifti import read_nifti

        return read_nifti(file, path, frame)
    return _read_raster(file, head, path, frame)


def burned_in_policy(given: str | None = None) -> str:
    """What becomes of DICOM files with text burned in: "refuse" or "allow"; see ``read_image``."""
    chosen = given if given is not None else os.environ.get(BURNED_IN, "refuse")
    if chosen not in ("refuse", "allow"):
        raise ValueError(f'burned_in (or {BURNED_IN}) is {chosen!r}; expected "refuse" or "allow"')
    return chosen


def _read_raster(
    file: BinaryIO, head: bytes, path: object, frame: int | None
) -> npt.NDArray[np.uint8]:
    try:
        with Image.open(file, formats=_RASTER) as image:
            check_size(path, *image.size)
            _choose_frame(image, frame, path)
            _turn_upright(image)
            return _rgb(image, path)
    except ImageReadError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_large(path, error) from error
    except Image.UnidentifiedImageError as error:
        raise ImageReadError(
            f"{path}: not an image of a known format (it begins with {head[:8]!r}); "
            f"expected {FORMATS}"
        ) from error
    # Pillow's decoders raise whatever the damaged bytes lead them into: OSError, SyntaxError,
    # struct.error, ValueError, IndexError and more. All mean the same to the caller.
    except Exception as error:
        raise ImageReadError(
            f"{path}: damaged or truncated image ({type(error).__name__}: {error}); "
            f"expected a whole {', '.join(_RASTER)} file"
        ) from error


def _choose_frame(image: Image.Image, frame: int | None, path: object) -> None:
    # MPO: a photograph followed by its preview or depth map, not a series.
    count = 1 if image.format in ("JPEG", "MPO", "BMP") else getattr(image, "n_frames", 1)
    if check_frame(path, count, frame):
        image.seek(frame or 0)
        check_size(path, *image.size)


def _turn_upright(image: Image.Image) -> None:
    # Looking for EXIF costs as much as decoding a small JPEG; a JPEG's header has told by now.
    if image.format == "JPEG" and not ("exif" in image.info or "xmp" in image.info):
        return
    ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: Image.Image, path: object) -> npt.NDArray[np.uint8]:
    if image.mode == "RGB" and "transparency" not in image.info:
        return np.array(image)
    if image.mode in _SIXTEEN_BIT:
        return _sixteen_bit_grey(image)
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


def _sixteen_bit_grey(image: Image.Image) -> npt.NDArray[np.uint8]:
    samples = np.asarray(image)
    grey = (samples >> 8).astype(np.uint8)
    # What Pillow does for 8 bits alone: TIFF's MinIsWhite, and PNG's one transparent value.
    if image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _MIN_IS_WHITE:  # type: ignore[attr-defined]
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[samples == transparent] = 255
    return grey_to_rgb(grey)


def __getattr__(name: str) -> Any:
    if name == "ClinicalImageReader":
        from medshadow.data.monai_reader import ClinicalImageReader

        return ClinicalImageReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
