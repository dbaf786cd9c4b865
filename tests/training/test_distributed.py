"""Two gloo ranks against one process. Run as a script, this file is one of the ranks."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import torch.distributed as dist
from ignite.engine import Events
from torch import nn

from medshadow.data import CaseTable
from medshadow.losses import CrossBatchMemory, ShadowLoss
from medshadow.networks import Backbone, Embedder
from medshadow.training import (
    CollapseGuard,
    MetricTrainer,
    MiningCurriculum,
    Probe,
    Stage,
    cached_backward,
    training_loader,
)
from medshadow.training import distributed as ranks
from medshadow.transforms import dermatology_transforms

pytestmark = pytest.mark.slow

RANKS = 2
SHARES = {"even": (6, 6), "uneven": (9, 4), "one rank empty": (12, 0), "the other empty": (0, 12)}
CHUNKS = {"plain": None, "chunks": 2}
WAYS = ("plain", "chunks", "label sets", "label sets with memory")
LABELS = ("labels", "sets", "bool sets")
EPOCHS, BATCHES = 2, 2
# Semi-hard, then batch-hard with larger batches, and back again after a collapse at its last step.
STAGES = [
    Stage("semihard", 0.3, classes_per_batch=None, images_per_class=4, epochs=1),
    Stage("batch_hard", 0.2, classes_per_batch=None, images_per_class=6),
]
STAGES_RUN, COLLAPSE_AT = [1, 2, 1, 2], 2 * BATCHES


class ProxyLoss(nn.Module):
    """Shadow Loss and a pull towards proxies: parameters of its own."""

    def __init__(self):
        super().__init__()
        self.proxies = nn.Parameter(torch.linspace(-1, 1, 24).reshape(3, 8).sin())
        self.shadow = ShadowLoss(0.3)

    def forward(self, embeddings, labels):
        loss = self.shadow(embeddings, labels)
        if labels.ndim == 1:
            loss = loss + nn.functional.cross_entropy(embeddings @ self.proxies.T, labels)
        return loss


class DeclaredCollapse(CollapseGuard):
    """Finds a collapse after one step, whatever it measures."""

    def _agreeing(self, signs):
        now = self._trainer.engine.state.iteration == COLLAPSE_AT
        return dict.fromkeys(super()._agreeing(signs), now)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, 1),
        )
        self.unused = nn.Linear(2, 2)

    def forward(self, images):
        return self.layers(images)


def make_embedder(seed=1):
    torch.manual_seed(seed)
    return Embedder(Backbone("net", Net()), 8, preprocess={"preset": "dermatology", "size": 32})


def joint_batch(form):
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(12) % 3
    if form == "labels":
        return images, labels
    sets = nn.functional.one_hot(labels)
    return images, sets if form == "sets" else sets.bool()


def gradients_of_step(images, labels, chunk_size):
    """Loss and averaged gradients of one step over this process's rows."""
    network, loss = make_embedder().eval(), ProxyLoss()

    def joint_loss(embeddings, labels):
        return loss(*ranks.gather_with_gradient(embeddings, labels))

    if chunk_size is None:
        value = joint_loss(network(images), labels)
        value.backward()
    else:
        value = cached_backward(network, joint_loss, images, labels, chunk_size)
    parameters = {**dict(network.named_parameters()), **dict(loss.named_parameters())}
    ranks.average_gradients(parameters.values())
    return value.item(), {name: p.grad for name, p in parameters.items()}


def with_sets(table):
    """The same cases, some of them of two labels."""
    second = {("red", 1): "green", ("green", 0): "blue"}
    labels = [
        {row.label, second.get((row.label, int(row.group[-1]) % 2), row.label)}
        for row in table.frame.itertuples()
    ]
    return CaseTable(table.frame.assign(labels=labels, findings=labels), name="sets")


def make_trainer(
    table,
    folder,
    *,
    max_epochs=EPOCHS,
    chunk_size=None,
    norm="frozen",
    seed=1,
    memory=None,
    stages=None,
):
    embedder = make_embedder(seed)
    embedder.backbone.features.layers[1].requires_grad_(norm != "frozen")
    if memory is None:
        loss = ProxyLoss()
        loss.proxies.data += 0.01 * seed
    else:
        loss = CrossBatchMemory(ShadowLoss(0.3), memory)
    loader = training_loader(
        table,
        dermatology_transforms(32, train=True),
        images_per_class=4,
        batches_per_epoch=BATCHES,
        progress=False,
    )
    trained = [p for p in (*embedder.parameters(), *loss.parameters()) if p.requires_grad]
    parts = {}
    if stages is not None:
        curriculum = MiningCurriculum(stages)
        probe = Probe(table, section="training", images_per_class=4)
        guard = DeclaredCollapse(probe, policy="rollback", curriculum=curriculum)
        parts = {"curriculum": curriculum, "probe": probe, "guard": guard}
    calls = []

    def validate(embedder):
        calls.append(embedder)
        return {"map_at_r": float(len(calls))}

    trainer = MetricTrainer(
        embedder,
        loss,
        loader,
        torch.optim.SGD(trained, 0.1, momentum=0.9),
        max_epochs=max_epochs,
        checkpoints=folder,
        validate=validate,
        patience=5,
        chunk_size=chunk_size,
        precision="float32",
        device="cpu",
        progress=False,
        parts=parts,
    )
    trainer.calls = calls
    return trainer


def outcome(trainer):
    state = {}

    def keep(engine):  # before the best weights are read from the one checkpoint
        found = {**trainer.embedder.state_dict(), **trainer.loss.state_dict()}
        state.update({name: t.clone() for name, t in found.items() if isinstance(t, torch.Tensor)})

    trainer.engine.add_event_handler(Events.COMPLETED, keep)
    trainer.run(resume=True)
    return {
        "state": state,
        "loss": trainer.engine.state.output["loss"],
        "metrics": dict(trainer.best_metrics),
        "validations": len(trainer.calls),
        "epoch": trainer.engine.state.epoch,
        "rates": [group["lr"] for group in trainer.optimizer.param_groups],
        "epochs": trainer.history.epochs,
    }


def train_in_every_way(table, folder):
    """Outcomes of a plain run and one in chunks that is resumed, of labels and of label sets."""
    found = {"plain": outcome(make_trainer(table, folder / "plain"))}
    outcome(make_trainer(table, folder / "chunks", chunk_size=5, max_epochs=1))
    found["chunks"] = outcome(make_trainer(table, folder / "chunks", chunk_size=5))
    sets = with_sets(table)
    found["label sets"] = outcome(make_trainer(sets, folder / "sets"))
    settings = {"chunk_size": 5, "memory": 24}
    outcome(make_trainer(sets, folder / "memory", max_epochs=1, **settings))
    found["label sets with memory"] = outcome(make_trainer(sets, folder / "memory", **settings))
    settings = {"memory": 24, "stages": STAGES}
    outcome(make_trainer(table, folder / "stages", max_epochs=3, **settings))
    found["curriculum"] = outcome(make_trainer(table, folder / "stages", max_epochs=4, **settings))
    return found


def raised(function):
    try:
        function()
    except ValueError as error:
        return str(error)
    return "nothing"


def act_as_rank(rank, folder):
    """Everything that needs two ranks, in one go: starting them takes longest."""
    found = {}
    for form in LABELS:
        images, labels = joint_batch(form)
        for name, shares in SHARES.items():
            own = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
            for way, chunk_size in CHUNKS.items():
                step = gradients_of_step(images[own], labels[own], chunk_size)
                found[form, name, way] = step
    table = CaseTable(pd.read_json(folder / "cases.json"), name="colours")
    found["training"] = train_in_every_way(table, folder / "ranks")
    # Another seed on each rank: the first one's weights must become everyone's.
    trainer = make_trainer(table, folder / "norm", norm="trained", seed=rank, max_epochs=1)
    found["trained norm"] = outcome(trainer)["state"]
    one, two = torch.full((2, 3), float(rank)), nn.BatchNorm1d(3)
    two.running_mean.fill_(rank)
    two.num_batches_tracked.fill_(7)
    ranks.average_statistics(two)
    found["averaged"] = (two.running_mean, two.running_var, two.num_batches_tracked)
    on_one_rank = nn.Parameter(torch.ones(2))
    on_one_rank.grad = torch.tensor([4.0, 6.0]) if rank == 1 else None
    ranks.average_gradients([on_one_rank])
    found["gradient of one rank"] = on_one_rank.grad
    found["from first"] = ranks.from_first_rank(lambda: {"rank": rank})
    found["errors"] = {
        "widths": raised(lambda: ranks.gather_with_gradient(one[:, : 2 + rank], torch.arange(2))),
        "rows": raised(lambda: ranks.gather_with_gradient(one, torch.arange(2 - rank))),
        "epochs": raised(lambda: ranks.check_ranks_agree("the epoch", rank)),
        "share": raised(lambda: odd_loader(table)),
    }
    torch.save(found, folder / f"found{rank}.pt")


def odd_loader(table):
    training_loader(table, dermatology_transforms(32, train=True), images_per_class=3)


@pytest.fixture(scope="module")
def two_ranks(colour_cases, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    colour_cases.frame.to_json(folder / "cases.json")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(rank), str(folder)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(RANKS)
    ]
    try:
        errors = [process.communicate(timeout=600)[1] for process in started]
    finally:
        for process in started:
            process.kill()
    assert all(process.returncode == 0 for process in started), "\n".join(errors)
    return [torch.load(folder / f"found{rank}.pt", weights_only=False) for rank in range(RANKS)]


@pytest.fixture(scope="module")
def one_process(colour_cases, tmp_path_factory):
    return train_in_every_way(colour_cases, tmp_path_factory.mktemp("one"))


@pytest.mark.parametrize("way", CHUNKS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("form", LABELS)
def test_gradient_is_that_of_the_joint_batch_in_one_process(two_ranks, form, share, way):
    value, expected = gradients_of_step(*joint_batch(form), None)
    assert expected["backbone.features.unused.weight"] is None
    assert (expected["proxies"] is None) == (form != "labels")
    for found in two_ranks:
        found_value, gradients = found[form, share, way]
        assert found_value == pytest.approx(value, rel=1e-5)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert (gradients[name] is None) == (gradient is None), name
            if gradient is not None:
                assert (gradients[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max()


@pytest.mark.parametrize("way", WAYS)
def test_training_on_two_ranks_is_training_in_one_process(two_ranks, one_process, way):
    expected = one_process[way]
    first, second = (found["training"][way] for found in two_ranks)
    start = make_embedder().state_dict()
    assert not torch.allclose(expected["state"]["head.weight"], start["head.weight"], atol=1e-3)
    for name, tensor in expected["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        assert torch.allclose(first["state"][name], tensor, atol=1e-5), name
    assert first["loss"] == second["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert first["metrics"] == second["metrics"] == expected["metrics"]
    assert first["epoch"] == second["epoch"] == EPOCHS


def test_ranks_go_through_stages_and_back_together(two_ranks, one_process):
    expected = one_process["curriculum"]
    first, second = (found["training"]["curriculum"] for found in two_ranks)
    for name, tensor in expected["state"].items():
        assert torch.equal(first["state"][name], second["state"][name]), name
        assert torch.allclose(first["state"][name], tensor, atol=1e-5), name
    for found in (expected, first, second):
        epochs = found["epochs"]
        assert [e["curriculum/stage"] for e in epochs] == STAGES_RUN
        assert [e["curriculum/batch_size"] for e in epochs] == [12, 18, 12, 18]
        assert [e["collapse/rollbacks"] for e in epochs] == [0, 1, 1, 1]
        assert found["rates"] == pytest.approx([0.01])
    for name in ("train/loss", "probe/hardest_loss", "collapse/spread"):
        values = [[e[name] for e in found["epochs"]] for found in (expected, first, second)]
        assert values[1] == values[2] == pytest.approx(values[0], rel=1e-4), name


def test_the_first_rank_alone_validates(two_ranks):
    assert [found["training"]["plain"]["validations"] for found in two_ranks] == [EPOCHS, 0]


def test_ranks_share_first_weights_and_statistics(two_ranks):
    first, second = (found["trained norm"] for found in two_ranks)
    name = "backbone.features.layers.1.running_mean"
    assert first[name].abs().max() > 0
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_rank_without_gradient_counts_as_zero(two_ranks):
    assert [found["gradient of one rank"].tolist() for found in two_ranks] == [[2, 3], [2, 3]]


def test_statistics_are_averaged_and_counts_kept(two_ranks):
    for found in two_ranks:
        mean, variance, count = found["averaged"]
        assert mean.tolist() == [0.5] * 3
        assert variance.tolist() == [1.0] * 3
        assert count == 7
        assert found["from first"] == {"rank": 0}


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("widths", r"\[\[2, 2, 2, 0\], \[2, 2, 3, 0\]\]"),
        ("rows", r"\[\[2, 2, 3, 0\], \[2, 1, 3, 0\]\]"),
        ("epochs", "the epoch must be the same on every rank; found rank 0: 0, rank 1: 1"),
        ("share", "world_size must divide P\\*K"),
    ],
)
def test_every_rank_raises_what_is_wrong_on_any(two_ranks, what, message):
    for found in two_ranks:
        assert re.search(message, found["errors"][what])


def test_one_process_needs_no_group():
    embeddings, labels = torch.eye(3), torch.arange(3)
    assert ranks.rank_and_world_size() == (0, 1)
    assert ranks.gather_with_gradient(embeddings, labels) == (embeddings, labels)
    ranks.check_ranks_agree("anything", 3)
    assert ranks.from_first_rank(lambda: 4) == 4


def test_more_ranks_than_cuda_devices_are_refused_before_they_meet(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with (
        pytest.raises(ValueError, match="started 2 ranks on a machine with 1 CUDA devices"),
        ranks.process_group(),
    ):
        pass
    assert not dist.is_initialized()


if __name__ == "__main__":
    rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    where = f"file://{folder / 'meeting'}"
    dist.init_process_group("gloo", init_method=where, rank=rank, world_size=RANKS)
    act_as_rank(rank, folder)
    dist.destroy_process_group()
