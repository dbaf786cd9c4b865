"""Look at every image of a case table once: what cannot be read, what stands twice, what conflicts.

What it finds goes into an ``AuditReport``; ``clean`` applies it to the table before splitting.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from tqdm.auto import tqdm

from medshadow.data.cases import CaseTable, LeftOut
from medshadow.data.readers import read_image
from medshadow.data.splits import leakage
from medshadow.errors import DataError, ImageReadError

_log = logging.getLogger(__name__)

NEAR_BLACK = 16
"""An image is near black when 99 % of its samples lie below this (of 255)."""
FLAT = 2.0
"""An image is flat when the standard deviation of its grey values is below this (of 255)."""


@dataclass(frozen=True)
class AuditReport:
    """What ``audit`` found, as case ids and group names; it holds no paths.

    Args:
        table_digest: the digest of the audited table.
        counts: rows "images" and "groups" for each label, then each section that is set.
        unreadable: cases whose file is missing or cannot be decoded, with the reason.
        missing: those of them whose file does not exist.
        near_black: see ``NEAR_BLACK``.
        flat: see ``FLAT``.
        same_file: sets of cases whose files are identical byte for byte.
        same_pixels: sets of cases whose files differ and whose decoded pixels are identical.
        same_groups: sets of groups to merge because cases of theirs are duplicates. Blank images
            (near black or flat) say nothing about who they are of, and never merge groups.
        label_conflicts: sets of duplicates that carry different labels.
        mixed_groups: groups that carry several labels (an error where the group is a lesion).
        leaking: groups that lie in more than one section.
        odd_ages: cases with an age of 1 year or less, or above 100.
    """

    table_digest: str
    counts: pd.DataFrame
    unreadable: tuple[LeftOut, ...] = ()
    missing: tuple[str, ...] = ()
    near_black: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    same_file: tuple[tuple[str, ...], ...] = ()
    same_pixels: tuple[tuple[str, ...], ...] = ()
    same_groups: tuple[tuple[str, ...], ...] = ()
    label_conflicts: tuple[tuple[str, ...], ...] = ()
    mixed_groups: tuple[str, ...] = ()
    leaking: tuple[str, ...] = ()
    odd_ages: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report in lists, strings and numbers, ready for ``json.dumps``."""
        return {
            "table_digest": self.table_digest,
            "counts": self.counts.to_dict("records"),
            "unreadable": [{"case_id": u.case_id, "reason": u.reason} for u in self.unreadable],
            **{name: _as_lists(getattr(self, name)) for name in _FINDINGS if name != "unreadable"},
        }

    def summary(self) -> pd.DataFrame:
        """For people: one row a kind of finding, how many, and the first few.

        Returns:
            Columns ``finding``, ``count``, ``first`` (up to three, as text).
        """
        rows = []
        for name, text in _FINDINGS.items():
            found = getattr(self, name)
            first = "; ".join(_as_text(f) for f in found[:3])
            rows.append({"finding": text, "count": len(found), "first": first})
        return pd.DataFrame(rows)


_FINDINGS = {
    "unreadable": "images that cannot be read",
    "missing": "of them, files that do not exist",
    "near_black": "images near black",
    "flat": "flat images",
    "same_file": "sets of identical files",
    "same_pixels": "sets of other files with identical pixels",
    "same_groups": "sets of groups to merge",
    "label_conflicts": "duplicates with different labels",
    "mixed_groups": "groups with several labels",
    "leaking": "groups in more than one section",
    "odd_ages": "ages of 1 or less, or above 100",
}


def audit(table: CaseTable, *, threads: int = 2, progress: bool = True) -> AuditReport:
    """Decode every image once and report what is wrong with the cases.

    Duplicates are found by the SHA-256 of the file and of the decoded pixels, so that a file saved
    again with another header or by another lossless format does not hide.

    Args:
        table: the cases, split or not.
        threads: how many images are decoded at a time, >= 1.
        progress: whether to show a progress bar.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.linear_gradient("L").save(f"{folder}/a.png")
        ...     Image.linear_gradient("L").save(f"{folder}/b.bmp")
        ...     cases = CaseTable(pd.DataFrame({
        ...         "case_id": ["a", "b"], "image": [f"{folder}/a.png", f"{folder}/b.bmp"],
        ...         "group": ["lesion1", "lesion2"], "label": ["nv", "nv"]}))
        ...     report = audit(cases, progress=False)
        >>> report.same_pixels, report.same_groups
        ((('a', 'b'),), (('lesion1', 'lesion2'),))
    """
    frame = table.frame.sort_values("case_id")
    ids = frame["case_id"].tolist()
    seen = dict(zip(ids, _look_at_all(frame["image"].tolist(), threads, progress), strict=True))
    readable = {case: look for case, look in seen.items() if look.reason is None}
    telling = {case: look for case, look in readable.items() if not (look.black or look.flat)}
    same_file = _alike({case: look.file_hash for case, look in readable.items()})
    by_pixels = _alike({case: look.pixel_hash for case, look in readable.items()})
    same_pixels = tuple(s for s in by_pixels if len({seen[c].file_hash for c in s}) > 1)
    group_of = dict(zip(frame["case_id"], frame["group"], strict=True))
    labels_of = dict(zip(frame["case_id"], frame["labels"], strict=True))
    to_merge = {tuple(sorted({group_of[c] for c in s})) for s in by_pixels if s[0] in telling}
    kinds = frame["labels"].map(sorted).map(" ".join).groupby(frame["group"]).nunique()
    return AuditReport(
        table_digest=table.digest,
        counts=_counts(frame),
        unreadable=tuple(LeftOut(c, look.reason) for c, look in seen.items() if look.reason),
        missing=tuple(case for case, look in seen.items() if look.missing),
        near_black=tuple(case for case, look in readable.items() if look.black),
        flat=tuple(case for case, look in readable.items() if look.flat),
        same_file=same_file,
        same_pixels=same_pixels,
        same_groups=tuple(sorted(groups for groups in to_merge if len(groups) > 1)),
        label_conflicts=tuple(
            s for s in by_pixels if s[0] in telling and len({labels_of[c] for c in s}) > 1
        ),
        mixed_groups=tuple(kinds.index[kinds > 1]),
        leaking=tuple(leakage(table)["group"]),
        odd_ages=_odd_ages(frame),
    )


def clean(table: CaseTable, report: AuditReport, on_error: str = "raise") -> CaseTable:
    """Apply a report: groups of duplicates merged, unreadable images refused or left out.

    Args:
        table: the table that was audited.
        report: what ``audit`` found.
        on_error: "raise" refuses unreadable images; "skip" leaves them out, keeps them on record in
            ``left_out`` and logs a warning.

    Raises:
        DataError: the report is another table's, or images are unreadable and ``on_error`` is
            "raise"; the message names the cases.
    """
    check_policy(on_error)
    if report.table_digest != table.digest:
        raise DataError(f"{table.name}: the audit report is another table's; audit this one")
    leave_out(table.name, report.unreadable, on_error)
    return table.without(report.unreadable).merge_groups(report.same_groups)


def check_policy(on_error: str) -> None:
    """Refuse any policy but "raise" and "skip"."""
    if on_error not in ("raise", "skip"):
        raise DataError(f"on_error: found {on_error!r}; expected 'raise' or 'skip'")


def leave_out(name: str, cases: Iterable[LeftOut], on_error: str) -> None:
    """Raise a DataError that names the cases, or log a warning that does, as the policy says."""
    gone = list(cases)
    if not gone:
        return
    more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
    first = "; ".join(f"{g.case_id} ({g.reason})" for g in gone[:5]) + more
    if on_error == "raise":
        raise DataError(
            f"{name}: {len(gone)} images cannot be used: {first}; on_error='skip' leaves them out"
        )
    _log.warning("%s: %d images left out: %s", name, len(gone), first)


@dataclass(frozen=True)
class _Look:
    """What one file showed."""

    reason: str | None = None
    missing: bool = False
    file_hash: str = ""
    pixel_hash: str = ""
    black: bool = False
    flat: bool = False


def _look_at_all(paths: list[str], threads: int, progress: bool) -> list[_Look]:
    pool = ThreadPoolExecutor(max_workers=threads)
    try:
        looks = pool.map(_look, paths)
        return list(tqdm(looks, "audit", len(paths), unit="image", disable=not progress))
    finally:
        # On Ctrl-C the images not begun yet are not waited for.
        pool.shutdown(cancel_futures=True)


def _look(path: str) -> _Look:
    try:
        pixels = read_image(path)
        with Path(path).open("rb") as file:
            file_hash = hashlib.file_digest(file, "sha256").hexdigest()
    except ImageReadError as error:
        # Reports are handed round; paths are not.
        reason = str(error).removeprefix(f"{path}: ")
        return _Look(reason=reason, missing=not Path(path).exists())
    black, flat = _blank(pixels)
    pixel_hash = hashlib.sha256(str(pixels.shape).encode())
    pixel_hash.update(pixels.data)
    return _Look(None, False, file_hash, pixel_hash.hexdigest(), black, flat)


def _blank(pixels: npt.NDArray[np.uint8]) -> tuple[bool, bool]:
    """Near black, flat: judged on a grid of about 100 rows, which is enough and quick."""
    step = max(1, min(pixels.shape[:2]) // 100)
    sample = pixels[::step, ::step]
    grey = sample.mean(axis=2)
    return bool((sample < NEAR_BLACK).mean() >= 0.99), bool(grey.std() < FLAT)


def _alike(key_of: dict[str, Hashable]) -> tuple[tuple[str, ...], ...]:
    cases = defaultdict(list)
    for case, key in key_of.items():
        cases[key].append(case)
    return tuple(sorted(tuple(found) for found in cases.values() if len(found) > 1))


def _counts(frame: pd.DataFrame) -> pd.DataFrame:
    parts = []
    for column in ("label", "section"):
        rows = frame[frame[column] != ""].groupby(column)["group"].agg(["size", "nunique"])
        rows.columns = pd.Index(["images", "groups"])
        parts.append(rows.rename_axis("name").reset_index().assign(of=column))
    return pd.concat(parts, ignore_index=True)[["of", "name", "images", "groups"]]


def _odd_ages(frame: pd.DataFrame) -> tuple[str, ...]:
    if "age" not in frame:
        return ()
    age = pd.to_numeric(frame["age"], errors="coerce")
    return tuple(frame.loc[(age <= 1) | (age > 100), "case_id"])


def _as_lists(found: tuple[Any, ...]) -> list[Any]:
    return [list(f) if isinstance(f, tuple) else f for f in found]


def _as_text(found: Any) -> str:
    if isinstance(found, LeftOut):
        return f"{found.case_id} ({found.reason})"
    return " = ".join(found) if isinstance(found, tuple) else str(found)
