"""A service of drawn lesions behind a small network with random weights."""

import io
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from medshadow.networks import Embedder, backbone
from medshadow.retrieval import CaseStore, encode_images, jpeg_thumbnail
from medshadow.retrieval.encoders import QueryViews, TorchEncoder
from medshadow.service import Limits, ServiceSettings, create_app, engine

READER = "reader-token-of-the-tests"
CURATOR = "curator-token-of-the-tests"
FORM_TOKEN = re.compile(r'name="csrf_token" value="(\w+)"')
LABELS = ("nv", "nv", "mel", "bkl", "bcc")


def draw_lesion(seed: int, width: int = 90, height: int = 68) -> np.ndarray:
    """A blot on skin, uint8 height x width x 3."""
    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(int(v) for v in rng.integers(150, 240, 3)))
    x, y = rng.uniform(5, 45, 2)
    box = [x, y, x + rng.uniform(12, 40), y + rng.uniform(8, 20)]
    ImageDraw.Draw(picture).ellipse(box, fill=tuple(int(v) for v in rng.integers(20, 160, 3)))
    return np.array(picture)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """An image file's content."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def _embedder(pixels: list[np.ndarray]) -> Embedder:
    """Random weights, with the statistics of these images: without, all images look alike."""
    torch.manual_seed(2)
    embedder = Embedder(
        backbone("efficientnet-lite0", pretrained=False),
        embedding_dim=16,
        preprocess={"preset": "dermatology", "size": 64},
    )
    for module in embedder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # the mean over all that it has seen
    views = QueryViews(embedder)
    with torch.no_grad():
        embedder.train()(torch.stack([views(image)[0] for image in pixels]))
    return embedder.eval()


@pytest.fixture(scope="session", name="draw_lesion")
def _draw_lesion():
    """Draw a lesion: seed -> uint8 height x width x 3."""
    return draw_lesion


@pytest.fixture(scope="session")
def _archive(tmp_path_factory):
    """(store, model folder), never written to."""
    folder = tmp_path_factory.mktemp("archive")
    pixels = [draw_lesion(seed) for seed in range(12)]
    embedder = _embedder(pixels)
    embedder.save(folder / "model")
    frame = pd.DataFrame(
        {
            "case_id": [f"case{n:02}" for n in range(12)],
            "group": [f"lesion{n:02}" for n in range(12)],
            "label": [LABELS[n % len(LABELS)] for n in range(12)],
            "dx_type": ["histo", "follow_up"] * 6,
            "age": [None if n == 4 else 20.0 + 5 * n for n in range(12)],
            "sex": ["female", "male"] * 6,
        }
    )
    with CaseStore.create(
        folder / "cases.db",
        name="drawn lesions",
        model_digest=embedder.digest,
        embedding_dim=16,
        preprocess=embedder.preprocess,
        malignant={"mel", "bcc"},
        diagnosis_names={"nv": "naevus", "mel": "melanoma"},
    ) as store:
        store.add(
            frame,
            encode_images(embedder, pixels),
            model_digest=embedder.digest,
            thumbnails=[jpeg_thumbnail(image) for image in pixels],
        )
    return folder / "cases.db", folder / "model"


@pytest.fixture
def settings(_archive, tmp_path):
    """Settings of a service of its own copy of the archive, with both tokens."""
    cases, model = _archive
    copy = tmp_path / "cases.db"
    copy.write_bytes(cases.read_bytes())
    return ServiceSettings(
        cases=copy,
        model=model,
        reader_token=READER,
        curator_token=CURATOR,
        limits=Limits(seconds=600),  # however busy the machine is
    )


@pytest.fixture
def serve(settings, monkeypatch):
    """Start a service with other settings than the usual ones; returns a client of it."""
    open_clients = []
    # The export to ONNX takes seconds, and has tests of its own.
    monkeypatch.setattr(engine, "best_encoder", lambda embedder, threads: TorchEncoder(embedder))

    def start(*, base_url="http://127.0.0.1", token=None, **changes):
        app = create_app(replace(settings, **changes))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        client = TestClient(
            app, base_url=base_url, headers=headers, client=("127.0.0.1", 5000),
            raise_server_exceptions=False, follow_redirects=False,
        )  # fmt: skip
        open_clients.append(client.__enter__())
        return client

    yield start
    for client in open_clients:
        client.__exit__(None, None, None)


@pytest.fixture
def reader(serve):
    """A client with the reader's token."""
    return serve(token=READER)


@pytest.fixture
def curator(serve):
    """A client with the curator's token."""
    return serve(token=CURATOR)


@pytest.fixture
def stranger(serve):
    """A client without a token."""
    return serve()


@pytest.fixture(scope="session")
def tokens():
    """The tokens of the reader and of the curator."""
    return SimpleNamespace(reader=READER, curator=CURATOR)


@pytest.fixture(scope="session")
def log_in():
    """Sign in as a browser does: load the page with the form, and send it."""

    def sign_in(client, token, **how):
        form = FORM_TOKEN.search(client.get("/login").text)[1]
        return client.post("/login", data={"csrf_token": form, "token": token}, **how)

    return sign_in


@pytest.fixture(scope="session")
def lesion() -> bytes:
    """A PNG of a lesion that is not in the archive."""
    return encoded(draw_lesion(99))
