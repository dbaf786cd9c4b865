"""Frames as tables on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd


def frame_table(frame: pd.DataFrame, title: str) -> Table:
    """A pandas frame as a rich table; missing values stay empty."""
    table = Table(title=title)
    for column in frame.columns:
        table.add_column(str(column).replace("_", " "))
    for row in frame.astype(object).where(frame.notna(), "").itertuples(index=False):
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else str(v) for v in row))
    return table
