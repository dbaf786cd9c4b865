"""Statements of docs/shadow-loss.md that no other test of the losses holds."""

import pytest
import torch
from torch.nn.functional import normalize as unit

from medshadow.losses import ShadowLoss, shadow_deviation
from medshadow.losses.mining import batch_hard, semihard

MARGIN = 0.2
LABELS = torch.tensor([0, 0, 1])  # the first row is the anchor of the only triplet that counts


def active_triplet(draw, normalize):
    """Rows a, p, n whose triplet (a, p, n) has a positive hinge."""
    for seed in range(100):
        rows = draw(3, 4, seed=seed)
        deviations = shadow_deviation(rows, normalize=normalize)
        if deviations[0, 1] - deviations[0, 2] + MARGIN > 0.1:
            return rows
    raise AssertionError("no active triplet was drawn")


def across(direction):
    """I - d d^T."""
    return torch.eye(len(direction), dtype=direction.dtype) - torch.outer(direction, direction)


def gradients(rows, normalize):
    a, p, n = (row.clone().requires_grad_() for row in rows)
    deviations = shadow_deviation(torch.stack([a]), torch.stack([p, n]), normalize=normalize)
    (deviations[0, 0] - deviations[0, 1] + MARGIN).backward()
    return a.grad, p.grad, n.grad


def test_gradients_on_the_sphere_are_those_written_down(draw):
    rows = active_triplet(draw, True)
    (a, p, n), (la, lp, ln) = unit(rows), rows.norm(dim=1)
    written = (
        across(a) @ (n - p) / la,
        -across(p) @ a / lp,
        across(n) @ a / ln,
    )
    for found, expected in zip(gradients(rows, True), written, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_gradients_of_the_general_form_are_those_written_down(draw):
    rows = active_triplet(draw, False)
    a, p, n = rows
    direction = a / a.norm()
    signs = [torch.sign(a.norm() - direction @ x) for x in (p, n)]
    by_anchor = [
        s * (direction - across(direction) @ x / a.norm())
        for s, x in zip(signs, (p, n), strict=True)
    ]
    written = by_anchor[0] - by_anchor[1], -signs[0] * direction, signs[1] * direction
    for found, expected in zip(gradients(rows, False), written, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_the_engines_gradient_is_that_of_the_triplets_written_down(draw):
    rows = active_triplet(draw, True).requires_grad_()
    ShadowLoss(MARGIN, reduction="sum")(rows, LABELS).backward()
    expected = torch.zeros_like(rows)
    for a, p, n in ((0, 1, 2), (1, 0, 2)):
        deviations = shadow_deviation(rows.detach())
        if deviations[a, p] - deviations[a, n] + MARGIN > 0:
            by = gradients(rows.detach()[[a, p, n]], True)
            for row, part in zip((a, p, n), by, strict=True):
                expected[row] += part
    torch.testing.assert_close(rows.grad, expected, rtol=1e-9, atol=1e-12)


def test_norms_alone_lower_and_raise_the_general_forms_deviation(draw):
    a, x = unit(draw(2, 4))
    if a @ x < 0:
        x = -x
    deviation = [shadow_deviation(a[None], (x * f)[None], normalize=False).item() for f in (1, 50)]
    reached = shadow_deviation(a[None], (x / (a @ x))[None], normalize=False).item()
    assert reached == pytest.approx(0, abs=1e-12)
    assert reached < deviation[0] < deviation[1]


@pytest.mark.parametrize("seed", range(20))
def test_the_hardest_triplets_cost_more_than_the_margin_and_semihard_ones_less(draw, seed):
    rows = unit(draw(24, 6, seed=seed))
    labels = torch.arange(24) % 3
    deviations = shadow_deviation(rows)

    def costs(triplets):
        a, p, n = triplets
        return deviations[a, p] - deviations[a, n] + MARGIN

    hardest = batch_hard(rows, labels)
    farther = costs(hardest) > MARGIN  # farthest positive beyond the nearest negative
    assert farther.float().mean() > 0.9
    a, p, n = semihard(rows, labels, margin=MARGIN)
    semi = (deviations[a, n] > deviations[a, p]) & (deviations[a, n] < deviations[a, p] + MARGIN)
    assert semi.any()
    assert (costs((a[semi], p[semi], n[semi])) < MARGIN).all()
