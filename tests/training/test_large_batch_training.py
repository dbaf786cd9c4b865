"""Gradient caching in a trainer: its steps are those of the plain batch."""

import math

import pytest
import torch
from ignite.engine import Events
from torch import nn
from torch.utils.data import DataLoader

from medshadow.errors import NonFiniteLossError
from medshadow.losses import ShadowLoss
from medshadow.training import MetricTrainer

pytestmark = pytest.mark.slow


@pytest.fixture
def make_trainer(make_embedder, tmp_path):
    def make(folder="run", loss=None, max_epochs=2, frozen_norm=False, dropout=0.3, **options):
        embedder = make_embedder()
        layers = embedder.backbone.features.layers
        layers[1].requires_grad_(not frozen_norm)
        layers[3].p = dropout
        generator = torch.Generator().manual_seed(3)
        images, labels = torch.rand(36, 3, 12, 12, generator=generator), torch.arange(36) % 3
        items = [
            {"image": image, "label": int(label), "case_id": f"case{i}"}
            for i, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
        loss = loss or ShadowLoss()
        parameters = [p for p in (*embedder.parameters(), *loss.parameters()) if p.requires_grad]
        trainer = MetricTrainer(
            embedder,
            loss,
            DataLoader(items, batch_size=18),
            torch.optim.SGD(parameters, 0.1, momentum=0.9),
            max_epochs=max_epochs,
            checkpoints=tmp_path / folder,
            progress=False,
            device="cpu",
            **{"precision": "float32", **options},
        )
        trainer.losses = []
        trainer.trained = lambda: parameters
        trainer.engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: trainer.losses.append(e.state.output["loss"])
        )
        return trainer

    return make


def weights_of(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


@pytest.mark.parametrize("own_parameters", [False, True])
def test_training_in_chunks_is_training_on_the_plain_batch(
    make_trainer, make_proxy_loss, own_parameters
):
    loss = make_proxy_loss if own_parameters else ShadowLoss
    still = {"frozen_norm": True, "dropout": 0.0}
    plain = make_trainer("plain", loss=loss(), **still)
    plain.run()
    cached = make_trainer("cached", loss=loss(), chunk_size=5, **still)
    cached.run()
    assert cached.losses == pytest.approx(plain.losses, rel=1e-5)
    assert cached.losses[-1] != pytest.approx(cached.losses[0], rel=1e-3)
    for ours, theirs in zip(cached.trained(), plain.trained(), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_one_chunk_is_the_plain_step_to_the_last_digit(make_trainer):
    plain, cached = make_trainer("plain"), make_trainer("cached", chunk_size=18)
    plain.run(), cached.run()
    assert cached.losses == plain.losses
    assert torch.equal(weights_of(cached.embedder), weights_of(plain.embedder))


def test_resumed_run_in_chunks_meets_the_losses_of_an_uninterrupted_one(make_trainer):
    whole = make_trainer("whole", chunk_size=5)
    whole.run()
    first = make_trainer("parts", chunk_size=5, max_epochs=1)
    first.run()
    second = make_trainer("parts", chunk_size=5)
    second.run(resume=True)
    assert first.losses + second.losses == whole.losses
    assert torch.equal(weights_of(second.embedder), weights_of(whole.embedder))


def test_bfloat16_in_chunks_follows_bfloat16_on_the_plain_batch(make_trainer):
    still = {"frozen_norm": True, "dropout": 0.0, "precision": "bfloat16"}
    plain = make_trainer("plain", **still)
    plain.run()
    cached = make_trainer("cached", chunk_size=5, **still)
    cached.run()
    # One loss is the same; then roundings (test_large_batch_bfloat16.py) add up.
    assert cached.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)
    assert cached.losses == pytest.approx(plain.losses, rel=2e-3)
    moved = (weights_of(cached.embedder) - weights_of(make_trainer("new").embedder)).norm()
    apart = (weights_of(cached.embedder) - weights_of(plain.embedder)).norm()
    assert apart < 0.015 * moved


class Steep(nn.Module):
    def forward(self, embeddings, labels):
        return 1e6 * embeddings[:, 0].sum()


class Broken(nn.Module):
    def forward(self, embeddings, labels):
        return embeddings.sum() * math.inf


def test_clipping_and_the_check_for_finite_losses_hold_in_chunks(make_trainer):
    trainer = make_trainer("steep", loss=Steep(), chunk_size=5, clip_norm=0.5, max_epochs=1)
    trainer.run()
    clipped = torch.cat([p.grad.flatten() for p in trainer.embedder.parameters()]).norm()
    assert clipped <= 0.5 + 1e-4
    assert trainer.engine.state.output["gradient_norm"] > 0.5
    broken = make_trainer("broken", loss=Broken(), chunk_size=5)
    before = weights_of(broken.embedder)
    with pytest.raises(NonFiniteLossError, match="case0, case1"):
        broken.run()
    assert torch.equal(weights_of(broken.embedder), before)


def test_a_chunk_holds_at_least_one_image(make_trainer):
    with pytest.raises(ValueError, match="chunk_size must be at least 1 image, or None; found 0"):
        make_trainer(chunk_size=0)
