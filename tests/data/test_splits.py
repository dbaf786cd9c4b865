import logging

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data.cases import SECTIONS, CaseTable
from medshadow.data.splits import leakage, load_split, save_split, split_cases
from medshadow.errors import DataError


def make_table(sizes_of_label):
    """A table with, for each label, groups of these sizes."""
    rows = [
        {"case_id": f"{label}-{g}-{i}", "image": "x.jpg", "group": f"{label}-{g}", "label": label}
        for label, sizes in sizes_of_label.items()
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    return CaseTable(pd.DataFrame(rows))


IMBALANCED = make_table(
    {"nv": [1] * 300 + [2] * 80 + [5] * 8, "mel": [1] * 30 + [3] * 12, "df": [2, 1, 1, 1, 1]}
)

tables = st.dictionaries(
    st.sampled_from(["nv", "mel", "bcc", "df"]),
    st.lists(st.integers(1, 6), min_size=3, max_size=40),
    min_size=1,
).map(make_table)


def sections_of(table):
    return dict(zip(table.frame["case_id"], table.frame["section"], strict=True))


@settings(max_examples=60, deadline=None)
@given(table=tables, seed=st.integers(0, 5))
def test_groups_stay_whole_and_every_class_is_everywhere(table, seed):
    split = split_cases(table, seed=seed)
    assert split.frame.groupby("group")["section"].nunique().max() == 1
    assert leakage(split).empty
    present = split.frame.groupby("label")["section"].agg(set)
    assert all(sections == set(SECTIONS) for sections in present)


@settings(max_examples=60, deadline=None)
@given(table=tables, seed=st.integers(0, 5))
def test_shares_are_within_the_largest_group_of_the_fractions(table, seed):
    split = split_cases(table, seed=seed).frame
    for _, rows in split.groupby("label"):
        largest = rows.groupby("group").size().max()
        for section, share in zip(SECTIONS, (0.7, 0.1, 0.2), strict=True):
            held = (rows["section"] == section).sum()
            assert abs(held - share * len(rows)) <= 2 * largest


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(len(IMBALANCED))), seed=st.integers(0, 3))
def test_the_split_is_independent_of_row_order(order, seed):
    shuffled = CaseTable(IMBALANCED.frame.iloc[order])
    assert sections_of(split_cases(shuffled, seed=seed)) == sections_of(
        split_cases(IMBALANCED, seed=seed)
    )


@settings(max_examples=60, deadline=None)
@given(table=tables, seed=st.integers(0, 5), validation=st.floats(0, 0.75))
def test_the_test_section_is_untouched_by_how_the_rest_is_divided(table, seed, validation):
    usual = split_cases(table, seed=seed)
    other = split_cases(table, (1 - 0.2 - validation, validation, 0.2), seed=seed)
    assert set(usual.section("test").frame["case_id"]) == set(
        other.section("test").frame["case_id"]
    )


def test_seeds_repeat_and_differ():
    once, again = split_cases(IMBALANCED, seed=1), split_cases(IMBALANCED, seed=1)
    assert once.digest == again.digest
    assert once.digest != split_cases(IMBALANCED, seed=2).digest


def test_rare_classes_keep_their_share():
    split = split_cases(IMBALANCED).frame
    share = pd.crosstab(split["label"], split["section"], normalize="index")
    for section, fraction in zip(SECTIONS, (0.7, 0.1, 0.2), strict=True):
        assert share.loc["nv", section] == pytest.approx(fraction, abs=0.005)
        assert share.loc["mel", section] == pytest.approx(fraction, abs=0.03)
    assert split[split["label"] == "df"].groupby("section").size().to_dict() == {
        "training": 4,
        "validation": 1,
        "test": 1,
    }


def test_fractions_by_name_may_leave_a_section_out():
    split = split_cases(IMBALANCED, {"training": 0.5, "test": 0.5})
    assert set(split.frame["section"]) == {"training", "test"}
    assert (split.frame["section"] == "test").mean() == pytest.approx(0.5, abs=0.01)
    assert split.digest == split_cases(IMBALANCED, (0.5, 0, 0.5)).digest


def test_a_group_of_several_labels_counts_as_its_rarest():
    table = make_table({"nv": [1] * 8 + [2], "mel": [1, 1]})
    frame = table.frame[["case_id", "image", "group", "label"]]
    frame.loc[frame["case_id"] == "nv-8-1", "label"] = "mel"
    split = split_cases(CaseTable(frame))
    mel = set(split.frame.loc[split.frame["label"] == "mel", "section"])
    assert mel == set(SECTIONS)
    assert leakage(split).empty


def test_a_scarce_class_fills_the_largest_fractions_and_is_named(caplog):
    table = make_table({"nv": [1] * 20, "vasc": [1, 1]})
    with caplog.at_level(logging.WARNING):
        split = split_cases(table)
    assert "too few groups to be in all 3 sections: vasc (2)" in caplog.text
    assert set(split.frame.loc[split.frame["label"] == "vasc", "section"]) == {"training", "test"}


def test_an_empty_section_is_an_error():
    with pytest.raises(DataError, match=r"no group left for \['validation', 'test'\]: 2 groups"):
        split_cases(make_table({"a": [4], "b": [1]}))


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.7, 0.3), "expected one each of"),
        ((0.7, 0.2, 0.2), "sum to 1"),
        ((1.2, -0.2, 0.0), "shares of 0 or more"),
        ((float("nan"), 0.5, 0.5), "shares of 0 or more"),
        ({"train": 0.8, "test": 0.2}, r"unknown sections \['train'\]"),
    ],
)
def test_wrong_fractions(fractions, message):
    with pytest.raises(DataError, match=message):
        split_cases(IMBALANCED, fractions)


def test_leakage_names_the_groups_that_straddle():
    table = make_table({"nv": [2, 3, 1]})
    frame = table.frame.assign(section=["test", "training", "test", "test", "test", ""])
    assert leakage(CaseTable(frame)).to_dict("records") == [
        {"group": "nv-0", "sections": "training test", "cases": 2}
    ]


def test_a_saved_split_comes_back(tmp_path):
    split = split_cases(IMBALANCED)
    save_split(split, tmp_path / "splits.csv")
    written = pd.read_csv(tmp_path / "splits.csv")
    assert list(written.columns) == ["case_id", "group", "label", "section"]
    shuffled = CaseTable(IMBALANCED.frame.iloc[::-1], malignant=frozenset({"mel"}))
    loaded = load_split(shuffled, tmp_path / "splits.csv")
    assert loaded.digest == split.digest
    assert loaded.malignant == {"mel"}
    assert loaded.frame["case_id"].tolist() == shuffled.frame["case_id"].tolist()


def test_merged_groups_come_back_with_the_split(tmp_path):
    merged = IMBALANCED.merge_groups([{"nv-0", "nv-1"}])
    split = split_cases(merged)
    save_split(split, tmp_path / "splits.csv")
    assert load_split(IMBALANCED, tmp_path / "splits.csv").digest == split.digest


def test_an_unsplit_table_is_not_saved(tmp_path):
    with pytest.raises(DataError, match="have no section"):
        save_split(IMBALANCED, tmp_path / "splits.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows.iloc[1:], r"1 of the table's cases are missing \['a-0-0'\]"),
        (lambda rows: rows.replace("a-0-0", "z"), r"1 are not in the table \['z'\]"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), r"stand twice: \['a-0-0'\]"),
        (lambda rows: rows.assign(label="b"), r"6 labels differ"),
        (lambda rows: rows.assign(group=rows["case_id"]), r"parts 2 groups"),
        (lambda rows: rows.assign(group="one"), r"straddle sections: \['one'\]"),
        (lambda rows: rows.assign(section="train"), r"section 'train' in row 2"),
        (lambda rows: rows.drop(columns="group"), r"columns \['case_id', 'label', 'section'\]"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path, change, message):
    table = make_table({"a": [2, 1, 2, 1]})
    split = split_cases(table)
    change(split.frame[["case_id", "group", "label", "section"]]).to_csv(
        tmp_path / "splits.csv", index=False
    )
    with pytest.raises(DataError, match=message):
        load_split(table, tmp_path / "splits.csv")


def test_a_missing_split_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"gone\.csv: cannot be read"):
        load_split(IMBALANCED, tmp_path / "gone.csv")


@pytest.mark.real_data
def test_every_real_class_is_within_half_a_percent(ham10000_root):
    from medshadow.data.ham10k import ham10k_cases

    split = split_cases(ham10k_cases(ham10000_root))
    assert leakage(split).empty
    share = pd.crosstab(split.frame["label"], split.frame["section"], normalize="index")
    for section, fraction in zip(SECTIONS, (0.7, 0.1, 0.2), strict=True):
        assert (share[section] - fraction).abs().max() < 0.005
