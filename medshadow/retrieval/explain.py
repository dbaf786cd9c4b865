"""Which regions of two images made them alike: where the similarity comes from, and overlays."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from medshadow.retrieval.contributions import cell_contributions
from medshadow.retrieval.encode import views_of
from medshadow.retrieval.encoders import QueryViews
from medshadow.retrieval.frame import Frame, frame_of
from medshadow.retrieval.hiding import (
    FILLS,
    Fill,
    around,
    blurred,
    hidden,
    mean_fall,
    patches,
    strongest,
)

if TYPE_CHECKING:
    from medshadow.networks import Embedder

# Cyan stands out on skin and on retina, and in every common kind of colour blindness.
_TINT = (0, 220, 255)
# Patches to stand for themselves; with two, fewer explanations held (validation pairs of eyes).
_DISCS = 4


@dataclass(frozen=True, eq=False)
class Explanation:
    """Which regions made two images alike; see :func:`explain`.

    Args:
        query_map: float32 H x W in [0, 1], 0 where the network does not look.
        case_map: the same for the case's picture.
        query_overlay: uint8 H x W x 3: the query, tinted where the map is high; a line encloses
            the strongest fifth of what the network sees.
        case_overlay: the same for the case's picture.
        similarity: the cosine of the two as they were given: of a small picture of the case it is
            not quite that of the case's own vector.
        query_cells: float32 h x w: what each cell of the query, from its upper left corner on, adds
            to the similarity; the sum is the similarity.
        case_cells: the same for the case's picture.
    """

    query_map: np.ndarray
    case_map: np.ndarray
    query_overlay: np.ndarray
    case_overlay: np.ndarray
    similarity: float
    query_cells: np.ndarray
    case_cells: np.ndarray


def explain(
    embedder: Embedder,
    query: np.ndarray,
    case: np.ndarray,
    laterality: str = "",
    case_laterality: str = "",
) -> Explanation:
    """Show which regions of a query and of a known case made them alike.

    For each image in turn the other's vector is held fixed, and these maps are made:

    1. what each cell of the feature map adds to the cosine. This is exact, see
       :func:`~medshadow.retrieval.contributions.cell_contributions`, but coarse, 5 x 5 cells at
       160 pixels, and each cell has seen more than the pixels below it;
    2. how much the cosine falls when a patch is hidden behind a blur, a mean over the patches that
       cover a pixel. This is measured, on pixels, with the image as it stands;
    3. both, each standardised, in equal parts;
    4. nearness to each of the four patches that lowered it most.

    Given is the one whose strongest fifth, hidden behind a blur and behind the image's mean colour,
    lowers the cosine most. None of them says why the regions are alike, nor that what matters for
    the diagnosis lies there.

    Source: Stylianou, Souvenir and Pless, "Visualizing deep similarity networks", WACV 2019, for
    the first map; Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV
    2014, for the second.

    Args:
        embedder: the model that compares them; it is put into evaluation mode.
        query: uint8 H x W x 3, RGB. It is seen in the model's query views, as in a lookup.
        case: uint8 H x W x 3, RGB; a thumbnail will do.
        laterality: "left" or "right" for a query of such an eye, "" where unknown.
        case_laterality: the same for the case.

    Raises:
        ValueError: an array is no uint8 H x W x 3, or a laterality is another word.

    Example:
        >>> found = explain(embedder, query, store.image_of("ISIC_0024306"))  # doctest: +SKIP
        >>> found.query_map.shape == query.shape[:2]  # doctest: +SKIP
        True
    """
    embedder.eval()
    views = QueryViews(embedder)
    device = next(embedder.parameters()).device
    with torch.inference_mode(), torch.autocast(device.type, enabled=False):
        of_query = _Side(embedder, views(query, laterality).to(device))
        of_case = _Side(embedder, views(case, case_laterality)[:1].to(device))
        query_cells = of_query.cells(of_case.vector)
        case_cells = of_case.cells(of_query.vector)
        query_square = of_query.map(query_cells, of_case.vector)
        case_square = of_case.map(case_cells, of_query.vector)
        similarity = float(of_query.vector @ of_case.vector)
    query_frame = frame_of(embedder, query, laterality)
    case_frame = frame_of(embedder, case, case_laterality)
    query_map, query_overlay = _on_image(query, query_frame, query_square)
    case_map, case_overlay = _on_image(case, case_frame, case_square)
    return Explanation(
        query_map=query_map,
        case_map=case_map,
        query_overlay=query_overlay,
        case_overlay=case_overlay,
        similarity=similarity,
        query_cells=query_cells[:, ::-1] if query_frame.mirrored else query_cells,
        case_cells=case_cells[:, ::-1] if case_frame.mirrored else case_cells,
    )


class _Side:
    """One of the two images, in its views; everything is in the preset's square."""

    def __init__(self, embedder: Embedder, views: Tensor) -> None:
        self.embedder = embedder
        self.views = views
        self.feature_map = embedder.backbone(_packed(views))
        self.vectors = embedder.embed(embedder.pool(self.feature_map))
        self.vector = normalize(self.vectors.mean(0), dim=0)

    def cells(self, other: Tensor) -> np.ndarray:
        """What each cell adds to the cosine with a vector, each view's turned back: h x w."""
        # The vector is the mean of the views' over its length, so its parts are theirs over that.
        towards = other / (len(self.views) * self.vectors.mean(0).norm())
        parts = cell_contributions(self.embedder, self.feature_map, towards)
        down, across = parts.shape[1:]
        if len(parts) == 1:
            return parts[0].cpu().numpy()
        places = torch.arange(down * across, device=parts.device).reshape(1, 1, down, across)
        turned = torch.cat([view.flatten() for view in islice(views_of(places), len(parts))])
        summed = parts.new_zeros(down * across).index_add(0, turned, parts.flatten())
        return summed.reshape(down, across).cpu().numpy()

    def map(self, cells: np.ndarray, other: Tensor) -> np.ndarray:
        """The map, of several, that hiding proves best: float32 S x S in [0, 1]."""
        square = self.views[0].cpu().numpy()
        size = square.shape[-1]
        seen = square.max(axis=0) > 0
        covers = patches(size)
        falls = self._falls(square, covers, blurred, other)
        measured = mean_fall(falls, covers)
        smooth = cv2.resize(cells, (size, size), interpolation=cv2.INTER_LINEAR)
        both = _standard(smooth) + _standard(measured)
        discs = [around(covers[at]) for at in np.argsort(-falls, kind="stable")[:_DISCS]]
        candidates = [smooth, measured, both, *discs]
        regions = [strongest(candidate, seen) for candidate in candidates]
        proof = sum(self._falls(square, regions, fill, other) for fill in FILLS)
        return _in_unit(candidates[int(np.argmax(proof))], seen)

    def _falls(
        self, square: np.ndarray, regions: Iterable[np.ndarray], fill: Fill, other: Tensor
    ) -> np.ndarray:
        """How much the cosine falls with each region hidden, in the image as it stands."""
        images = torch.from_numpy(hidden(square, regions, fill)).to(other.device)
        cosines = self.embedder(_packed(images)) @ other
        return (self.vectors[0] @ other - cosines).cpu().numpy()


def _packed(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _standard(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = (values - values.mean()) / max(float(values.std()), 1e-12)
    return result


def _in_unit(values: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """From 0 at the median of what is seen, and below it, to 1 at the most: float32."""
    shown = values[seen] if seen.any() else values
    low, high = float(np.median(shown)), float(shown.max())
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return scaled.astype(np.float32)


def _on_image(
    pixels: np.ndarray, frame: Frame, square_map: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """A map of the preset's square at the image's size, and the image tinted by it."""
    shape = pixels.shape[:2]
    seen = frame.seen(shape)
    image_map = frame.spread(square_map, shape) * seen
    return image_map, _overlay(pixels, image_map, strongest(image_map, seen) & (image_map > 0))


def _overlay(pixels: np.ndarray, image_map: np.ndarray, region: np.ndarray) -> np.ndarray:
    share = 0.5 * image_map[..., None]
    tinted = np.rint((1 - share) * pixels + share * np.array(_TINT)).astype(np.uint8)
    outlines, _ = cv2.findContours(
        region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    width = max(1, round(max(pixels.shape[:2]) / 200))
    cv2.drawContours(tinted, outlines, -1, _TINT, width)
    return tinted
