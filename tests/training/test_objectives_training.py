"""Compared objectives in a trainer: they train, and proxies are trained and resumed with them."""

import pytest
import torch
from ignite.engine import Events

from medshadow.errors import NonFiniteLossError
from medshadow.training import (
    OBJECTIVES,
    MetricTrainer,
    adamw,
    objective,
    one_cycle,
    training_loader,
)
from medshadow.transforms import dermatology_transforms

pytestmark = pytest.mark.slow


@pytest.fixture
def make_trainer(make_embedder, colour_cases, tmp_path):
    def build(loss, folder="run", max_epochs=3, loss_learning_rate=1e-2, free_length=False):
        embedder = make_embedder()
        embedder.free_length = free_length
        loader = training_loader(
            colour_cases,
            dermatology_transforms(32, train=True),
            images_per_class=4,
            batches_per_epoch=3,
            progress=False,
        )
        optimizer = adamw(embedder, 1e-2, 1e-2, loss=loss, loss_learning_rate=loss_learning_rate)
        trainer = MetricTrainer(
            embedder,
            loss,
            loader,
            optimizer,
            scheduler=one_cycle(optimizer, 9),
            max_epochs=max_epochs,
            checkpoints=tmp_path / folder,
            precision="float32",
            progress=False,
        )
        trainer.losses = []
        trainer.engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: trainer.losses.append(e.state.output["loss"])
        )
        return trainer

    return build


def proxies():
    return objective("soft_triple", classes=3, embedding_dim=8)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if name != "soft_triple"])
def test_every_objective_trains(name, make_trainer):
    trainer = make_trainer(objective(name))
    trainer.run()
    assert sum(trainer.losses[-3:]) < 0.95 * sum(trainer.losses[:3])


def test_the_unnormalised_form_trains_embeddings_of_any_length(make_trainer):
    trainer = make_trainer(objective("shadow_unnormalized"), free_length=True)
    lengths = []
    trainer.loss.register_forward_pre_hook(lambda _, rows: lengths.append(rows[0].norm(dim=1)))
    trainer.run()
    assert sum(trainer.losses[-3:]) < 0.95 * sum(trainer.losses[:3])
    assert torch.cat(lengths).std() > 0.1


def test_proxies_are_trained_and_checkpointed(make_trainer, tmp_path):
    loss = proxies()
    first = loss.fc.detach().clone()
    trainer = make_trainer(loss, max_epochs=2)
    trainer.run()
    assert sum(trainer.losses[-3:]) < 0.95 * sum(trainer.losses[:3])
    assert (loss.fc - first).abs().max() > 1e-3
    (written,) = (tmp_path / "run").glob("*.pt")
    kept = torch.load(written, weights_only=True)["loss"]
    assert torch.equal(kept["fc"], loss.fc)


def test_proxies_have_a_learning_rate_of_their_own(make_trainer):
    loss = proxies()
    first = loss.fc.detach().clone()
    make_trainer(loss, loss_learning_rate=0.0, max_epochs=1).run()
    assert torch.equal(loss.fc, first)


def test_resuming_with_proxies_meets_the_same_losses(make_trainer):
    whole = make_trainer(proxies(), "whole")
    whole.run()
    first = make_trainer(proxies(), "parts", max_epochs=1)
    first.run()
    second = make_trainer(proxies(), "parts")
    second.run(resume=True)
    assert first.losses + second.losses == whole.losses
    assert torch.equal(second.loss.fc, whole.loss.fc)


def test_gradients_of_proxies_are_clipped_with_the_embedders(make_trainer):
    loss = proxies()
    loss.fc.register_hook(lambda gradient: 1e6 * gradient)
    make_trainer(loss, max_epochs=1).run()
    assert loss.fc.grad.norm() <= 1 + 1e-4


def test_proxies_that_the_optimizer_lacks_are_refused(make_trainer):
    trainer = make_trainer(proxies(), max_epochs=1)
    optimizer = torch.optim.SGD(trainer.embedder.parameters(), 0.1)
    with pytest.raises(ValueError, match=r"parameters \['fc'\] are not in the optimizer"):
        MetricTrainer(
            trainer.embedder,
            trainer.loss,
            trainer.loader,
            optimizer,
            max_epochs=1,
            checkpoints=trainer.checkpoints,
        )


def test_a_gradient_of_proxies_that_is_not_finite_stops_training(make_trainer):
    loss = proxies()
    loss.fc.register_hook(lambda gradient: gradient + float("nan"))
    with pytest.raises(NonFiniteLossError, match="at step 1; cases of the batch"):
        make_trainer(loss, max_epochs=1).run()
