"""The page's form: filters made from the archive's own columns, and what was filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import FormData

from medshadow.retrieval import Condition
from medshadow.service.problems import Problem

COUNTS = (8, 16, 32, 64)
_LONGEST_REFERENCE = 500
_TITLES = {
    "labels": "Diagnosis",
    "dx_type": "Established by",
    "localization": "Site",
    "eye": "Eye",
}
# Asked for first, in this order, where the archive has them; the others wait under "More filters".
_FIRST = ("labels", "age", "sex", "site", "localization", "eye", "laterality")
_EYE_COLUMNS = ("eye", "laterality")
_IN_WORDS = {
    "True": "yes",
    "False": "no",
    "histo": "histology",
    "follow_up": "follow-up",
    "confocal": "confocal microscopy",
}


@dataclass(frozen=True)
class Filter:
    """One column that the search can be narrowed by.

    Args:
        name: the column.
        title: it in words.
        kind: "range" (numbers) or "choice".
        values: value and text of each choice.
        chosen: the value chosen; empty for any.
        least: smallest number in the archive, as a hint.
        most: largest.
        low: the lower bound that was asked for, as typed.
        high: the upper bound.
    """

    name: str
    title: str
    kind: str
    values: tuple[tuple[str, str], ...] = ()
    chosen: str = ""
    least: str = ""
    most: str = ""
    low: str = ""
    high: str = ""

    @property
    def is_set(self) -> bool:
        """Whether it narrows the search."""
        return bool(self.chosen or self.low or self.high)

    @property
    def in_words(self) -> str:
        """What it asks for, such as "age from 50 to 60"."""
        ends = (
            ("", dict(self.values).get(self.chosen, "")),
            ("from ", self.low),
            ("to ", self.high),
        )
        return " ".join([self.title.lower(), *(word + end for word, end in ends if end)])


@dataclass(frozen=True)
class Form:
    """The form as it stands.

    Args:
        filters: of the archive's columns.
        shown: how many of them are shown at once.
        asks_eye: whether the archive knows left and right eyes.
        laterality: "left", "right" or "".
        k: cases asked for.
        prevalence: in percent, as typed.
        calibrated: whether a probability can be had.
        excluded: groups to leave out.
        relevant: cases marked as relevant.
        not_relevant: cases marked as not relevant.
        asks_reference: whether an image can be named on a DICOM server.
        reference: the instance that was named, to be looked up now.
        reference_error: what is wrong with it.
        source: the instance that the image looked up before came from.
    """

    filters: tuple[Filter, ...]
    shown: int
    asks_eye: bool
    calibrated: bool
    laterality: str = ""
    k: int = 16
    prevalence: str = ""
    excluded: tuple[str, ...] = ()
    relevant: tuple[str, ...] = ()
    not_relevant: tuple[str, ...] = ()
    asks_reference: bool = False
    reference: str = ""
    reference_error: str = ""
    source: str = ""
    counts: tuple[int, ...] = field(default=COUNTS)

    @property
    def more_chosen(self) -> bool:
        """Whether a filter under "More filters" is set."""
        return any(one.is_set for one in self.filters[self.shown :])

    @property
    def where(self) -> str | None:
        """The filter, as :func:`medshadow.retrieval.parse_where` reads it; None without one."""
        conditions = []
        for one in self.filters:
            typed = (("=", one.chosen), (">=", one.low), ("<=", one.high))
            conditions += [Condition(one.name, sign, value) for sign, value in typed if value]
        return " and ".join(map(str, conditions)) or None

    @property
    def narrowed(self) -> tuple[str, ...]:
        """The filter in words."""
        return tuple(one.in_words for one in self.filters if one.is_set)

    @property
    def carried(self) -> tuple[tuple[str, str], ...]:
        """Name and value of what a refined search has to be told again."""
        fields = [("laterality", self.laterality), ("k", str(self.k))]
        fields += [("prevalence", self.prevalence), ("source", self.source)]
        fields += [("exclude", group) for group in self.excluded]
        for one in self.filters:
            fields += [(f"is:{one.name}", one.chosen)]
            fields += [(f"min:{one.name}", one.low), (f"max:{one.name}", one.high)]
        return tuple((name, value) for name, value in fields if value)

    @property
    def filtered(self) -> frozenset[str]:
        """The columns that the filter names."""
        return frozenset(one.name for one in self.filters if one.is_set)

    @property
    def share(self) -> float | None:
        """The prevalence in (0, 1); None where none was stated."""
        return None if not self.prevalence else float(self.prevalence) / 100


def read_form(
    columns: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str],
    *,
    calibrated: bool,
    asks_reference: bool = False,
    data: FormData | None = None,
) -> Form:
    """The form for an archive, filled in with what was sent.

    Args:
        columns: the archive's columns, as ``LookupEngine.archive()`` tells them; those of free text
            are no filter.
        names: label to diagnosis in words.
        calibrated: whether the archive can give a probability.
        asks_reference: whether an image can be named on a DICOM server.
        data: what was sent; None for an empty form.

    Raises:
        Problem: 422 for a number that is none or an unknown choice; the field is named.
    """
    sent = FormData() if data is None else data
    known = {name: column for name, column in columns.items() if column["kind"] != "text"}
    if "label" in known:
        # Asks whether a diagnosis is among those that a case has.
        values = dict.fromkeys([*names, *known.pop("label")["values"]])
        known["labels"] = {"kind": "choice", "values": list(values)}
    first = [name for name in _FIRST if name in known]
    order = [*first, *(name for name in known if name not in first)]
    return Form(
        filters=tuple(_filter(name, known[name], names, sent) for name in order),
        shown=len(first) or len(order),
        asks_eye=any(name in known for name in _EYE_COLUMNS),
        calibrated=calibrated,
        laterality=_one_of("laterality", _text(sent, "laterality"), ("", "left", "right")),
        k=int(_one_of("k", _text(sent, "k") or "16", tuple(map(str, COUNTS)))),
        prevalence=_prevalence(_text(sent, "prevalence")),
        excluded=tuple(dict.fromkeys(str(one) for one in sent.getlist("exclude"))),
        relevant=_marked(sent, "relevant"),
        not_relevant=_marked(sent, "not"),
        asks_reference=asks_reference,
        reference=_text(sent, "reference")[:_LONGEST_REFERENCE] if asks_reference else "",
        source=_text(sent, "source")[:_LONGEST_REFERENCE] if asks_reference else "",
    )


def _filter(
    name: str, column: Mapping[str, Any], names: Mapping[str, str], sent: FormData
) -> Filter:
    title = _TITLES.get(name, name.replace("_", " ").capitalize())
    if column["kind"] == "number":
        low, high = (_number(sent, f"{end}:{name}", title) for end in ("min", "max"))
        ends = (column["least"], column["most"])
        least, most = ("" if end is None else f"{end:g}" for end in ends)
        return Filter(name, title, "range", least=least, most=most, low=low, high=high)
    values = [str(value) for value in column["values"]]
    words = names if name == "labels" else _IN_WORDS
    choices = tuple((value, words.get(value, value)) for value in values)
    chosen = _one_of(title, _text(sent, f"is:{name}"), ("", *values))
    return Filter(name, title, "choice", values=choices, chosen=chosen)


def _text(sent: FormData, name: str) -> str:
    value = sent.get(name, "")
    return value.strip() if isinstance(value, str) else ""


def _number(sent: FormData, name: str, title: str) -> str:
    text = _text(sent, name).replace(",", ".")
    try:
        return f"{float(text):g}" if text else ""
    except ValueError:
        raise Problem(422, f"{title}: expected a number.") from None


def _prevalence(text: str) -> str:
    text = text.replace(",", ".")
    try:
        if text and not 0 < float(text) < 100:
            raise ValueError
    except ValueError:
        raise Problem(422, "Prevalence: expected a percentage above 0 and below 100.") from None
    return text


def _one_of(title: str, value: str, known: Sequence[str]) -> str:
    if value not in known:
        raise Problem(422, f"{title}: not one of the choices of this archive.")
    return value


def _marked(sent: FormData, as_what: str) -> tuple[str, ...]:
    marks = (
        (name.removeprefix("mark:"), value)
        for name, value in sent.multi_items()
        if name.startswith("mark:")
    )
    return tuple(dict.fromkeys(case for case, value in marks if value == as_what))
