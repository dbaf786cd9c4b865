"""The baseline that looks at no image: the same answer to every query."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.facts import RECALL_AT, labels_of
from medshadow.evaluation.labelsets import carrying, multi_hot


def majority_baseline(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    malignant: Collection[str] = frozenset(),
    healthy: Collection[str] = frozenset(),
    *,
    k: int = 16,
) -> dict[str, float]:
    """What answering with the gallery's most frequent diagnosis would score, without looking.

    The most frequent diagnosis is the one with most gallery groups, the alphabetically first of
    equals; where cases carry several labels or findings, it is the most frequent set of them. Every
    neighbour shown is taken to be of it. Names are those of `diagnose`. Metrics that depend on a
    complete ranking (R-precision, mAP@R, MRR) have no such baseline and are left out.

    Returns:
        ``recall_at_<n>``, ``precision_at_<k>``: the share of queries that share a finding with it
        (that are of its label); ``diseased_recall_at_1``: the same among the diseased;
        ``knn<k>_accuracy``: the share of queries that carry its ``label``;
        ``malignancy_auc_<k>``: 0.5, all shares being equal, where it is defined.

        Where cases carry one label each, ``knn<k>_balanced_accuracy``: 1 / number of labels among
        the queries (0 if no query has the label); ``knn<k>_sensitivity_<label>``: 1 for that label,
        0 for others.

        Where they carry several, ``exact_set_at_1``: the share of queries with its label set;
        ``recall_at_1_<label>`` and ``knn<k>_sensitivity_<label>``: 1 for its labels, 0 for others;
        ``knn<k>_specificity_<label>``: the other way round.

    Example:
        >>> import pandas as pd
        >>> cases = EmbeddedCases(np.eye(3), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": list("abc"), "label": ["nv", "nv", "mel"]}))
        >>> round(majority_baseline(cases, cases)["recall_at_1"], 3)
        0.667
    """
    label, labels, findings = _most_frequent(gallery)
    names = labels_of(gallery, queries)
    carried = multi_hot(queries.label_sets, names)
    hit = carrying(queries.findings, findings)
    values = {f"recall_at_{n}": float(hit.mean()) for n in sorted({*RECALL_AT, k})}
    values[f"precision_at_{k}"] = float(hit.mean())
    values[f"knn{k}_accuracy"] = float(carried[:, names.index(label)].mean())
    ill = carrying(queries.label_sets, set(names) - set(healthy))
    if healthy and ill.any():
        values["diseased_recall_at_1"] = float(hit[ill].mean())
    # A label that no query carries has no sensitivity, one that all carry no specificity.
    often = dict(zip(names, carried.mean(axis=0), strict=True))
    present = [name for name in names if often[name] > 0]
    values |= {f"knn{k}_sensitivity_{name}": float(name in labels) for name in present}
    if gallery.multi_label or queries.multi_label:
        exact = [own == labels for own in queries.label_sets]
        values["exact_set_at_1"] = float(np.mean(exact))
        values |= {f"recall_at_1_{name}": float(name in labels) for name in present}
        values |= {
            f"knn{k}_specificity_{name}": float(name not in labels)
            for name in names
            if often[name] < 1
        }
    else:
        values[f"knn{k}_balanced_accuracy"] = float(label in present) / len(present)
    if 0 < carrying(queries.label_sets, malignant).mean() < 1:
        values[f"malignancy_auc_{k}"] = 0.5
    return values


def _most_frequent(gallery: EmbeddedCases) -> tuple[str, frozenset[str], frozenset[str]]:
    """Label, labels and findings that most gallery groups hold together."""
    kinds = gallery.frame[["group", "label", "labels", "findings"]].drop_duplicates()
    groups = kinds.groupby(["label", "labels", "findings"], sort=False).size()
    first, *_ = sorted(
        groups.index[groups == groups.max()],
        key=lambda kind: (kind[0], sorted(kind[1]), sorted(kind[2])),
    )
    return first
