"""The answer to a lookup: the cases found, their vote, and what to be careful about."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from medshadow.evaluation import majority_vote
from medshadow.evaluation.calibration import Probability
from medshadow.evaluation.labelsets import primary_first
from medshadow.retrieval.cautions import LookupWarning
from medshadow.retrieval.facts import facts_of
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
        source: what the archive is and where it comes from; empty where that was not recorded.
        knows_its_kind: whether it was learned what its images look like, so that an image of
            another kind, an unusual or a poor one is warned of.
        calibrated: whether it was learned how a share of neighbours makes a probability.
    """

    name: str
    cases: int
    groups: int
    model_digest: str
    malignant: frozenset[str] = frozenset()
    diagnosis_names: Mapping[str, str] = field(default_factory=dict)
    malignant_word: str = "malignant"
    source: str = ""
    knows_its_kind: bool = False
    calibrated: bool = False


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
        warnings: what to show before anything else, most serious first.
        refined: True where hits were marked relevant or not and searched for again. The vote, the
            shares and the probability are withheld then: they hold for the neighbours of an image,
            not for cases that a person has asked for more of.
        probability: that the image is malignant, where a prevalence was stated; None otherwise.

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
    warnings: tuple[LookupWarning, ...] = ()
    refined: bool = False
    probability: Probability | None = None

    @property
    def notice(self) -> str:
        """What this answer may be used for."""
        return NOTICE

    @property
    def vote(self) -> str | None:
        """The label that most hits carry, ties to the nearest; None without one, or if refined.

        See :func:`medshadow.evaluation.majority_vote`, which the diagnostics use as well.
        """
        if not self.hits or self.refined:
            return None
        return majority_vote([hit.label for hit in self.hits], [hit.labels for hit in self.hits])

    @property
    def share_in_this_archive(self) -> dict[str, float]:
        """Each label's share of the hits, in (0, 1], largest first.

        It is not a probability: it depends on how often a diagnosis stands in this archive. A hit
        counts for every label it carries, so where cases carry several the shares add up to more
        than 1. Empty without a hit, and of a refined answer.
        """
        if self.refined:
            return {}
        counts = Counter(label for hit in self.hits for label in labels_in_order(hit))
        return {label: count / len(self.hits) for label, count in counts.most_common()}

    @property
    def why_no_vote(self) -> str | None:
        """Why there is no vote and no share; None where there is one."""
        if self.refined:
            return (
                "No vote and no share: these cases were searched for after some were marked "
                "relevant or not, so how many are of a kind says what was marked, not what the "
                "image is."
            )
        return None if self.hits else "No vote and no share: no case was found."

    @property
    def why_no_probability(self) -> str | None:
        """Why there is no probability; None where there is one."""
        if self.probability is not None:
            return None
        if self.refined:
            return "No probability: it is calibrated on searches that nobody has refined."
        if not self.archive.calibrated:
            return (
                "No probability: this archive was not calibrated on validation cases, or there "
                "were too few of them."
            )
        return (
            f"No probability: it needs to be told how many of the images it is asked about are "
            f"{self.archive.malignant_word} (a prevalence)."
        )

    @property
    def not_checked(self) -> str | None:
        """What could not be warned of; None where everything was checked."""
        if self.archive.knows_its_kind:
            return None
        return (
            "Not checked: whether this is the kind of image that the archive holds. It was not "
            "calibrated on validation cases, or there were too few of them."
        )

    @property
    def probability_in_words(self) -> str | None:
        """The probability with its interval and what it supposes, in one sentence."""
        p = self.probability
        if p is None:
            return None
        return (
            f"Probability that it is {self.archive.malignant_word}: {p.value:.1%} (95 % interval "
            f"{p.low:.1%} to {p.high:.1%}), if {p.prevalence:.1%} of such images are; calibrated "
            f"on {p.cases} validation images"
        )

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
            "warnings": [{"code": w.code, "text": w.text} for w in self.warnings],
            "not_checked": self.not_checked,
            "archive": {
                "name": self.archive.name,
                "source": self.archive.source,
                "cases": self.archive.cases,
                "groups": self.archive.groups,
                "model_digest": self.archive.model_digest,
                "malignant_word": self.archive.malignant_word,
            },
            "query": {
                "k": self.k,
                "where": self.where,
                "matching_groups": self.matching_groups,
                "excluded_groups": list(self.excluded_groups),
                "laterality": self.laterality,
            },
            "refined": self.refined,
            "vote": None
            if self.vote is None
            else {"label": self.vote, "diagnosis": self.diagnosis(self.vote)},
            "share_in_this_archive": self.share_in_this_archive,
            "why_no_vote": self.why_no_vote,
            "probability": None if self.probability is None else self.probability.to_dict(),
            "why_no_probability": self.why_no_probability,
            "hits": [self._row(hit) for hit in self.hits],
            "nearest_malignant": None
            if nearest is None
            else {**self._row(nearest), "outside_filter": self.malignant_outside_filter},
        }

    def frame(self) -> pd.DataFrame:
        """One row for each of :meth:`shown`: rank, similarity, case, diagnosis, facts, metadata.

        ``labels`` is the label set as text, ``label`` first; ``established`` and the other facts
        are those of :func:`~medshadow.retrieval.facts.facts_of`.
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
            **facts_of(hit.metadata),
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
