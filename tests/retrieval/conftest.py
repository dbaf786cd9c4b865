"""Drawn lesions, a small embedder and an empty store for the tests of retrieval."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from medshadow.data import CaseTable
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseStore

LABELS = ("nv", "nv", "mel", "bkl", "bcc")


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


@pytest.fixture
def store(tmp_path):
    """An empty store for four-dimensional vectors of model "m1"."""
    with CaseStore.create(
        tmp_path / "cases.db",
        name="tiny",
        model_digest="m1",
        embedding_dim=4,
        preprocess={"preset": "dermatology", "size": 32},
        malignant={"mel"},
        diagnosis_names={"mel": "melanoma"},
    ) as opened:
        yield opened
