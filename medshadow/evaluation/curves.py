"""The figure of a training: loss, active share, hardest triplets and validation, by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

_LINE, _BOUNDARY, _BACK = "#0072B2", "#555555", "#D55E00"


def curves_figure(epochs: Sequence[Mapping[str, Any]], score: str) -> Figure:
    """Curves of a training by epoch, dashed lines between its stages, a cross at each rollback.

    What was not measured has no panel. Losses of two stages cannot be compared; the probe's hardest
    triplets and the validation metric can.

    Args:
        epochs: what every epoch came to, as ``MetricTrainer.history.epochs`` has it.
        score: name of the validation metric that the best model is chosen by.

    Raises:
        ValueError: no epoch.

    Example:
        >>> rows = [{"epoch": 1, "train/loss": 0.2}, {"epoch": 2, "train/loss": 0.1}]
        >>> [axes.get_title("left") for axes in curves_figure(rows, "map_at_r").axes]
        ['training loss, mean of the epoch']
    """
    if not epochs:
        raise ValueError("curves need at least one epoch; found none")
    frame = pd.DataFrame(list(epochs)).set_index("epoch")
    known = {
        "train/loss": "training loss, mean of the epoch",
        "train/active_fraction": "share of active triplets, mean of the epoch",
        "probe/hardest_loss": "loss of the probe's hardest triplets",
        score: f"validation: {score}",
    }
    panels = {name: words for name, words in known.items() if name in frame}
    figure = Figure(figsize=(8.0, 1.0 + 1.8 * len(panels)), dpi=150, layout="constrained")
    rows = figure.subplots(len(panels), sharex=True, squeeze=False)[:, 0]
    boundaries, backs = _boundaries(frame), _rollbacks(frame)
    for axes, (name, words) in zip(rows, panels.items(), strict=True):
        axes.plot(frame.index, frame[name], color=_LINE, marker="o", markersize=4)
        axes.set_title(words, fontsize=10, loc="left")
        axes.grid(axis="y", color="#E5E5E5")
        axes.spines[["top", "right"]].set_visible(False)
        for place in boundaries:
            axes.axvline(place, color=_BOUNDARY, linestyle="--", linewidth=1)
        axes.plot(backs, frame.loc[backs, name], "x", color=_BACK, markersize=9, markeredgewidth=2)
    rows[-1].set_xlabel("epoch")
    rows[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    rows[-1].set_xlim(frame.index[0] - 0.5, frame.index[-1] + 0.5)
    handles = _stage_names(rows[0], frame, boundaries)
    if score in panels:
        handles.append(_ring_the_best(rows[-1], frame[score]))
    if backs:
        handles.append(_handle("x", _BACK, "collapsed; went back to healthy weights"))
    figure.legend(handles=handles, loc="outside lower left", frameon=False, fontsize=9)
    return figure


def _boundaries(frame: pd.DataFrame) -> list[float]:
    """Halfway between the last epoch of a stage and the first of another."""
    if "curriculum/stage" not in frame:
        return []
    changed = frame["curriculum/stage"].diff().fillna(0) != 0
    return [epoch - 0.5 for epoch in frame.index[changed]]


def _rollbacks(frame: pd.DataFrame) -> list[int]:
    """Epochs within or at the end of which training went back."""
    if "collapse/rollbacks" not in frame:
        return []
    return list(
        frame.index[frame["collapse/rollbacks"].diff().fillna(frame["collapse/rollbacks"]) > 0]
    )


def _stage_names(axes: Axes, frame: pd.DataFrame, boundaries: list[float]) -> list[Artist]:
    """Number the stages above the first panel; returns what each number means, for the legend."""
    if "curriculum/stage" not in frame:
        return []
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.18 * (high - low))  # room for them above the curve
    edges = [frame.index[0] - 0.5, *boundaries, frame.index[-1] + 0.5]
    for first, last in pairwise(edges):
        number = int(frame["curriculum/stage"].loc[first:last].iloc[0])
        axes.annotate(
            f"stage {number}" if last - first >= 0.12 * len(frame) else f"{number}",
            ((first + last) / 2, 1.0),
            xycoords=("data", "axes fraction"),
            ha="center",
            va="top",
            fontsize=9,
            color=_BOUNDARY,
        )
    told = ["curriculum/stage", "mining", "curriculum/margin", "curriculum/batch_size"]
    return [
        _handle("", _BOUNDARY, f"stage {int(stage)}: {mining}, margin {margin:g}, "
                f"batches of {int(size)} images")
        for stage, mining, margin, size in frame[told].drop_duplicates().itertuples(index=False)
    ]  # fmt: skip


def _ring_the_best(axes: Axes, scores: pd.Series) -> Line2D:
    look: dict[str, Any] = {
        "color": _LINE,
        "markersize": 11,
        "markerfacecolor": "none",
        "linestyle": "",
    }
    if scores.notna().any():
        best = scores.idxmax()
        axes.plot([best], [scores[best]], marker="o", clip_on=False, **look)
    return Line2D([], [], marker="o", label="best epoch, whose weights are kept", **look)


def _handle(marker: str, colour: str, words: str) -> Line2D:
    return Line2D([], [], linestyle="", marker=marker, color=colour, label=words)
