"""The metrics of label sets against their definitions, worked out query by query."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import EmbeddedCases, diagnose, nearest_groups

SEVERE = frozenset({"D", "G"})
HEALTHY = frozenset({"N"})


def mean(values):
    return sum(values) / len(values) if values else math.nan


def slow_vote(hits):
    """The label most hits carry; ties to the nearest, then to what stands for it, then by name."""
    names = {name for _, labels in hits for name in labels}

    def worth(name):
        places = [place for place, (_, labels) in enumerate(hits) if name in labels]
        return (-len(places), places[0], hits[places[0]][0] != name, name)

    return min(names, key=worth)


def slow_map_at_r(row):
    R = row.count(True)
    return sum(sum(row[:i]) / i for i in range(1, R + 1) if row[i - 1]) / R if R else 0.0


def slow_metrics(gallery, queries, malignant, healthy, k):
    """Each metric that label sets add or change, from the complete ranking of every query."""
    whole = nearest_groups(queries, gallery, None).index
    rows = [[g for g in ranking if g >= 0] for ranking in whole]
    asked, known = list(queries.label_sets), list(gallery.label_sets)
    hit = [
        bool(row and queries.findings[q] & gallery.findings[row[0]]) for q, row in enumerate(rows)
    ]
    found = {
        "recall_at_1": mean(hit),
        "exact_set_at_1": mean(
            [bool(row) and asked[q] == known[row[0]] for q, row in enumerate(rows)]
        ),
        "diseased_recall_at_1": mean([h for h, labels in zip(hit, asked, strict=True)
                                      if labels - healthy]),
        f"knn{k}_accuracy": mean([
            bool(row) and slow_vote([(gallery.labels[g], known[g]) for g in row[:k]]) in labels
            for row, labels in zip(rows, asked, strict=True)
        ]),
    }  # fmt: skip
    mean_of_label = {}
    for label in sorted(frozenset().union(*asked, *known)):
        half = []
        for row in rows:
            carrying = [label in known[g] for g in row[:k]]
            half.append(bool(carrying) and sum(carrying) >= len(carrying) / 2)
        mine = [q for q, labels in enumerate(asked) if label in labels]
        others = [q for q in range(len(asked)) if q not in mine]
        nearest = [bool(rows[q]) and label in known[rows[q][0]] for q in mine]
        found[f"recall_at_1_{label}"] = mean(nearest)
        mean_of_label[label] = mean(
            [slow_map_at_r([label in known[g] for g in rows[q]]) for q in mine]
        )
        found[f"map_at_r_{label}"] = mean_of_label[label]
        found[f"knn{k}_sensitivity_{label}"] = mean([half[q] for q in mine])
        found[f"knn{k}_specificity_{label}"] = mean([not half[q] for q in others])
    found["map_at_r_macro"] = mean([m for m in mean_of_label.values() if not math.isnan(m)])
    share = [mean([bool(known[g] & malignant) for g in row[:k]]) if row else 0.0 for row in rows]
    sick = [s for s, labels in zip(share, asked, strict=True) if labels & malignant]
    well = [s for s, labels in zip(share, asked, strict=True) if not labels & malignant]
    found[f"malignancy_auc_{k}"] = mean([(a > b) + 0.5 * (a == b) for a in sick for b in well])
    return {name: value for name, value in found.items() if not math.isnan(value)}


@settings(deadline=None, max_examples=80)
@given(st.data(), st.integers(1, 6))
def test_metrics_match_their_definitions(label_set_archives, data, k):
    gallery, queries = data.draw(label_set_archives)
    if not (gallery.multi_label or queries.multi_label):
        return
    found = diagnose(gallery, queries, malignant=SEVERE, healthy=HEALTHY, k=k, bootstrap=0).metrics
    expected = slow_metrics(gallery, queries, SEVERE, HEALTHY, k)
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    of_labels = ("recall_at_1_", "map_at_r_", "knn", "malig", "exact", "diseased")
    kept = {n for n in found if n.startswith(of_labels) and not n.endswith("_macro")}
    assert kept <= set(expected)


def some_eyes(eyes, n, seed, prefix):
    """Eyes in groups of two: N, D, G, D with G, or O of two kinds, where their vectors say so."""
    rng = np.random.default_rng(seed)
    kinds = [{"N"}, {"D"}, {"G"}, {"D", "G"}, {"O"}, {"O"}]
    drawn = rng.choice(len(kinds), n, p=[0.4, 0.2, 0.1, 0.1, 0.1, 0.1])
    findings = [kinds[kind] if kind < 4 else {f"O: {kind}"} for kind in drawn]
    vectors = np.eye(6)[drawn] + rng.normal(size=(n, 6)) * 0.4
    groups = [f"{prefix}{i // 2}" for i in range(n)]
    return eyes(vectors, groups, [kinds[kind] for kind in drawn], findings, prefix)


@pytest.fixture(scope="module")
def found(eyes):
    gallery, queries = some_eyes(eyes, 60, 0, "g"), some_eyes(eyes, 40, 1, "q")
    return diagnose(gallery, queries, malignant=SEVERE, healthy=HEALTHY, k=5, bootstrap=60)


def test_every_metric_of_the_queries_has_its_interval(found):
    names = {"exact_set_at_1", "diseased_recall_at_1", "map_at_r_macro", "map_at_r_D",
             "recall_at_1_O", "knn5_sensitivity_G", "knn5_specificity_N", "malignancy_auc_5",
             "recall_at_1", "mrr"}  # fmt: skip
    assert names <= set(found.intervals)
    for name, (low, high) in found.intervals.items():
        assert low <= found.metrics[name] <= high, name


def test_intervals_are_those_of_resampled_patients(found):
    names = ("exact_set_at_1", "map_at_r_macro", "knn5_specificity_D", "diseased_recall_at_1")
    frame, seen = found.queries.frame, []
    patients = sorted(set(frame["group"]))
    rows_of = [np.flatnonzero(frame["group"] == patient) for patient in patients]
    for drawn in np.random.default_rng(0).integers(20, size=(60, 20)):
        rows = np.concatenate([rows_of[i] for i in drawn])
        again = frame.iloc[rows].assign(case_id=[f"r{i}" for i in range(len(rows))])
        queries = EmbeddedCases(found.queries.embeddings[rows], again)
        metrics = diagnose(found.gallery, queries, healthy=HEALTHY, k=5, bootstrap=0).metrics
        seen.append([metrics[name] for name in names])
    low, high = np.quantile(seen, [0.025, 0.975], axis=0)
    for name, *expected in zip(names, low, high, strict=True):
        assert found.intervals[name] == pytest.approx(expected), name


def test_the_table_has_a_row_for_each_label(found):
    table = found.tables["per_class"]
    assert table.index.tolist() == ["D", "G", "N", "O"]
    queries = found.queries
    for label, row in table.iterrows():
        carrying = [label in labels for labels in queries.label_sets]
        assert row["query_images"] == sum(carrying)
        assert row["query_groups"] == len(set(queries.groups[carrying]))
        for column, name in [
            ("recall_at_1", "recall_at_1"), ("map_at_r", "map_at_r"),
            ("sensitivity", "knn5_sensitivity"), ("specificity", "knn5_specificity"),
        ]:  # fmt: skip
            assert row[column] == pytest.approx(found.metrics[f"{name}_{label}"])
    assert found.metrics["map_at_r_macro"] == pytest.approx(table["map_at_r"].mean())
    assert table["malignant"].tolist() == [True, True, False, False]


def test_off_the_diagonal_stands_only_what_is_wrong(found):
    table = found.tables["confusion"]
    assert table.to_numpy().sum() == len(found.queries)
    right = np.trace(table.to_numpy()) / len(found.queries)
    assert right == pytest.approx(found.metrics["knn5_accuracy"])


def test_neighbours_say_what_they_share(found):
    table = found.tables["neighbours"]
    mine = dict(zip(found.queries.case_ids, found.queries.findings, strict=True))
    theirs = dict(zip(found.gallery.case_ids, found.gallery.findings, strict=True))
    shared = [
        bool(mine[q] & theirs[g]) for q, g in zip(table["query"], table["case_id"], strict=True)
    ]
    assert table["hit"].tolist() == shared
    assert {"D", "D + G", "N"} <= set(table["labels"]) & set(table["query_labels"])


def test_without_triage_or_healthy_labels_their_metrics_are_left_out(found):
    plain = diagnose(found.gallery, found.queries, k=5, bootstrap=5)
    left_out = {"malignancy_auc_5", "diseased_recall_at_1"}
    assert not left_out & {*plain.metrics, *plain.intervals}
    assert set(found.metrics) - set(plain.metrics) == left_out


def test_sets_of_one_give_the_figures_of_single_labels():
    rng = np.random.default_rng(7)

    def some(n, prefix):
        ids = [f"{prefix}{i}" for i in range(n)]
        return pd.DataFrame({"case_id": ids, "group": ids, "label": rng.choice(list("abc"), n)})

    gallery, queries = some(40, "g"), some(20, "q")
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(20, 3))
    plain = diagnose(EmbeddedCases(x, gallery), EmbeddedCases(y, queries), k=5, bootstrap=20)
    known, named = (
        # Findings of another name are what makes the cases multi-label.
        cases.assign(findings=[{f"only {label}"} for label in cases["label"]])
        for cases in (gallery, queries)
    )
    several = diagnose(EmbeddedCases(x, known), EmbeddedCases(y, named), k=5, bootstrap=20)
    same = [n for n in plain.metrics if "sensitivity" not in n and "balanced" not in n]
    assert {n: several.metrics[n] for n in same} == {n: plain.metrics[n] for n in same}
    same = [n for n in same if n in plain.intervals]
    assert {n: several.intervals[n] for n in same} == {n: plain.intervals[n] for n in same}
