"""How embeddings lie on the sphere: spread, separation, and points that are near to everything.

All functions compare directions: embeddings are scaled to unit length first (a zero embedding
stays zero).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases

# Pairs held at one time: 32 MB.
_BLOCK_VALUES = 4_000_000


def silhouettes(cases: EmbeddedCases) -> np.ndarray:
    """Silhouette of each case with cosine distance; its mean is the silhouette of the embedding.

    s = (b - a) / max(a, b), where a is the mean cosine distance to the other cases of its label
    and b the smallest, over the other labels, of the mean distance to that label's cases
    (Rousseeuw 1987). A case alone with its label has 0, and so has max(a, b) = 0. Images of one
    lesion count like any others. Exact, without listing pairs: O(N C D).

    Returns:
        float64 N in [-1, 1]; all nan when there is only one label.

    Example:
        >>> cases = EmbeddedCases(np.array([[1, 0], [1, 0], [0, 1.0]]), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": list("abc"), "label": ["mel", "mel", "nv"]}))
        >>> silhouettes(cases).tolist()
        [1.0, 1.0, 0.0]
    """
    x = cases.directions
    names, code = np.unique(cases.labels.astype(str), return_inverse=True)
    if len(names) == 1:
        return np.full(len(x), np.nan)
    member = (code[:, None] == np.arange(len(names))).astype(np.float64)
    sizes = member.sum(axis=0)
    # The mean of 1 - x.y over a class needs only the class's sum of vectors.
    distance = sizes - x @ (member.T @ x).T
    own = np.arange(len(x)), code
    others = distance / sizes
    others[own] = np.inf
    b = np.maximum(others.min(axis=1), 0)
    to_itself = 1 - (x * x).sum(axis=1)
    a = np.maximum((distance[own] - to_itself) / np.maximum(sizes[code] - 1, 1), 0)
    largest = np.maximum(a, b)
    # Distances of copies are zero only up to rounding.
    usable = (sizes[code] > 1) & (largest > 1e-12)
    return np.divide(b - a, largest, out=np.zeros(len(x)), where=usable)


def effective_rank(cases: EmbeddedCases) -> float:
    """How many dimensions the embeddings really use.

    exp(-sum_i p_i ln p_i) with p_i = s_i / sum of s, s being the singular values of the N x D
    matrix of directions, not centred (Roy and Vetterli 2007; RankMe, Garrido et al. 2023).
    Centring would hide a collapse: the little noise that is left around one point fills every
    dimension.

    Returns:
        A number in [1, min(N, D)], 1 when all directions are one; 0 if every embedding is zero.

    Example:
        >>> cases = EmbeddedCases(np.eye(4), pd.DataFrame(
        ...     {"case_id": list("abcd"), "group": list("abcd"), "label": ["nv"] * 4}))
        >>> round(effective_rank(cases), 6)
        4.0
    """
    return _effective_rank(cases.directions)


def collapse_signs(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """What shows that an embedding has shrunk to one point.

    A collapsed embedding has ``spread`` 0, ``effective_rank`` 1 and ``centroid_cosine`` 1. None of
    them proves a collapse alone: an untrained network has low values too, so they are read against
    those of a healthy one.

    Args:
        embeddings: N x D real numbers, all finite; scaled to unit length first.
        labels: N, the class of each.

    Returns:
        ``spread``: standard deviation of a dimension over the embeddings, the mean of the D
        dimensions, from 0 to 1 / sqrt(D). ``effective_rank``: as :func:`effective_rank`.
        ``centroid_cosine``: mean cosine between the centroids of two classes, in [-1, 1], a
        centroid at the origin counting 0; nan when there is one class.

    Raises:
        ValueError: the shapes do not fit, or a value is not finite.

    Example:
        >>> signs = collapse_signs(np.array([[1, 0], [0, 1.0]]), np.array(["mel", "nv"]))
        >>> {name: round(value, 6) for name, value in signs.items()}
        {'spread': 0.5, 'effective_rank': 2.0, 'centroid_cosine': 0.0}
    """
    values, labels = np.asarray(embeddings, dtype=np.float64), np.asarray(labels)
    if values.ndim != 2 or 0 in values.shape or labels.shape != values.shape[:1]:
        raise ValueError(
            f"expected N x D embeddings and N labels; found {values.shape} and {labels.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{int((~np.isfinite(values)).sum())} values of the embeddings not finite")
    x = _unit_rows(values)
    names, code = np.unique(labels.astype(str), return_inverse=True)
    sums = np.zeros((len(names), x.shape[1]))
    np.add.at(sums, code, x)
    centroids = _unit_rows(sums)
    cosines = centroids @ centroids.T
    pairs = cosines[~np.eye(len(names), dtype=bool)]
    return {
        "spread": float(x.std(axis=0).mean()),
        "effective_rank": _effective_rank(x),
        "centroid_cosine": float(pairs.mean()) if len(pairs) else float("nan"),
    }


def _effective_rank(directions: np.ndarray) -> float:
    values = np.linalg.svd(directions, compute_uv=False)
    if values.sum() == 0:
        return 0.0
    p = values / values.sum()
    p = p[p > 0]
    return float(np.exp(-(p * np.log(p)).sum()))


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    # A sum of opposite directions is zero only up to rounding.
    return np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)


def alignment(cases: EmbeddedCases) -> float:
    """Mean squared distance between two cases of one diagnosis; smaller is tighter.

    For each label the mean of ||x - y||^2 over all pairs of that label from different groups, then
    the mean over labels that have such a pair: the positive pairs of class-balanced batches
    (Wang and Isola 2020, alpha = 2). Images of one lesion are no pair: their likeness is no merit.
    Exact, without listing pairs.

    Returns:
        A number in [0, 4]; nan when no label has two groups.

    Example:
        >>> cases = EmbeddedCases(np.eye(2), pd.DataFrame(
        ...     {"case_id": list("ab"), "group": list("ab"), "label": ["nv", "nv"]}))
        >>> alignment(cases)
        2.0
    """
    x = cases.directions
    labels = cases.labels.astype(str)
    lesions = pd.Series(cases.groups.astype(str))
    means = []
    for label in np.unique(labels):
        rows = labels == label
        pieces = pd.factorize(lesions[rows])[0]
        whole, pairs = _squared_distances(x[rows], np.zeros_like(pieces))
        inside, pairs_inside = _squared_distances(x[rows], pieces)
        if pairs > pairs_inside:
            means.append((whole - inside) / (pairs - pairs_inside))
    return max(float(np.mean(means)), 0.0) if means else float("nan")


def _squared_distances(x: np.ndarray, pieces: np.ndarray) -> tuple[float, int]:
    """Sum of ||x - y||^2 and number of ordered pairs, x and y of one piece, x with itself too."""
    counts = np.bincount(pieces)
    sums = np.zeros((len(counts), x.shape[1]))
    np.add.at(sums, pieces, x)
    norms = np.bincount(pieces, weights=(x * x).sum(axis=1))
    return float((2 * counts * norms).sum() - 2 * (sums**2).sum()), int((counts**2).sum())


def uniformity(cases: EmbeddedCases) -> float:
    """How evenly the embeddings cover the sphere; smaller is more even.

    ln of the mean of exp(-2 ||x - y||^2) over all pairs of two cases (Wang and Isola 2020, t = 2).

    Returns:
        A number in [-8, 0], 0 when all directions are one; nan for a single case.

    Example:
        >>> cases = EmbeddedCases(np.eye(2), pd.DataFrame(
        ...     {"case_id": list("ab"), "group": list("ab"), "label": ["nv", "nv"]}))
        >>> round(uniformity(cases), 6)
        -4.0
    """
    x = cases.directions
    n = len(x)
    if n == 1:
        return float("nan")
    norms = (x * x).sum(axis=1)
    step = max(1, _BLOCK_VALUES // n)
    total = 0.0
    for first in range(0, n, step):
        block = slice(first, first + step)
        squared = norms[block, None] + norms - 2 * x[block] @ x.T
        near = np.exp(-2 * np.maximum(squared, 0))
        near[np.arange(near.shape[0]), np.arange(first, first + near.shape[0])] = 0
        total += float(near.sum())
    return float(np.log(total / (n * (n - 1))))


def hubness(index: np.ndarray, gallery_groups: np.ndarray) -> float:
    """Skewness of how often each gallery group is among the k nearest of a query.

    With N_g the number of queries that have group g among their k neighbours: the third central
    moment of N over the cube of its standard deviation, both over all gallery groups, those never
    found included (Radovanovic, Nanopoulos, Ivanovic 2010). Large positive values mean hubs: a few
    cases that are shown to everyone.

    Args:
        index: int Q x k, gallery rows as in `Neighbours.index`; -1 is nobody.
        gallery_groups: N, the group of each gallery row.

    Returns:
        The skewness; 0 when every group is found equally often.

    Example:
        >>> round(hubness(np.array([[0], [0], [0], [1]]), np.array(["a", "b", "c"])), 4)
        0.3818
    """
    names, code = np.unique(gallery_groups.astype(str), return_inverse=True)
    found = np.bincount(code[index[index >= 0]], minlength=len(names)).astype(np.float64)
    apart = found - found.mean()
    variance = (apart**2).mean()
    if variance == 0:
        return 0.0
    return float((apart**3).mean() / variance**1.5)
