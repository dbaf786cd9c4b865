"""The deviation, what the mathematics promises of the loss, and the module."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from medshadow.losses import ShadowLoss, shadow_deviation

pytestmark = pytest.mark.usefixtures("way_of_counting")
# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


# The deviation


@pytest.mark.parametrize("normalize", [True, False])
def test_deviation_follows_the_equations(draw, normalize):
    anchors, others = draw(5, 3), draw(7, 3, seed=1)
    deviations = shadow_deviation(anchors, others, normalize=normalize)
    for i, anchor in enumerate(anchors):
        for j, other in enumerate(others):
            a = anchor / anchor.norm() if normalize else anchor
            x = other / other.norm() if normalize else other
            projection = (a * x).sum() / a.norm()
            torch.testing.assert_close(deviations[i, j], (a.norm() - projection).abs(), **EXACT)


@pytest.mark.parametrize("normalize", [True, False])
def test_deviation_is_differentiable_twice(draw, normalize):
    rows = draw(3, 3).requires_grad_(), draw(4, 3, seed=1).requires_grad_()

    def function(one: Tensor, other: Tensor) -> Tensor:
        return shadow_deviation(one, other, normalize=normalize)

    assert torch.autograd.gradcheck(function, rows)
    assert torch.autograd.gradgradcheck(function, rows)


@pytest.mark.parametrize(("normalize", "expected"), [(True, 1.0), (False, 0.0)])
def test_a_zero_anchor_has_a_defined_deviation(draw, normalize, expected):
    rows = torch.zeros(1, 3, requires_grad=True)
    deviations = shadow_deviation(rows, draw(4, 3).float(), normalize=normalize)
    deviations.sum().backward()
    assert (deviations == expected).all()
    assert not rows.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_deviation_stays_within_its_range(draw, dtype):
    rows = draw(50, 5).to(dtype)
    deviations = shadow_deviation(torch.cat([rows, -rows]))
    assert deviations.dtype == torch.float32
    assert deviations.min() >= 0
    assert deviations.max() <= 2
    assert shadow_deviation(rows, normalize=False).min() >= 0


@pytest.mark.parametrize("size", [1e-9, 1e30])
def test_deviation_of_extreme_norms(draw, size):
    rows = draw(6, 4).float()
    torch.testing.assert_close(shadow_deviation(rows * size), shadow_deviation(rows))


def test_deviation_of_huge_norms_in_the_general_form(draw):
    rows = (draw(6, 3) * 2e38).clamp(-3.4e38, 3.4e38).float().requires_grad_()
    assert rows.detach().double().norm(dim=1).max() > torch.finfo(torch.float32).max
    deviations = shadow_deviation(rows, normalize=False)
    expected = shadow_deviation(rows.detach().double(), normalize=False)
    within = expected < torch.finfo(torch.float32).max
    assert within.float().mean() > 0.5
    torch.testing.assert_close(deviations[within].double(), expected[within], rtol=1e-4, atol=1e32)
    assert deviations[~within].isinf().all()
    (gradient,) = torch.autograd.grad((deviations / 1e38).sum(), rows)
    assert gradient.isfinite().all()


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


def test_statistics_equal_the_list(draw, list_triplets):
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


def test_statistics_of_a_batch_without_triplets(draw):
    loss = ShadowLoss(0.2)
    loss(draw(3, 2), torch.zeros(3, dtype=torch.int64))
    assert loss.statistics["active_fraction"] == 0
    assert loss.statistics["triplets"] == 0
    assert loss.statistics["hardest_violation"] != loss.statistics["hardest_violation"]


def test_label_sets_follow_the_stated_rule(draw, list_triplets):
    rows = draw(12, 3)
    sets = (torch.rand(12, 3, generator=torch.Generator().manual_seed(3)) < 0.5).long()
    values = {}
    for positive in ("any", "equal"):
        values[positive] = ShadowLoss(0.4, positive=positive)(rows, sets)
        expected = list_triplets(rows, sets, margin=0.4, positive=positive)
        torch.testing.assert_close(values[positive], expected.loss, **EXACT)
    assert values["any"] != values["equal"]


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
def test_indices_that_do_not_fit_are_named(draw, indices, message):
    tensors = tuple(torch.tensor(index) for index in indices)
    with pytest.raises(ValueError, match=message):
        ShadowLoss()(draw(3, 2), None, tensors)


def test_labels_or_indices_are_needed(draw):
    with pytest.raises(ValueError, match="needs labels"):
        ShadowLoss()(draw(3, 2))
