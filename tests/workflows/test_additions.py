"""Adding to a case store: what is encoded, what is left as it is, and going on after a stop."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from medshadow.data import CaseTable
from medshadow.errors import StoreError
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import CaseStore
from medshadow.workflows import additions
from medshadow.workflows.additions import Added, add_cases


@pytest.fixture(scope="module")
def embedder():
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
    settings = {"preset": "dermatology", "size": 32}
    return Embedder(Backbone("small", net), embedding_dim=4, preprocess=settings).eval()


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Ten lesions of one image each."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = []
    for number in range(10):
        path = folder / f"{number}.png"
        Image.new("RGB", (40, 30), (200, 20 * number, 90)).save(path)
        rows.append((f"case{number}", str(path), f"lesion{number}", ("nv", "mel")[number % 2]))
    frame = pd.DataFrame(rows, columns=["case_id", "image", "group", "label"])
    frame["age"] = [30.0, None, *range(50, 58)]
    return CaseTable(frame, "drawn", malignant=frozenset({"mel"}))


@pytest.fixture
def store(tmp_path, embedder):
    with CaseStore.create(
        tmp_path / "cases.db",
        name="drawn",
        model_digest=embedder.digest,
        embedding_dim=4,
        preprocess=embedder.preprocess,
    ) as opened:
        yield opened


@pytest.fixture
def encoded(monkeypatch):
    """The case ids of each batch that was encoded."""
    batches = []
    real = additions.encode_cases

    def encode_cases(embedder, part, **options):
        batches.append(part.frame["case_id"].tolist())
        return real(embedder, part, **options)

    monkeypatch.setattr(additions, "encode_cases", encode_cases)
    return batches


def some(cases, rows):
    return CaseTable(cases.frame.iloc[rows], "drawn", malignant=cases.malignant)


def test_all_are_added_with_vector_and_picture(store, embedder, cases, encoded):
    assert add_cases(store, embedder, cases, batch_size=4, progress=False) == Added(10, 0)
    assert [len(batch) for batch in encoded] == [4, 4, 2]
    assert store.frame()["case_id"].tolist() == cases.frame["case_id"].tolist()
    assert store.frame()["age"].isna().tolist() == [False, True, *[False] * 8]
    whole = additions.encode_cases(embedder, cases, progress=False)
    np.testing.assert_allclose(store.embeddings(), whole, atol=1e-5)
    red, green, _ = store.image_of("case7").mean(axis=(0, 1))
    assert (red, green) == pytest.approx((200, 140), abs=3)


def test_a_second_time_there_is_nothing_to_do(store, embedder, cases, encoded):
    add_cases(store, embedder, cases, progress=False)
    version = store.version
    assert add_cases(store, embedder, cases, progress=False) == Added(0, 10)
    assert len(encoded) == 1
    assert store.version == version


def test_after_a_stop_only_what_is_missing_is_encoded(store, embedder, cases, monkeypatch):
    real, seen = additions.encode_cases, []

    def stopped_at_the_third(embedder, part, **options):
        seen.append(len(part))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return real(embedder, part, **options)

    monkeypatch.setattr(additions, "encode_cases", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        add_cases(store, embedder, cases, batch_size=3, progress=False)
    assert len(store) == 6
    assert add_cases(store, embedder, cases, batch_size=3, progress=False) == Added(4, 6)
    assert seen == [3, 3, 3, 3, 1]
    assert store.frame()["case_id"].tolist() == cases.frame["case_id"].tolist()
    assert store.verify() == []


def test_other_content_is_refused_by_name_before_anything_is_written(store, embedder, cases):
    add_cases(store, embedder, some(cases, range(3)), progress=False)
    changed = cases.frame.assign(age=[31.0, *cases.frame["age"][1:]])
    with pytest.raises(StoreError, match=r"1 cases .* other content: \['case0'\].*--replace"):
        add_cases(store, embedder, CaseTable(changed, "drawn"), progress=False)
    assert len(store) == 3
    assert store.frame()["age"].iloc[0] == 30


def test_replacing_touches_only_what_differs(store, embedder, cases, encoded):
    add_cases(store, embedder, cases, progress=False)
    labels = ["bcc", *cases.frame["label"][1:]]
    changed = CaseTable(
        cases.frame.assign(label=labels, labels=[frozenset({label}) for label in labels]), "drawn"
    )
    found = add_cases(store, embedder, changed, replace_changed=True, progress=False)
    assert found == Added(1, 9)
    assert encoded[1:] == [["case0"]]
    assert store.frame().set_index("case_id")["label"]["case0"] == "bcc"
    assert len(store) == 10


def test_what_was_withdrawn_stays_out_unless_taken_back(store, embedder, cases):
    add_cases(store, embedder, cases, progress=False)
    store.withdraw(["case2", "case5"], by="curator")
    assert add_cases(store, embedder, cases, progress=False) == Added(0, 8, withdrawn=2)
    assert len(store) == 8
    found = add_cases(store, embedder, cases, replace_changed=True, progress=False)
    assert found == Added(2, 8)
    assert len(store) == 10


def test_who_added_is_on_the_trail(store, embedder, cases):
    add_cases(store, embedder, cases, by="Ann", progress=False)
    (entry,) = store.trail().to_dict("records")
    assert (entry["by"], entry["action"], len(entry["cases"])) == ("Ann", "add", 10)


def test_another_model_is_refused_before_encoding(store, embedder, cases, encoded):
    other = Embedder(embedder.backbone, embedding_dim=5, preprocess=embedder.preprocess).eval()
    with pytest.raises(StoreError, match="two models"):
        add_cases(store, other, cases, progress=False)
    assert encoded == []
