"""The figures of the diagnostics: t-SNE and confusion of the vote.

Matplotlib and scikit-learn load with this file, and only here. Figures are made without pyplot:
nothing global is touched and no display is needed. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import cycle, islice

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from medshadow.evaluation.embedded import EmbeddedCases

# Okabe and Ito's colours, told apart with every common colour blindness.
_COLOURS = ("#CC79A7", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#8C8C8C", "#000000", "#0072B2")
_MALIGNANT_MARKERS = ("^", "v", "<", ">")
_OTHER_MARKERS = ("o", "s", "D", "P", "X", "h")
_TSNE_POINTS = 1500


def class_styles(
    labels: Sequence[str], malignant: Collection[str] = frozenset()
) -> dict[str, tuple[str, str]]:
    """Colour and marker of each label, fixed by the order of the names.

    Malignant labels are triangles, others are not. Colours repeat after eight labels; the marker
    then still tells neighbours in the list apart.

    Example:
        >>> class_styles(["mel", "nv"], {"mel"})
        {'mel': ('#CC79A7', '^'), 'nv': ('#56B4E9', 'o')}
    """
    markers = {True: cycle(_MALIGNANT_MARKERS), False: cycle(_OTHER_MARKERS)}
    return {
        label: (colour, next(markers[label in malignant]))
        for label, colour in zip(labels, islice(cycle(_COLOURS), len(labels)), strict=True)
    }


def tsne_figure(
    cases: EmbeddedCases,
    labels: Sequence[str],
    malignant: Collection[str],
    seed: int,
    *,
    word: str = "malignant",
) -> Figure:
    """Map of the cases in the plane by t-SNE on cosine distance; at most 1500 drawn points.

    A case with several labels is drawn once, as the ``label`` that stands for it. Distances between
    clusters and sizes of clusters mean nothing in such a map.

    Args:
        cases: the cases to map; more than 1500 are thinned by a seeded draw.
        labels: every label, in the order that fixes the colours.
        malignant: labels drawn as triangles.
        seed: seed of the draw and of t-SNE.
        word: what a malignant case is called.
    """
    rng = np.random.default_rng(seed)
    points = min(len(cases), _TSNE_POINTS)
    rows = np.sort(rng.choice(len(cases), points, replace=False))
    place = _tsne(cases.directions[rows], seed)
    shown = cases.labels[rows]
    styles = class_styles(labels, malignant)

    figure = Figure(figsize=(8.0, 6.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    counts = pd.Series(shown).value_counts()
    # Frequent classes first: the rare ones must not lie under them.
    for order, label in enumerate(counts.index):
        colour, marker = styles[label]
        mine = shown == label
        crowded = counts[label] > 300
        axes.scatter(
            place[mine, 0],
            place[mine, 1],
            s=14 if crowded else 32,
            c=colour,
            marker=marker,
            alpha=0.6 if crowded else 0.95,
            edgecolors="white",
            linewidths=0.4,
            zorder=2 + order,
        )
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_color("#CCCCCC")
    axes.set_aspect("equal", adjustable="datalim")
    chosen = "all" if points == len(cases) else f"{points} randomly drawn of"
    drawn = f"t-SNE of {chosen} {len(cases)} cases (seed {seed})"
    note = f"{drawn}; distances between clusters mean nothing"
    if cases.multi_label:
        note += "\nof several labels, the one that stands for the case is shown"
    _title(axes, "Embeddings of the queries", note)
    handles = [
        Line2D([], [], linestyle="", marker=styles[x][1], color=styles[x][0], markersize=7)
        for x in labels
        if x in counts
    ]
    names = [f"{marked(x, x in malignant)}  ({counts[x]})" for x in labels if x in counts]
    title = f"triangle: {word}" if any(x in malignant for x in labels) else None
    figure.legend(
        handles, names, title=title, loc="outside right center", frameon=False, fontsize=10
    )
    return figure


def _tsne(x: np.ndarray, seed: int) -> np.ndarray:
    from sklearn.manifold import TSNE

    if len(x) < 3:
        return np.arange(2.0 * len(x)).reshape(len(x), 2)
    return TSNE(
        metric="cosine",
        perplexity=min(30.0, (len(x) - 1) / 3),
        init="pca" if x.shape[1] > 1 else "random",
        random_state=seed,
    ).fit_transform(x.astype(np.float32))


def confusion_figure(
    counts: pd.DataFrame,
    malignant: Collection[str] = frozenset(),
    *,
    word: str = "malignant",
    several: bool = False,
) -> Figure:
    """Confusion of the vote: shade and percentage by row, counts in the cells.

    Args:
        counts: queries by truth (rows) and vote (columns); rows without queries stay empty.
        malignant: labels marked with a triangle.
        word: what a malignant case is called.
        several: whether queries may carry several labels; the figure then says what a row holds.
    """
    cells = counts.to_numpy()
    totals = cells.sum(axis=1, keepdims=True)
    shares = np.divide(cells, totals, out=np.zeros(cells.shape), where=totals > 0)
    side = 2.6 + 0.72 * len(counts)
    figure = Figure(figsize=(side + 0.9, side), dpi=150, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(cells):
        if count:
            share = shares[row, column]
            colour = "white" if share > 0.55 else "#222222"
            small = "<1%" if share < 0.005 else f"{share:.0%}"
            axes.text(column, row, f"{count}", va="bottom", ha="center", color=colour, fontsize=10)
            axes.text(column, row + 0.08, small, va="top", ha="center", color=colour, fontsize=7.5)
    for place in range(len(cells)):
        corner = (place - 0.5, place - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, fill=False, edgecolor="#555555", linewidth=1.2))
    names = [marked(str(label), label in malignant) for label in counts.index]
    rows = [f"{name}  ({total})" for name, total in zip(names, totals[:, 0], strict=True)]
    long = max(len(name) for name in names) > 8
    axes.set_xticks(
        range(len(names)), names, rotation=30 if long else 0, ha="right" if long else "center"
    )
    axes.set_yticks(range(len(names)), rows)
    axes.set_xlabel("vote of the nearest cases")
    axes.set_ylabel("true diagnosis (queries)")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    note = "cells: queries, and their share of the row"
    note = f"▲ {word}; {note}" if malignant else note
    if several:
        note += "\nof several labels, row: the one voted where carried, else the case's first"
    _title(axes, "Confusion of the vote", note)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0%", "50%", "100%"])
    bar.outline.set_visible(False)
    return figure


def marked(label: str, malignant: bool) -> str:
    """A label in words, with a triangle where it is malignant."""
    return f"{label} ▲" if malignant else label


def _title(axes: Axes, title: str, note: str) -> None:
    axes.set_title(title + "\n" * (1 + note.count("\n")), fontsize=12, loc="left", weight="bold")
    axes.text(0, 1.015, note, transform=axes.transAxes, fontsize=9, color="#555555", va="bottom")
