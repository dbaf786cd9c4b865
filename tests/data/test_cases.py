import hashlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medshadow.data.cases import CaseTable, LeftOut
from medshadow.errors import DataError


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "case_id": ["a", "b", "c", "d"],
            "image": ["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            "group": ["1", "1", "2", "3"],
            "label": ["nv", "nv", "mel", "bcc"],
            "section": ["training", "training", "test", "training"],
            "age": [30.0, 30.0, float("nan"), 70.0],
        }
    )


def test_labels_and_section_are_filled_in(frame):
    table = CaseTable(frame[["case_id", "image", "group", "label"]])
    assert table.frame["labels"].tolist() == [{"nv"}, {"nv"}, {"mel"}, {"bcc"}]
    assert set(table.frame["section"]) == {""}
    assert table.metadata_columns == ()
    assert len(table) == 4


def test_the_callers_frame_is_left_alone(frame):
    before = frame.copy()
    table = CaseTable(frame)
    table.with_sections({"1": "test", "2": "test", "3": "test"})
    pd.testing.assert_frame_equal(frame, before)
    assert table.metadata_columns == ("age",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="group"), r"missing columns \['group'\]"),
        (lambda f: f.assign(image=["x", None, " ", "y"]), r"'image' is empty in rows \[1, 2\]"),
        (lambda f: f.assign(case_id=["a", "b", "a", "d"]), r"rows \[0, 2\]: \['a'\]"),
        (lambda f: f.assign(section="train"), r"found \['train'\] in rows \[0, 1, 2, 3\]"),
        (lambda f: f.assign(section=float("nan")), "section must be one of"),
    ],
)
def test_wrong_rows_are_named(frame, change, message):
    with pytest.raises(DataError, match=message):
        CaseTable(change(frame))


def test_numbers_as_ids_become_text(frame):
    table = CaseTable(frame.assign(case_id=[1, 2, 3, 4]))
    assert table.frame["case_id"].tolist() == ["1", "2", "3", "4"]


def test_a_code_means_the_same_label_in_every_section(frame):
    table = CaseTable(frame)
    assert table.classes == ("bcc", "mel", "nv")
    whole = {item["case_id"]: item["label"] for item in table.datalist()}
    assert whole == {"a": 2, "b": 2, "c": 1, "d": 0}
    for section in ("training", "test"):
        part = table.section(section)
        assert part.classes == table.classes
        assert all(item["label"] == whole[item["case_id"]] for item in part.datalist())


def test_labels_outside_the_vocabulary_are_refused(frame):
    table = CaseTable(frame, vocabulary=("nv", "mel", "bcc"))
    assert [item["label"] for item in table.datalist()] == [0, 0, 1, 2]
    with pytest.raises(DataError, match=r"labels \['bcc', 'mel'\] in rows \[2, 3\]"):
        CaseTable(frame, vocabulary=("nv",))


def test_an_absent_section_is_an_error(frame):
    with pytest.raises(DataError, match=r"'validation'; sections found: \['test', 'training'\]"):
        CaseTable(frame).section("validation")


def test_every_group_needs_a_section(frame):
    with pytest.raises(DataError, match=r"no section for groups \['3'\]"):
        CaseTable(frame).with_sections({"1": "test", "2": "test"})


@given(
    pairs=st.lists(st.sets(st.integers(0, 9).map(str), min_size=1, max_size=3), max_size=6),
)
def test_merged_groups_are_the_connected_ones(pairs):
    names = [str(i) for i in range(10)]
    table = CaseTable(
        pd.DataFrame({"case_id": names, "image": "x.jpg", "group": names, "label": "nv"})
    )
    expected = {name: {name} for name in names}
    for pair in pairs:
        joined = set().union(*(expected[name] for name in pair))
        for name in joined:
            expected[name] = joined
    merged = table.merge_groups(pairs)
    assert merged.frame["group"].tolist() == [min(expected[name]) for name in names]


def test_left_out_cases_stay_on_record(frame):
    table = CaseTable(frame, left_out=(LeftOut("z", "gone"),))
    rest = table.without([LeftOut("b", "damaged")])
    assert rest.frame["case_id"].tolist() == ["a", "c", "d"]
    assert [gone.case_id for gone in rest.left_out] == ["z", "b"]


def test_the_digest_knows_content_not_order(frame):
    table = CaseTable(frame)
    assert CaseTable(frame.iloc[::-1]).digest == table.digest
    assert CaseTable(frame.assign(image="elsewhere.jpg")).digest == table.digest
    for column, value in {"group": "9", "label": "df", "section": "test", "case_id": "z"}.items():
        changed = frame.copy()
        changed.loc[3, column] = value
        assert CaseTable(changed).digest != table.digest


@pytest.fixture
def eyes():
    """Two patients; the second one's "other" is drusen, the first one's a membrane."""
    return pd.DataFrame(
        {
            "case_id": ["0_left", "0_right", "1_left"],
            "image": ["0l.jpg", "0r.jpg", "1l.jpg"],
            "group": ["0", "0", "1"],
            "label": ["G", "O", "N"],
            "labels": [{"G", "C"}, ["O"], frozenset({"N"})],
            "findings": [{"G", "C"}, {"O: drusen"}, {"N"}],
            "section": ["training", "training", "test"],
            "eye": ["left", "right", ""],
        }
    )


def test_findings_are_the_labels_unless_told(frame, eyes):
    assert CaseTable(frame).frame["findings"].tolist() == [{"nv"}, {"nv"}, {"mel"}, {"bcc"}]
    told = CaseTable(eyes).frame
    assert told["findings"].tolist() == [{"G", "C"}, {"O: drusen"}, {"N"}]
    assert told["labels"].tolist() == [{"G", "C"}, {"O"}, {"N"}]
    assert all(isinstance(s, frozenset) for s in (*told["labels"], *told["findings"]))
    untold = CaseTable(eyes.drop(columns="findings")).frame
    assert untold["findings"].tolist() == untold["labels"].tolist()


def test_a_single_label_table_is_not_multi_label(frame):
    table = CaseTable(frame, vocabulary=("nv", "mel", "bcc", "df"))
    assert not table.multi_label
    assert table.finding_names == table.classes == ("nv", "mel", "bcc", "df")
    assert table.section("test").finding_names == table.classes
    assert not table.section("test").multi_label


def test_other_findings_alone_make_a_table_multi_label(eyes):
    table = CaseTable(eyes.iloc[1:])
    assert table.multi_label
    assert table.classes == ("N", "O")
    assert table.finding_names == ("N", "O: drusen")


def test_multi_hot_vectors_mean_the_same_in_every_section(eyes):
    table = CaseTable(eyes, vocabulary=("N", "G", "C", "O"))
    assert table.finding_names == ("N", "G", "C", "O: drusen")
    items = {item["case_id"]: item for item in table.datalist()}
    assert items["0_left"]["label"].tolist() == [0, 1, 1, 0]
    assert items["0_left"]["label"].dtype == np.float32
    assert items["0_right"]["label"].tolist() == [0, 0, 0, 1]
    test = table.section("test")
    assert test.multi_label
    assert test.finding_names == table.finding_names
    assert [item["label"].tolist() for item in test.datalist()] == [[1, 0, 0, 0]]


def test_items_carry_the_eye(frame, eyes):
    assert [item["laterality"] for item in CaseTable(eyes).datalist()] == ["left", "right", ""]
    assert set(CaseTable(frame).datalist()[0]) == {"image", "label", "case_id"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.assign(labels=["G", "O", "N"]), r"'labels' holds 'G' in rows \[0, 1, 2\]"),
        (
            lambda f: f.assign(findings=[{"G"}, set(), {"N"}]),
            r"'findings' holds set\(\) in rows \[1\]; expected sets of one or more names",
        ),
        (
            lambda f: f.assign(findings=[{"G"}, {"O"}, float("nan")]),
            r"'findings' holds nan in rows \[2\]",
        ),
        (lambda f: f.assign(labels=[{"G"}, {"O"}, {1}]), r"'labels' holds \{1\} in rows \[2\]"),
        (
            lambda f: f.assign(label=["G", "N", "N"]),
            r"label is not one of labels in rows \[1\]: found \[\('N', \['O'\]\)\]",
        ),
        (
            lambda f: f.assign(eye=["left", "OD", "OS"]),
            r"eye must be one of \('left', 'right'\) or empty; found \['OD', 'OS'\]",
        ),
    ],
)
def test_wrong_sets_are_named(eyes, change, message):
    with pytest.raises(DataError, match=message):
        CaseTable(change(eyes))


def test_sets_outside_the_vocabularies_are_refused(eyes):
    with pytest.raises(DataError, match=r"labels \['C'\] in rows \[0\]; expected some of"):
        CaseTable(eyes, vocabulary=("N", "G", "O"))
    with pytest.raises(DataError, match=r"findings \['O: drusen'\] in rows \[1\]; expected some"):
        CaseTable(eyes, finding_vocabulary=("N", "G", "C", "O"))


def test_a_label_is_not_both_healthy_and_malignant(eyes):
    assert CaseTable(eyes, healthy=frozenset({"N"})).section("test").healthy == {"N"}
    with pytest.raises(DataError, match=r"labels \['N'\] are given as healthy and as malignant"):
        CaseTable(eyes, malignant=frozenset({"N", "G"}), healthy=frozenset({"N"}))


def test_findings_count_in_the_digest_where_they_say_more(frame, eyes):
    rows = frame.sort_values("case_id")[["case_id", "group", "label", "section"]]
    assert CaseTable(frame).digest == hashlib.sha256(rows.to_csv(index=False).encode()).hexdigest()
    table = CaseTable(eyes)
    assert CaseTable(eyes.iloc[::-1]).digest == table.digest
    other = eyes.assign(findings=[{"G", "C"}, {"O: scar"}, {"N"}])
    assert CaseTable(other).digest != table.digest
    other = eyes.assign(labels=[{"G", "D"}, {"O"}, {"N"}])
    assert CaseTable(other).digest != table.digest
