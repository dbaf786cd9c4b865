"""Shadow Loss on the sphere against pytorch-metric-learning's cosine triplet loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import CrossBatchMemory, TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from torch import Tensor

from medshadow.losses import ShadowLoss

pytestmark = pytest.mark.usefixtures("way_of_counting")
# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def theirs(margin: float, reducer: torch.nn.Module | None = None) -> TripletMarginLoss:
    return TripletMarginLoss(
        margin=margin, distance=CosineSimilarity(), reducer=reducer or MeanReducer()
    )


def same(one, other, leaves: list[Tensor]) -> None:
    """Assert that two losses have one value and one gradient."""
    torch.testing.assert_close(one, other, **EXACT)
    pairs = zip(torch.autograd.grad(one, leaves), torch.autograd.grad(other, leaves), strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first, second, **EXACT)


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    ("reduction", "reducer"), [("mean", MeanReducer()), ("mean_active", AvgNonZeroReducer())]
)
def test_it_is_the_cosine_triplet_hinge(draw, margin, reduction, reducer):
    rows, labels = draw(30, 6).requires_grad_(), torch.arange(30) % 4
    loss = ShadowLoss(margin, reduction=reduction)
    same(loss(rows, labels), theirs(margin, reducer)(rows, labels), [rows])


def test_it_is_half_the_squared_euclidean_triplet_loss_of_twice_the_margin(draw):
    rows, labels = draw(15, 6).requires_grad_(), torch.arange(15) % 3
    units = torch.nn.functional.normalize(rows)
    squares = (units[:, None] - units[None]).square().sum(2)
    alike = labels[:, None] == labels[None]
    positive = alike & ~torch.eye(15, dtype=torch.bool)
    hinges = (squares[:, :, None] - squares[:, None, :] + 0.4).clamp_min(0)
    euclidean = hinges[positive[:, :, None] & ~alike[:, None, :]].mean()
    same(ShadowLoss(0.2)(rows, labels), euclidean / 2, [rows])


def test_references_as_in_pytorch_metric_learning(draw):
    rows, references = draw(12, 5).requires_grad_(), draw(20, 5, seed=1).requires_grad_()
    labels, others = torch.arange(12) % 3, torch.arange(20) % 4
    arguments = {"ref_emb": references, "ref_labels": others}
    ours = ShadowLoss(0.3)(rows, labels, **arguments)
    same(ours, theirs(0.3)(rows, labels, **arguments), [rows, references])
    itself = {"ref_emb": rows, "ref_labels": labels}
    same(ShadowLoss(0.3)(rows, labels, **itself), theirs(0.3)(rows, labels, **itself), [rows])


MINERS = {
    "triplets": miners.TripletMarginMiner(margin=0.2, distance=CosineSimilarity()),
    "semihard": miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard"),
    "batch hard": miners.BatchHardMiner(),
    "multi-similarity pairs": miners.MultiSimilarityMiner(epsilon=0.3),
    "pair margin": miners.PairMarginMiner(pos_margin=0.4, neg_margin=0.9),
    "batch easy-hard": miners.BatchEasyHardMiner(),
}


@pytest.mark.parametrize("name", list(MINERS))
@pytest.mark.parametrize("tile_bytes", [1, 2**22])
def test_miners_choose_the_triplets(draw, name, tile_bytes):
    rows, labels = draw(26, 4).requires_grad_(), torch.arange(26) % 3
    chosen = MINERS[name](rows, labels)
    assert len(chosen[0]) > 0
    ours = ShadowLoss(0.2, tile_bytes=tile_bytes)(rows, labels, chosen)
    same(ours, theirs(0.2)(rows, labels, chosen), [rows])


def test_miners_choose_from_references(draw):
    rows, references = draw(12, 4).requires_grad_(), draw(20, 4, seed=1).requires_grad_()
    labels, others = torch.arange(12) % 3, torch.arange(20) % 4
    for name in ("triplets", "multi-similarity pairs"):
        chosen = MINERS[name](rows, labels, references, others)
        arguments = (rows, labels, chosen, references, others)
        same(ShadowLoss(0.2)(*arguments), theirs(0.2)(*arguments), [rows, references])


@settings(BUSY_MACHINE, max_examples=40)
@given(data=st.data())
def test_any_list_of_indices_counts_as_listed(draw, list_triplets, data):
    # Repeated, overlapping and unordered indices; an index may even be positive and negative.
    size, others = 7, 6
    index = {"a": st.integers(0, size - 1), "p": st.integers(0, others - 1)}
    count = data.draw(st.integers(0, 25))
    normalize = data.draw(st.booleans())
    pull = data.draw(st.lists(st.tuples(index["a"], index["p"]), min_size=count, max_size=count))
    push = data.draw(st.lists(st.tuples(index["a"], index["p"]), min_size=count, max_size=count))
    rows, references = draw(size, 3).requires_grad_(), draw(others, 3, seed=1).requires_grad_()
    loss = ShadowLoss(0.3, normalize=normalize, tile_bytes=data.draw(st.sampled_from([1, 2**20])))
    if data.draw(st.booleans()):
        listed = [(a, p, n) for (a, p), (_, n) in zip(pull, push, strict=True)]
        indices = torch.tensor(listed, dtype=torch.int64).view(-1, 3).T
    else:
        listed = [(a, p, n) for a, p in pull for b, n in push if a == b]
        halves = [torch.tensor(half, dtype=torch.int64).view(-1, 2).T for half in (pull, push)]
        indices = torch.cat(halves)
    value = loss(rows, None, tuple(indices), references)
    value.backward()
    expected = list_triplets(
        rows, None, margin=0.3, normalize=normalize, references=references, triplets=listed
    )
    torch.testing.assert_close(value.detach(), expected.loss, **EXACT)
    torch.testing.assert_close(rows.grad, expected.by_embeddings, **EXACT)
    torch.testing.assert_close(references.grad, expected.by_references, **EXACT)
    assert loss.statistics["triplets"] == len(listed)


class AnyMemory(CrossBatchMemory):
    """Their cross-batch memory, which admits the losses it knows by name alone."""

    @staticmethod
    def supported_losses() -> list[str]:
        return ["ShadowLoss", "TripletMarginLoss"]


def test_their_cross_batch_memory_can_call_it(draw):
    memories = [AnyMemory(loss, 4, memory_size=40) for loss in (ShadowLoss(0.2), theirs(0.2))]
    for seed in range(3):
        rows, labels = draw(12, 4, seed).float().requires_grad_(), torch.arange(12) % 3
        ours, peer = (memory(rows, labels) for memory in memories)
        assert ours > 0
        torch.testing.assert_close(ours, peer)
