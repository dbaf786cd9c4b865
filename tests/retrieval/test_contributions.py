import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medshadow.networks import Embedder, Whitening
from medshadow.retrieval.contributions import cell_contributions


def _with_head(backbone, head, pooling):
    model = Embedder(backbone, None if head == "none" else 16, pooling, seed=2)
    if head == "whitening":
        rng = np.random.default_rng(0)
        features = rng.normal(1, 1, (40, backbone.channels))
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        model.head = Whitening.fit(features, [0, 1] * 20, 16)
    return model.eval()


@pytest.mark.parametrize("pooling", ["average", "gem"])
@pytest.mark.parametrize("head", ["none", "linear", "whitening"])
def test_cells_add_up_to_the_cosine(embedder, head, pooling):
    model = _with_head(embedder.backbone, head, pooling)
    images, other = torch.rand(3, 3, 48, 40), torch.randn(model.embedding_dim)
    with torch.no_grad():
        feature_map = model.backbone(images)
        cells = cell_contributions(model, feature_map, other)
        cosines = model(images) @ other
    assert cells.shape == (3, *feature_map.shape[2:])
    torch.testing.assert_close(cells.sum((1, 2)), cosines, atol=1e-5, rtol=1e-5)
    assert cells.std(dim=(1, 2)).min() > 0


@pytest.mark.parametrize("head", ["none", "linear", "whitening"])
def test_a_cell_adds_in_proportion_to_its_features(embedder, head):
    """By the definition: project the one cell's features, at the lengths of the whole image."""
    model = _with_head(embedder.backbone, head, "average")
    other = normalize(torch.randn(model.embedding_dim), dim=0)
    with torch.no_grad():
        feature_map = model.backbone(torch.rand(1, 3, 48, 48))
        cells = cell_contributions(model, feature_map, other)[0]
        pooled = feature_map.mean((2, 3))[0]
        length = model.head(pooled[None]).norm()
        for y, x in ((0, 0), (3, 5)):
            alone = feature_map[0, :, y, x]
            if head == "whitening":
                moved = model.head.projection @ (alone / pooled.norm() - model.head.mean)
            else:
                moved = model.head(alone[None])[0]
            added = moved @ other / length / cells.numel()
            torch.testing.assert_close(cells[y, x], added, atol=1e-6, rtol=1e-4)
