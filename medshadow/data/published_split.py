"""Splits that others published, by image, and how much of the test they give away in training."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

import pandas as pd

from medshadow.data.cases import CaseTable
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

_log = logging.getLogger(__name__)

ID_COLUMNS = ("case_id", "image_id", "isic_id", "image", "filename", "file_name", "id")
SECTION_COLUMNS = ("section", "split", "subset", "partition", "set")
_SECTION_OF = {
    "training": "training",
    "train": "training",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass(frozen=True)
class Leakage:
    """How many images of one section show a group that another section shows too.

    Attributes:
        section: the section that should be new.
        seen_in: the section that must not know it.
        images: images in ``section``.
        leaking_images: those whose group has an image in ``seen_in``.
        leaking_groups: the groups that are in both.

    Example:
        >>> Leakage("test", "training", images=200, leaking_images=70, leaking_groups=55).share
        0.35
    """

    section: str
    seen_in: str
    images: int
    leaking_images: int
    leaking_groups: int

    @property
    def share(self) -> float:
        """Share of the section's images that leak, from 0 to 1."""
        return self.leaking_images / self.images

    def __str__(self) -> str:
        return (
            f"{self.leaking_images} of {self.images} {self.section} images ({self.share:.1%}) "
            f"share a group with {self.seen_in} ({self.leaking_groups} groups)"
        )


def measure_leakage(table: CaseTable, section: str = "test", seen_in: str = "training") -> Leakage:
    """Count the images of one section whose lesion or patient is in another section as well.

    Args:
        table: a table with sections; merge duplicated groups first (``audit`` and ``clean``), or
            the same lesion under two names passes for two.
        section: the section that should be new, for example "test" or "validation".
        seen_in: the section that must not know it.

    Raises:
        DataError: one of the sections holds no case.

    Example:
        >>> cases = CaseTable(pd.DataFrame({
        ...     "case_id": list("abcd"), "image": "x.jpg", "group": list("1123"), "label": "nv",
        ...     "section": ["training", "test", "test", "training"]}))
        >>> print(measure_leakage(cases))
        1 of 2 test images (50.0%) share a group with training (1 groups)
    """
    groups = table.section(section).frame["group"]
    known = groups[groups.isin(table.section(seen_in).frame["group"])]
    return Leakage(section, seen_in, len(groups), len(known), known.nunique())


def load_published_split(table: CaseTable, path: str | os.PathLike[str]) -> CaseTable:
    r"""Give a table the sections of a split that was published as a list of images.

    The file is CSV, or separated by tabs where it ends in .tsv, .tab or .txt. One column names the
    image (the first found of ``case_id``, ``image_id``, ``isic_id``, ``image``, ``filename``,
    ``file_name``, ``id``): a case id, or the image file's name with or without folder and ending.
    Another names the section (``section``, ``split``, ``subset``, ``partition``, ``set``): train,
    val or test, or a longer form of these. Case does not matter; other columns are ignored.

    Groups stay those of the table, so they may straddle: :func:`leakage
    <medshadow.data.splits.leakage>` lists them and :func:`measure_leakage` gives the share. Cases
    that the file does not name are left without a section, and images that the table does not hold
    are passed over; the log tells how many.

    Raises:
        DataError: the file cannot be read, has no such columns, names an unknown section or an
            image twice in different sections, or names no case of the table.

    Example:
        >>> import tempfile
        >>> cases = CaseTable(pd.DataFrame({
        ...     "case_id": ["a", "b"], "image": ["x/a.jpg", "x/b.jpg"], "group": "1",
        ...     "label": "nv"}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "published.csv")
        ...     _ = path.write_text("split,image_id\ntrain,a\ntest,b.jpg\n")
        ...     load_published_split(cases, path).frame["section"].tolist()
        ['training', 'test']
    """
    path, frame = Path(path), table.frame
    section_of = _sections_by_image(path)
    by_name = _by_name(section_of)
    case_names, file_names = frame["case_id"].map(_name), frame["image"].map(_name)
    sections = frame["case_id"].map(section_of)
    for names in (case_names, file_names):
        sections = sections.fillna(names.map(by_name))
    named = sections.notna()
    if not named.any():
        raise DataError(
            f"{path}: names no case of {table.name}; it begins with {list(section_of)[:3]}, the "
            f"cases with {frame['case_id'][:3].tolist()}"
        )
    held = {*case_names, *file_names}
    strange = [image for image in section_of if _name(image) not in held]
    if strange or not named.all():
        _log.warning(
            "%s: leaves %d cases of %s without a section, and names %d images that are not in it",
            *(path.name, int((~named).sum()), table.name, len(strange)),
        )
    return replace(table, frame=frame.assign(section=sections.fillna("")))


def _sections_by_image(path: Path) -> dict[str, str]:
    rows = _read(path)
    sections = _column(path, rows, SECTION_COLUMNS)
    known = sections.str.strip().str.lower().map(_SECTION_OF)
    if known.isna().any():
        row = int(known.isna().idxmax())
        raise DataError(
            f"{path}: section {sections[row]!r} in row {row + 2}; expected train, val or test"
        )
    images = _column(path, rows, ID_COLUMNS).str.strip()
    found = pd.DataFrame({"image": images, "section": known}).drop_duplicates()
    twice = found["image"][found["image"].duplicated()]
    if len(twice):
        raise DataError(f"{path}: {len(twice)} images in several sections: {sorted(twice)[:5]}")
    return dict(zip(found["image"], found["section"], strict=True))


def _by_name(section_of: dict[str, str]) -> dict[str, str]:
    """The sections by bare name, for names that stand in one section only."""
    sections: dict[str, set[str]] = {}
    for image, section in section_of.items():
        sections.setdefault(_name(image), set()).add(section)
    return {name: found.pop() for name, found in sections.items() if len(found) == 1}


def _name(image: str) -> str:
    """A path's last part, without the ending of an image file."""
    name = PurePath(image).name
    stem, dot, ending = name.rpartition(".")
    return stem if f"{dot}{ending}".lower() in SUFFIXES else name


def _read(path: Path) -> pd.DataFrame:
    separator = "\t" if path.suffix.lower() in (".tsv", ".tab", ".txt") else ","
    try:
        return pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as CSV ({error})") from error


def _column(path: Path, rows: pd.DataFrame, names: tuple[str, ...]) -> pd.Series:
    by_name = {str(column).strip().lower(): column for column in reversed(rows.columns)}
    for name in names:
        if name in by_name:
            return rows[by_name[name]]
    raise DataError(f"{path}: columns {list(rows.columns)}; expected one of {list(names)}")
