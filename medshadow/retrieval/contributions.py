"""What each cell of a feature map adds to a cosine: exact, since only linear layers follow it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from medshadow.networks.whitening import Whitening

if TYPE_CHECKING:
    from medshadow.networks import Embedder


def cell_contributions(embedder: Embedder, feature_map: Tensor, towards: Tensor) -> Tensor:
    """Split the products of embeddings with a vector into what each cell adds.

    Pooling is a mean over cells i of their features f_i (of their cubes over the square of the
    pooled value, for "gem"), and a head is z = M p + c of the pooled p, a whitening with M divided
    by the length of p. So towards . z / |z| is the sum over the n cells of
    (towards . M f_i + towards . c) / (n |z|).

    Exact is the sum, with the lengths of p and z taken as they are. Two things it does not say:
    what a cell would add if the others were different, for the lengths would be, and which pixels
    it saw, for each cell's features come from far beyond it. The part c is shared out evenly.

    Source: Stylianou, Souvenir and Pless, "Visualizing deep similarity networks", WACV 2019, for
    average pooling and the cosine; the whitening and "gem" are split in the same way.

    Args:
        embedder: in evaluation mode.
        feature_map: N x C x h x w, as its backbone gives it.
        towards: D, usually the other image's unit vector.

    Returns:
        float32 N x h x w; the sum of each is the product of an embedding with ``towards``.

    Example:
        >>> from medshadow.networks import Embedder, backbone
        >>> net = Embedder(backbone("efficientnet-lite0", pretrained=False), 8).eval()
        >>> images, other = torch.rand(2, 3, 64, 64), torch.eye(8)[0]
        >>> with torch.no_grad():
        ...     cells = cell_contributions(net, net.backbone(images), other)
        ...     torch.allclose(cells.sum((1, 2)), net(images) @ other, atol=1e-5)
        True
    """
    feature_map = feature_map.float()
    pooled = embedder.pool(feature_map)
    if embedder.pooling == "gem":
        cubes = feature_map.clamp_min(1e-6).pow(3)
        feature_map = cubes / pooled.square()[:, :, None, None]
    weight, offset = _head_towards(embedder.head, pooled, towards)
    lengths = embedder.head(pooled).norm(dim=1).clamp_min(1e-12)
    products = torch.einsum("nc,nchw->nhw", weight, feature_map) + offset
    return products / (feature_map[0, 0].numel() * lengths[:, None, None])


def _head_towards(head: nn.Module, pooled: Tensor, towards: Tensor) -> tuple[Tensor, Tensor]:
    """The head's M and c, multiplied by a vector from the left: N x C and a number."""
    if isinstance(head, nn.Linear):
        return (towards @ head.weight).expand_as(pooled), towards @ head.bias
    if isinstance(head, Whitening):
        weight = towards @ head.projection
        lengths = pooled.norm(dim=1, keepdim=True).clamp_min(1e-12)
        return weight / lengths, -weight @ head.mean
    return towards.expand_as(pooled), towards.new_zeros(())
