"""The last layer that is fitted after training, on drawn features."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from medshadow.data import PKSampler
from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.networks import Whitening
from medshadow.training import FinalHead, fit_final_head

pytestmark = pytest.mark.slow

CLASSES = np.repeat(["mel", "nv", "bcc"], 40)


@pytest.fixture
def features():
    """Unit vectors whose classes differ along one weak axis each, under strong common variation."""
    rng = np.random.default_rng(0)
    own = np.eye(3)[np.repeat(range(3), 40)] * 1.0
    values = np.concatenate([own, np.zeros((120, 13))], axis=1) + rng.normal(size=(120, 16)) * (
        [0.3] * 3 + [0.05] * 10 + [2.0] * 3
    )
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def sampler(seed=0):
    return PKSampler(CLASSES.tolist(), range(120), None, 8, batches_per_epoch=20, seed=seed)


def targets():
    return torch.from_numpy(np.repeat([2, 1, 0], 40))


def nearest_is_right(vectors):
    vectors = normalize(vectors, dim=1)
    similarity = (vectors @ vectors.T).fill_diagonal_(-1)
    return float((CLASSES[similarity.argmax(1)] == CLASSES).mean())


def test_it_finds_what_the_features_hide(features):
    head = fit_final_head(features, CLASSES, targets(), ShadowLoss(margin=0.1), sampler(), 4)
    vectors = head(torch.from_numpy(features))
    assert vectors.shape == (120, 8)
    before = nearest_is_right(torch.from_numpy(features))
    assert nearest_is_right(vectors) > before + 0.08


def test_both_parts_have_one_mean_length_and_the_second_is_the_whitening(features):
    head = fit_final_head(features, CLASSES, targets(), ShadowLoss(margin=0.1), sampler(), 4)
    vectors = head(torch.from_numpy(features))
    assert vectors[:, :4].norm(dim=1).mean() == pytest.approx(1, abs=1e-3)
    assert vectors[:, 4:].norm(dim=1).mean() == pytest.approx(1, abs=1e-3)
    whitening = Whitening.fit(features, CLASSES, 4)(torch.from_numpy(features))
    ratio = vectors[:, 4:] / whitening
    assert ratio.std() / ratio.mean() < 1e-2


def test_it_is_a_function_of_the_samplers_seed_and_leaves_the_generator(features):
    state = torch.get_rng_state()
    heads = [
        fit_final_head(features, CLASSES, targets(), ShadowLoss(margin=0.1), sampler(seed), 4)
        for seed in (0, 0, 1)
    ]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(heads[0].projection, heads[1].projection)
    assert not torch.equal(heads[0].projection, heads[2].projection)


def test_label_sets_and_a_memory_will_do(features):
    sets = torch.nn.functional.one_hot(targets(), 3).float()
    loss = CrossBatchMemory(ShadowLoss(margin=0.1), size=64)
    loss(torch.randn(4, 9), torch.tensor([0, 0, 1, 1]))  # of another dimension: it must be emptied
    head = fit_final_head(features, CLASSES, targets(), loss, sampler(), 4)
    assert head(torch.from_numpy(features)).isfinite().all()
    of_sets = fit_final_head(features, CLASSES, sets, ShadowLoss(margin=0.1), sampler(), 4)
    of_labels = fit_final_head(features, CLASSES, targets(), ShadowLoss(margin=0.1), sampler(), 4)
    torch.testing.assert_close(of_sets.projection, of_labels.projection, atol=1e-2, rtol=1e-2)


def fitted(features, **how):
    loss = ShadowLoss(margin=0.1)
    return fit_final_head(features, CLASSES, targets(), loss, sampler(), 4, FinalHead(**how))


def test_the_whitening_weighs_what_is_said_or_is_left_out(features):
    whole, less = fitted(features), fitted(features, whitening=0.25)
    alone = fitted(features, whitening=0)
    assert torch.equal(less.projection[4:], 0.25 * whole.projection[4:])
    assert torch.equal(less.projection[:4], whole.projection[:4])
    assert torch.equal(alone.projection, whole.projection[:4])


def test_several_heads_give_the_mean_of_their_similarities(features):
    inputs = torch.from_numpy(features)
    several = fitted(features, whitening=0, heads=3, steps=30)
    assert several.projection.shape == (4, 16)
    heads = _retrained_apart(features, heads=3, steps=30)
    moved = inputs - several.mean
    vectors = [moved @ head.T for head in heads]
    vectors = [v / v.norm(dim=1).mean() for v in vectors]
    values, axes = torch.linalg.eigh(sum(v @ v.T for v in vectors))
    wanted = (axes[:, -4:] * values[-4:]) @ axes[:, -4:].T  # no other four rows come nearer
    found = several(inputs) @ several(inputs).T
    assert torch.allclose(found / found.trace(), wanted / wanted.trace(), atol=1e-5)
    assert not torch.allclose(heads[0], heads[1])


def _retrained_apart(features, **how):
    from medshadow.training.final_head import _retrained

    moved = torch.from_numpy(features) - Whitening.fit(features, CLASSES, 4).mean
    scale = moved.std(0) + 1e-6
    loss = ShadowLoss(margin=0.1)
    found = _retrained(moved / scale, targets(), loss, sampler(), 4, FinalHead(**how))
    return [rows / scale for rows in found]


@pytest.mark.parametrize("how", [{"whitening": -0.1}, {"heads": 0}, {"steps": 0}])
def test_what_cannot_be_fitted_is_refused(how):
    with pytest.raises(ValueError, match="must be at least"):
        FinalHead(**how)
