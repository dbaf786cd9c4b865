"""HAM10000: 10,015 dermoscopic images of 7,470 lesions, in any of the layouts it is passed on in.

Tschandl, Rosendahl and Kittler, The HAM10000 dataset, Scientific Data 5 (2018), 180161.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medshadow.data.audit import check_policy, leave_out
from medshadow.data.cases import CaseTable, LeftOut
from medshadow.data.layout import DRAWN, Names, ambiguous, bare, walk_packed, zip_hint
from medshadow.data.packed import inside_zip, open_file
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

DIAGNOSES = {
    "akiec": "actinic keratosis or intraepithelial carcinoma",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis-like lesion",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic naevus",
    "vasc": "vascular lesion",
}
MALIGNANT = frozenset({"akiec", "bcc", "mel"})
"""Malignant or pre-malignant: what triage must not miss."""

_SOURCE = (
    "HAM10000 (Tschandl, Rosendahl and Kittler 2018; CC BY-NC 4.0): Medical University of Vienna, "
    "and a practice in Queensland"
)
_METADATA = tuple(f"ham10000_metadata{suffix}" for suffix in (".csv", "", ".tab", ".tsv", ".txt"))
_ONE_HOT = "isic2018_task3_training_groundtruth.csv"
_ANNOTATIONS = (*_METADATA, _ONE_HOT)
_GROUPINGS = "isic2018_task3_training_lesiongroupings.csv"
_IMAGE_FOLDERS = (
    "ham10000_images_part_1",
    "ham10000_images_part_2",
    "isic2018_task3_training_input",
)
LOOKED_FOR = (
    "HAM10000_metadata (.csv, .tab, .tsv, .txt or no ending), or "
    "ISIC2018_Task3_Training_GroundTruth.csv"
)
"""By what HAM10000 is known."""
_DEPTH = 3
_MAX_BYTES = 2**26  # of a table
_UNKNOWN = "unknown"
# ISIC's words for how a diagnosis was made, and HAM10000's; confocal's holds the word consensus.
_CONFIRMED = {
    "histopathology": "histo",
    "serial imaging": "follow_up",
    "confocal": "confocal",
    "consensus": "consensus",
}


def ham10k_cases(root: str | os.PathLike[str], on_error: str = "raise") -> CaseTable:
    """Find HAM10000 at or below a folder and make a case table of it.

    Recognised, by looking: Kaggle's and Harvard Dataverse's folders (``HAM10000_images_part_1``,
    ``HAM10000_images_part_2`` and ``HAM10000_metadata``, comma or tab separated), ISIC 2018 task 3
    (``ISIC2018_Task3_Training_Input``, ``..._GroundTruth.csv``, ``..._LesionGroupings.csv``), and
    either metadata with all images in a folder of any name. Zip files count as folders of their
    name: their images are read in place. Where one image lies in several of the named folders
    (Kaggle ships some twice), the first counts, unpacked ones before those in zip files.

    Args:
        root: the data set's folder or zip file, or a folder that holds it and no other copy of it.
        on_error: "raise" refuses a data set with missing images; "skip" leaves those cases out,
            keeps them in ``left_out`` and logs a warning that names the first.

    Returns:
        Cases named ``ham10000`` (``phantoms`` where they are drawn): ``case_id`` is the image id,
        ``group`` the lesion id, ``label`` the diagnosis code (see ``DIAGNOSES``), with
        ``dx_type``, ``age`` (years, nan where unknown), ``sex`` and ``localization`` ("unknown"
        where the layout does not tell).

    Raises:
        DataError: nothing there fits, several copies do, images are missing, or a row has an
            unknown diagnosis, a bad age, not exactly one diagnosis, or an id that stands twice; the
            message names the file and its lines.
    """
    check_policy(on_error)
    folder = Path(root).expanduser().absolute()
    names = walk_packed(folder, _DEPTH)
    metadata = _metadata_file(folder, names)
    if metadata.name.lower() == _ONE_HOT:
        rows = _read_one_hot(metadata, _groupings_file(metadata, names))
    else:
        rows = _read_metadata(metadata)
    image_of = _images(folder, metadata, names, set(rows["image_id"]))
    missing = [LeftOut(i, "no image file") for i in rows["image_id"] if i not in image_of]
    if missing:
        leave_out(f"ham10000 ({metadata.name}{zip_hint(names)})", missing, on_error)
    frame = pd.DataFrame({
        "case_id": rows["image_id"],
        "image": rows["image_id"].map(image_of),
        "group": rows["lesion_id"],
        "label": rows["dx"],
        **{column: rows[column] for column in ("dx_type", "age", "sex", "localization")},
    })  # fmt: skip
    frame = frame[frame["image"].notna()]
    drawn = rows["image_id"].str.startswith("ISIC_PHANTOM").all()
    return CaseTable(
        frame,
        "phantoms" if drawn else "ham10000",
        MALIGNANT,
        tuple(missing),
        source=DRAWN if drawn else _SOURCE,
    )


def _metadata_file(folder: Path, names: Names) -> Path:
    """The nearest metadata file, unpacked ones first; HAM10000's own, which says more, first."""
    paths = (place / name for place, files in names.items() for name in files)
    found = [path for path in paths if is_metadata(path)]
    if not found:
        raise DataError(
            f"{folder}: HAM10000 not found; looked for {LOOKED_FOR} there and in the folders below"
            f"{zip_hint(names)}"
        )

    def rank(path: Path) -> tuple[bool, int, bool]:
        return inside_zip(path) is not None, len(path.parts), path.name.lower() == _ONE_HOT

    best = [path for path in found if rank(path) == min(map(rank, found))]
    if len({path.parent for path in best}) > 1:
        raise DataError(
            f"{folder}: several copies of HAM10000: {sorted(map(str, best))}; "
            "name the folder of one of them"
        )
    return min(best, key=lambda path: _ANNOTATIONS.index(path.name.lower()))


def is_metadata(path: Path) -> bool:
    """Whether a file has the name of HAM10000's metadata, or of ISIC's ground truth for it."""
    return path.name.lower() in _ANNOTATIONS


def _groupings_file(metadata: Path, names: Names) -> Path:
    found = [p / n for p, files in names.items() for n in files if n.lower() == _GROUPINGS]
    beside = [path for path in found if path.parent == metadata.parent]
    if not found:
        raise DataError(
            f"{metadata}: found without ISIC2018_Task3_Training_LesionGroupings.csv, which says "
            "which images show one lesion; without it the data cannot be split soundly"
        )
    return (beside or found)[0]


def _images(folder: Path, metadata: Path, names: Names, wanted: set[str]) -> dict[str, str]:
    """The file of each image id, looked for beside the metadata first, then anywhere below."""
    beside = {p: files for p, files in names.items() if p.is_relative_to(metadata.parent)}
    found = list(_files_of(beside, wanted)) or list(_files_of(names, wanted))
    named = [f for f in found if _in_named_folder(f[1], folder)]
    image_of: dict[str, str] = {}
    for image_id, path in named or found:
        known = image_of.setdefault(image_id, str(path))
        if known != str(path) and not named and ambiguous(known, path):
            raise DataError(
                f"{folder}: two files for image {image_id}: {known} and {path}; "
                "expected one, or the folders HAM10000_images_part_1 and _2"
            )
    if not image_of:
        raise DataError(
            f"{folder}: none of the {len(wanted)} images named in {metadata.name} found; looked "
            f"for {min(wanted)}.jpg and the like there and in the folders below{zip_hint(names)}"
        )
    return image_of


def _files_of(names: Names, wanted: set[str]) -> Iterator[tuple[str, Path]]:
    for place, files in names.items():
        for name in files:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - ten thousand Paths are slow
            if stem in wanted and suffix.lower() in SUFFIXES:
                yield stem, place / name


def _in_named_folder(path: Path, folder: Path) -> bool:
    parts = path.parent.parts[len(folder.parts) - 1 :]
    return any(bare(part) in _IMAGE_FOLDERS for part in parts)


def _read_csv(path: Path, columns: Iterable[str]) -> pd.DataFrame:
    """All values as text without surrounding blanks; comma or tab separated."""
    try:
        with open_file(path, _MAX_BYTES) as file:
            separator = "\t" if b"\t" in file.readline() else ","
            file.seek(0)
            rows = pd.read_csv(
                file, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
            )
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error})") from error
    if not isinstance(rows.index, pd.RangeIndex):  # pandas takes the first column for names then
        raise DataError(f"{path}: rows of more values than the header's {len(rows.columns)}")
    missing = [c for c in columns if c not in rows.columns]
    if missing:
        raise DataError(f"{path}: columns {missing} missing; found {list(rows.columns)}")
    if rows.empty:
        raise DataError(f"{path}: no rows below the header")
    return rows.apply(lambda column: column.str.strip())


def _read_metadata(path: Path) -> pd.DataFrame:
    rows = _read_csv(path, ("lesion_id", "image_id", "dx"))
    rows["dx"] = rows["dx"].str.lower()
    _refuse(path, rows["dx"], ~rows["dx"].isin(list(DIAGNOSES)), f"one of {sorted(DIAGNOSES)}")
    for column in ("dx_type", "sex", "localization"):
        values = rows.get(column, pd.Series("", rows.index))
        rows[column] = values.where(values != "", _UNKNOWN)
    age = rows.get("age", pd.Series("", rows.index))
    years = pd.to_numeric(age, errors="coerce").astype(float)
    absent = age.str.lower().isin(["", "nan", "na", _UNKNOWN])
    _refuse(path, age, ~absent & ~years.between(0, 120), "years from 0 to 120, or nothing")
    rows["age"] = years
    return _with_sound_ids(path, rows)


def _read_one_hot(path: Path, groupings: Path) -> pd.DataFrame:
    codes = [code.upper() for code in DIAGNOSES]
    rows = _read_csv(path, ("image", *codes))
    marks = rows[codes].apply(pd.to_numeric, errors="coerce")
    single = marks.isin([0, 1]).all(axis=1) & (marks.sum(axis=1) == 1)
    found = rows[codes].agg(" ".join, axis=1)
    _refuse(path, found, ~single, f"a single 1 and otherwise 0 under {codes}")
    lesions = _read_csv(groupings, ("image", "lesion_id"))
    twice = lesions["image"].duplicated()
    _refuse(groupings, lesions["image"], twice, "each image once")
    lesions = lesions.set_index("image")
    _refuse(path, rows["image"], ~rows["image"].isin(lesions.index), f"images of {groupings.name}")
    said = lesions.get("diagnosis_confirm_type", pd.Series("", lesions.index))
    return _with_sound_ids(
        path,
        pd.DataFrame({
            "image_id": rows["image"],
            "lesion_id": rows["image"].map(lesions["lesion_id"]),
            "dx": marks.idxmax(axis=1).str.lower(),
            "dx_type": rows["image"].map(said.map(_confirmed)),
            "age": float("nan"),
            "sex": _UNKNOWN,
            "localization": _UNKNOWN,
        }),
    )  # fmt: skip


def _confirmed(words: str) -> str:
    return next((ours for isic, ours in _CONFIRMED.items() if isic in words.lower()), _UNKNOWN)


def _with_sound_ids(path: Path, rows: pd.DataFrame) -> pd.DataFrame:
    for column in ("image_id", "lesion_id"):
        _refuse(path, rows[column], rows[column] == "", f"a value for {column}")
    _refuse(path, rows["image_id"], rows["image_id"].duplicated(), "each image once")
    return rows


def _refuse(path: Path, values: pd.Series, wrong: pd.Series, expected: str) -> None:
    """Raise if any row is wrong: name the lines of the file (the header is line 1) and values."""
    if not wrong.any():
        return
    lines = [int(i) + 2 for i in wrong.index[wrong][:5]]
    more = f" and {int(wrong.sum()) - 5} more" if wrong.sum() > 5 else ""
    found = [str(v) for v in values[wrong].unique()[:5]]
    raise DataError(f"{path}: found {found} in lines {lines}{more}; expected {expected}")


def __getattr__(name: str) -> Any:
    if name == "HAM10KDataset":
        from medshadow.data.ham10k_dataset import HAM10KDataset

        return HAM10KDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
