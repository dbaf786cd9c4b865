"""Albumentations in a MONAI pipeline, with draws that depend on MONAI's random state alone."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform

from medshadow.transforms.arrays import channels_first, channels_last


def albumentations() -> ModuleType:
    """The albumentations package, kept from asking the network for a newer version at import."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    return import_module("albumentations")


class Albumentationsd(RandomizableTransform, MapTransform):
    """Any albumentations transform as a random MONAI dictionary transform.

    Every call draws one seed from this transform's own random state ``R`` and hands albumentations
    generators made from it; no random state of Python, numpy or torch is read or changed. In a
    :class:`~medshadow.data.dataset.CaseDataset`, which reseeds ``R`` for each item, the
    augmentation is therefore a function of (seed, epoch, position).

    albumentations' own ``set_random_seed`` starts every member of a ``Compose`` from the same
    numbers, so that a horizontal and a vertical flip happen together or not at all; here the
    members share one stream and are independent.

    Images are C x H x W with 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1]
    (returned as float32), and stay tensors or arrays; metadata is dropped. All keys of one item are
    given the same draws.

    Args:
        keys: the images to augment.
        transform: an albumentations transform or ``Compose``; called with ``image=`` alone.
        allow_missing_keys: whether to pass by an absent key.

    Raises:
        TypeError: ``transform`` is not an albumentations transform.
        ValueError: on call, an image of another shape, type or range.

    Example:
        >>> A = albumentations()
        >>> flip = Albumentationsd("image", A.HorizontalFlip(p=1.0))
        >>> flip({"image": np.array([[[1, 2, 3]]], dtype=np.uint8)})["image"].tolist()
        [[[3, 2, 1]]]
    """

    def __init__(self, keys: KeysCollection, transform: Any, allow_missing_keys: bool = False):
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)
        if not callable(getattr(transform, "set_random_state", None)) or not callable(transform):
            raise TypeError(f"want an albumentations transform; found {type(transform).__name__}")
        self.transform = transform
        self.set_random_state()

    R: np.random.RandomState

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> Albumentationsd:
        """Seed the draws that follow, or share ``state``; MONAI's rule for random transforms."""
        if seed is None or "_own" not in self.__dict__:
            super().set_random_state(seed=seed, state=state)
            if state is None:
                self._own = self.R
            return self
        # Making a RandomState reads the system's entropy first and takes sixty times longer.
        self._own.seed(seed % 2**32)
        self.R = self._own
        return self

    def randomize(self, data: Any = None) -> None:
        """Draw the seed of the next call."""
        self._seed = int(self.R.randint(2**32, dtype=np.uint32))

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its images augmented."""
        item = dict(data)
        self.randomize()
        for key in self.key_iterator(item):
            image = channels_last(item[key], str(key))
            self.transform.set_random_state(
                np.random.default_rng(self._seed), random.Random(self._seed)
            )
            item[key] = channels_first(self.transform(image=image)["image"], like=item[key])
        return item
