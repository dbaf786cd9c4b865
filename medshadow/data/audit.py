"""Look at every image of a case table once: what cannot be read, what stands twice, what conflicts.

What it finds goes into an ``AuditReport``; ``clean`` applies it to the table before splitting.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable

import pandas as pd

from medshadow.data.audit_report import AuditReport as AuditReport
from medshadow.data.cases import CaseTable, LeftOut
from medshadow.data.looks import digest_of_hashes, look_at_all
from medshadow.data.near_duplicates import near_duplicates
from medshadow.data.published_split import Leakage, measure_leakage
from medshadow.data.splits import leakage
from medshadow.errors import DataError

_log = logging.getLogger(__name__)

# HAM10000 gives ages in steps of five years.
AGE_STEP = 5


def audit(
    table: CaseTable, *, near: bool = False, threads: int = 2, progress: bool = True
) -> AuditReport:
    """Decode every image once and report what is wrong with the cases.

    Duplicates are found by the SHA-256 of the file and of the decoded pixels, so that a file saved
    again with another header or by another lossless format does not hide. The same lesion or eye
    photographed again, or a copy that was cut, turned, mirrored or compressed anew, is found by
    ``near_duplicates``, which takes some minutes for ten thousand images.

    Args:
        table: the cases, split or not.
        near: whether to search for near duplicates across groups.
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
    looks = look_at_all(frame["image"].tolist(), near=near, threads=threads, progress=progress)
    seen = dict(zip(ids, looks, strict=True))
    readable = {case: look for case, look in seen.items() if look.reason is None}
    same_file = _alike({case: look.file_hash for case, look in readable.items()})
    by_pixels = _alike({case: look.pixel_hash for case, look in readable.items()})
    group_of = dict(zip(frame["case_id"], frame["group"], strict=True))
    pairs = None
    if near:
        sketches = {c: look.sketch for c, look in readable.items() if look.sketch is not None}
        pairs = near_duplicates(sketches, group_of, threads=threads, progress=progress)
    # Blank images are alike and say nothing about who they are of.
    telling = [s for s in by_pixels if not readable[s[0]].blank]
    alike = sorted({*telling, *((p.first, p.second) for p in pairs or ())})
    same_groups = _joined({group_of[case] for case in cases} for cases in alike)
    labels_of = dict(zip(frame["case_id"], frame["labels"], strict=True))
    kinds = frame["labels"].map(sorted).map(" ".join).groupby(frame["group"]).nunique()
    merged = table.merge_groups(same_groups)
    return AuditReport(
        table_digest=table.digest,
        content_digest=digest_of_hashes((case, look.file_hash) for case, look in seen.items()),
        counts=_counts(frame),
        left_out=table.left_out,
        unreadable=tuple(LeftOut(c, look.reason) for c, look in seen.items() if look.reason),
        missing=tuple(case for case, look in seen.items() if look.missing),
        near_black=tuple(case for case, look in readable.items() if look.black),
        flat=tuple(case for case, look in readable.items() if look.flat),
        same_file=same_file,
        same_pixels=tuple(s for s in by_pixels if len({seen[c].file_hash for c in s}) > 1),
        near_duplicates=pairs,
        same_groups=same_groups,
        label_conflicts=tuple(s for s in alike if len({labels_of[c] for c in s}) > 1),
        mixed_groups=tuple(kinds.index[kinds > 1]),
        leaking=tuple(leakage(merged)["group"]),
        leaks=_leaks(merged),
        odd_ages=_odd_ages(frame),
        unlike_people=tuple(names for names in same_groups if _unlike(frame, names)),
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


def _alike(key_of: dict[str, Hashable]) -> tuple[tuple[str, ...], ...]:
    cases = defaultdict(list)
    for case, key in key_of.items():
        cases[key].append(case)
    return tuple(sorted(tuple(found) for found in cases.values() if len(found) > 1))


def _joined(sets: Iterable[set[str]]) -> tuple[tuple[str, ...], ...]:
    """Sets that share a member become one; those of a single member go."""
    joined: list[set[str]] = []
    for one in sets:
        touching = [other for other in joined if one & other]
        joined = [other for other in joined if not one & other] + [one.union(*touching)]
    return tuple(sorted(tuple(sorted(names)) for names in joined if len(names) > 1))


def _leaks(table: CaseTable) -> tuple[Leakage, ...]:
    held = set(table.frame["section"])
    pairs = [("validation", "training"), ("test", "training"), ("test", "validation")]
    leaks = [measure_leakage(table, *pair) for pair in pairs if held.issuperset(pair)]
    return tuple(leak for leak in leaks if leak.leaking_images)


def _counts(frame: pd.DataFrame) -> pd.DataFrame:
    # An eye with two diseases counts for both.
    by_label = frame.assign(label=frame["labels"].map(sorted)).explode("label")
    parts = []
    for column, cases in (("label", by_label), ("section", frame[frame["section"] != ""])):
        rows = cases.groupby(column)["group"].agg(["size", "nunique"])
        rows.columns = pd.Index(["images", "groups"])
        parts.append(rows.rename_axis("name").reset_index().assign(of=column))
    return pd.concat(parts, ignore_index=True)[["of", "name", "images", "groups"]]


def _odd_ages(frame: pd.DataFrame) -> tuple[str, ...]:
    if "age" not in frame:
        return ()
    age = pd.to_numeric(frame["age"], errors="coerce")
    return tuple(frame.loc[(age <= 1) | (age > 100), "case_id"])


def _unlike(frame: pd.DataFrame, groups: tuple[str, ...]) -> bool:
    """Whether cases of these groups differ in sex, or in age by more than its step."""
    cases = frame[frame["group"].isin(groups)]
    if "sex" in cases and len(set(cases["sex"].dropna()) - {"unknown", ""}) > 1:
        return True
    if "age" not in cases:
        return False
    age = pd.to_numeric(cases["age"], errors="coerce")
    return bool(age.max() - age.min() > AGE_STEP)
