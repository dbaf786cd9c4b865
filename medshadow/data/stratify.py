"""Deal whole groups to sections so that every label keeps its share: one label each, or sets."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from medshadow.data.cases import CaseTable

REST = "rest"
TEST = "test"


def groups_by_class(table: CaseTable) -> pd.DataFrame:
    """One row a group, ordered by name: its label (the rarest it carries) and count of images."""
    counts = table.frame["label"].value_counts()
    ranked = sorted(counts.index, key=lambda label: (counts[label], label))
    rank = table.frame["label"].map({label: i for i, label in enumerate(ranked)})
    by_group = rank.groupby(table.frame["group"], sort=True)
    labels = by_group.min().map(dict(enumerate(ranked)))
    return pd.DataFrame({"label": labels, "images": by_group.size()})


def deal_classes(
    groups: pd.DataFrame, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Deal the groups of :func:`groups_by_class`, class by class."""
    section_of: dict[str, str] = {}
    for _, rows in groups.groupby("label", sort=True):
        section_of.update(_deal_class(rows["images"], shares, rng))
    return section_of


def _deal_class(
    images: pd.Series, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Deal the groups of one class (index: name, value: images), the test section first."""
    shuffled = images.iloc[rng.permutation(len(images))]
    ordered = shuffled.sort_values(ascending=False, kind="stable")
    rest = {name: share for name, share in shares.items() if name != TEST}
    if not rest or TEST not in shares:
        return _deal(ordered, shares)
    sides = _deal(ordered, {REST: 1 - shares[TEST], TEST: shares[TEST]}, _most_in_test(len(images)))
    left = [group for group in ordered.index if sides[str(group)] == REST]
    return {**sides, **_deal(ordered[left], rest)}


def _most_in_test(groups: int) -> int:
    """How many of a label's groups the test section may take.

    Two stay for training and validation, whether or not there is a validation section: the test
    section must not depend on it.
    """
    return max(1, groups - 2)


def _deal(
    ordered: pd.Series, shares: Mapping[str, float], most_in_test: int | None = None
) -> dict[str, str]:
    """Deal groups, in the order given, to the neediest side."""
    held = dict.fromkeys(sorted(shares, key=lambda name: -shares[name]), 0)
    room = dict.fromkeys(shares, len(ordered))
    if most_in_test is not None:
        room[TEST] = most_in_test
    section_of = {}
    for group, count in ordered.items():
        neediest = min((n for n in held if room[n]), key=lambda name: held[name] / shares[name])
        held[neediest] += int(count)
        room[neediest] -= 1
        section_of[str(group)] = neediest
    return section_of


def images_by_label(table: CaseTable) -> pd.DataFrame:
    """One row a group, ordered by name; a column a label, by name: how many images carry it."""
    frame = table.frame
    labels = [sorted(names) for names in frame["labels"]]
    pairs = pd.DataFrame({"group": frame["group"], "label": labels}).explode("label")
    return pd.crosstab(pairs["group"], pairs["label"])


def deal_label_sets(
    table: CaseTable, shares: Mapping[str, float], rng: np.random.Generator
) -> dict[str, str]:
    """Deal groups by iterative stratification: the test section first, then the rest."""
    dealer = _Dealer(table, rng)
    everything = np.arange(len(dealer.names))
    rest = {name: share for name, share in shares.items() if name != TEST}
    if not rest or TEST not in shares:
        return dealer.named(everything, dealer.deal(everything, shares))
    halves = {REST: 1 - shares[TEST], TEST: shares[TEST]}
    sides = dealer.deal(everything, halves, spare=True)
    left = np.flatnonzero(sides == REST)
    return {
        **dealer.named(everything, sides),
        **dealer.named(left, dealer.deal(left, rest)),
    }


def deal_folds(
    table: CaseTable, folds: int, validation: float, rng: np.random.Generator
) -> list[dict[str, str]]:
    """Deal groups to equal folds by iterative stratification; each in turn is the test section.

    ``validation`` is the share of what is left that goes to the validation section.
    """
    dealer = _Dealer(table, rng)
    everything = np.arange(len(dealer.names))
    fold_of = dealer.deal(everything, {str(fold): 1 / folds for fold in range(folds)})
    rest = {"training": 1 - validation, "validation": validation}
    rest = {name: share for name, share in rest.items() if share > 0}
    splits = []
    for fold in range(folds):
        test, left = np.flatnonzero(fold_of == str(fold)), np.flatnonzero(fold_of != str(fold))
        section_of = dealer.named(left, dealer.deal(left, rest))
        splits.append(section_of | dict.fromkeys(dealer.names[test], TEST))
    return splits


class _Dealer:
    """The groups of a table, their counts of images by label, and one shuffled order of them.

    The last column counts all images: a label that every case carries.
    """

    def __init__(self, table: CaseTable, rng: np.random.Generator) -> None:
        counts = images_by_label(table)
        images = table.frame.groupby("group", sort=True).size().to_numpy()
        self.names = counts.index.to_numpy(dtype=object)
        self._counts = np.column_stack([counts.to_numpy(), images])
        self._turn = np.argsort(rng.permutation(len(self.names)))

    def named(self, groups: np.ndarray, sides: np.ndarray) -> dict[str, str]:
        """Section of each group, by name."""
        return dict(zip(self.names[groups].tolist(), sides.tolist(), strict=True))

    def deal(
        self, groups: np.ndarray, shares: Mapping[str, float], spare: bool = False
    ) -> np.ndarray:
        """The side of each group.

        The label that fewest of the groups left carry comes first (ties by name). Its groups go,
        from most of its images to fewest, each to the side that holds the smallest part of what it
        should hold of that label; between equals, of all images; then to the larger share.

        Args:
            groups: their numbers.
            shares: by side.
            spare: whether the test side leaves two groups of each label to the other.
        """
        counts, turn = self._counts[groups], self._turn[groups]
        tally = _Tally(shares, counts.shape[1])
        if spare:
            tally.room[TEST] = [_most_in_test(n) for n in (counts > 0).sum(0).tolist()]
        side_of = np.full(len(groups), "", dtype=object)
        while (left := np.flatnonzero(side_of == "")).size:
            carriers = (counts[left] > 0).sum(0)
            label = int(np.argmin(np.where(carriers, carriers, len(groups) + 1)))
            some = left[counts[left, label] > 0]
            for group in some[np.lexsort((turn[some], -counts[some, label]))]:
                side_of[group] = tally.deal(counts[group].tolist(), label)
        return side_of


class _Tally:
    """What each side holds, larger shares first, and for how many more groups it has room."""

    def __init__(self, shares: Mapping[str, float], labels: int) -> None:
        self._shares = dict(sorted(shares.items(), key=lambda item: -item[1]))
        self._held = {side: [0] * labels for side in self._shares}
        self.room: dict[str, list[float]] = {side: [math.inf] * labels for side in self._shares}

    def deal(self, images: list[int], label: int) -> str:
        """Give a group, by its images of each label, to the side neediest of one label."""
        carried = [column for column, count in enumerate(images) if count]

        def need(side: str) -> tuple[float, float]:
            held, share = self._held[side], self._shares[side]
            return held[label] / share, held[-1] / share

        able = (side for side in self._shares if all(self.room[side][c] > 0 for c in carried))
        side = min(able, key=need)
        for column in carried:
            self._held[side][column] += images[column]
            self.room[side][column] -= 1
        return side
