"""Splits and folds of label sets against the rule spelt out."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data import CaseTable, fold_cases, split_cases
from medshadow.data.cases import SECTIONS
from medshadow.data.splits import leakage, load_split, save_split
from medshadow.errors import DataError

FRACTIONS = (0.7, 0.1, 0.2)


def make_table(groups, **settings):
    """A table of groups, each a list of its images' label sets, named by their letters."""
    rows = [
        (f"{g}-{i}", "x.jpg", f"g{g:03}", min(names), frozenset(names))
        for g, images in enumerate(groups)
        for i, names in enumerate(images)
    ]
    columns = ["case_id", "image", "group", "label", "labels"]
    return CaseTable(pd.DataFrame(rows, columns=columns), **settings)


label_sets = st.sets(st.sampled_from("NDGCO"), min_size=1, max_size=3)
group_lists = st.lists(st.lists(label_sets, min_size=1, max_size=3), min_size=4, max_size=12)
tables = group_lists.map(lambda groups: make_table([*groups, [{"N", "D"}]]))


def patients(count, seed=0):
    """Two eyes each, of labels as unequal as those of fundus photographs."""
    rng = np.random.default_rng(seed)
    shares = {"N": 0.45, "D": 0.28, "O": 0.2, "G": 0.06, "C": 0.05, "M": 0.04, "H": 0.03}
    groups = []
    for _ in range(count):
        eyes = [{n for n, p in shares.items() if rng.random() < p} for _ in range(2)]
        groups.append([eye or {"N"} for eye in eyes])
    return make_table(groups)


def sections_of(table):
    return dict(zip(table.frame["group"], table.frame["section"], strict=True))


def largest_deviation(table, fractions):
    """By how many images a section misses its fraction of a label, at most."""
    rows = table.frame.explode("labels")
    held = pd.crosstab(rows["labels"], rows["section"])[list(fractions)]
    wanted = np.outer(held.sum(axis=1), list(fractions.values()))
    return np.abs(held.to_numpy() - wanted).max()


def dealt_slowly(images_of, order, shares, limits=None):
    """The rule in words: rarest label of the groups left first, from most images to fewest, each to
    the side neediest of that label, then neediest of images, then of the largest share."""
    held = {side: [] for side in sorted(shares, key=lambda side: -shares[side])}
    section_of = {}

    def part(side, label):
        count = sum(label is None or label in names for g in held[side] for names in images_of[g])
        return count / shares[side]

    def full(side, group):
        carried = set().union(*images_of[group])
        return any(
            sum(label is None or label in set().union(*images_of[g]) for g in held[side]) >= most
            for label, most in (limits or {}).get(side, {}).items()
            if label in carried or label is None
        )

    while left := [g for g in order if g not in section_of]:
        carriers = {}
        for group in left:
            for label in set().union(*images_of[group]):
                carriers.setdefault(label, []).append(group)
        label = min(carriers, key=lambda name: (len(carriers[name]), name))
        count = {g: sum(label in names for names in images_of[g]) for g in left}
        for group in sorted(carriers[label], key=lambda g: -count[g]):
            able = [side for side in held if not full(side, group)]
            chosen = min(able, key=lambda side: (part(side, label), part(side, None)))
            held[chosen].append(group)
            section_of[group] = chosen
    return section_of


def split_slowly(table, fractions, seed):
    images_of = table.frame.groupby("group")["labels"].agg(list).to_dict()
    names = sorted(images_of)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    carriers = {
        label: sum(label in set().union(*images_of[g]) for g in names) for label in table.classes
    }
    most = {label: max(1, n - 2) for label, n in {**carriers, None: len(names)}.items()}
    test = fractions["test"]
    halves = dealt_slowly(images_of, order, {"rest": 1 - test, "test": test}, {"test": most})
    rest = [g for g in order if halves[g] == "rest"]
    others = {name: share for name, share in fractions.items() if name != "test"}
    return halves | dealt_slowly(images_of, rest, others)


@settings(max_examples=20, deadline=None)
@given(table=tables, seed=st.integers(0, 5))
def test_label_sets_are_dealt_by_the_rule(table, seed):
    assert table.multi_label
    fractions = dict(zip(SECTIONS, FRACTIONS, strict=True))
    split = split_cases(table, fractions, seed)
    assert sections_of(split) == split_slowly(table, fractions, seed)
    assert leakage(split).empty


@settings(max_examples=20, deadline=None)
@given(table=tables, seed=st.integers(0, 5), validation=st.floats(0, 0.75))
def test_the_test_section_is_untouched_by_how_the_rest_is_divided(table, seed, validation):
    usual = split_cases(table, seed=seed).section("test")
    other = split_cases(table, (1 - 0.2 - validation, validation, 0.2), seed=seed).section("test")
    assert usual.frame["case_id"].tolist() == other.frame["case_id"].tolist()


@settings(max_examples=20, deadline=None)
@given(table=tables, seed=st.integers(0, 5))
def test_the_test_section_leaves_two_groups_of_every_label(table, seed):
    split = split_cases(table, seed=seed).frame.explode("labels")
    groups = split.groupby("labels")["group"].nunique()
    outside = split[split["section"] != "test"].groupby("labels")["group"].nunique()
    for label, count in groups.items():
        assert outside.get(label, 0) >= min(2, count - 1)


def test_row_order_does_not_matter_and_seeds_do():
    table = patients(40)
    shuffled = CaseTable(table.frame.sample(frac=1, random_state=1))
    for seed in range(3):
        assert sections_of(split_cases(shuffled, seed=seed)) == sections_of(
            split_cases(table, seed=seed)
        )
        assert [f.digest for f in fold_cases(shuffled, 3, seed)] == [
            f.digest for f in fold_cases(table, 3, seed)
        ]
    assert split_cases(table, seed=0).digest != split_cases(table, seed=1).digest
    assert fold_cases(table, 3, 0)[0].digest != fold_cases(table, 3, 1)[0].digest


def test_every_label_keeps_its_share():
    table = patients(400)
    fractions = dict(zip(SECTIONS, FRACTIONS, strict=True))
    by_sets = largest_deviation(split_cases(table), fractions)
    # Dealt by one label a group, the others are left to chance.
    columns = ["case_id", "image", "group", "label"]
    by_label = split_cases(CaseTable(table.frame[columns])).frame["section"]
    single = largest_deviation(CaseTable(table.frame.assign(section=by_label)), fractions)
    assert by_sets <= 2 < 3 * by_sets < single


def test_a_scarce_label_is_named(caplog):
    groups = [[{"N"}]] * 8 + [[{"N", "D"}]] * 5 + [[{"G"}], [{"G", "D"}]]
    with caplog.at_level(logging.WARNING):
        split_cases(make_table(groups))
    assert "too few groups to be in all 3 sections: G (2)" in caplog.text


def test_an_empty_section_is_an_error():
    with pytest.raises(DataError, match=r"no group left for \['validation'\]: 2 groups"):
        split_cases(make_table([[{"N", "D"}], [{"N"}]]))


def test_a_saved_split_of_label_sets_comes_back(tmp_path):
    split = split_cases(patients(30), seed=2)
    save_split(split, tmp_path / "splits.csv")
    assert load_split(patients(30), tmp_path / "splits.csv").digest == split.digest


def folds_slowly(table, folds, seed, validation):
    images_of = table.frame.groupby("group")["labels"].agg(list).to_dict()
    names = sorted(images_of)
    order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
    fold_of = dealt_slowly(images_of, order, dict.fromkeys(range(folds), 1 / folds))
    splits = []
    for fold in range(folds):
        rest = [g for g in order if fold_of[g] != fold]
        shares = {"training": 1 - validation, "validation": validation}
        shares = {name: share for name, share in shares.items() if share}
        dealt = dealt_slowly(images_of, rest, shares)
        splits.append(dealt | {g: "test" for g in names if fold_of[g] == fold})
    return splits


@settings(max_examples=12, deadline=None)
@given(tables, st.integers(2, 4), st.integers(0, 5), st.sampled_from([0.0, 0.25]))
def test_folds_are_dealt_by_the_rule(table, folds, seed, validation):
    found = fold_cases(table, folds, seed, validation)
    assert [sections_of(fold) for fold in found] == folds_slowly(table, folds, seed, validation)


@settings(max_examples=20, deadline=None)
@given(st.one_of(tables, st.just(make_table([[{"N"}]] * 9 + [[{"D"}, {"D"}]] * 4))),
       st.integers(2, 4), st.sampled_from([0.0, 0.2]))  # fmt: skip
def test_every_case_is_tested_once_and_no_group_straddles(table, folds, validation):
    found = fold_cases(table, folds, validation=validation)
    tested = pd.concat([fold.section("test").frame["case_id"] for fold in found])
    assert sorted(tested) == sorted(table.frame["case_id"])
    expected = {"training", "test"} | ({"validation"} if validation else set())
    for fold in found:
        assert set(fold.frame["section"]) == expected
        assert leakage(fold).empty


@pytest.mark.parametrize("single", [False, True])
def test_folds_are_stratified(single):
    table = patients(300)
    if single:
        table = CaseTable(table.frame[["case_id", "image", "group", "label"]])
    for fold in fold_cases(table, 5, validation=0.1):
        fractions = {"training": 0.72, "validation": 0.08, "test": 0.2}
        assert largest_deviation(fold, fractions) <= 3


def test_test_folds_do_not_depend_on_the_validation_share():
    table = patients(40)
    for one, other in zip(fold_cases(table, 4), fold_cases(table, 4, validation=0.3), strict=True):
        assert set(one.section("test").frame["case_id"]) == set(
            other.section("test").frame["case_id"]
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 1}, "folds must be at least 2; found 1"),
        ({"folds": 2, "validation": 1.0}, "from 0 to below 1; found 1.0"),
        ({"folds": 2, "validation": -0.1}, "from 0 to below 1; found -0.1"),
        ({"folds": 4}, "3 groups for 4 folds; expected 4"),
        ({"folds": 3, "validation": 0.1}, "3 groups for 3 folds; expected 4"),
    ],
)
def test_wrong_folds_are_refused(options, message):
    with pytest.raises(DataError, match=message):
        fold_cases(make_table([[{"N", "D"}]] * 3), **options)


def test_a_label_too_scarce_for_the_folds_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        fold_cases(make_table([[{"N"}]] * 8 + [[{"N", "G"}]] * 2), 4)
    assert "too few groups to be in all 4 folds: G (2)" in caplog.text


@pytest.mark.real_data
def test_every_real_eye_label_is_within_two_images_of_its_fraction(odir5k_root):
    from medshadow.data import odir5k_cases

    cases = odir5k_cases(odir5k_root)
    fractions = dict(zip(SECTIONS, FRACTIONS, strict=True))
    for seed in range(3):
        split = split_cases(cases, fractions, seed)
        assert leakage(split).empty
        assert largest_deviation(split, fractions) <= 2
    folds = fold_cases(cases, 5, validation=0.1)
    tested = pd.concat([fold.section("test").frame["case_id"] for fold in folds])
    assert sorted(tested) == sorted(cases.frame["case_id"])
    for fold in folds:
        assert leakage(fold).empty
        wanted = {"training": 0.72, "validation": 0.08, "test": 0.2}
        assert largest_deviation(fold, wanted) <= 3
