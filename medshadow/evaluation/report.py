"""One call from embedded cases to every diagnostic: metrics, intervals, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.geometry import (
    alignment,
    effective_rank,
    hubness,
    silhouettes,
    uniformity,
)
from medshadow.evaluation.retrieval import Neighbours, nearest_groups, score_rankings
from medshadow.evaluation.tables import confusion_table, neighbour_table
from medshadow.evaluation.uncertainty import group_bootstrap
from medshadow.evaluation.votes import auc, class_means, mean_of_classes, share_of, vote_codes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RECALL_AT = (1, 5, 10)


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What `diagnose` found.

    Args:
        metrics: name -> value; names carry no section ("recall_at_1"). An undefined metric (the
            AUC where no query is malignant) is left out.
        intervals: name -> (low, high), 95 %, for the metrics that are statistics of the queries;
            see `group_bootstrap` for what they cover. Empty if no bootstrap was asked for.
        tables: "per_class" (one row a label), "confusion" (counts of the vote: rows the truth,
            columns the vote) and "neighbours" (one row a query and rank).
        gallery: the cases searched.
        queries: the cases asked about.
        neighbours: the k nearest of each query.
        malignant: the labels that triage must not miss.
        seed: the seed of every draw: bootstrap, t-SNE, rows of the contact sheet.
        image_of: case id -> uint8 H x W x 3, for the contact sheet.
    """

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    tables: dict[str, pd.DataFrame]
    gallery: EmbeddedCases = field(repr=False)
    queries: EmbeddedCases = field(repr=False)
    neighbours: Neighbours = field(repr=False)
    malignant: frozenset[str] = frozenset()
    seed: int = 0
    image_of: Callable[[str], np.ndarray] | None = field(default=None, repr=False)

    def figures(self) -> dict[str, Figure]:
        """Draw "tsne", "confusion" and, when there is an ``image_of``, "contact_sheet".

        The figures belong to no window system: ``figure.savefig(path)`` works anywhere. Drawn
        anew at each call; t-SNE takes some seconds.
        """
        from medshadow.evaluation.figures import confusion_figure, contact_sheet, tsne_figure

        labels = _classes(self.gallery, self.queries)
        drawn = {
            "tsne": tsne_figure(self.queries, labels, self.malignant, self.seed),
            "confusion": confusion_figure(self.tables["confusion"], self.malignant),
        }
        if self.image_of is not None:
            drawn["contact_sheet"] = contact_sheet(
                self.queries,
                self.gallery,
                self.neighbours,
                self.image_of,
                malignant=self.malignant,
                seed=self.seed,
            )
        return drawn


def diagnose(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    *,
    malignant: Collection[str] = frozenset(),
    k: int = 16,
    seed: int = 0,
    bootstrap: int = 1000,
    image_of: Callable[[str], np.ndarray] | None = None,
) -> Diagnostics:
    """Measure how well the gallery answers the queries.

    Neighbours are one a group, the query's own group never among them (`nearest_groups`).

    ==================================== ==========================================================
    metric                               is
    ==================================== ==========================================================
    recall_at_1, _5, _10, _<k>           share of queries with a hit among so many (`recall_at_k`)
    precision_at_<k>                     mean share of hits among the k nearest (`precision_at_k`)
    r_precision, map_at_r, mrr           means of `r_precision`, `map_at_r`, `reciprocal_rank`
    <any of these>_macro                 mean over classes of the mean over the class's queries
    knn<k>_accuracy                      share of queries whose `majority_vote` of k is right
    knn<k>_sensitivity_<label>           the same among the queries of that label
    knn<k>_balanced_accuracy             mean of these sensitivities
    malignancy_auc_<k>                   `auc` of the share of malignant among the k nearest
    hubness_<k>                          `hubness` of the k nearest
    silhouette, effective_rank,          geometry of the queries; the first is the mean of
    alignment, uniformity                `silhouettes`
    queries_without_relevant             queries of a label that no other gallery group carries
    ==================================== ==========================================================

    Queries of a label that the gallery lacks count as 0 everywhere and are wrong in the vote:
    leaving them out would flatter the archive.

    Args:
        gallery: the known cases, as a rule the training section.
        queries: the cases asked about, as a rule the test section.
        malignant: labels that triage must not miss; none leaves out the malignancy AUC.
        k: neighbours that vote, at least 1.
        seed: seed of every random draw.
        bootstrap: resamples for the intervals; 0 for none.
        image_of: case id -> uint8 H x W x 3, to draw the contact sheet.

    Raises:
        ValueError: k is below 1, dimensions differ, or the gallery is a single group.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> def some(prefix, n):
        ...     labels = np.array(["mel", "nv"] * n)
        ...     x = rng.normal(size=(2 * n, 3)) + 5 * (labels == "mel")[:, None] * [1, 0, 0]
        ...     ids = [f"{prefix}{i}" for i in range(2 * n)]
        ...     return EmbeddedCases(x, pd.DataFrame(
        ...         {"case_id": ids, "group": ids, "label": labels}))
        >>> found = diagnose(some("g", 20), some("q", 10), malignant={"mel"}, bootstrap=100)
        >>> found.metrics["malignancy_auc_16"] > 0.8
        True
    """
    if gallery.frame["group"].nunique() < 2:
        raise ValueError("the gallery holds a single group: nothing can be told apart with it")
    asked = _ask(gallery, queries, frozenset(malignant), k)
    rng = np.random.default_rng(seed)
    point = {name: v[0] for name, v in asked.statistics(np.ones((1, len(queries)))).items()}
    intervals = (
        group_bootstrap(queries.groups, asked.statistics, resamples=bootstrap, rng=rng)
        if bootstrap
        else {}
    )
    per_case = silhouettes(queries)
    metrics = point | {
        "silhouette": per_case.mean(),
        "effective_rank": effective_rank(queries),
        "alignment": alignment(queries),
        "uniformity": uniformity(queries),
        f"hubness_{k}": hubness(asked.neighbours.index, gallery.groups),
        "queries_without_relevant": (asked.scores["relevant"] == 0).sum(),
    }
    known = {name: float(value) for name, value in metrics.items() if not np.isnan(value)}
    return Diagnostics(
        metrics=known,
        intervals={name: pair for name, pair in intervals.items() if name in known},
        tables={
            "per_class": _per_class(gallery, queries, asked, per_case, frozenset(malignant)),
            "confusion": confusion_table(asked.truth, asked.said, asked.classes),
            "neighbours": neighbour_table(gallery, queries, asked.neighbours),
        },
        gallery=gallery,
        queries=queries,
        neighbours=asked.neighbours,
        malignant=frozenset(malignant),
        seed=seed,
        image_of=image_of,
    )


def majority_baseline(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    malignant: Collection[str] = frozenset(),
    *,
    k: int = 16,
) -> dict[str, float]:
    """What answering with the gallery's most frequent diagnosis would score, without looking.

    The most frequent label is the one with most gallery groups, the alphabetically first of
    equals; every neighbour shown is taken to be of that label. Names are those of `diagnose`.
    Metrics that depend on a complete ranking (R-precision, mAP@R, MRR) have no such baseline and
    are left out.

    Returns:
        ``recall_at_<n>``, ``precision_at_<k>`` and ``knn<k>_accuracy``: the share of queries of
        that label; ``knn<k>_balanced_accuracy``: 1 / number of labels among the queries (0 if no
        query has the label); ``knn<k>_sensitivity_<label>``: 1 for that label, 0 for others;
        ``malignancy_auc_<k>``: 0.5, all shares being equal, where it is defined.

    Example:
        >>> cases = EmbeddedCases(np.eye(3), pd.DataFrame(
        ...     {"case_id": list("abc"), "group": list("abc"), "label": ["nv", "nv", "mel"]}))
        >>> round(majority_baseline(cases, cases)["recall_at_1"], 3)
        0.667
    """
    groups = gallery.frame.drop_duplicates(["group", "label"])["label"].value_counts()
    largest = min(groups.index[groups == groups.max()])
    labels = queries.labels.astype(str)
    share = float((labels == largest).mean())
    present = sorted(set(labels))
    values = {f"recall_at_{n}": share for n in sorted({*RECALL_AT, k})}
    values |= {f"precision_at_{k}": share, f"knn{k}_accuracy": share}
    values |= {f"knn{k}_sensitivity_{label}": float(label == largest) for label in present}
    values[f"knn{k}_balanced_accuracy"] = float(largest in present) / len(present)
    if 0 < np.isin(labels, sorted(malignant)).sum() < len(labels):
        values[f"malignancy_auc_{k}"] = 0.5
    return values


@dataclass(frozen=True, eq=False)
class _Asked:
    """Per-query facts: everything that a resample of the queries needs."""

    k: int
    classes: list[str]
    scores: pd.DataFrame
    neighbours: Neighbours
    truth: np.ndarray
    said: np.ndarray
    share_malignant: np.ndarray
    malignant: np.ndarray

    def statistics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric that is a statistic of the queries, for weights B x Q: name -> B values."""
        total = weights.sum(axis=1)
        values = {}
        for name, scores in self.scores.drop(columns="relevant").items():
            per_query = scores.to_numpy()
            values[str(name)] = weights @ per_query / total
            values[f"{name}_macro"] = mean_of_classes(self.by_class(per_query, weights))
        right = self.said == self.truth
        sensitivity = self.by_class(right, weights)
        values[f"knn{self.k}_accuracy"] = weights @ right / total
        values[f"knn{self.k}_balanced_accuracy"] = mean_of_classes(sensitivity)
        for code, label in enumerate(self.classes):
            values[f"knn{self.k}_sensitivity_{label}"] = sensitivity[:, code]
        values[f"malignancy_auc_{self.k}"] = auc(self.share_malignant, self.malignant, weights)
        return values

    def by_class(self, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
        return class_means(values, self.truth, len(self.classes), weights)


def _classes(gallery: EmbeddedCases, queries: EmbeddedCases) -> list[str]:
    return sorted({*gallery.labels, *queries.labels})


def _ask(
    gallery: EmbeddedCases, queries: EmbeddedCases, malignant: frozenset[str], k: int
) -> _Asked:
    classes = _classes(gallery, queries)
    code_of = {label: code for code, label in enumerate(classes)}
    known = np.array([code_of[label] for label in gallery.labels])
    neighbours = nearest_groups(queries, gallery, k)
    there = neighbours.index >= 0
    codes = np.where(there, known[neighbours.index], -1)
    chosen = np.array([label in malignant for label in classes])
    truth = np.array([code_of[label] for label in queries.labels])
    return _Asked(
        k=k,
        classes=classes,
        scores=score_rankings(queries, gallery, recall_at=sorted({*RECALL_AT, k}), precision_at=k),
        neighbours=neighbours,
        truth=truth,
        said=vote_codes(codes, len(classes)),
        share_malignant=share_of(there & chosen[codes], neighbours.available),
        malignant=chosen[truth],
    )


def _per_class(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    asked: _Asked,
    per_case: np.ndarray,
    malignant: frozenset[str],
) -> pd.DataFrame:
    ones = np.ones((1, len(queries)))
    table = pd.DataFrame(index=pd.Index(asked.classes, name="label"))
    table["malignant"] = [label in malignant for label in asked.classes]
    for name, cases in (("gallery", gallery), ("query", queries)):
        by_label = cases.frame.groupby("label")["group"]
        table[f"{name}_images"] = by_label.size().reindex(asked.classes, fill_value=0)
        table[f"{name}_groups"] = by_label.nunique().reindex(asked.classes, fill_value=0)
    table["sensitivity"] = asked.by_class(asked.said == asked.truth, ones)[0]
    for name, scores in asked.scores.drop(columns="relevant").items():
        table[name] = asked.by_class(scores.to_numpy(), ones)[0]
    table["silhouette"] = asked.by_class(per_case, ones)[0]
    return table
