"""The baseline that looks at no image: the same answer to every query."""

from __future__ import annotations

from collections.abc import Collection

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.facts import RECALL_AT, labels_of
from medshadow.evaluation.labelsets import multi_hot


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
        >>> import numpy as np, pandas as pd
        >>> cases = EmbeddedCases(np.eye(3), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": list("abc"), "label": ["nv", "nv", "mel"]}))
        >>> round(majority_baseline(cases, cases)["recall_at_1"], 3)
        0.667
    """
    label, labels, findings = _most_frequent(gallery)
    # Labels that no query carries have no sensitivity, those that all carry no specificity.
    names = labels_of(gallery, queries)
    carried = multi_hot(queries.label_sets, names)
    hit = multi_hot(queries.findings, sorted(findings)).any(axis=1)
    values = {f"recall_at_{n}": float(hit.mean()) for n in sorted({*RECALL_AT, k})}
    values[f"precision_at_{k}"] = float(hit.mean())
    values[f"knn{k}_accuracy"] = float(carried[:, names.index(label)].mean())
    ill = carried[:, [name not in healthy for name in names]].any(axis=1)
    if healthy and ill.any():
        values["diseased_recall_at_1"] = float(hit[ill].mean())
    present = [
        name for name, any_query in zip(names, carried.any(axis=0), strict=True) if any_query
    ]
    values |= {f"knn{k}_sensitivity_{name}": float(name in labels) for name in present}
    if gallery.multi_label or queries.multi_label:
        exact = (carried == multi_hot([labels], names)).all(axis=1)
        values["exact_set_at_1"] = float(exact.mean())
        values |= {f"recall_at_1_{name}": float(name in labels) for name in present}
        for name, everywhere in zip(names, carried.all(axis=0), strict=True):
            if not everywhere:
                values[f"knn{k}_specificity_{name}"] = float(name not in labels)
    else:
        values[f"knn{k}_balanced_accuracy"] = float(label in present) / len(present)
    positive = carried[:, [name in malignant for name in names]].any(axis=1)
    if 0 < positive.sum() < len(positive):
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
