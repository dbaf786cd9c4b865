"""The majority baseline is what a gallery of one diagnosis really scores."""

import numpy as np
import pandas as pd
import pytest

from medshadow.evaluation import EmbeddedCases, diagnose, majority_baseline

MALIGNANT = frozenset({"mel", "bcc"})


def cases(embeddings, groups, labels, prefix):
    ids = [f"{prefix}{i}" for i in range(len(groups))]
    frame = pd.DataFrame({"case_id": ids, "group": [str(g) for g in groups], "label": labels})
    return EmbeddedCases(np.asarray(embeddings), frame)


def some_cases(n, seed, prefix, labels=("bcc", "mel", "nv")):
    rng = np.random.default_rng(seed)
    groups = [f"{prefix}{g}" for g in rng.integers(0, n // 2, n)]
    return cases(rng.normal(size=(n, 4)), groups, rng.choice(labels, n), prefix)


def test_is_what_a_gallery_with_one_diagnosis_scores():
    queries = some_cases(30, 1, "q")
    gallery = cases(np.eye(30)[:, :4] + 1, range(30), ["nv"] * 30, "g")
    found = diagnose(gallery, queries, malignant=MALIGNANT, bootstrap=0).metrics
    baseline = majority_baseline(gallery, queries, MALIGNANT)
    assert {name: found[name] for name in baseline} == pytest.approx(baseline)
    assert {"recall_at_1", "knn16_balanced_accuracy", "malignancy_auc_16"} <= set(baseline)


def test_counts_groups_not_images():
    gallery = cases(np.eye(5), "aaabc", ["mel", "mel", "mel", "nv", "nv"], "g")
    queries = cases(np.eye(5)[:1], "z", ["nv"], "q")
    assert majority_baseline(gallery, queries)["recall_at_1"] == 1


def test_ties_go_to_the_alphabet():
    gallery = cases(np.eye(2), "ab", ["nv", "mel"], "g")
    assert majority_baseline(gallery, gallery)["knn16_sensitivity_mel"] == 1


def test_of_label_sets_it_is_what_a_gallery_of_one_set_scores(eyes):
    often, rare = ({"D", "H"}, {"D", "H"}), ({"N"}, {"N"})
    known = [often] * 30 + [rare] * 3
    gallery = eyes(np.eye(33)[:, :4] + 1, range(33), *zip(*known, strict=True), "g")
    asked = [often, rare, ({"D"}, {"D"}), ({"O"}, {"O: drusen"}), ({"H", "O"}, {"H", "O: scar"})]
    queries = eyes(np.ones((5, 4)), range(50, 55), *zip(*asked, strict=True), "q")
    triage = {"malignant": {"D"}, "healthy": {"N"}}
    # The rare set, last of equals, is never among the sixteen that are shown.
    found = diagnose(gallery, queries, **triage, bootstrap=0).metrics
    baseline = majority_baseline(gallery, queries, **triage)
    assert {name: found[name] for name in baseline} == pytest.approx(baseline)
    assert baseline["recall_at_1"] == 3 / 5
    assert baseline["diseased_recall_at_1"] == 3 / 4
    assert baseline["exact_set_at_1"] == 1 / 5
    assert baseline["knn16_accuracy"] == 2 / 5
    assert {"recall_at_1_O", "knn16_sensitivity_H", "knn16_specificity_N"} <= set(baseline)


def test_the_most_frequent_set_is_counted_by_patient(eyes):
    sets = [{"D"}, {"D"}, {"D"}, {"G", "N"}, {"G", "N"}]
    gallery = eyes(np.eye(5), "aaabc", sets, prefix="g")
    queries = eyes(np.eye(5)[:1], "z", [{"G"}], prefix="q")
    assert majority_baseline(gallery, queries)["recall_at_1"] == 1
