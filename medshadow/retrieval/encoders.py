"""From one image in memory to its vector, with everything that does not change made ready before.

:func:`~medshadow.retrieval.encode_cases` is for archives; an encoder is for queries, one by one,
from several threads of a service.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from medshadow.retrieval.encode import check_pixels, pixel_preset, views_of

if TYPE_CHECKING:
    from medshadow.networks import Embedder


class Encoded(NamedTuple):
    """What a network makes of an image.

    Attributes:
        vector: float32 D, of length 1: the mean over the model's query views.
        pooled: float32 C, the network's pooled features before its head, of free length, of the
            image as it stands: known cases are encoded without turns, and theirs compare with it.
    """

    vector: np.ndarray
    pooled: np.ndarray


class Encoder(Protocol):
    """Pixels (uint8 H x W x 3, RGB) and laterality ("left", "right" or "") to :class:`Encoded`."""

    name: str

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Encoded:
        """Encode one image."""


class QueryViews:
    """An image through a model's own preset, in as many views as the model averages queries over.

    Args:
        embedder: a trained model.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._transform = pixel_preset(embedder)
        self._views = embedder.query_views

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Tensor:
        """Pixels to V x 3 x S x S, float32 in [0, 1]; the image as it stands comes first.

        Args:
            pixels: uint8 H x W x 3, RGB.
            laterality: "left" or "right" for an image of such an eye, "" where unknown.

        Raises:
            ValueError: the array is no uint8 H x W x 3, or the laterality is another word.
        """
        check_pixels(pixels)
        if laterality not in ("left", "right", ""):
            raise ValueError(f'laterality must be "left", "right" or ""; found {laterality!r}')
        image: Tensor = self._transform({"image": pixels, "laterality": laterality})["image"]
        return torch.cat(list(islice(views_of(image[None]), self._views)))


class TorchEncoder:
    """Encode queries with PyTorch, in float32; safe to call from several threads.

    Args:
        embedder: a trained model; it is put into evaluation mode and must stay in it.

    Example:
        >>> encoder = TorchEncoder(embedder)  # doctest: +SKIP
        >>> encoder(read_image("lesion.jpg")).vector.shape  # doctest: +SKIP
        (256,)
    """

    name = "torch"

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder.eval()
        self._views_of = QueryViews(embedder)
        self._device = next(embedder.parameters()).device

    def __call__(self, pixels: np.ndarray, laterality: str = "") -> Encoded:
        """Encode one image; arguments and errors are those of :class:`QueryViews`."""
        views = self._views_of(pixels, laterality).to(self._device)
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False):
            views = views.contiguous(memory_format=torch.channels_last)
            pooled = self._embedder.pool(self._embedder.backbone(views))
            vector = normalize(self._embedder.embed(pooled).mean(0), dim=0)
        return Encoded(vector.cpu().numpy(), pooled[0].float().cpu().numpy())
