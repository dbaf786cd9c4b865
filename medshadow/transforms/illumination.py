"""Even illumination: a flash's uneven light and a lens's haze, taken out of fundus photographs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medshadow.transforms.arrays import channels_first, channels_last

# Graham's: the blur is a thirtieth of the field's radius, and what differs from it is stretched.
_BLUR = 1 / 30
_GAIN = 4.0


def even_illumination(image: np.ndarray) -> np.ndarray:
    """Each pixel as its difference from the colour around it, around mid-grey.

    out = 128/255 + 4 (in - blur(in)), clipped to [0, 1], where blur is a Gaussian with a standard
    deviation of a thirtieth of the radius. It takes out the uneven light of a flash, the tint of a
    cloudy lens and of a camera, and with them everything that is told by colour over a wider area.
    Black pixels around the field weigh nothing in the blur, so that no rim appears, and stay black.

    Source: B. Graham, "Kaggle diabetic retinopathy detection competition report", 2015.

    Args:
        image: H x W x C, uint8 in [0, 255] or float32 in [0, 1]: a field of view that fills the
            image, as :class:`~medshadow.transforms.CropFundusd` gives it.

    Returns:
        H x W x C, of the same type and range.

    Example:
        >>> even_illumination(np.full((60, 60, 3), 90, dtype=np.uint8))[30, 30].tolist()
        [128, 128, 128]
    """
    top = 255.0 if image.dtype == np.uint8 else 1.0
    seen = np.any(image > 0, axis=2)
    sigma = _BLUR * max(image.shape[:2]) / 2
    pixels: np.ndarray = image.astype(np.float32)
    weight: np.ndarray = cv2.GaussianBlur(seen.astype(np.float32), (0, 0), sigma)
    blurred: np.ndarray = cv2.GaussianBlur(pixels, (0, 0), sigma).reshape(image.shape)
    around = blurred / np.maximum(weight, 1e-6)[..., None]
    evened = np.clip(top * 128 / 255 + _GAIN * (pixels - around), 0, top) * seen[..., None]
    return (np.rint(evened) if image.dtype == np.uint8 else evened).astype(image.dtype)


class EvenIlluminationd(MapTransform):
    """:func:`even_illumination` as a MONAI dictionary transform.

    It is deterministic, so MONAI's caches keep its result.

    Args:
        keys: the images: C x H x W, 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1]
            (returned as float32).
        allow_missing_keys: whether to pass by an absent key.

    Raises:
        ValueError: on call, an image of another shape, type or range.

    Example:
        >>> image = np.full((3, 60, 60), 90, dtype=np.uint8)
        >>> int(EvenIlluminationd("image")({"image": image})["image"][0, 30, 30])
        128
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its images evened out."""
        item = dict(data)
        for key in self.key_iterator(item):
            evened = even_illumination(channels_last(item[key], str(key)))
            item[key] = channels_first(evened, like=item[key])
        return item
