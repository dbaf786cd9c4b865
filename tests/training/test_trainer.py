import _thread
import math
import signal
from pathlib import Path

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medshadow.errors import NonFiniteLossError
from medshadow.losses import ShadowLoss
from medshadow.training import MetricTrainer, adamw, one_cycle, training_loader
from medshadow.transforms import dermatology_transforms

EPOCHS, BATCHES = 3, 4


@pytest.fixture
def make_trainer(make_embedder, colour_cases, tmp_path):
    def make(folder="run", max_epochs=EPOCHS, loss=None, num_workers=0, frozen=(), **settings):
        embedder = make_embedder()
        loader = training_loader(
            colour_cases,
            dermatology_transforms(32, train=True),
            images_per_class=4,
            batches_per_epoch=BATCHES,
            num_workers=num_workers,
            progress=False,
        )
        optimizer = adamw(embedder, 1e-2, 1e-2, frozen=frozen)
        trainer = MetricTrainer(
            embedder,
            loss or ShadowLoss(),
            loader,
            optimizer,
            scheduler=one_cycle(optimizer, EPOCHS * BATCHES),
            max_epochs=max_epochs,
            checkpoints=tmp_path / folder,
            progress=False,
            **{"precision": "float32", **settings},
        )
        trainer.losses = []
        trainer.engine.add_event_handler(
            Events.ITERATION_COMPLETED, lambda e: trainer.losses.append(e.state.output["loss"])
        )
        return trainer

    return make


def weights_of(embedder):
    return torch.cat([t.flatten().float() for t in embedder.state_dict().values()])


def test_the_loss_falls(make_trainer):
    trainer = make_trainer(max_epochs=3)
    trainer.run()
    assert sum(trainer.losses[-4:]) < 0.7 * sum(trainer.losses[:4])
    assert trainer.engine.state.output["statistics"]["active_fraction"] <= 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_meets_the_losses_of_an_uninterrupted_one(make_trainer, num_workers):
    whole = make_trainer("whole")
    expected = weights_of(whole.run())

    first = make_trainer("parts", max_epochs=1)
    first.run()
    second = make_trainer("parts", num_workers=num_workers)
    resumed = weights_of(second.run(resume=True))

    assert first.losses + second.losses == whole.losses
    assert torch.equal(resumed, expected)


@pytest.fixture
def heeds_ctrl_c():
    """Python's own handler: a test run in the background inherits one that ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_leaves_a_checkpoint_that_resumes_to_the_same_losses(make_trainer):
    whole = make_trainer("whole")
    whole.run()

    stopped = make_trainer("stopped")
    stopped.engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=BATCHES + 2), lambda _: _thread.interrupt_main()
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    again = make_trainer("stopped")
    again.run(resume=True)
    assert again.losses == whole.losses[BATCHES:]


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_ctrl_c_in_the_first_epoch_leaves_the_checkpoint_that_it_began_with(make_trainer):
    whole = make_trainer("whole")
    begun = weights_of(whole.embedder).clone()
    whole.run()

    stopped = make_trainer("stopped")
    stopped.engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=2), lambda _: _thread.interrupt_main()
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    assert stopped.losses == whole.losses[:2]
    assert names_in(stopped) == ["checkpoint_epoch=0.pt"]
    again = make_trainer("stopped")
    for weight in again.embedder.parameters():  # as drawn by a network without a seed
        weight.data.zero_()
    again.engine.add_event_handler(
        Events.EPOCH_STARTED(once=1), lambda _: found.append(weights_of(again.embedder).clone())
    )
    found = []
    again.run(resume=True)
    assert torch.equal(found[0], begun)
    assert again.losses == whole.losses
    assert names_in(again) == [f"checkpoint_epoch={EPOCHS}.pt"]


def names_in(trainer):
    return sorted(path.name for path in trainer.checkpoints.iterdir())


@pytest.mark.parametrize(
    ("place", "name", "left"),
    [(torch, "save", [1]), (Path, "unlink", [1, 2])],
    ids=["writing", "deleting the one before"],
)
def test_ctrl_c_while_a_checkpoint_is_written_leaves_a_whole_one(
    make_trainer, monkeypatch, place, name, left
):
    whole = make_trainer("whole", validate=lambda _: {"map_at_r": 0.5})
    whole.run()

    def stop(*args, **options):
        if name == "save":
            file = args[1]
            with file.open("wb") if isinstance(file, Path) else file:
                file.write(b"the beginning")
        raise KeyboardInterrupt

    stopped = make_trainer("stopped", validate=lambda _: {"map_at_r": 0.5})
    stopped.engine.add_event_handler(
        Events.ITERATION_COMPLETED(once=BATCHES + 1),
        lambda _: monkeypatch.setattr(place, name, stop),
    )
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    monkeypatch.undo()
    assert names_in(stopped) == ["best.pt", *(f"checkpoint_epoch={n}.pt" for n in left)]
    again = make_trainer("stopped", validate=lambda _: {"map_at_r": 0.5})
    again.run(resume=True)
    assert again.losses == whole.losses[BATCHES * left[-1] :]
    assert names_in(again) == ["best.pt", f"checkpoint_epoch={EPOCHS}.pt"]


def test_resuming_a_finished_run_trains_no_further(make_trainer):
    done = make_trainer("done")
    expected = weights_of(done.run())
    again = make_trainer("done")
    assert torch.equal(weights_of(again.run(resume=True)), expected)
    assert again.losses == []


def test_best_model_by_the_validation_metric_is_returned(make_trainer):
    scores = iter([0.2, 0.9, 0.5])
    seen = []

    def validate(embedder):
        seen.append(weights_of(embedder).clone())
        return {"map_at_r": next(scores)}

    trainer = make_trainer(validate=validate)
    best = trainer.run()
    assert torch.equal(weights_of(best), seen[1])
    assert trainer.best_metrics == {"map_at_r": 0.9, "epoch": 2.0}


def test_best_model_survives_a_resume(make_trainer):
    seen = []

    def validate(embedder):
        seen.append(weights_of(embedder).clone())
        return {"map_at_r": [0.9, 0.5, 0.4][len(seen) - 1]}

    make_trainer("best", max_epochs=1, validate=validate).run()
    resumed = make_trainer("best", validate=validate)
    best = resumed.run(resume=True)
    assert torch.equal(weights_of(best), seen[0])
    assert resumed.best_metrics["epoch"] == 1


def test_early_stop_counts_over_a_resume(make_trainer):
    def validate(embedder):
        return {"map_at_r": 0.5}

    make_trainer("stop", max_epochs=1, validate=validate, patience=1).run()
    resumed = make_trainer("stop", validate=validate, patience=1)
    resumed.run(resume=True)
    assert resumed.engine.state.epoch == 2
    again = make_trainer("stop", validate=validate, patience=1)
    again.run(resume=True)
    assert again.losses == []


def test_metric_to_select_by_must_be_there(make_trainer):
    with pytest.raises(ValueError, match="map_at_r"):
        make_trainer(validate=lambda _: {"recall_at_1": 1.0}).run()


def test_non_finite_loss_names_the_cases(make_trainer):
    class Broken(nn.Module):
        def forward(self, embeddings, labels):
            return embeddings.sum() * math.inf

    trainer = make_trainer(loss=Broken())
    before = [p.clone() for p in trainer.embedder.parameters()]
    with pytest.raises(NonFiniteLossError, match=r"(red|green|blue)\d\d, "):
        trainer.run()
    assert all(map(torch.equal, trainer.embedder.parameters(), before))


def test_gradient_is_clipped(make_trainer):
    class Steep(nn.Module):
        def forward(self, embeddings, labels):
            return 1e6 * embeddings[:, 0].sum()

    trainer = make_trainer(loss=Steep(), max_epochs=1, clip_norm=0.5)
    norms = []

    def record(engine):
        grads = [p.grad for p in trainer.embedder.parameters()]
        norms.append(torch.cat([g.flatten() for g in grads]).norm().item())

    trainer.engine.add_event_handler(Events.ITERATION_COMPLETED, record)
    trainer.run()
    assert max(norms) <= 0.5 + 1e-4
    assert trainer.engine.state.output["gradient_norm"] > 0.5


def test_bfloat16_trains_too(make_trainer):
    trainer = make_trainer(precision="bfloat16")
    trainer.run()
    assert sum(trainer.losses[-4:]) < 0.8 * sum(trainer.losses[:4])
    assert all(p.dtype == torch.float32 for p in trainer.embedder.parameters())


def test_frozen_layers_keep_weights_and_statistics(make_trainer):
    trainer = make_trainer(frozen=["features.layers.0", "features.layers.1"], max_epochs=1)
    layers = trainer.embedder.backbone.features.layers
    frozen = [t.clone() for layer in layers[:2] for t in layer.state_dict().values()]
    trained = layers[4].weight.clone()
    trainer.run()
    after = [t for layer in layers[:2] for t in layer.state_dict().values()]
    assert all(map(torch.equal, frozen, after))
    assert not torch.equal(trained, layers[4].weight)


class CountingPart:
    """Counts epochs, and reports the count as a metric."""

    def __init__(self):
        self.epochs = 0

    def attach(self, trainer):
        trainer.engine.add_event_handler(Events.EPOCH_COMPLETED, self.count)

    def count(self, engine):
        self.epochs += 1
        engine.state.metrics["count/epochs"] = self.epochs

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state):
        self.epochs = state["epochs"]


def test_a_parts_state_is_resumed(make_trainer):
    make_trainer(max_epochs=2, parts={"count": CountingPart()}).run()
    part = CountingPart()
    resumed = make_trainer(max_epochs=3, parts={"count": part})
    resumed.run(resume=True)
    assert part.epochs == 3
    assert resumed.engine.state.metrics["count/epochs"] == 3
