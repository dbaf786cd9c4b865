"""Tell which data set lies in a folder, by the names of its files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medshadow.data.archive import archive_cases
from medshadow.data.cases import CaseTable
from medshadow.data.ham10k import ham10k_cases
from medshadow.data.layout import walk
from medshadow.data.odir5k import odir5k_cases
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

_DEPTH = 3
# Data set, how its annotation files' names begin (in lower case), and who reads it.
_KINDS: dict[str, tuple[tuple[str, ...], Callable[[Path, str], CaseTable]]] = {
    "HAM10000": (
        ("ham10000_metadata", "isic2018_task3_training_groundtruth.csv"),
        ham10k_cases,
    ),
    "ODIR-5K": (
        ("odir-5k_training_annotations", "data.xlsx", "full_df.csv"),
        odir5k_cases,
    ),
}


def recognised_cases(
    data: str | os.PathLike[str], on_error: str = "raise", **archive: Any
) -> CaseTable:
    """The case table of HAM10000 or ODIR-5K at or below a folder, or else of an own archive.

    Args:
        data: the data set's folder, or one that holds it; or an archive as ``archive_cases`` takes
            it: a table of cases, class folders or a folder of DICOM files.
        on_error: what to do about images that are missing; see ``ham10k_cases``.
        **archive: arguments of ``archive_cases``, such as ``label="diagnosis"``; where any is given
            the data are an own archive.

    Raises:
        DataError: nothing that is known lies there, or several data sets do; the message says what
            was looked for.

    Example:
        >>> import tempfile
        >>> from medshadow.data import write_phantoms
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = write_phantoms(folder, lesions=22, progress=False)
        ...     recognised_cases(root).name
        'phantoms'
    """
    place = Path(data).expanduser().absolute()
    if archive or place.is_file():
        return archive_cases(place, on_error=on_error, **archive)
    if not place.is_dir():
        raise DataError(f"{data}: no such file or folder; expected a data set")
    names = {name.lower() for _, files in walk(place, _DEPTH) for name in files}
    found = [kind for kind, (marks, _) in _KINDS.items() if any(n.startswith(marks) for n in names)]
    if len(found) == 1:
        return _KINDS[found[0]][1](place, on_error)
    if not found and any(name.endswith(SUFFIXES) for name in names):
        return archive_cases(place, on_error=on_error)
    said = f"holds {' and '.join(found)}" if found else "no data set that is known"
    looked = "; ".join(f"{kind} by {', '.join(marks)}" for kind, (marks, _) in _KINDS.items())
    raise DataError(
        f"{data}: {said}; expected one ({looked}) or class folders of images, there or in the "
        "folders below"
    )
