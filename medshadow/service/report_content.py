"""What a structured report of a lookup says: its content items, after TID 1500.

``medshadow.service.structured_report`` tells why it says so.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medshadow import __version__

if TYPE_CHECKING:
    from highdicom.sr import (
        CodedConcept,
        ContainerContentItem,
        ContentItem,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
    )
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code

SCHEME = "99MEDSHADOW"
"""Designator of the codes below."""
CODES = {
    "similarity": "Cosine similarity of embeddings",
    "archive-case": "Case of the archive, of another person",
    "role": "Role among the cases shown",
    "diagnosis": "Diagnosis of the archive's case",
    "established": "How its diagnosis was established",
    "site": "Site of the archive's case",
    "laterality": "Laterality of the archive's case",
    "keywords": "Keywords of the archive's case",
    "notice": "Permitted use",
    "warning": "Warning",
    "archive": "Archive that was searched",
    "shares": "Shares in this archive",
    "probability": "Calibrated probability",
}
"""Code value to meaning, of scheme 99MEDSHADOW."""

_NAMES = uuid.UUID("8f2b6f3e-6a0e-5d0c-9b59-0d1f5ad1c1b7")
_SEXES = {"male": "Male", "female": "Female", "other": "OtherSex"}


def report_content(
    answer: Mapping[str, Any], image: Dataset, frame: int | None
) -> MeasurementReport:
    """The content of a report.

    Args:
        answer: as ``LookupAnswer.to_dict`` gives it.
        image: the header of the image that was looked up.
        frame: which of its frames, from 1; left out where it has one, as PS3.3 table 10-3 demands.
    """
    from highdicom import sr
    from pydicom.sr.codedict import codes

    if int(image.get("NumberOfFrames") or 1) == 1:
        frame = None
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=new_uid("device", answer["archive"]["model_digest"]),
        name="MedShadow",
        manufacturer_name="MedShadow",
        model_name="MedShadow lookup",
        serial_number=answer["archive"]["model_digest"],
    )
    report = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(codes.DCM.Device, device)
        ),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(answer, row, image, frame) for row in _shown(answer)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    # Before the measurements: what to know before they are read.
    parts = report[0].ContentSequence
    before = next(i for i, item in enumerate(parts) if item.ValueType == "CONTAINER")
    for at, item in enumerate([*_preface(answer), _image_library(image, frame)]):
        parts.insert(before + at, item)
    return report


def _preface(answer: Mapping[str, Any]) -> Iterator[ContentItem]:
    archive = answer["archive"]
    yield _text("notice", answer["notice"])
    for warning in answer["warnings"]:
        yield _text("warning", warning["text"])
    source = f" ({archive['source']})" if archive.get("source") else ""
    where = f"; filter: {answer['query']['where']}" if answer["query"]["where"] else ""
    yield _text(
        "archive",
        f"{archive['name']}{source}: {archive['cases']} images of {archive['groups']} lesions or "
        f"patients{where}",
    )
    if answer["share_in_this_archive"]:
        shares = ", ".join(f"{k} {v:.0%}" for k, v in answer["share_in_this_archive"].items())
        yield _text(
            "shares", f"Among {len(answer['hits'])} similar cases, not a probability: {shares}"
        )
    chance = answer.get("probability")
    if chance:
        yield _text(
            "probability",
            f"{archive.get('malignant_word', 'malignant')}: {chance['value']:.3f} "
            f"({chance['low']:.3f} to {chance['high']:.3f}) at a prevalence of "
            f"{chance['prevalence']:.3f}, calibrated on {chance['cases']} validation cases",
        )


def _image_library(image: Dataset, frame: int | None) -> ContainerContentItem:
    """TID 1600 to 1602: highdicom's own knows no dermoscopic photographs."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    contains = sr.RelationshipTypeValues.CONTAINS
    acquired = {"relationship_type": sr.RelationshipTypeValues.HAS_ACQ_CONTEXT}
    source = sr.ImageContentItem(
        codes.SCT.Source,
        str(image.SOPClassUID),
        str(image.SOPInstanceUID),
        referenced_frame_numbers=frame,
        relationship_type=contains,
    )
    pixels = sr.CodedConcept("{pixels}", "UCUM", "Pixels")
    source.ContentSequence = sr.ContentSequence(
        [
            sr.CodeContentItem(codes.DCM.Modality, _modality(image), **acquired),
            sr.NumContentItem(codes.DCM.PixelDataRows, int(image.Rows), pixels, **acquired),
            sr.NumContentItem(codes.DCM.PixelDataColumns, int(image.Columns), pixels, **acquired),
        ]
    )
    group = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type=contains)
    group.ContentSequence = sr.ContentSequence([source])
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type=contains)
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _modality(image: Dataset) -> Code:
    from pydicom.sr.codedict import codes

    found = str(image.get("Modality", ""))
    known = {code.value: code for code in codes.cid33.concepts.values()}
    return known.get(found, known["OT"])


def _shown(answer: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The hits, each with its role, then the nearest malignant case where it is none of them."""
    hits, nearest = answer["hits"], answer["nearest_malignant"]
    for hit in hits:
        yield {**hit, "role": f"similar case {hit['rank']} of {len(hits)}"}
    if nearest and nearest["case_id"] not in {hit["case_id"] for hit in hits}:
        word = answer["archive"].get("malignant_word", "malignant")
        outside = ", outside the filter" if nearest["outside_filter"] else ""
        yield {**nearest, "role": f"nearest {word} case, rank {nearest['rank']}{outside}"}


def _group(
    answer: Mapping[str, Any], row: Mapping[str, Any], image: Dataset, frame: int | None
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    archive = answer["archive"]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=new_uid("case", archive["name"], row["case_id"]),
            identifier=f"{archive['name']}: {row['case_id']}",
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name="MedShadow lookup",
            version=__version__,
            parameters=[f"model sha256:{archive['model_digest']}"],
        ),
        measurements=[sr.Measurement(_code("similarity"), row["similarity"], codes.UCUM.NoUnits)],
        source_images=[
            sr.SourceImageForMeasurementGroup(
                str(image.SOPClassUID),
                str(image.SOPInstanceUID),
                None if frame is None else [frame],
            )
        ],
    )
    group[0].ContentSequence.append(_archive_case(archive["name"], row))
    return group


def _archive_case(archive: str, row: Mapping[str, Any]) -> ContainerContentItem:
    from highdicom import sr

    item = sr.ContainerContentItem(
        _code("archive-case"), relationship_type=sr.RelationshipTypeValues.CONTAINS
    )
    word = " (counts as malignant in this archive)" if row["malignant"] else ""
    told = {
        "role": row["role"],
        "diagnosis": f"{row['diagnosis']}{word}",
        **{key: row.get(key) for key in ("established", "site", "laterality", "keywords")},
    }
    item.ContentSequence = sr.ContentSequence(
        [
            *_other_subject(archive, row),
            *(_text(key, str(value)) for key, value in told.items() if value),
        ]
    )
    return item


def _other_subject(archive: str, row: Mapping[str, Any]) -> Iterable[ContentItem]:
    """Subject context, patient (TID 1006 and 1007): another one than the report's."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    context = {"relationship_type": sr.RelationshipTypeValues.HAS_OBS_CONTEXT}
    yield sr.CodeContentItem(codes.DCM.SubjectClass, codes.DCM.Patient, **context)
    subject = new_uid("subject", archive, row["group"])
    yield sr.UIDRefContentItem(codes.DCM.SubjectUID, subject, **context)
    sex = _SEXES.get(str(row.get("sex")).lower())
    if sex:
        yield sr.CodeContentItem(codes.DCM.SubjectSex, getattr(codes.DCM, sex), **context)
    age = row.get("age")
    if isinstance(age, int | float):
        yield sr.NumContentItem(codes.DCM.SubjectAge, age, codes.UCUM.Year, **context)


def _text(code: str, value: str) -> ContentItem:
    from highdicom import sr

    return sr.TextContentItem(_code(code), value, sr.RelationshipTypeValues.CONTAINS)


def _code(value: str) -> CodedConcept:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, SCHEME, CODES[value])


def new_uid(*names: str) -> str:
    """A UID of the form of PS3.5 B.2: random, or always the same for the same names."""
    made = uuid.uuid5(_NAMES, "\0".join(names)) if names else uuid.uuid4()
    return f"2.25.{made.int}"
