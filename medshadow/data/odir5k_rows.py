"""ODIR-5K's annotations, workbook or full_df.csv, read into patients and checked row by row."""

from __future__ import annotations

import csv
import io
import logging
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from medshadow.data.odir5k_keywords import LETTER_OF, LETTERS, QUALITY, keywords_in, meant
from medshadow.data.packed import open_file
from medshadow.errors import DataError

_log = logging.getLogger(__name__)

SIDES = ("left", "right")
COLUMNS = (
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *LETTERS,
)  # fmt: skip
_KEYWORDS = ("Left-Diagnostic Keywords", "Right-Diagnostic Keywords")
MAX_BYTES = 2**26
"""Largest annotation file that is opened, packed or unpacked, in bytes: 64 MiB."""
_MAX_ROWS, _MAX_COLUMNS = 100_000, 64

Row = tuple[int, Mapping[str, str]]


@dataclass(frozen=True)
class Eye:
    """One eye's annotation.

    Args:
        side: "left" or "right".
        stem: the name of its image file, less the ending.
        keywords: see ``keywords_in``.
        unknown: those of them that the data set does not have.
    """

    side: str
    stem: str
    keywords: tuple[str, ...]
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Patient:
    """One patient's annotation.

    Args:
        id: the public number, as text.
        age: years, nan where unknown.
        sex: "female", "male" or "unknown".
        letters: the official ones, of both eyes together.
        eyes: the left one, then the right one.
    """

    id: str
    age: float
    sex: str
    letters: str
    eyes: tuple[Eye, Eye]


def read_patients(path: Path, refuse_unknown: bool = True) -> list[Patient]:
    """Read an annotation file: the organisers' workbook, or the public full_df.csv.

    Of full_df.csv, which has a row for each eye that it keeps, both eyes of the row are taken, and
    neither ``labels`` nor ``target``: they hold one disease an eye.

    Args:
        path: a file that ends in .xlsx or .csv.
        refuse_unknown: whether a keyword that the data set does not have is an error.

    Raises:
        DataError: the file is damaged, too large, of other columns, or a lossy copy; or rows are
            wrong: then all of them are named together with what was found in them.
    """
    rows = _rows(path)
    _refuse_lossy(path, rows)
    patients: dict[str, tuple[Patient, int]] = {}
    problems: list[str] = []
    for line, row in rows:
        patient, wrong = _patient(row, refuse_unknown)
        known, first = patients.setdefault(patient.id, (patient, line))
        if repr(known) != repr(patient):  # nan is not equal to itself
            wrong.append(f"ID {patient.id} stands in row {first} with other values")
        problems += [f"row {line}: {text}" for text in wrong]
    problems += _shared_images([patient for patient, _ in patients.values()])
    if problems:
        lines = "\n  ".join(problems)
        raise DataError(f"{path}: {len(problems)} problems:\n  {lines}")
    return [patient for patient, _ in patients.values()]


def has_the_columns(path: Path) -> bool:
    """Whether a workbook has ODIR-5K's columns; one that cannot be read has none."""
    try:
        lines = _workbook_lines(_content(path))
        header: list[str] = next((cells for _, cells in lines if any(cells)), [])
    # As in ``_rows``: a damaged workbook, or any other file of that name, raises anything.
    except Exception as error:
        _log.debug("a workbook that cannot be read: %s", type(error).__name__)
        return False
    return {*COLUMNS} <= {*header}


def _rows(path: Path) -> list[Row]:
    """Rows below the header, by the file's own row numbers, as text by column name."""
    try:
        content = _content(path)
        lines = _workbook_lines(content) if path.suffix.lower() == ".xlsx" else _csv_lines(content)
        # Lines come one by one, so that a file that claims a million rows costs no more than these.
        table = list(islice(lines, _MAX_ROWS + 1))
    except DataError:
        raise
    # A damaged workbook leads zipfile, the XML parser and openpyxl into whatever it holds:
    # KeyError, TypeError, struct.error, zlib.error and more. All mean the same to the caller.
    except Exception as error:
        raise DataError(
            f"{path}: cannot be read as a table ({type(error).__name__}: {error})"
        ) from error
    if len(table) > _MAX_ROWS:
        raise DataError(f"{path}: more than {_MAX_ROWS} rows; expected a table of patients")
    filled = [(line, cells) for line, cells in table if any(cells)]
    header = filled[0][1] if filled else []
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise DataError(f"{path}: columns {missing} missing; found {[n[:40] for n in header[:30]]}")
    if len(filled) == 1:
        raise DataError(f"{path}: no rows below the header")
    place = {name: header.index(name) for name in COLUMNS}
    return [
        (line, {name: _at(cells, i) for name, i in place.items()}) for line, cells in filled[1:]
    ]


def _content(path: Path) -> bytes:
    with open_file(path, MAX_BYTES) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: larger than {MAX_BYTES} bytes; expected a table of patients")
    return content


def _at(cells: Sequence[str], place: int) -> str:
    return cells[place] if place < len(cells) else ""


def _workbook_lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    from openpyxl import load_workbook

    with zipfile.ZipFile(io.BytesIO(content)) as parts:
        size = sum(part.file_size for part in parts.infolist())
    if size > MAX_BYTES:
        raise ValueError(f"{size} bytes when unpacked, more than {MAX_BYTES}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of styles and the like, which say nothing of the cells
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True)
    try:
        sheet = book.worksheets[0]
        rows = sheet.iter_rows(max_row=_MAX_ROWS + 1, max_col=_MAX_COLUMNS, values_only=True)
        for line, cells in enumerate(rows, start=1):
            yield line, [_text(cell) for cell in cells]
    finally:
        book.close()


def _text(cell: Any) -> str:
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return "" if cell is None else str(cell).strip()


def _csv_lines(content: bytes) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""))
    for cells in reader:
        yield reader.line_num, [cell.strip() for cell in cells]


def _refuse_lossy(path: Path, rows: Sequence[Row]) -> None:
    """Where "?" replaced the full-width comma, keywords cannot be told from one another safely."""
    for line, row in rows:
        for column in _KEYWORDS:
            if "?" in row[column] or "\N{REPLACEMENT CHARACTER}" in row[column]:
                raise DataError(
                    f"{path}: a lossy copy of the annotations: in row {line}, {column}, '?' stands "
                    f"where the full-width comma U+FF0C parted keywords: {row[column][:80]!r}; "
                    "take the organisers' workbook or an unharmed full_df.csv"
                )


def _patient(row: Mapping[str, str], refuse_unknown: bool) -> tuple[Patient, list[str]]:
    """The patient of a row, and what is wrong with it."""
    wrong = []
    if not re.fullmatch("[0-9]{1,9}", row["ID"]):
        wrong.append(f"ID: found {row['ID'][:40]!r}; expected a number")
    age = _age(row["Patient Age"])
    if age is None:
        found = row["Patient Age"][:40]
        wrong.append(f"Patient Age: found {found!r}; expected years from 0 to 120, or nothing")
    sex = row["Patient Sex"].lower() or "unknown"
    if sex not in ("female", "male", "unknown"):
        wrong.append(f"Patient Sex: found {sex[:40]!r}; expected Female, Male or nothing")
    for letter in LETTERS:
        if row[letter] not in ("0", "1"):
            wrong.append(f"{letter}: found {row[letter][:40]!r}; expected 0 or 1")
    left, right = (_eye(row, side, wrong, refuse_unknown) for side in SIDES)
    letters = "".join(letter for letter in LETTERS if row[letter] == "1")
    years = float("nan") if age is None else age
    return Patient(row["ID"], years, sex, letters, (left, right)), wrong


def _eye(row: Mapping[str, str], side: str, wrong: list[str], refuse_unknown: bool) -> Eye:
    column = f"{side.title()}-Fundus"
    stem = PurePosixPath(row[column]).stem
    other = SIDES[1 - SIDES.index(side)]
    if not stem or stem.lower().endswith(f"_{other}"):
        wrong.append(f"{column}: found {row[column][:40]!r}; expected the file of a {side} eye")
    words = keywords_in(row[f"{side.title()}-Diagnostic Keywords"])
    unknown = tuple(w for w in words if meant(w) not in LETTER_OF and w not in QUALITY)
    if refuse_unknown:
        wrong += [
            f"{side.title()}-Diagnostic Keywords: unknown keyword {w[:80]!r}" for w in unknown
        ]
    return Eye(side, stem, words, unknown)


def _age(text: str) -> float | None:
    """Years; nan where nothing is said, None where it is no age."""
    if text.lower() in ("", "nan", "unknown"):
        return float("nan")
    try:
        years = float(text)
    except ValueError:
        return None
    return years if 0 <= years <= 120 else None


def _shared_images(patients: Sequence[Patient]) -> list[str]:
    owner: dict[str, str] = {}
    problems = []
    for patient in patients:
        for eye in patient.eyes:
            mine = f"{patient.id}_{eye.side}"
            if owner.setdefault(eye.stem, mine) != mine:
                problems.append(f"{owner[eye.stem]} and {mine} have one image file, {eye.stem!r}")
    return problems
