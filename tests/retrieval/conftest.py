"""Drawn lesions and eyes, a small embedder, and empty stores in SQLite and PostgreSQL."""

from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps
from torch import nn

from medshadow.data import CaseTable
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import (
    CaseLookup,
    CaseStore,
    encode_cases,
    jpeg_thumbnail,
    thumbnails_of,
)

LABELS = ("nv", "nv", "mel", "bkl", "bcc")
STORE = {
    "name": "tiny",
    "source": "Drawn for tests",
    "model_digest": "m1",
    "embedding_dim": 4,
    "preprocess": {"preset": "dermatology", "size": 32},
    "malignant": {"mel"},
    "diagnosis_names": {"mel": "melanoma"},
}


@pytest.fixture(scope="session")
def embedder():
    """Two convolutions on images of 32 pixels, to 16 dimensions."""
    torch.manual_seed(3)
    features = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 24, 3, stride=2)
    )
    model = Embedder(
        Backbone("small", features),
        embedding_dim=16,
        preprocess={"preset": "dermatology", "size": 32},
    )
    return model.eval()


@pytest.fixture(scope="session")
def drawn_cases(tmp_path_factory) -> CaseTable:
    """Twelve lesions, two images each, of different colour, place and size."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(5)
    rows = []
    for lesion in range(12):
        for view in "ab":
            case_id = f"case{lesion:02}{view}"
            path = folder / f"file-{case_id}.png"
            draw_lesion(rng).save(path)
            rows.append(
                {
                    "case_id": case_id,
                    "image": str(path),
                    "group": f"lesion{lesion:02}",
                    "label": LABELS[lesion % len(LABELS)],
                    "dx_type": "histo" if lesion % 2 else "follow_up",
                    "age": None if lesion == 4 else 20.0 + 5 * lesion,
                    "sex": ("female", "male")[lesion % 2],
                    "localization": "lower extremity",
                }
            )
    return CaseTable(pd.DataFrame(rows), name="drawn", malignant=frozenset({"mel", "bcc"}))


def draw_lesion(rng: np.random.Generator) -> Image.Image:
    """A blot of random colour, place and size on skin, 60 x 45 pixels."""
    picture = Image.new("RGB", (60, 45), tuple(int(v) for v in rng.integers(150, 240, 3)))
    x, y = rng.uniform(5, 30, 2)
    box = [x, y, x + rng.uniform(8, 25), y + rng.uniform(5, 12)]
    ImageDraw.Draw(picture).ellipse(box, fill=tuple(int(v) for v in rng.integers(20, 160, 3)))
    return picture


@pytest.fixture(scope="session")
def fundus_embedder(embedder):
    """The same network behind the preset that mirrors left eyes."""
    settings = {"preset": "fundus", "size": 48}
    return Embedder(embedder.backbone, embedding_dim=16, preprocess=settings, seed=3).eval()


@pytest.fixture(scope="session")
def drawn_eyes(tmp_path_factory) -> CaseTable:
    """The eyes of six patients; the left eye of each is its right eye's mirror image."""
    folder = tmp_path_factory.mktemp("eyes")
    rng = np.random.default_rng(8)
    sets = [{"D", "H"}, {"D"}, {"N"}, {"O"}, {"G", "O"}, {"N"}]
    keywords = ["moderate non proliferative retinopathy; hypertensive retinopathy",
                "mild nonproliferative retinopathy; lens dust", "normal fundus", "drusen",
                "glaucoma; laser spot", "normal fundus"]  # fmt: skip
    rows = []
    for patient, (labels, words) in enumerate(zip(sets, keywords, strict=True)):
        right = draw_fundus(rng)
        for eye, picture in (("right", right), ("left", ImageOps.mirror(right))):
            path = folder / f"file-{patient}-{eye}.png"
            picture.save(path)
            rows.append(
                {
                    "case_id": f"{patient}_{eye}",
                    "image": str(path),
                    "group": str(patient),
                    "label": max(labels),
                    "labels": frozenset(labels),
                    "findings": frozenset(labels - {"O"}) | {f"O: {words}"},
                    "eye": eye,
                    "age": 50 + patient,
                    "keywords": words,
                    "lens_dust": patient == 1,
                    "low_image_quality": False,
                }
            )
    return CaseTable(
        pd.DataFrame(rows),
        name="eyes",
        malignant=frozenset({"D", "G"}),
        healthy=frozenset({"N"}),
    )


def draw_fundus(rng: np.random.Generator) -> Image.Image:
    """A round field on black with a disc of light and spots to one side of it, 96 x 80 pixels."""
    picture = Image.new("RGB", (96, 80), "black")
    pen = ImageDraw.Draw(picture)
    pen.ellipse([12, 4, 84, 76], fill=(150, int(rng.integers(50, 90)), 40))
    pen.ellipse([62, 30, 76, 46], fill=(240, 220, 150))
    for x, y in rng.integers(20, 60, (int(rng.integers(2, 6)), 2)):
        pen.ellipse([x, y, x + 6, y + 5], fill=tuple(int(v) for v in rng.integers(10, 250, 3)))
    return picture


@contextmanager
def lookup_in(path, embedder, cases, names):
    """A lookup in a new store of these cases, with thumbnails."""
    with CaseStore.create(
        path,
        name=cases.name,
        model_digest=embedder.digest,
        embedding_dim=embedder.embedding_dim,
        preprocess=embedder.preprocess,
        malignant=cases.malignant,
        diagnosis_names=names,
    ) as opened:
        opened.add(
            cases,
            encode_cases(embedder, cases, progress=False),
            model_digest=embedder.digest,
            thumbnails=thumbnails_of(cases.frame["image"], progress=False),
        )
        yield CaseLookup(opened, embedder)


@pytest.fixture
def lookup(tmp_path, embedder, drawn_cases):
    """A lookup in a store of the drawn lesions."""
    names = {"mel": "melanoma", "bcc": "basal cell carcinoma", "nv": "naevus"}
    with lookup_in(tmp_path / "cases.db", embedder, drawn_cases, names) as made:
        yield made


@pytest.fixture
def query(drawn_cases):
    """The path of case00a, an image of lesion00."""
    return drawn_cases.frame["image"][0]


@pytest.fixture
def eye_lookup(tmp_path, fundus_embedder, drawn_eyes):
    """A lookup in a store of the drawn eyes."""
    names = {"D": "diabetic retinopathy", "H": "hypertensive retinopathy", "G": "glaucoma",
             "N": "normal fundus", "O": "other finding"}  # fmt: skip
    with lookup_in(tmp_path / "eyes.db", fundus_embedder, drawn_eyes, names) as made:
        yield made


@pytest.fixture
def store(tmp_path):
    """An empty store for four-dimensional vectors of model "m1"."""
    with CaseStore.create(tmp_path / "cases.db", **STORE) as opened:
        yield opened


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request, tmp_path):
    """Where a store may be made: a SQLite file or an empty PostgreSQL database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'cases.db'}"
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def settings():
    """What ``CaseStore.create`` is told of the empty stores."""
    return dict(STORE)


@pytest.fixture
def any_store(database):
    """An empty store as ``store``, in SQLite and in PostgreSQL."""
    with CaseStore.create(database, **STORE) as opened:
        yield opened


class Some:
    """Cases for tests of the store."""

    @staticmethod
    def vectors(n: int, dim: int = 4, seed: int = 0) -> np.ndarray:
        """N random unit vectors."""
        made = np.random.default_rng(seed).normal(size=(n, dim))
        return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)

    @staticmethod
    def frame(n: int, prefix: str = "c", **columns) -> pd.DataFrame:
        """N cases c0, c1, ..., two in each group."""
        ids = [f"{prefix}{i}" for i in range(n)]
        groups = [f"g{i // 2}" for i in range(n)]
        return pd.DataFrame({"case_id": ids, "group": groups, "label": "nv", **columns})

    @staticmethod
    def picture(value: int) -> bytes:
        """A grey JPEG."""
        return jpeg_thumbnail(np.full((6, 8, 3), value, dtype=np.uint8))

    def fill(self, store: CaseStore, n: int, prefix: str = "c", seed: int = 0, **columns) -> None:
        """Add n cases without pictures."""
        store.add(self.frame(n, prefix, **columns), self.vectors(n, seed=seed), model_digest="m1")


@pytest.fixture
def some():
    """Cases, vectors and pictures to put into a store."""
    return Some()
