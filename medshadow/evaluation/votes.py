"""The vote of the neighbours, and what it is worth: per class, balanced, and as triage."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


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


def share_of(chosen: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Share of the neighbours that are of a kind: a share in this archive, not a probability.

    Args:
        chosen: bool Q x k, which neighbours are of the kind; False beyond a short gallery.
        available: int Q, how many of the k neighbours there are.

    Returns:
        float64 Q in [0, 1]: their number over ``available``; 0 for a query without neighbours.

    Example:
        >>> share_of(np.array([[True, False, False]]), np.array([2])).tolist()
        [0.5]
    """
    return chosen.sum(axis=1) / np.maximum(available, 1)


def class_means(
    values: np.ndarray, codes: np.ndarray, classes: int, weights: np.ndarray
) -> np.ndarray:
    """Mean of a per-query value over the queries of each class.

    Of "was the vote right" this is the sensitivity of each class, and its mean over the classes
    that have queries is the balanced accuracy.

    Args:
        values: float or bool Q.
        codes: integers Q in [0, classes): each query's class.
        classes: the number of classes.
        weights: float B x Q, at least 0: how often each of B resamples holds a query; ones, 1 x Q,
            for the queries as they are.

    Returns:
        float64 B x classes: sum of weight times value over sum of weight; nan where a resample
        holds no query of the class.

    Example:
        >>> right = np.array([True, False, True])
        >>> class_means(right, np.array([0, 0, 1]), 3, np.ones((1, 3))).tolist()
        [[0.5, 1.0, nan]]
    """
    member = (codes[:, None] == np.arange(classes)).astype(np.float64)
    total = weights @ (member * np.asarray(values, dtype=np.float64)[:, None])
    count = weights @ member
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def mean_of_classes(means: np.ndarray) -> np.ndarray:
    """Mean over the classes that have queries, of `class_means`: B x classes -> B.

    Every class weighs the same however rare it is. Nan where no class has a query.
    """
    there = ~np.isnan(means)
    count = there.sum(axis=1)
    total = np.where(there, means, 0.0).sum(axis=1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def auc(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve, as the chance that a positive query scores above a negative one.

    AUC = sum over positive p and negative n of w_p w_n ([s_p > s_n] + [s_p = s_n] / 2), over
    sum of w_p w_n (Mann-Whitney): equal scores count one half.

    Args:
        scores: float Q, here the share of malignant cases among the neighbours.
        positive: bool Q, here whether the query is malignant.
        weights: float B x Q, at least 0: how often each of B resamples holds a query.

    Returns:
        float64 B in [0, 1]; nan where a resample holds no positive or no negative query.

    Example:
        >>> auc(np.array([0.9, 0.4, 0.4]), np.array([True, True, False]), np.ones((1, 3))).tolist()
        [0.75]
    """
    levels, level = np.unique(scores, return_inverse=True)
    at = (level[:, None] == np.arange(len(levels))).astype(np.float64)
    above = weights @ (at * positive[:, None])
    below = weights @ (at * ~positive[:, None])
    wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    return np.divide(wins, pairs, out=np.full_like(wins, np.nan), where=pairs > 0)
