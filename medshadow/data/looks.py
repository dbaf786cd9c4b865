"""Look at every image file once: what it holds, by which it is known again, and what is wrong."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from medshadow.data.readers import decode, open_image
from medshadow.data.sketch import Sketch, sketch
from medshadow.data.threads import mapped
from medshadow.errors import ImageReadError

NEAR_BLACK = 16
"""An image is near black when 99 % of its samples lie below this (of 255)."""
FLAT = 2.0
"""An image is flat when the standard deviation of its grey values is below this (of 255)."""


@dataclass(frozen=True)
class Look:
    """What one file showed.

    Args:
        reason: why it cannot be read, or None.
        missing: whether there is no such file.
        file_hash: SHA-256 of the file, readable or not; empty where it cannot be opened.
        pixel_hash: SHA-256 of the shape and the decoded pixels.
        black: see ``NEAR_BLACK``.
        flat: see ``FLAT``.
        sketch: for the search for near duplicates, where asked for and the image is not blank.
    """

    reason: str | None = None
    missing: bool = False
    file_hash: str = ""
    pixel_hash: str = ""
    black: bool = False
    flat: bool = False
    sketch: Sketch | None = None

    @property
    def blank(self) -> bool:
        """Whether the image says nothing about who or what it is of."""
        return self.black or self.flat


def look_at_all(paths: Sequence[str], *, near: bool, threads: int, progress: bool) -> list[Look]:
    """Read each file once, in order; ``near`` says whether to make sketches."""
    look = partial(_look, near=near)
    return mapped(look, paths, "audit", "image", threads=threads, progress=progress)


def content_digest(cases: Iterable[tuple[str, str]]) -> str:
    """SHA-256 over (case id, image path) pairs: of the ids and the bytes of the files."""
    return digest_of_hashes((case, _file_hash(path)) for case, path in cases)


def digest_of_hashes(cases: Iterable[tuple[str, str]]) -> str:
    """``content_digest`` of (case id, SHA-256 of its file) pairs, "" where it cannot be opened."""
    digest = hashlib.sha256()
    for case, file_hash in sorted(cases):
        digest.update(f"{case}\n".encode() + bytes.fromhex(file_hash))
    return digest.hexdigest()


def _file_hash(path: str) -> str:
    # A file that cannot be opened is reported by the audit; here it is a state like another.
    with contextlib.suppress(OSError), open_image(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _look(path: str, near: bool) -> Look:
    file_hash = ""
    try:
        with open_image(path) as file:
            file_hash = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            pixels = decode(file, path)
    except ImageReadError as error:
        # Reports are handed round; paths are not.
        reason = str(error).removeprefix(f"{path}: ")
        missing = isinstance(error.__cause__, FileNotFoundError | NotADirectoryError)
        return Look(reason=reason, missing=missing, file_hash=file_hash)
    black, flat = _blank(pixels)
    pixel_hash = hashlib.sha256(str(pixels.shape).encode())
    pixel_hash.update(pixels.data)
    drawn = sketch(pixels) if near and not (black or flat) else None
    return Look(None, False, file_hash, pixel_hash.hexdigest(), black, flat, drawn)


def _blank(pixels: npt.NDArray[np.uint8]) -> tuple[bool, bool]:
    """Near black, flat: judged on a grid of about 100 rows, which is enough and quick."""
    step = max(1, min(pixels.shape[:2]) // 100)
    sample = pixels[::step, ::step]
    grey = sample.mean(axis=2)
    return bool((sample < NEAR_BLACK).mean() >= 0.99), bool(grey.std() < FLAT)
