"""Colour constancy: the same skin under the lamp of another dermatoscope."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medshadow.transforms.arrays import channels_first, channels_last


def shades_of_gray(image: np.ndarray, p: float = 6.0) -> np.ndarray:
    """Take out the colour of the light by shades-of-grey colour constancy.

    The light's colour is estimated as the Minkowski p-norm of each channel,
    e_c = mean(I_c^p)^(1/p), and each channel is multiplied by a gain in proportion to 1 / e_c, so
    that the estimate becomes grey. p = 1 is the grey-world assumption, p -> infinity takes the
    brightest value for white. The gains keep the mean over all pixels and channels as it was, but
    for values that leave the range and are clipped. A channel that is black throughout stays black.

    Source: Finlayson and Trezzi, "Shades of Gray and Colour Constancy", Color and Imaging
    Conference 2004; p = 6 is their best value.

    Args:
        image: H x W x C, uint8 in [0, 255] or floating point in [0, 1].
        p: order of the norm, at least 1.

    Returns:
        H x W x C, of the same type and range.

    Raises:
        ValueError: ``p`` is below 1.

    Example:
        >>> warm = np.full((2, 2, 3), (200, 150, 100), dtype=np.uint8)
        >>> shades_of_gray(warm)[0, 0].tolist()
        [150, 150, 150]
    """
    if not 1 <= p < np.inf:
        raise ValueError(f"p must be a finite number of at least 1; found {p}")
    if image.dtype == np.uint8:
        values = np.arange(256, dtype=np.float64) / 255
        shares = _histogram(image) / (image.shape[0] * image.shape[1])
        gains = _gains(means=shares @ values, norms=(shares @ values**p) ** (1 / p))
        table = np.rint(np.clip(values[:, None] * gains, 0, 1) * 255).astype(np.uint8)
        return cv2.LUT(image, table[None]).reshape(image.shape)
    pixels = image.reshape(-1, image.shape[-1]).astype(np.float64)
    gains = _gains(means=pixels.mean(axis=0), norms=(pixels**p).mean(axis=0) ** (1 / p))
    return np.clip(image * gains, 0, 1).astype(image.dtype)


class ShadesOfGrayd(MapTransform):
    """Shades-of-grey colour constancy, :func:`shades_of_gray`, as a MONAI dictionary transform.

    Images are C x H x W, uint8 in [0, 255] or floating point in [0, 1] (returned as float32). It is
    deterministic, so MONAI's caches keep its result.

    Args:
        keys: the images to correct.
        p: order of the Minkowski norm, at least 1.
        allow_missing_keys: whether to pass by an absent key.

    Raises:
        ValueError: ``p`` is below 1; on call, an image of another shape, type or range.

    Example:
        >>> warm = np.full((3, 2, 2), 200, dtype=np.uint8) // np.uint8([[[1]], [[2]], [[4]]])
        >>> ShadesOfGrayd("image")({"image": warm})["image"][:, 0, 0].tolist()
        [117, 117, 117]
    """

    def __init__(self, keys: KeysCollection, p: float = 6.0, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)
        if not 1 <= p < np.inf:
            raise ValueError(f"p must be a finite number of at least 1; found {p}")
        self.p = p

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with the colour of the light taken out of its images."""
        item = dict(data)
        for key in self.key_iterator(item):
            corrected = shades_of_gray(channels_last(item[key], str(key)), self.p)
            item[key] = channels_first(corrected, like=item[key])
        return item


def _gains(means: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Gains of shape C that even out ``norms`` and keep the mean of ``means``."""
    lit = norms > 0
    gains = np.where(lit, 1 / np.where(lit, norms, 1), 1.0)
    evened = (means * gains).mean()
    return gains * (means.mean() / evened) if evened > 0 else np.ones_like(gains)


def _histogram(image: np.ndarray) -> np.ndarray:
    """How often each value stands in each channel: C x 256."""
    return np.stack(
        [cv2.calcHist([image], [c], None, [256], [0, 256]).ravel() for c in range(image.shape[-1])]
    ).astype(np.float64)
