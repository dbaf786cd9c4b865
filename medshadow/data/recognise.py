"""Tell which data set lies in a folder, by its annotation files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medshadow.data.archive import archive_cases
from medshadow.data.cases import CaseTable
from medshadow.data.ham10k import LOOKED_FOR as LESIONS
from medshadow.data.ham10k import ham10k_cases, is_metadata
from medshadow.data.layout import walk_packed, zip_hint
from medshadow.data.odir5k import LOOKED_FOR as EYES
from medshadow.data.odir5k import annotation_kind, odir5k_cases
from medshadow.data.packed import ZIP, inside_zip
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

_DEPTH = 3
# Data set, which files are its annotations, what those are, and who reads it.
_KINDS: dict[str, tuple[Callable[[Path], Any], str, Callable[[Path, str], CaseTable]]] = {
    "HAM10000": (is_metadata, LESIONS, ham10k_cases),
    "ODIR-5K": (annotation_kind, EYES, odir5k_cases),
}


def recognised_cases(
    data: str | os.PathLike[str], on_error: str = "raise", **archive: Any
) -> CaseTable:
    """The case table of HAM10000 or ODIR-5K at or below a folder, or else of an own archive.

    Args:
        data: the data set's folder or zip file, or a folder that holds it; or an archive as
            ``archive_cases`` takes it: a table of cases, class folders or a folder of DICOM files.
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
    if archive or (place.is_file() and place.suffix.lower() != ZIP):
        return archive_cases(place, on_error=on_error, **archive)
    if not place.exists():
        raise DataError(f"{data}: no such file or folder; expected a data set")
    names = walk_packed(place, _DEPTH)
    files = [folder / name for folder, inside in names.items() for name in inside]
    found = [kind for kind, (is_its, _, _) in _KINDS.items() if any(map(is_its, files))]
    if len(found) == 1:
        return _KINDS[found[0]][2](place, on_error)
    unpacked = (file.name.lower() for file in files if inside_zip(file) is None)
    if not found and any(name.endswith(SUFFIXES) for name in unpacked):
        return archive_cases(place, on_error=on_error)
    said = f"holds {' and '.join(found)}" if found else "no data set that is known"
    looked = "; ".join(f"{kind} by {by}" for kind, (_, by, _) in _KINDS.items())
    raise DataError(
        f"{data}: {said}; expected one ({looked}) or class folders of images, there or in the "
        f"folders below{zip_hint(names)}"
    )
