"""The vote of the neighbours, and what it is worth: per class, balanced, and as triage."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np


def majority_vote(
    labels: Sequence[str], label_sets: Sequence[Collection[str]] | None = None
) -> str:
    """The label that most neighbours carry.

    Every neighbour counts one for each label it carries. Among labels with equally many neighbours
    the one that appears nearest wins; of those that appear nearest together, in one neighbour, that
    neighbour's own ``label``, then the alphabetically first. In a short gallery all there are vote.

    Args:
        labels: the neighbours' labels, nearest first; at least one.
        label_sets: each neighbour's label set, its label among them; None where each carries its
            label alone.

    Raises:
        ValueError: there is no neighbour.

    Example:
        >>> majority_vote(["nv", "mel", "mel", "nv"])
        'nv'
        >>> majority_vote(["C", "H", "N"], [{"C", "D"}, {"H", "D"}, {"N"}])
        'D'
    """
    if len(labels) == 0:
        raise ValueError("a vote needs at least one neighbour; found none")
    sets = [{label} for label in labels] if label_sets is None else label_sets
    names = sorted(frozenset().union(*sets))
    carried = np.array([[name in own for name in names] for own in sets])
    codes = np.array([names.index(label) for label in labels])
    return names[vote_of_carried(carried[None], codes[None])[0]]


def vote_codes(codes: np.ndarray, classes: int) -> np.ndarray:
    """`majority_vote` of many queries at once, each neighbour carrying one label.

    Args:
        codes: integers Q x k in [0, classes), nearest first; -1 where there is no neighbour.
        classes: the number of classes.

    Returns:
        int64 Q: the winning class; -1 for a query without neighbours.
    """
    return vote_of_carried(codes[:, :, None] == np.arange(classes), codes)


def vote_of_carried(carried: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """`majority_vote` of many queries at once.

    Args:
        carried: bool Q x k x L, which labels each neighbour carries, nearest first; all False where
            there is no neighbour.
        codes: integers Q x k in [0, L), the label that stands for each neighbour; -1 likewise.

    Returns:
        int64 Q: the winning label; -1 for a query without neighbours.
    """
    _, k, labels = carried.shape
    counts = carried.sum(axis=1)
    first = np.where(counts > 0, carried.argmax(axis=1), k)
    stands = np.take_along_axis(codes, np.minimum(first, k - 1), axis=1) == np.arange(labels)
    # One neighbour more outweighs every place, and one place nearer outweighs standing for it.
    score = counts * (2 * k + 2) - 2 * first + stands
    return np.where(counts.sum(axis=1) > 0, score.argmax(axis=1), -1)


def share_of(chosen: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Share of the neighbours that are of a kind: a share in this archive, not a probability.

    chosen / available: in a gallery with fewer than k other groups, of those there are. Who stands
    at place k of equally near ones is the ranking's to settle: see `nearest_groups`.

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
    that have queries is the balanced accuracy. Ties and short galleries: those of `majority_vote`.

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
    return member_means(values, codes[:, None] == np.arange(classes), weights)


def member_means(values: np.ndarray, member: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean of a per-query value over each of L sets of queries, which may overlap.

    Args:
        values: float or bool, Q, or Q x L where a query's value differs from set to set.
        member: bool Q x L: which queries each set holds.
        weights: float B x Q, as for `class_means`.

    Returns:
        float64 B x L; nan where a resample holds no query of the set.

    Example:
        >>> member = np.array([[True, True], [True, False]])
        >>> member_means(np.array([1.0, 0.0]), member, np.ones((1, 2))).tolist()
        [[0.5, 1.0]]
    """
    values = np.asarray(values, dtype=np.float64)
    inside = member.astype(np.float64)
    total = weights @ (inside * (values[:, None] if values.ndim == 1 else values))
    count = weights @ inside
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
