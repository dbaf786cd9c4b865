"""What the web page shows of an answer, ready for its templates: facts, counts, marks, reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import LookupAnswer
from medshadow.retrieval.cautions import LookupWarning
from medshadow.service.page_marks import Mark, diagnosis_marks
from medshadow.service.page_shares import malignant_row, most_often, share_rows

# What a filter on these columns leaves has the diagnosis that was asked for: its vote is no news.
_TELL_DIAGNOSIS = frozenset({"label", "labels", "diagnosis", "keywords", "patient_labels"})
# After these warnings the cases found are no guide to what the image shows.
_GRAVE = frozenset({"wrong_kind", "unlike_archive"})


@dataclass(frozen=True)
class CaseCard:
    """One known case as it is shown.

    Args:
        case_id: the archive's own id.
        rank: 1 for the nearest.
        similarity: cosine, in [-1, 1].
        marks: its diagnoses, the one that stands for it first.
        diagnosis: them in words.
        malignant: whether it counts as malignant.
        outside_filter: whether it is shown although it does not meet the filter.
        established: how the diagnosis was made; empty where that is not recorded.
        facts: age, sex, site and eye, in words, as far as they are known.
        findings: the keywords that it was described with.
        laterality: "left", "right" or "".
        picture: a data URI; empty where the archive kept none.
        judged: "relevant", "not" or "" (not marked).
    """

    case_id: str
    rank: int
    similarity: float
    marks: tuple[Mark, ...]
    diagnosis: str
    malignant: bool
    outside_filter: bool
    established: str
    facts: tuple[str, ...]
    findings: str
    laterality: str
    picture: str
    judged: str

    @property
    def bar(self) -> float:
        """The similarity as a share of a bar: 0 to 100; below 0 it is empty."""
        return round(100 * min(1.0, max(0.0, self.similarity)), 1)


def answer_view(
    answer: LookupAnswer,
    labels: Collection[str],
    pictures: Mapping[str, str],
    judged: Mapping[str, str],
    filtered: Collection[str],
) -> dict[str, Any]:
    """An answer as ``result.html`` shows it.

    Args:
        answer: what was found.
        labels: the labels that stand in the archive.
        pictures: case to data URI.
        judged: case to "relevant" or "not", as marked before.
        filtered: the columns that the filter names.
    """
    row = answer.to_dict()
    marks = diagnosis_marks(answer.archive.diagnosis_names, labels)
    cases = [case_card(hit, marks, pictures, judged) for hit in row["hits"]]
    nearest = row["nearest_malignant"]
    shares = share_rows(len(cases), answer.share_in_this_archive, marks, answer.archive.malignant)
    shown = {hit.case_id for hit in answer.shown()}
    unseen = [(f"mark:{case}", value) for case, value in judged.items() if case not in shown]
    codes = [warning["code"] for warning in row["warnings"]]
    return {
        "warnings": [_warning(warning, answer) for warning in answer.warnings],
        "not_checked": answer.not_checked,
        "cases": cases,
        "nearest": None if nearest is None else case_card(nearest, marks, pictures, judged),
        "nearest_found": nearest is not None
        and any(case.case_id == nearest["case_id"] for case in cases),
        "refined": answer.refined,
        "matching": answer.matching_groups,
        "unseen_marks": unseen,
        "most_often": most_often(shares),
        "why_no_vote": answer.why_no_vote,
        "held_back": why_held_back(filtered, codes),
        "shares": shares,
        "malignant_share": malignant_row([case.malignant for case in cases])
        if answer.archive.malignant
        else None,
        "probability": None if answer.probability is None else _in_percent(answer.probability),
        "why_no_probability": answer.why_no_probability,
    }


def case_card(
    row: Mapping[str, Any],
    marks: Mapping[str, Mark],
    pictures: Mapping[str, str],
    judged: Mapping[str, str],
) -> CaseCard:
    """One hit of an answer (a row of ``LookupAnswer.to_dict()``) as it is shown."""
    label = str(row["label"])
    labels = [label, *(other for other in row["labels"] if other != label)]
    return CaseCard(
        case_id=row["case_id"],
        rank=row["rank"],
        similarity=row["similarity"],
        marks=tuple(marks.get(one) or Mark(one, one, None, 0) for one in labels),
        diagnosis=row["diagnosis"],
        malignant=row["malignant"],
        outside_filter=bool(row.get("outside_filter", False)),
        established=str(row.get("established") or ""),
        facts=_facts(row),
        findings=str(row.get("keywords") or ""),
        laterality=str(row.get("laterality") or ""),
        picture=pictures.get(row["case_id"], ""),
        judged=judged.get(row["case_id"], ""),
    )


def why_held_back(filtered: Collection[str], codes: Collection[str]) -> str:
    """Why the page holds a vote back that the answer has; empty where it shows it.

    Args:
        filtered: the columns that the filter names.
        codes: the codes of the answer's warnings.
    """
    if not _TELL_DIAGNOSIS.isdisjoint(filtered):
        return (
            "The filter names a diagnosis: all cases found have it, whatever the image shows, so "
            "counting them says nothing."
        )
    if not _GRAVE.isdisjoint(codes):
        return "See the warning: the cases found may have nothing to do with this image."
    return ""


def _warning(warning: LookupWarning, answer: LookupAnswer) -> dict[str, Any]:
    # The case that shows the query itself can be left out at once; the warning names it.
    same = warning.code == "same_image"
    groups = [hit.group for hit in answer.hits if same and f"Case {hit.case_id} " in warning.text]
    return {
        "code": warning.code,
        "text": warning.text,
        "grave": warning.code in _GRAVE,
        "group": groups[0] if groups else "",
    }


def _in_percent(probability: Probability) -> dict[str, Any]:
    ends = {name: f"{100 * getattr(probability, name):.1f}" for name in ("low", "high")}
    return {
        "value": f"{100 * probability.value:.1f}",
        "prevalence": f"{100 * probability.prevalence:g}",
        "cases": f"{probability.cases:,}",
        **ends,
    }


def _facts(row: Mapping[str, Any]) -> tuple[str, ...]:
    age, eye = row.get("age"), row.get("laterality")
    years = f"{age:g} years" if isinstance(age, int | float) else age
    facts = (years, row.get("sex"), row.get("site"), eye and f"{eye} eye")
    return tuple(str(fact) for fact in facts if fact)
