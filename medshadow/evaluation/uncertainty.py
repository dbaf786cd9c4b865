"""How sure a figure is: bootstrap intervals that resample lesions or patients, never images."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

# Weights held at one time: 32 MB.
_BLOCK_VALUES = 4_000_000


def group_bootstrap(
    groups: np.ndarray,
    statistics: Callable[[np.ndarray], dict[str, np.ndarray]],
    *,
    resamples: int = 1000,
    level: float = 0.95,
    rng: np.random.Generator,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of any statistics of the queries, resampled by group.

    Each resample draws as many query groups (lesions, patients) as there are, with replacement;
    all images of a drawn group come with it. The interval runs from the (1 - level) / 2 to the
    (1 + level) / 2 percentile, linearly interpolated (Efron and Tibshirani 1993, chapter 13).

    It covers which lesions happened to be asked. It does not cover the choice of the gallery, of
    the training cases or of the training seed, nor cameras and clinics the queries do not come
    from. With few groups (a rare class) it is too narrow; with a single group, and for a share
    that is 0 or 1 in every group, it has no width at all.

    Args:
        groups: Q, the group of each query.
        statistics: takes weights, float64 B x Q, how often each of B resamples holds each query,
            and gives B values a name. A nan (a class that a resample does not hold) is left out of
            that name's percentiles.
        resamples: at least 1.
        level: share of the resamples inside the interval, between 0 and 1.
        rng: where the draws come from; same state, same intervals.

    Returns:
        (low, high) for each name; (nan, nan) where all resamples gave nan.

    Raises:
        ValueError: resamples or level are out of range, or there is no query.

    Example:
        >>> right = np.array([1.0, 1.0, 0.0, 1.0])
        >>> group_bootstrap(
        ...     np.array(["a", "a", "b", "c"]),
        ...     lambda weights: {"accuracy": weights @ right / weights.sum(axis=1)},
        ...     rng=np.random.default_rng(0))
        {'accuracy': (0.0, 1.0)}
    """
    if resamples < 1 or not 0 < level < 1 or len(groups) == 0:
        raise ValueError(
            "a bootstrap needs resamples >= 1, 0 < level < 1 and at least one query; found "
            f"resamples {resamples}, level {level}, {len(groups)} queries"
        )
    parts = [statistics(weights) for weights in group_resamples(groups, resamples, rng)]
    values = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return {name: _interval(drawn, level) for name, drawn in values.items()}


def group_resamples(
    groups: np.ndarray, resamples: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """How often each resample of the groups, drawn with replacement, holds each query.

    Args:
        groups: Q, the group of each query; at least one.
        resamples: at least 1.
        rng: where the draws come from.

    Yields:
        Weights, float64 B x Q; the B of all blocks add up to ``resamples``.
    """
    names, code = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    step = max(1, _BLOCK_VALUES // len(groups))
    for first in range(0, resamples, step):
        drawn = _times_drawn(len(names), min(step, resamples - first), rng)
        yield drawn[:, code].astype(np.float64)


def _times_drawn(n: int, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each of n groups is among n draws with replacement: int resamples x n."""
    picks = rng.integers(n, size=(resamples, n)) + n * np.arange(resamples)[:, None]
    return np.bincount(picks.ravel(), minlength=resamples * n).reshape(resamples, n)


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if len(known) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
