"""The vector file beside a SQLite store: mapped into memory, shared by processes, erasable by row.

A copy to search in, never the record: whatever does not check out is made anew from the store.

Layout, little-endian: a header of 4096 bytes (JSON, blanks, and their CRC-32), then N keys (int64),
N marks (uint64), N checksums (uint32), zeros up to a multiple of 4096 bytes, and N x D vectors
(float32). A row's checksum is the CRC-32 of its vector, begun from its key and mark: an erased row,
all zeros, is told from a damaged one.

float16 would halve the file, but not the time: CPUs' matrix products of half precision are slower
here than those of float32, and a rounding of 2^-11 would make a thousand times as many cases close
calls, to be looked up in the store and compared again.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from filelock import FileLock

from medshadow.errors import StoreError
from medshadow.retrieval.snapshot import Snapshot

_FORMAT = "medshadow vectors 1"
_PAGE = 4096
_OWNER_ONLY = 0o600
_ROWS_AT_ONCE = 1 << 14
# Longest that a withdrawal waits for a file that is being written.
_PATIENCE_SECONDS = 120


class VectorFileError(StoreError):
    """A vector file that is missing, damaged, or of another model; the store can make it anew."""


@dataclass(frozen=True)
class _Header:
    format: str
    version: int
    model_digest: str
    dim: int
    rows: int
    deviation: float


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
            header = _read_header(file, path)
            places = _Places(header.rows, header.dim)
            if size != places.end:
                raise VectorFileError(f"{path.name}: {size} bytes, expected {places.end}")
            keys = np.fromfile(file, "<i8", header.rows)
            marks = np.fromfile(file, "<u8", header.rows)
            checks = np.fromfile(file, "<u4", header.rows)
        vectors = _mapped(path, places)
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


def case_marks(frame: pd.DataFrame) -> np.ndarray:
    """What tells cases apart that have one key in two histories of a store: uint64 N.

    After a backup was put back, a key may be given out a second time. The mark is a hash of the
    case id and the time the case was added.

    Args:
        frame: N rows, columns ``case_id`` and ``added``.
    """
    names = pd.util.hash_array(frame["case_id"].to_numpy(dtype=object), categorize=False)
    times = frame["added"].dt.as_unit("us").astype("int64").to_numpy()
    marks: np.ndarray = names ^ times.astype(np.uint64)
    return marks


@dataclass(frozen=True)
class _Places:
    """Where in the file what begins, in bytes."""

    rows: int
    dim: int

    keys = _PAGE

    @property
    def marks(self) -> int:
        return self.keys + 8 * self.rows

    @property
    def checks(self) -> int:
        return self.marks + 8 * self.rows

    @property
    def vectors(self) -> int:
        return -(-(self.checks + 4 * self.rows) // _PAGE) * _PAGE

    @property
    def end(self) -> int:
        return self.vectors + 4 * self.dim * self.rows


def _write(file: BinaryIO, snapshot: Snapshot, rows: np.ndarray, model_digest: str) -> None:
    dim = snapshot.embeddings.shape[1]
    keys = snapshot.keys[rows].astype("<i8")
    marks = case_marks(snapshot.frame)[rows].astype("<u8")
    places = _Places(len(rows), dim)
    checks = np.empty(len(rows), "<u4")
    deviation = 0.0
    file.seek(places.vectors)
    for first in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        vectors = np.ascontiguousarray(snapshot.embeddings[rows[part]], dtype="<f4")
        checks[part] = _checksums(vectors, keys[part], marks[part])
        deviation = max(deviation, length_deviation(vectors))
        file.write(vectors.tobytes())
    header = _Header(_FORMAT, snapshot.version, model_digest, dim, len(rows), deviation)
    file.truncate(places.end)
    file.seek(0)
    text = json.dumps(asdict(header)).encode().ljust(_PAGE - 4)
    file.write(text + zlib.crc32(text).to_bytes(4, "little"))
    for table in (keys, marks, checks):
        file.write(table.tobytes())


def length_deviation(vectors: np.ndarray) -> float:
    """The most that the length of any of these vectors (float32 N x D) is off from 1, or more."""
    lengths = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
    rounding = vectors.shape[1] * float(np.finfo(np.float32).eps)
    return float(np.abs(lengths - 1).max(initial=0)) + rounding


def _read_header(file: BinaryIO, path: Path) -> _Header:
    text, checksum = file.read(_PAGE - 4), file.read(4)
    if zlib.crc32(text).to_bytes(4, "little") != checksum:
        raise VectorFileError(f"{path.name}: no vector file, or its header is damaged")
    try:
        header = _Header(**json.loads(text))
    except (ValueError, TypeError) as error:
        raise VectorFileError(f"{path.name}: the header of another kind of file") from error
    if header.format != _FORMAT:
        raise VectorFileError(f"{path.name}: {header.format!r}, expected {_FORMAT!r}")
    return header


def _mapped(path: Path, places: _Places) -> np.ndarray:
    shape = (places.rows, places.dim)
    if not places.rows:
        return np.empty(shape, np.float32)
    mapped = np.memmap(path, "<f4", "r", offset=places.vectors, shape=shape)
    return mapped.view(np.ndarray)


def _checksums(vectors: np.ndarray, keys: np.ndarray, marks: np.ndarray) -> list[int]:
    mixed = keys.astype(np.uint64) ^ marks
    starts = ((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).tolist()
    size = 4 * vectors.shape[1]
    data = vectors.data.cast("B")
    return [
        zlib.crc32(data[row * size : (row + 1) * size], start) for row, start in enumerate(starts)
    ]


def _erased_rows(
    path: Path, vectors: np.ndarray, keys: np.ndarray, marks: np.ndarray, checks: np.ndarray
) -> np.ndarray:
    erased = []
    for first in range(0, len(vectors), _ROWS_AT_ONCE):
        part = slice(first, first + _ROWS_AT_ONCE)
        found = np.array(_checksums(vectors[part], keys[part], marks[part]), np.uint32)
        wrong = first + np.flatnonzero((found != checks[part]) | (keys[part] == 0))
        damaged = wrong[vectors[wrong].any(axis=1)]
        if len(damaged):
            raise VectorFileError(f"{path.name}: row {damaged[0]} of {len(vectors)} is damaged")
        erased.append(wrong)
    return np.concatenate(erased) if erased else np.empty(0, np.int64)


def _erase_rows(path: Path, keys: np.ndarray) -> None:
    try:
        with path.open("r+b") as file:
            header = _read_header(file, path)
            places = _Places(header.rows, header.dim)
            known = np.fromfile(file, "<i8", header.rows)
            for row in np.flatnonzero(np.isin(known, keys[keys != 0])).tolist():
                for table, size in (
                    # First what is searched: a reader takes a row of zeros for an erased one.
                    (places.vectors, 4 * header.dim),
                    (places.keys, 8),
                    (places.marks, 8),
                    (places.checks, 4),
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
