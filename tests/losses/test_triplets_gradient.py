"""The hinge over all triplets as a node of autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medshadow.losses import all_triplet_hinge

pytestmark = pytest.mark.usefixtures("way_of_counting")
EXACT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("normalize", [True, False])
def test_gradcheck(draw, normalize):
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


def test_only_the_wanted_side_gets_a_gradient(draw):
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


def test_without_gradient_the_value_is_the_same(draw, draw_labels):
    rows, labels = draw(20, 4), draw_labels(20, 3)
    with torch.no_grad():
        value = all_triplet_hinge(rows, labels, margin=0.2)
    assert not value.requires_grad
    again = all_triplet_hinge(rows.clone().requires_grad_(), labels, margin=0.2)
    assert value == again


def test_a_second_derivative_is_refused(draw):
    rows = draw(8, 3).requires_grad_()
    loss = all_triplet_hinge(rows, torch.arange(8) % 2, margin=0.2)
    (gradient,) = torch.autograd.grad(loss, rows, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated twice"):
        gradient.square().sum().backward()


def test_backward_scales_and_repeats(draw):
    rows = draw(8, 3).requires_grad_()
    loss = all_triplet_hinge(rows, torch.arange(8) % 2, margin=0.2)
    (once,) = torch.autograd.grad(loss, rows, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * loss, rows)
    torch.testing.assert_close(thrice, 3 * once)
