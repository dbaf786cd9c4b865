"""The case table: one validated row an image, whatever data set it came from."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from medshadow.errors import DataError

COLUMNS = ("case_id", "image", "group", "label", "labels", "section")
SECTIONS = ("training", "validation", "test")


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
    - ``label``: str, the single diagnosis;
    - ``labels``: frozenset of str, the label set; ``{label}`` where cases carry one diagnosis;
    - ``section``: "training", "validation", "test", or "" before the split.

    Args:
        frame: the rows. ``labels`` and ``section`` are filled in when absent.
        name: the data set's name, for example ``"ham10000"``.
        malignant: the labels that triage must not miss (malignant or pre-malignant).
        left_out: cases left out, with the reason for each.
        vocabulary: the labels that integer codes count through, in this order; those present when
            empty. A section is given the whole table's, so that a code means the same in each.

    Raises:
        DataError: a column is missing, a case id stands twice, a value is empty, a label is outside
            the vocabulary, or a section is none of the three; the message names column and rows.

    Example:
        >>> table = CaseTable(pd.DataFrame({
        ...     "case_id": ["a", "b"], "image": ["a.jpg", "b.jpg"],
        ...     "group": ["lesion1", "lesion1"], "label": ["mel", "mel"]}))
        >>> len(table), table.classes
        (2, ('mel',))
    """

    frame: pd.DataFrame
    name: str = "cases"
    malignant: frozenset[str] = frozenset()
    left_out: tuple[LeftOut, ...] = field(default=())
    vocabulary: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "frame", _validated(self.frame))
        outside = ~self.frame["label"].isin(self.classes)
        if outside.any():
            found = sorted(self.frame.loc[outside, "label"].unique())[:5]
            raise DataError(
                f"{self.name}: labels {found} in rows {_rows(outside)}; "
                f"expected some of {list(self.vocabulary)}"
            )

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels that codes count through: the vocabulary, or those present, alphabetically."""
        return self.vocabulary or tuple(sorted(self.frame["label"].unique()))

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """The columns beyond the required ones."""
        return tuple(c for c in self.frame.columns if c not in COLUMNS)

    @property
    def digest(self) -> str:
        """SHA-256 over case ids, groups, labels and sections: names this table in a tracked run."""
        rows = self.frame.sort_values("case_id")[["case_id", "group", "label", "section"]]
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
        return replace(self, frame=rows.reset_index(drop=True), vocabulary=self.classes)

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
        """The rows as MONAI's list of dictionaries, ``label`` as its position in ``classes``."""
        code = {label: i for i, label in enumerate(self.classes)}
        return [
            {"image": row.image, "label": code[row.label], "case_id": row.case_id}
            for row in self.frame.itertuples(index=False)
        ]


def _validated(frame: pd.DataFrame) -> pd.DataFrame:
    required = [c for c in COLUMNS if c not in ("labels", "section")]
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
    if "section" not in frame:
        frame["section"] = ""
    unknown = ~frame["section"].isin([*SECTIONS, ""])
    if unknown.any():
        found = sorted(frame.loc[unknown, "section"].astype(str).unique())
        raise DataError(
            f"case table: section must be one of {SECTIONS} or empty; found {found} "
            f"in rows {_rows(unknown)}"
        )
    extra = [c for c in frame.columns if c not in COLUMNS]
    return frame[[*COLUMNS, *extra]]


def _rows(mask: pd.Series) -> str:
    rows = [int(i) for i in mask[mask].index[:5]]
    more = int(mask.sum()) - len(rows)
    return f"{rows}" + (f" and {more} more" if more else "")
