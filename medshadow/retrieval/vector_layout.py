"""How a vector file is laid out on disk, and what tells a whole one from a damaged one.

Little-endian: a header of 4096 bytes (JSON, blanks, and their CRC-32), then N keys (int64), N marks
(uint64), N checksums (uint32), zeros up to a multiple of 4096 bytes, and N x D vectors (float32).
A row's checksum is the CRC-32 of its vector, begun from its key and mark: an erased row, all zeros,
is told from a damaged one.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass
from typing import BinaryIO

import numpy as np

from medshadow.errors import StoreError

_FORMAT = "medshadow vectors 1"
_PAGE = 4096


class VectorFileError(StoreError):
    """A vector file that is missing, damaged, or of another model; the store can make it anew."""


@dataclass(frozen=True)
class Header:
    """What a file begins with (see ``VectorFile``), and where what follows begins, in bytes."""

    version: int
    model_digest: str
    dim: int
    rows: int
    deviation: float
    format: str = _FORMAT

    keys_at = _PAGE

    @property
    def marks_at(self) -> int:
        """Where the marks begin."""
        return self.keys_at + 8 * self.rows

    @property
    def checksums_at(self) -> int:
        """Where the checksums begin."""
        return self.marks_at + 8 * self.rows

    @property
    def vectors_at(self) -> int:
        """Where the vectors begin."""
        return -(-(self.checksums_at + 4 * self.rows) // _PAGE) * _PAGE

    @property
    def end(self) -> int:
        """How long the file is."""
        return self.vectors_at + 4 * self.dim * self.rows

    def write(self, file: BinaryIO) -> None:
        """Write the header at the beginning of a file; the next byte is that of the first key."""
        text = json.dumps(asdict(self)).encode().ljust(_PAGE - 4)
        file.seek(0)
        file.write(text + _crc(text))

    @classmethod
    def read(cls, file: BinaryIO, name: str) -> Header:
        """Read the header of a file that was just opened.

        Raises:
            VectorFileError: there is none; the message begins with the file's name.
        """
        text, crc = file.read(_PAGE - 4), file.read(4)
        if _crc(text) != crc:
            raise VectorFileError(f"{name}: no vector file, or its header is damaged")
        try:
            header = cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise VectorFileError(f"{name}: the header of another kind of file") from error
        if header.format != _FORMAT:
            raise VectorFileError(f"{name}: {header.format!r}, expected {_FORMAT!r}")
        return header


def checksums(vectors: np.ndarray, keys: np.ndarray, marks: np.ndarray) -> list[int]:
    """The checksums of N rows: float32 N x D, int64 N, uint64 N."""
    mixed = keys.astype(np.uint64) ^ marks
    starts = ((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0xFFFFFFFF)).tolist()
    size = 4 * vectors.shape[1]
    data = vectors.data.cast("B")
    return [
        zlib.crc32(data[row * size : (row + 1) * size], start) for row, start in enumerate(starts)
    ]


def _crc(text: bytes) -> bytes:
    return zlib.crc32(text).to_bytes(4, "little")
