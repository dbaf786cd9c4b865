"""Fundus photographs: the round field of view, which eye it is, and what may vary between two."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform

from medshadow.transforms.arrays import channels_first, channels_last
from medshadow.transforms.augment import Albumentationsd, albumentations
from medshadow.transforms.ends import ToNetwork, reading
from medshadow.transforms.field_of_view import FieldOfView, field_of_view, without_paper
from medshadow.transforms.illumination import EvenIlluminationd
from medshadow.transforms.resize import ResizeShorterd


def crop_to_field(image: np.ndarray, field: FieldOfView) -> np.ndarray:
    """The field of view as a disc that fills a square, black around it and where it was cut.

    Circles stay circles: an upright ellipse is stretched along its shorter axis. The outermost 1 %
    of the radius, where cameras leave bright or dark rings, is masked too.

    Args:
        image: H x W x C, uint8 or float32.
        field: where the field lies, as :func:`field_of_view` gives it.

    Returns:
        S x S x C of the same type, S the field's longer diameter in pixels.

    Example:
        >>> photograph = np.full((100, 200, 3), 9, dtype=np.uint8)
        >>> disc = crop_to_field(photograph, FieldOfView(100, 50, 60, 60))
        >>> disc.shape, disc[60, 60].tolist(), disc[0, 0].tolist(), disc[5, 60].tolist()
        ((120, 120, 3), [9, 9, 9], [0, 0, 0], [0, 0, 0])
    """
    across, down = (max(1, round(2 * radius)) for radius in field[2:])
    left, top = round(field.x - across / 2), round(field.y - down / 2)
    height, width, channels = image.shape
    box = cv2.copyMakeBorder(
        image[max(top, 0) : top + down, max(left, 0) : left + across],
        top=max(-top, 0),
        bottom=max(top + down - height, 0),
        left=max(-left, 0),
        right=max(left + across - width, 0),
        borderType=cv2.BORDER_CONSTANT,
    )
    side = max(across, down)
    square = box if across == down else cv2.resize(box, (side, side))
    return cv2.bitwise_and(square, square, mask=_disc(side)).reshape(side, side, channels)


class CropFundusd(MapTransform):
    """Crop fundus photographs to their field of view and mask what lies around it.

    The field (:func:`~medshadow.transforms.field_of_view.field_of_view`) may be flat-topped,
    off-centre, cut by the image's edge, dark, or in a noisy border of any width. The result is
    :func:`crop_to_field`'s: square, the field's circle touching all four sides, black around it. An
    image in which no field is found, because it is near black or has no dark border, passes
    unchanged. It is deterministic, so MONAI's caches keep its result.

    Args:
        keys: the images to crop: C x H x W, 1 or 3 channels, uint8 in [0, 255] or floating point in
            [0, 1] (returned as float32).
        allow_missing_keys: whether to pass by an absent key.

    Raises:
        ValueError: on call, an image of another shape, type or range.

    Example:
        >>> photograph = np.zeros((3, 200, 300), dtype=np.uint8)
        >>> photograph[:, :, 100:200] = 90 * (np.hypot(*np.ogrid[-100:100, -50:50]) < 50)
        >>> cropped = CropFundusd("image")({"image": photograph})["image"]
        >>> cropped.shape[1] == cropped.shape[2] and 98 <= cropped.shape[1] <= 102
        True
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False):
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its images cropped."""
        item = dict(data)
        for key in self.key_iterator(item):
            image = channels_last(item[key], str(key))
            field = field_of_view(image)
            cropped = image if field is None else crop_to_field(without_paper(image), field)
            item[key] = channels_first(cropped, like=item[key])
        return item


class AlignLateralityd(MapTransform):
    """Mirror left eyes, so that the optic disc lies to the right of the macula in every image.

    The two eyes of a person are mirror images of each other, about the vertical axis. Where the
    side is not known, ``""`` or no such key, the image passes unchanged.

    Args:
        keys: the images: C x H x W, 1 or 3 channels, uint8 in [0, 255] or floating point in [0, 1]
            (returned as float32).
        laterality_key: where the item says "left" or "right".
        allow_missing_keys: whether to pass by an absent image.

    Raises:
        ValueError: on call, another word than these, or an image of another shape, type or range.

    Example:
        >>> image = np.array([[[1, 2, 3]]], dtype=np.uint8)
        >>> align = AlignLateralityd("image")
        >>> align({"image": image, "laterality": "left"})["image"].tolist()
        [[[3, 2, 1]]]
        >>> align({"image": image, "laterality": "right"})["image"].tolist()
        [[[1, 2, 3]]]
    """

    def __init__(
        self,
        keys: KeysCollection,
        laterality_key: str = "laterality",
        allow_missing_keys: bool = False,
    ):
        super().__init__(keys, allow_missing_keys)
        self.laterality_key = laterality_key

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """The item with its images as those of a right eye."""
        item = dict(data)
        side = item.get(self.laterality_key, "")
        if side not in ("left", "right", ""):
            raise ValueError(f'{self.laterality_key}: want "left", "right" or ""; found {side!r}')
        for key in self.key_iterator(item):
            image = channels_last(item[key], str(key))
            aligned = np.ascontiguousarray(image[:, ::-1]) if side == "left" else image
            item[key] = channels_first(aligned, like=item[key])
        return item


def fundus_transforms(size: int, train: bool, even: bool = False) -> Compose:
    """From the path of a fundus photograph to the tensor that a network takes.

    Both: read, crop to the field of view, mirror left eyes (where ``laterality`` is in the item),
    resize to ``size`` x ``size`` pixels. MONAI's caches keep the result of these, as uint8.

    Training, at random: a turn by up to 20 degrees, scaling by 10 to 15 %, a shift by up to 4 % of
    the side, a mirror image every other time (a right eye's is a left eye's; never upside down),
    brightness, contrast and saturation by up to 20 %, hue by up to 4 % of the colour circle, and,
    every other time, one to three black patches of 10 to 30 % of the side.

    Evaluation: nothing is random.

    Args:
        size: side of the square result in pixels, at least 1.
        train: whether to augment.
        even: whether to take out uneven light, tint and haze
            (:func:`~medshadow.transforms.illumination.even_illumination`) after resizing; the
            preset "fundus_even". What a cataract's haze says is taken out with them.

    Returns:
        A MONAI ``Compose`` from ``{"image": path}``, with or without ``"laterality"``, to
        ``{"image": tensor}``: 3 x size x size, float32, RGB in [0, 1], contiguous, without
        metadata. Other keys pass through.

    Raises:
        ValueError: ``size`` is below 1.

    Example:
        >>> evaluate = fundus_transforms(160, train=False)
        >>> item = {"image": "0_left.jpg", "laterality": "left"}
        >>> evaluate(item)["image"].shape  # doctest: +SKIP
        torch.Size([3, 160, 160])
    """
    if size < 1:
        raise ValueError(f"size must be at least 1 pixel; found {size}")
    steps = [
        *reading("image"),
        CropFundusd("image"),
        AlignLateralityd("image"),
        ResizeShorterd("image", size, square=True),
    ]
    if even:
        steps.append(EvenIlluminationd("image"))
    if train:
        steps.append(Albumentationsd("image", _augmentation()))
    return Compose([*steps, ToNetwork("image")])


def _augmentation() -> Any:
    A = albumentations()
    return A.Compose(
        [
            A.Affine(
                scale=(0.9, 1.15),
                rotate=(-20, 20),
                translate_percent=(-0.04, 0.04),
                interpolation=cv2.INTER_LINEAR,
                border_mode=cv2.BORDER_CONSTANT,
                p=1.0,
            ),
            A.HorizontalFlip(p=0.5),
            A.ColorJitter(
                brightness=(0.8, 1.2),
                contrast=(0.8, 1.2),
                saturation=(0.8, 1.2),
                hue=(-0.04, 0.04),
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


def _disc(side: int) -> np.ndarray:
    """S x S, 255 in the disc that is kept and 0 around it."""
    mask = np.zeros((side, side), dtype=np.uint8)
    middle, radius = 8 * (side - 1), round(0.99 * 8 * side)  # in sixteenths of a pixel
    return cv2.circle(mask, (middle, middle), radius, 255, cv2.FILLED, shift=4)
