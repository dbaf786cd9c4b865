"""Lookups by DICOMweb reference and their structured reports, through the service and Orthanc."""

import io
import logging
import shutil
import socket
import subprocess

import pydicom
import pytest

from medshadow.service.dicomweb_line import CREDENTIALS

K = 3


@pytest.fixture
def clinic(serve, tokens, orthanc, monkeypatch):
    """A reader's client of a service that may ask Orthanc."""
    monkeypatch.setenv(CREDENTIALS, ":".join(orthanc.auth))
    return serve(token=tokens.reader, dicomweb=orthanc.url)


def look_up(client, reference, **fields):
    # Multipart, as for an upload: a field without a file name.
    named = {"reference": reference, "k": K, **fields}
    return client.post("/api/lookup", files={k: (None, str(v)) for k, v in named.items()})


def report(client, reference, **fields):
    return client.post("/api/report", json={"reference": reference, "k": K, **fields})


def test_an_image_is_looked_up_by_its_reference(clinic, dicomweb, photograph):
    image = photograph(11)
    reference = dicomweb.store(image)
    named = look_up(clinic, f"{dicomweb.url}/{reference}").json()
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    fields = {"image": ("a.dcm", file.getvalue()), "k": (None, str(K))}
    uploaded = clinic.post("/api/lookup", files=fields).json()
    assert len(named["hits"]) == K
    assert named["hits"] == uploaded["hits"]


def test_the_answer_is_stored_as_a_report_that_dsrdump_reads(
    clinic, dicomweb, orthanc, photograph, study, integration, tmp_path
):
    program = shutil.which("dsrdump")
    integration(program is not None, "dsrdump is missing: apt-get install dcmtk")
    image = photograph(12)
    response = report(clinic, dicomweb.store(image), where="sex=female")
    assert response.status_code == 201, response.text
    found = response.json()
    assert found["report"] in dicomweb.instances(study)
    path = tmp_path / "report.dcm"
    path.write_bytes(orthanc.file_of(found["report"].rsplit("/", 1)[1]))
    done = subprocess.run([program, "+Pl", "+Pu", str(path)], capture_output=True, check=True)
    dump = done.stdout.decode()
    assert "Enhanced SR Document" in dump
    assert found["answer"]["notice"] in dump
    assert f"model sha256:{found['answer']['archive']['model_digest']}" in dump
    for hit in found["answer"]["hits"]:
        assert f"drawn lesions: {hit['case_id']}" in dump
        assert f'embeddings")="{hit["similarity"]:g}' in dump
    stored = pydicom.dcmread(path)
    assert (stored.PatientID, stored.StudyInstanceUID) == (image.PatientID, study)
    assert image.SOPInstanceUID in dump


def test_the_query_of_a_report_can_be_refined(clinic, dicomweb, photograph):
    answer = report(clinic, dicomweb.store(photograph(13))).json()["answer"]
    asked = {"token": answer["token"], "relevant": [answer["hits"][0]["case_id"]]}
    assert clinic.post("/api/refine", json=asked).json()["refined"]


def test_a_report_of_no_case_is_not_stored(clinic, dicomweb, photograph, study):
    response = report(clinic, dicomweb.store(photograph(14)), where="age>=120")
    assert response.status_code == 422
    assert "no case was found" in response.json()["detail"]
    assert len(dicomweb.instances(study)) == 1


def test_errors_are_problems_that_name_nobody(clinic, dicomweb, photograph, study):
    several = dicomweb.store(photograph(15, frames=2))
    for reference, status, words in (
        (f"studies/{study}/series/1.2/instances/1.3", 404, "no such instance"),
        ("studies/1.2", 422, "reference: expected studies/UID"),
        (several, 422, "holds 2 frames"),
        (f"http://127.0.0.1:1/studies/{study}/series/1.2/instances/1.3", 422, "another server"),
    ):
        for ask in (look_up, report):
            response = ask(clinic, reference)
            assert response.status_code == status
            assert response.headers["content-type"] == "application/problem+json"
            assert words in response.json()["detail"]
            assert study not in response.text


def test_only_the_configured_server_is_asked(clinic, dicomweb, photograph):
    path = dicomweb.store(photograph(16))
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.3)
        root = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/dicom-web"
        assert look_up(clinic, f"{root}/{path}").status_code == 422
        assert report(clinic, f"{root}/{path}").status_code == 422
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_a_server_that_does_not_answer_is_a_bad_gateway(serve, tokens, study):
    client = serve(token=tokens.reader, dicomweb="http://127.0.0.1:1/dicom-web")
    response = look_up(client, f"studies/{study}/series/1.2/instances/1.3")
    assert response.status_code == 502
    assert "does not answer" in response.json()["detail"]
    assert study not in response.text


def test_without_a_server_a_reference_is_refused(serve, tokens):
    client = serve(token=tokens.reader)
    for ask in (look_up, report):
        response = ask(client, "studies/1.2/series/1.2/instances/1.3")
        assert response.status_code == 422
        assert "no DICOMweb server" in response.json()["detail"]


def test_strangers_get_neither_image_nor_report(serve, orthanc, dicomweb, photograph, study):
    stranger = serve(dicomweb=orthanc.url)
    reference = dicomweb.store(photograph(17))
    for ask in (look_up, report):
        assert ask(stranger, reference).status_code == 401
    assert len(dicomweb.instances(study)) == 1


def test_nothing_that_identifies_stays_with_us(
    clinic, dicomweb, photograph, person, settings, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    reference = dicomweb.store(photograph(18, PatientName="Erika Mustermann"))
    shown = look_up(clinic, reference)
    assert report(clinic, reference).status_code == 201
    report(clinic, f"{reference}.9")
    # The test's own client logs the addresses that it asks, which hold no more than the route.
    said = caplog.text + "".join(capfd.readouterr()) + shown.text
    assert not [word for word in person if word in said]
    trail = clinic.app.state.engine.store.trail()
    assert "Mustermann" not in trail.to_csv()
    files = [path for path in settings.cases.parent.iterdir() if path.name.startswith("cases.db")]
    held = b"".join(path.read_bytes() for path in files)
    assert len(files) >= 1
    assert not [word for word in person if word.encode() in held]
