"""What is known of each query once its neighbours are found, and the metrics made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.labelsets import carrying, multi_hot
from medshadow.evaluation.retrieval import Neighbours, nearest_groups
from medshadow.evaluation.scoring import score_by_label, score_rankings
from medshadow.evaluation.votes import auc, mean_of_classes, member_means, share_of, vote_of_carried

RECALL_AT = (1, 5, 10)
# The scores that a multi-label diagnosis gives of every label.
SCORES_OF_LABELS = ("recall_at_1", "map_at_r")


@dataclass(frozen=True, eq=False)
class QueryFacts:
    """Per-query facts: everything that a resample of the queries needs.

    Attributes:
        k: neighbours that vote.
        labels: the L labels of gallery and queries, alphabetically.
        carried: bool Q x L, which labels each query carries.
        scores: Q rows, see `score_rankings`.
        label_scores: name -> Q, or Q x L where every label has its own, see `score_by_label`.
        neighbours: the k nearest of each query.
        truth: int Q, the label of the query that the vote is held against: the one voted where the
            query carries it, else the one that stands for it.
        said: int Q, the vote; -1 without neighbours.
        half: bool Q x L, whether half of the neighbours or more carry a label; None where cases
            carry one label each.
        exact: bool Q, whether the nearest neighbour has exactly the query's label set.
        share_malignant: float Q, the share of neighbours that carry a malignant label.
        malignant: bool Q.
        diseased: bool Q, whether the query carries a label that is not healthy; None where no label
            is said to be.
    """

    k: int
    labels: list[str]
    carried: np.ndarray
    scores: pd.DataFrame
    label_scores: dict[str, np.ndarray]
    neighbours: Neighbours
    truth: np.ndarray
    said: np.ndarray
    half: np.ndarray | None
    exact: np.ndarray
    share_malignant: np.ndarray
    malignant: np.ndarray
    diseased: np.ndarray | None

    def statistics(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric that is a statistic of the queries, for weights B x Q: name -> B values."""
        total = weights.sum(axis=1)
        values = {}
        for name, scores in self.scores.drop(columns="relevant").items():
            values[str(name)] = weights @ scores.to_numpy() / total
            by_label = member_means(self.label_scores[str(name)], self.carried, weights)
            values[f"{name}_macro"] = mean_of_classes(by_label)
        if self.diseased is not None:
            nearest = self.scores["recall_at_1"].to_numpy()
            diseased = member_means(nearest, self.diseased[:, None], weights)
            values["diseased_recall_at_1"] = diseased[:, 0]
        right = self.said == self.truth
        values[f"knn{self.k}_accuracy"] = weights @ right / total
        if self.half is None:
            sensitivity = member_means(right, self.carried, weights)
            values[f"knn{self.k}_balanced_accuracy"] = mean_of_classes(sensitivity)
            values |= self._named(f"knn{self.k}_sensitivity", sensitivity)
        else:
            values["exact_set_at_1"] = weights @ self.exact / total
            for name in SCORES_OF_LABELS:
                by_label = member_means(self.label_scores[name], self.carried, weights)
                values |= self._named(name, by_label)
            sensitivity = member_means(self.half, self.carried, weights)
            specificity = member_means(~self.half, ~self.carried, weights)
            values |= self._named(f"knn{self.k}_sensitivity", sensitivity)
            values |= self._named(f"knn{self.k}_specificity", specificity)
        values[f"malignancy_auc_{self.k}"] = auc(self.share_malignant, self.malignant, weights)
        return values

    def _named(self, name: str, by_label: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{name}_{label}": by_label[:, code] for code, label in enumerate(self.labels)}


def query_facts(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    *,
    malignant: frozenset[str],
    healthy: frozenset[str],
    k: int,
) -> QueryFacts:
    """Ask the gallery about every query; see `diagnose` for what is made of the answers."""
    labels = labels_of(gallery, queries)
    known, carried = (multi_hot(cases.label_sets, labels) for cases in (gallery, queries))
    neighbours = nearest_groups(queries, gallery, k)
    index, available = neighbours.index, neighbours.available
    there = index >= 0
    found = known[index] & there[:, :, None]
    said = vote_of_carried(found, np.where(there, _codes(gallery, labels)[index], -1))
    right = (said >= 0) & carried[np.arange(len(queries)), said]
    recall_at = sorted({*RECALL_AT, k})
    several = gallery.multi_label or queries.multi_label
    if several:
        scores, label_scores = score_by_label(
            queries, gallery, labels, recall_at=recall_at, precision_at=k
        )
    else:
        scores = score_rankings(queries, gallery, recall_at=recall_at, precision_at=k)
        label_scores = {str(name): values.to_numpy() for name, values in scores.items()}
    suspect = there & carrying(gallery.label_sets, malignant)[index]
    share = found.sum(axis=1) / np.maximum(available, 1)[:, None]
    return QueryFacts(
        k=k,
        labels=labels,
        carried=carried,
        scores=scores,
        label_scores=label_scores,
        neighbours=neighbours,
        truth=np.where(right, said, _codes(queries, labels)),
        said=said,
        half=share >= 0.5 if several else None,
        exact=there[:, 0] & (found[:, 0] == carried).all(axis=1),
        share_malignant=share_of(suspect, available),
        malignant=carrying(queries.label_sets, malignant),
        diseased=carrying(queries.label_sets, set(labels) - healthy) if healthy else None,
    )


def labels_of(gallery: EmbeddedCases, queries: EmbeddedCases) -> list[str]:
    """Every label that a case of the two carries, alphabetically."""
    return sorted(frozenset().union(*gallery.label_sets, *queries.label_sets))


def _codes(cases: EmbeddedCases, labels: list[str]) -> np.ndarray:
    code_of = {label: code for code, label in enumerate(labels)}
    return np.array([code_of[label] for label in cases.labels])


def per_label_table(
    gallery: EmbeddedCases,
    queries: EmbeddedCases,
    facts: QueryFacts,
    silhouettes: np.ndarray,
    malignant: frozenset[str],
) -> pd.DataFrame:
    """The table "per_class" of `diagnose`: one row a label."""
    ones = np.ones((1, len(queries)))
    table = pd.DataFrame(index=pd.Index(facts.labels, name="label"))
    table["malignant"] = [label in malignant for label in facts.labels]
    for name, cases in (("gallery", gallery), ("query", queries)):
        by_label = cases.frame[["group", "labels"]].explode("labels").groupby("labels")["group"]
        table[f"{name}_images"] = by_label.size().reindex(facts.labels, fill_value=0)
        table[f"{name}_groups"] = by_label.nunique().reindex(facts.labels, fill_value=0)
    said_rightly = facts.said == facts.truth if facts.half is None else facts.half
    table["sensitivity"] = member_means(said_rightly, facts.carried, ones)[0]
    if facts.half is not None:
        table["specificity"] = member_means(~facts.half, ~facts.carried, ones)[0]
    for name in facts.scores.columns.drop("relevant"):
        table[name] = member_means(facts.label_scores[name], facts.carried, ones)[0]
    table["silhouette"] = member_means(silhouettes, facts.carried, ones)[0]
    return table
