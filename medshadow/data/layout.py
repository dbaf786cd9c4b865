"""Looking through the folders that a data set was unpacked into."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

Names = Mapping[Path, list[str]]
"""Folders, and the names of the files in each."""

DRAWN = "drawn by MedShadow, of no patient"
"""Where phantoms are from."""


def walk(folder: Path, depth: int) -> Iterator[tuple[Path, list[str]]]:
    """Folders and the names of their files, nearest folders first; hidden ones are passed over.

    Args:
        folder: where to begin.
        depth: how many levels of folders below it to look into.
    """
    level = [folder]
    for _ in range(depth + 1):
        below = []
        for place in level:
            entries = sorted(os.scandir(place), key=lambda entry: entry.name)
            yield place, [e.name for e in entries if e.is_file() and not e.name.startswith(".")]
            below += [Path(e.path) for e in entries if e.is_dir() and not e.name.startswith(".")]
        level = below


def zip_hint(names: Names) -> str:
    """The end of a message about files that were not found: they may still be packed."""
    zips = [n for files in names.values() for n in files if n.lower().endswith(".zip")]
    return f"; found {', '.join(zips[:4])}: unpack first" if zips else ""


def first_few(problems: list[str], shown: int = 10) -> str:
    """Problems on lines of their own, the first of them, and how many more there are."""
    more = [f"and {len(problems) - shown} more"] if len(problems) > shown else []
    return "\n  ".join([*problems[:shown], *more])
