from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import miners
from pytorch_metric_learning.distances import CosineSimilarity
from pytorch_metric_learning.losses import CrossBatchMemory, TripletMarginLoss
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer
from torch import Tensor

from medshadow.losses import ShadowLoss, shadow_deviation

# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def draw(size: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=generator, dtype=torch.float64)


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


# The deviation


@pytest.mark.parametrize("normalize", [True, False])
def test_deviation_follows_the_equations(normalize):
    anchors, others = draw(5, 3), draw(7, 3, seed=1)
    deviations = shadow_deviation(anchors, others, normalize=normalize)
    for i, anchor in enumerate(anchors):
        for j, other in enumerate(others):
            a = anchor / anchor.norm() if normalize else anchor
            x = other / other.norm() if normalize else other
            projection = (a * x).sum() / a.norm()
            torch.testing.assert_close(deviations[i, j], (a.norm() - projection).abs(), **EXACT)


@pytest.mark.parametrize("normalize", [True, False])
def test_deviation_is_differentiable_twice(normalize):
    rows = draw(3, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()

    def function(one: Tensor, other: Tensor) -> Tensor:
        return shadow_deviation(one, other, normalize=normalize)

    assert torch.autograd.gradcheck(function, rows)
    assert torch.autograd.gradgradcheck(function, rows)


@pytest.mark.parametrize(("normalize", "expected"), [(True, 1.0), (False, 0.0)])
def test_a_zero_anchor_has_a_defined_deviation(normalize, expected):
    rows = torch.zeros(1, 3, requires_grad=True)
    deviations = shadow_deviation(rows, draw(4, 3).float(), normalize=normalize)
    deviations.sum().backward()
    assert (deviations == expected).all()
    assert not rows.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_deviation_stays_within_its_range(dtype):
    rows = draw(50, 5).to(dtype)
    deviations = shadow_deviation(torch.cat([rows, -rows]))
    assert deviations.dtype == torch.float32
    assert deviations.min() >= 0
    assert deviations.max() <= 2
    assert shadow_deviation(rows, normalize=False).min() >= 0


@pytest.mark.parametrize("size", [1e-9, 1e30])
def test_deviation_of_extreme_norms(size):
    rows = draw(6, 4).float()
    torch.testing.assert_close(shadow_deviation(rows * size), shadow_deviation(rows))


# The loss against pytorch-metric-learning


@pytest.mark.parametrize("margin", [0.0, 0.2, 1.0])
@pytest.mark.parametrize(
    ("reduction", "reducer"), [("mean", MeanReducer()), ("mean_active", AvgNonZeroReducer())]
)
def test_it_is_the_cosine_triplet_hinge(margin, reduction, reducer):
    rows, labels = draw(30, 6).requires_grad_(), torch.arange(30) % 4
    loss = ShadowLoss(margin, reduction=reduction)
    same(loss(rows, labels), theirs(margin, reducer)(rows, labels), [rows])


def test_it_is_half_the_squared_euclidean_triplet_loss_of_twice_the_margin():
    rows, labels = draw(15, 6).requires_grad_(), torch.arange(15) % 3
    units = torch.nn.functional.normalize(rows)
    squares = (units[:, None] - units[None]).square().sum(2)
    alike = labels[:, None] == labels[None]
    positive = alike & ~torch.eye(15, dtype=torch.bool)
    hinges = (squares[:, :, None] - squares[:, None, :] + 0.4).clamp_min(0)
    euclidean = hinges[positive[:, :, None] & ~alike[:, None, :]].mean()
    same(ShadowLoss(0.2)(rows, labels), euclidean / 2, [rows])


def test_references_as_in_pytorch_metric_learning():
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
def test_miners_choose_the_triplets(name, tile_bytes):
    rows, labels = draw(26, 4).requires_grad_(), torch.arange(26) % 3
    chosen = MINERS[name](rows, labels)
    assert len(chosen[0]) > 0
    ours = ShadowLoss(0.2, tile_bytes=tile_bytes)(rows, labels, chosen)
    same(ours, theirs(0.2)(rows, labels, chosen), [rows])


def test_miners_choose_from_references():
    rows, references = draw(12, 4).requires_grad_(), draw(20, 4, seed=1).requires_grad_()
    labels, others = torch.arange(12) % 3, torch.arange(20) % 4
    for name in ("triplets", "multi-similarity pairs"):
        chosen = MINERS[name](rows, labels, references, others)
        arguments = (rows, labels, chosen, references, others)
        same(ShadowLoss(0.2)(*arguments), theirs(0.2)(*arguments), [rows, references])


@settings(BUSY_MACHINE, max_examples=40)
@given(data=st.data())
def test_any_list_of_indices_counts_as_listed(list_triplets, data):
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


def test_their_cross_batch_memory_can_call_it():
    memories = [AnyMemory(loss, 4, memory_size=40) for loss in (ShadowLoss(0.2), theirs(0.2))]
    for seed in range(3):
        rows, labels = draw(12, 4, seed).float().requires_grad_(), torch.arange(12) % 3
        ours, peer = (memory(rows, labels) for memory in memories)
        assert ours > 0
        torch.testing.assert_close(ours, peer)


# What the mathematics promises


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.7])
def test_collapse_puts_the_value_on_the_margin_and_the_gradient_to_zero(margin):
    point = torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64)
    rows = point.repeat(12, 1).requires_grad_()
    loss = ShadowLoss(margin)
    value = loss(rows, torch.arange(12) % 3)
    value.backward()
    assert value.item() == pytest.approx(margin, abs=1e-15)
    assert rows.grad.abs().max() < 1e-15
    assert loss.statistics["active_fraction"] == (1.0 if margin else 0.0)


unit_pairs = st.lists(st.integers(-100, 100), min_size=12, max_size=12).filter(
    lambda numbers: all(any(numbers[i : i + 3]) for i in (0, 3, 6, 9))
)
ONE_TRIPLET = (torch.tensor([0]), torch.tensor([1]), torch.tensor([2]))


@settings(BUSY_MACHINE, max_examples=60)
@given(numbers=unit_pairs)
def test_on_the_sphere_the_anchor_moves_the_loss_by_at_most_twice_its_own_way(numbers):
    rows = torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float64).view(4, 3))
    anchor, moved, positive, negative = rows
    loss = ShadowLoss(0.2)
    before, after = (
        loss(torch.stack([a, positive, negative]), None, ONE_TRIPLET) for a in (anchor, moved)
    )
    assert abs(before - after) <= 2 * (anchor - moved).norm() + 1e-12


@settings(BUSY_MACHINE, max_examples=60)
@given(numbers=unit_pairs, lengths=st.tuples(*[st.floats(0.01, 10)] * 2))
def test_a_free_anchor_is_bounded_by_its_length(numbers, lengths):
    rows = torch.nn.functional.normalize(torch.tensor(numbers, dtype=torch.float64).view(4, 3))
    anchor, moved, positive, negative = rows
    anchor, moved = anchor * lengths[0], moved * lengths[1]
    loss = ShadowLoss(0.2)
    before, after = (
        loss(torch.stack([a, positive, negative]), None, ONE_TRIPLET) for a in (anchor, moved)
    )
    assert abs(before - after) <= 2 / min(lengths) * (anchor - moved).norm() + 1e-12


def test_the_free_bound_is_reached():
    # ||a|| = 0.1 and positive and negative opposite: the slope is 2 / ||a|| = 20.
    anchor = torch.tensor([0.1, 0.0], dtype=torch.float64, requires_grad=True)
    others = torch.tensor([[0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    ShadowLoss(0.2)(torch.cat([anchor[None], others]), None, ONE_TRIPLET).backward()
    assert anchor.grad.norm().item() == pytest.approx(20)


def test_the_general_form_ignores_error_across_the_anchor():
    rows = torch.tensor([[1.0, 0.0], [1.0, 100.0], [-1.0, 0.0]])
    assert ShadowLoss(1.0, normalize=False)(rows, None, ONE_TRIPLET) == 0
    assert ShadowLoss(1.0)(rows, None, ONE_TRIPLET) == 0
    near = torch.tensor([[1.0, 0.0], [1.0, 100.0], [0.9, 0.1]])
    assert ShadowLoss(0.2, normalize=False)(near, None, ONE_TRIPLET) < 0.2
    assert ShadowLoss(0.2)(near, None, ONE_TRIPLET) > 1


# The module


def test_statistics_equal_the_list(list_triplets):
    rows, labels = draw(14, 3), torch.arange(14) % 3
    loss = ShadowLoss(0.2)
    assert loss.statistics == {}
    loss(rows, labels)
    expected = list_triplets(rows, labels, margin=0.2)
    assert loss.statistics["triplets"] == expected.triplets
    assert loss.statistics["active_fraction"] == expected.active / expected.triplets
    assert loss.statistics["hardest_violation"] == pytest.approx(expected.hardest)
    sets = torch.nn.functional.one_hot(labels)
    loss(rows, sets)
    assert loss.statistics["triplets"] == expected.triplets
    assert loss.statistics["hardest_violation"] == pytest.approx(expected.hardest)


def test_statistics_of_a_batch_without_triplets():
    loss = ShadowLoss(0.2)
    loss(draw(3, 2), torch.zeros(3, dtype=torch.int64))
    assert loss.statistics["active_fraction"] == 0
    assert loss.statistics["triplets"] == 0
    assert loss.statistics["hardest_violation"] != loss.statistics["hardest_violation"]


def test_label_sets_follow_the_stated_rule(list_triplets):
    rows = draw(12, 3)
    sets = (torch.rand(12, 3, generator=torch.Generator().manual_seed(3)) < 0.5).long()
    values = {}
    for positive in ("any", "equal"):
        values[positive] = ShadowLoss(0.4, positive=positive)(rows, sets)
        expected = list_triplets(rows, sets, margin=0.4, positive=positive)
        torch.testing.assert_close(values[positive], expected.loss, **EXACT)
    assert values["any"] != values["equal"]


# torch.compile itself asks for the gradient of what is no leaf, and hides its own warning.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_a_compiled_model_breaks_its_graph_at_the_loss():
    # The break is stated in the docstring; values and gradients are those of the plain model.
    layer = torch.nn.Linear(4, 3)
    rows, labels = draw(10, 4).float(), torch.arange(10) % 2
    loss = ShadowLoss(0.2)

    def step(batch: Tensor) -> Tensor:
        return loss(layer(batch) * 2, labels) + 1

    step(rows).backward()
    expected = layer.weight.grad.clone()
    layer.zero_grad()
    compiled = torch.compile(step, backend="eager")
    value = compiled(rows)
    value.backward()
    torch.testing.assert_close(value, step(rows))
    torch.testing.assert_close(layer.weight.grad, expected)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(step, backend="eager", fullgraph=True)(rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mining": "hardest"}, "known are: batch_all"),
        ({"margin": -1}, "margin"),
        ({"margin": float("nan")}, "margin"),
        ({"reduction": "none"}, "gradient is accumulated"),
        ({"positive": "all"}, "any, equal"),
        ({"tile_bytes": 0}, "tile_bytes"),
    ],
)
def test_unknown_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ShadowLoss(**options)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        (([0], [1]), "2 tensors"),
        (([0], [1], [3]), "negative indices run from 3 to 3; expected 0 to 2"),
        (([-1], [1], [2]), "anchor indices run from -1"),
        (([0], [1], [0, 0], [2, 1, 0]), "as long"),
        (([0, 1], [1], [2]), "as long"),
    ],
)
def test_indices_that_do_not_fit_are_named(indices, message):
    tensors = tuple(torch.tensor(index) for index in indices)
    with pytest.raises(ValueError, match=message):
        ShadowLoss()(draw(3, 2), None, tensors)


def test_labels_or_indices_are_needed():
    with pytest.raises(ValueError, match="needs labels"):
        ShadowLoss()(draw(3, 2))


def test_the_losses_need_torch_alone():
    code = (
        "import sys, medshadow.losses.shadow\n"
        "found = {'monai', 'pandas', 'sklearn', 'pytorch_metric_learning', 'torch._dynamo'} "
        "& set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
