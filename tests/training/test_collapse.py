"""A training that really collapses, and what each policy makes of it."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from PIL import Image
from torch import nn

from medshadow.data import CaseTable
from medshadow.evaluation import collapse_signs
from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.training import (
    CollapseGuard,
    MetricTrainer,
    MiningCurriculum,
    Probe,
    Stage,
    adamw,
    cosine,
    one_cycle,
    training_loader,
)
from medshadow.training.collapse import collapse_value
from medshadow.training.snapshot import copied, restore, take
from medshadow.transforms import dermatology_transforms

BATCHES = 10
# Every measurement is a collapse.
ALWAYS = {
    "spread_share": math.inf,
    "rank_share": math.inf,
    "centroid_cosine": -2,
    "loss_tolerance": math.inf,
}


@pytest.fixture(scope="module")
def grain_cases(tmp_path_factory):
    """Four classes of noise: weak or strong, fine or coarse."""
    folder = tmp_path_factory.mktemp("grain")
    rng = np.random.default_rng(0)
    rows = []
    for label, (strength, grain) in {
        "weak_fine": (12, 1), "strong_fine": (24, 1), "weak_coarse": (12, 3),
        "strong_coarse": (24, 3),
    }.items():  # fmt: skip
        for lesion in range(12):
            noise = rng.normal(0, 1, (40, 48))[: 40 // grain + 1, : 48 // grain + 1]
            noise = np.kron(noise, np.ones((grain, grain)))[:40, :48, None]
            own = strength * np.exp(rng.normal(0, 0.05))
            pixels = (150 + own * noise * np.array([1, 0.8, 0.6])).clip(0, 255).astype(np.uint8)
            path = folder / f"{label}{lesion}.png"
            Image.fromarray(pixels).save(path)
            rows.append((path.stem, str(path), path.stem, label, "training"))
    frame = pd.DataFrame(rows, columns=["case_id", "image", "group", "label", "section"])
    return CaseTable(frame, name="grain")


@pytest.fixture(scope="module")
def probe(grain_cases):
    return Probe(grain_cases, section="training", images_per_class=12)


@pytest.fixture(scope="module")
def make_trainer(make_embedder, grain_cases, tmp_path_factory):
    """A training without warm-up; with ``batch_hard`` and this rate it collapses."""
    root = tmp_path_factory.mktemp("runs")

    def make(
        folder, *, epochs=8, rate=0.1, loss=None, schedule=None, K=12, batches=BATCHES, cases=None,
        **settings
    ):  # fmt: skip
        embedder = make_embedder()
        loader = training_loader(
            grain_cases if cases is None else cases,
            dermatology_transforms(32, train=False),
            images_per_class=K,
            batches_per_epoch=batches,
            progress=False,
        )
        optimizer = adamw(embedder, rate, rate)
        trainer = MetricTrainer(
            embedder,
            ShadowLoss(mining="batch_hard") if loss is None else loss,
            loader,
            optimizer,
            scheduler=schedule and schedule(optimizer, 30),
            max_epochs=epochs,
            checkpoints=root / folder,
            progress=False,
            precision="float32",
            **settings,
        )
        trainer.losses, trainer.curves, trainer.rates, trainer.minings = [], [], [], []

        def before(_):
            trainer.rates.append([group["lr"] for group in optimizer.param_groups])

        def after(engine):
            trainer.losses.append(engine.state.output["loss"])
            trainer.minings.append(
                getattr(getattr(trainer.loss, "loss", trainer.loss), "mining", None)
            )

        trainer.engine.add_event_handler(Events.ITERATION_STARTED, before)
        trainer.engine.add_event_handler(Events.ITERATION_COMPLETED, after)
        trainer.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: trainer.curves.append(dict(e.state.metrics))
        )
        return trainer

    return make


@pytest.fixture(scope="module")
def twins(make_trainer, grain_cases):
    """Two trainings that differ in the guard's policy, after their end."""
    found = {}
    for policy in ("warn", "rollback"):
        probe = Probe(grain_cases, section="training", images_per_class=12)
        parts = {"probe": probe, "guard": CollapseGuard(probe, policy=policy)}
        found[policy] = make_trainer(policy, parts=parts)
        found[policy].run()
    return found


def curve(trainer, name):
    return [c[name] for c in trainer.curves]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.embedder.parameters()])


def test_it_really_collapses_and_warn_leaves_it_there(twins, probe):
    trainer = twins["warn"]
    probe.forget()
    signs = collapse_signs(probe.embeddings(trainer.embedder, 0), probe.labels)
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


def test_a_resumed_run_keeps_what_the_rollback_did(twins, make_trainer, grain_cases):
    whole = twins["rollback"]
    after = curve(whole, "collapse/alarm").index(1) + 1
    runs = []
    for epochs in (after, after + 1):
        probe = Probe(grain_cases, section="training", images_per_class=12)
        guard = CollapseGuard(probe, policy="rollback")
        runs.append(make_trainer("parts", epochs=epochs, parts={"probe": probe, "guard": guard}))
        runs[-1].run(resume=True)
    assert guard.rollbacks == 1
    losses = runs[0].losses + runs[1].losses
    assert losses == whole.losses[: (after + 1) * BATCHES]
    assert set(runs[1].minings) == {"semihard"}
    assert curve(runs[1], "collapse/spread") == curve(whole, "collapse/spread")[after : after + 1]


def test_a_healthy_start_raises_no_alarm_though_its_loss_is_near_the_margin(
    make_trainer, probe, grain_cases, caplog
):
    # Labels that say nothing: what an untrained network makes of a hard task.
    frame = grain_cases.frame.drop(columns=["labels", "findings"])
    mixed = np.random.default_rng(0).permutation(frame["label"])
    cases = CaseTable(frame.assign(label=mixed))
    probe.forget()
    guard = CollapseGuard(probe, every=2)
    trainer = make_trainer(
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


def test_stop_ends_training_with_the_best_model_and_resuming_does_not_go_on(
    make_trainer, probe, caplog
):
    seen = []

    def validate(embedder):
        seen.append(torch.cat([p.detach().flatten() for p in embedder.parameters()]))
        return {"map_at_r": 1 / len(seen)}

    settings = {"K": 2, "batches": 4, "epochs": 5, "validate": validate}
    guard = CollapseGuard(probe, policy="stop", **{**ALWAYS, "centroid_cosine": 2})
    guard_that_stops = CollapseGuard(probe, policy="stop", **ALWAYS)
    probe.forget()
    calm = make_trainer("stop", **{**settings, "epochs": 2}, parts={"guard": guard})
    calm.run()
    probe.forget()
    stopped = make_trainer("stop", **settings, parts={"guard": guard_that_stops})
    stopped.run(resume=True)
    assert [len(t.losses) for t in (calm, stopped)] == [8, 4]
    assert torch.equal(weights(stopped), seen[0])
    ends = [r.getMessage() for r in caplog.records if r.name == "medshadow.training.collapse"]
    assert len(ends) == 1
    assert ends[0].startswith("epoch 3, step 12: the embeddings have collapsed: spread 0.")
    assert ends[0].endswith("training ends here")
    again = make_trainer("stop", **settings, parts={"guard": CollapseGuard(probe, policy="stop")})
    again.run(resume=True)
    assert again.losses == []
    assert "was stopped because its embeddings collapsed" in caplog.text


def test_it_goes_back_twice_and_then_stops_over_a_resume(make_trainer, probe, caplog):
    first_weights, runs, guards = None, [], []
    for epochs in (1, 9):
        probe.forget()
        guards.append(CollapseGuard(probe, policy="rollback", **ALWAYS))
        trainer = make_trainer("twice", K=2, batches=3, epochs=epochs, parts={"guard": guards[-1]})
        if first_weights is None:
            first_weights = weights(trainer)
        trainer.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda _, t=trainer: runs.append((t.rates[-1], weights(t)))
        )
        trainer.run(resume=True)
    assert [g.rollbacks for g in guards] == [1, 2]
    assert len(runs) == 3
    assert torch.equal(runs[0][1], first_weights)
    assert torch.equal(runs[1][1], first_weights)
    assert not torch.equal(runs[2][1], first_weights)
    assert [r[0][0] for r in runs] == pytest.approx([0.1, 0.01, 0.001])
    assert "going back to the weights of step 0, learning rates times 0.1, mining semihard; " in (
        caplog.text
    )
    assert "training ends here" in caplog.records[-1].getMessage()


def test_restoring_gives_weights_and_moments_back_and_keeps_the_snapshot(make_trainer):
    trainer = make_trainer("snapshot", K=2, batches=9, epochs=1, loss=ShadowLoss())
    kept = []

    def state():
        moments = trainer.optimizer.state_dict()["state"]
        return weights(trainer).clone(), copied({k: v["exp_avg"] for k, v in moments.items()})

    def at(step):
        if step == 3:
            kept.extend([take(trainer), state()])
        if step in (5, 8):
            assert not torch.equal(state()[0], kept[1][0])
            restore(trainer, kept[0])
            found = state()
            assert torch.equal(found[0], kept[1][0])
            assert all(torch.equal(found[1][k], kept[1][1][k]) for k in kept[1][1])
            kept.append(step)

    trainer.engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: at(e.state.iteration))
    trainer.run()
    assert kept[2:] == [5, 8]
    assert kept[1][1]


@pytest.mark.parametrize("schedule", [None, one_cycle, cosine])
def test_lower_rates_hold_in_the_schedule_and_over_a_resume(make_trainer, probe, schedule):
    name = f"rates{schedule and schedule.__name__}"
    plain = make_trainer(name + "plain", K=2, batches=5, epochs=3, schedule=schedule)
    plain.run()
    rates = []
    for epochs, thresholds in ((1, ALWAYS), (3, {})):
        probe.forget()
        guard = CollapseGuard(probe, policy="rollback", **thresholds)
        trainer = make_trainer(
            name, K=2, batches=5, epochs=epochs, schedule=schedule, parts={"guard": guard}
        )
        trainer.run(resume=True)
        rates += trainer.rates
    assert guard.rollbacks == 1
    assert np.array(rates[:5]) == pytest.approx(np.array(plain.rates[:5]))
    assert np.array(rates[5:]) == pytest.approx(0.1 * np.array(plain.rates[5:]))


def test_a_curriculum_begins_again_and_a_memory_is_emptied(make_trainer, probe):
    probe.forget()
    curriculum = MiningCurriculum(
        [Stage("hardest_negative", 0.3, None, 2, epochs=2), Stage("batch_hard", 0.1, None, 3)]
    )
    guard = CollapseGuard(probe, policy="rollback", curriculum=curriculum, **ALWAYS)
    trainer = make_trainer(
        "again",
        batches=3,
        epochs=3,
        loss=CrossBatchMemory(ShadowLoss(), 1000),
        parts={"curriculum": curriculum, "guard": guard},
    )
    held = []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: held.append(trainer.loss.remembered)
    )
    trainer.run()
    assert curve(trainer, "curriculum/stage") == [1, 1, 1]
    assert held == [8, 16, 24] * 3
    assert set(trainer.minings) == {"hardest_negative"}


def test_a_loss_without_a_margin_is_judged_by_the_other_signs(make_trainer, probe, caplog):
    class Pull(nn.Module):
        def forward(self, embeddings, labels):
            return (embeddings - embeddings[:1]).square().sum()

    probe.forget()
    guard = CollapseGuard(probe, spread_share=0.7, rank_share=0.7)
    trainer = make_trainer("pull", epochs=2, loss=Pull(), parts={"guard": guard})
    trainer.run()
    assert curve(trainer, "collapse/alarm")[-1] == 1
    assert "have collapsed" in caplog.text
    assert "single point" not in caplog.text


def test_every_measures_within_an_epoch(make_trainer, probe):
    probe.forget()
    guard = CollapseGuard(probe, policy="stop", every=4, **ALWAYS)
    trainer = make_trainer("every", K=2, parts={"guard": guard})
    trainer.run()
    assert len(trainer.losses) == 4


@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
@pytest.mark.parametrize(
    ("mining", "soft"),
    [
        ("batch_all", False),  # a soft margin does not go with it
        *((m, soft) for m in ("semihard", "hardest_negative", "batch_hard") for soft in (0, 1)),
    ],
)
def test_collapse_value_is_the_loss_of_equal_embeddings(mining, reduction, soft):
    loss = ShadowLoss(0.37, mining=mining, reduction=reduction, soft=bool(soft))
    value = loss(torch.ones(9, 4), torch.arange(9) % 3).item()
    assert collapse_value(loss) == pytest.approx(value, rel=1e-5)


def test_collapse_value_is_unknown_without_a_margin():
    assert collapse_value(nn.MSELoss()) is None
    assert collapse_value(ShadowLoss(0.0)) is None


def test_policies_are_known(probe):
    with pytest.raises(ValueError, match="'ignore'; known are: warn, stop, rollback"):
        CollapseGuard(probe, policy="ignore")
