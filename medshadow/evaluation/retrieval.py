"""Nearest known cases for each query, one a lesion or patient, and how good their order is.

The metrics take rankings as ``relevant``: bool Q x M, one row a query, nearest neighbour first,
True where the neighbour shares a finding with the query (where cases carry one label each: carries
the query's label); a row that ends early is filled up with False. Each gives one value a query, so
that means, class means and bootstrap intervals come after. Ties are settled before, in the ranking:
see `nearest_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.votes import majority_vote

__all__ = [
    "Neighbours",
    "majority_vote",
    "map_at_r",
    "nearest_groups",
    "precision_at_k",
    "r_precision",
    "ranked_blocks",
    "recall_at_k",
    "reciprocal_rank",
]

# Similarities held at one time: few enough to stay in a processor's cache.
_BLOCK_VALUES = 400_000
# Steps of similarity up to 1: the finest that float32 tells apart just below 1.
_STEPS = 2**24
_NOBODY = np.iinfo(np.int64).max


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest gallery images of Q queries, nearest first, one a gallery group.

    Args:
        index: int64 Q x k, rows of the gallery; -1 where the gallery has no further group.
        similarity: float32 Q x k, cosine in [-1, 1]; nan where ``index`` is -1.
    """

    index: np.ndarray
    similarity: np.ndarray

    @property
    def available(self) -> np.ndarray:
        """Int64 Q: how many neighbours each query has."""
        return (self.index >= 0).sum(axis=1)


def nearest_groups(queries: EmbeddedCases, gallery: EmbeddedCases, k: int | None) -> Neighbours:
    """Find the k nearest groups of each query, each shown by its image nearest to the query.

    Every gallery group (lesion or patient) appears at most once, through the image of it with the
    largest cosine similarity; the query's own group never appears. Ties, between the images of a
    group and between groups, go to the image that stands first in the gallery. Similarities are
    computed in float64 and compared in steps of 2^-24 (float32's own step just below 1), so that
    copies of one image do tie, whatever the rounding of the matrix product.

    Args:
        queries: Q cases; they may be the gallery itself.
        gallery: N cases with embeddings of the same dimension.
        k: neighbours to find, at least 1; None ranks every gallery group.

    Returns:
        Neighbours, Q x k. A gallery with fewer than k other groups leaves -1 and nan at the end
        of the row; for ``k=None`` the width is the number of gallery groups.

    Raises:
        ValueError: k is below 1 or the dimensions differ.

    Example:
        >>> gallery = EmbeddedCases(np.array([[1, 0], [1, 0.1], [0, 1.0]]), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": ["1", "1", "2"], "label": ["mel", "mel", "nv"]}))
        >>> query = EmbeddedCases(np.array([[1, 0.1]]), pd.DataFrame(
        ...     {"case_id": ["q"], "group": ["9"], "label": ["mel"]}))
        >>> nearest_groups(query, gallery, k=3).index.tolist()
        [[1, 2, -1]]
    """
    groups = gallery.frame["group"].nunique()
    width = groups if k is None else k
    index = np.full((len(queries), width), -1, dtype=np.int64)
    similarity = np.full((len(queries), width), np.nan, dtype=np.float32)
    for rows, found, cosine in ranked_blocks(queries, gallery, k):
        index[rows, : found.shape[1]] = found
        similarity[rows, : found.shape[1]] = cosine
    return Neighbours(index, similarity)


def ranked_blocks(
    queries: EmbeddedCases, gallery: EmbeddedCases, k: int | None
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the answer of `nearest_groups` for some queries at a time, in order.

    Each item is the slice of queries, their gallery rows and the cosines, B x min(k, groups): what
    a full ranking of a large gallery needs to stay in little memory.
    """
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, or None for a full ranking; found {k}")
    if queries.embeddings.shape[1] != gallery.embeddings.shape[1]:
        raise ValueError(
            f"queries have {queries.embeddings.shape[1]} dimensions, the gallery "
            f"{gallery.embeddings.shape[1]}: embeddings of one model are expected"
        )
    names, code = np.unique(gallery.groups.astype(str), return_inverse=True)
    rows = np.argsort(code, kind="stable")
    starts = np.flatnonzero(np.diff(code[rows], prepend=-1))
    own = pd.Index(names).get_indexer(pd.Index(queries.groups.astype(str)))
    asked, known = queries.directions, gallery.directions[rows].T
    width = len(names) if k is None else min(k, len(names))
    step = max(1, _BLOCK_VALUES // len(gallery))
    for first in range(0, len(queries), step):
        block = slice(first, first + step)
        keys = _keys(asked[block] @ known, rows)
        best = np.minimum.reduceat(keys, starts, axis=1)
        mine = np.flatnonzero(own[block] >= 0)
        best[mine, own[block][mine]] = _NOBODY
        if width < len(names):
            best = np.partition(best, width - 1, axis=1)[:, :width]
        best.sort(axis=1)
        yield (block, *_decoded(best))


def _keys(cosine: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One integer for each pair that sorts by falling similarity, then by gallery row.

    Sorting such values is several times faster than a stable argsort, and the row comes with them.
    The similarities are overwritten.
    """
    cosine *= -_STEPS
    keys = np.rint(cosine, out=cosine).astype(np.int64)
    keys <<= 32
    keys |= rows
    return keys


def _decoded(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nobody = keys == _NOBODY
    # Subtracting from zero keeps a similarity of nothing from being written as -0.0.
    cosine = (0 - (keys >> 32)).astype(np.float32) / np.float32(_STEPS)
    return np.where(nobody, -1, keys & 0xFFFFFFFF), np.where(nobody, np.float32(np.nan), cosine)


def recall_at_k(relevant: np.ndarray, k: int) -> np.ndarray:
    """Whether there is a hit among the first k: recall@k as metric learning counts it.

    recall@k = 1 if any of the first min(k, M) neighbours is relevant, else 0. It is not the share
    of all relevant cases that were found. A query without relevant neighbours has 0; in a gallery
    with fewer than k other groups all of them count. Ties: the ranking's, see `nearest_groups`.

    Args:
        relevant: bool Q x M.
        k: at least 1.

    Returns:
        float64 Q of 0 and 1.

    Example:
        >>> recall_at_k(np.array([[False, True], [False, False]]), 2).tolist()
        [1.0, 0.0]
    """
    return np.asarray(relevant[:, : _checked(k)].any(axis=1), dtype=np.float64)


def precision_at_k(relevant: np.ndarray, available: np.ndarray, k: int) -> np.ndarray:
    """Share of the first k neighbours that are relevant.

    precision@k = relevant among the first k / min(k, available). A gallery with fewer than k other
    groups thus does not lower it; a class with fewer than k groups does, as in the textbooks.
    A query without neighbours has 0. Ties: the ranking's, see `nearest_groups`.

    Args:
        relevant: bool Q x M.
        available: int Q, how many neighbours each query has.
        k: at least 1.

    Returns:
        float64 Q in [0, 1].

    Example:
        >>> precision_at_k(np.array([[True, False, False]]), np.array([2]), 16).tolist()
        [0.5]
    """
    hits: np.ndarray = relevant[:, : _checked(k)].sum(axis=1)
    return np.divide(hits, np.maximum(np.minimum(available, k), 1))


def r_precision(relevant: np.ndarray) -> np.ndarray:
    """Share of relevant ones among the first R, R being the number of relevant neighbours.

    R-precision = relevant among the first R / R. The ranking must be complete: R is counted in it.
    R = 0 (no other group of the gallery is relevant) gives 0; a short gallery lowers R and nothing
    else. Ties: the ranking's, see `nearest_groups`.

    Args:
        relevant: bool Q x M, complete rankings.

    Returns:
        float64 Q in [0, 1].

    Example:
        >>> r_precision(np.array([[True, False, True, False]])).tolist()
        [0.5]
    """
    R = relevant.sum(axis=1)
    found = (relevant & (np.arange(relevant.shape[1]) < R[:, None])).sum(axis=1)
    return found / np.maximum(R, 1)


def map_at_r(relevant: np.ndarray) -> np.ndarray:
    """Average precision over the first R: R-precision that also rewards early hits.

    mAP@R = (1 / R) sum over i = 1..R of precision@i [the i-th neighbour is relevant], R being the
    number of relevant neighbours in the complete ranking (Musgrave, Belongie, Lim 2020, "A metric
    learning reality check", section 3.2). R = 0 gives 0; a short gallery lowers R and nothing else.
    Ties: the ranking's, see `nearest_groups`.

    Args:
        relevant: bool Q x M, complete rankings.

    Returns:
        float64 Q in [0, 1].

    Example:
        >>> map_at_r(np.array([[False, True, True]])).tolist()
        [0.25]
    """
    R = relevant.sum(axis=1)
    places = np.arange(1, relevant.shape[1] + 1)
    precision = np.cumsum(relevant, axis=1) / places
    gain = np.where(relevant & (places <= R[:, None]), precision, 0.0).sum(axis=1)
    return gain / np.maximum(R, 1)


def reciprocal_rank(relevant: np.ndarray) -> np.ndarray:
    """One over the place of the first relevant neighbour; its mean over queries is the MRR.

    Places count from 1. A query without relevant neighbours has 0, however short the gallery. Ties:
    the ranking's, see `nearest_groups`.

    Args:
        relevant: bool Q x M, complete rankings.

    Returns:
        float64 Q in [0, 1].

    Example:
        >>> reciprocal_rank(np.array([[False, True, True], [False, False, False]])).tolist()
        [0.5, 0.0]
    """
    return np.where(relevant.any(axis=1), 1.0 / (relevant.argmax(axis=1) + 1), 0.0)


def _checked(k: int) -> int:
    if k < 1:
        raise ValueError(f"k must be at least 1; found {k}")
    return k
