"""Looking through the folders and zip files that a data set lies in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from medshadow.data.packed import ZIP, inside_zip, packed_folders
from medshadow.errors import DataError

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


def walk_packed(folder: Path, depth: int) -> dict[Path, list[str]]:
    """As ``walk``, then the folders inside the zip files found, as paths that go on into them.

    Args:
        folder: where to begin; it may be a zip file itself.
        depth: how many levels of folders below it to look into.

    Raises:
        DataError: there is no such folder, or the zip file is damaged.
    """
    if folder.is_file() and folder.suffix.lower() == ZIP:
        try:
            return packed_folders(folder)
        except OSError as error:
            raise DataError(f"{folder}: {error.strerror}") from error
    if not folder.is_dir():
        raise DataError(f"{folder}: not a folder; expected the data set's folder or its zip file")
    names = dict(walk(folder, depth))
    for archive in _zips(names):
        # One that cannot be opened may be needed or not: ``zip_hint`` tells where files are missed.
        with contextlib.suppress(OSError):
            names |= packed_folders(archive)
    return names


def zip_hint(names: Names) -> str:
    """The end of a message about files that were not found: zip files that could not be read."""
    problems = []
    for archive in _zips(names):
        outer = inside_zip(archive)
        if outer is not None:
            problems.append(f"{archive.name} lies in {Path(outer[0]).name}: unpack the latter")
            continue
        try:
            packed_folders(archive)
        except OSError as error:
            problems.append(f"{archive.name}: {error.strerror}")
    return f"; {'; '.join(problems)}" if problems else ""


def ambiguous(one: str | Path, other: str | Path) -> bool:
    """Whether two files of one name rival: not where one is a zip file's copy of the other."""
    return (inside_zip(one) is None) == (inside_zip(other) is None)


def bare(part: str) -> str:
    """A folder's name in lower case; that of a zip file less its ending."""
    return part.lower().removesuffix(ZIP)


def _zips(names: Names) -> list[Path]:
    return [p / n for p, files in names.items() for n in files if n.lower().endswith(ZIP)]
