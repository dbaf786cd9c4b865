"""The figure of a training: what is drawn, and where a stage begins."""

import math

import numpy as np
import pytest

from medshadow.evaluation.curves import curves_figure


def rows(stages, rollbacks=None, scores=None):
    minings = {1: "semihard", 2: "hardest_negative", 3: "batch_hard"}
    rollbacks = rollbacks or [0] * len(stages)
    scores = scores or np.linspace(0.2, 0.5, len(stages))
    return [
        {
            "epoch": epoch,
            "mining": minings[stage],
            "curriculum/stage": float(stage),
            "curriculum/margin": 0.1,
            "curriculum/batch_size": 56.0 * stage,
            "train/loss": 0.2 / epoch,
            "train/active_fraction": 1 / epoch,
            "probe/hardest_loss": 0.3 / epoch,
            "collapse/rollbacks": float(back),
            "map_at_r": float(score),
        }
        for epoch, (stage, back, score) in enumerate(zip(stages, rollbacks, scores, strict=True), 1)
    ]


def boundaries(axes):
    return [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == "--"]


def titles(figure):
    return [axes.get_title("left") for axes in figure.axes]


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_every_panel_has_its_curve_and_the_boundaries_of_the_stages():
    found = rows([1, 1, 1, 2, 2, 3])
    figure = curves_figure(found, "map_at_r")
    names = ["train/loss", "train/active_fraction", "probe/hardest_loss", "map_at_r"]
    assert len(figure.axes) == len(names)
    for axes, name in zip(figure.axes, names, strict=True):
        assert axes.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5, 6]
        assert axes.lines[0].get_ydata() == pytest.approx([row[name] for row in found])
        assert boundaries(axes) == [3.5, 5.5]
    assert titles(figure)[3] == "validation: map_at_r"
    assert legend(figure)[:3] == [
        "stage 1: semihard, margin 0.1, batches of 56 images",
        "stage 2: hardest_negative, margin 0.1, batches of 112 images",
        "stage 3: batch_hard, margin 0.1, batches of 168 images",
    ]
    assert [text.get_text() for text in figure.axes[0].texts] == ["stage 1", "stage 2", "stage 3"]


def test_a_rollback_is_a_cross_and_a_boundary_on_the_way_back():
    figure = curves_figure(rows([1, 2, 1, 2], rollbacks=[0, 1, 1, 1]), "map_at_r")
    assert boundaries(figure.axes[2]) == [1.5, 2.5, 3.5]
    (cross,) = [line for line in figure.axes[2].lines if line.get_marker() == "x"]
    assert (cross.get_xdata().tolist(), cross.get_ydata().tolist()) == ([2], [0.15])
    assert legend(figure)[-1] == "collapsed; went back to healthy weights"
    first = curves_figure(rows([1, 1], rollbacks=[1, 1]), "map_at_r")
    assert first.axes[0].lines[-1].get_xdata().tolist() == [1]


def test_the_best_epoch_is_ringed():
    figure = curves_figure(rows([1, 1, 1], scores=[0.3, math.nan, 0.2]), "map_at_r")
    assert figure.axes[-1].lines[-1].get_xdata().tolist() == [1]
    assert "best epoch, whose weights are kept" in legend(figure)
    figure = curves_figure(rows([1, 1], scores=[math.nan] * 2), "map_at_r")
    figure.canvas.draw()


def test_one_stage_has_no_boundary_and_what_was_not_measured_no_panel():
    plain = [{"epoch": n, "train/loss": 0.1, "map_at_r": 0.5} for n in (1, 2)]
    figure = curves_figure(plain, "map_at_r")
    assert titles(figure) == ["training loss, mean of the epoch", "validation: map_at_r"]
    assert [boundaries(axes) for axes in figure.axes] == [[], []]
    assert legend(figure) == ["best epoch, whose weights are kept"]
    figure = curves_figure([{"epoch": 1, "train/loss": 0.1}], "map_at_r")
    figure.canvas.draw()
    assert titles(figure) == ["training loss, mean of the epoch"]


def test_no_epoch_is_refused():
    with pytest.raises(ValueError, match="at least one epoch; found none"):
        curves_figure([], "map_at_r")
