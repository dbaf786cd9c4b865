"""The vector file beside a SQLite store: mapped into memory, shared by processes, erasable by row.

A copy to search in, never the record: whatever does not check out is made anew from the store.

Vectors stay float32. float16 would halve the file and answer more slowly: the product of 20,000 x
256 on one core took 1 ms in float32, and in float16 23 ms with numpy and 2.3 ms with torch. It
would also round similarities by up to 5e-4 and not 3e-5, and being exact would then mean to look
up in the store every case that comes that close to the last hit.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from filelock import FileLock

from medshadow.errors import StoreError
from medshadow.retrieval.snapshot import Snapshot
from medshadow.retrieval.vector_layout import Header, VectorFileError, checksums

_OWNER_ONLY = 0o600
_ROWS_AT_ONCE = 1 << 14
# Longest that a withdrawal waits for a file that is being written.
_PATIENCE_SECONDS = 120


@dataclass(frozen=True, eq=False)
class VectorFile:
    """An opened vector file.

    Args:
        version: the store's version when it was written.
        model_digest: the model that made the vectors.
        keys: int64 N, the cases' internal numbers; 0 where a row was erased.
        marks: uint64 N, see :func:`case_marks`.
        vectors: float32 N x D, mapped: a row that is erased turns to zeros here too.
        deviation: the most that a vector's length is off from 1.
    """

    version: int
    model_digest: str
    keys: np.ndarray
    marks: np.ndarray
    vectors: np.ndarray
    deviation: float


def write_vectors(
    path: Path,
    snapshot: Snapshot,
    *,
    model_digest: str,
    withdrawn: Callable[[], np.ndarray] = lambda: np.empty(0, np.int64),
) -> None:
    """Write the vectors of a snapshot, all or nothing, readable by their owner alone.

    Args:
        path: the file, which is replaced; processes that have it open keep the one they have.
        snapshot: the cases.
        model_digest: the model that made the vectors.
        withdrawn: asked for the keys withdrawn since the snapshot once no withdrawal can be under
            way any more in this file; those rows are not written. Without it a case withdrawn
            between the snapshot and now would come back.

    Raises:
        OSError: the folder cannot be written.
    """
    with _locked(path):
        kept = ~np.isin(snapshot.keys, withdrawn())
        new = _unfinished(path)
        new.unlink(missing_ok=True)
        try:
            with os.fdopen(
                os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY), "wb"
            ) as file:
                _write(file, snapshot, np.flatnonzero(kept), model_digest)
                file.flush()
                os.fsync(file.fileno())
            new.replace(path)
        except BaseException:
            new.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def open_vectors(path: Path) -> VectorFile:
    """Open a vector file and check every row of it (about a second for a million of 1 KB).

    Raises:
        VectorFileError: no such file, one that cannot be read, of another layout, cut short or
            damaged; the message says which.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = Header.read(file, path.name)
            if size != header.end:
                raise VectorFileError(f"{path.name}: {size} bytes, expected {header.end}")
            keys = np.fromfile(file, "<i8", header.rows)
            marks = np.fromfile(file, "<u8", header.rows)
            checks = np.fromfile(file, "<u4", header.rows)
        vectors = _mapped(path, header)
    except OSError as error:
        raise VectorFileError(f"{path.name}: {error.strerror or error}") from error
    erased = _erased_rows(path, vectors, keys, marks, checks)
    keys[erased] = 0
    return VectorFile(header.version, header.model_digest, keys, marks, vectors, header.deviation)


def erase_vectors(path: Path, keys: np.ndarray) -> None:
    """Overwrite the rows of some cases with zeros, and what a broken-off write left behind.

    To be called when the withdrawal is committed, for a file that is written after that leaves
    the cases out by itself. Synced to the disk on return. Unknown keys and a missing file are
    passed by; a file that cannot be read or written is removed instead.

    Raises:
        StoreError: the file can be neither changed nor removed.
    """
    try:
        with _locked(path):
            _unfinished(path).unlink(missing_ok=True)
            if path.exists():
                _erase_rows(path, keys)
    except OSError as error:
        raise StoreError(
            f"{path.name} still holds {len(keys)} withdrawn vectors: {error.strerror or error}; "
            "remove that file"
        ) from error


def case_marks(frame: pd.DataFrame, hash_key: str = "0123456789123456") -> np.ndarray:
    """What tells cases apart that have one key in two histories of a store: uint64 N.

    After a backup was put back, a key may be given out a second time. The mark is a hash of the
    case id and the time the case was added.

    Args:
        frame: N rows, columns ``case_id`` and ``added``.
        hash_key: 16 characters without which a mark says nothing of its case; by default known to
            everybody.
    """
    ids = frame["case_id"].to_numpy(dtype=object)
    names = pd.util.hash_array(ids, hash_key=hash_key, categorize=False)
    times = frame["added"].dt.as_unit("us").astype("int64").to_numpy()
    marks: np.ndarray = names ^ times.astype(np.uint64)
    return marks


def _write(file: BinaryIO, snapshot: Snapshot, rows: np.ndarray, model_digest: str) -> None:
    keys = snapshot.keys[rows].astype("<i8")
    marks = case_marks(snapshot.frame)[rows].astype("<u8")
    found = np.empty(len(rows), "<u4")
    dim, deviation = snapshot.embeddings.shape[1], 0.0
    file.seek(Header(snapshot.version, model_digest, dim, len(rows), deviation).vectors_at)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        vectors = np.ascontiguousarray(snapshot.embeddings[rows[part]], dtype="<f4")
        found[part] = checksums(vectors, keys[part], marks[part])
        deviation = max(deviation, length_deviation(vectors))
        file.write(vectors.tobytes())
    header = Header(snapshot.version, model_digest, dim, len(rows), deviation)
    file.truncate(header.end)
    header.write(file)
    for table in (keys, marks, found):
        file.write(table.tobytes())


def length_deviation(vectors: np.ndarray) -> float:
    """The most that the length of any of these vectors (float32 N x D) is off from 1, or more."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    rounding = vectors.shape[1] * float(np.finfo(np.float32).eps)
    return float(np.abs(lengths - 1).max(initial=0)) + rounding


def _mapped(path: Path, header: Header) -> np.ndarray:
    shape = (header.rows, header.dim)
    if not header.rows:
        return np.empty(shape, np.float32)
    mapped = np.memmap(path, "<f4", "r", offset=header.vectors_at, shape=shape)
    return mapped.view(np.ndarray)


def _erased_rows(
    path: Path, vectors: np.ndarray, keys: np.ndarray, marks: np.ndarray, checks: np.ndarray
) -> np.ndarray:
    erased = []
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        found = np.array(checksums(vectors[part], keys[part], marks[part]), np.uint32)
        wrong = first + np.flatnonzero((found != checks[part]) | (keys[part] == 0))
        damaged = wrong[vectors[wrong].any(axis=1)]
        if len(damaged):
            raise VectorFileError(f"{path.name}: row {damaged[0]} of {len(vectors)} is damaged")
        erased.append(wrong)
    return np.concatenate(erased) if erased else np.empty(0, np.int64)


def _erase_rows(path: Path, keys: np.ndarray) -> None:
    try:
        with path.open("r+b") as file:
            header = Header.read(file, path.name)
            known = np.fromfile(file, "<i8", header.rows)
            for row in np.flatnonzero(np.isin(known, keys[keys != 0])).tolist():
                for table, size in (
                    # First what is searched: a reader takes a row of zeros for an erased one.
                    (header.vectors_at, 4 * header.dim),
                    (header.keys_at, 8),
                    (header.marks_at, 8),
                    (header.checksums_at, 4),
                ):
                    file.seek(table + row * size)
                    file.write(bytes(size))
                    file.flush()
            os.fsync(file.fileno())
    except (VectorFileError, PermissionError):
        path.unlink()


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def _locked(path: Path) -> FileLock:
    return FileLock(
        path.with_name(path.name + ".lock"), timeout=_PATIENCE_SECONDS, mode=_OWNER_ONLY
    )


def _sync_folder(folder: Path) -> None:
    # Not every system lets a folder be opened; the rename is then as durable as it makes it.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
