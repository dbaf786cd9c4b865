"""The answer to a lookup: the cases found, their vote, and what to be careful about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medshadow.evaluation import majority_vote
from medshadow.evaluation.labelsets import primary_first
from medshadow.retrieval.ranking import Hit

NOTICE = "Research use only. Not a medical device: these are similar known cases, not a diagnosis."


@dataclass(frozen=True)
class Archive:
    """What was searched.

    Args:
        name: the data set.
        cases: images that may be shown.
        groups: distinct lesions or patients among them.
        model_digest: the model whose vectors were compared.
        malignant: labels that triage must not miss.
        diagnosis_names: label to its name in words.
        malignant_word: what a malignant case is called.
    """

    name: str
    cases: int
    groups: int
    model_digest: str
    malignant: frozenset[str] = frozenset()
    diagnosis_names: Mapping[str, str] = field(default_factory=dict)
    malignant_word: str = "malignant"


@dataclass(frozen=True)
class LookupAnswer:
    """The known cases most like a query image.

    Args:
        archive: what was searched.
        hits: distinct cases, nearest first, one a lesion or patient.
        nearest_malignant: the nearest malignant case, however far; None if there is none at all.
        malignant_outside_filter: True where no case that meets the filter is malignant, so that
            ``nearest_malignant`` does not meet it and its rank counts the whole archive.
        k: cases asked for.
        where: the filter in words; empty without one.
        matching_groups: distinct lesions or patients that meet the filter.
        excluded_groups: groups that were left out on demand.
        laterality: which eye was said to be shown, "left" or "right"; empty if it was not said.
        warnings: sentences to show before anything else.

    Example:
        >>> near = Hit("c1", "g1", "nv", frozenset({"nv"}), 0.9, 1, {"age": 40})
        >>> far = Hit("c2", "g2", "mel", frozenset({"mel"}), 0.1, 7, {"age": None})
        >>> archive = Archive("example", 9, 8, "d", frozenset({"mel"}), {"nv": "naevus"})
        >>> answer = LookupAnswer(archive, (near,), far, False, 1, "", 8)
        >>> answer.vote, answer.share_in_this_archive
        ('nv', {'nv': 1.0})
        >>> answer.frame()[["rank", "case_id", "diagnosis", "malignant"]].values.tolist()
        [[1, 'c1', 'naevus', False], [7, 'c2', 'mel', True]]
    """

    archive: Archive
    hits: tuple[Hit, ...]
    nearest_malignant: Hit | None
    malignant_outside_filter: bool
    k: int
    where: str
    matching_groups: int
    excluded_groups: tuple[str, ...] = ()
    laterality: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def notice(self) -> str:
        """What this answer may be used for."""
        return NOTICE

    @property
    def vote(self) -> str | None:
        """The label that most hits carry, ties to the nearest; None without a hit.

        See :func:`medshadow.evaluation.majority_vote`, which the diagnostics use as well.
        """
        if not self.hits:
            return None
        return majority_vote([hit.label for hit in self.hits], [hit.labels for hit in self.hits])

    @property
    def share_in_this_archive(self) -> dict[str, float]:
        """Each label's share of the hits, in (0, 1], largest first.

        It is not a probability: it depends on how often a diagnosis stands in this archive. A hit
        counts for every label it carries, so where cases carry several the shares add up to more
        than 1.
        """
        counts = Counter(label for hit in self.hits for label in labels_in_order(hit))
        return {label: count / len(self.hits) for label, count in counts.most_common()}

    def diagnosis(self, label: str) -> str:
        """A label's name in words, or the label where the archive names none."""
        return self.archive.diagnosis_names.get(label, label)

    def diagnosis_of(self, hit: Hit) -> str:
        """What a case is, in words: each of its labels, the one that stands for it first."""
        return " + ".join(self.diagnosis(label) for label in labels_in_order(hit))

    def is_malignant(self, hit: Hit) -> bool:
        """Whether a case carries a label that the archive counts as malignant."""
        return not self.archive.malignant.isdisjoint(hit.labels)

    def shown(self) -> tuple[Hit, ...]:
        """The hits, then the nearest malignant case where it is not one of them."""
        extra = self.nearest_malignant
        if extra is None or extra.case_id in {hit.case_id for hit in self.hits}:
            return self.hits
        return (*self.hits, extra)

    def to_dict(self) -> dict[str, Any]:
        """The whole answer in JSON's own types (``medshadow lookup --json``); no value is NaN."""
        nearest = self.nearest_malignant
        return {
            "notice": self.notice,
            "warnings": list(self.warnings),
            "archive": {
                "name": self.archive.name,
                "cases": self.archive.cases,
                "groups": self.archive.groups,
                "model_digest": self.archive.model_digest,
            },
            "query": {
                "k": self.k,
                "where": self.where,
                "matching_groups": self.matching_groups,
                "excluded_groups": list(self.excluded_groups),
                "laterality": self.laterality,
            },
            "vote": None
            if self.vote is None
            else {"label": self.vote, "diagnosis": self.diagnosis(self.vote)},
            "share_in_this_archive": self.share_in_this_archive,
            "hits": [self._row(hit) for hit in self.hits],
            "nearest_malignant": None
            if nearest is None
            else {**self._row(nearest), "outside_filter": self.malignant_outside_filter},
        }

    def frame(self) -> pd.DataFrame:
        """One row for each of :meth:`shown`: rank, similarity, case, diagnosis, metadata.

        ``labels`` is the label set as text, ``label`` first.
        """
        return pd.DataFrame([self._flat(hit) for hit in self.shown()])

    def _row(self, hit: Hit) -> dict[str, Any]:
        return {
            "rank": hit.rank,
            "similarity": round(hit.similarity, 6),
            "case_id": hit.case_id,
            "group": hit.group,
            "label": hit.label,
            "labels": sorted(hit.labels),
            "diagnosis": self.diagnosis_of(hit),
            "malignant": self.is_malignant(hit),
            "metadata": dict(hit.metadata),
        }

    def _flat(self, hit: Hit) -> dict[str, Any]:
        row = self._row(hit)
        metadata = row.pop("metadata")
        row["labels"] = " + ".join(labels_in_order(hit))
        return {**row, **{k: v for k, v in metadata.items() if k not in row}}


def labels_in_order(hit: Hit) -> list[str]:
    """The labels of a case: the one that stands for it, then the others by the alphabet."""
    return primary_first(hit.label, hit.labels)


def metadata_in_words(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as it is shown to people.

    What is missing is left out, and of the columns that hold true or false those that are true are
    named together, as ``flags``.

    Example:
        >>> metadata_in_words({"age": 50, "sex": None, "lens_dust": True, "low_quality": False})
        {'age': 50, 'flags': 'lens dust'}
    """
    shown = {k: v for k, v in metadata.items() if v is not None and not isinstance(v, bool)}
    raised = [str(key).replace("_", " ") for key, value in metadata.items() if value is True]
    return {**shown, "flags": ", ".join(raised)} if raised else shown
