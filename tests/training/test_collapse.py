"""A training that really collapses, and what each policy makes of it."""

import numpy as np
import pytest
import torch
from ignite.engine import Events

from medshadow.data import CaseTable
from medshadow.evaluation import collapse_signs
from medshadow.losses import ShadowLoss
from medshadow.training import CollapseGuard, Probe

BATCHES = 10


@pytest.fixture(scope="module")
def twins(make_grain_trainer, grain_cases):
    """Two trainings that differ in the guard's policy, after their end."""
    found = {}
    for policy in ("warn", "rollback"):
        probe = Probe(grain_cases, section="training", images_per_class=12)
        parts = {"probe": probe, "guard": CollapseGuard(probe, policy=policy)}
        found[policy] = make_grain_trainer(policy, parts=parts)
        found[policy].run()
    return found


def curve(trainer, name):
    return [c[name] for c in trainer.curves]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.embedder.parameters()])


def test_it_really_collapses_and_warn_leaves_it_there(twins, grain_probe):
    trainer = twins["warn"]
    grain_probe.forget()
    signs = collapse_signs(grain_probe.embeddings(trainer.embedder, 0), grain_probe.labels)
    assert signs["spread"] < 0.003
    assert signs["effective_rank"] < 1.1
    assert signs["centroid_cosine"] > 0.9999
    assert curve(trainer, "probe/hardest_loss")[-1] == pytest.approx(0.2, abs=1e-3)
    assert trainer.losses[-1] == pytest.approx(0.2, abs=1e-3)
    assert curve(trainer, "collapse/alarm")[-3:] == [1, 1, 1]
    assert curve(trainer, "collapse/spread")[-1] == pytest.approx(signs["spread"])
    assert len(trainer.losses) == 8 * BATCHES


def test_rollback_saves_it(twins):
    left, saved = twins["warn"], twins["rollback"]
    when = curve(saved, "collapse/alarm").index(1)
    # Alike up to the alarm.
    assert saved.losses[: (when + 1) * BATCHES] == left.losses[: (when + 1) * BATCHES]
    assert curve(saved, "collapse/rollbacks")[-1] == 1
    assert curve(saved, "collapse/alarm")[-1] == 0
    assert curve(saved, "probe/hardest_loss")[-1] < 0.05
    assert curve(saved, "collapse/spread")[-1] > 20 * curve(left, "collapse/spread")[-1]
    assert curve(saved, "collapse/centroid_cosine")[-1] < 0.5
    assert set(saved.minings[: (when + 1) * BATCHES]) == {"batch_hard"}
    assert set(saved.minings[(when + 1) * BATCHES :]) == {"semihard"}
    assert saved.rates[-1] == pytest.approx([0.1 * rate for rate in saved.rates[0]])


def test_a_resumed_run_keeps_what_the_rollback_did(twins, make_grain_trainer, grain_cases):
    whole = twins["rollback"]
    after = curve(whole, "collapse/alarm").index(1) + 1
    runs = []
    for epochs in (after, after + 1):
        grain_probe = Probe(grain_cases, section="training", images_per_class=12)
        guard = CollapseGuard(grain_probe, policy="rollback")
        runs.append(
            make_grain_trainer("parts", epochs=epochs, parts={"probe": grain_probe, "guard": guard})
        )
        runs[-1].run(resume=True)
    assert guard.rollbacks == 1
    losses = runs[0].losses + runs[1].losses
    assert losses == whole.losses[: (after + 1) * BATCHES]
    assert set(runs[1].minings) == {"semihard"}
    assert curve(runs[1], "collapse/spread") == curve(whole, "collapse/spread")[after : after + 1]


def test_a_healthy_start_raises_no_alarm_though_its_loss_is_near_the_margin(
    make_grain_trainer, grain_probe, grain_cases, caplog
):
    # Labels that say nothing: what an untrained network makes of a hard task.
    frame = grain_cases.frame.drop(columns=["labels", "findings"])
    mixed = np.random.default_rng(0).permutation(frame["label"])
    cases = CaseTable(frame.assign(label=mixed))
    grain_probe.forget()
    guard = CollapseGuard(grain_probe, every=2)
    trainer = make_grain_trainer(
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
    assert not caplog.records
