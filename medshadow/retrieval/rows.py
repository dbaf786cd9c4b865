"""Checks that turn a case table, its vectors and thumbnails into rows a store may keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from medshadow.errors import StoreError

# What a case table holds that a store must not: where the image lies, and the training's split;
# and what it need not: findings serve to train and to measure.
NOT_KEPT = ("image", "section", "findings")
REQUIRED = ("case_id", "group", "label")
# Names that the store's own frame uses.
_RESERVED = ("consent", "added")
UNIT_TOLERANCE = 1e-4
# PostgreSQL's indexes take no more than 2,704 bytes, and a character is four of them at most.
_LONGEST_ID = 512


def checked_embeddings(embeddings: Any, ids: list[str], dim: int) -> np.ndarray:
    """Vectors fit to be stored: float32, N x dim, finite, of length 1 within 1e-4.

    Raises:
        StoreError: any of these is not so; the message names the first case at fault.
    """
    vectors = np.asarray(embeddings)
    if vectors.shape != (len(ids), dim):
        raise StoreError(
            f"embeddings have shape {vectors.shape}; expected {(len(ids), dim)}: one row for each "
            "case, of the store's own dimension"
        )
    vectors = np.ascontiguousarray(vectors, dtype="<f4")
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise StoreError(f"embedding of case {ids[int(np.argmin(finite))]!r} is not finite")
    lengths = np.linalg.norm(vectors, axis=1)
    unit = np.abs(lengths - 1) <= UNIT_TOLERANCE
    if not unit.all():
        at = int(np.argmin(unit))
        raise StoreError(
            f"embedding of case {ids[at]!r} has length {lengths[at]:.6f}; expected 1 (unit sphere)"
        )
    return vectors


def checked_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns a store keeps, in its order: ids, group, label, labels, then metadata.

    Raises:
        StoreError: a column is missing or has a reserved name, a value is empty, longer than 512
            characters or no text that a database keeps, a case id stands twice, a label set is no
            set or lacks the case's label, or a metadata column names image files.
    """
    missing = [c for c in REQUIRED if c not in frame.columns]
    if missing:
        raise StoreError(f"cases: missing columns {missing}; found {list(frame.columns)}")
    reserved = [c for c in _RESERVED if c in frame.columns]
    if reserved:
        raise StoreError(f"cases: columns {reserved} have names that the store itself uses")
    frame = frame.reset_index(drop=True)
    for column in REQUIRED:
        for row, value in enumerate(frame[column]):
            text = "" if pd.isna(value) else str(value)
            checked_name(text, f"cases: column {column!r} in row {row}")
    frame = frame.assign(**{c: frame[c].astype(str) for c in REQUIRED})
    twice = frame["case_id"].duplicated()
    if twice.any():
        raise StoreError(f"cases: case_id {frame['case_id'][twice].iloc[0]!r} stands twice")
    if "labels" not in frame:
        frame["labels"] = [frozenset({label}) for label in frame["label"]]
    for row in frame[["case_id", "label", "labels"]].itertuples(index=False):
        checked_labels(row.case_id, row.label, row.labels)
    extra = [c for c in frame.columns if c not in (*REQUIRED, "labels", *NOT_KEPT)]
    _refuse_file_names(frame, extra)
    return frame[[*REQUIRED, "labels", *extra]]


def plain_rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """The rows of a checked frame in JSON's own types; missing metadata values become None."""
    extra = [c for c in frame.columns if c not in (*REQUIRED, "labels")]
    for row in frame.to_dict("records"):
        yield {
            **{column: row[column] for column in REQUIRED},
            "labels": checked_labels(row["case_id"], row["label"], row["labels"]),
            "metadata": {str(c): _plain(row[c], c, row["case_id"]) for c in extra},
        }


def checked_name(value: str, where: str) -> str:
    """A case id, group or label as given, if every database keeps it.

    Raises:
        StoreError: it is empty, too long, or holds a character that cannot be written; the message
            begins with ``where``.
    """
    if not value.strip():
        raise StoreError(f"{where} is empty")
    if len(value) > _LONGEST_ID:
        raise StoreError(f"{where} has {len(value)} characters; expected {_LONGEST_ID} at most")
    return _checked_text(value, where)


def can_be_kept(value: str) -> bool:
    r"""Whether every database keeps a text.

    PostgreSQL keeps no zero character, and half of a surrogate pair (of a file name, or of JSON) is
    no UTF-8.

    Example:
        >>> can_be_kept("naïve ☃"), can_be_kept("a\x00b"), can_be_kept("\ud800")
        (True, False, False)
    """
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value


def _checked_text(value: str, where: str) -> str:
    if not can_be_kept(value):
        raise StoreError(f"{where} holds a character that cannot be kept: {value[:40]!r}")
    return value


def checked_labels(case_id: str, label: str, labels: Any) -> list[str]:
    """A case's label set as it is stored: in alphabetical order.

    Raises:
        StoreError: it is no set, or lacks the case's label.
    """
    if not isinstance(labels, set | frozenset) or label not in labels:
        raise StoreError(
            f"case {case_id!r}: labels must be a set that holds its label {label!r}; "
            f"found {labels!r}"
        )
    return sorted(checked_name(str(each), f"case {case_id!r}: a label") for each in labels)


def checked_metadata(case_id: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata in JSON's own types; a missing value becomes None.

    Raises:
        StoreError: a name is one that the store uses or does not keep, or a value cannot be kept.
    """
    taken = [c for c in metadata if c in (*REQUIRED, "labels", *NOT_KEPT, *_RESERVED)]
    if taken:
        raise StoreError(f"case {case_id!r}: {taken} are not metadata that a store keeps")
    return {str(c): _plain(value, c, case_id) for c, value in metadata.items()}


def checked_thumbnail(jpeg: bytes | None, case_id: str) -> bytes | None:
    """A thumbnail as given, if it is a JPEG that carries no EXIF block.

    Raises:
        StoreError: it is something else; the message names the case.
    """
    if jpeg is not None and not jpeg.startswith(b"\xff\xd8\xff"):
        raise StoreError(f"thumbnail of case {case_id!r} is not a JPEG")
    if jpeg is not None and b"Exif\x00\x00" in jpeg[:4096]:
        raise StoreError(
            f"thumbnail of case {case_id!r} carries EXIF data, which can identify a patient; "
            "make it with jpeg_thumbnail"
        )
    return jpeg


def _refuse_file_names(frame: pd.DataFrame, columns: list[str]) -> None:
    if "image" not in frame:
        return
    names = [PurePath(str(image).replace("\\", "/")).name for image in frame["image"]]
    for column in columns:
        for name, value in zip(names, frame[column], strict=True):
            if isinstance(value, str) and name and name in value:
                raise StoreError(
                    f"cases: column {column!r} holds the images' file names, which must not enter "
                    "a store; drop that column"
                )


def _plain(value: Any, column: str, case_id: str) -> str | bool | int | float | None:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or value is pd.NaT or value is pd.NA or value != value:
        return None
    if isinstance(value, datetime | date):
        return value.isoformat()
    if isinstance(value, str):
        return _checked_text(value, f"case {case_id!r}: column {column!r}")
    if isinstance(value, bool | int) or (isinstance(value, float) and np.isfinite(value)):
        return value
    raise StoreError(
        f"case {case_id!r}: column {column!r} holds {value!r}; expected text, a finite number, "
        "true or false, a date, or nothing"
    )
