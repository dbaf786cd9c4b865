"""When the collapse guard alarms, what each policy then does, and what a resume remembers."""

import math

import numpy as np
import pytest
import torch
from ignite.engine import Events
from torch import nn

from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.training import (
    CollapseGuard,
    MiningCurriculum,
    Stage,
    cosine,
    one_cycle,
)
from medshadow.training.collapse import collapse_value
from medshadow.training.snapshot import copied, restore, take

# Every measurement is a collapse.
ALWAYS = {
    "spread_share": math.inf,
    "rank_share": math.inf,
    "centroid_cosine": -2,
    "loss_tolerance": math.inf,
}


def curve(trainer, name):
    return [c[name] for c in trainer.curves]


def weights(trainer):
    return torch.cat([p.detach().flatten() for p in trainer.embedder.parameters()])


def test_stop_ends_training_with_the_best_model_and_resuming_does_not_go_on(
    make_lesion_trainer, lesion_probe, caplog
):
    seen = []

    def validate(embedder):
        seen.append(torch.cat([p.detach().flatten() for p in embedder.parameters()]))
        return {"map_at_r": 1 / len(seen)}

    settings = {"K": 2, "batches": 4, "epochs": 5, "validate": validate}
    guard = CollapseGuard(lesion_probe, policy="stop", **{**ALWAYS, "centroid_cosine": 2})
    guard_that_stops = CollapseGuard(lesion_probe, policy="stop", **ALWAYS)
    lesion_probe.forget()
    calm = make_lesion_trainer("stop", **{**settings, "epochs": 2}, parts={"guard": guard})
    calm.run()
    lesion_probe.forget()
    stopped = make_lesion_trainer("stop", **settings, parts={"guard": guard_that_stops})
    stopped.run(resume=True)
    assert [len(t.losses) for t in (calm, stopped)] == [8, 4]
    assert torch.equal(weights(stopped), seen[0])
    ends = [r.getMessage() for r in caplog.records if r.name == "medshadow.training.collapse"]
    assert len(ends) == 1
    assert ends[0].startswith("epoch 3, step 12: the embeddings have collapsed: spread 0.")
    assert ends[0].endswith("training ends here")
    again = make_lesion_trainer(
        "stop", **settings, parts={"guard": CollapseGuard(lesion_probe, policy="stop")}
    )
    again.run(resume=True)
    assert again.losses == []
    assert "was stopped because its embeddings collapsed" in caplog.text


def test_it_goes_back_twice_and_then_stops_over_a_resume(make_lesion_trainer, lesion_probe, caplog):
    first_weights, runs, guards = None, [], []
    for epochs in (1, 9):
        lesion_probe.forget()
        guards.append(CollapseGuard(lesion_probe, policy="rollback", **ALWAYS))
        trainer = make_lesion_trainer(
            "twice", K=2, batches=3, epochs=epochs, parts={"guard": guards[-1]}
        )
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


def test_restoring_gives_weights_and_moments_back_and_keeps_the_snapshot(make_lesion_trainer):
    trainer = make_lesion_trainer("snapshot", K=2, batches=9, epochs=1, loss=ShadowLoss())
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
def test_lower_rates_hold_in_the_schedule_and_over_a_resume(
    make_lesion_trainer, lesion_probe, schedule
):
    name = f"rates{schedule and schedule.__name__}"
    plain = make_lesion_trainer(name + "plain", K=2, batches=5, epochs=3, schedule=schedule)
    plain.run()
    rates = []
    for epochs, thresholds in ((1, ALWAYS), (3, {})):
        lesion_probe.forget()
        guard = CollapseGuard(lesion_probe, policy="rollback", **thresholds)
        trainer = make_lesion_trainer(
            name, K=2, batches=5, epochs=epochs, schedule=schedule, parts={"guard": guard}
        )
        trainer.run(resume=True)
        rates += trainer.rates
    assert guard.rollbacks == 1
    assert np.array(rates[:5]) == pytest.approx(np.array(plain.rates[:5]))
    assert np.array(rates[5:]) == pytest.approx(0.1 * np.array(plain.rates[5:]))


def collapses(guard, trainer, epochs, unhealthy=()):
    """Let a guard find a collapse at the end of some epochs, and no health at that of others."""

    def agreeing(signs):
        epoch = trainer.engine.state.epoch
        others = dict.fromkeys(("effective_rank", "centroid_cosine", "loss_ratio"), epoch in epochs)
        return {"spread": epoch in epochs or epoch in unhealthy, **others}

    guard._agreeing = agreeing


THREE = (
    Stage("semihard", 0.3, None, 2, epochs=1),
    Stage("hardest_negative", 0.3, None, 3, epochs=1, soft=True),
    Stage("batch_hard", 0.1, None, 4),
)


@pytest.mark.parametrize(
    ("collapsing", "unhealthy", "stages", "back_to"),
    [
        ({3}, (), [1, 2, 3, 2, 3], 2),
        ({4}, (), [1, 2, 3, 3, 2], 3),
        # The last healthy weights are those of the first stage.
        ({3}, (2,), [1, 2, 3, 1, 2], 1),
        ({1}, (), [1, 1, 2, 3, 3], 0),
        ({3, 4}, (), [1, 2, 3, 2, 1], 2),
    ],
)
def test_a_curriculum_goes_back_to_the_healthy_weights_and_the_stage_before(
    make_lesion_trainer, lesion_probe, collapsing, unhealthy, stages, back_to
):
    lesion_probe.forget()
    curriculum = MiningCurriculum(THREE)
    guard = CollapseGuard(lesion_probe, policy="rollback", curriculum=curriculum)
    name = "".join(map(str, stages))
    trainer = make_lesion_trainer(
        name, batches=3, epochs=5, parts={"curriculum": curriculum, "guard": guard}
    )
    collapses(guard, trainer, collapsing, unhealthy)
    at_end = [weights(trainer)]
    trainer.engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda _: at_end.append(weights(trainer))
    )
    trainer.run()
    assert curve(trainer, "curriculum/stage") == stages
    last = max(collapsing)
    assert torch.equal(at_end[last], at_end[back_to])
    minings = [stage.mining for stage in THREE]
    expected = [minings[stage - 1] for stage in stages]
    if collapsing == {1}:
        expected[1] = "batch_all"
    assert trainer.minings[::3] == expected
    assert guard.rollbacks == len(collapsing)
    assert trainer.rates[-1] == pytest.approx(
        [0.1 ** len(collapsing) * r for r in trainer.rates[0]]
    )


def test_going_back_empties_a_memory_and_starts_the_wait_anew(make_lesion_trainer, lesion_probe):
    lesion_probe.forget()
    guard = CollapseGuard(lesion_probe, policy="rollback")
    scores = iter((0.5, 0.4, 0.3, 0.2, 0.1))
    trainer = make_lesion_trainer(
        "memory",
        K=2,
        batches=2,
        epochs=5,
        loss=CrossBatchMemory(ShadowLoss(mining="hardest_negative", soft=True), 1000),
        parts={"guard": guard},
        validate=lambda _: {"map_at_r": next(scores)},
        patience=2,
    )
    collapses(guard, trainer, {2})
    held = []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: held.append(trainer.loss.remembered)
    )
    trainer.run()
    one = len(lesion_probe.cases.frame["label"].unique()) * 2
    # Without the step back it would have ended after three epochs.
    assert held == [n * one for n in (1, 2, 3, 4, 1, 2, 3, 4, 5, 6)]


@pytest.mark.parametrize(
    ("mining", "soft", "then"),
    [
        ("batch_hard", True, ["semihard", "batch_all"]),
        ("hardest_negative", False, ["semihard", "batch_all"]),
        ("batch_all", False, ["batch_all", "batch_all"]),
    ],
)
def test_what_is_mined_after_a_step_back(make_lesion_trainer, lesion_probe, mining, soft, then):
    minings = []
    for epochs in (1, 2, 3):  # each a new run that goes on with the one before
        lesion_probe.forget()
        guard = CollapseGuard(lesion_probe, policy="rollback")
        loss = ShadowLoss(mining=mining, soft=soft)
        trainer = make_lesion_trainer(
            f"then{mining}", K=2, batches=2, epochs=epochs, loss=loss, parts={"guard": guard}
        )
        collapses(guard, trainer, {1, 2})
        trainer.run(resume=True)
        minings += trainer.minings[::2]
        assert loss.soft == (soft and loss.mining != "batch_all")
    assert minings == [mining, *then]


def test_a_loss_without_a_margin_is_judged_by_the_other_signs(
    make_lesion_trainer, lesion_probe, caplog
):
    class Pull(nn.Module):
        def forward(self, embeddings, labels):
            return (embeddings - embeddings[:1]).square().sum()

    lesion_probe.forget()
    guard = CollapseGuard(lesion_probe, spread_share=0.7, rank_share=0.7)
    trainer = make_lesion_trainer("pull", epochs=2, loss=Pull(), parts={"guard": guard})
    trainer.run()
    assert curve(trainer, "collapse/alarm")[-1] == 1
    assert "have collapsed" in caplog.text
    assert "single point" not in caplog.text


def test_every_measures_within_an_epoch(make_lesion_trainer, lesion_probe):
    lesion_probe.forget()
    guard = CollapseGuard(lesion_probe, policy="stop", every=4, **ALWAYS)
    trainer = make_lesion_trainer("every", K=2, parts={"guard": guard})
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


def test_policies_are_known(lesion_probe):
    with pytest.raises(ValueError, match="'ignore'; known are: warn, stop, rollback"):
        CollapseGuard(lesion_probe, policy="ignore")
