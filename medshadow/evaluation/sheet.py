"""The contact sheet of the diagnostics: some queries beside their nearest cases.

Matplotlib loads with this file. The figure is made without pyplot: nothing global is touched and no
display is needed. Nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from medshadow.evaluation.embedded import EmbeddedCases
from medshadow.evaluation.figures import marked
from medshadow.evaluation.labelsets import Sharing, primary_first
from medshadow.evaluation.retrieval import Neighbours

# Two of Okabe and Ito's colours, told apart with every common colour blindness.
_HIT, _MISS = "#009E73", "#E69F00"
_SHEET_ROWS, _SHEET_NEIGHBOURS = 10, 8


def contact_sheet(
    queries: EmbeddedCases,
    gallery: EmbeddedCases,
    neighbours: Neighbours,
    image_of: Callable[[str], np.ndarray],
    *,
    malignant: Collection[str] = frozenset(),
    word: str = "malignant",
    seed: int = 0,
) -> Figure:
    """Some queries with their nearest cases, as a reader would be shown them.

    One query of each diagnosis, drawn at random (seeded), for at most ten diagnoses: malignant
    ones first, each kind in alphabetical order; with each its nearest cases, at most eight. Solid
    green frames are hits: the query's diagnosis, or, where cases carry several labels, a finding
    shared with it; dashed orange ones are not. A triangle marks malignant. A label set is written
    with the ``label`` that stands for the case first, which is also what queries are drawn by.

    Args:
        queries: Q cases.
        gallery: the cases found.
        neighbours: Q x k, as from `nearest_groups`.
        image_of: case id -> uint8 H x W x 3.
        malignant: labels marked with a triangle.
        word: what a malignant case is called.
        seed: seed of the draw of queries.
    """
    shares = Sharing(queries, gallery)(np.arange(len(queries)), neighbours.index)
    rows = _one_of_each(queries, malignant, seed)[:_SHEET_ROWS]
    columns = min(_SHEET_NEIGHBOURS, neighbours.index.shape[1])
    pictures = [image_of(queries.case_ids[query]) for query in rows]
    tallest = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    size = (1.36 * (columns + 1) + 0.6, (1.3 * tallest + 0.36) * len(rows) + 1.1)
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    # An empty narrow column sets the query apart from what was found.
    ratios = [1, 0.12, *[1] * columns]
    grid = figure.subplots(len(rows), columns + 2, squeeze=False, width_ratios=ratios)
    for line, query, picture in zip(grid, rows, pictures, strict=True):
        _picture(line[0], picture, _words(queries, query, malignant), "#222222")
        for axes in line[1:]:
            axes.set_axis_off()
        for column in np.flatnonzero(neighbours.index[query, :columns] >= 0):
            row = neighbours.index[query, column]
            name = _words(gallery, row, malignant)
            text = f"{name}  {neighbours.similarity[query, column]:.2f}"
            frame = (_HIT, "solid") if shares[query, column] else (_MISS, "dashed")
            _picture(line[column + 2], image_of(gallery.case_ids[row]), text, *frame)
    grid[0][0].set_title("query", fontsize=10, weight="bold")
    for place in range(columns):
        grid[0][place + 2].set_title(f"{place + 1}", fontsize=10)
    figure.suptitle(
        f"Nearest known cases of one query from each of {len(rows)} diagnoses, "
        f"drawn at random (seed {seed})",
        fontsize=12,
    )
    several = queries.multi_label or gallery.multi_label
    shown = frozenset().union(*queries.label_sets, *gallery.label_sets)
    _sheet_legend(figure, "" if shown.isdisjoint(malignant) else word, several)
    return figure


def _words(cases: EmbeddedCases, row: int, malignant: Collection[str]) -> str:
    labels = cases.label_sets[row]
    words = _short(" + ".join(primary_first(cases.labels[row], labels)))
    return marked(words, not labels.isdisjoint(malignant))


def _one_of_each(queries: EmbeddedCases, malignant: Collection[str], seed: int) -> list[int]:
    """One row of each label, drawn at random; malignant labels first, then by the alphabet."""
    rng = np.random.default_rng(seed)
    labels = sorted(set(queries.labels), key=lambda label: (label not in malignant, label))
    return [int(rng.choice(np.flatnonzero(queries.labels == label))) for label in labels]


def _sheet_legend(figure: Figure, malignant_word: str, several: bool) -> None:
    hit = "shares a finding" if several else "same diagnosis"
    miss = "shares no finding" if several else "another diagnosis"
    handles = [
        Patch(facecolor="none", edgecolor=_HIT, linewidth=2.5, label=hit),
        Patch(facecolor="none", edgecolor=_MISS, linewidth=2.5, linestyle="--", label=miss),
    ]
    if malignant_word:
        handles.append(Patch(facecolor="none", edgecolor="none", label=f"▲ {malignant_word}"))
    handles.append(Patch(facecolor="none", edgecolor="none", label="number: cosine similarity"))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=10)


def _picture(
    axes: Axes, image: np.ndarray, text: str, colour: str, linestyle: str = "solid"
) -> None:
    axes.set_axis_on()
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=colour, linewidth=2.5, linestyle=linestyle)
    axes.set_xlabel(text, fontsize=9, labelpad=3)


def _short(label: str) -> str:
    """A long name cut to what fits under a picture."""
    return label if len(label) <= 14 else f"{label[:13].rstrip()}…"
