"""How many parts an image file is made of: decoders spend hours on small files of very many.

Their pixels tell nothing of it: a JPEG of a hundred kilobytes may be drawn over ten thousand times,
and to count the pages of a TIFF takes Pillow time that grows with the square of their number.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from itertools import islice

from medshadow.errors import ImageReadError

MAX_SCANS = 100
"""More than in any JPEG of a camera or an editor, and libtiff's own limit."""
MAX_PARTS = 2**14
"""Segments of a JPEG, chunks of a PNG."""
MAX_PAGES = 2**10
"""Pages of a TIFF."""

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFFS = {
    b"II*\0": ("<", 4, "I", "H", 12),
    b"MM\0*": (">", 4, "I", "H", 12),
    b"II+\0": ("<", 8, "Q", "Q", 20),
    b"MM\0+": (">", 8, "Q", "Q", 20),
}
# As libjpeg goes on: past bytes that are no marker, and past restarts, which have no length.
_MARKER = re.compile(rb"\xff([\x02-\xcf\xd9-\xfe])")
_SCAN, _END = 0xDA, 0xD9


def check_parts(content: bytes, path: object) -> None:
    r"""Raise ``ImageReadError`` for a JPEG, PNG or TIFF of very many scans, parts or pages.

    Args:
        content: the whole file, of whatever format; damage is left to the decoder to find.
        path: what errors call it.

    Example:
        >>> check_parts(b"\xff\xd8" + b"\xff\xda\x00\x02" * 101, "upload")
        Traceback (most recent call last):
        medshadow.errors.ImageReadError: upload: JPEG of more than 100 scans; expected fewer
    """
    if content[:2] == b"\xff\xd8":
        codes = list(islice(_segments(content), MAX_PARTS + 1))
        _refuse(len(codes) > MAX_PARTS, path, f"JPEG of more than {MAX_PARTS} segments")
        scans = codes.count(_SCAN)
        _refuse(scans > MAX_SCANS, path, f"JPEG of more than {MAX_SCANS} scans")
    elif content[:8] == _PNG:
        chunks = sum(1 for _ in islice(_chunks(content), MAX_PARTS + 1))
        _refuse(chunks > MAX_PARTS, path, f"PNG of more than {MAX_PARTS} chunks")
    elif content[:4] in _TIFFS:
        pages = sum(1 for _ in islice(_pages(content), MAX_PAGES + 1))
        _refuse(pages > MAX_PAGES, path, f"TIFF of more than {MAX_PAGES} pages")


def _refuse(is_too_much: bool, path: object, found: str) -> None:
    if is_too_much:
        raise ImageReadError(f"{path}: {found}; expected fewer")


def _segments(code: bytes) -> Iterator[int]:
    """The codes of a JPEG's segments up to its end."""
    at = 2
    while (found := _MARKER.search(code, at)) and found[1][0] != _END:
        yield found[1][0]
        at = found.end() + int.from_bytes(code[found.end() : found.end() + 2], "big")


def _chunks(code: bytes) -> Iterator[int]:
    """Where a PNG's chunks begin."""
    at = len(_PNG)
    while at + 8 <= len(code):
        yield at
        at += 12 + int.from_bytes(code[at : at + 4], "big")


def _pages(code: bytes) -> Iterator[int]:
    """Where a TIFF's directories begin; a chain that goes in a circle does not end."""
    order, first, offset, count, entry = _TIFFS[code[:4]]
    try:
        (at,) = struct.unpack_from(order + offset, code, first)
        while at:
            yield at
            (entries,) = struct.unpack_from(order + count, code, at)
            (at,) = struct.unpack_from(
                order + offset, code, at + struct.calcsize(order + count) + entries * entry
            )
    except struct.error:
        return
