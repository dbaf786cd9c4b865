"""Every valid triplet, value and gradient, against the list of them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medshadow.losses import all_triplet_hinge

pytestmark = pytest.mark.usefixtures("way_of_counting")
TINY, WHOLE = 1, 2**25
# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("tile_bytes", [TINY, 4000, WHOLE])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("reduction", ["mean", "mean_active", "sum"])
def test_single_labels_equal_the_list(
    list_triplets, draw, draw_labels, agree, reduction, normalize, tile_bytes
):
    agree(
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
def test_label_sets_equal_the_list(
    list_triplets, draw, draw_sets, agree, positive, normalize, tile_bytes
):
    sets = draw_sets(17, 4)
    assert (sets.sum(1) == 0).any()
    agree(
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
def test_references_equal_the_list(
    list_triplets, draw, draw_labels, draw_sets, agree, sets, normalize, tile_bytes
):
    make = draw_sets if sets else draw_labels
    agree(
        draw(9, 4),
        make(9, 4, seed=1),
        references=draw(14, 4, seed=2),
        reference_labels=make(14, 5 if not sets else 4, seed=3),
        margin=0.4,
        normalize=normalize,
        tile_bytes=tile_bytes,
    )


def test_many_positives_go_through_the_table(list_triplets, draw, agree):
    # More than eight positives: the table look-up, with crowded and lonely cells.
    embeddings = draw(44, 3)
    embeddings[:20] = embeddings[0] + 1e-7 * draw(20, 3, seed=5)
    agree(embeddings, torch.arange(44) % 2, margin=0.1)
    agree(embeddings, torch.arange(44) % 2, margin=0.1, normalize=False)


@settings(BUSY_MACHINE, max_examples=60)
@given(data=st.data())
def test_any_batch_equals_the_list(list_triplets, draw, draw_labels, draw_sets, agree, data):
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
    agree(draw(size, width, seed), make(size, classes, seed + 3), **options)


def test_a_tie_at_the_threshold_is_not_active(list_triplets, agree):
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
    agree(embeddings, labels, margin=1.0 + 2**-20)


def test_the_order_of_the_batch_does_not_matter(draw, draw_labels):
    rows, labels = draw(20, 4), draw_labels(20, 3)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    one, other = rows.clone().requires_grad_(), rows[order].clone().requires_grad_()
    first = all_triplet_hinge(one, labels, margin=0.2)
    second = all_triplet_hinge(other, labels[order], margin=0.2)
    (first + second).backward()
    torch.testing.assert_close(first, second, **EXACT)
    torch.testing.assert_close(one.grad[order], other.grad, **EXACT)


def test_label_sets_of_one_label_equal_single_labels(draw, draw_labels):
    rows, labels = draw(20, 4), draw_labels(20, 3)
    sets = torch.nn.functional.one_hot(labels)
    for positive in ("any", "equal"):
        one, other = rows.clone().requires_grad_(), rows.clone().requires_grad_()
        first = all_triplet_hinge(one, labels, margin=0.2)
        second = all_triplet_hinge(other, sets, margin=0.2, positive=positive)
        (first + second).backward()
        torch.testing.assert_close(first, second, **EXACT)
        torch.testing.assert_close(one.grad, other.grad, **EXACT)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"margin": -0.1}, "margin"),
        ({"margin": float("inf")}, "margin"),
        ({"margin": 1e7}, "expected at most 1e"),
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
