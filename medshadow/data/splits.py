"""Split a case table into training, validation and test so that no lesion or patient straddles."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from medshadow.data.cases import SECTIONS, CaseTable
from medshadow.data.stratify import (
    deal_classes,
    deal_folds,
    deal_label_sets,
    groups_by_class,
    images_by_label,
)
from medshadow.errors import DataError

_log = logging.getLogger(__name__)

SPLIT_COLUMNS = ("case_id", "group", "label", "section")


def split_cases(
    table: CaseTable,
    fractions: Mapping[str, float] | Sequence[float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> CaseTable:
    """Give each case a section: groups stay whole, diagnoses keep their shares.

    The test section is dealt first, against all the rest, so that it depends on ``seed`` and its
    own fraction alone: settings may be chosen on any division of the rest, and the test section
    stays untouched. Then the rest is dealt to training and validation.

    Each time, class by class, the groups are shuffled, ordered from most images to fewest (ties
    stay shuffled), and each goes to the side that holds the smallest part of what it should hold of
    that class, in images; between equals, to the larger fraction. So each section gets a group of
    every class that has as many groups as there are sections, and its share of a class ends within
    about one group of its fraction. A class of fewer groups goes to training and test first, and a
    warning names it. A group that carries several labels counts as its rarest one.

    In a table of label sets (``multi_label``) a group counts for all labels of its images. The
    label that fewest of the groups left carry is dealt first, with all groups that carry it, each
    to the side that is neediest of that label, between equals of images altogether: iterative
    stratification (Sechidis, Tsoumakas, Vlahavas, On the stratification of multi-label data, 2011)
    by groups. Every label's share ends near the fraction; the test section leaves two groups of
    every label to the rest, where there are three.

    (scikit-learn's ``StratifiedGroupKFold`` balances as well, but splits in equal folds only, knows
    no label sets, and promises no class a place in each.)

    Args:
        table: the cases; merge duplicated groups first (``audit`` and ``clean``).
        fractions: the share of images for each section, by name, or in the order training,
            validation, test. They sum to 1; a section may be left out or have 0.
        seed: the split depends on this, the case ids' groups and labels and the fractions, never
            on the order of rows.

    Raises:
        DataError: the fractions are not shares of 1 for known sections, or there are too few groups
            for each section to have one.

    Example:
        >>> cases = CaseTable(pd.DataFrame({
        ...     "case_id": list("abcdef"), "image": "x.jpg", "group": list("112334"),
        ...     "label": ["mel"] * 3 + ["nv"] * 3}))
        >>> split = split_cases(cases, {"training": 0.6, "test": 0.4})
        >>> split.frame["section"].tolist()
        ['training', 'training', 'test', 'training', 'training', 'test']
    """
    shares = _checked(fractions)
    rng = np.random.default_rng(seed)
    if table.multi_label:
        carriers = (images_by_label(table) > 0).sum()
        section_of = deal_label_sets(table, shares, rng)
    else:
        groups = groups_by_class(table)
        carriers = groups["label"].value_counts().sort_index()
        section_of = deal_classes(groups, shares, rng)
    _warn_of_scarce(table, carriers, len(shares), "sections")
    empty = [name for name in shares if name not in section_of.values()]
    if empty:
        raise DataError(
            f"{table.name}: no group left for {empty}: {len(section_of)} groups of "
            f"{len(carriers)} classes; expected {len(shares)} or more of one class"
        )
    return table.with_sections(section_of)


def fold_cases(
    table: CaseTable, folds: int = 5, seed: int = 0, validation: float = 0.0
) -> list[CaseTable]:
    """Split a table k times for cross-validation: every case is in the test section once.

    Groups stay whole, and every label keeps its share in each fold: folds are dealt as
    :func:`split_cases` deals label sets, single labels being sets of one. The test sections depend
    on ``seed`` and ``folds`` alone; then the rest of each is dealt to training and validation.

    Args:
        table: the cases; merge duplicated groups first (``audit`` and ``clean``).
        folds: k, at least 2.
        seed: of the order of groups; the order of rows does not count.
        validation: share of the cases outside the test section that validates, in [0, 1).

    Returns:
        The k tables; each can be saved with :func:`save_split`.

    Raises:
        DataError: a number is out of its range, or there are fewer groups than folds (than folds
            and one, with validation).

    Example:
        >>> cases = CaseTable(pd.DataFrame({
        ...     "case_id": list("abcdef"), "image": "x.jpg", "group": list("112345"),
        ...     "label": ["mel"] * 3 + ["nv"] * 3}))
        >>> [fold.section("test").frame["case_id"].tolist() for fold in fold_cases(cases, 2)]
        [['a', 'b', 'f'], ['c', 'd', 'e']]
    """
    if folds < 2:
        raise DataError(f"folds must be at least 2; found {folds}")
    if not 0 <= validation < 1:
        raise DataError(f"validation must be a share from 0 to below 1; found {validation}")
    carriers = (images_by_label(table) > 0).sum()
    groups, needed = table.frame["group"].nunique(), folds + (validation > 0)
    if groups < needed:
        raise DataError(f"{table.name}: {groups} groups for {folds} folds; expected {needed}")
    _warn_of_scarce(table, carriers, folds, "folds")
    splits = deal_folds(table, folds, validation, np.random.default_rng(seed))
    return [table.with_sections(section_of) for section_of in splits]


def leakage(table: CaseTable) -> pd.DataFrame:
    """The groups whose cases lie in more than one section: empty when the split is sound.

    Returns:
        One row a group: ``group``, ``sections`` (names joined by " "), ``cases`` (how many).
    """
    by_group = table.frame[table.frame["section"] != ""].groupby("group", sort=True)
    sections = by_group["section"].agg(lambda s: " ".join(sorted(set(s), key=SECTIONS.index)))
    found = pd.DataFrame({"sections": sections, "cases": by_group.size()})
    return found[found["sections"].str.contains(" ")].reset_index()


def save_split(table: CaseTable, path: str | os.PathLike[str]) -> None:
    """Write ``case_id, group, label, section`` as CSV, ordered by case id.

    Raises:
        DataError: a case has no section yet.
    """
    without = table.frame.loc[table.frame["section"] == "", "case_id"]
    if len(without):
        raise DataError(
            f"{table.name}: {len(without)} cases have no section, {_some(without)}; "
            "split the table before saving its split"
        )
    rows = table.frame.sort_values("case_id")[list(SPLIT_COLUMNS)]
    rows.to_csv(Path(path), index=False, lineterminator="\n")


def load_split(table: CaseTable, path: str | os.PathLike[str]) -> CaseTable:
    """Give a table the sections and the (merged) groups of a file that ``save_split`` wrote.

    Raises:
        DataError: the file is not such a file, names other cases or labels than the table, parts
            cases that the table holds in one group, or lets a group straddle sections.
    """
    rows = _read_split(Path(path))
    frame = table.frame
    named, held = set(rows.index), set(frame["case_id"])
    if named != held:
        raise DataError(
            f"{path}: {len(held - named)} of the table's cases are missing "
            f"{_some(held - named)}, {len(named - held)} are not in the table "
            f"{_some(named - held)}; expected the {len(held)} cases of {table.name}"
        )
    rows = rows.loc[frame["case_id"]].reset_index(drop=True)
    other = frame["case_id"][rows["label"].ne(frame["label"])]
    if len(other):
        raise DataError(f"{path}: {len(other)} labels differ from {table.name}'s: {_some(other)}")
    parted = rows["group"].groupby(frame["group"]).nunique()
    if (parted > 1).any():
        raise DataError(
            f"{path}: parts {int((parted > 1).sum())} groups of {table.name}: "
            f"{_some(parted.index[parted > 1])}"
        )
    split = replace(table, frame=frame.assign(group=rows["group"], section=rows["section"]))
    straddling = leakage(split)
    if len(straddling):
        raise DataError(f"{path}: groups straddle sections: {_some(straddling['group'])}")
    return split


def _warn_of_scarce(table: CaseTable, groups_of: pd.Series, needed: int, places: str) -> None:
    scarce = groups_of[groups_of < needed]
    if len(scarce):
        _log.warning(
            "%s: too few groups to be in all %d %s: %s",
            *(table.name, needed, places),
            ", ".join(f"{label} ({count})" for label, count in scarce.items()),
        )


def _checked(fractions: Mapping[str, float] | Sequence[float]) -> dict[str, float]:
    if not isinstance(fractions, Mapping):
        if len(fractions) != len(SECTIONS):
            raise DataError(f"fractions: found {list(fractions)}; expected one each of {SECTIONS}")
        fractions = dict(zip(SECTIONS, fractions, strict=True))
    unknown = sorted(set(fractions) - set(SECTIONS))
    if unknown:
        raise DataError(f"fractions: unknown sections {unknown}; expected some of {SECTIONS}")
    shares = {name: float(fractions.get(name, 0)) for name in SECTIONS}
    if not all(math.isfinite(s) and s >= 0 for s in shares.values()) or not math.isclose(
        sum(shares.values()), 1, abs_tol=1e-6
    ):
        raise DataError(f"fractions: found {shares}; expected shares of 0 or more that sum to 1")
    return {name: share for name, share in shares.items() if share > 0}


def _read_split(path: Path) -> pd.DataFrame:
    try:
        rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error
    if tuple(rows.columns) != SPLIT_COLUMNS:
        raise DataError(f"{path}: columns {list(rows.columns)}; expected {list(SPLIT_COLUMNS)}")
    wrong = rows.index[~rows["section"].isin(SECTIONS)]
    if len(wrong):
        raise DataError(
            f"{path}: section {rows['section'][wrong[0]]!r} in row {wrong[0] + 2}; "
            f"expected one of {SECTIONS}"
        )
    twice = rows["case_id"][rows["case_id"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: case ids stand twice: {_some(twice)}")
    return rows.set_index("case_id")


def _some(names: Iterable[str]) -> list[str]:
    return sorted(names)[:5]
