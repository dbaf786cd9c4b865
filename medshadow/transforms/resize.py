"""Deterministic geometry: resizing without aliasing, and the middle of an image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medshadow.transforms.arrays import channels_first, channels_last


def resize_shorter(image: np.ndarray, side: int) -> np.ndarray:
    """Resize H x W x C so that the shorter side has ``side`` pixels, the shape kept.

    Shrinking averages over the area of each new pixel, so fine structures do not alias; enlarging
    is bilinear.

    Example:
        >>> resize_shorter(np.zeros((450, 600, 3), dtype=np.uint8), 90).shape
        (90, 120, 3)
    """
    height, width, channels = image.shape
    shorter = min(height, width)
    new_height, new_width = (max(side, round(edge * side / shorter)) for edge in (height, width))
    method = cv2.INTER_AREA if side < shorter else cv2.INTER_LINEAR
    resized = cv2.resize(image, (new_width, new_height), interpolation=method)
    return resized.reshape(new_height, new_width, channels)


class ResizeShorterd(MapTransform):
    """Resize C x H x W images so that the shorter side has ``side`` pixels (see the function).

    Args:
        keys: the images to resize: uint8 in [0, 255] or floating point in [0, 1].
        side: pixels of the shorter side, at least 1.
        square: whether to cut out the middle square afterwards.

    Raises:
        ValueError: ``side`` is below 1; on call, an image of another shape, type or range.

    Example:
        >>> image = np.zeros((3, 450, 600), dtype=np.uint8)
        >>> ResizeShorterd("image", 90)({"image": image})["image"].shape
        (3, 90, 120)
        >>> ResizeShorterd("image", 90, square=True)({"image": image})["image"].shape
        (3, 90, 90)
    """

    def __init__(self, keys: KeysCollection, side: int, square: bool = False):
        super().__init__(keys)
        if side < 1:
            raise ValueError(f"side must be at least 1 pixel; found {side}")
        self.side = side
        self.square = square

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its images resized."""
        item = dict(data)
        for key in self.key_iterator(item):
            resized = resize_shorter(channels_last(item[key], str(key)), self.side)
            if self.square:
                top, left = ((edge - self.side) // 2 for edge in resized.shape[:2])
                resized = resized[top : top + self.side, left : left + self.side].copy()
            item[key] = channels_first(resized, like=item[key])
        return item
