"""Anyone's own cases: a table, class folders or a folder of DICOM files made into a case table."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from medshadow.data.archive_dicom import LABELS, dicom_rows, header_rows
from medshadow.data.archive_rows import (
    TABLES,
    Columns,
    Row,
    class_folder_rows,
    number_or_none,
    table_rows,
)
from medshadow.data.audit import check_policy, leave_out
from medshadow.data.cases import COLUMNS, CaseTable, LeftOut
from medshadow.data.site_key import SiteKey, read_site_key
from medshadow.errors import DataError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_log = logging.getLogger(__name__)


def archive_cases(
    source: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    image: str = "image",
    label: str = "label",
    separator: str | None = None,
    group: str | None = "group",
    case_id: str | None = None,
    metadata: Sequence[str] = (),
    classes: Mapping[str, str] | None = None,
    malignant: Collection[str] = (),
    healthy: Collection[str] = (),
    name: str = "archive",
    site_key: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
) -> CaseTable:
    r"""Make a case table of an archive. What ``source`` is decides how it is read.

    - **A table**, ``.csv``, ``.tsv`` (tab, comma or semicolon, UTF-8) or ``.parquet``: a row an
      image, columns as named. Where a column ``age`` or ``eye`` is among ``metadata``, its values
      are checked.
    - **Class folders**: a folder for each class, with images in it or in folders of groups
      (``melanoma/patient7/1.jpg``). A group's folder has one name in all classes.
    - **DICOM files** in a folder, when ``label`` names a DICOM attribute. Only the attributes that
      are named are read, and only from the lists in ``archive_dicom``; labels come through
      ``classes``.

    All rows are checked before anything is used. Case and group ids become keyed hashes (see
    ``SiteKey``): without the key, nobody can tell whose they are.

    Args:
        source: the table, or the folder.
        root: where a table's image paths begin; the table's own folder by default.
        image: a table's column of image paths.
        label: a table's column of labels; or, for DICOM files, the attribute that tells the label:
            AdmittingDiagnosesDescription, StudyDescription, ...; several values, several labels.
        separator: what parts several labels in one cell of a table; None: a cell is one label.
        group: a table's column, or a DICOM attribute (PatientID, StudyInstanceUID, ...), of what
            must not be parted between training and test: the lesion or the patient. None: each
            image is its own group, which is right only where no patient has two.
        case_id: a table's column of case ids; the image path by default. DICOM files have their
            SOPInstanceUID, images in folders their path.
        metadata: columns of a table, or DICOM attributes that ``dicom_metadata`` reads, to keep;
            name none that tells who somebody is. DICOM files have ``age`` and ``sex`` anyway, and
            ``eye`` where they are ophthalmic.
        classes: the label that each label found is given, in the order of the codes; a label that
            is not in it is an error. Upper and lower case are the same. Needed for DICOM files.
        malignant: the labels that triage must not miss.
        healthy: the labels that mean "nothing found".
        name: the archive's name.
        site_key: the file with the site's key; the environment variable MEDSHADOW_SITE_KEY by
            default.
        on_error: "raise" refuses an archive with wrong rows and names them all; "skip" leaves them
            out, keeps them in ``left_out`` and logs a warning.

    Returns:
        The cases. ``label`` is the rarest of a case's labels, a healthy one last.

    Raises:
        DataError: there is no key; the source, a column or an attribute is not there; rows are
            wrong, all named in one message.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     key, table = Path(folder, "site.key"), Path(folder, "cases.csv")
        ...     _ = key.write_text("0" * 32)
        ...     Image.new("RGB", (4, 4)).save(f"{folder}/a.png")
        ...     _ = table.write_text("file,diagnosis,patient\na.png,melanoma,Ann Example\n")
        ...     cases = archive_cases(
        ...         table, image="file", label="diagnosis", group="patient", site_key=key)
        >>> cases.frame[["label", "group"]].values.tolist()
        [['melanoma', '2572106ac4bffca94d55cde2']]
    """
    check_policy(on_error)
    key = read_site_key(site_key)
    place = Path(source).expanduser().absolute()
    reserved = sorted({*metadata} & {*COLUMNS})
    if reserved:
        raise DataError(f"metadata: {reserved} are columns of every case table; rename them")
    columns = Columns(image, label, group, case_id, separator, tuple(metadata))
    rows = _rows(place, None if root is None else Path(root).expanduser().absolute(), columns)
    _rename_labels(rows, classes, shown=label not in LABELS)
    table = _table(rows, str(place), key, name, classes, frozenset(healthy), on_error)
    table = replace(
        table, malignant=frozenset(malignant), source=place.name if place.is_file() else ""
    )
    _refuse_unknown(table)
    return table


def header_cases(
    headers: Iterable[tuple[str, Dataset]],
    *,
    label: str,
    classes: Mapping[str, str],
    group: str = "PatientID",
    metadata: Sequence[str] = (),
    healthy: Collection[str] = (),
    name: str = "study",
    site_key: str | os.PathLike[str] | None = None,
    on_error: str = "raise",
) -> CaseTable:
    """Make a case table of DICOM headers in memory, as :func:`archive_cases` does of files.

    Args:
        headers: what stands for each picture in the column ``image``, and its header; of it only
            the elements that ``archive_dicom.header_elements`` names are looked at.
        label: see :func:`archive_cases`, as for the other arguments.
        classes: the label that each label found is given.
        group: the attribute of what belongs together.
        metadata: attributes to keep.
        healthy: labels that stand for a case only where it has no other.
        name: what the pictures are called in messages.
        site_key: the file with the site's key.
        on_error: "raise" or "skip".

    Raises:
        DataError: as for :func:`archive_cases`; rows are named by series and image number.
    """
    check_policy(on_error)
    key = read_site_key(site_key)
    rows = header_rows(headers, label, group, tuple(metadata))
    _rename_labels(rows, classes, shown=False)
    return _table(rows, name, key, name, classes, frozenset(healthy), on_error)


def _table(
    rows: list[Row],
    where: str,
    key: SiteKey,
    name: str,
    classes: Mapping[str, str] | None,
    healthy: frozenset[str],
    on_error: str,
) -> CaseTable:
    _refuse_twice(rows)
    gone = _left_out(where, rows, key, name, on_error)
    rows = [row for row in rows if not row.problems]
    if not rows:
        raise DataError(f"{where}: no row can be used")
    own = sum(row.group == row.case for row in rows)
    if own:
        _log.warning("%s: %d images have no group and count as one each", name, own)
    return CaseTable(
        _frame(rows, key, healthy),
        name,
        left_out=gone,
        vocabulary=tuple(dict.fromkeys(classes.values())) if classes else (),
        healthy=healthy,
    )


def _rows(source: Path, root: Path | None, columns: Columns) -> list[Row]:
    if source.is_file():
        if source.suffix.lower() not in TABLES:
            raise DataError(f"{source}: expected a folder, or a table that ends in {TABLES}")
        return table_rows(source, root or source.parent, columns)
    if not source.is_dir():
        raise DataError(f"{source}: no such file or folder")
    if columns.label in LABELS or columns.group not in ("group", None):
        return dicom_rows(source, columns.label, str(columns.group), columns.metadata)
    return class_folder_rows(source)


def _rename_labels(rows: Iterable[Row], classes: Mapping[str, str] | None, shown: bool) -> None:
    """Give each label its class. A DICOM file's own text is not shown: it may be anything."""
    if classes is None:
        if not shown:
            raise DataError("classes: expected for DICOM files: the class of each label found")
        return
    class_of = {str(found).strip().lower(): str(given) for found, given in classes.items()}
    for row in rows:
        unknown = [text for text in row.labels if text.lower() not in class_of]
        if unknown:
            what = f"{unknown}" if shown else "a value"
            row.problems.append(f"label: found {what} that is none of classes")
        row.labels = tuple(class_of[text.lower()] for text in row.labels if text not in unknown)


def _refuse_twice(rows: Iterable[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if row.case and first.setdefault(row.case, row) is not row:
            where = first[row.case].where
            # A file's name may tell who somebody is, and problems go on record.
            row.problems.append(
                f"the case id of {where if where.startswith('row') else 'another file'} again"
            )


def _left_out(
    source: str, rows: Sequence[Row], key: SiteKey, name: str, on_error: str
) -> tuple[LeftOut, ...]:
    """Refuse wrong rows, all in one message, or put them on record by their hashed names."""
    wrong = [row for row in rows if row.problems]
    if wrong and on_error == "raise":
        lines = "\n  ".join(f"{row.where}: {'; '.join(row.problems)}" for row in wrong)
        raise DataError(
            f"{source}: {len(wrong)} of {len(rows)} rows are wrong:\n  {lines}\n"
            "on_error='skip' leaves them out"
        )
    gone = tuple(
        LeftOut(key.hashed("case", row.case) if row.case else row.where, "; ".join(row.problems))
        for row in wrong
    )
    leave_out(name, gone, on_error)
    return gone


def _frame(rows: Sequence[Row], key: SiteKey, healthy: frozenset[str]) -> pd.DataFrame:
    counts = Counter(label for row in rows for label in set(row.labels))

    def rank(label: str) -> tuple[bool, int, str]:
        return label in healthy, counts[label], label

    columns = {
        name: _column(name, [row.metadata[name] for row in rows]) for name in rows[0].metadata
    }
    return pd.DataFrame(
        {
            "case_id": [key.hashed("case", row.case) for row in rows],
            "image": [str(row.image) for row in rows],
            "group": [key.hashed("group", row.group) for row in rows],
            "label": [min(row.labels, key=rank) for row in rows],
            "labels": [frozenset(row.labels) for row in rows],
            **columns,
        }
    )


def _column(name: str, texts: list[str]) -> list[Any]:
    """Numbers where all that is told are numbers, nan for nothing; else texts."""
    numbers = [number_or_none(text) if text else float("nan") for text in texts]
    told = any(texts) or name == "age"
    return numbers if told and None not in numbers else list(texts)


def _refuse_unknown(table: CaseTable) -> None:
    for what, labels in (("malignant", table.malignant), ("healthy", table.healthy)):
        unknown = sorted(labels - {*table.classes})
        if unknown:
            raise DataError(f"{what}: {unknown} are none of the labels {list(table.classes)[:20]}")
