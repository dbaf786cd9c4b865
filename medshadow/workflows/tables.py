"""Frames and lookup answers as they are printed on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medshadow.retrieval.answer import labels_in_order
from medshadow.retrieval.facts import metadata_in_words

if TYPE_CHECKING:
    from medshadow.retrieval import LookupAnswer


UNBROKEN = ("rank", "similarity", "case_id", "case is", "age")
# Longer words than this do not fit a column of an 80-character table.
_WIDE = 24
_MARK = "▲"


def frame_table(frame: pd.DataFrame, title: str) -> Table:
    """A pandas frame as a rich table; missing values stay empty."""
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in frame.columns:
        name = str(column)
        table.add_column(name.replace("_", " "), no_wrap=name in UNBROKEN, overflow="fold")
    for row in frame.itertuples(index=False):
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def print_answer(answer: LookupAnswer, console: Console) -> None:
    """Print a lookup: warnings first, then the cases, then what they can and cannot say."""
    for warning in answer.warnings:
        console.print(Text(f"! {warning}", style="bold yellow"))
    archive = answer.archive
    where = f" where {answer.where}" if answer.where else ""
    title = f"Nearest of {archive.groups} lesions or patients in {archive.name}{where}"
    shown = _shown_frame(answer)
    wide = _too_wide(shown, console)
    console.print(frame_table(shown.drop(columns=wide), title))
    if any(value.endswith(_MARK) for value in shown.get("case is", [])):
        console.print(f"{_MARK} {archive.malignant_word}", highlight=False)
    for column in wide:
        console.print(f"{column}, by rank:", highlight=False)
        for rank, value in zip(shown["rank"], map(_cell, shown[column]), strict=True):
            if value:
                console.print(Text(f"  {rank}  {value}"))
    shares = ", ".join(f"{label} {s:.0%}" for label, s in answer.share_in_this_archive.items())
    for label in dict.fromkeys(label for hit in answer.shown() for label in labels_in_order(hit)):
        if (name := answer.diagnosis(label)) != label:
            console.print(f"{label}: {name}", highlight=False)
    if answer.vote is not None:
        console.print(f"Most of them: {answer.diagnosis(answer.vote)}", highlight=False)
        console.print(f"Share in this archive (not a probability): {shares}", highlight=False)
    elif answer.why_no_vote:
        console.print(answer.why_no_vote, highlight=False)
    if answer.probability_in_words:
        console.print(answer.probability_in_words, highlight=False)
    if answer.not_checked:
        console.print(answer.not_checked, highlight=False)
    nearest = answer.nearest_malignant
    if nearest is not None:
        console.print(
            f"Nearest {archive.malignant_word} case: {nearest.case_id}, "
            f"{answer.diagnosis_of(nearest)}, rank {nearest.rank}, "
            f"similarity {nearest.similarity:.3f}",
            highlight=False,
        )
    if archive.source:
        console.print(f"Archive: {archive.source}", highlight=False)
    console.print(answer.notice, highlight=False)


def _too_wide(shown: pd.DataFrame, console: Console) -> list[str]:
    """Columns that stand below the table: with long words, or too many for its width."""
    wide = [c for c in shown if any(len(str(value)) > _WIDE for value in shown[c])]
    unbounded = console.options.update(width=10_000)
    while len(rest := shown.columns.drop([*wide, *UNBROKEN], errors="ignore")):
        needed = console.measure(frame_table(shown.drop(columns=wide), ""), options=unbounded)
        if needed.minimum <= console.width:
            break
        wide.append(rest[-1])
    return [column for column in shown if column in wide]


def _shown_frame(answer: LookupAnswer) -> pd.DataFrame:
    """What the table shows: codes, whose names stand below it, as 80 columns cut names short."""
    word = answer.archive.malignant_word.upper()
    word = word if len(word) < 10 else _MARK  # a long word leaves too little of 80 columns
    rows = []
    for hit in answer.shown():
        labels = " + ".join(labels_in_order(hit))
        row = {
            "rank": hit.rank,
            "similarity": hit.similarity,
            "case_id": hit.case_id,
            "case is": f"{labels} {word}" if answer.is_malignant(hit) else labels,
        }
        words = metadata_in_words(hit.metadata)
        rows.append({**row, **{key: value for key, value in words.items() if key not in row}})
    return pd.DataFrame(rows)


def _cell(value: object) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.3f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
