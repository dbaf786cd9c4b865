"""What an audit found: for people, for machines, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from medshadow.data.cases import LeftOut
from medshadow.data.near_duplicates import NearPair
from medshadow.data.published_split import Leakage


@dataclass(frozen=True)
class AuditReport:
    """What ``audit`` found, as case ids and group names; it holds no paths.

    Args:
        table_digest: the digest of the audited table.
        content_digest: SHA-256 over the case ids and the bytes of their files, readable or not.
        counts: columns "images" and "groups" for each label, then each section that is set; an
            image with two labels counts for both.
        left_out: cases that the data set names and the table does not hold, with the reason.
        unreadable: cases whose file is missing or cannot be decoded, with the reason.
        missing: those of them whose file does not exist.
        near_black: see ``NEAR_BLACK`` in ``medshadow.data.looks``.
        flat: see ``FLAT`` there.
        same_file: sets of cases whose files are identical byte for byte.
        same_pixels: sets of cases whose files differ and whose decoded pixels are identical.
        near_duplicates: pairs of cases of different groups that show the same lesion or eye, each
            with its evidence; None when they were not searched for.
        same_groups: sets of groups to merge because cases of theirs are duplicates or near
            duplicates. Blank images (near black or flat) never merge groups.
        label_conflicts: sets of duplicates that carry different labels.
        mixed_groups: groups that carry several labels (an error where the group is a lesion).
        leaking: groups that lie in more than one section, after the groups to merge are merged.
        leaks: how many images of the validation and test sections that makes, as numbers.
        odd_ages: cases with an age of 1 year or less, or above 100.
        unlike_people: sets of ``same_groups`` whose cases differ in sex, or in age by more than
            ``AGE_STEP`` years: one person photographed years apart, wrong metadata, or a false
            merge. Worth a look.
    """

    table_digest: str
    counts: pd.DataFrame
    content_digest: str = ""
    left_out: tuple[LeftOut, ...] = ()
    unreadable: tuple[LeftOut, ...] = ()
    missing: tuple[str, ...] = ()
    near_black: tuple[str, ...] = ()
    flat: tuple[str, ...] = ()
    same_file: tuple[tuple[str, ...], ...] = ()
    same_pixels: tuple[tuple[str, ...], ...] = ()
    near_duplicates: tuple[NearPair, ...] | None = None
    same_groups: tuple[tuple[str, ...], ...] = ()
    label_conflicts: tuple[tuple[str, ...], ...] = ()
    mixed_groups: tuple[str, ...] = ()
    leaking: tuple[str, ...] = ()
    leaks: tuple[Leakage, ...] = ()
    odd_ages: tuple[str, ...] = ()
    unlike_people: tuple[tuple[str, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report in lists, strings and numbers, ready for ``json.dumps``."""
        near = self.near_duplicates
        return {
            "table_digest": self.table_digest,
            "content_digest": self.content_digest,
            "counts": self.counts.to_dict("records"),
            **{name: _as_lists(getattr(self, name) or ()) for name in _FINDINGS},
            "left_out": [asdict(gone) for gone in self.left_out],
            "unreadable": [asdict(gone) for gone in self.unreadable],
            "near_duplicates": None if near is None else [pair.to_dict() for pair in near],
            "leaks": [{**asdict(leak), "share": round(leak.share, 4)} for leak in self.leaks],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AuditReport:
        """The report that ``to_dict`` gave the dictionary of; other keys are ignored."""
        near = data["near_duplicates"]
        leaks = [{k: v for k, v in leak.items() if k != "share"} for leak in data["leaks"]]
        return cls(
            # A report that was written before a kind of finding was looked for has none of it.
            **{name: _as_tuples(data.get(name, [])) for name in _FINDINGS}
            | {
                "table_digest": data["table_digest"],
                "content_digest": data.get("content_digest", ""),
                "counts": pd.DataFrame(data["counts"]),
                "left_out": tuple(LeftOut(**gone) for gone in data["left_out"]),
                "unreadable": tuple(LeftOut(**gone) for gone in data["unreadable"]),
                "near_duplicates": None if near is None else tuple(map(NearPair.from_dict, near)),
                "leaks": tuple(Leakage(**leak) for leak in leaks),
            }
        )

    def summary(self) -> pd.DataFrame:
        """For people: one row a kind of finding, how many, and the first few.

        Returns:
            Columns ``finding``, ``count``, ``first`` (up to three, as text).
        """
        rows = []
        for name, text in _FINDINGS.items():
            found = getattr(self, name)
            first = (
                "; ".join(_as_text(f) for f in found[:3]) if found is not None else "not searched"
            )
            rows.append({"finding": text, "count": len(found or ()), "first": first})
        return pd.DataFrame(rows)

    def findings(self) -> pd.DataFrame:
        """For machines: one row a finding.

        Returns:
            Columns ``finding`` (the attribute's name), ``what`` (cases or groups, joined by " "),
            ``detail`` (reason or evidence, as text).
        """
        rows = [
            {"finding": name, "what": what, "detail": detail}
            for name in _FINDINGS
            for what, detail in map(_what_and_detail, getattr(self, name) or ())
        ]
        return pd.DataFrame(rows, columns=["finding", "what", "detail"])


_FINDINGS = {
    "left_out": "cases left out: no image, or no label",
    "unreadable": "images that cannot be read",
    "missing": "of them, files that do not exist",
    "near_black": "images near black",
    "flat": "flat images",
    "same_file": "sets of identical files",
    "same_pixels": "sets of other files with identical pixels",
    "near_duplicates": "pairs that show the same lesion or eye",
    "same_groups": "sets of groups to merge",
    "label_conflicts": "duplicates with different labels",
    "mixed_groups": "groups with several labels",
    "leaking": "groups in more than one section",
    "leaks": "sections that another gives away",
    "odd_ages": "ages of 1 or less, or above 100",
    "unlike_people": "sets of groups to merge that differ in age or sex",
}


def _as_lists(found: tuple[Any, ...]) -> list[Any]:
    return [list(f) if isinstance(f, tuple) else f for f in found]


def _as_tuples(found: Any) -> Any:
    return tuple(_as_tuples(f) for f in found) if isinstance(found, list) else found


def _as_text(found: Any) -> str:
    what, detail = _what_and_detail(found, " = ")
    return f"{what} ({detail})" if isinstance(found, LeftOut) else what or detail


def _what_and_detail(found: Any, between: str = " ") -> tuple[str, str]:
    if isinstance(found, LeftOut):
        return found.case_id, found.reason
    if isinstance(found, NearPair):
        return between.join((found.first, found.second)), found.evidence.words
    if isinstance(found, Leakage):
        return "", str(found)
    return between.join(found) if isinstance(found, tuple) else str(found), ""
