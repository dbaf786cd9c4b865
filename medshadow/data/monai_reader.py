"""The MONAI reader over ``read_image``: for ``LoadImaged(keys="image", reader=...)``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from monai.data import ImageReader
from monai.utils import MetaKeys, ensure_tuple

from medshadow.data.readers import SUFFIXES, read_image
from medshadow.errors import ImageReadError


class ClinicalImageReader(ImageReader):
    """Give MONAI height x width x 3 RGB of 0 to 255, upright, rows first.

    The metadata says that the channels come last, so ``EnsureChannelFirstd`` makes 3 x height x
    width of it. MONAI's own reader of photographs gives width x height instead and knows no EXIF
    orientation.

    Args:
        frame: which frame of files that hold several.
        burned_in: "refuse" or "allow" DICOM files with text burned in, see ``read_image``.

    Raises:
        ImageReadError: from ``get_data``, see ``read_image``. Nothing is decoded in ``read``: MONAI
            would take an error there for "try the next reader" and let its own reader turn the
            image.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> reader = ClinicalImageReader()
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (4, 2)).save(f"{folder}/wide.png")
        ...     pixels, meta = reader.get_data(reader.read(f"{folder}/wide.png"))
        >>> pixels.shape, meta["original_channel_dim"]
        ((2, 4, 3), -1)
    """

    def __init__(self, frame: int | None = None, burned_in: str | None = None) -> None:
        super().__init__()
        self.frame = frame
        self.burned_in = burned_in

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Whether every name ends like an image file; DICOM files often have no such end."""
        return all(str(name).lower().endswith(SUFFIXES) for name in ensure_tuple(filename))

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs: Any) -> Any:
        """The paths themselves; ``get_data`` decodes."""
        return ensure_tuple(data)

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Decode: uint8 of height x width x 3 (3 more for each further file), and metadata."""
        paths = ensure_tuple(img)
        images = [read_image(path, self.frame, burned_in=self.burned_in) for path in paths]
        for path, image in zip(paths, images, strict=True):
            if image.shape != images[0].shape:
                raise ImageReadError(
                    f"{path}: {image.shape[0]} x {image.shape[1]} pixels; expected "
                    f"{images[0].shape[0]} x {images[0].shape[1]} as in {paths[0]}"
                )
        pixels = images[0] if len(images) == 1 else np.concatenate(images, axis=-1)
        meta = {
            MetaKeys.SPATIAL_SHAPE: np.asarray(pixels.shape[:2]),
            MetaKeys.ORIGINAL_CHANNEL_DIM: -1,
        }
        return pixels, meta
