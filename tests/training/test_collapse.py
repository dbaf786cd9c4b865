"""A training on drawn lesions that really collapses, and what each policy makes of it."""

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn

from medshadow.data import CaseTable, split_cases
from medshadow.evaluation import EmbeddedCases, collapse_signs, diagnose
from medshadow.losses import ShadowLoss
from medshadow.networks import Backbone, Embedder
from medshadow.retrieval import encode_cases
from medshadow.training import CollapseGuard, Probe, cosine

pytestmark = pytest.mark.slow

BATCHES, EPOCHS = 10, 8


def make_embedder():
    """Enough of a network to tell drawn lesions apart, if it does not collapse."""
    torch.manual_seed(1)
    layers = []
    for channels, wider in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(channels, wider, 3, 2, 1, bias=False), nn.BatchNorm2d(wider)]
        layers.append(nn.ReLU())
    backbone = Backbone("three_layers", nn.Sequential(*layers))
    return Embedder(backbone, 16, preprocess={"preset": "dermatology", "size": 32})


@pytest.fixture(scope="module")
def cases(lesion_cases):
    """Lesions in sections: those of the test section are never trained on."""
    frame = lesion_cases.frame.drop(columns="section")
    return split_cases(CaseTable(frame, name="lesions"), (0.7, 0.0, 0.3))


@pytest.fixture(scope="module")
def make_trainer(make_lesion_trainer, cases):
    """A rate far too high for single hardest triplets, from the first step on."""

    def make(folder, policy, epochs=EPOCHS):
        probe = Probe(cases, section="training", images_per_class=12)
        guard = CollapseGuard(probe, policy=policy)
        return make_lesion_trainer(
            folder,
            embedder=make_embedder(),
            cases=cases,
            loss=ShadowLoss(mining="batch_hard"),
            rate=0.1,
            # No warm-up; falling to nothing at the end.
            schedule=lambda optimizer, _: cosine(optimizer, EPOCHS * BATCHES, warmup=0),
            K=8,
            batches=BATCHES,
            epochs=epochs,
            parts={"probe": probe, "guard": guard},
        )

    return make


@pytest.fixture(scope="module")
def twins(make_trainer):
    """Two trainings that differ in the guard's policy, after their end."""
    found = {policy: make_trainer(policy, policy) for policy in ("warn", "rollback")}
    for trainer in found.values():
        trainer.run()
    return found


def curve(trainer, name):
    return [c[name] for c in trainer.curves]


def embedded(trainer, table, section):
    cases = table.section(section)
    vectors = encode_cases(trainer.embedder.eval(), cases, progress=False)
    return EmbeddedCases(vectors, cases.frame)


def retrieval(trainer, table):
    """How lesions that were never seen retrieve the training section."""
    sides = [embedded(trainer, table, section) for section in ("training", "test")]
    return diagnose(*sides, bootstrap=0).metrics


def test_it_really_collapses_and_warn_leaves_it_there(twins, cases):
    trainer = twins["warn"]
    new = embedded(trainer, cases, "test")
    signs = collapse_signs(new.embeddings, new.labels)
    assert signs["spread"] < 0.005
    assert signs["effective_rank"] < 1.3
    assert signs["centroid_cosine"] > 0.999
    assert curve(trainer, "probe/hardest_loss")[-1] == pytest.approx(0.2, abs=2e-3)
    assert trainer.losses[-1] == pytest.approx(0.2, abs=2e-3)
    assert curve(trainer, "collapse/alarm")[-3:] == [1, 1, 1]
    assert len(trainer.losses) == EPOCHS * BATCHES


def test_rollback_saves_it(twins, cases):
    left, saved = twins["warn"], twins["rollback"]
    when = curve(saved, "collapse/alarm").index(1)
    # Alike up to the alarm.
    assert saved.losses[: (when + 1) * BATCHES] == left.losses[: (when + 1) * BATCHES]
    assert curve(saved, "collapse/rollbacks")[-1] == 1
    assert curve(saved, "collapse/alarm")[-1] == 0
    assert curve(saved, "collapse/spread")[-1] > 20 * curve(left, "collapse/spread")[-1]
    assert curve(saved, "collapse/centroid_cosine")[-1] < 0.5
    assert set(saved.minings[: (when + 1) * BATCHES]) == {"batch_hard"}
    assert set(saved.minings[(when + 1) * BATCHES :]) == {"semihard"}
    step = (when + 1) * BATCHES
    assert saved.rates[step] == pytest.approx([0.1 * rate for rate in left.rates[step]])


def test_the_saved_model_finds_new_lesions_and_the_collapsed_one_does_not(twins, cases):
    lost, saved = retrieval(twins["warn"], cases), retrieval(twins["rollback"], cases)
    # In a random order a class is as frequent among the nearest as anywhere.
    chance = 1 / len(cases.classes)
    assert lost["r_precision_macro"] < 1.75 * chance < saved["r_precision_macro"]
    assert saved["map_at_r"] > 2 * lost["map_at_r"]


def test_a_resumed_run_keeps_what_the_rollback_did(twins, make_trainer):
    whole = twins["rollback"]
    after = curve(whole, "collapse/alarm").index(1) + 1
    runs = []
    for epochs in (after, after + 1):
        runs.append(make_trainer("parts", "rollback", epochs))
        runs[-1].run(resume=True)
    losses = runs[0].losses + runs[1].losses
    assert losses == whole.losses[: (after + 1) * BATCHES]
    assert set(runs[1].minings) == {"semihard"}
    for name in ("collapse/rollbacks", "collapse/spread"):
        assert curve(runs[1], name) == curve(whole, name)[after : after + 1]


def test_a_healthy_start_raises_no_alarm_though_its_loss_is_near_the_margin(
    make_lesion_trainer, lesion_probe, lesion_cases, caplog
):
    # Labels that say nothing: what an untrained network makes of a hard task.
    frame = lesion_cases.frame.drop(columns=["labels", "findings"])
    mixed = np.random.default_rng(0).permutation(frame["label"])
    cases = CaseTable(frame.assign(label=mixed))
    lesion_probe.forget()
    guard = CollapseGuard(lesion_probe, every=2)
    trainer = make_lesion_trainer(
        "healthy", epochs=2, rate=1e-2, loss=ShadowLoss(), cases=cases, parts={"guard": guard}
    )
    seen = []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED(every=2), lambda e: seen.append(dict(e.state.metrics))
    )
    trainer.run()
    near = [abs(signs["collapse/loss_ratio"] - 1) <= 0.1 for signs in seen]
    assert all(near[:3])
    assert [signs["collapse/alarm"] for signs in seen] == [0] * BATCHES
    assert not [r for r in caplog.records if r.name == "medshadow.training.collapse"]
