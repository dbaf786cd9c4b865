from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from medshadow.losses import all_triplet_hinge
from medshadow.losses.counting import Workspace, count_below

TINY, WHOLE = 1, 2**25
# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def draw(size: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=generator, dtype=torch.float64)


def draw_labels(size: int, classes: int, seed: int = 0) -> Tensor:
    return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))


def draw_sets(size: int, labels: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(size, labels, generator=generator) < 0.35).long()


def agree(listed, embeddings, labels, **options) -> None:
    """Assert that value and gradients equal those of the list of triplets."""
    tile_bytes = options.pop("tile_bytes", WHOLE)
    expected = listed(embeddings, labels, **options)
    rows = embeddings.clone().requires_grad_()
    references = options.pop("references", None)
    if references is not None:
        references = references.clone().requires_grad_()
    loss = all_triplet_hinge(rows, labels, references=references, tile_bytes=tile_bytes, **options)
    loss.backward()
    torch.testing.assert_close(loss.detach(), expected.loss, **EXACT)
    torch.testing.assert_close(rows.grad, expected.by_embeddings, **EXACT)
    if references is not None:
        torch.testing.assert_close(references.grad, expected.by_references, **EXACT)


@pytest.mark.parametrize("tile_bytes", [TINY, 4000, WHOLE])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
def test_single_labels_equal_the_list(list_triplets, reduction, normalize, tile_bytes):
    agree(
        list_triplets,
        draw(19, 4),
        draw_labels(19, 4),
        margin=0.3,
        reduction=reduction,
        normalize=normalize,
        tile_bytes=tile_bytes,
    )


@pytest.mark.parametrize("tile_bytes", [TINY, WHOLE])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("positive", ["any", "equal"])
def test_label_sets_equal_the_list(list_triplets, positive, normalize, tile_bytes):
    sets = draw_sets(17, 4)
    assert (sets.sum(1) == 0).any()
    agree(
        list_triplets,
        draw(17, 3),
        sets,
        margin=0.25,
        positive=positive,
        normalize=normalize,
        tile_bytes=tile_bytes,
    )


@pytest.mark.parametrize("tile_bytes", [TINY, WHOLE])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sets", [False, True])
def test_references_equal_the_list(list_triplets, sets, normalize, tile_bytes):
    make = draw_sets if sets else draw_labels
    agree(
        list_triplets,
        draw(9, 4),
        make(9, 4, seed=1),
        references=draw(14, 4, seed=2),
        reference_labels=make(14, 5 if not sets else 4, seed=3),
        margin=0.4,
        normalize=normalize,
        tile_bytes=tile_bytes,
    )


def test_many_positives_go_through_the_table(list_triplets):
    # More than eight positives: the table look-up, with crowded and lonely cells.
    embeddings = draw(44, 3)
    embeddings[:20] = embeddings[0] + 1e-7 * draw(20, 3, seed=5)
    agree(list_triplets, embeddings, torch.arange(44) % 2, margin=0.1)
    agree(list_triplets, embeddings, torch.arange(44) % 2, margin=0.1, normalize=False)


@settings(BUSY_MACHINE, max_examples=60)
@given(data=st.data())
def test_any_batch_equals_the_list(list_triplets, data):
    size = data.draw(st.integers(1, 14), label="size")
    width = data.draw(st.integers(1, 4), label="width")
    seed = data.draw(st.integers(0, 2**16), label="seed")
    classes = data.draw(st.integers(1, 5), label="classes")
    sets = data.draw(st.booleans(), label="sets")
    make = draw_sets if sets else draw_labels
    options = {
        "margin": data.draw(st.sampled_from([0.0, 0.05, 0.3, 1.7]), label="margin"),
        "reduction": data.draw(st.sampled_from(["mean", "mean_active", "sum"])),
        "normalize": data.draw(st.booleans(), label="normalize"),
        "positive": data.draw(st.sampled_from(["any", "equal"])),
        "tile_bytes": data.draw(st.sampled_from([1, 700, 5000, 2**22]), label="tile_bytes"),
    }
    if data.draw(st.booleans(), label="references"):
        count = data.draw(st.integers(1, 14), label="count")
        options["references"] = draw(count, width, seed + 1)
        options["reference_labels"] = make(count, classes, seed + 2)
    agree(list_triplets, draw(size, width, seed), make(size, classes, seed + 3), **options)


@settings(BUSY_MACHINE, max_examples=60)
@given(data=st.data())
def test_counting_equals_comparing_with_every_threshold(data):
    # A coarse grid makes ties between values and thresholds common; -0.0 must equal 0.0.
    number = st.sampled_from([-3e38, -1.0, -0.5, -0.0, 0.0, 1e-30, 0.25, 0.5, 1.0, 3e38])
    rows, width = 3, data.draw(st.integers(1, 40))
    some = data.draw(st.lists(number, min_size=rows * width, max_size=rows * width))
    thresholds = torch.tensor(some).view(rows, width)
    thresholds[0, data.draw(st.integers(0, width)) :] = torch.inf
    thresholds[2] = thresholds[2, 0]
    thresholds = thresholds.sort(1).values
    others = data.draw(st.lists(number, min_size=rows * 9, max_size=rows * 9))
    values = torch.tensor(others).view(rows, 9)
    counted = torch.full_like(values, torch.nan)
    count_below(thresholds, thresholds.isfinite().sum(1), values, counted, Workspace(values.device))
    expected = (thresholds[:, None, :] < values[:, :, None]).sum(2)
    assert torch.equal(counted, expected.to(values.dtype))


def test_a_tie_at_the_threshold_is_not_active(list_triplets):
    # Powers of two: cos(a, n) equals cos(a, p) - margin without rounding.
    embeddings = torch.tensor([[1, 0], [1, 0], [0, 1], [-0.0, -1]], dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    expected = list_triplets(embeddings, labels, margin=1.0)
    assert expected.active == 0
    rows = embeddings.clone().requires_grad_()
    loss = all_triplet_hinge(rows, labels, margin=1.0)
    loss.backward()
    assert loss.item() == 0
    assert not rows.grad.any()
    agree(list_triplets, embeddings, labels, margin=1.0 + 2**-20)


@pytest.mark.parametrize("normalize", [True, False])
def test_zero_rows_are_defined(list_triplets, normalize):
    embeddings = draw(8, 3)
    embeddings[2] = 0
    embeddings[5] = -0.0
    agree(list_triplets, embeddings, torch.arange(8) % 3, margin=0.5, normalize=normalize)
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
def test_the_sphere_knows_no_norm(size):
    rows = draw(12, 4).float()
    labels = draw_labels(12, 3)
    expected = all_triplet_hinge(rows, labels, margin=0.2)
    rows = (rows / rows.abs().max() * size).requires_grad_()
    loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    torch.testing.assert_close(loss, expected)
    assert torch.isfinite(rows.grad).all()


def test_huge_norms_in_the_general_form(list_triplets):
    rows = (draw(10, 3) * 1e36).float().requires_grad_()
    labels = draw_labels(10, 3)
    loss = all_triplet_hinge(rows, labels, margin=0.2, normalize=False)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2, normalize=False)
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(rows.grad.double(), expected.by_embeddings, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
def test_what_is_not_finite_is_never_hidden(value, normalize):
    rows = draw(6, 3)
    rows[4, 1] = value
    # Row 4 belongs to no triplet, and is reported all the same.
    for labels in (torch.tensor([0, 0, 1, 1, 2, 1]), torch.zeros(6, dtype=torch.int64)):
        leaf = rows.clone().requires_grad_()
        loss = all_triplet_hinge(leaf, labels, margin=0.2, normalize=normalize)
        loss.backward()
        assert loss.isnan()
        assert leaf.grad.isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(list_triplets, dtype):
    rows = draw(24, 8).to(dtype).requires_grad_()
    labels = draw_labels(24, 4)
    loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2)
    assert loss.dtype == torch.float32
    assert rows.grad.dtype == dtype
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rows.grad, expected.by_embeddings.to(dtype), rtol=1e-2, atol=1e-4)


def test_autocast_does_not_reach_inside(list_triplets):
    rows = draw(24, 8).float().requires_grad_()
    labels = draw_labels(24, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = all_triplet_hinge(rows, labels, margin=0.2)
    loss.backward()
    expected = list_triplets(rows, labels, margin=0.2)
    torch.testing.assert_close(loss.double(), expected.loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(rows.grad.double(), expected.by_embeddings, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(normalize):
    rows, references = draw(7, 3), draw(8, 3, seed=4)
    labels = torch.tensor([0, 1, 0, 2, 1, 0, 2])

    def alone(leaf):
        return all_triplet_hinge(leaf, labels, margin=0.31, normalize=normalize)

    def against(leaf, other):
        return all_triplet_hinge(
            leaf,
            labels,
            references=other,
            reference_labels=torch.arange(8) % 3,
            margin=0.31,
            normalize=normalize,
        )

    assert torch.autograd.gradcheck(alone, rows.clone().requires_grad_())
    leaves = rows.clone().requires_grad_(), references.clone().requires_grad_()
    assert torch.autograd.gradcheck(against, leaves)


def test_only_the_wanted_side_gets_a_gradient():
    rows, references = draw(6, 3), draw(8, 3, seed=4)
    labels, reference_labels = torch.arange(6) % 2, torch.arange(8) % 2
    both = rows.clone().requires_grad_(), references.clone().requires_grad_()
    for normalize in (True, False):
        for wanted in ([True, False], [False, True]):
            pair = [
                side.detach().clone().requires_grad_(want)
                for side, want in zip(both, wanted, strict=True)
            ]

            def loss_of(one: Tensor, other: Tensor, normalize: bool = normalize) -> Tensor:
                return all_triplet_hinge(
                    one,
                    labels,
                    references=other,
                    reference_labels=reference_labels,
                    margin=0.2,
                    normalize=normalize,
                )

            expected = torch.autograd.grad(loss_of(*both), both)
            loss_of(*pair).backward()
            for side, want, gradient in zip(pair, wanted, expected, strict=True):
                assert (side.grad is not None) == want
                if want:
                    torch.testing.assert_close(side.grad, gradient, **EXACT)


def test_without_gradient_the_value_is_the_same():
    rows, labels = draw(20, 4), draw_labels(20, 3)
    with torch.no_grad():
        value = all_triplet_hinge(rows, labels, margin=0.2)
    assert not value.requires_grad
    again = all_triplet_hinge(rows.clone().requires_grad_(), labels, margin=0.2)
    assert value == again


def test_the_order_of_the_batch_does_not_matter():
    rows, labels = draw(20, 4), draw_labels(20, 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    one, other = rows.clone().requires_grad_(), rows[order].clone().requires_grad_()
    first = all_triplet_hinge(one, labels, margin=0.2)
    second = all_triplet_hinge(other, labels[order], margin=0.2)
    (first + second).backward()
    torch.testing.assert_close(first, second, **EXACT)
    torch.testing.assert_close(one.grad[order], other.grad, **EXACT)


def test_label_sets_of_one_label_equal_single_labels():
    rows, labels = draw(20, 4), draw_labels(20, 3)
    sets = torch.nn.functional.one_hot(labels)
    for positive in ("any", "equal"):
        one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        first = all_triplet_hinge(one, labels, margin=0.2)
        second = all_triplet_hinge(other, sets, margin=0.2, positive=positive)
        (first + second).backward()
        torch.testing.assert_close(first, second, **EXACT)
        torch.testing.assert_close(one.grad, other.grad, **EXACT)


def test_a_second_derivative_is_refused():
    rows = draw(8, 3).requires_grad_()
    loss = all_triplet_hinge(rows, torch.arange(8) % 2, margin=0.2)
    (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        gradient.square().sum().backward()


def test_backward_scales_and_repeats():
    rows = draw(8, 3).requires_grad_()
    loss = all_triplet_hinge(rows, torch.arange(8) % 2, margin=0.2)
    (once,) = torch.autograd.grad(loss, rows, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, rows)
    torch.testing.assert_close(thrice, 3 * once)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margin": -0.1}, "margin"),
        ({"margin": float("inf")}, "margin"),
        ({"reduction": "none"}, "not offered"),
        ({"reduction": "median"}, "mean_active"),
        ({"positive": "some"}, "any, equal"),
        ({"tile_bytes": 0}, "tile_bytes"),
        ({"labels": torch.zeros(5)}, "integers"),
        ({"labels": torch.zeros(4, dtype=torch.int64)}, "for 5 embeddings"),
        ({"labels": torch.full((5, 2), 2)}, "zeros and ones"),
        ({"embeddings": torch.zeros(5)}, "matrix"),
        ({"embeddings": torch.zeros(5, 2, dtype=torch.int64)}, "floating"),
        ({"references": torch.zeros(3, 2)}, "without reference_labels"),
        ({"reference_labels": torch.zeros(3)}, "without references"),
        (
            {"references": torch.zeros(3, 4), "reference_labels": torch.zeros(3).long()},
            "R x 2",
        ),
        (
            {"references": torch.zeros(3, 2), "reference_labels": torch.zeros(3, 2).long()},
            "both single labels or both label sets",
        ),
    ],
)
def test_what_does_not_fit_is_named(changed, message):
    arguments = {
        "embeddings": torch.zeros(5, 2),
        "labels": torch.zeros(5, dtype=torch.int64),
        "margin": 0.2,
    } | changed
    with pytest.raises(ValueError, match=message):
        all_triplet_hinge(**arguments)
