"""What the web page shows of an answer, ready for its templates: facts, counts, marks, reasons."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from medshadow.evaluation.calibration import Probability
from medshadow.retrieval import LookupAnswer
from medshadow.retrieval.cautions import LookupWarning

# Eight colours of Okabe and Ito's palette, told apart with every common colour blindness, and eight
# shapes, so that nothing hangs on colour. With more diagnoses a colour comes with another shape.
_COLOURS = _SHAPES = 8
# What a filter on these columns leaves has the diagnosis that was asked for: its vote is no news.
_TELL_DIAGNOSIS = frozenset({"label", "labels", "diagnosis", "keywords", "patient_labels"})
# After these warnings the cases found are no guide to what the image shows.
_GRAVE = frozenset({"wrong_kind", "unlike_archive"})
_Z = 1.959964  # 95 %


@dataclass(frozen=True)
class Mark:
    """How a diagnosis looks wherever it stands: a colour, a shape and its short name.

    Args:
        label: its code, as in the archive.
        name: it in words.
        colour: 0 to 7, or None for a label that the archive does not list.
        shape: 0 to 7.
    """

    label: str
    name: str
    colour: int | None
    shape: int


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


@dataclass(frozen=True)
class ShareRow:
    """How many of the cases found carry a label, or any malignant one.

    Args:
        mark: the label; None for any malignant one.
        count: cases that carry it.
        of: cases found.
        low: lower end of the 95 % interval of the share, in [0, 1].
        high: its upper end.
        malignant: whether the label counts as malignant.
    """

    mark: Mark | None
    count: int
    of: int
    low: float
    high: float
    malignant: bool

    @property
    def share(self) -> float:
        """In [0, 1]."""
        return self.count / self.of


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
    shares = share_rows(row["hits"], answer.share_in_this_archive, marks, answer.archive.malignant)
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
        "where": answer.where,
        "matching": answer.matching_groups,
        "unseen_marks": unseen,
        "most_often": most_often(shares),
        "why_no_vote": answer.why_no_vote,
        "held_back": why_held_back(filtered, codes),
        "shares": shares,
        "malignant_share": malignant_row(cases) if answer.archive.malignant else None,
        "probability": None if answer.probability is None else _in_percent(answer.probability),
        "why_no_probability": answer.why_no_probability,
    }


def diagnosis_marks(names: Mapping[str, str], labels: Collection[str] = ()) -> dict[str, Mark]:
    """A mark for each label of an archive, the same at every lookup in it.

    Args:
        names: label to diagnosis in words, in the archive's order.
        labels: the labels that stand in the archive; those without a name follow by the alphabet.

    Example:
        >>> marks = diagnosis_marks({"mel": "melanoma"}, ["nv", "mel"])
        >>> marks["nv"].name, marks["nv"].colour, marks["nv"].shape
        ('nv', 1, 1)
    """
    order = [*names, *sorted(set(labels) - set(names))]
    return {
        label: Mark(
            label,
            names.get(label, label),
            place % _COLOURS,
            (place + place // _COLOURS) % _SHAPES,
        )
        for place, label in enumerate(order)
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


def share_rows(
    hits: Sequence[Mapping[str, Any]],
    shares: Mapping[str, float],
    marks: Mapping[str, Mark],
    malignant: Collection[str],
) -> tuple[ShareRow, ...]:
    """The answer's shares as counts of the cases found, each with the interval that k leaves."""
    of = len(hits)
    return tuple(
        ShareRow(
            marks.get(label) or Mark(label, label, None, 0),
            count := round(share * of),
            of,
            *wilson(count, of),
            label in malignant,
        )
        for label, share in shares.items()
    )


def most_often(shares: Sequence[ShareRow]) -> str:
    """What most of the cases are, or that no diagnosis is that of more than half of them.

    Example:
        >>> rows = [ShareRow(Mark("n", "naevus", 0, 0), 9, 16, 0.3, 0.8, False)]
        >>> most_often(rows)
        'Most of them: naevus, 9 of 16'
    """
    if not shares:
        return ""
    most = max(row.count for row in shares)
    first = [row for row in shares if row.count == most]
    names = " and ".join(row.mark.name for row in first if row.mark is not None)
    if len(first) == 1 and 2 * most > first[0].of:
        return f"Most of them: {names}, {most} of {first[0].of}"
    return f"No majority; most often {names}, {most} of {first[0].of}{' each' * (len(first) > 1)}"


def malignant_row(cases: Sequence[CaseCard]) -> ShareRow | None:
    """How many of the cases found are malignant, whichever malignant label they carry."""
    if not cases:
        return None
    count = sum(case.malignant for case in cases)
    return ShareRow(None, count, len(cases), *wilson(count, len(cases)), True)


def wilson(count: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share, in [0, 1] (Wilson, JASA 22 (1927), 209).

    Example:
        >>> [round(end, 2) for end in wilson(12, 16)]
        [0.51, 0.9]
    """
    share, z2 = count / of, _Z**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z * sqrt(share * (1 - share) / of + z2 / (4 * of**2)) / (1 + z2 / of)
    return max(0.0, middle - half), min(1.0, middle + half)


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
