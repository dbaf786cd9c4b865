"""The rows that the curves are drawn from, over interruptions."""

import numpy as np
import pytest

from medshadow.training import CollapseGuard, Probe


@pytest.fixture
def make(make_lesion_trainer, lesion_cases):
    def make(folder, epochs):
        probe = Probe(lesion_cases, section="training", images_per_class=2)
        scores = iter((0.5, 0.25))
        return make_lesion_trainer(
            folder,
            epochs=epochs,
            K=2,
            batches=3,
            parts={"probe": probe, "guard": CollapseGuard(probe)},
            validate=lambda _: {"map_at_r": np.float64(next(scores))},
        )

    return make


def test_an_epoch_is_the_mean_of_its_steps_and_all_metrics(make):
    trainer = make("history_means", epochs=2)
    trainer.run()
    first, second = trainer.history.epochs
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["train/loss"] == pytest.approx(np.mean(trainer.losses[:3]))
    assert second["train/loss"] == pytest.approx(np.mean(trainer.losses[3:]))
    assert 0 < first["train/active_fraction"] <= 1
    assert first["mining"] == "batch_hard"
    assert (first["map_at_r"], second["map_at_r"]) == (0.5, 0.25)
    assert second["probe/hardest_loss"] == trainer.curves[1]["probe/hardest_loss"]
    assert second["collapse/rollbacks"] == 0


def test_a_resumed_run_has_the_epochs_of_all_of_it(make):
    whole = make("history_whole", epochs=2)
    whole.run()
    make("history_parts", epochs=1).run()
    resumed = make("history_parts", epochs=2)
    resumed.run(resume=True)
    assert len(resumed.losses) == 3
    assert [row["train/loss"] for row in resumed.history.epochs] == [
        row["train/loss"] for row in whole.history.epochs
    ]
    finished = make("history_parts", epochs=2)
    finished.run(resume=True)
    assert finished.losses == []
    assert finished.history.epochs == resumed.history.epochs
