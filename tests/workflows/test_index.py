"""A store built by one call: calibrated where there are validation cases, or not there at all."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from medshadow.data import CaseTable
from medshadow.errors import ImageReadError, StoreError
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseLookup
from medshadow.workflows import build_index


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(1)
    settings = {"preset": "dermatology", "size": 32}
    network = Backbone("small", torch.nn.Conv2d(3, 8, 5, stride=3))
    return Embedder(network, embedding_dim=8, preprocess=settings).eval()


def cases(folder, first, count):
    rng = np.random.default_rng(first)
    rows = []
    for number in range(first, first + count):
        path = folder / f"{number}.png"
        skin = rng.normal([210, 170, 150], 6) + rng.normal(0, 8, (40, 50, 1))
        Image.fromarray(np.clip(skin, 0, 255).astype(np.uint8)).save(path)
        label = "mel" if number % 2 else "nv"
        rows.append({"case_id": f"c{number}", "image": str(path), "group": f"g{number}",
                     "label": label})  # fmt: skip
    frame = pd.DataFrame(rows)
    return CaseTable(frame, "drawn", malignant=frozenset({"mel"}), source="drawn.csv")


def test_with_validation_cases_the_store_is_calibrated_and_says_where_it_is_from(
    tmp_path, embedder
):
    known, held_out = cases(tmp_path, 0, 25), cases(tmp_path, 100, 25)
    with build_index(embedder, known, tmp_path / "a.db", validation=held_out) as store:
        assert store.source == "drawn.csv"
        assert store.calibration["familiarity"]["images"] == 25
        answer = CaseLookup(store, embedder).lookup(np.zeros((40, 50, 3), dtype=np.uint8))
        assert answer.warnings[0].code == "wrong_kind"
    with build_index(embedder, known, tmp_path / "b.db") as store:
        assert store.calibration is None
    with pytest.raises(StoreError, match="exists"):
        build_index(embedder, known, tmp_path / "b.db")


def test_a_build_that_fails_leaves_nothing_that_could_answer(tmp_path, embedder):
    known = cases(tmp_path, 0, 4)
    absent = CaseTable(known.frame.assign(image=str(tmp_path / "absent.png")), "drawn")
    with pytest.raises(ImageReadError, match="absent"):
        build_index(embedder, known, tmp_path / "c.db", validation=absent)
    assert not list(tmp_path.glob("c.db*"))
