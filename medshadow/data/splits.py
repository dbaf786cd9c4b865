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

    (scikit-learn's ``StratifiedGroupKFold`` balances as well, but splits in equal folds only and
    promises no class a place in each.)

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
    groups = _groups(table)
    rng = np.random.default_rng(seed)
    section_of: dict[str, str] = {}
    scarce = []
    for label, rows in groups.groupby("label", sort=True):
        if len(rows) < len(shares):
            scarce.append(f"{label} ({len(rows)})")
        section_of.update(_deal_class(rows["images"], shares, rng))
    if scarce:
        _log.warning(
            "%s: too few groups to be in all %d sections: %s",
            table.name,
            len(shares),
            ", ".join(scarce),
        )
    empty = [name for name in shares if name not in section_of.values()]
    if empty:
        raise DataError(
            f"{table.name}: no group left for {empty}: {len(groups)} groups of "
            f"{groups['label'].nunique()} classes; expected {len(shares)} or more of one class"
        )
    return table.with_sections(section_of)


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


def _groups(table: CaseTable) -> pd.DataFrame:
    """One row a group, ordered by name: its label (the rarest it carries) and count of images."""
    counts = table.frame["label"].value_counts()
    ranked = sorted(counts.index, key=lambda label: (counts[label], label))
    rank = table.frame["label"].map({label: i for i, label in enumerate(ranked)})
    by_group = rank.groupby(table.frame["group"], sort=True)
    labels = by_group.min().map(dict(enumerate(ranked)))
    return pd.DataFrame({"label": labels, "images": by_group.size()})


def _deal_class(
    images: pd.Series, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Deal the groups of one class (index: name, value: images): the test section, then the rest."""
    shuffled = images.iloc[rng.permutation(len(images))]
    ordered = shuffled.sort_values(ascending=False, kind="stable")
    rest = {name: share for name, share in shares.items() if name != "test"}
    if not rest or "test" not in shares:
        return _deal(ordered, shares)
    # Two groups stay for training and validation, whether or not there is a validation section:
    # the test section must not depend on it.
    most = max(1, len(ordered) - 2)
    sides = _deal(ordered, {"rest": 1 - shares["test"], "test": shares["test"]}, {"test": most})
    left = [group for group in ordered.index if sides[str(group)] == "rest"]
    return {**sides, **_deal(ordered[left], rest)}


def _deal(
    ordered: pd.Series, shares: Mapping[str, float], most: Mapping[str, int] | None = None
) -> dict[str, str]:
    """Deal groups, in the order given, to the neediest side; ``most`` limits a side's groups."""
    held = dict.fromkeys(sorted(shares, key=lambda name: -shares[name]), 0)
    room = {name: (most or {}).get(name, len(ordered)) for name in shares}
    section_of = {}
    for group, count in ordered.items():
        neediest = min((n for n in held if room[n]), key=lambda name: held[name] / shares[name])
        held[neediest] += int(count)
        room[neediest] -= 1
        section_of[str(group)] = neediest
    return section_of


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
