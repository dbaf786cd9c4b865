"""Stages of a curriculum, as the loss and the batches of a real training meet them."""

import logging

import pytest
import torch
from ignite.engine import Events
from torch import nn

from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.training import (
    MetricTrainer,
    MiningCurriculum,
    Stage,
    adamw,
    one_cycle,
    training_loader,
)
from medshadow.transforms import dermatology_transforms

BATCHES = 3
THREE = (
    Stage("semihard", 0.3, None, 3, epochs=1),
    Stage("hardest_negative", 0.2, 2, 4, epochs=2, soft=True),
    Stage("batch_hard", 0.1, None, 5, epochs=1),
)


@pytest.fixture
def make_trainer(make_embedder, colour_cases, tmp_path):
    def make(curriculum, folder="run", max_epochs=5, loss=None, num_workers=0, **settings):
        embedder = make_embedder()
        loader = training_loader(
            colour_cases,
            dermatology_transforms(32, train=True),
            images_per_class=2,
            batches_per_epoch=BATCHES,
            num_workers=num_workers,
            progress=False,
        )
        optimizer = adamw(embedder, 1e-2, 1e-2)
        trainer = MetricTrainer(
            embedder,
            ShadowLoss() if loss is None else loss,  # an empty memory is false
            loader,
            optimizer,
            scheduler=one_cycle(optimizer, max(5, max_epochs) * BATCHES),
            max_epochs=max_epochs,
            checkpoints=tmp_path / folder,
            parts={"curriculum": curriculum},
            progress=False,
            precision="float32",
            **settings,
        )
        trainer.steps, trainer.losses, trainer.curves = [], [], []

        def note(engine):
            mined = getattr(trainer.loss, "loss", trainer.loss)
            labels = engine.state.batch["label"]
            batch = len(labels.unique()), len(labels)
            trainer.steps.append((mined.mining, mined.margin, mined.soft, *batch))
            trainer.losses.append(engine.state.output["loss"])

        trainer.engine.add_event_handler(Events.ITERATION_COMPLETED, note)
        trainer.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: trainer.curves.append(dict(e.state.metrics))
        )
        return trainer

    return make


@pytest.mark.parametrize("num_workers", [0, 2])
def test_loss_and_batches_are_those_of_the_stage(make_trainer, num_workers):
    trainer = make_trainer(MiningCurriculum(THREE), num_workers=num_workers)
    trainer.run()
    first = [("semihard", 0.3, False, 3, 9)] * BATCHES
    second = [("hardest_negative", 0.2, True, 2, 8)] * BATCHES
    third = [("batch_hard", 0.1, False, 3, 15)] * BATCHES
    # The last stage goes on to max_epochs.
    assert trainer.steps == first + 2 * second + 2 * third
    assert trainer.engine.state.iteration == 5 * BATCHES


def test_every_epoch_says_its_stage(make_trainer, caplog):
    trainer = make_trainer(MiningCurriculum(THREE))
    with caplog.at_level(logging.INFO, "medshadow.training.curriculum"):
        trainer.run()
    found = [tuple(c[f"curriculum/{n}"] for n in ("stage", "margin", "batch_size"))
             for c in trainer.curves]  # fmt: skip
    assert found == [(1, 0.3, 9), (2, 0.2, 8), (2, 0.2, 8), (3, 0.1, 15), (3, 0.1, 15)]
    assert [r.getMessage() for r in caplog.records] == [
        "epoch 1: stage 1 of 3, semihard, margin 0.3, batches of 3 x 3",
        "epoch 2: stage 2 of 3, hardest_negative with a soft margin, margin 0.2, batches of 2 x 4",
        "epoch 4: stage 3 of 3, batch_hard, margin 0.1, batches of 3 x 5",
    ]


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("stopped_after", [1, 2, 3])
def test_resumed_run_meets_the_losses_of_an_uninterrupted_one(make_trainer, memory, stopped_after):
    def loss():
        return CrossBatchMemory(ShadowLoss(), 40) if memory else ShadowLoss()

    whole = make_trainer(MiningCurriculum(THREE), "whole", loss=loss())
    expected = whole.run().state_dict()

    first = make_trainer(MiningCurriculum(THREE), "parts", max_epochs=stopped_after, loss=loss())
    first.run()
    second = make_trainer(MiningCurriculum(THREE), "parts", loss=loss())
    resumed = second.run(resume=True).state_dict()

    assert first.steps + second.steps == whole.steps
    assert first.losses + second.losses == whole.losses
    assert all(torch.equal(resumed[name], expected[name]) for name in expected)


def scored(*scores):
    values = iter(scores)
    return lambda _: {"map_at_r": next(values)}


PLATEAU = (
    Stage("semihard", 0.2, None, 2, patience=2),
    Stage("batch_hard", 0.2, None, 2, patience=2),
    Stage("hardest_negative", 0.2, None, 2),
)


@pytest.mark.parametrize(
    ("scores", "stages"),
    [
        ((0.1, 0.2, 0.3, 0.4, 0.5), [1, 1, 1, 1, 1]),
        ((0.5, 0.4, 0.4, 0.4, 0.4), [1, 1, 1, 2, 2]),
        # The second stage's best counts from its own first epoch.
        ((0.9, 0.1, 0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.4), [1, 1, 1, 2, 2, 2, 2, 2, 3]),
        ((float("nan"), 0.1, 0.2, 0.3, 0.4), [1, 1, 1, 1, 1]),
    ],
)
def test_a_plateau_ends_a_stage(make_trainer, scores, stages):
    trainer = make_trainer(
        MiningCurriculum(PLATEAU), max_epochs=len(scores), validate=scored(*scores)
    )
    trainer.run()
    assert [c["curriculum/stage"] for c in trainer.curves] == stages


def test_the_wait_for_a_plateau_is_resumed(make_trainer):
    make_trainer(MiningCurriculum(PLATEAU), "wait", max_epochs=2, validate=scored(0.5, 0.4)).run()
    resumed = make_trainer(MiningCurriculum(PLATEAU), "wait", validate=scored(0.45, 0.2, 0.3))
    resumed.run(resume=True)
    assert [c["curriculum/stage"] for c in resumed.curves] == [1, 2, 2]


def test_epochs_are_the_most_a_stage_lasts(make_trainer):
    stages = (Stage("semihard", 0.2, None, 2, epochs=2, patience=9), *THREE[1:])
    trainer = make_trainer(MiningCurriculum(stages), max_epochs=3, validate=scored(0.1, 0.2, 0.3))
    trainer.run()
    assert [c["curriculum/stage"] for c in trainer.curves] == [1, 1, 2]


EARLY = (Stage("semihard", 0.2, None, 2, epochs=3), Stage("batch_hard", 0.2, None, 2))


@pytest.mark.parametrize(
    ("scores", "stages"),
    [
        # The last stage begins below the first one's best, and climbs.
        ((0.5, 0.5, 0.6, 0.3, 0.4, 0.5), [1, 1, 1, 2, 2, 2]),
        # The first stage's plateau ends neither it nor the training.
        ((0.5, 0.4, 0.4, 0.3, 0.4, 0.4, 0.4), [1, 1, 1, 2, 2, 2, 2]),
        # The last one's ends the training, counted from its own best.
        ((0.9, 0.9, 0.9, 0.3, 0.4, 0.4, 0.3, 0.8), [1, 1, 1, 2, 2, 2, 2]),
    ],
)
def test_early_stopping_counts_in_the_last_stage_alone(make_trainer, scores, stages):
    trainer = make_trainer(
        MiningCurriculum(EARLY), max_epochs=len(scores), validate=scored(*scores), patience=2
    )
    trainer.run()
    assert [c["curriculum/stage"] for c in trainer.curves] == stages


def test_what_early_stopping_has_counted_is_resumed(make_trainer):
    stages = (THREE[0], PLATEAU[2])
    settings = {"patience": 2, "folder": "early"}
    first = scored(0.5, 0.4, 0.3)
    make_trainer(MiningCurriculum(stages), max_epochs=3, validate=first, **settings).run()
    resumed = make_trainer(MiningCurriculum(stages), validate=scored(0.2, 0.9), **settings)
    resumed.run(resume=True)
    assert len(resumed.curves) == 1


def test_a_memory_is_emptied_when_the_stage_changes(make_trainer):
    trainer = make_trainer(MiningCurriculum(THREE), loss=CrossBatchMemory(ShadowLoss(), 1000))
    held = []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda _: held.append(trainer.loss.remembered)
    )
    trainer.run()
    first, second, third = ([n * size for n in range(1, count + 1)]
                            for size, count in ((9, 3), (8, 6), (15, 6)))  # fmt: skip
    assert held == first + second + third


@pytest.mark.parametrize("event", [Events.ITERATION_COMPLETED(once=8), Events.EPOCH_COMPLETED])
def test_stepping_back_begins_the_stage_before(make_trainer, event):
    curriculum = MiningCurriculum(THREE)
    trainer = make_trainer(curriculum, max_epochs=6)

    def step_back(engine):
        if engine.state.epoch == 3:
            curriculum.step_back(3)

    trainer.engine.add_event_handler(event, step_back)
    trainer.run()
    minings = [step[0] for step in trainer.steps]
    # What is left of the third epoch does not count as the first stage's epoch.
    assert minings[9:] == ["semihard"] * 3 + ["hardest_negative"] * 6
    at_once = event == Events.ITERATION_COMPLETED(once=8)
    assert minings[8] == ("semihard" if at_once else "hardest_negative")


@pytest.mark.parametrize(("at_most", "then"), [(3, 2), (2, 2), (1, 1)])
def test_stepping_back_goes_no_further_than_it_must(make_trainer, at_most, then):
    curriculum = MiningCurriculum(THREE)
    trainer = make_trainer(curriculum, max_epochs=5)
    trainer.engine.add_event_handler(
        Events.EPOCH_COMPLETED(once=4), lambda _: curriculum.step_back(at_most)
    )
    trainer.run()
    assert [c["curriculum/stage"] for c in trainer.curves] == [1, 2, 2, 3, then]


def test_at_the_end_of_a_stage_the_step_is_back_from_that_stage(make_trainer):
    curriculum = MiningCurriculum(THREE)
    trainer = make_trainer(curriculum, max_epochs=4)
    trainer.engine.add_event_handler(
        Events.EPOCH_COMPLETED(once=3), lambda _: curriculum.step_back(2)
    )
    trainer.run()
    assert [c["curriculum/stage"] for c in trainer.curves] == [1, 2, 2, 1]


def test_before_the_first_stage_it_mines_more_gently_over_a_resume(make_trainer):
    stages = [Stage("batch_hard", 0.2, None, 2, epochs=5, soft=True), THREE[1]]

    def train(max_epochs, back_after):
        curriculum = MiningCurriculum(stages)
        trainer = make_trainer(curriculum, "gentler", max_epochs=max_epochs)

        @trainer.engine.on(Events.ITERATION_COMPLETED)
        def _(engine):
            if engine.state.iteration in [BATCHES * epoch for epoch in back_after]:
                curriculum.step_back(1)

        trainer.run(resume=True)
        return [(mining, soft) for mining, _, soft, *_ in trainer.steps[::BATCHES]]

    hard, gentle = ("batch_hard", True), ("semihard", True)
    assert train(2, {1}) == [hard, gentle]
    assert train(3, set()) == [gentle]
    assert train(5, {4}) == [gentle, ("batch_all", False)]


def test_stages_come_from_a_configuration():
    from monai.bundle import ConfigParser

    stages = [
        {"mining": "semihard", "margin": 0.3, "classes_per_batch": None, "images_per_class": "@K"},
        {"_target_": "medshadow.training.Stage", "mining": "batch_hard", "margin": 0.3,
         "classes_per_batch": 5, "images_per_class": "$2 * @K"},
    ]  # fmt: skip
    stages[0]["epochs"] = 3
    config = {"K": 8, "c": {"_target_": "medshadow.training.MiningCurriculum", "stages": stages}}
    curriculum = ConfigParser(config).get_parsed_content("c")
    assert curriculum.stages == (
        Stage("semihard", 0.3, None, 8, epochs=3),
        Stage("batch_hard", 0.3, 5, 16),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mining": "softhard"}, "'softhard'; known are: batch_all, semihard"),
        ({"mining": "batch_all", "soft": True}, "soft=True"),
        ({"margin": -0.1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"classes_per_batch": 1}, "classes_per_batch"),
        ({"images_per_class": 1}, "images_per_class"),
        ({"epochs": 0}, "epochs"),
        ({"patience": 0}, "patience"),
    ],
)
def test_a_stage_that_cannot_be_is_refused(change, message):
    good = {"mining": "semihard", "margin": 0.2, "classes_per_batch": 2, "images_per_class": 2}
    with pytest.raises(ValueError, match=message):
        Stage(**{**good, **change})


def test_a_curriculum_that_cannot_be_is_refused(make_trainer):
    endless = Stage("semihard", 0.2, None, 2)
    with pytest.raises(ValueError, match="at least one stage"):
        MiningCurriculum([])
    with pytest.raises(ValueError, match="stage 1 never ends"):
        MiningCurriculum([endless, endless])
    with pytest.raises(ValueError, match="found 4 for 3 classes"):
        make_trainer(MiningCurriculum([*THREE, Stage("batch_hard", 0.2, 4, 2)][2:]))
    with pytest.raises(ValueError, match="MSELoss has none"):
        make_trainer(MiningCurriculum([endless]), loss=nn.MSELoss())
    trainer = make_trainer(MiningCurriculum(PLATEAU), validate=lambda _: {"other": 1.0},
                           select_by="other")  # fmt: skip
    with pytest.raises(ValueError, match="waits for 'map_at_r'"):
        trainer.run()


def test_stages_that_are_never_reached_are_named(make_trainer, caplog):
    make_trainer(MiningCurriculum(THREE), max_epochs=4)
    assert not caplog.records
    make_trainer(MiningCurriculum(THREE), max_epochs=3)
    assert "the stages before the last take 1 + 2 epochs; training ends after 3" in caplog.text


def test_a_run_of_more_stages_cannot_be_resumed_with_fewer(make_trainer):
    make_trainer(MiningCurriculum(THREE), "fewer", max_epochs=4).run()
    with pytest.raises(ValueError, match="was in stage 3"):
        make_trainer(MiningCurriculum(THREE[:1]), "fewer").run(resume=True)
