"""Training on a table of label sets: in chunks, with a memory, with a probe and a guard."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from ignite.engine import Events
from torch import nn

from medshadow.data import CaseTable
from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.networks import Backbone, Embedder
from medshadow.training import CollapseGuard, MetricTrainer, Probe, adamw, training_loader
from medshadow.transforms import dermatology_transforms

EPOCHS, BATCHES = 2, 3


@pytest.fixture(scope="module")
def eyes(colour_cases):
    """The colours, some lesions with a second label, green only when it is the same green."""
    rows = []
    for row in colour_cases.frame.itertuples():
        odd = int(row.group[-1]) % 2
        labels = {row.label} | ({"blue"} if odd and row.label == "red" else set())
        green = {f"green: {odd}"} if "green" in labels else set()
        section = "validation" if row.group[-1] in "45" else "training"
        rows.append((row.case_id, row.image, row.group, row.label, labels,
                     labels - {"green"} | green, section))  # fmt: skip
    columns = ["case_id", "image", "group", "label", "labels", "findings", "section"]
    return CaseTable(pd.DataFrame(rows, columns=columns), name="eyes")


class Watched(nn.Module):
    """A loss that keeps what it is given and what it gives."""

    def __init__(self, loss):
        super().__init__()
        self.loss = loss
        self.seen = []

    def forward(self, embeddings, labels):
        value = self.loss(embeddings, labels)
        self.seen.append((embeddings.detach().clone(), labels.clone(), value.item()))
        return value


def make_trainer(table, folder, loss=None, **settings):
    torch.manual_seed(1)
    # Nothing in it depends on the other images of a batch, or on chance.
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1))
    embedder = Embedder(Backbone("small", net), 8, preprocess={"preset": "dermatology", "size": 32})
    loader = training_loader(
        table,
        dermatology_transforms(32, train=True),
        images_per_class=4,
        batches_per_epoch=BATCHES,
        progress=False,
    )
    trainer = MetricTrainer(
        embedder,
        Watched(loss or ShadowLoss(0.3)),
        loader,
        adamw(embedder, 1e-2, 1e-2),
        max_epochs=EPOCHS,
        checkpoints=folder,
        progress=False,
        precision="float32",
        **settings,
    )
    trainer.cases = []
    trainer.engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: trainer.cases.append(e.state.batch["case_id"])
    )
    return trainer


def by_hand(embeddings, labels, everything, everyones, margin=0.3):
    """Every triplet whose anchor is in the batch, which stands first among everything."""
    shared = (labels @ everyones.T).numpy()
    near = (embeddings @ everything.T).numpy()
    hinges = []
    for a in range(len(embeddings)):
        for p in np.flatnonzero(shared[a] > 0):
            for n in np.flatnonzero(shared[a] == 0):
                if p != a:
                    hinges.append(max(0, near[a, n] - near[a, p] + margin))
    return sum(hinges) / len(hinges)


@pytest.fixture(scope="module")
def plain(eyes, tmp_path_factory):
    trainer = make_trainer(eyes, tmp_path_factory.mktemp("plain"))
    trainer.run()
    return trainer


def test_findings_reach_the_loss_and_labels_the_sampler(plain, eyes):
    assert eyes.finding_names == ("blue", "red", "green: 0", "green: 1")
    rows = eyes.frame.set_index("case_id")
    for cases, (_, labels, _) in zip(plain.cases, plain.loss.seen, strict=True):
        expected = [
            [float(name in rows["findings"][case]) for name in eyes.finding_names] for case in cases
        ]
        assert labels.tolist() == expected
        assert len(cases) == 12
        for label in ("red", "green", "blue"):
            assert sum(label in rows["labels"][case] for case in cases) >= 4
        assert set(rows["section"][cases]) == {"training"}


def test_every_step_has_the_loss_of_all_triplets(plain):
    assert len(plain.loss.seen) == EPOCHS * BATCHES
    for embeddings, labels, value in plain.loss.seen:
        assert value == pytest.approx(by_hand(embeddings, labels, embeddings, labels), rel=1e-5)


def test_gradient_caching_trains_as_the_plain_batch(plain, eyes, tmp_path):
    chunked = make_trainer(eyes, tmp_path, chunk_size=5)
    chunked.run()
    assert chunked.cases == plain.cases
    for (_, _, value), (_, _, expected) in zip(chunked.loss.seen, plain.loss.seen, strict=True):
        assert value == pytest.approx(expected, rel=1e-4)
    found, expected = (t.embedder.state_dict() for t in (chunked, plain))
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.parametrize("chunk_size", [None, 5])
def test_memory_meets_the_sets_of_past_batches(plain, eyes, tmp_path, chunk_size):
    trainer = make_trainer(
        eyes, tmp_path, CrossBatchMemory(ShadowLoss(0.3), size=24), chunk_size=chunk_size
    )
    trainer.run()
    assert trainer.loss.loss.remembered == 24
    past, sets = torch.empty(0, 8), torch.empty(0, 4)
    for embeddings, labels, value in trainer.loss.seen:
        together, both = torch.cat([embeddings, past]), torch.cat([labels, sets])
        assert value == pytest.approx(by_hand(embeddings, labels, together, both), rel=1e-5)
        past, sets = torch.cat([past, embeddings])[-24:], torch.cat([sets, labels])[-24:]
    values = [[value for *_, value in t.loss.seen] for t in (trainer, plain)]
    assert values[0][0] == pytest.approx(values[1][0], rel=1e-5)
    assert values[0][1] != pytest.approx(values[1][1], rel=1e-3)


def test_a_run_with_memory_resumes_to_the_same_losses(eyes, tmp_path):
    def trainer(folder, **settings):
        loss = CrossBatchMemory(ShadowLoss(0.3), size=24)
        return make_trainer(eyes, tmp_path / folder, loss, **settings)

    whole = trainer("whole")
    whole.run()
    first = trainer("parts")
    first.engine.add_event_handler(
        Events.EPOCH_COMPLETED(once=1), lambda engine: engine.terminate()
    )
    first.run()
    second = trainer("parts")
    second.run(resume=True)
    values = [[value for *_, value in t.loss.seen] for t in (first, second, whole)]
    assert values[0] + values[1] == values[2]


def test_probe_and_guard_follow_a_training_on_label_sets(eyes, tmp_path):
    probe = Probe(eyes, images_per_class=3, margin=1.5)
    assert probe.labels.shape == (9, 4)
    assert probe.classes.tolist() == probe.cases.frame["label"].tolist()
    parts = {"probe": probe, "guard": CollapseGuard(probe, policy="rollback")}
    trainer = make_trainer(eyes, tmp_path, parts=parts)
    measured = []
    trainer.engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda e: measured.append(dict(e.state.metrics))
    )
    trainer.run()
    embeddings = probe.embeddings(trainer.embedder, trainer.engine.state.iteration)
    near, shared = embeddings @ embeddings.T, probe.labels @ probe.labels.T
    hinges = []
    for a in range(9):
        positives = [near[a, p] for p in range(9) if p != a and shared[a, p]]
        negatives = [near[a, n] for n in range(9) if not shared[a, n]]
        if positives and negatives:
            hinges.append(max(0, max(negatives) - min(positives) + 1.5))
    assert measured[-1]["probe/hardest_loss"] == pytest.approx(np.mean(hinges), rel=1e-5)
    assert len(measured) == EPOCHS
    assert all(math.isfinite(m["collapse/centroid_cosine"]) for m in measured)
    assert measured[-1]["collapse/alarm"] == 0


def test_a_probe_whose_sets_hold_no_triplet_says_so(eyes, caplog):
    frame = eyes.frame.assign(findings=[names | {"all"} for names in eyes.frame["findings"]])
    probe = Probe(CaseTable(frame), images_per_class=2)
    assert "no triplet to probe: 6 cases of 3 classes" in caplog.text
    assert math.isnan(probe.hardest_loss(np.eye(6, dtype=np.float32)))
