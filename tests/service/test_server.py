"""``medshadow serve``: a real server, asked over a real connection."""

import os
import re
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from importlib.util import find_spec

import httpx2 as httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from medshadow.cli import app
from medshadow.data.in_memory import read_image_bytes
from medshadow.networks import Embedder
from medshadow.retrieval import CaseLookup, CaseStore

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-c", "from medshadow.cli import main; main()"]
# The command itself, but for the export to ONNX, which takes longer than all the rest.
COMMAND_WITHOUT_ONNX = [
    sys.executable,
    "-c",
    """
from medshadow.cli import main
from medshadow.retrieval.encoders import TorchEncoder
from medshadow.service import engine

engine.best_encoder = lambda embedder, threads: TorchEncoder(embedder)
main()
""",
]


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def served(settings, tokens, port, tmp_path):
    """Run a command that serves; gives a client of it and, at the end, what it said and logged."""

    @contextmanager
    def run(command):
        (tmp_path / "token").write_text(f"{tokens.reader}\n")
        environment = {**os.environ, "MEDSHADOW_CURATOR_TOKEN": tokens.curator}
        arguments = ["--cases", str(settings.cases), "--model", str(settings.model)]
        arguments += ["--port", str(port), "--token-file", str(tmp_path / "token")]
        server = subprocess.Popen(
            [*command, "serve", *arguments],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        written = []
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _wait_until_ready(client, server)
                yield client, written
        finally:
            server.terminate()
            written += server.communicate(timeout=60)

    return run


@pytest.mark.slow
def test_the_command_serves_until_it_is_stopped(served, settings, tokens, lesion, port):
    with served(COMMAND_WITHOUT_ONNX) as (client, written):
        assert client.get("/api/cases?cursor=Jones").status_code == 401
        client.headers["Authorization"] = f"Bearer {tokens.reader}"
        response = client.post("/api/lookup", files={"image": ("Jones.png", lesion)})
        assert len(response.json()["hits"]) == 12
        assert "server" not in response.headers
        client.headers["Authorization"] = f"Bearer {tokens.curator}"
        assert client.get("/api/trail").json()["entries"][0]["by"] == "reader"
    said, logged = written
    assert f"12 cases of drawn lesions at http://127.0.0.1:{port}" in said
    assert "POST /api/lookup 200" in logged
    for secret in ("Jones", "case0", "cursor", str(settings.cases), tokens.reader, tokens.curator):
        assert secret not in logged
    assert "Traceback" not in logged


def test_with_onnx_runtime_it_finds_what_pytorch_finds(
    served, settings, tokens, lesion, integration
):
    for package in ("onnxruntime", "onnx", "onnxscript"):
        integration(find_spec(package) is not None, f"no {package}; the extra is service")
    with CaseStore(settings.cases) as store:
        images = [lesion, *(store.thumbnail(f"case{n:02}") for n in (0, 5, 10))]
        by_torch = CaseLookup(store, Embedder.load(settings.model))
        expected = [by_torch.lookup(read_image_bytes(image), k=12).hits for image in images]
    with served(COMMAND) as (client, written):
        client.headers["Authorization"] = f"Bearer {tokens.reader}"
        answers = [client.post("/api/lookup", files={"image": image}).json() for image in images]
    assert "PyTorch" not in written[1]  # no warning that ONNX Runtime could not be used
    for answer, hits in zip(answers, expected, strict=True):
        found = answer["hits"]
        assert [hit["case_id"] for hit in found] == [hit.case_id for hit in hits]
        np.testing.assert_allclose(
            [hit["similarity"] for hit in found], [hit.similarity for hit in hits], atol=1e-4
        )


def _wait_until_ready(client, server):
    end = time.monotonic() + 300
    while time.monotonic() < end:
        assert server.poll() is None, server.communicate()
        try:
            if client.get("/ready").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.2)
    pytest.fail("the server was not ready in five minutes")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "nobody may look anything up"),
        (["--host", "0.0.0.0", "--insecure-local"], "loopback"),
        (["--identity-header", "X-User"], "go together"),
        (["--token-file", "/nowhere/token"], "/nowhere/token"),
    ],
)
def test_it_does_not_start_open_to_everybody(arguments, words, monkeypatch):
    for variable in ("MEDSHADOW_TOKEN", "MEDSHADOW_CURATOR_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 1
    assert words in str(done.exception)


def test_the_help_has_an_example():
    done = CliRunner().invoke(app, ["serve", "--help"])
    assert re.search(r"Example:\s+medshadow serve", done.output)
