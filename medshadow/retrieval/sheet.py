"""The contact sheet of a lookup: the query image beside the cases found."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medshadow.data.readers import read_image
from medshadow.retrieval.answer import LookupAnswer, labels_in_order
from medshadow.retrieval.facts import metadata_in_words
from medshadow.retrieval.ranking import Hit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 6
# Inches: a tile is its title, the picture, then the words under it.
_WIDTH, _TITLE, _PICTURE, _WORDS = 2.1, 0.42, 1.4, 0.95
_MARGIN, _GAP, _HEADER_LINE = 0.2, 0.16, 0.21
_LINE = 30
# Of diagnosis and metadata together; two more may follow.
_LINES = 5
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

    A malignant case has a thick double border and that word in capitals over it, so that it stands
    out in print and without colour vision.

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
    header = _header_lines(answer)
    top = _MARGIN + _HEADER_LINE * (len(header) + 0.5)
    rows = ceil((len(shown) + 1) / _COLUMNS)
    size = (
        _WIDTH * _COLUMNS + 2 * _MARGIN,
        top + rows * (_TITLE + _PICTURE + _WORDS) + _MARGIN,
    )
    figure = Figure(figsize=size, dpi=110)
    for line, (words, style) in enumerate(header):
        y = 1 - (_MARGIN + _HEADER_LINE * line) / size[1]
        figure.text(_MARGIN / size[0], y, words, va="top", **style)
    tiles = [_tile(figure, place, top) for place in range(len(shown) + 1)]
    query = query_image if isinstance(query_image, np.ndarray) else read_image(query_image)
    _draw_tile(tiles[0], query, "QUERY", _QUERY, width=3)
    for tile, hit in zip(tiles[1:], shown, strict=True):
        _draw_hit(tile, answer, hit, None if image_of is None else image_of(hit.case_id))
    return figure


def _tile(figure: Figure, place: int, top: float) -> Axes:
    width, height = figure.get_size_inches()
    row, column = divmod(place, _COLUMNS)
    left = _MARGIN + column * _WIDTH + _GAP / 2
    bottom = height - top - row * (_TITLE + _PICTURE + _WORDS) - _TITLE - _PICTURE
    return figure.add_axes(
        (left / width, bottom / height, (_WIDTH - _GAP) / width, _PICTURE / height), anchor="N"
    )


def _draw_hit(tile: Axes, answer: LookupAnswer, hit: Hit, image: np.ndarray | None) -> None:
    malignant = answer.is_malignant(hit)
    extra = hit not in answer.hits
    title = f"rank {hit.rank}, similarity {hit.similarity:.3f}"
    if malignant:
        word = answer.archive.malignant_word.upper()
        title = f"{'NEAREST ' if extra else ''}{word}\n{title}"
    _draw_tile(tile, image, title, _MALIGNANT if malignant else _OTHER, 4 if malignant else 1)
    if malignant:
        inner = {"fill": False, "edgecolor": "white", "linewidth": 1.5, "zorder": 5}
        _frame_inside(tile, inner)
    diagnosis = f"{answer.diagnosis_of(hit)} ({' + '.join(labels_in_order(hit))})"
    lines = textwrap.wrap(diagnosis, _LINE)
    room = max(1, _LINES - len(lines))
    words = _in_words(hit.metadata)
    lines += textwrap.wrap(words, _LINE, max_lines=room, placeholder=" …")
    if extra and answer.malignant_outside_filter:
        lines.append("does not meet the filter")
    lines.append(hit.case_id)
    tile.set_xlabel("\n".join(lines), fontsize=7.5, labelpad=4, linespacing=1.25)


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


def _header_lines(answer: LookupAnswer) -> list[tuple[str, dict[str, Any]]]:
    shares = ", ".join(
        f"{answer.diagnosis(label)} {share:.0%}"
        for label, share in answer.share_in_this_archive.items()
    )
    vote = f"vote: {answer.diagnosis(answer.vote)}" if answer.vote else "no vote"
    source = f" ({answer.archive.source})" if answer.archive.source else ""
    archive = (
        f"Archive {answer.archive.name}{source}: {answer.archive.cases} images of "
        f"{answer.archive.groups} distinct cases"
        + (f"; filter: {answer.where}" if answer.where else "")
    )
    share = f"Share in this archive (not a probability): {shares}"
    warnings = [line for warning in answer.warnings for line in textwrap.wrap(f"! {warning}", 150)]
    small, bold = {"fontsize": 9}, {"fontsize": 9, "fontweight": "bold"}
    return [
        *((line, bold) for line in warnings),
        (
            f"{len(answer.hits)} nearest known cases; {vote}",
            {"fontsize": 12, "fontweight": "bold"},
        ),
        *((line, small) for line in textwrap.wrap(answer.why_no_vote or share, 170)),
        *((line, small) for line in (answer.probability_in_words, answer.not_checked) if line),
        (archive, small),
        (answer.notice, bold),
    ]


def _in_words(metadata: dict[str, Any]) -> str:
    words = []
    for key, value in metadata_in_words(metadata).items():
        if isinstance(value, str):
            words.append(value)
        else:
            words.append(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}")
    return ", ".join(words)
