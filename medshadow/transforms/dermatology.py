"""Dermoscopic images: lesions have no up, and every clinic's lamp has a colour of its own."""

from __future__ import annotations

from typing import Any

import cv2
from monai.transforms import Compose

from medshadow.transforms.augment import Albumentationsd, albumentations
from medshadow.transforms.color import ShadesOfGrayd
from medshadow.transforms.ends import ToNetwork, reading
from medshadow.transforms.resize import ResizeShorterd


def dermatology_transforms(size: int, train: bool, *, color_constancy: bool = True) -> Compose:
    """From the path of a dermoscopic image to the tensor that a network takes.

    Both: read, take out the colour of the light (shades of grey, p = 6), resize. MONAI's caches
    keep the result of these, as uint8.

    Training: shorter side to ``round(1.25 * size)``; then, at random, a turn by any angle with
    scaling by up to 15 % and shearing by up to 8 degrees (the image reflected at its edges), a crop
    of ``size`` x ``size`` pixels, one of the eight flips and quarter turns, brightness, contrast
    and saturation by up to 20 %, hue by up to 5 % of the colour circle, and, every other time, one
    to three black patches of 10 to 30 % of the side.

    Evaluation: shorter side to ``size`` and the middle square; nothing is random. At 1.25 times the
    size of training a lesion is as large as it is, on average, in training.

    Args:
        size: side of the square result in pixels, at least 1.
        train: whether to augment.
        color_constancy: whether to take out the colour of the light.

    Returns:
        A MONAI ``Compose`` from ``{"image": path}`` to ``{"image": tensor}``: 3 x size x size,
        float32, RGB in [0, 1], contiguous, without metadata. Other keys pass through.

    Raises:
        ValueError: ``size`` is below 1.

    Example:
        >>> evaluate = dermatology_transforms(128, train=False)
        >>> evaluate({"image": "lesion.jpg"})["image"].shape  # doctest: +SKIP
        torch.Size([3, 128, 128])
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; found {size}")
    steps = reading("image")
    if color_constancy:
        steps.append(ShadesOfGrayd("image"))
    if train:
        steps.append(ResizeShorterd("image", round(1.25 * size)))
        steps.append(Albumentationsd("image", _augmentation(size)))
    else:
        steps.append(ResizeShorterd("image", size, square=True))
    return Compose([*steps, ToNetwork("image")])


def _augmentation(size: int) -> Any:
    A = albumentations()
    return A.Compose(
        [
            A.Affine(
                scale=(0.85, 1.15),
                rotate=(-180, 180),
                shear=(-8, 8),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_REFLECT_101,
                p=1.0,
            ),
            A.RandomCrop(size, size),
            A.D4(p=1.0),
            A.ColorJitter(
                brightness=(0.8, 1.2),
                contrast=(0.8, 1.2),
                saturation=(0.8, 1.2),
                hue=(-0.05, 0.05),
                p=1.0,
            ),
            A.CoarseDropout(
                num_holes_range=(1, 3),
                hole_height_range=(0.1, 0.3),
                hole_width_range=(0.1, 0.3),
                p=0.5,
            ),
        ]
    )
