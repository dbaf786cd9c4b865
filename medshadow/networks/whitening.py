"""Discriminative whitening: the embedder's last layer, fitted in closed form after training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Whitening(nn.Module):
    """Pooled features to an embedding: normalised, moved by their mean, projected.

    A head that was trained pulls the cases of a class together until their order within it means
    little, and the neighbours of a doubtful case are then all of one class. The pooled features
    before it still tell such cases apart. Whitening makes a metric of them: it divides by the
    variation within the classes, so that a direction counts by how well it separates them
    (Mikolajczyk and Matas, ICCV 2007; the form used here, for networks: Radenovic, Tolias and Chum,
    TPAMI 2019, there called learned whitening).

    Args:
        channels: C, channels of the pooled features.
        dim: D; above C where other rows stand beside the whitening's own
            (:func:`medshadow.training.fit_final_head`).
    """

    mean: Tensor
    projection: Tensor

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        if dim < 1:
            raise ValueError(f"whitening gives 1 dimension or more; found {dim}")
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("projection", torch.zeros(dim, channels))

    def forward(self, pooled: Tensor) -> Tensor:
        """N x C features, of any length, to N x D, not yet of unit length."""
        return F.linear(F.normalize(pooled.float(), dim=1) - self.mean, self.projection)

    @classmethod
    def fit(
        cls, features: np.ndarray, labels: Sequence[object], dim: int, shrinkage: float = 1.0
    ) -> Whitening:
        """Fit to features of known cases.

        With Sigma the covariance of the features within their classes, pooled over all cases, the
        projection is the ``dim`` principal axes of Sigma^(-1/2) (f - mean). The mean is that of the
        classes' means: known cases are mostly of the common classes. ``shrinkage`` times the mean
        eigenvalue is added to Sigma's eigenvalues, so that directions without variation among the
        known cases do not decide.

        Args:
            features: N x C unit vectors.
            labels: the class of each.
            dim: D, at most C.
            shrinkage: above 0.

        Raises:
            ValueError: there is no feature, or not one label for each, or fewer than two classes,
                or the features of each class are all alike, or ``dim`` is out of its range.

        Example:
            >>> rng = np.random.default_rng(0)
            >>> means = rng.normal(size=(3, 8))[[0, 1, 2] * 20]
            >>> features = means + rng.normal(size=(60, 8)) * [5, 1, 1, 1, 1, 1, 1, 1]
            >>> features /= np.linalg.norm(features, axis=1, keepdims=True)
            >>> whitening = Whitening.fit(features, [0, 1, 2] * 20, dim=2)
            >>> whitening(torch.from_numpy(features)).shape
            torch.Size([60, 2])
        """
        classes, code = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        if len(features) != len(code) or len(classes) < 2:
            raise ValueError(
                f"{len(features)} features and {len(code)} labels of {len(classes)} classes; "
                "whitening needs a label for each feature and two classes or more"
            )
        if not 1 <= dim <= np.shape(features)[1]:
            raise ValueError(
                f"dim must be from 1 to the {np.shape(features)[1]} channels of the features; "
                f"found {dim}"
            )
        values = np.asarray(features, dtype=np.float64)
        means = np.stack([values[code == c].mean(0) for c in range(len(classes))])
        within = values - means[code]
        variance, axes = np.linalg.eigh(within.T @ within / len(values))
        variance = np.maximum(variance, 0)
        if not variance.any():
            raise ValueError(f"the features of each of {len(classes)} classes are all alike")
        whiten = axes / np.sqrt(variance + shrinkage * variance.mean())
        mean = means.mean(0)
        moved = (values - mean) @ whiten
        _, principal = np.linalg.eigh(moved.T @ moved)
        whitening = cls(values.shape[1], dim)
        projection = (whiten @ principal[:, ::-1][:, :dim]).T
        whitening.mean.copy_(torch.from_numpy(mean))
        whitening.projection.copy_(torch.from_numpy(projection.copy()))
        return whitening
