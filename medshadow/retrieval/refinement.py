"""A query moved towards what a person marked as relevant, and away from what they did not want."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rocchio's weights of the query, of the relevant and of the others, in the usual setting (Manning,
# Raghavan and Schuetze, Introduction to Information Retrieval, 2008, section 9.1.1).
_QUERY, _RELEVANT, _NOT_RELEVANT = 1.0, 0.75, 0.15


def refined_query(
    query: np.ndarray, relevant: Sequence[np.ndarray], not_relevant: Sequence[np.ndarray]
) -> np.ndarray:
    """Rocchio's relevance feedback (in Salton, The SMART Retrieval System, 1971).

    The query, plus 0.75 times the mean of the relevant vectors, minus 0.15 times the mean of the
    others, as a unit vector.

    Args:
        query: D values, a unit vector.
        relevant: of any number of cases, unit vectors.
        not_relevant: likewise.

    Returns:
        float32 D, a unit vector.

    Raises:
        ValueError: what was marked cancels the query out.

    Example:
        >>> refined_query(np.array([1.0, 0]), [np.array([0, 1.0])], []).round(2).tolist()
        [0.800000011920929, 0.6000000238418579]
    """
    moved = _QUERY * np.asarray(query, dtype=np.float64)
    if len(relevant):
        moved = moved + _RELEVANT * np.mean(np.asarray(relevant, dtype=np.float64), axis=0)
    if len(not_relevant):
        moved = moved - _NOT_RELEVANT * np.mean(np.asarray(not_relevant, dtype=np.float64), axis=0)
    length = float(np.linalg.norm(moved))
    if length < 1e-6:
        raise ValueError("the cases marked cancel the query out: nothing is left to search for")
    return (moved / length).astype(np.float32)
