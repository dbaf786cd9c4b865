"""Cases with their embeddings: what every diagnostic takes as its gallery and its queries."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medshadow.errors import DataError

COLUMNS = ("case_id", "group", "label")


@dataclass(frozen=True, eq=False)
class EmbeddedCases:
    """N images, each with its embedding and the row that says what it shows.

    Args:
        embeddings: N x D real numbers, N and D at least 1, all finite; kept as float32, read-only.
            They need not have unit length: every diagnostic compares directions.
        frame: N rows in the same order, with at least ``case_id`` (unique), ``group`` (lesion or
            patient) and ``label`` (diagnosis); a case table's ``frame`` fits. Where a case carries
            several labels, ``labels`` holds its set of them and ``label`` one of these. Where two
            cases are alike for other reasons than a label in common, ``findings`` holds the set of
            those reasons: cases are relevant to each other when their findings intersect. Without
            the columns, ``labels`` is ``{label}`` and ``findings`` is ``labels``.

    Raises:
        DataError: lengths differ, a column is missing or empty, a case id stands twice, a set is no
            set of names or lacks the case's label, or a value is not finite; the message names the
            rows or the case ids.

    Example:
        >>> cases = EmbeddedCases(
        ...     np.eye(2), pd.DataFrame({"case_id": ["a", "b"], "group": ["1", "2"],
        ...                              "label": ["mel", "nv"]}))
        >>> len(cases), cases.labels.tolist()
        (2, ['mel', 'nv'])
        >>> eyes = EmbeddedCases(
        ...     np.eye(2), pd.DataFrame({"case_id": ["0_left", "0_right"], "group": ["0", "0"],
        ...                              "label": ["G", "C"], "labels": [{"G", "C"}, {"C"}]}))
        >>> eyes.multi_label, sorted(eyes.findings[0])
        (True, ['C', 'G'])
    """

    embeddings: np.ndarray
    frame: pd.DataFrame

    def __post_init__(self) -> None:
        frame = _validated_frame(self.frame)
        embeddings = np.array(self.embeddings, dtype=np.float32, order="C")
        if embeddings.ndim != 2 or 0 in embeddings.shape:
            raise DataError(f"embeddings must be N x D, at least 1 x 1; found {embeddings.shape}")
        if len(embeddings) != len(frame):
            raise DataError(
                f"{len(embeddings)} embeddings for {len(frame)} rows of the frame: "
                "one row an embedding is expected"
            )
        broken = ~np.isfinite(embeddings).all(axis=1)
        if broken.any():
            raise DataError(
                f"embeddings of {int(broken.sum())} cases are not finite float32 values, "
                f"for example of {frame['case_id'][broken].tolist()[:5]}"
            )
        embeddings.setflags(write=False)
        object.__setattr__(self, "embeddings", embeddings)
        object.__setattr__(self, "frame", frame)

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def case_ids(self) -> np.ndarray:
        """N case ids, str in an object array."""
        return self.frame["case_id"].to_numpy(dtype=object)

    @property
    def groups(self) -> np.ndarray:
        """N groups (lesion or patient), str in an object array."""
        return self.frame["group"].to_numpy(dtype=object)

    @property
    def labels(self) -> np.ndarray:
        """N labels (diagnoses), one a case, str in an object array."""
        return self.frame["label"].to_numpy(dtype=object)

    @property
    def label_sets(self) -> np.ndarray:
        """N sets of labels, frozensets in an object array."""
        return self.frame["labels"].to_numpy(dtype=object)

    @property
    def findings(self) -> np.ndarray:
        """N sets of findings, frozensets in an object array: alike is what shares one."""
        return self.frame["findings"].to_numpy(dtype=object)

    @property
    def multi_label(self) -> bool:
        """Whether any case's labels or findings are more than its one label."""
        own = (frozenset({label}) for label in self.frame["label"])
        rows = zip(own, self.frame["labels"], self.frame["findings"], strict=True)
        return any(one != labels or one != findings for one, labels, findings in rows)

    @property
    def directions(self) -> np.ndarray:
        """The embeddings scaled to unit length, float64 N x D; a zero embedding stays zero."""
        values = self.embeddings.astype(np.float64)
        length = np.linalg.norm(values, axis=1, keepdims=True)
        return np.divide(values, length, out=np.zeros_like(values), where=length > 0)


def _validated_frame(frame: pd.DataFrame) -> pd.DataFrame:
    missing = [c for c in COLUMNS if c not in frame.columns]
    if missing:
        raise DataError(f"embedded cases: missing columns {missing}; found {list(frame.columns)}")
    frame = frame.reset_index(drop=True)
    for column in COLUMNS:
        empty = frame[column].isna() | (frame[column].astype(str).str.strip() == "")
        if empty.any():
            rows = frame.index[empty].tolist()[:5]
            raise DataError(f"embedded cases: column {column!r} is empty in rows {rows}")
        frame[column] = frame[column].astype(str)
    twice = frame["case_id"].duplicated(keep=False)
    if twice.any():
        found = sorted(frame["case_id"][twice].unique())[:5]
        raise DataError(f"embedded cases: case_id must be unique; found more than once: {found}")
    frame["labels"] = _sets(frame, "labels", [{label} for label in frame["label"]])
    frame["findings"] = _sets(frame, "findings", frame["labels"])
    rows = zip(frame["label"], frame["labels"], strict=True)
    strange = [row for row, (label, labels) in enumerate(rows) if label not in labels]
    if strange:
        raise DataError(f"embedded cases: label is none of the case's labels in rows {strange[:5]}")
    return frame


def _sets(frame: pd.DataFrame, column: str, default: Iterable[Collection[str]]) -> pd.Series:
    values = list(frame[column] if column in frame.columns else default)
    wrong = [row for row, names in enumerate(values) if not _is_set_of_names(names)]
    if wrong:
        raise DataError(
            f"embedded cases: column {column!r} must hold sets of names, not empty; found "
            f"{values[wrong[0]]!r} in row {wrong[0]}, and {len(wrong) - 1} more such rows"
        )
    return pd.Series([frozenset(names) for names in values], index=frame.index, dtype=object)


def _is_set_of_names(value: object) -> bool:
    return (
        isinstance(value, set | frozenset)
        and len(value) > 0
        and all(isinstance(name, str) and name.strip() for name in value)
    )
