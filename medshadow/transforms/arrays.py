"""Between MONAI's channel-first images and the channel-last arrays that OpenCV works on."""

from __future__ import annotations

import numpy as np
import torch

Image = np.ndarray | torch.Tensor


def channels_last(image: Image, name: str) -> np.ndarray:
    """An image as a contiguous H x W x C array, without a copy where its memory lies so already.

    Args:
        image: C x H x W with 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1].
        name: what an error calls the image, such as its key.

    Returns:
        H x W x C, uint8 or float32.

    Raises:
        ValueError: another shape, another type, or floating point outside [0, 1].
    """
    array = image.numpy(force=True) if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.ndim != 3 or array.shape[0] not in (1, 3) or array.size == 0:
        raise ValueError(f"{name}: want an image of 1 or 3 x H x W; found shape {array.shape}")
    if array.dtype != np.uint8:
        if not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{name}: want uint8 or floating point; found {array.dtype}")
        low, high = float(array.min()), float(array.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"{name}: want floating point in [0, 1]; found {low:g} to {high:g}")
        array = array.astype(np.float32, copy=False)
    return np.ascontiguousarray(np.moveaxis(array, 0, -1))


def channels_first(array: np.ndarray, like: Image) -> Image:
    """An H x W x C array as C x H x W: a plain tensor where ``like`` is a tensor, else an array.

    It is a view of the same memory, so going back to channels last costs nothing. Metadata of a
    ``MetaTensor`` is dropped: it would describe the image as it was before.
    """
    view = np.moveaxis(array, -1, 0)
    return torch.from_numpy(view) if isinstance(like, torch.Tensor) else view
