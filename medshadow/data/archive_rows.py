"""An archive's rows as they were found, from a table or from class folders, with what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medshadow.data.layout import walk
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

TABLES = (".csv", ".tsv", ".parquet")
_DEPTH = 8
_EYES = {
    **dict.fromkeys(("left", "l", "os"), "left"),
    **dict.fromkeys(("right", "r", "od"), "right"),
    "": "",
}


@dataclass
class Row:
    """One image of an archive, its identifiers still the site's own.

    Args:
        where: what to call it to the site's own people: a row's number, a file's name.
        image: the file.
        case: the site's identifier of the case.
        group: the site's identifier of the lesion or patient.
        labels: as they stand there.
        metadata: by column.
        problems: why it cannot be used; they quote neither file names nor identifiers.
    """

    where: str
    image: Path
    case: str
    group: str
    labels: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Columns:
    """Which column of a table holds what; see ``archive_cases``."""

    image: str
    label: str
    group: str | None
    case_id: str | None
    separator: str | None
    metadata: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        some = (self.image, self.label, self.group, self.case_id)
        return (*(name for name in some if name is not None), *self.metadata)


def table_rows(path: Path, root: Path, columns: Columns) -> list[Row]:
    """The rows of a CSV, TSV or Parquet file.

    Raises:
        DataError: the file cannot be read, or a named column is not in it.
    """
    lines = _lines(path)
    header = lines[0][1] if lines else []
    missing = [name for name in columns.names if name not in header]
    if missing:
        raise DataError(f"{path}: columns {missing} missing; found {header[:40]}")
    twice = [name for name in columns.names if header.count(name) > 1]
    if twice:
        raise DataError(f"{path}: columns {twice} stand more than once")
    if len(lines) < 2:
        raise DataError(f"{path}: no rows below the header")
    rows = []
    for number, cells in lines[1:]:
        if len(cells) > len(header):
            text = f"{len(cells)} values; expected {len(header)}"
            row = Row(f"row {number}", root, "", "", (), problems=[text])
        else:
            cells = [*cells, *[""] * (len(header) - len(cells))]
            row = _row(number, dict(zip(header, cells, strict=True)), root, columns)
        rows.append(row)
    return rows


def _row(number: int, values: Mapping[str, str], root: Path, columns: Columns) -> Row:
    image = values[columns.image]
    label = values[columns.label]
    parts = label.split(columns.separator) if columns.separator else [label]
    case = values[columns.case_id] if columns.case_id else image
    row = Row(
        where=f"row {number}",
        image=root / image,
        case=case,
        group=values[columns.group] if columns.group else case,
        labels=tuple(part.strip() for part in parts if part.strip()),
        metadata={name: values[name] for name in columns.metadata},
    )
    for name in dict.fromkeys((columns.image, columns.group, columns.case_id)):
        if name and not values[name]:
            row.problems.append(f"{name}: empty")
    if not row.labels:
        row.problems.append(f"{columns.label}: empty")
    if image and not _is_file(row.image):
        row.problems.append(f"{columns.image}: no such file")
    _check_metadata(row)
    return row


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have, such as one of 5,000 letters
        return False


def _check_metadata(row: Row) -> None:
    if "eye" in row.metadata:
        eye = _EYES.get(row.metadata["eye"].lower())
        if eye is None:
            row.problems.append("eye: expected left, right, L, R, OS, OD or nothing")
        row.metadata["eye"] = eye or ""
    if row.metadata.get("age"):
        years = number_or_none(row.metadata["age"])
        if years is None or not 0 <= years <= 120:
            row.problems.append("age: expected years from 0 to 120, or nothing")


def number_or_none(text: str) -> float | None:
    """The number that a text is; None where it is none, or not finite."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < float("inf") else None


def class_folder_rows(folder: Path) -> list[Row]:
    """The images below a folder: class/image, or class/group/image.

    Raises:
        DataError: there is none.
    """
    rows = []
    for place, files in walk(folder, _DEPTH):
        parts = place.relative_to(folder).parts
        for name in files:
            if Path(name).suffix.lower() not in SUFFIXES:
                continue
            case = "/".join((*parts, name))
            row = Row(f"file {case!r}", place / name, case, case, parts[:1])
            if len(parts) > 1:
                row.group = "/".join(parts[1:])
            if not parts:
                row.problems.append("lies in no class's folder")
            rows.append(row)
    if not rows:
        raise DataError(
            f"{folder}: no image in the folders below; expected a folder for each class, with "
            "images in it or in folders of groups"
        )
    return rows


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The header and the filled rows with their numbers: in a text, that of their line."""
    try:
        lines = _parquet_lines(path) if path.suffix.lower() == ".parquet" else _text_lines(path)
        return [(number, cells) for number, cells in lines if any(cells)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error


def _text_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    text = path.read_text(encoding="utf-8-sig")
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    for cells in reader:
        yield reader.line_num, [cell.strip() for cell in cells]


def _parquet_lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error})") from error
    yield 0, list(table.column_names)
    columns = [column.to_pylist() for column in table.columns]
    for number, cells in enumerate(zip(*columns, strict=True), start=1):
        yield number, [_text(cell) for cell in cells]


def _text(cell: Any) -> str:
    if isinstance(cell, list | tuple):
        return _text(",".join(map(str, cell)))
    if isinstance(cell, float) and (cell.is_integer() or cell != cell):
        return str(int(cell)) if cell == cell else ""
    return "" if cell is None else str(cell).strip()
