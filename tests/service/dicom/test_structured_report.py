"""The structured report: read back, and read by other programs."""

import logging
import shutil
import subprocess
from copy import deepcopy

import pydicom
import pytest
from pydicom.sr.codedict import codes

from medshadow.errors import DataError
from medshadow.service.report_content import CODES, SCHEME
from medshadow.service.structured_report import lookup_report


def _row(rank, **changes):
    return {
        "rank": rank, "similarity": 0.95 - rank / 100, "case_id": f"case{rank}",
        "group": f"lesion{rank}", "label": "nv", "labels": ["nv"], "diagnosis": "naevus",
        "malignant": False, "established": "histology", "age": 50.0, "sex": "female",
        "site": "back", "laterality": None, "keywords": None, "metadata": {}, **changes,
    }  # fmt: skip


ANSWER = {
    "notice": "Research use only. Not a medical device.",
    "warnings": [{"code": "few_cases", "text": "Only 2 distinct cases are in the archive."}],
    "archive": {"name": "drawn", "source": "drawn lesions (phantoms)", "cases": 30, "groups": 20,
                "model_digest": "ab" * 32, "malignant_word": "malignant"},
    "query": {"k": 2, "where": "age>=40", "matching_groups": 2, "excluded_groups": [],
              "laterality": ""},
    "vote": {"label": "nv", "diagnosis": "naevus"},
    "share_in_this_archive": {"nv": 1.0},
    "probability": {"value": 0.12, "low": 0.05, "high": 0.25, "prevalence": 0.02, "cases": 400},
    "hits": [_row(1), _row(2, established=None, age=None, sex="unknown")],
    "nearest_malignant": {
        **_row(9, diagnosis="Melanom, größer", malignant=True), "outside_filter": True
    },
}  # fmt: skip


@pytest.fixture
def image(photograph):
    """The header of a photograph, as a client gives it."""
    header = photograph(1)
    del header.PixelData
    return header


@pytest.fixture
def written(image, tmp_path):
    """The report as a file."""
    path = tmp_path / "report.dcm"
    lookup_report(ANSWER, image).save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dumped(integration, tmp_path):
    """What dcmtk's dsrdump, which checks class and relations, reads in a report."""
    program = shutil.which("dsrdump")
    integration(program is not None, "dsrdump is missing: apt-get install dcmtk")

    def dump(report):
        path = tmp_path / "dumped.dcm"
        report.save_as(path, enforce_file_format=True)
        done = subprocess.run(
            [program, "+Pc", "+Pl", "+Pu", str(path)], capture_output=True, check=True
        )
        assert b"E:" not in done.stderr
        return done.stdout.decode()

    return dump


def test_dsrdump_reads_the_whole_report(image, dumped):
    dump = dumped(lookup_report(ANSWER, image))
    assert dump.startswith("Enhanced SR Document")
    for words in (
        '(126000,DCM,"Imaging Measurement Report")',
        "Research use only. Not a medical device.",
        "Only 2 distinct cases are in the archive.",
        "drawn (drawn lesions (phantoms)): 30 images of 20 lesions or patients; filter: age>=40",
        "0.120 (0.050 to 0.250) at a prevalence of 0.020, calibrated on 400 validation cases",
        '(similarity,99MEDSHADOW,"Cosine similarity of embeddings")="0.94"',
        f"model sha256:{'ab' * 32}",
        "similar case 2 of 2",
        "nearest malignant case, rank 9, outside the filter",
        "Melanom, größer (counts as malignant in this archive)",
        "drawn: case9",
    ):
        assert words in dump, words
    assert dump.count('(125007,DCM,"Measurement Group")') == 3
    assert "Verification Flag   : UNVERIFIED" in dump
    assert "Preliminary Flag    : PRELIMINARY" in dump


def test_it_belongs_to_the_study_of_the_image(written, image):
    report = pydicom.dcmread(written)
    for keyword in (
        "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate",
        "StudyInstanceUID", "StudyID", "AccessionNumber", "ReferringPhysicianName",
    ):  # fmt: skip
        assert report[keyword].value == image[keyword].value, keyword
    assert report.SOPClassUID == "1.2.840.10008.5.1.4.1.1.88.22"
    assert report.SeriesInstanceUID != image.SeriesInstanceUID
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    (referenced,) = series.ReferencedSOPSequence
    assert referenced.ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert report.ContentQualification == "RESEARCH"
    assert report.DeviceSerialNumber == "ab" * 32


@pytest.mark.parametrize(
    ("sop_class", "modality", "coded"),
    [
        ("1.2.840.10008.5.1.4.1.1.77.1.4", "XC", "XC"),
        ("1.2.840.10008.5.1.4.1.1.77.1.7", "DMS", "DMS"),  # dermoscopic photographs
        ("1.2.840.10008.5.1.4.1.1.77.1.5.1", "OP", "OP"),
        ("1.2.840.10008.5.1.4.1.1.77.1.5.7", "OCT", "OCT"),
        ("1.2.840.10008.5.1.4.1.1.7", "ZZ", "OT"),
    ],
)
def test_every_kind_of_image_can_be_reported_on(image, dumped, sop_class, modality, coded):
    image.SOPClassUID, image.Modality = sop_class, modality
    report = lookup_report(ANSWER, image)
    assert report.PatientID == image.PatientID
    references = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert references.ReferencedSOPSequence[0].ReferencedSOPClassUID == sop_class
    dump = dumped(report)
    assert f'(121139,DCM,"Modality")=({coded},DCM,' in dump


def test_the_frame_that_was_looked_up_is_named(image, dumped):
    image.SOPClassUID, image.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.77.1.5.1", 3
    report = lookup_report(ANSWER, image, 2)
    images = [item for item in _items(report) if item.ValueType == "IMAGE"]
    assert [item.ReferencedSOPSequence[0].ReferencedFrameNumber for item in images] == [2] * 4
    assert dumped(report)


def test_the_only_frame_is_not_named(image):
    for item in _items(lookup_report(ANSWER, image, 1)):
        for reference in item.get("ReferencedSOPSequence", ()):
            assert "ReferencedFrameNumber" not in reference


def test_the_diagnoses_are_said_to_be_another_persons(written):
    containers = [
        item for item in _items(pydicom.dcmread(written)) if _name(item) == "archive-case"
    ]
    assert len(containers) == 3
    subjects = set()
    for container in containers:
        context = [i for i in container.ContentSequence if i.RelationshipType == "HAS OBS CONTEXT"]
        assert context[0].ConceptCodeSequence[0].CodeValue == codes.DCM.Patient.value
        subjects.add(context[1].UID)
    assert len(subjects) == 3
    first = {_name(item): item for item in containers[0].ContentSequence}
    assert first[codes.DCM.SubjectAge.value].MeasuredValueSequence[0].NumericValue == 50
    assert first[codes.DCM.SubjectSex.value].ConceptCodeSequence[0].CodeValue == "F"
    second = {_name(item) for item in containers[1].ContentSequence}
    assert not second & {codes.DCM.SubjectAge.value, codes.DCM.SubjectSex.value, "established"}


def test_no_diagnosis_is_coded_and_none_stands_outside(written):
    items = list(_items(pydicom.dcmread(written)))
    coded = {_name(item) for item in items if item.ValueType == "CODE"}
    about = ("121049", "121005", "121058", "121139", "121024", "121032")
    assert coded == set(about)  # language, observer, procedure, modality, subject's class and sex
    naming = [item for item in items if "naevus" in str(item.get("TextValue", ""))]
    inside = [
        child
        for item in items
        if _name(item) == "archive-case"
        for child in item.ContentSequence
        if _name(child) == "diagnosis"
    ]
    assert len(naming) == 2
    assert all(any(item is child for child in inside) for item in naming)


def test_the_same_case_has_the_same_uids_in_each_report(image):
    first, second = lookup_report(ANSWER, image), lookup_report(ANSWER, image)
    assert first.SOPInstanceUID != second.SOPInstanceUID
    names = ("112040", "121028")

    def uids(report):
        return [item.UID for item in _items(report) if _name(item) in names]

    assert uids(first) == uids(second)
    assert len(set(uids(first))) == 6


def test_every_own_code_is_declared_and_fits(written):
    report = pydicom.dcmread(written)
    declared = {item.CodingSchemeDesignator for item in report.CodingSchemeIdentificationSequence}
    assert declared == {SCHEME}
    assert all(len(code) <= 16 and len(meaning) <= 64 for code, meaning in CODES.items())


def test_a_name_that_is_none_passes_and_is_not_repeated(image, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    image.PatientName, image.PatientSex = "Erika Mustermann", "W"
    report = lookup_report(ANSWER, image)
    assert report.PatientName == "Erika Mustermann"
    said = caplog.text + "".join(capfd.readouterr())
    assert "Mustermann" not in said


def test_a_header_without_the_copied_attributes_will_do(image):
    for keyword in ("PatientName", "PatientBirthDate", "StudyTime", "AccessionNumber"):
        delattr(image, keyword)
    assert not lookup_report(ANSWER, image).PatientName


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Rows": None}, "breaks the standard"),
        ({"StudyInstanceUID": ""}, "no StudyInstanceUID"),
    ],
)
def test_a_header_that_will_not_do_is_refused(image, change, words):
    for keyword, value in change.items():
        setattr(image, keyword, value)
    with pytest.raises(DataError, match=words) as caught:
        lookup_report(ANSWER, image)
    assert "PAT-4711" not in str(caught.value)
    assert caught.value.__context__ is None


def test_without_a_case_there_is_no_report(image):
    empty = deepcopy(ANSWER)
    empty["hits"] = []
    with pytest.raises(DataError, match="no case was found"):
        lookup_report(empty, image)


def _items(item):
    """All content items below one."""
    for child in item.get("ContentSequence", ()):
        yield child
        yield from _items(child)


def _name(item):
    found = item.get("ConceptNameCodeSequence")
    return found[0].CodeValue if found else ""
