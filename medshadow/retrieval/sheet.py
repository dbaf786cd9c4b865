"""The contact sheet of a lookup: the query image beside the cases found."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medshadow.data.readers import read_image
from medshadow.retrieval.answer import LookupAnswer
from medshadow.retrieval.ranking import Hit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 6
_TILE = (2.1, 2.55)
_HEADER = 1.05
_LINE = 30
# Dark enough on white to read; the words and the border's width say the same without colour.
_MALIGNANT = "#b3261e"
_QUERY = "#1f4e79"
_OTHER = "#8a8a8a"


def contact_sheet(
    answer: LookupAnswer,
    query_image: str | Path | np.ndarray,
    image_of: Callable[[str], np.ndarray | None] | None = None,
) -> Figure:
    """Draw the query, the cases found, nearest first, and the nearest malignant one in any case.

    A malignant case has a thick double border and the word MALIGNANT over it, so that it stands out
    in print and without colour vision.

    Args:
        answer: what :meth:`CaseLookup.lookup` gave.
        query_image: the query's file, or uint8 H x W x 3.
        image_of: case id to uint8 H x W x 3, or None where there is no picture: usually
            ``CaseStore.image_of``. Without it the tiles hold words alone.

    Returns:
        A matplotlib figure, for ``figure.savefig(path)``; no window is opened.

    Raises:
        ImageReadError: the query's file cannot be read.
    """
    from matplotlib.figure import Figure

    shown = answer.shown()
    rows = ceil((len(shown) + 1) / _COLUMNS)
    height = _TILE[1] * rows + _HEADER
    figure = Figure(figsize=(_TILE[0] * _COLUMNS, height), dpi=110)
    figure.subplots_adjust(
        left=0.02,
        right=0.98,
        bottom=0.42 / height,
        top=1 - (_HEADER + 0.25) / height,
        hspace=0.62,
        wspace=0.12,
    )
    tiles = figure.subplots(rows, _COLUMNS, squeeze=False).ravel()
    query = query_image if isinstance(query_image, np.ndarray) else read_image(query_image)
    _draw_tile(tiles[0], query, "QUERY", _QUERY, width=3)
    for tile, hit in zip(tiles[1:], shown, strict=False):
        _draw_hit(tile, answer, hit, None if image_of is None else image_of(hit.case_id))
    for tile in tiles[len(shown) + 1 :]:
        tile.axis("off")
    _write_header(figure, answer, height)
    return figure


def _draw_hit(tile: Axes, answer: LookupAnswer, hit: Hit, image: np.ndarray | None) -> None:
    malignant = answer.is_malignant(hit)
    extra = hit not in answer.hits
    title = f"{hit.rank}   similarity {hit.similarity:.3f}"
    if malignant:
        title = f"{'NEAREST MALIGNANT' if extra else 'MALIGNANT'}\n{title}"
    _draw_tile(tile, image, title, _MALIGNANT if malignant else _OTHER, 4 if malignant else 1)
    if malignant:
        inner = {"fill": False, "edgecolor": "white", "linewidth": 1.5, "zorder": 5}
        _frame_inside(tile, inner)
    diagnosis = f"{answer.diagnosis(hit.label)} ({hit.label})"
    lines = [*textwrap.wrap(diagnosis, _LINE), *textwrap.wrap(_in_words(hit.metadata), _LINE)]
    if extra and answer.malignant_outside_filter:
        lines.append("does not meet the filter")
    lines.append(hit.case_id)
    tile.set_xlabel("\n".join(lines[:5]), fontsize=7.5, labelpad=4, linespacing=1.25)


def _draw_tile(tile: Axes, image: np.ndarray | None, title: str, color: str, width: float) -> None:
    if image is None:
        tile.text(0.5, 0.5, "no picture kept", ha="center", va="center", fontsize=8)
        tile.set_aspect(0.75)
    else:
        tile.imshow(image)
    tile.set_xticks([])
    tile.set_yticks([])
    for side in tile.spines.values():
        side.set(color=color, linewidth=width)
    bold = width > 1
    tile.set_title(
        title,
        fontsize=8,
        color=color if bold else "black",
        pad=5,
        fontweight="bold" if bold else "normal",
    )


def _frame_inside(tile: Axes, style: dict[str, Any]) -> None:
    from matplotlib.patches import Rectangle

    tile.add_patch(Rectangle((0.03, 0.03), 0.94, 0.94, transform=tile.transAxes, **style))


def _write_header(figure: Figure, answer: LookupAnswer, height: float) -> None:
    shares = ", ".join(
        f"{answer.diagnosis(label)} {share:.0%}"
        for label, share in answer.share_in_this_archive.items()
    )
    vote = "no case found" if answer.vote is None else f"vote: {answer.diagnosis(answer.vote)}"
    archive = (
        f"{answer.archive.name}: {answer.archive.cases} images of {answer.archive.groups} "
        "distinct cases" + (f", filter {answer.where}" if answer.where else "")
    )
    lines = [
        (f"{len(answer.hits)} nearest known cases; {vote}", 12, "bold", "black"),
        (f"share in this archive: {shares}", 9, "normal", "black"),
        (archive, 9, "normal", "black"),
        (answer.notice, 9, "bold", "black"),
    ]
    for number, (words, size, weight, color) in enumerate(lines):
        y = 1 - (0.12 + 0.2 * number + (0.04 if number else 0)) / height
        figure.text(0.02, y, words, fontsize=size, fontweight=weight, color=color, va="top")
    for number, warning in enumerate(answer.warnings[:2]):
        figure.text(0.02, (0.2 - 0.15 * number) / height, f"! {warning}", fontsize=8)


def _in_words(metadata: dict[str, Any]) -> str:
    words = []
    for key, value in metadata.items():
        if isinstance(value, str):
            words.append(value)
        elif value is not None:
            words.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)
