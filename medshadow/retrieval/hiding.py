"""How much a similarity falls when a part of an image is hidden from the network."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import cv2
import numpy as np

Fill = Callable[[np.ndarray], np.ndarray]

# A patch's side over the square's, and how many positions it takes along each side.
PATCH = 0.4
POSITIONS = 4
# The share of what is seen that counts as the explained region.
REGION = 0.2


def blurred(image: np.ndarray) -> np.ndarray:
    """An image in which nothing but colours far apart can be told, to hide parts with.

    Black surroundings, as of a fundus, stay black and do not darken what lies beside them.

    Args:
        image: float32 3 x H x W in [0, 1].
    """
    lit = _lit(image)[..., None]
    width = min(image.shape[1:]) / 8
    smooth = cv2.GaussianBlur(np.ascontiguousarray(image.transpose(1, 2, 0)) * lit, (0, 0), width)
    weight = cv2.GaussianBlur(lit, (0, 0), width)[..., None]
    result: np.ndarray = (lit * smooth / np.maximum(weight, 1e-6)).transpose(2, 0, 1)
    return result


def mean_colored(image: np.ndarray) -> np.ndarray:
    """The mean colour of an image wherever it is not black, to hide parts with.

    Args:
        image: float32 3 x H x W in [0, 1].
    """
    lit = _lit(image)
    mean = (image * lit).sum(axis=(1, 2)) / max(float(lit.sum()), 1.0)
    result: np.ndarray = mean[:, None, None] * lit
    return result


FILLS = (blurred, mean_colored)


def _lit(image: np.ndarray) -> np.ndarray:
    return (image.max(axis=0) > 0).astype(np.float32)


def patches(size: int) -> np.ndarray:
    """Sixteen overlapping square patches that cover a square together: bool 16 x S x S."""
    side = round(PATCH * size)
    starts = [round(i * (size - side) / (POSITIONS - 1)) for i in range(POSITIONS)]
    result = np.zeros((POSITIONS**2, size, size), dtype=bool)
    for at, (top, left) in enumerate((top, left) for top in starts for left in starts):
        result[at, top : top + side, left : left + side] = True
    return result


def strongest(values: np.ndarray, seen: np.ndarray, share: float = REGION) -> np.ndarray:
    """The pixels of the highest values: bool H x W, ``share`` of those that are seen.

    Args:
        values: H x W.
        seen: bool H x W.
        share: in (0, 1].
    """
    allowed = np.where(seen, values, -np.inf).ravel()
    order = np.argsort(-allowed, kind="stable")
    region = np.zeros(values.size, dtype=bool)
    region[order[: round(share * seen.sum())]] = True
    return region.reshape(values.shape)


def hidden(image: np.ndarray, regions: Iterable[np.ndarray], fill: Fill) -> np.ndarray:
    """The image with one region hidden at a time: float32 N x 3 x H x W.

    Args:
        image: float32 3 x H x W in [0, 1].
        regions: N of bool H x W.
        fill: what the image is where it is hidden.
    """
    instead = fill(image)
    return np.stack([np.where(region, instead, image) for region in regions])


def mean_fall(falls: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """The mean fall over the regions that hide a pixel, for each pixel, smoothed: S x S.

    Args:
        falls: N, how much the similarity fell.
        regions: bool N x S x S that cover every pixel together.
    """
    mean = np.tensordot(falls, regions, 1) / regions.sum(axis=0)
    return cv2.GaussianBlur(mean, (0, 0), len(mean) / 16)


def around(region: np.ndarray) -> np.ndarray:
    """How near each pixel lies to the middle of a region, highest there: S x S."""
    rows, columns = np.nonzero(region)
    y, x = np.ogrid[: region.shape[0], : region.shape[1]]
    return -np.hypot(y - rows.mean(), x - columns.mean())
