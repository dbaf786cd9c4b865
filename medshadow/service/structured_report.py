"""The answer to a lookup as a DICOM structured report beside the image that was looked up.

**Class.** Enhanced SR (PS3.3 A.35.2), the smallest that holds numbers and references to images.

**Template.** TID 1500 Measurement Report (PS3.16), which readers of software's results expect (IHE
RAD AI Results): observed by a device (TID 1004), the image in the image library (TID 1600), and a
measurement group (TID 1501) a similar case. What is measured is how alike that case is; the
algorithm is named with the model's digest (TID 4019).

**Whose diagnosis.** A similar case is another person's. Its diagnosis, age and sex stand in a
container of its own whose subject context is replaced (TID 1001, 1006 and 1007: subject class
patient, a subject UID), as text rather than as coded findings, so that nothing that reads reports
takes them for findings in this patient.

**Codes.** Of DCM, SCT and UCUM as PS3.16 has them; what it has no code for stands under
99MEDSHADOW, which the report declares (PS3.3 C.12.1, Coding Scheme Identification Sequence).

Patient and study attributes are copied from the image, as the standard asks (PS3.3 A.1.2.3): the
report belongs to the same study. It is unverified, preliminary, and qualified as research.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from medshadow import __version__
from medshadow.errors import DataError, OptionalDependencyError
from medshadow.service.dicomweb_line import quieten

if TYPE_CHECKING:
    from highdicom.sr import (
        CodedConcept,
        ContainerContentItem,
        ContentItem,
        EnhancedSR,
        MeasurementReport,
        MeasurementsAndQualitativeEvaluations,
    )
    from pydicom.dataset import Dataset

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
SERIES_DESCRIPTION = "MedShadow: similar cases (research use only)"

_NAMES = uuid.UUID("8f2b6f3e-6a0e-5d0c-9b59-0d1f5ad1c1b7")
_SEXES = {"male": "Male", "female": "Female", "other": "OtherSex"}
# Type 2 of the modules that are copied: there, if need be without a value.
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def lookup_report(answer: Mapping[str, Any], image: Dataset) -> EnhancedSR:
    """Make the structured report of a lookup.

    Args:
        answer: as ``LookupAnswer.to_dict`` gives it; at least one case was found.
        image: the header of the image that was looked up (``Instance.header``).

    Returns:
        A new instance in a new series of the image's study.

    Raises:
        DataError: no case was found, or the header lacks what a report needs.
        OptionalDependencyError: highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise OptionalDependencyError(
            "structured reports need highdicom: pip install 'medshadow[dicomweb]'"
        ) from error
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from highdicom.sr import EnhancedSR

    quieten("highdicom")
    if not answer["hits"]:
        raise DataError("structured report: no case was found, so there is nothing to report")
    evidence = _evidence(image)
    problem = ""
    try:
        return EnhancedSR(
            evidence=[evidence],
            content=_content(answer, evidence)[0],
            series_instance_uid=_uid(),
            series_number=1,
            sop_instance_uid=_uid(),
            instance_number=1,
            is_complete=True,
            manufacturer="MedShadow",
            manufacturer_model_name="MedShadow lookup",
            software_versions=__version__,
            device_serial_number=answer["archive"]["model_digest"][:64],
            series_description=SERIES_DESCRIPTION,
            content_qualification="RESEARCH",
            specific_character_set="ISO_IR 192",
            coding_schemes=[
                CodingSchemeIdentificationItem(
                    SCHEME, name="MedShadow", responsible_organization="MedShadow"
                )
            ],
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        problem = type(error).__name__
    # Outside the handler: what highdicom says quotes values.
    raise DataError(
        f"structured report: the header breaks the standard, or is not an image's ({problem})"
    )


def _evidence(image: Dataset) -> Dataset:
    """The header with every attribute that is copied, and no value that cannot be."""
    from pydicom.dataset import Dataset

    for keyword in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        if not image.get(keyword):
            raise DataError(f"structured report: the image's header has no {keyword}")
    evidence = Dataset()
    evidence.update(image)
    for keyword in _COPIED:
        if keyword not in evidence:
            setattr(evidence, keyword, None)
    if evidence.PatientSex not in ("M", "F", "O", "", None):
        evidence.PatientSex = None
    return evidence


def _content(answer: Mapping[str, Any], image: Dataset) -> MeasurementReport:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        uid=_uid("device", answer["archive"]["model_digest"]),
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
        imaging_measurements=[_group(answer, row, image) for row in _shown(answer)],
        title=codes.DCM.ImagingMeasurementReport,
        referenced_images=[image],
    )
    # Before the image library and the measurements: what to know before they are read.
    parts = report[0].ContentSequence
    before = next(i for i, item in enumerate(parts) if item.ValueType == "CONTAINER")
    for at, item in enumerate(_preface(answer)):
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
    answer: Mapping[str, Any], row: Mapping[str, Any], image: Dataset
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    archive = answer["archive"]
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=_uid("case", archive["name"], row["case_id"]),
            identifier=f"{archive['name']}: {row['case_id']}",
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name="MedShadow lookup",
            version=__version__,
            parameters=[f"model sha256:{archive['model_digest']}"],
        ),
        measurements=[sr.Measurement(_code("similarity"), row["similarity"], codes.UCUM.NoUnits)],
        source_images=[
            sr.SourceImageForMeasurementGroup(str(image.SOPClassUID), str(image.SOPInstanceUID))
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
    subject = _uid("subject", archive, row["group"])
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


def _uid(*names: str) -> str:
    """A UID of the form of PS3.5 B.2: random, or always the same for the same names."""
    made = uuid.uuid5(_NAMES, "\0".join(names)) if names else uuid.uuid4()
    return f"2.25.{made.int}"
