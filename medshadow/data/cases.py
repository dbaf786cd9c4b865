"""The case table: one validated row an image, whatever data set it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from medshadow.errors import DataError

COLUMNS = ("case_id", "image", "group", "label", "labels", "findings", "section")
SECTIONS = ("training", "validation", "test")
EYES = ("left", "right", "")


@dataclass(frozen=True)
class LeftOut:
    """A case that the data set names and this table does not hold, and why."""

    case_id: str
    reason: str


@dataclass(frozen=True)
class CaseTable:
    """Cases of one data set: a frozen wrapper around a validated pandas frame, one row an image.

    The frame has these columns, then any metadata columns (age, sex, localization, ...):

    - ``case_id``: str, unique;
    - ``image``: str, path of the image file;
    - ``group``: str, what must never straddle sections: the lesion or the patient;
    - ``label``: str, the single diagnosis, or the one of ``labels`` that stands for the case where
      a single one is needed;
    - ``labels``: frozenset of str, the label set; ``{label}`` where cases carry one diagnosis;
    - ``findings``: frozenset of str, what makes two cases alike: they are a positive pair, or
      relevant to each other, when their findings intersect. The same as ``labels`` unless a data
      set tells more, as ODIR-5K does of what its label "other" means;
    - ``section``: "training", "validation", "test", or "" before the split.

    A metadata column ``eye`` holds "left", "right", or "" where unknown.

    Args:
        frame: the rows. ``labels``, ``findings`` and ``section`` are filled in when absent.
        name: the data set's name, for example ``"ham10000"``.
        malignant: the labels that triage must not miss (malignant or pre-malignant).
        left_out: cases left out, with the reason for each.
        vocabulary: the labels that integer codes count through, in this order; those present when
            empty. A section is given the whole table's, so that a code means the same in each.
        finding_vocabulary: the findings that multi-hot vectors count through, likewise; a table
            that has one is multi-label.
        healthy: the labels that mean "nothing found", for example ``{"N"}``.
        source: where the cases are from, in words, as every lookup among them shows it.
        malignant_word: what such a case is called: "malignant", or "sight-threatening" of eyes.

    Raises:
        DataError: a column is missing, a case id stands twice, a value is empty, ``labels`` or
            ``findings`` are no sets of names, a label is not one of its case's labels, a label or
            finding is outside the vocabulary, a label is both healthy and malignant, or a section
            or an eye is none of those above; the message names column and rows.

    Example:
        >>> table = CaseTable(pd.DataFrame({
        ...     "case_id": ["a", "b"], "image": ["a.jpg", "b.jpg"],
        ...     "group": ["lesion1", "lesion1"], "label": ["mel", "mel"]}))
        >>> len(table), table.classes
        (2, ('mel',))
        >>> eyes = CaseTable(pd.DataFrame({
        ...     "case_id": ["0_left", "0_right"], "image": ["l.jpg", "r.jpg"], "group": ["0", "0"],
        ...     "label": ["G", "C"], "labels": [{"G", "C"}, {"C"}]}))
        >>> eyes.multi_label, eyes.finding_names, eyes.datalist()[0]["label"].tolist()
        (True, ('C', 'G'), [1.0, 1.0])
    """

    frame: pd.DataFrame
    name: str = "cases"
    malignant: frozenset[str] = frozenset()
    left_out: tuple[LeftOut, ...] = field(default=())
    vocabulary: tuple[str, ...] = ()
    finding_vocabulary: tuple[str, ...] = ()
    healthy: frozenset[str] = frozenset()
    source: str = ""
    malignant_word: str = "malignant"

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _validated(self.frame))
        self._refuse_outside("labels", self.vocabulary)
        self._refuse_outside("findings", self.finding_vocabulary)
        both = sorted(self.healthy & self.malignant)
        if both:
            raise DataError(f"{self.name}: labels {both} are given as healthy and as malignant")

    def _refuse_outside(self, column: str, known: tuple[str, ...]) -> None:
        if not known:
            return
        strange = self.frame[column].map(set(known).__ge__).eq(False)
        if strange.any():
            found = sorted(frozenset().union(*self.frame.loc[strange, column]) - set(known))[:5]
            raise DataError(
                f"{self.name}: {column} {found} in rows {_rows(strange)}; "
                f"expected some of {list(known)}"
            )

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that codes count through: the vocabulary, or those present, alphabetically."""
        return self.vocabulary or _names_in(self.frame["labels"])

    @property
    def finding_names(self) -> tuple[str, ...]:
        """The findings that multi-hot vectors count through: the classes first, then the others.

        A class that is no case's finding is not among them.
        """
        if self.finding_vocabulary or not self.multi_label:
            return self.finding_vocabulary or self.classes
        found = _names_in(self.frame["findings"])
        classes = [label for label in self.classes if label in found]
        return (*classes, *(name for name in found if name not in classes))

    @property
    def multi_label(self) -> bool:
        """Whether any case, of this section or the whole, has findings beyond its label."""
        if self.finding_vocabulary:
            return True
        rows = zip(self.frame["findings"], self.frame["label"], strict=True)
        return any(findings != {label} for findings, label in rows)

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """The columns beyond the required ones."""
        return tuple(c for c in self.frame.columns if c not in COLUMNS)

    @property
    def digest(self) -> str:
        """SHA-256 over case ids, groups, labels and sections: names this table in a tracked run.

        Label sets and findings count where they say more than the single label.
        """
        rows = self.frame.sort_values("case_id")
        columns = ["case_id", "group", "label", "section"]
        for sets in ("labels", "findings") if self.multi_label else ():
            rows[sets] = rows[sets].map(lambda names: "\n".join(sorted(names)))
            columns.append(sets)
        rows = rows[columns]
        return hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()

    def section(self, name: str) -> CaseTable:
        """The cases of one section.

        Raises:
            DataError: no case is in that section.
        """
        rows = self.frame[self.frame["section"] == name]
        if rows.empty:
            found = sorted(set(self.frame["section"]))
            raise DataError(f"{self.name}: no case in section {name!r}; sections found: {found}")
        return replace(
            self,
            frame=rows.reset_index(drop=True),
            vocabulary=self.classes,
            finding_vocabulary=self.finding_names if self.multi_label else (),
        )

    def with_sections(self, section_of_group: Mapping[str, str]) -> CaseTable:
        """The same cases, each given the section of its group."""
        sections = self.frame["group"].map(dict(section_of_group))
        if sections.isna().any():
            missing = self.frame.loc[sections.isna(), "group"].unique()[:5].tolist()
            raise DataError(f"{self.name}: no section for groups {missing}")
        return replace(self, frame=self.frame.assign(section=sections))

    def merge_groups(self, same: Iterable[Iterable[str]]) -> CaseTable:
        """Give groups that are one lesion or patient one name, the alphabetically first of them.

        Args:
            same: sets of group names; sets that overlap are joined.
        """
        parent: dict[str, str] = {}

        def root(group: str) -> str:
            while parent.get(group, group) != group:
                group = parent[group]
            return group

        for names in same:
            roots = sorted({root(str(n)) for n in names})
            for other in roots[1:]:
                parent[other] = roots[0]
        return replace(self, frame=self.frame.assign(group=self.frame["group"].map(root)))

    def without(self, left_out: Iterable[LeftOut]) -> CaseTable:
        """The table less some cases, which stay on record in ``left_out``."""
        gone = tuple(left_out)
        keep = ~self.frame["case_id"].isin([g.case_id for g in gone])
        return replace(
            self, frame=self.frame[keep].reset_index(drop=True), left_out=self.left_out + gone
        )

    def datalist(self) -> list[dict[str, Any]]:
        """The rows as MONAI's list of dictionaries: ``image``, ``label``, ``case_id``.

        ``label`` is the label's position in ``classes``; in a multi-label table, a float32 vector
        over ``finding_names``, 1 for each finding of the case. Where the table has a column
        ``eye``, items carry it as ``laterality``.
        """
        targets = self._multi_hot() if self.multi_label else self._codes()
        items = [
            {"image": row.image, "label": target, "case_id": row.case_id}
            for row, target in zip(self.frame.itertuples(index=False), targets, strict=True)
        ]
        if "eye" in self.frame:
            for item, eye in zip(items, self.frame["eye"], strict=True):
                item["laterality"] = eye
        return items

    def _codes(self) -> list[int]:
        code = {label: i for i, label in enumerate(self.classes)}
        return [code[label] for label in self.frame["label"]]

    def _multi_hot(self) -> list[Any]:
        names = self.finding_names
        return [
            np.array([name in findings for name in names], dtype=np.float32)
            for findings in self.frame["findings"]
        ]


def _validated(frame: pd.DataFrame) -> pd.DataFrame:
    required = ["case_id", "image", "group", "label"]
    missing = [c for c in required if c not in frame.columns]
    if missing:
        raise DataError(f"case table: missing columns {missing}; found {list(frame.columns)}")
    frame = frame.reset_index(drop=True)
    for column in required:
        empty = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
        if empty.any():
            raise DataError(f"case table: column {column!r} is empty in rows {_rows(empty)}")
        frame[column] = frame[column].astype(str)
    twice = frame["case_id"].duplicated(keep=False)
    if twice.any():
        raise DataError(
            f"case table: case_id must be unique; found again in rows {_rows(twice)}: "
            f"{sorted(frame.loc[twice, 'case_id'].unique())[:5]}"
        )
    if "labels" not in frame:
        frame["labels"] = [frozenset({label}) for label in frame["label"]]
    frame["labels"] = _name_sets(frame, "labels")
    apart = pd.Series([x not in xs for x, xs in zip(frame["label"], frame["labels"], strict=True)])
    if apart.any():
        found = [(r.label, sorted(r.labels)) for r in frame[apart].head(3).itertuples()]
        raise DataError(
            f"case table: label is not one of labels in rows {_rows(apart)}: found {found}"
        )
    if "findings" not in frame:
        frame["findings"] = frame["labels"]
    frame["findings"] = _name_sets(frame, "findings")
    if "section" not in frame:
        frame["section"] = ""
    _refuse_others(frame, "section", (*SECTIONS, ""))
    if "eye" in frame:
        _refuse_others(frame, "eye", EYES)
    extra = [c for c in frame.columns if c not in COLUMNS]
    return frame[[*COLUMNS, *extra]]


def _name_sets(frame: pd.DataFrame, column: str) -> list[frozenset[str]]:
    """The column's sets, frozen; a text is no set, and a set without a name says nothing."""
    sound = frame[column].map(_is_name_set)
    if not sound.all():
        found = frame.loc[~sound, column].iloc[0]
        raise DataError(
            f"case table: column {column!r} holds {found!r} in rows {_rows(~sound)}; "
            "expected sets of one or more names"
        )
    return [frozenset(names) for names in frame[column]]


def _is_name_set(value: Any) -> bool:
    if not isinstance(value, frozenset | set | list | tuple | np.ndarray):
        return False
    return len(value) > 0 and all(isinstance(name, str) and name.strip() for name in value)


def _names_in(sets: pd.Series) -> tuple[str, ...]:
    return tuple(sorted(frozenset().union(*sets)))


def _refuse_others(frame: pd.DataFrame, column: str, known: tuple[str, ...]) -> None:
    unknown = ~frame[column].isin(known)
    if unknown.any():
        found = sorted(frame.loc[unknown, column].astype(str).unique())
        names = tuple(name for name in known if name)
        raise DataError(
            f"case table: {column} must be one of {names} or empty; found {found} "
            f"in rows {_rows(unknown)}"
        )


def _rows(mask: pd.Series) -> str:
    rows = [int(i) for i in mask[mask].index[:5]]
    more = int(mask.sum()) - len(rows)
    return f"{rows}" + (f" and {more} more" if more else "")
