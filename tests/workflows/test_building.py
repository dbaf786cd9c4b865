"""A store built by one call: whole and calibrated, or not there at all."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from PIL import Image

from medshadow.data import CaseTable
from medshadow.errors import ImageReadError, StoreError
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseLookup, CaseStore, encode_cases
from medshadow.workflows import additions, build_store


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
    with build_store(
        embedder, known, tmp_path / "a.db", validation=held_out, progress=False
    ) as store:
        assert store.source == "drawn.csv"
        assert store.calibration["familiarity"]["images"] == 25
        answer = CaseLookup(store, embedder).lookup(np.zeros((40, 50, 3), dtype=np.uint8))
        assert answer.warnings[0].code == "wrong_kind"
    with build_store(embedder, known, tmp_path / "b.db", progress=False) as store:
        assert store.calibration is None
    with pytest.raises(StoreError, match="exists"):
        build_store(embedder, known, tmp_path / "b.db")


def test_a_build_that_fails_leaves_no_store_and_is_gone_on_with(tmp_path, embedder, monkeypatch):
    known, held_out = cases(tmp_path, 0, 4), cases(tmp_path, 100, 25)
    absent = CaseTable(known.frame.assign(image=str(tmp_path / "absent.png")), "drawn")
    with pytest.raises(ImageReadError, match="absent"):
        build_store(embedder, known, tmp_path / "c.db", validation=absent, progress=False)
    with pytest.raises(FileNotFoundError):
        CaseStore(tmp_path / "c.db")
    monkeypatch.setattr(additions, "encode_cases", lambda *_, **__: 1 / 0)  # all are there already
    with build_store(
        embedder, known, tmp_path / "c.db", validation=held_out, progress=False
    ) as store:
        assert len(store) == 4
        assert store.calibration is not None
    assert sorted(path.name for path in tmp_path.glob("c.db*")) == ["c.db"]


def test_vectors_at_hand_are_not_made_again(tmp_path, embedder, monkeypatch):
    known = cases(tmp_path, 0, 4)
    vectors = encode_cases(embedder, known, progress=False)
    monkeypatch.setattr(additions, "encode_cases", lambda *_, **__: 1 / 0)
    with build_store(
        embedder, known, tmp_path / "d.db", embeddings=vectors, progress=False
    ) as store:
        np.testing.assert_array_equal(store.embeddings(), vectors)
    with pytest.raises(StoreError, match="3 embeddings for 4 cases"):
        build_store(embedder, known, tmp_path / "e.db", embeddings=vectors[:3])


@pytest.mark.parametrize("change", ["source", "malignant", "diagnosis_names"])
def test_what_was_begun_under_another_description_is_begun_anew(tmp_path, embedder, change):
    known, begun, names = cases(tmp_path, 0, 4), cases(tmp_path, 0, 4), {"mel": "melanoma"}
    if change == "diagnosis_names":
        names = {"mel": "another"}
    else:
        begun = replace(known, **{change: {"source": "else", "malignant": frozenset()}[change]})
    absent = CaseTable(known.frame.assign(image=str(tmp_path / "absent.png")), "drawn")
    with pytest.raises(ImageReadError):
        build_store(embedder, begun, tmp_path / "f.db", diagnosis_names=names, validation=absent,
                    progress=False)  # fmt: skip
    with build_store(
        embedder, known, tmp_path / "f.db", diagnosis_names={"mel": "melanoma"}, progress=False
    ) as store:
        assert store.source == "drawn.csv"
        assert store.malignant == {"mel"}
        assert store.diagnosis_names == {"mel": "melanoma"}
        assert len(store) == 4


def test_two_do_not_build_the_same_file_at_once(tmp_path, embedder):
    known, neighbour = cases(tmp_path, 0, 4), tmp_path / "g.db.parts-list"
    neighbour.write_text("somebody's own")
    with (
        FileLock(tmp_path / "g.db.part.lock"),
        pytest.raises(StoreError, match=r"g\.db\.part is being built by another process"),
    ):
        build_store(embedder, known, tmp_path / "g.db", progress=False)
    build_store(embedder, known, tmp_path / "g.db", progress=False).close()
    assert neighbour.read_text() == "somebody's own"
