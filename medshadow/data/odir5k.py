"""ODIR-5K: both eyes of 3,500 patients, in any of the layouts that it is passed on in.

Peking University International Competition on Ocular Disease Intelligent Recognition (ODIR-2019).
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from medshadow.data.audit import check_policy, leave_out
from medshadow.data.cases import CaseTable, LeftOut
from medshadow.data.layout import DRAWN, Names, ambiguous, bare, walk_packed, zip_hint
from medshadow.data.odir5k_keywords import DIAGNOSES as DIAGNOSES
from medshadow.data.odir5k_keywords import (
    FINDINGS,
    LETTERS,
    QUALITY,
    findings_of,
    primary_letter,
)
from medshadow.data.odir5k_keywords import labels_from_keywords as labels_from_keywords
from medshadow.data.odir5k_rows import Eye, Patient, has_the_columns, read_patients
from medshadow.data.packed import inside_zip
from medshadow.data.readers import SUFFIXES
from medshadow.errors import DataError

_log = logging.getLogger(__name__)

HEALTHY = frozenset({"N"})
SIGHT_THREATENING = frozenset({"D", "G", "A", "M"})
"""What triage must not miss: the diseases of the fundus that blind for good. Glaucoma, age-related
macular degeneration and diabetic retinopathy lead the causes of blindness beside cataract and
refractive error (GBD 2019 Blindness and Vision Impairment Collaborators, Lancet Global Health 9
(2021), e144); pathological myopia is a leading one in East Asia, where these eyes are from
(Ohno-Matsui et al., Investigative Ophthalmology & Visual Science 62 (2021), 5:5). Left out are
cataract, whose blindness surgery takes away; hypertensive retinopathy, which tells of a risk to the
body more than to sight (Wong and Mitchell, New England Journal of Medicine 351 (2004), 2310); and
"other", which is anything. The letters do not grade: a mild retinopathy is a D too."""

_SOURCE = "ODIR-5K (Peking University, 2019): several hospitals in China"
_WORKBOOK = "odir-5k_training_annotations"
_OTHER_WORKBOOK = ".xlsx"
_CSV = "full_df.csv"
LOOKED_FOR = f"ODIR-5K_Training_Annotations*.xlsx, another .xlsx of its columns, or {_CSV}"
"""By what ODIR-5K is known."""
# The original photographs before those that Kaggle cut and shrank; files of any folder at last.
_IMAGE_FOLDERS = ("training images", "preprocessed_images")
_NOT_ANNOTATED = "testing images"
_DEPTH = 4
# Drawn patients are numbered from here (see phantom_cohort); the organisers' ids end below 5000.
_FIRST_DRAWN = 900_000


def odir5k_cases(root: str | os.PathLike[str], on_error: str = "raise") -> CaseTable:
    """Find ODIR-5K at or below a folder and make a case table of it, one row an eye.

    Recognised, by looking: the organisers' workbook ``ODIR-5K_Training_Annotations*.xlsx``, or
    another of its columns (Kaggle's ``data.xlsx``), and, where there is none, Kaggle's
    ``full_df.csv``; images in ``Training Images``, else ``preprocessed_images``, else anywhere. Zip
    files count as folders of their name: what they hold is read in place, where there is no
    unpacked copy. Which file the annotations are from is logged and kept in ``source``.

    An eye's labels come from its own keywords (see ``labels_from_keywords``), never from the
    patient's letters, which both eyes decided. Left out, counted in the log and listed in
    ``left_out``: eyes whose keywords leave no label, and annotated eyes without an image file.

    Args:
        root: the data set's folder or zip file, or a folder that holds it and no other copy of it.
        on_error: what to do with a keyword that the data set does not have: "raise" refuses the
            file and names row and keyword; "skip" leaves those eyes out too.

    Returns:
        Cases named ``odir5k`` (``phantoms`` where they are drawn). ``case_id`` is "<id>_left" or
        "<id>_right" and ``group`` the patient's id; ``labels`` the eye's letters (see
        ``DIAGNOSES``), ``findings`` the same with "O: <keyword>" for each keyword of the letter O,
        and ``label`` the first letter of H, M, A, C, G, O, D, N: the rarest. Further columns:
        ``eye`` ("left", "right"), ``age`` (years, nan where unknown), ``sex``, ``keywords`` (joined
        by "; "), a column of booleans for each keyword on quality (``lens_dust``,
        ``low_image_quality``, ``optic_disk_photographically_invisible``,
        ``anterior_segment_image``, ``image_offset``, ``no_fundus_image``) and ``patient_labels``
        (the official letters of the patient, joined).

    Raises:
        DataError: nothing there fits, several copies do, there is no image at all, the annotations
            are a lossy copy ("?" in place of the full-width comma), or rows of it are wrong; the
            message names the file and its rows.
    """
    check_policy(on_error)
    folder = Path(root).expanduser().absolute()
    names = walk_packed(folder, _DEPTH)
    annotations = _annotations(folder, names)
    patients = read_patients(annotations, refuse_unknown=on_error == "raise")
    _log.info("odir5k: %d patients annotated in %s", len(patients), annotations.name)
    wanted = {eye.stem for patient in patients for eye in patient.eyes}
    image_of = _images(folder, annotations, names, wanted)
    rows, unlabelled, missing = [], [], []
    for patient in patients:
        for eye in patient.eyes:
            case_id, reason = f"{patient.id}_{eye.side}", _no_label(eye)
            if reason:
                unlabelled.append(LeftOut(case_id, reason))
            elif eye.stem not in image_of:
                missing.append(LeftOut(case_id, "no image file"))
            else:
                rows.append(_row(case_id, patient, eye, image_of[eye.stem]))
    leave_out("odir5k (no label)", unlabelled, "skip")
    leave_out("odir5k (no image)", missing, "skip")
    if not rows:
        raise DataError(f"{folder}: no image of an eye with a label")
    drawn = all(int(patient.id) >= _FIRST_DRAWN for patient in patients)
    return CaseTable(
        pd.DataFrame(rows),
        name="phantoms" if drawn else "odir5k",
        malignant=SIGHT_THREATENING,
        malignant_word="sight-threatening",
        left_out=(*unlabelled, *missing),
        vocabulary=LETTERS,
        finding_vocabulary=FINDINGS,
        healthy=HEALTHY,
        source=f"{DRAWN if drawn else _SOURCE}; annotations from {annotations.name}",
    )


def _no_label(eye: Eye) -> str:
    """Why an eye has no label; empty where it has one."""
    if eye.unknown:
        return f"unknown keyword {eye.unknown[0]!r}"
    if findings_of(eye.keywords):
        return ""
    return f"no label: {'; '.join(eye.keywords)}" if eye.keywords else "no keywords"


def _row(case_id: str, patient: Patient, eye: Eye, image: str) -> dict[str, Any]:
    labels = labels_from_keywords(",".join(eye.keywords))
    return {
        "case_id": case_id,
        "image": image,
        "group": patient.id,
        "label": primary_letter(labels),
        "labels": labels,
        "findings": findings_of(eye.keywords),
        "eye": eye.side,
        "age": patient.age,
        "sex": patient.sex,
        "keywords": "; ".join(eye.keywords),
        **{word.replace(" ", "_"): word in eye.keywords for word in QUALITY},
        "patient_labels": patient.letters,
    }


def _annotations(folder: Path, names: Names) -> Path:
    """The nearest workbook, by the organisers' name before others; else the nearest CSV."""
    paths = [place / name for place, files in names.items() for name in files]
    found = [(kind, path) for path in paths if (kind := annotation_kind(path))]
    if not found:
        raise DataError(
            f"{folder}: ODIR-5K not found; looked for {LOOKED_FOR} there and in the folders below"
            f"{zip_hint(names)}"
        )

    def rank(kind: str, path: Path) -> tuple[bool, bool, int, bool]:
        packed = inside_zip(path) is not None
        return kind == _CSV, packed, len(path.parts), kind == _OTHER_WORKBOOK

    first = min(rank(*one) for one in found)
    best = sorted(str(path) for kind, path in found if rank(kind, path) == first)
    if len(best) > 1:
        raise DataError(
            f"{folder}: several copies of ODIR-5K: {best}; name the folder of one of them"
        )
    return Path(best[0])


def annotation_kind(path: Path) -> str:
    """Which of ODIR-5K's annotation files this is, by its name or else its columns; "" if none."""
    name = path.name.lower()
    if name == _CSV:
        return _CSV
    if not name.endswith(_OTHER_WORKBOOK):
        return ""
    if name.startswith(_WORKBOOK):
        return _WORKBOOK
    return _OTHER_WORKBOOK if has_the_columns(path) else ""


def _images(folder: Path, annotations: Path, names: Names, wanted: set[str]) -> dict[str, str]:
    """The file of each image name: beside the annotations first, originals first, all of a kind."""
    beside = {p: files for p, files in names.items() if p.is_relative_to(annotations.parent)}
    for places in (beside, names):
        for kind in (*_IMAGE_FOLDERS, None):
            image_of = _one_each(folder, _files_of(folder, places, kind, wanted))
            if image_of:
                return image_of
    raise DataError(
        f"{folder}: none of the {len(wanted)} images named in {annotations.name} found; looked for "
        f"{min(wanted)}.jpg and the like there and in the folders below{zip_hint(names)}"
    )


def _files_of(
    folder: Path, names: Names, kind: str | None, wanted: set[str]
) -> Iterator[tuple[str, str]]:
    """Image files in folders of a kind, or in all but those of images without annotation."""
    for place, files in names.items():
        parts = {bare(part) for part in place.parts[len(folder.parts) - 1 :]}
        if _NOT_ANNOTATED in parts or (kind and kind not in parts):
            continue
        for name in files:
            stem, suffix = os.path.splitext(name)  # noqa: PTH122 - thousands of Paths are slow
            if stem in wanted and suffix.lower() in SUFFIXES:
                yield stem, str(place / name)


def _one_each(folder: Path, files: Iterable[tuple[str, str]]) -> dict[str, str]:
    image_of: dict[str, str] = {}
    for stem, path in files:
        known = image_of.setdefault(stem, path)
        if known != path and ambiguous(known, path):
            raise DataError(f"{folder}: two files for image {stem}: {known} and {path}")
    return image_of


def __getattr__(name: str) -> Any:
    if name == "ODIR5KDataset":
        from medshadow.data.odir5k_dataset import ODIR5KDataset

        return ODIR5KDataset
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
