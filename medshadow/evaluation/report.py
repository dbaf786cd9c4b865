"""One call from embedded cases to every diagnostic: metrics, intervals, tables and figures."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.facts import labels_of, per_label_table, query_facts
from medshadow.evaluation.geometry import (
    alignment,
    effective_rank,
    hubness,
    silhouettes,
    uniformity,
)
from medshadow.evaluation.retrieval import Neighbours
from medshadow.evaluation.tables import confusion_table, neighbour_table
from medshadow.evaluation.uncertainty import group_bootstrap

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Diagnostics:
    """What `diagnose` found.

    Args:
        metrics: name -> value; names carry no section ("recall_at_1"). An undefined metric (the
            AUC where no query is malignant) is left out.
        intervals: name -> (low, high), 95 %, for the metrics that are statistics of the queries;
            see `group_bootstrap` for what they cover. Empty if no bootstrap was asked for.
        tables: "per_class" (one row a label), "confusion" (counts of the vote: rows the truth,
            columns the vote) and "neighbours" (one row a query and rank). A query with several
            labels stands in the row of the label voted if it carries that one, else in the row of
            its own ``label``: what lies off the diagonal is wrong.
        gallery: the cases searched.
        queries: the cases asked about.
        neighbours: the k nearest of each query.
        malignant: the labels that triage must not miss.
        malignant_word: what such a case is called in the figures.
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
    malignant_word: str = "malignant"
    seed: int = 0
    image_of: Callable[[str], np.ndarray] | None = field(default=None, repr=False)

    def figures(self) -> dict[str, Figure]:
        """Draw "tsne", "confusion" and, when there is an ``image_of``, "contact_sheet".

        The figures belong to no window system: ``figure.savefig(path)`` works anywhere. Drawn
        anew at each call; t-SNE takes some seconds.
        """
        from medshadow.evaluation.figures import confusion_figure, tsne_figure
        from medshadow.evaluation.sheet import contact_sheet

        labels = labels_of(self.gallery, self.queries)
        drawn = {
            "tsne": tsne_figure(
                self.queries, labels, self.malignant, self.seed, word=self.malignant_word
            ),
            "confusion": confusion_figure(
                self.tables["confusion"],
                self.malignant,
                word=self.malignant_word,
                several=self.queries.multi_label,
            ),
        }
        if self.image_of is not None:
            drawn["contact_sheet"] = contact_sheet(
                self.queries,
                self.gallery,
                self.neighbours,
                self.image_of,
                malignant=self.malignant,
                word=self.malignant_word,
                seed=self.seed,
            )
        return drawn


def diagnose(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    *,
    malignant: Collection[str] = frozenset(),
    malignant_word: str = "malignant",
    healthy: Collection[str] = frozenset(),
    k: int = 16,
    seed: int = 0,
    bootstrap: int = 1000,
    image_of: Callable[[str], np.ndarray] | None = None,
) -> Diagnostics:
    """Measure how well the gallery answers the queries.

    Neighbours are one a group, the query's own group never among them (`nearest_groups`). A
    neighbour is a hit when it shares a finding with the query; where cases carry one label each,
    when it carries the query's label.

    ==================================== ==========================================================
    metric                               is
    ==================================== ==========================================================
    recall_at_1, _5, _10, _<k>           share of queries with a hit among so many (`recall_at_k`)
    precision_at_<k>                     mean share of hits among the k nearest (`precision_at_k`)
    r_precision, map_at_r, mrr           means of `r_precision`, `map_at_r`, `reciprocal_rank`
    <any of these>_macro                 mean over labels of the mean over the queries that carry
                                         the label, a hit being what carries it (`score_by_label`)
    diseased_recall_at_1                 recall_at_1 among the queries that carry a label which is
                                         not healthy, where any label is said to be
    knn<k>_accuracy                      share of queries that carry what the `majority_vote` of k
                                         says
    malignancy_auc_<k>                   `auc` of the share of neighbours that carry a malignant
                                         label; positive are queries that carry one
    hubness_<k>                          `hubness` of the k nearest
    silhouette, effective_rank,          geometry of the queries; the first is the mean of
    alignment, uniformity                `silhouettes`; of several labels ``label`` counts
    queries_without_relevant             queries that no other gallery group is a hit for
    ==================================== ==========================================================

    Where every case carries one label:

    ==================================== ==========================================================
    knn<k>_sensitivity_<label>           share of the queries of that label whose vote is right
    knn<k>_balanced_accuracy             mean of these sensitivities
    ==================================== ==========================================================

    Where a case of either side carries several, or findings other than its label:

    ==================================== ==========================================================
    exact_set_at_1                       share of queries whose nearest neighbour has exactly their
                                         label set; 0 without a neighbour
    recall_at_1_<label>                  share of the queries that carry the label whose nearest
                                         neighbour carries it
    map_at_r_<label>                     mean `map_at_r` of these queries, relevant being what
                                         carries the label
    knn<k>_sensitivity_<label>           of the queries that carry the label, the share of which at
                                         least half of the min(k, available) neighbours carry it
    knn<k>_specificity_<label>           of the others, the share of which fewer than half do
    ==================================== ==========================================================

    Queries of a label or with findings that the gallery lacks count as 0 everywhere and are wrong
    in the vote: leaving them out would flatter the archive. Ties and galleries shorter than k are
    dealt with as the functions named say.

    Args:
        gallery: the known cases, as a rule the training section.
        queries: the cases asked about, as a rule the test section.
        malignant_word: what such a case is called in the figures.
        malignant: labels that triage must not miss; none leaves out the malignancy AUC.
        healthy: labels that mean "nothing found"; none leaves out diseased_recall_at_1.
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
    must_not_miss = frozenset(malignant)
    facts = query_facts(gallery, queries, malignant=must_not_miss, healthy=frozenset(healthy), k=k)
    rng = np.random.default_rng(seed)
    point = {name: v[0] for name, v in facts.statistics(np.ones((1, len(queries)))).items()}
    intervals = (
        group_bootstrap(queries.groups, facts.statistics, resamples=bootstrap, rng=rng)
        if bootstrap
        else {}
    )
    per_case = silhouettes(queries)
    metrics = point | {
        "silhouette": per_case.mean(),
        "effective_rank": effective_rank(queries),
        "alignment": alignment(queries),
        "uniformity": uniformity(queries),
        f"hubness_{k}": hubness(facts.neighbours.index, gallery.groups),
        "queries_without_relevant": (facts.scores["relevant"] == 0).sum(),
    }
    known = {name: float(value) for name, value in metrics.items() if not np.isnan(value)}
    return Diagnostics(
        metrics=known,
        intervals={name: pair for name, pair in intervals.items() if name in known},
        tables={
            "per_class": per_label_table(gallery, queries, facts, per_case, must_not_miss),
            "confusion": confusion_table(facts.truth, facts.said, facts.labels),
            "neighbours": neighbour_table(gallery, queries, facts.neighbours),
        },
        gallery=gallery,
        queries=queries,
        neighbours=facts.neighbours,
        malignant=must_not_miss,
        malignant_word=malignant_word,
        seed=seed,
        image_of=image_of,
    )
