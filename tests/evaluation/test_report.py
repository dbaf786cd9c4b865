"""The whole report against plain loops, its intervals, its baseline and its figures."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation import (
    EmbeddedCases,
    diagnose,
    effective_rank,
    nearest_groups,
    silhouettes,
)
from medshadow.evaluation.figures import class_styles, confusion_figure, tsne_figure

MALIGNANT = frozenset({"mel", "bcc"})


def cases(embeddings, groups, labels, prefix):
    ids = [f"{prefix}{i}" for i in range(len(groups))]
    frame = pd.DataFrame({"case_id": ids, "group": [str(g) for g in groups], "label": labels})
    return EmbeddedCases(np.asarray(embeddings), frame)


def some_cases(n, seed, prefix, labels=("bcc", "mel", "nv")):
    rng = np.random.default_rng(seed)
    drawn = rng.choice(labels, n)
    centre = dict(zip(labels, np.eye(4), strict=False))
    x = np.stack([centre[label] for label in drawn]) + rng.normal(size=(n, 4)) * 0.6
    groups = [f"{prefix}{g}" for g in rng.integers(0, max(2, n // 2), n)]
    return cases(x, groups, list(drawn), prefix)


@pytest.fixture(scope="module")
def found():
    return diagnose(some_cases(60, 0, "g"), some_cases(30, 1, "q"), malignant=MALIGNANT, k=5)


def slow_report(gallery, queries, malignant, k):
    """Every vote metric from the neighbour lists, query by query."""
    neighbours = nearest_groups(queries, gallery, k)
    right, share, truth = [], [], list(queries.labels)
    for i in range(len(queries)):
        labels = [gallery.labels[j] for j in neighbours.index[i] if j >= 0]
        best = max(labels, key=lambda label: (labels.count(label), -labels.index(label)))
        right.append(best == truth[i])
        share.append(sum(label in malignant for label in labels) / len(labels))
    metrics = {f"knn{k}_accuracy": sum(right) / len(right)}
    sensitivities = []
    for label in sorted(set(truth)):
        mine = [r for r, t in zip(right, truth, strict=True) if t == label]
        sensitivities.append(sum(mine) / len(mine))
        metrics[f"knn{k}_sensitivity_{label}"] = sensitivities[-1]
    metrics[f"knn{k}_balanced_accuracy"] = sum(sensitivities) / len(sensitivities)
    sick = [s for s, t in zip(share, truth, strict=True) if t in malignant]
    well = [s for s, t in zip(share, truth, strict=True) if t not in malignant]
    if sick and well:
        wins = sum((a > b) + 0.5 * (a == b) for a in sick for b in well)
        metrics[f"malignancy_auc_{k}"] = wins / (len(sick) * len(well))
    return metrics


@st.composite
def archives(draw):
    vector = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    label = st.sampled_from(["bcc", "df", "mel", "nv"])
    gallery = draw(st.lists(st.tuples(vector, st.integers(0, 5), label), min_size=2, max_size=9))
    queries = draw(st.lists(st.tuples(vector, st.integers(4, 8), label), min_size=1, max_size=6))
    gallery += [([1, 0], 98, "nv"), ([0, 1], 99, "mel")]
    return [cases(*zip(*r, strict=True), p) for r, p in ((gallery, "g"), (queries, "q"))]


class TestMetrics:
    @settings(deadline=None, max_examples=60)
    @given(archives(), st.integers(1, 6), st.sampled_from([MALIGNANT, frozenset({"df", "nv"})]))
    def test_votes_match_loops(self, archive, k, malignant):
        gallery, queries = archive
        found = diagnose(gallery, queries, malignant=malignant, k=k, bootstrap=0).metrics
        expected = slow_report(gallery, queries, malignant, k)
        votes = {n: v for n, v in found.items() if n.startswith(("knn", "malignancy"))}
        assert votes == pytest.approx(expected)

    def test_names(self, found):
        assert set(found.metrics) >= {
            "recall_at_1",
            "recall_at_5",
            "recall_at_10",
            "precision_at_5",
            "r_precision",
            "map_at_r",
            "mrr",
            "map_at_r_macro",
            "knn5_sensitivity_mel",
            "malignancy_auc_5",
            "silhouette",
            "effective_rank",
            "alignment",
            "uniformity",
            "hubness_5",
            "queries_without_relevant",
        }
        json.dumps(found.metrics, allow_nan=False)

    def test_geometry_is_that_of_the_queries(self, found):
        assert found.metrics["silhouette"] == pytest.approx(silhouettes(found.queries).mean())
        assert found.metrics["effective_rank"] == pytest.approx(effective_rank(found.queries))

    def test_means_are_those_of_the_tables(self, found):
        table = found.tables["per_class"]
        weighted = (table["recall_at_1"] * table["query_images"]).sum() / len(found.queries)
        assert found.metrics["recall_at_1"] == pytest.approx(weighted)
        assert found.metrics["recall_at_1_macro"] == pytest.approx(table["recall_at_1"].mean())

    def test_a_label_that_the_gallery_lacks_counts_as_missed(self):
        gallery = cases(np.eye(3), range(3), ["nv", "nv", "mel"], "g")
        queries = cases(np.eye(3)[:2], "ab", ["nv", "df"], "q")
        found = diagnose(gallery, queries, k=1, bootstrap=0).metrics
        assert found["queries_without_relevant"] == 1
        assert found["recall_at_10"] == found["r_precision"] == found["knn1_accuracy"] == 0.5
        assert found["knn1_sensitivity_df"] == 0

    def test_what_is_undefined_is_left_out(self):
        gallery = cases(np.eye(3), range(3), ["nv", "nv", "mel"], "g")
        queries = cases(np.eye(3)[:2], "ab", ["nv", "nv"], "q")
        found = diagnose(gallery, queries, malignant=MALIGNANT, k=1, bootstrap=5)
        assert "malignancy_auc_1" not in {**found.metrics, **found.intervals}
        assert "silhouette" not in found.metrics
        assert "knn1_sensitivity_mel" not in {**found.metrics, **found.intervals}

    def test_missing_neighbours_are_not_malignant(self):
        # The first query owns a gallery group and so has one neighbour fewer to be asked.
        gallery = cases(np.eye(3), "abc", ["df", "df", "nv"], "g")
        queries = cases(np.eye(3)[:2], "cz", ["df", "nv"], "q")
        found = diagnose(gallery, queries, malignant={"nv"}, k=3, bootstrap=0).metrics
        assert found["malignancy_auc_3"] == 1

    def test_a_gallery_of_one_group_is_refused(self):
        gallery = cases(np.eye(2), "aa", ["nv", "mel"], "g")
        with pytest.raises(ValueError, match="single group"):
            diagnose(gallery, gallery)


class TestIntervals:
    def test_hold_the_metrics_they_belong_to(self, found):
        assert "malignancy_auc_5" in found.intervals
        assert "map_at_r_macro" in found.intervals
        assert "effective_rank" not in found.intervals
        for name, (low, high) in found.intervals.items():
            assert low <= found.metrics[name] <= high, name

    def test_follow_the_seed(self, found):
        again = diagnose(found.gallery, found.queries, malignant=MALIGNANT, k=5)
        other = diagnose(found.gallery, found.queries, malignant=MALIGNANT, k=5, seed=1)
        assert again.intervals == found.intervals
        assert other.intervals != found.intervals
        assert other.metrics == found.metrics

    def test_none_when_none_are_asked_for(self, found):
        assert diagnose(found.gallery, found.queries, bootstrap=0).intervals == {}


class TestTables:
    def test_confusion_counts_every_query_once(self, found):
        table = found.tables["confusion"]
        truth = pd.Series(found.queries.labels).value_counts()
        assert table.sum(axis=1).to_dict() == truth.to_dict()
        accuracy = np.trace(table.to_numpy()) / len(found.queries)
        assert accuracy == pytest.approx(found.metrics["knn5_accuracy"])

    def test_neighbours_are_ranked_and_never_the_own_lesion(self):
        some = some_cases(25, 3, "x")
        table = diagnose(some, some, k=4, bootstrap=0).tables["neighbours"]
        group_of = dict(zip(some.case_ids, some.groups, strict=True))
        assert (table["query"].map(group_of) != table["group"]).all()
        assert not table.duplicated(["query", "group"]).any()
        for _, rows in table.groupby("query"):
            assert rows["rank"].tolist() == [1, 2, 3, 4]
            assert rows["similarity"].is_monotonic_decreasing


def image_of(case_id):
    return np.full((6, 8, 3), 200, dtype=np.uint8)


def texts(figure):
    from matplotlib.text import Text

    return [t.get_text() for t in figure.findobj(Text)]


class TestFigures:
    def test_all_are_drawn_and_can_be_saved(self, found):
        small = diagnose(
            found.gallery, found.queries, malignant=MALIGNANT, bootstrap=0, image_of=image_of
        )
        figures = small.figures()
        assert list(figures) == ["tsne", "confusion", "contact_sheet"]
        for figure in figures.values():
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=40)
            assert png.getvalue().startswith(b"\x89PNG")

    def test_no_pictures_no_contact_sheet(self, found):
        assert list(found.figures()) == ["tsne", "confusion"]

    def test_the_map_says_how_many_points_it_shows(self, monkeypatch, found):
        monkeypatch.setattr("medshadow.evaluation.figures._TSNE_POINTS", 12)
        figure = tsne_figure(found.queries, ["bcc", "mel", "nv"], MALIGNANT, seed=0)
        assert any("12 randomly drawn of 30 cases" in text for text in texts(figure))
        assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 12

    @pytest.mark.parametrize("n", [1, 2, 3, 5])
    def test_the_map_of_very_few_cases(self, n):
        few = cases(np.eye(5)[:n], range(n), ["nv"] * n, "q")
        figure = tsne_figure(few, ["nv"], (), seed=0)
        assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == n

    def test_confusion_shows_counts_and_shares_of_the_row(self):
        table = pd.DataFrame([[3, 1], [0, 0]], index=["mel", "nv"], columns=["mel", "nv"])
        shown = texts(confusion_figure(table, {"mel"}))
        assert {"3", "75%", "1", "25%", "mel ▲", "mel ▲  (4)", "nv  (0)"} <= set(shown)

    def test_of_several_labels_the_figures_say_which_is_shown(self, eyes):
        sets = [{"C", "D"}, {"D"}, {"N"}, {"C"}]
        some = eyes(np.eye(4), "abcd", sets)
        found = diagnose(some, some, malignant={"C"}, k=2, bootstrap=0, image_of=image_of)
        figures = found.figures()
        assert set(figures) == {"tsne", "confusion", "contact_sheet"}
        map_words = " ".join(texts(figures["tsne"]))
        assert "the one that stands for the case" in map_words
        assert {"C ▲  (2)", "D  (1)", "N  (1)"} <= set(texts(figures["tsne"]))
        assert "else the case's first" in " ".join(texts(figures["confusion"]))

    def test_styles_stay_apart(self):
        labels = [f"class{i:02}" for i in range(16)]
        styles = class_styles(labels, set(labels[::3]))
        assert len(set(styles.values())) == len(labels)


def test_metrics_need_neither_matplotlib_nor_monai():
    code = (
        "import sys, medshadow.evaluation as e; e.diagnose; e.score_rankings; "
        "print([m for m in ('matplotlib', 'monai', 'torch', 'sklearn', 'mlflow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
