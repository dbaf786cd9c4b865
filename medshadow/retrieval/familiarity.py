"""How far an image lies from everything in an archive: another kind of image, or an unusual one."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

# Share of held-out images of the archive's own kind that is called unlike it, and of another kind.
UNLIKE = 0.03
WRONG_KIND = 0.005
# Fewer say nothing about a tail of three in a hundred.
LEAST_IMAGES = 20
_DIRECTIONS = 32
_SIDE = 64
_QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)


class Look(NamedTuple):
    """What familiarity is judged by.

    Attributes:
        pooled: float C, the network's pooled features before its head, of any length.
        colours: float 42, as :func:`colours_of` gives them.
    """

    pooled: np.ndarray
    colours: np.ndarray


def colours_of(pixels: np.ndarray) -> np.ndarray:
    """An image's colours, wherever in it they are.

    Args:
        pixels: uint8 H x W x 3, RGB.

    Returns:
        float64 42: seven quantiles of red, green and blue, in [0, 1], and of the share that each
        has of a pixel's light. Of the image shrunk to 64 x 64.
    """
    small = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    rgb = np.asarray(small, dtype=np.float64).reshape(-1, 3) / 255
    shares = rgb / (rgb.sum(axis=1, keepdims=True) + 0.05)
    return np.quantile(np.hstack([rgb, shares]), _QUANTILES, axis=0).ravel()


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A Gaussian of q principal directions, and of one variance in all the others.

    Probabilistic principal components (Tipping and Bishop, J. Royal Statistical Society B 61,
    1999), so that far fewer images than dimensions suffice. The mean variance is added to every
    direction's: those that never vary among the archive's images do not decide alone.

    Args:
        mean: float D.
        directions: float q x D, orthonormal.
        variances: float q.
        rest: the variance in every other direction.
    """

    mean: np.ndarray
    directions: np.ndarray
    variances: np.ndarray
    rest: float

    @classmethod
    def fit(cls, values: np.ndarray, directions: int = _DIRECTIONS) -> Gaussian:
        """Fit to N x D values that are not all alike; N at least 2."""
        mean = values.mean(axis=0)
        _, singular, axes = np.linalg.svd(values - mean, full_matrices=False)
        variance = np.zeros(values.shape[1])
        variance[: len(singular)] = singular**2 / len(values)
        q = min(directions, len(singular))
        added = variance.mean() or 1.0
        rest = variance[q:].mean() if q < len(variance) else 0.0
        return cls(mean, axes[:q], variance[:q] + added, float(rest + added))

    def distance(self, values: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distance of N x D values from the mean, a value a dimension: N."""
        apart = values - self.mean
        along = apart @ self.directions.T
        others = np.maximum((apart**2).sum(axis=1) - (along**2).sum(axis=1), 0)
        total: np.ndarray = (along**2 / self.variances).sum(axis=1) + others / self.rest
        return total / values.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types: directions in half precision, the rest in single."""
        return {
            "mean": _packed(self.mean, "<f4"),
            "directions": _packed(self.directions, "<f2"),
            "variances": _packed(self.variances, "<f4"),
            "rest": self.rest,
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Gaussian:
        """What :meth:`to_dict` made."""
        mean = _unpacked(kept["mean"], "<f4")
        directions = _unpacked(kept["directions"], "<f2").reshape(-1, len(mean))
        return cls(mean, directions, _unpacked(kept["variances"], "<f4"), float(kept["rest"]))


@dataclass(frozen=True, eq=False)
class Familiarity:
    """How far an image lies from an archive's images, in features and in colours.

    The score is the sum of two squared Mahalanobis distances, of the network's pooled features (as
    unit vectors; Lee et al., NeurIPS 2018, with one Gaussian for all classes) and of the colours
    (:func:`colours_of`). The logarithm of each is scaled so that the median of held-out images of
    the archive's own kind becomes 0 and their 95th percentile 1. The network alone takes fundus
    photographs for lesions often enough, and colours alone a grey photograph for skin.

    What it is: a check whether an image is of the kind that the archive holds, with a known share
    of false alarms on that kind. What it is not: a measure of how rare a disease is, or of whether
    the neighbours found are right. A rare lesion in an ordinary image is not noticed, nor is an
    image made to deceive; an ordinary lesion under another camera may well be.

    Args:
        features: of the archive's pooled features, as unit vectors.
        colours: of its images' colours.
        scales: float 2 x 2: of features and of colours, the log distance that becomes 0, and how
            much of it becomes 1.
        unlike: images that score higher are unlike the archive: three in a hundred of its own kind.
        wrong_kind: those that score higher are taken for another kind: one in two hundred.
        images: held-out images that scales and limits come from.
    """

    features: Gaussian
    colours: Gaussian
    scales: np.ndarray
    unlike: float
    wrong_kind: float
    images: int

    @classmethod
    def fit(cls, archive: list[Look], held_out: list[Look]) -> Familiarity | None:
        """Fit to an archive's images, and set the limits on others of their kind.

        Args:
            archive: images of the archive, at most a few thousand.
            held_out: images that neither the archive holds nor the network was trained on.

        Returns:
            The score; None where there are fewer than 20 of either, which can set no limit.
        """
        if min(len(archive), len(held_out)) < LEAST_IMAGES:
            return None
        features = Gaussian.fit(np.stack([_unit(look.pooled) for look in archive]))
        colours = Gaussian.fit(np.stack([look.colours for look in archive]))
        logs = _log_distances(features, colours, held_out)
        median = np.median(logs, axis=0)
        spread = np.maximum(np.quantile(logs, 0.95, axis=0) - median, 1e-6)
        scores = ((logs - median) / spread).sum(axis=1)
        unlike, wrong_kind = np.quantile(scores, [1 - UNLIKE, 1 - WRONG_KIND], method="higher")
        scales = np.stack([median, spread], axis=1)
        return cls(features, colours, scales, float(unlike), float(wrong_kind), len(held_out))

    def score(self, look: Look) -> float:
        """How far an image lies from the archive's: about 0 for an ordinary one, higher further."""
        logs = _log_distances(self.features, self.colours, [look])[0]
        return float(((logs - self.scales[:, 0]) / self.scales[:, 1]).sum())

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types, about 120 KB of text; :meth:`from_dict` reads it."""
        return {
            "features": self.features.to_dict(),
            "colours": self.colours.to_dict(),
            "scales": self.scales.tolist(),
            "unlike": self.unlike,
            "wrong_kind": self.wrong_kind,
            "images": self.images,
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> Familiarity:
        """What :meth:`to_dict` made."""
        return cls(
            Gaussian.from_dict(kept["features"]),
            Gaussian.from_dict(kept["colours"]),
            np.asarray(kept["scales"], dtype=np.float64),
            float(kept["unlike"]),
            float(kept["wrong_kind"]),
            int(kept["images"]),
        )


def _log_distances(features: Gaussian, colours: Gaussian, looks: list[Look]) -> np.ndarray:
    """Log distances of N images: N x 2, of features and of colours."""
    pooled = features.distance(np.stack([_unit(look.pooled) for look in looks]))
    colour = colours.distance(np.stack([look.colours for look in looks]))
    # An image at the very centre has no logarithm.
    return np.log(np.stack([pooled, colour], axis=1) + 1e-6)


def _unit(vector: np.ndarray) -> np.ndarray:
    values = np.asarray(vector, dtype=np.float64)
    return values / max(float(np.linalg.norm(values)), 1e-12)


def _packed(values: np.ndarray, kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values.astype(kind)).tobytes()).decode()


def _unpacked(text: str, kind: str) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype=kind).astype(np.float64)
