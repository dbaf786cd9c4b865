"""A study added to a case store from a real Orthanc."""

import pytest
import torch
from torch import nn

from medshadow.data import archive_cases
from medshadow.errors import DataError
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseStore, encode_images
from medshadow.service.dicomweb import DicomWeb
from medshadow.service.dicomweb_line import DicomWebError
from medshadow.service.structured_report import lookup_report
from medshadow.workflows.dicomweb import index_study

LABEL = "AdmittingDiagnosesDescription"
CLASSES = {"melanoma in situ": "mel", "naevus": "nv"}


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    settings = {"preset": "dermatology", "size": 32}
    return Embedder(Backbone("small", net), embedding_dim=4, preprocess=settings).eval()


@pytest.fixture
def store(tmp_path, embedder):
    with CaseStore.create(
        tmp_path / "cases.db", name="own", model_digest=embedder.digest, embedding_dim=4,
        preprocess=embedder.preprocess, malignant={"mel"},
    ) as opened:  # fmt: skip
        yield opened


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "site.key"
    path.write_text("k" * 32)
    return str(path)


@pytest.fixture
def add(study, store, embedder, key):
    """Index the study."""

    def run(source, **changes):
        given = {"label": LABEL, "classes": CLASSES, "site_key": key, "progress": False, **changes}
        return index_study(source, study, store, embedder, **given)

    return run


class Watched(DicomWeb):
    """A client that counts what it fetches, and breaks off after some."""

    def __init__(self, of, breaks_after=None):
        super().__init__(of.url, credentials=of.credentials)
        self.fetched, self.looked_at, self.breaks_after = 0, 0, breaks_after

    def header(self, reference, keywords):
        self.looked_at += 1
        return super().header(reference, keywords)

    def instance(self, reference):
        if self.fetched == self.breaks_after:
            raise DicomWebError("the line broke")
        self.fetched += 1
        return super().instance(reference)


@pytest.fixture
def watched(orthanc):
    orthanc.credentials = ":".join(orthanc.auth)

    def make(breaks_after=None):
        return Watched(orthanc, breaks_after)

    return make


def test_a_study_becomes_the_cases_that_its_files_would(
    add, dicomweb, photograph, pixels_of, store, embedder, key, tmp_path
):
    folder = tmp_path / "files"
    folder.mkdir()
    for n in (1, 2, 3):
        image = photograph(n)
        dicomweb.store(image)
        image.save_as(folder / f"{n}.dcm", enforce_file_format=True)
    found = add(dicomweb)
    assert (found.added, found.known, found.without_image, found.left_out) == (3, 0, 0, ())
    expected = archive_cases(
        folder, label=LABEL, group="PatientID", classes=CLASSES, site_key=key
    ).frame
    columns = ["case_id", "group", "label", "labels", "age", "sex"]
    kept = store.frame()[columns].sort_values("case_id", ignore_index=True)
    assert kept.equals(expected[columns].sort_values("case_id", ignore_index=True))
    vectors = encode_images(embedder, [pixels_of(n) for n in (1, 2, 3)])
    assert abs(store.embeddings() @ vectors.T).max(axis=1).min() > 1 - 1e-6
    assert store.thumbnail(kept["case_id"][0])[:2] == b"\xff\xd8"
    assert store.verify() == []


def test_stopped_at_any_image_it_goes_on_with_what_is_missing(add, dicomweb, photograph, watched):
    for n in (1, 2, 3):
        dicomweb.store(photograph(n))
    with pytest.raises(DicomWebError, match="the line broke"):
        add(watched(breaks_after=2))
    again = watched()
    assert (add(again).added, again.fetched, again.looked_at) == (1, 1, 1)
    at_last = watched()
    assert (add(at_last).known, at_last.fetched, at_last.looked_at) == (3, 0, 0)


def test_what_cannot_be_used_is_left_out_by_its_pseudonym(
    add, dicomweb, photograph, store, person, caplog
):
    dicomweb.store(photograph(1))
    dicomweb.store(photograph(2, AdmittingDiagnosesDescription="Erika's naevus"))
    dicomweb.store(photograph(3, BurnedInAnnotation="YES"))
    dicomweb.store(photograph(5, frames=2))
    with pytest.raises(DataError, match="series 1, image 2: label: found a value") as caught:
        add(dicomweb)
    assert len(store) == 0
    found = add(dicomweb, on_error="skip")
    assert found.added == len(store) == 1
    reasons = sorted(gone.reason for gone in found.left_out)
    assert [words in reason for words, reason in zip(
        ("BurnedInAnnotation is YES", "holds 2 frames", "none of classes"), reasons, strict=True
    )] == [True] * 3  # fmt: skip
    assert all(len(gone.case_id) == 24 for gone in found.left_out)
    said = f"{caught.value}{found}{caplog.text}"
    assert not [word for word in person if word in said]


def test_an_image_that_cannot_be_read_stops_it_with_its_pseudonym(add, dicomweb, photograph):
    dicomweb.store(photograph(3, BurnedInAnnotation="YES"))
    with pytest.raises(DataError, match=r"case [0-9a-f]{24}: .*BurnedInAnnotation is YES"):
        add(dicomweb)


def test_reports_are_passed_over(add, dicomweb, photograph, store):
    reference = dicomweb.store(photograph(1))
    row = {"rank": 1, "similarity": 0.9, "case_id": "c", "group": "g", "diagnosis": "naevus",
           "malignant": False}  # fmt: skip
    answer = {
        "notice": "n", "warnings": [], "hits": [row], "nearest_malignant": None,
        "archive": {"name": "a", "cases": 1, "groups": 1, "model_digest": "d"},
        "query": {"where": ""}, "share_in_this_archive": {},
    }  # fmt: skip
    dicomweb.store(lookup_report(answer, dicomweb.instance(reference).header))
    assert (add(dicomweb).without_image, len(store)) == (1, 1)


def test_withdrawn_cases_stay_out(add, dicomweb, photograph, store):
    for n in (1, 2):
        dicomweb.store(photograph(n))
    add(dicomweb)
    store.withdraw(store.frame()["case_id"][0])
    found = add(dicomweb)
    assert (found.added, found.known, found.withdrawn, len(store)) == (0, 1, 1, 1)


def test_the_store_holds_nothing_that_identifies(
    add, dicomweb, photograph, store, person, tmp_path
):
    for n in (1, 2):
        dicomweb.store(photograph(n))
    add(dicomweb, metadata=("Modality", "BodyPartExamined"))
    store.close()
    files = [path for path in tmp_path.iterdir() if path.name.startswith("cases.db")]
    held = b"".join(path.read_bytes() for path in files)
    assert b"mel" in held
    assert not [word for word in person if word.encode() in held]


def test_an_unknown_policy_is_refused(add, dicomweb):
    with pytest.raises(ValueError, match="on_error"):
        add(dicomweb, on_error="shrug")
