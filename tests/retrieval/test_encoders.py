from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from medshadow.data import read_image
from medshadow.errors import OnnxExportError, OptionalDependencyError
from medshadow.networks import Embedder
from medshadow.retrieval import OnnxEncoder, TorchEncoder, best_encoder, encode_images


@pytest.fixture(scope="module")
def turning(embedder):
    """The small model with queries averaged over four views."""
    settings = {**embedder.preprocess, "query_views": 4}
    return Embedder(embedder.backbone, embedding_dim=16, preprocess=settings, seed=4).eval()


@pytest.fixture(scope="module")
def pictures(drawn_cases):
    return [read_image(path) for path in drawn_cases.frame["image"]]


@pytest.mark.parametrize("views", [1, 4])
def test_torch_gives_the_vectors_of_encode_images(embedder, turning, pictures, views):
    model = {1: embedder, 4: turning}[views]
    encoder = TorchEncoder(model)
    found = np.stack([encoder(picture).vector for picture in pictures])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encode_images(model, pictures, views=views), atol=1e-6)
    if views == 4:
        assert np.abs(found - encode_images(model, pictures)).max() > 1e-3


def test_pooled_features_are_those_of_known_cases(turning, pictures):
    encoder = TorchEncoder(turning)
    pooled = np.stack([encoder(picture).pooled for picture in pictures])
    assert pooled.dtype == np.float32
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    assert np.abs(lengths - 1).min() > 1e-3
    known = encode_images(turning.without_head(), pictures)
    np.testing.assert_allclose(pooled / lengths, known, atol=1e-6)


def test_an_eye_s_side_reaches_the_preset(fundus_embedder, drawn_eyes):
    encoder = TorchEncoder(fundus_embedder)
    pixels = read_image(drawn_eyes.frame["image"].iloc[0])
    right, mirrored = encoder(pixels, "right"), encoder(pixels[:, ::-1].copy(), "left")
    np.testing.assert_allclose(mirrored.vector, right.vector, atol=1e-4)
    assert np.abs(encoder(pixels, "left").vector - right.vector).max() > 1e-3
    with pytest.raises(ValueError, match="'both'"):
        encoder(pixels, "both")


def test_several_threads_get_what_one_gets(turning, pictures):
    encoder = TorchEncoder(turning)
    alone = [encoder(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(encoder, pictures))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(other.vector, one.vector, atol=1e-6)
        np.testing.assert_allclose(other.pooled, one.pooled, atol=1e-5)


def test_stays_float32_and_without_batch_statistics(embedder, pictures):
    expected = encode_images(embedder, pictures[:1])[0]
    embedder.train()
    encoder = TorchEncoder(embedder)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        np.testing.assert_allclose(encoder(pictures[0]).vector, expected, atol=1e-6)
    assert not embedder.training


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4)), np.zeros((4, 4, 3)), np.zeros((3, 4, 4), "u1")]
)
def test_pixels_must_be_uint8_rgb(embedder, image):
    with pytest.raises(ValueError, match="image: expected uint8 H x W x 3"):
        TorchEncoder(embedder)(image)


@pytest.fixture(scope="module")
def onnx_encoder(turning):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    return OnnxEncoder(turning)


def test_onnx_gives_what_torch_gives_from_any_thread(onnx_encoder, turning, pictures):
    expected = [TorchEncoder(turning)(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(onnx_encoder, pictures))
    for one, other in zip(found, expected, strict=True):
        assert one.vector.dtype == one.pooled.dtype == np.float32
        assert one.vector @ other.vector > 1 - 1e-5
        np.testing.assert_allclose(one.pooled, other.pooled, atol=1e-4)


def test_an_export_that_gives_other_vectors_is_refused(onnx_encoder, embedder):
    other = Embedder(embedder.backbone, 16, preprocess=embedder.preprocess, seed=9)
    with pytest.raises(OnnxExportError, match=r"drawn image 0: .* cosine 0\.\d+"):
        onnx_encoder._check(TorchEncoder(other))


def test_the_best_is_onnx_and_torch_where_that_cannot_be(
    onnx_encoder, turning, pictures, monkeypatch, caplog
):
    monkeypatch.setattr("medshadow.retrieval.encoders.OnnxEncoder", lambda *_: onnx_encoder)
    assert best_encoder(turning).name == "onnxruntime"
    monkeypatch.undo()

    def refuse(*arguments, **options):
        raise torch.onnx.OnnxExporterError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    best = best_encoder(turning)
    assert best.name == "torch"
    assert "small: no ONNX export: no such operator" in caplog.text
    np.testing.assert_allclose(
        best(pictures[0]).vector, TorchEncoder(turning)(pictures[0]).vector, atol=1e-6
    )


def test_without_onnx_the_extra_is_named(turning, monkeypatch, caplog):
    monkeypatch.setattr("medshadow.retrieval.encoders.find_spec", lambda name: None)
    with pytest.raises(OptionalDependencyError, match=r"onnxscript: pip install 'medshadow\[serv"):
        OnnxEncoder(turning)
    assert best_encoder(turning).name == "torch"
    assert "medshadow[service]" in caplog.text
