"""``medshadow index add-study`` against Orthanc."""

import json

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseStore
from medshadow.service.dicomweb_line import CREDENTIALS


@pytest.fixture
def add_study(tmp_path, monkeypatch, orthanc):
    """The command, on an empty store."""
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    settings = {"preset": "dermatology", "size": 32}
    embedder = Embedder(Backbone("small", net), embedding_dim=4, preprocess=settings).eval()
    monkeypatch.setattr(Embedder, "load", lambda folder: embedder)
    monkeypatch.setenv("MEDSHADOW_SITE_KEY", "k" * 32)
    monkeypatch.setenv(CREDENTIALS, ":".join(orthanc.auth))
    cases = tmp_path / "cases.db"
    CaseStore.create(
        cases, name="own", model_digest=embedder.digest, embedding_dim=4, preprocess=settings
    ).close()

    def run(*words, stdin=None):
        given = ["--dicomweb", orthanc.url, "--label", "AdmittingDiagnosesDescription",
                 "--class", "melanoma in situ=mel", "--model", "model",
                 "--cases", str(cases)]  # fmt: skip
        return CliRunner().invoke(app, ["index", "add-study", *given, *words], input=stdin)

    return run


def test_a_study_is_added_once_and_what_stays_out_is_said(
    add_study, dicomweb, photograph, study, person
):
    for n in (1, 2, 4):
        dicomweb.store(photograph(n))
    done = add_study("--study", "-", stdin=f"{study}\n")
    assert done.exit_code == 0, done.output
    assert "2 cases added, 0 were there, 1 cannot be used; 2 in all" in done.stdout
    assert "none of classes" in done.stdout
    again = add_study("--study", study, "--class", "naevus=nv", "--json")
    found = json.loads(again.stdout)
    assert (found["added"], found["known"], found["cases"]) == (1, 2, 3)
    assert not [word for word in person if word in done.output]


def test_a_class_that_is_none_is_refused(add_study, study):
    done = add_study("--study", study, "--class", "naevus")
    assert done.exit_code == 2
    assert "FOUND=LABEL" in done.output
