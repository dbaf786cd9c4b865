"""Drawn fundi as files: ODIR-5K's workbook and its folder of photographs."""

from __future__ import annotations

import io
import zipfile
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from medshadow.data.odir5k_keywords import LETTERS
from medshadow.data.phantom_anatomy import draw_person
from medshadow.data.phantom_cohort import FIRST_ID, DrawnPatient, draw_cohort
from medshadow.data.phantom_fundus_findings import draw_eye
from medshadow.data.phantom_fundus_scenes import CAMERAS, photograph_eye
from medshadow.errors import DataError

WORKBOOK = "ODIR-5K_Training_Annotations(Updated)_V2.xlsx"
IMAGES = "Training Images"
COLUMNS = (
    "ID", "Patient Age", "Patient Sex", "Left-Fundus", "Right-Fundus",
    "Left-Diagnostic Keywords", "Right-Diagnostic Keywords", *LETTERS,
)  # fmt: skip
MIN_PATIENTS = 24
_THEN = (2019, 3, 1, 0, 0, 0)  # a fixed date in the workbook, so that its bytes repeat


def write_fundi(root: Path, patients: int, seed: int, progress: bool) -> Path:
    """Draw ``patients`` pairs of eyes; see ``medshadow.data.phantoms.write_phantoms``."""
    if patients < MIN_PATIENTS:
        raise ValueError(f"patients must be at least {MIN_PATIENTS}; found {patients}")
    folder = root / IMAGES
    _clear(folder, root / WORKBOOK)
    folder.mkdir(parents=True, exist_ok=True)
    cohort = draw_cohort(np.random.default_rng([seed, 2]), patients)
    for patient in tqdm(cohort, "drawing fundi", disable=not progress):
        for side, data in _photographs(patient, seed).items():
            (folder / f"{patient.id}_{side}.jpg").write_bytes(data)
    (root / WORKBOOK).write_bytes(_workbook(cohort))
    return root


def _photographs(patient: DrawnPatient, seed: int) -> dict[str, bytes]:
    """Both eyes as JPEG. Eyes depend on the drawing's number alone, photographs on the id too."""
    own = np.random.default_rng([seed, 3, patient.number])
    again = patient.copy == "photograph"
    shot = np.random.default_rng([seed, 4, patient.id if again else FIRST_ID + patient.number])
    person = draw_person(own, patient.drawn_age)
    home = CAMERAS[int(shot.integers(len(CAMERAS)))]
    pictures = {}
    for side, eye in (("left", patient.left), ("right", patient.right)):
        retina = draw_eye(own, person, eye.findings)
        picture = photograph_eye(
            shot, retina, person, home, left=side == "left", dusty=eye.dusty, poor=eye.poor
        )
        pictures[side] = jpeg(picture)
    return pictures


def _workbook(cohort: list[DrawnPatient]) -> bytes:
    """The annotations as an Excel workbook of one sheet; the same cohort gives the same bytes."""
    from openpyxl import Workbook
    from openpyxl.writer.excel import ExcelWriter

    book = Workbook()
    book.properties.created = book.properties.modified = datetime(*_THEN)
    sheet = book.active
    sheet.title = "Sheet1"
    sheet.append(list(COLUMNS))
    for patient in cohort:
        files = [f"{patient.id}_left.jpg", f"{patient.id}_right.jpg"]
        words = [patient.left.keywords(), patient.right.keywords()]
        start = [patient.id, patient.age, patient.sex]
        sheet.append([*start, *files, *words, *patient.letters().values()])
    dated, undated = io.BytesIO(), io.BytesIO()
    ExcelWriter(book, zipfile.ZipFile(dated, "w", zipfile.ZIP_DEFLATED)).save()
    with zipfile.ZipFile(dated) as source, zipfile.ZipFile(undated, "w") as target:
        for name in source.namelist():
            entry = zipfile.ZipInfo(name, _THEN)
            target.writestr(entry, source.read(name), zipfile.ZIP_DEFLATED)
    return undated.getvalue()


def _clear(folder: Path, workbook: Path) -> None:
    """Remove an earlier set of drawn fundi; refuse to touch anything else."""
    images = sorted(folder.iterdir()) if folder.is_dir() else []
    foreign = [path.name for path in images if not _drawn(path.name.partition("_")[0])]
    if not foreign and workbook.exists():
        foreign = [name for name in _ids(workbook) if not _drawn(name)]
    if foreign:
        raise DataError(
            f"{folder.parent}: holds cases that are no phantoms, for example {foreign[:3]}; "
            "expected an empty folder or phantoms"
        )
    for path in images:
        path.unlink()
    workbook.unlink(missing_ok=True)


def _ids(workbook: Path) -> list[str]:
    from openpyxl import load_workbook

    book = load_workbook(workbook, read_only=True)
    try:
        return [str(row[0]) for row in book.worksheets[0].iter_rows(2, max_col=1, values_only=True)]
    finally:
        book.close()


def _drawn(number: str) -> bool:
    return number.isdecimal() and int(number) >= FIRST_ID


def jpeg(picture: NDArray[np.uint8]) -> bytes:
    """A picture, RGB uint8 height x width x 3, as the bytes of a JPEG file."""
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    if not done:
        raise DataError("OpenCV could not encode a phantom as JPEG")
    return data.tobytes()
