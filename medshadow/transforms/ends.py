"""The two ends of every preset: reading an image file, and the tensor that a network takes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import EnsureChannelFirstd, LoadImaged

from medshadow.data.readers import ClinicalImageReader


def reading(keys: KeysCollection) -> list[Any]:
    """The transforms from a path to a 3 x H x W image, uint8: MONAI's, with our reader."""
    with _quiet_registration():
        load = LoadImaged(keys, reader=ClinicalImageReader, image_only=True, dtype=np.uint8)
    return [load, EnsureChannelFirstd(keys, channel_dim=-1)]


@contextmanager
def _quiet_registration() -> Iterator[None]:
    # LoadImaged makes one of every reader that MONAI has before ours; where pydicom is installed
    # without NVIDIA's codec, one of them warns and logs about an image format nobody asked for.
    log = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    before = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*nvImageCodec", category=UserWarning)
            yield
    finally:
        log.disabled = before


class ToNetwork:
    """An image in [0, 255] or [0, 1] as a contiguous float32 tensor in [0, 1], C x H x W.

    It is no MONAI ``Transform``: MONAI's caches keep what comes before the first such step, which
    is the image as uint8, a quarter of the size.

    Args:
        key: the image to convert, uint8 or floating point.

    Example:
        >>> image = np.full((3, 1, 1), 51, dtype=np.uint8)
        >>> ToNetwork("image")({"image": image})["image"].flatten()
        tensor([0.2000, 0.2000, 0.2000])
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its image as the network takes it."""
        image = torch.as_tensor(data[self.key]).as_subclass(torch.Tensor)
        if image.dtype == torch.uint8:
            # numpy, not torch: its threads would compete with those of the training step.
            packed = np.ascontiguousarray(image.numpy(force=True))
            scaled = torch.from_numpy(packed / np.float32(255))
        else:
            scaled = image.to(torch.float32, memory_format=torch.contiguous_format)
        return {**data, self.key: scaled}
