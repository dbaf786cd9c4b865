"""Whether two images show the same place: matched keypoints, a fitted transform, a second look.

Matches alone are a false friend: dust on a shared camera, haze and rulers match too. So the images
are laid over each other by the transform that the matches agree on, and their detail must agree
pixel by pixel, over most of the area that both show.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from medshadow.data.sketch import OUTSIDE, Sketch, mirrored, unit

MIN_INLIERS = 14
"""Keypoint matches that must agree on one transform.

Of the pairs found in ODIR-5K with 8, all with 15 or more were the same eye; those with 8 to 12 were
of other eyes, alike by dust on the lens and glare (docs/audit.md).
"""
MIN_CORRELATION = 0.4
"""Correlation that the laid-over detail must reach."""
MIN_AGREEMENT = 0.5
"""Share of the parts of the common area that must correlate by more than ``_PART``."""
MIN_OVERLAP = 0.3
"""Share of the smaller field of view that the two must have in common."""

_PART = 0.3
_PARTS = 4
_RATIO = 0.9
_REACH = 0.9
_TOLERANCE = 3.0
_SCALES = (0.5, 2.0)


@dataclass(frozen=True)
class Registration:
    """How well one image can be laid over another.

    Args:
        inliers: keypoint matches that agree on the transform.
        correlation: of the two details over their common area, in [-1, 1].
        agreement: share of the parts of that area (a grid of 4 x 4) that correlate by themselves.
        overlap: the common area as a share of the smaller field of view, in [0, 1].
        scale: size of the second image's content in the first, 1 for equal.
        rotation: degrees between the two.
        mirrored: whether the second image had to be mirrored.
    """

    inliers: int
    correlation: float
    agreement: float
    overlap: float
    scale: float
    rotation: float
    mirrored: bool = False

    @property
    def same(self) -> bool:
        """Whether the two images show the same place."""
        return (
            self.inliers >= MIN_INLIERS
            and self.correlation >= MIN_CORRELATION
            and self.agreement >= MIN_AGREEMENT
            and self.overlap >= MIN_OVERLAP
        )

    @property
    def words(self) -> str:
        """The evidence for people."""
        text = f"{self.inliers} keypoints agree, correlation {self.correlation:.2f}"
        return text + ", one of them mirrored" * self.mirrored


def register(first: Sketch, second: Sketch, mirror: bool = False) -> Registration | None:
    """Fit the second image to the first and measure how well they agree.

    Keypoints are matched both ways with Lowe's ratio test, a similarity (shift, turn, scale) is
    fitted by RANSAC, refined to an affine transform by maximising the correlation (Evangelidis and
    Psarakis 2008), and the details are compared where both fields of view lie over each other.

    Args:
        first: the image that stays.
        second: the image that is moved.
        mirror: whether to mirror the second image first.

    Returns:
        None when fewer than ``MIN_INLIERS`` matches agree on a transform.

    Example:
        >>> from medshadow.data.sketch import sketch
        >>> noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        >>> scene = cv2.resize(noise, (256, 256), interpolation=cv2.INTER_CUBIC)
        >>> register(sketch(scene[:200, :200]), sketch(scene[20:220, 30:230])).same
        True
    """
    points, descriptors, detail = second.points, second.descriptors, second.detail
    if mirror:
        points = points * [-1, 1] + [detail.shape[1] - 1, 0]
        descriptors, detail = mirrored(descriptors), detail[:, ::-1]
    mine, theirs = _matches(first.descriptors, descriptors)
    if len(mine) < MIN_INLIERS:
        return None
    move, agree = cv2.estimateAffinePartial2D(
        points[theirs].astype(np.float32),
        first.points[mine],
        method=cv2.RANSAC,
        ransacReprojThreshold=_TOLERANCE,
        maxIters=500,
    )
    if move is None or int(agree.sum()) < MIN_INLIERS:
        return None
    scale = float(np.hypot(move[0, 0], move[1, 0]))
    if not _SCALES[0] < scale < _SCALES[1]:
        return None
    correlation, agreement, overlap = _best_fit(first.detail, detail, move)
    rotation = float(np.degrees(np.arctan2(move[1, 0], move[0, 0])))
    return Registration(
        int(agree.sum()), correlation, agreement, overlap, scale, rotation, mirrored=mirror
    )


def _matches(
    first: npt.NDArray[np.uint8], second: npt.NDArray[np.uint8]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of keypoints that are each other's nearest, and clearly so."""
    none = np.zeros(0, np.int64)
    if len(first) < 2 or len(second) < 2:
        return none, none
    cosine = unit(first) @ unit(second).T
    nearest = cosine.argmax(axis=1)
    two = np.partition(cosine, -2, axis=1)[:, -2:]
    next_best, best = np.sqrt(np.maximum(2 - 2 * two, 0)).T
    mutual = cosine.argmax(axis=0)[nearest] == np.arange(len(first))
    mine = np.flatnonzero(mutual & (best < _RATIO * next_best) & (best < _REACH))
    return mine, nearest[mine]


def _best_fit(
    first: npt.NDArray[np.int8], second: npt.NDArray[np.int8], move: cv2.typing.MatLike
) -> tuple[float, float, float]:
    """Correlation, agreement and overlap, with the fitted or the refined transform."""
    fits = [_compare(first, second, cv2.invertAffineTransform(move))]
    if fits[0][2] >= MIN_OVERLAP:
        refined = _refined(first, second, cv2.invertAffineTransform(move))
        if refined is not None:
            fits.append(_compare(first, second, refined))
    return max(fits)


def _refined(
    first: npt.NDArray[np.int8], second: npt.NDArray[np.int8], back: cv2.typing.MatLike
) -> npt.NDArray[np.float32] | None:
    field = (second != OUTSIDE).astype(np.uint8)
    stop = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 30, 1e-3)
    try:
        _, found = cv2.findTransformECC(
            _values(first), _values(second), back.astype(np.float32), cv2.MOTION_AFFINE, stop,
            field, 3,
        )  # fmt: skip
    except cv2.error:
        # The refinement found no way uphill: the fitted transform stands.
        return None
    return np.asarray(found, np.float32)


def _compare(
    first: npt.NDArray[np.int8], second: npt.NDArray[np.int8], back: cv2.typing.MatLike
) -> tuple[float, float, float]:
    """Lay the second over the first (``back`` leads from first to second) and correlate."""
    size = first.shape[1], first.shape[0]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid = cv2.warpAffine(_values(second), back, size, flags=flags)
    theirs = cv2.warpAffine((second != OUTSIDE).astype(np.uint8), back, size, flags=flags)
    mine = first != OUTSIDE
    common = mine & (theirs > 0)
    overlap = float(common.sum() / max(1, min(mine.sum(), (second != OUTSIDE).sum())))
    if overlap < MIN_OVERLAP:
        return 0.0, 0.0, overlap
    values = _values(first)
    parts = []
    for rows in np.array_split(np.arange(size[1]), _PARTS):
        for columns in np.array_split(np.arange(size[0]), _PARTS):
            part = np.ix_(rows, columns)
            if common[part].mean() >= 0.4:
                parts.append(_correlation(values[part], laid[part], common[part]))
    agreement = float(np.mean([p > _PART for p in parts])) if parts else 0.0
    return _correlation(values, laid, common), agreement, overlap


def _correlation(
    first: npt.NDArray[np.float32], second: cv2.typing.MatLike, where: npt.NDArray[np.bool_]
) -> float:
    one, two = first[where], second[where]
    one, two = one - one.mean(), two - two.mean()
    return float(one @ two / np.sqrt((one @ one) * (two @ two) + 1e-9))


def _values(detail: npt.NDArray[np.int8]) -> npt.NDArray[np.float32]:
    return np.where(detail == OUTSIDE, 0, detail).astype(np.float32)
