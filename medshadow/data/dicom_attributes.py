"""Which attributes of a DICOM file may go further, and with which values."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

from pydicom.dataset import Dataset
from pydicom.uid import UID

SIDES = frozenset({"R", "L", "U", "B"})
PHOTOMETRIC = frozenset(
    {
        "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422",
        "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "HSV", "ARGB", "CMYK",
    }
)  # fmt: skip
_BODY_PARTS = frozenset(
    {
        "ABDOMEN", "ANKLE", "ARM", "AXILLA", "BACK", "BREAST", "BUTTOCK", "CALF", "CHEEK",
        "CHEST", "CHIN", "EAR", "ELBOW", "EYE", "EYELID", "FACE", "FINGER", "FOOT", "FOREARM",
        "FOREHEAD", "GENITALIA", "GROIN", "HAND", "HEAD", "HEEL", "HIP", "KNEE", "LEG", "LIP",
        "LOWERARM", "LOWERLEG", "LOWERLIMB", "MOUTH", "NECK", "NOSE", "OPTICCANAL", "PALM",
        "RETINA", "SCALP", "SHOULDER", "SKIN", "THIGH", "THUMB", "TOE", "TONGUE", "TRUNK",
        "UPPERARM", "UPPERLIMB", "WRIST",
    }
)  # fmt: skip
"""The defined terms of PS3.16 Annex L that a photograph may show."""


def allowed_values(header: Dataset) -> dict[str, str]:
    """The attributes of a header whose value is one that the standard defines."""
    found = {}
    for keyword, (name, reader) in ATTRIBUTES.items():
        value = reader(header, keyword) if keyword in header else None
        if value is not None:
            found[name] = value
    modifier = _modifier(header)
    return found if modifier is None else {**found, "AnatomicRegionModifier": modifier}


def _one_of(terms: Callable[[], frozenset[str]]) -> Callable[[Dataset, str], str | None]:
    def read(header: Dataset, keyword: str) -> str | None:
        value = str(header[keyword].value or "").strip().upper()
        return value if value in terms() else None

    return read


@cache
def _modalities() -> frozenset[str]:
    from pydicom.sr.codedict import codes  # costs more than all of the reading

    return frozenset(code.value for code in codes.cid33.concepts.values())


def _age(header: Dataset, keyword: str) -> str | None:
    value = str(header[keyword].value or "").strip().upper()
    if not re.fullmatch(r"[0-9]{3}[DWMY]", value):
        return None
    years = {"D": 365, "W": 52, "M": 12, "Y": 1}[value[3]]
    return "090Y" if int(value[:3]) >= 90 * years else value


def _sop_class(header: Dataset, keyword: str) -> str | None:
    value = UID(header[keyword].value or "")
    return str(value.name) if value.type == "SOP Class" else None


def _count(header: Dataset, keyword: str) -> str | None:
    count = int(header[keyword].value or 0)
    return str(count) if 0 < count <= 2**16 else None  # a date in its place is longer


def _meaning(header: Dataset, keyword: str) -> str | None:
    items = header[keyword].value
    if not items:
        return None
    scheme = str(items[0].get("CodingSchemeDesignator", ""))
    value = str(items[0].get("CodeValue") or items[0].get("LongCodeValue") or "")
    if scheme in ("SRT", "SNM3", "99SDM"):
        from pydicom.sr.coding import snomed_mapping

        scheme, value = "SCT", snomed_mapping["SRT"].get(value, "")
    return _concepts(scheme).get(value) if scheme in ("SCT", "DCM") else None


@cache
def _concepts(scheme: str) -> dict[str, str]:
    """Meaning by code, of all that PS3.16 uses."""
    from pydicom.sr.codedict import codes

    return {code.value: code.meaning for code in getattr(codes, scheme).concepts.values()}


def _modifier(header: Dataset) -> str | None:
    items = header.get("AnatomicRegionSequence")
    nested = "AnatomicRegionModifierSequence"
    return _meaning(items[0], nested) if items and nested in items[0] else None


_YES_NO = _one_of(lambda: frozenset({"YES", "NO"}))
_SIDE = _one_of(lambda: SIDES)

ATTRIBUTES: dict[str, tuple[str, Callable[[Dataset, str], str | None]]] = {
    "SOPClassUID": ("SOPClass", _sop_class),
    "Modality": ("Modality", _one_of(_modalities)),
    "PatientSex": ("PatientSex", _one_of(lambda: frozenset({"M", "F", "O"}))),
    "PatientAge": ("PatientAge", _age),
    "Laterality": ("Laterality", _SIDE),
    "ImageLaterality": ("ImageLaterality", _SIDE),
    "BodyPartExamined": ("BodyPartExamined", _one_of(lambda: _BODY_PARTS)),
    "AnatomicRegionSequence": ("AnatomicRegion", _meaning),
    "PrimaryAnatomicStructureSequence": ("PrimaryAnatomicStructure", _meaning),
    "ViewCodeSequence": ("View", _meaning),
    "AcquisitionDeviceTypeCodeSequence": ("AcquisitionDevice", _meaning),
    "PupilDilated": ("PupilDilated", _YES_NO),
    "BurnedInAnnotation": ("BurnedInAnnotation", _YES_NO),
    "PhotometricInterpretation": ("PhotometricInterpretation", _one_of(lambda: PHOTOMETRIC)),
    "Rows": ("Rows", _count),
    "Columns": ("Columns", _count),
    "NumberOfFrames": ("NumberOfFrames", _count),
}
"""By the keyword of the element: the name of the attribute, and what makes its value or None."""
