"""An archive's rows from a folder of DICOM files: label and group from named attributes alone."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medshadow.data.archive_rows import Row
from medshadow.data.dicom import dicom_metadata
from medshadow.data.dicom_attributes import ATTRIBUTES, allowed_values
from medshadow.data.image_files import HEAD, is_dicom
from medshadow.data.layout import walk
from medshadow.errors import DataError, ImageReadError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_log = logging.getLogger(__name__)

LABELS = (
    "AdmittingDiagnosesDescription",
    "AdmittingDiagnosesCodeSequence",
    "BodyPartExamined",
    "ImageComments",
    "ReasonForTheRequestedProcedure",
    "RequestedProcedureDescription",
    "SeriesDescription",
    "StudyDescription",
)
"""Attributes that may tell the label. Most are free text, so only values that the caller names
come through."""
GROUPS = ("PatientID", "ClinicalTrialSubjectID", "StudyInstanceUID", "SeriesInstanceUID")
"""Attributes that may tell the group. They leave as keyed hashes."""
METADATA = (*sorted({name for name, _ in ATTRIBUTES.values()}), "AnatomicRegionModifier")
"""Attributes that may become columns; see ``dicom_metadata``."""

_DEPTH = 12
_SEX = {"M": "male", "F": "female", "O": "other"}
_EYE = {"L": "left", "R": "right"}
_PARTS_OF_YEAR = {"Y": 1, "M": 12, "W": 52, "D": 365}


def dicom_rows(folder: Path, label: str, group: str, metadata: tuple[str, ...]) -> list[Row]:
    """The DICOM files at and below a folder, whatever their names.

    Each has the columns ``age`` (years), ``sex`` and those named; ``eye`` where one of the files is
    an ophthalmic photograph or scan.

    Raises:
        DataError: an attribute is not on its list, or there is no DICOM file.
    """
    _check_names(label, group, metadata)
    rows, passed_over = [], 0
    for place, files in walk(folder, _DEPTH):
        for name in files:
            path = place / name
            if name.upper() == "DICOMDIR" or not _is_dicom_file(path):
                passed_over += 1
                continue
            rows.append(_row(folder, path, label, group, metadata))
    if not rows:
        raise DataError(f"{folder}: no DICOM file there or in the folders below")
    if passed_over:
        _log.info("%d files passed over that are no DICOM images", passed_over)
    return _without_empty_eyes(rows)


def header_elements(label: str, group: str) -> tuple[str, ...]:
    """Keywords of the elements that :func:`header_rows` looks at; no other need be read."""
    return ("SOPInstanceUID", "SeriesNumber", "InstanceNumber", label, group, *ATTRIBUTES)


def header_rows(
    headers: Iterable[tuple[str, Dataset]], label: str, group: str, metadata: tuple[str, ...]
) -> list[Row]:
    """The same of headers that are in memory, each with what stands for its picture.

    Raises:
        DataError: an attribute is not on its list.
    """
    _check_names(label, group, metadata)
    rows = []
    for image, header in headers:
        # Numbers only: an attribute that should hold one may hold anything.
        places = [_number(header, word) for word in ("SeriesNumber", "InstanceNumber")]
        row = Row(f"series {places[0]}, image {places[1]}", Path(image), "", "", ())
        told = {word: _texts(header, word) for word in ("SOPInstanceUID", label, group)}
        _tell(row, allowed_values(header), told, label, group, metadata)
        rows.append(row)
    return _without_empty_eyes(rows)


def _number(header: Dataset, keyword: str) -> str:
    text = str(header.get(keyword, ""))
    return text if text.isdecimal() and len(text) < 6 else "?"


def _check_names(label: str, group: str, metadata: tuple[str, ...]) -> None:
    for what, names, known in (
        ("label", (label,), LABELS),
        ("group", (group,), GROUPS),
        ("metadata", metadata, METADATA),
    ):
        other = [name for name in names if name not in known]
        if other:
            raise DataError(f"{what}: found {other}; expected some of {list(known)}")


def _without_empty_eyes(rows: list[Row]) -> list[Row]:
    if not any(row.metadata.get("eye") for row in rows):
        for row in rows:
            row.metadata.pop("eye", None)
    return rows


def _is_dicom_file(path: Path) -> bool:
    with path.open("rb") as file:
        return is_dicom(file.read(HEAD))


def _row(folder: Path, path: Path, label: str, group: str, metadata: tuple[str, ...]) -> Row:
    name = path.relative_to(folder).as_posix()
    row = Row(f"file {name!r}", path, name, "", ())
    try:
        # This one first: it keeps what pydicom says of values out of the logs, and refuses files
        # that would unpack without end.
        known = dicom_metadata(path)
        told = _attributes(path, ("SOPInstanceUID", label, group))
    except ImageReadError as error:
        row.problems.append(str(error).removeprefix(f"{path}: "))
        return row
    _tell(row, known, told, label, group, metadata)
    row.case = row.case or name
    return row


def _tell(
    row: Row,
    known: Mapping[str, str],
    told: Mapping[str, tuple[str, ...]],
    label: str,
    group: str,
    metadata: tuple[str, ...],
) -> None:
    """Write into a row what its file's attributes say."""
    row.case = next(iter(told["SOPInstanceUID"]), "")
    row.group = next(iter(told[group]), "")
    row.labels = told[label]
    for attribute, values in ((label, row.labels), (group, row.group)):
        if not values:
            row.problems.append(f"{attribute}: missing or empty")
    side = known.get("ImageLaterality") or known.get("Laterality") or ""
    ophthalmic = known.get("Modality", "").startswith("OP")
    row.metadata = {
        "age": _years(known.get("PatientAge")),
        "sex": _SEX.get(known.get("PatientSex", ""), "unknown"),
        "eye": _EYE.get(side, "") if ophthalmic else "",
        **{key: known.get(key, "") for key in metadata},
    }


def _attributes(path: Path, keywords: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Values of some attributes as texts, of a sequence its items' code values."""
    import pydicom

    try:
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(keywords))
        return {word: _texts(header, word) for word in keywords}
    # Damaged headers lead pydicom into anything; its messages quote values, so they stop here.
    except Exception as error:
        kind = type(error).__name__
    raise ImageReadError(f"{path}: damaged or truncated DICOM file ({kind}); expected a whole one")


def _texts(header: Any, keyword: str) -> tuple[str, ...]:
    element = header.get(keyword)
    if element is None or element == "":
        return ()
    if keyword.endswith("Sequence"):
        found = [str(item.get("CodeValue", "")) for item in element]
    elif isinstance(element, str):
        found = [element]
    else:
        found = [str(value) for value in element]
    return tuple(text.strip() for text in found if text.strip())


def _years(age: str | None) -> str:
    """DICOM's "045Y", "018M" or "010D" in years, as text; empty where unknown."""
    return f"{int(age[:3]) / _PARTS_OF_YEAR[age[3]]:.3g}" if age else ""
