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

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from medshadow import __version__
from medshadow.errors import DataError, OptionalDependencyError
from medshadow.service.dicomweb_line import quieten
from medshadow.service.report_content import SCHEME, new_uid, report_content

if TYPE_CHECKING:
    from highdicom.sr import EnhancedSR
    from pydicom.dataset import Dataset

SERIES_DESCRIPTION = "MedShadow: similar cases (research use only)"

_PHOTOGRAPH = "1.2.840.10008.5.1.4.1.1.77.1.4"
# Type 2 of the modules that are copied: there, if need be without a value.
_COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate",
    "StudyTime", "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip


def lookup_report(
    answer: Mapping[str, Any], image: Dataset, frame: int | None = None
) -> EnhancedSR:
    """Make the structured report of a lookup.

    Args:
        answer: as ``LookupAnswer.to_dict`` gives it; at least one case was found.
        image: the header of the image that was looked up (``Instance.header``).
        frame: which of its frames, from 1; None where it has one.

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

    quieten("highdicom")
    if not answer["hits"]:
        raise DataError("structured report: no case was found, so there is nothing to report")
    evidence = _evidence(image)
    problem = ""
    try:
        return _document(
            evidence=[evidence],
            content=report_content(answer, evidence, frame)[0],
            series_instance_uid=new_uid(),
            series_number=1,
            sop_instance_uid=new_uid(),
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


def _document(**given: Any) -> EnhancedSR:
    from highdicom.sr import EnhancedSR

    class Document(EnhancedSR):
        def copy_patient_and_study_information(self, dataset: Dataset) -> None:
            """Copy the modules of patient and study, which every image has alike.

            Which attributes they hold, highdicom looks up by the class of the image, and it does
            not know each class: not that of dermoscopic photographs.
            """
            alike = type(dataset)()
            alike.update(dataset)
            alike.SOPClassUID = _PHOTOGRAPH
            super().copy_patient_and_study_information(alike)

    return Document(**given)


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
