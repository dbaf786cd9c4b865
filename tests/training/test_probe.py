"""The probe's number by hand, its set, and its place in a training."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events

from medshadow.data import CaseTable
from medshadow.errors import DataError
from medshadow.losses import ShadowLoss
from medshadow.training import MetricTrainer, Probe, adamw, training_loader
from medshadow.transforms import dermatology_transforms


def table(labels, groups, section="validation"):
    rows = range(len(labels))
    return CaseTable(
        pd.DataFrame(
            {
                "case_id": [f"c{i}" for i in rows],
                "image": [f"c{i}.png" for i in rows],
                "group": list(groups),
                "label": list(labels),
                "section": section,
            }
        )
    )


def test_hardest_loss_by_hand():
    probe = Probe(table("aabbc", "12345"))
    order = {case: row for row, case in enumerate(probe.cases.frame["case_id"])}
    directions = np.radians([0, 60, 90, 120, 180])
    embeddings = np.empty((5, 2), dtype=np.float32)
    for i, angle in enumerate(directions):
        embeddings[order[f"c{i}"]] = math.cos(angle), math.sin(angle)

    def distance(degrees):
        return 1 - math.cos(math.radians(degrees))

    hinges = [
        max(0, distance(60) - distance(90) + 0.2),  # 0 degrees: positive at 60, negative at 90
        max(0, distance(60) - distance(30) + 0.2),
        max(0, distance(30) - distance(30) + 0.2),
        max(0, distance(30) - distance(60) + 0.2),
    ]  # the fifth has no positive
    assert probe.hardest_loss(embeddings) == pytest.approx(sum(hinges) / 4, abs=1e-6)


def test_equal_embeddings_have_the_margin():
    probe = Probe(table("aabb", "1234"), margin=0.35)
    assert probe.hardest_loss(np.ones((4, 3), dtype=np.float32)) == pytest.approx(0.35)


@pytest.mark.parametrize("seed", range(5))
def test_up_to_k_of_each_class_groups_first(seed):
    labels = "a" * 8 + "b" * 2 + "c" * 6
    groups = ["g1"] * 5 + ["g2", "g3", "g4"] + ["g5", "g6"] + ["g7"] * 6
    probe = Probe(table(labels, groups), images_per_class=4, seed=seed)
    frame = probe.cases.frame
    assert frame["label"].value_counts().to_dict() == {"a": 4, "b": 2, "c": 4}
    assert sorted(frame.loc[frame["label"] == "a", "group"]) == ["g1", "g2", "g3", "g4"]
    assert frame["case_id"].is_unique


def test_the_set_follows_from_the_seed_alone():
    cases = table("ab" * 30, range(60))
    drawn = [Probe(cases, images_per_class=3, seed=s).cases.frame["case_id"].tolist()
             for s in (0, 0, 1)]  # fmt: skip
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_set_without_triplets_is_named_and_measures_nothing(caplog):
    probe = Probe(table("abc", "123"))
    assert "no triplet to probe: 3 cases of 3 classes" in caplog.text
    assert math.isnan(probe.hardest_loss(np.eye(3, dtype=np.float32)))
    with pytest.raises(DataError, match="training"):
        Probe(table("ab", "12"), section="training")


@pytest.fixture
def train(make_embedder, colour_cases, tmp_path):
    def run(probe, folder, epochs=2):
        embedder = make_embedder()
        loader = training_loader(
            colour_cases,
            dermatology_transforms(32, train=True),
            images_per_class=2,
            batches_per_epoch=2,
            progress=False,
        )
        trainer = MetricTrainer(
            embedder,
            ShadowLoss(),
            loader,
            adamw(embedder, 1e-2, 1e-2),
            max_epochs=epochs,
            checkpoints=tmp_path / folder,
            parts={"probe": probe} if probe else None,
            progress=False,
            precision="bfloat16",
        )
        measured = []
        trainer.engine.add_event_handler(
            Events.EPOCH_COMPLETED, lambda e: measured.append(dict(e.state.metrics))
        )
        trainer.run()
        return trainer, [m.get("probe/hardest_loss") for m in measured]

    return run


def test_it_measures_each_epoch_in_evaluation_mode_and_changes_nothing(train, colour_cases):
    # A wide margin: the colours are told apart within an epoch.
    probe = Probe(colour_cases, section="training", images_per_class=5, margin=1.5)
    trainer, measured = train(probe, "probed")
    bare, _ = train(None, "bare")
    after, expected = (t.embedder.state_dict() for t in (trainer, bare))
    assert all(torch.equal(after[name], expected[name]) for name in expected)

    transform = dermatology_transforms(32, train=False)
    images = torch.stack([transform({"image": p})["image"] for p in probe.cases.frame["image"]])
    with torch.inference_mode():
        embeddings = trainer.embedder.eval()(torch.as_tensor(images))
    labels = torch.from_numpy(probe.labels)
    expected = ShadowLoss(1.5, mining="batch_hard")(embeddings, labels).item()
    assert len(measured) == 2
    assert measured[0] != measured[1]
    assert measured[1] == pytest.approx(expected, abs=1e-5)


def test_embeddings_are_computed_once_a_step_and_flags_left_alone(make_embedder, colour_cases):
    probe = Probe(colour_cases, section="training", images_per_class=2)
    embedder = make_embedder().train()
    embedder.backbone.features.layers[1].eval()
    modes = [m.training for m in embedder.modules()]
    first = probe.embeddings(embedder, 3)
    assert [m.training for m in embedder.modules()] == modes
    with torch.no_grad():
        embedder.head.weight.neg_()
    assert probe.embeddings(embedder, 3) is first
    assert not np.array_equal(probe.embeddings(embedder, 4), first)
    probe.forget()
    with torch.no_grad():
        embedder.head.weight.neg_()
    assert np.array_equal(probe.embeddings(embedder, 4), first)
