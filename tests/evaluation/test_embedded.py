"""Embedded cases refuse what would make a diagnostic wrong."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from medshadow.errors import DataError
from medshadow.evaluation.embedded import EmbeddedCases


def frame(n=2, **columns):
    rows = {"case_id": [f"c{i}" for i in range(n)], "group": ["g"] * n, "label": ["nv"] * n}
    return pd.DataFrame({**rows, **columns})


def test_keeps_float32_read_only_copies_and_metadata():
    given = np.eye(2)
    cases = EmbeddedCases(given, frame(age=[30, 40]))
    given[0, 0] = 5
    assert cases.embeddings.dtype == np.float32
    assert cases.embeddings[0, 0] == 1
    assert not cases.embeddings.flags.writeable
    assert cases.frame["age"].tolist() == [30, 40]


def test_rows_are_counted_from_zero_after_a_filter():
    rows = frame(4).iloc[[1, 3]]
    assert EmbeddedCases(np.eye(2), rows).frame.index.tolist() == [0, 1]


def test_directions_have_unit_length_and_zero_stays_zero():
    cases = EmbeddedCases(np.array([[3.0, 4.0], [0.0, 0.0]]), frame())
    np.testing.assert_allclose(cases.directions, [[0.6, 0.8], [0, 0]], atol=1e-7)


def test_one_label_is_its_own_set_and_finding():
    cases = EmbeddedCases(np.eye(2), frame(label=["nv", "mel"]))
    assert cases.label_sets.tolist() == [{"nv"}, {"mel"}]
    assert cases.findings.tolist() == [{"nv"}, {"mel"}]
    assert not cases.multi_label


@pytest.mark.parametrize(
    ("columns", "labels", "findings"),
    [
        ({"labels": [{"nv", "x"}, {"nv"}]}, [{"nv", "x"}, {"nv"}], [{"nv", "x"}, {"nv"}]),
        ({"findings": [{"nv"}, {"nv: red"}]}, [{"nv"}, {"nv"}], [{"nv"}, {"nv: red"}]),
    ],
)
def test_sets_are_kept_and_make_the_cases_multi_label(columns, labels, findings):
    cases = EmbeddedCases(np.eye(2), frame(**columns))
    assert cases.label_sets.tolist() == labels
    assert cases.findings.tolist() == findings
    assert cases.labels.tolist() == ["nv", "nv"]
    assert cases.multi_label


@pytest.mark.parametrize(
    ("embeddings", "rows", "message"),
    [
        (np.eye(3), frame(2), "3 embeddings for 2 rows"),
        (np.ones(2), frame(2), "N x D"),
        (np.ones((0, 4)), frame(0), "N x D"),
        (np.array([[1.0, 0], [np.nan, 0]]), frame(2), r"not finite.*\['c1'\]"),
        (np.eye(2), frame(2).drop(columns="group"), r"missing columns \['group'\]"),
        (np.eye(2), frame(2, label=["nv", None]), r"'label' is empty in rows \[1\]"),
        (np.eye(2), frame(2, case_id=["a", "a"]), r"more than once: \['a'\]"),
        (np.eye(2), frame(2, labels=[{"nv"}, "nv"]), r"'labels' must hold sets.*'nv' in row 1"),
        (np.eye(2), frame(2, findings=[set(), {"nv"}]), r"'findings' must hold.*in row 0, and 0"),
        (np.eye(2), frame(2, labels=[{"nv"}, {"nv", 3}]), "'labels' must hold sets of names"),
        (np.eye(2), frame(2, labels=[{"nv"}, {"mel"}]), r"none of the case's labels in rows \[1\]"),
    ],
)
def test_refuses(embeddings, rows, message):
    with pytest.raises(DataError, match=message):
        EmbeddedCases(embeddings, rows)
