"""Nearest known cases for each query, one a lesion or patient, and their vote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases

# Similarities held at one time: about 100 MB with the keys made of them.
_BLOCK_VALUES = 4_000_000
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
    """
    steps = np.rint(cosine * -_STEPS).astype(np.int64)
    return (steps << 32) | rows


def _decoded(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    nobody = keys == _NOBODY
    # Subtracting from zero keeps a similarity of nothing from being written as -0.0.
    cosine = (0 - (keys >> 32)).astype(np.float32) / np.float32(_STEPS)
    return np.where(nobody, -1, keys & 0xFFFFFFFF), np.where(nobody, np.float32(np.nan), cosine)


def majority_vote(labels: Sequence[str]) -> str:
    """The label that most neighbours carry.

    Every neighbour counts one. Among labels with equally many neighbours the one that appears
    nearest wins.

    Args:
        labels: the neighbours' labels, nearest first; at least one.

    Raises:
        ValueError: there is no neighbour.

    Example:
        >>> majority_vote(["nv", "mel", "mel", "nv"])
        'nv'
    """
    if len(labels) == 0:
        raise ValueError("a vote needs at least one neighbour; found none")
    names, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
    return str(names[vote_codes(codes[None, :], len(names))[0]])


def vote_codes(codes: np.ndarray, classes: int) -> np.ndarray:
    """`majority_vote` of many queries at once.

    Args:
        codes: integers Q x k in [0, classes), nearest first; -1 where there is no neighbour.
        classes: the number of classes.

    Returns:
        int64 Q: the winning class; -1 for a query without neighbours.
    """
    chosen = codes[:, :, None] == np.arange(classes)
    counts = chosen.sum(axis=1)
    first = np.where(counts > 0, chosen.argmax(axis=1), codes.shape[1])
    # Counts are whole numbers and the second term stays below one, so it only breaks ties.
    score = counts - first / (codes.shape[1] + 1.0)
    return np.where(counts.sum(axis=1) > 0, score.argmax(axis=1), -1)
