"""All triplets of awkward batches: zero, huge, missing, half precise, not finite."""

from __future__ import annotations

import pytest
import torch

from medshadow.losses import ShadowLoss, all_triplet_hinge

pytestmark = pytest.mark.usefixtures("way_of_counting")


@pytest.mark.parametrize("normalize", [True, False])
def test_zero_rows_are_defined(list_triplets, draw, agree, normalize):
    embeddings = draw(8, 3)
    embeddings[2] = 0
    embeddings[5] = -0.0
    agree(embeddings, torch.arange(8) % 3, margin=0.5, normalize=normalize)
    rows = embeddings.clone().requires_grad_()
    all_triplet_hinge(rows, torch.arange(8) % 3, margin=0.5).backward()
    assert not rows.grad[[2, 5]].any()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("labels", [[], [0], [0, 0, 0], [0, 1, 2]])
def test_a_batch_without_triplets_gives_zero(labels, normalize):
    rows = torch.randn(len(labels), 3, requires_grad=True)
    known = torch.tensor(labels, dtype=torch.int64)
    for reduction in ("mean", "mean_active", "sum"):
        for form in (known, torch.nn.functional.one_hot(known, 4)):
            rows.grad = None
            loss = all_triplet_hinge(
                rows, form, margin=0.2, reduction=reduction, normalize=normalize
            )
            loss.backward()
            assert loss.item() == 0
            assert rows.grad is not None
            assert not rows.grad.any()


def test_empty_references_give_zero():
    rows = torch.randn(3, 2, requires_grad=True)
    loss = all_triplet_hinge(
        rows,
        torch.tensor([0, 1, 1]),
        references=torch.zeros(0, 2),
        reference_labels=torch.zeros(0, dtype=torch.int64),
        margin=0.2,
    )
    loss.backward()
    assert loss.item() == 0
    assert not rows.grad.any()


@pytest.mark.parametrize("size", [1e-9, 1e15, 1e30, 3e38])
def test_the_sphere_knows_no_norm(draw, draw_labels, size):
    rows = draw(12, 4).float()
    labels = draw_labels(12, 3)
    expected = all_triplet_hinge(rows, labels, margin=0.2)
    rows = (rows / rows.abs().max() * size).requires_grad_()
    loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(rows.grad).all()


@pytest.mark.parametrize("size", [1e36, 1e37, 1e38, 3.4e38])
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
def test_huge_norms_in_the_general_form(list_triplets, draw, reduction, size):
    """The loss where float32 has a number for it, and the largest number where it has none."""
    rows = draw(10, 3)
    rows = (rows / rows.abs().max() * size).float().requires_grad_()
    labels, largest = torch.arange(10) % 3, torch.finfo(torch.float32).max
    options = {"margin": 0.2, "reduction": reduction, "normalize": False}
    loss = all_triplet_hinge(rows, labels, **options)
    loss.backward()
    expected = list_triplets(rows, labels, **options)
    assert (expected.loss > largest) == (reduction == "sum" and size > 1e36)
    torch.testing.assert_close(loss.double(), expected.loss.clamp_max(largest), rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.grad.double(), expected.by_embeddings, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mining", ["batch_all", "semihard", "hardest_negative", "batch_hard"])
def test_no_mining_makes_huge_norms_infinite(draw, mining, soft):
    if soft and mining == "batch_all":
        return
    rows = draw(12, 3)
    rows = (rows / rows.abs().max() * 3e38).float().requires_grad_()
    labels = torch.arange(12) % 3
    for reduction in ("mean", "mean_active", "sum"):
        rows.grad = None
        loss = ShadowLoss(0.2, mining, reduction, normalize=False, soft=soft)
        value = loss(rows, labels)
        value.backward()
        assert 1e37 < value < torch.inf
        assert rows.grad.isfinite().all()
        assert rows.grad.abs().max() > 0
        assert 1e37 < loss.statistics["hardest_violation"] < torch.inf


@pytest.mark.parametrize("power", [50, 1000])
def test_the_general_form_scales_with_its_embeddings(draw, power):
    # Times a power of two, no digit changes; beyond 2**512 a plain square would be infinite.
    rows, labels = draw(14, 3), torch.arange(14) % 3
    small, huge = rows.clone().requires_grad_(), (rows * 2.0**power).requires_grad_()
    expected = all_triplet_hinge(small, labels, margin=0.25, normalize=False)
    found = all_triplet_hinge(huge, labels, margin=0.25 * 2.0**power, normalize=False)
    (expected + found / 2.0**power).backward()
    torch.testing.assert_close(found / 2.0**power, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(huge.grad * 2.0**power, small.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("margin", [1e30, 1e37, 3e38, 1e300])
def test_a_huge_margin_of_the_general_form_gives_a_finite_loss(draw, margin):
    rows = draw(12, 3).float().requires_grad_()
    loss = ShadowLoss(margin, normalize=False)
    value = loss(rows, torch.arange(12) % 3)
    value.backward()
    expected = min(margin, torch.finfo(torch.float32).max)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert loss.statistics["active_fraction"] == 1
    assert rows.grad.isfinite().all()
    assert rows.grad.any()


def test_short_rows_beside_huge_ones_keep_their_directions(list_triplets, draw):
    rows = draw(9, 3)
    rows[::2] *= 1e20
    rows = rows.float().requires_grad_()
    # Every second row is huge; the last three are short, and alone in their triplets.
    labels = torch.tensor([0, 1, 0, 1, 0, 2, 0, 2, 0])
    loss = all_triplet_hinge(rows, labels, margin=0.2, normalize=False)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2, normalize=False)
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.grad.double(), expected.by_embeddings, rtol=1e-4, atol=1e-4)


def test_an_anchor_that_is_barely_there_pulls_huge_rows_with_a_finite_gradient():
    # Its true gradient, 1e38 / 1e-11, has no number; it is neither infinite nor, times 0, nan.
    huge = [[3e38, 0.0], [3e38, 1e38], [3e38, -1e38]]
    rows = torch.tensor([[1e-11, 1e-11], *huge, [0.0, 1.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 0, 0, 1])
    loss = all_triplet_hinge(rows, labels, margin=0.2, normalize=False)
    for factor in (1.0, 1e3, 0.0):
        (gradient,) = torch.autograd.grad(loss * factor, rows, retain_graph=True)
        assert gradient.isfinite().all()
        assert (gradient[0].abs().max() > 1e37) == (factor > 0)
    assert 1e37 < loss < torch.inf


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_never_hidden(draw, value, normalize):
    rows = draw(6, 3)
    rows[4, 1] = value
    # Row 4 belongs to no triplet, and is reported all the same.
    for labels in (torch.tensor([0, 0, 1, 1, 2, 1]), torch.zeros(6, dtype=torch.int64)):
        leaf = rows.clone().requires_grad_()
        loss = all_triplet_hinge(leaf, labels, margin=0.2, normalize=normalize)
        loss.backward()
        assert loss.isnan()
        assert leaf.grad.isnan().all()


@pytest.mark.parametrize("mining", ["batch_all", "semihard", "hardest_negative", "batch_hard"])
@pytest.mark.parametrize("scale", [1e-7, 1e-6, 1e-5, 1e-4])
def test_the_gradient_of_short_rows_stays_finite_in_float16(mining, scale):
    rows = (scale * torch.randn(24, 8, generator=torch.Generator().manual_seed(0))).half()
    rows.requires_grad_()
    value = ShadowLoss(mining=mining, reduction="sum")(rows, torch.arange(24) % 3)
    value.backward()
    assert value.isfinite()
    assert rows.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(list_triplets, draw, draw_labels, dtype):
    rows = draw(24, 8).to(dtype).requires_grad_()
    labels = draw_labels(24, 4)
    loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2)
    assert loss.dtype == torch.float32
    assert rows.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rows.grad, expected.by_embeddings.to(dtype), rtol=1e-2, atol=1e-4)


def test_autocast_does_not_reach_inside(list_triplets, draw, draw_labels):
    rows = draw(24, 8).float().requires_grad_()
    labels = draw_labels(24, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2)
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rows.grad.double(), expected.by_embeddings, rtol=1e-4, atol=1e-6)
