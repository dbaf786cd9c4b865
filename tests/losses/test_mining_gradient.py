"""Gradients of every way to choose triplets against differences of the loss's own values."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from medshadow.losses import ShadowLoss, semihard, shadow_deviation

MARGIN = 0.3
# Finite differences move a deviation by some 1e-6: no choice may turn on less than this.
APART = 1e-4
CLOSE = {"rtol": 1e-5, "atol": 1e-7}
CASES = {
    "labels": {},
    "references": {"references": 7},
    "general form": {"normalize": False},
    "general form, references": {"normalize": False, "references": 7},
    "label sets": {"positive": "any"},
    "equal label sets": {"positive": "equal"},
    "label sets, references": {"positive": "any", "references": 9},
}
RULES = [
    ("semihard", "hardest"),
    ("semihard", "easiest"),
    ("semihard", "skip"),
    ("hardest_negative", "hardest"),
    ("batch_hard", "hardest"),
    ("batch_all", "hardest"),
]
WAYS = [rule for rule in product(RULES, [False, True]) if rule != (RULES[-1], True)]


def nearest_choice(deviations: Tensor, own: Tensor) -> float:
    """The least change of a deviation that could select another triplet or turn a hinge."""
    difference = deviations[:, :, None] - deviations[:, None, :]
    itself = torch.eye(deviations.shape[1], dtype=torch.bool) | own[:, :, None] | own[:, None, :]
    turns = torch.stack([difference, difference + MARGIN, deviations[:, :, None] + 0 * difference])
    return turns.abs()[:, ~itself].min().item()


@pytest.fixture
def batch(draw, draw_labels, draw_sets):
    """Return a batch of a case, far from every tie: rows, labels, references, their labels, way."""

    def drawn(case):
        settings = CASES[case]
        make = draw_sets if "positive" in settings else draw_labels
        normalize, count = settings.get("normalize", True), settings.get("references")
        for seed in range(200):
            rows = draw(8, 3, seed)
            references = draw(count, 3, seed + 1000) if count else None
            deviations = shadow_deviation(rows, references, normalize=normalize)
            own = torch.eye(*deviations.shape, dtype=torch.bool) & (references is None)
            if nearest_choice(deviations, own) > APART:
                break
        else:
            pytest.fail(f"of 200 batches of {case!r} none lies {APART} from every tie")
        way = {"normalize": normalize, "positive": settings.get("positive", "any")}
        return rows, make(8, 2, 5), references, make(count, 2, 1) if count else None, way

    return drawn


def check(loss: ShadowLoss, rows: Tensor, references: Tensor | None, **given) -> None:
    """Assert that gradcheck passes, and that there was something to check."""
    leaves = [side.clone().requires_grad_() for side in (rows, references) if side is not None]

    def value(anchors: Tensor, others: Tensor | None = None) -> Tensor:
        return loss(anchors, ref_emb=others, **given)

    assert torch.autograd.gradcheck(value, leaves, **CLOSE)
    gradients = torch.autograd.grad(value(*leaves), leaves)
    assert all(gradient.abs().max() > 1e-3 for gradient in gradients)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("rule", "soft"), WAYS)
def test_gradcheck_of_every_rule(batch, rule, soft, case):
    rows, labels, references, reference_labels, way = batch(case)
    mining, fallback = rule
    loss = ShadowLoss(MARGIN, mining, soft=soft, fallback=fallback, **way)
    check(loss, rows, references, labels=labels, ref_labels=reference_labels)


@pytest.mark.parametrize("case", ["labels", "label sets", "general form, references"])
@pytest.mark.parametrize("reduction", ["mean_active", "sum"])
@pytest.mark.parametrize(("rule", "soft"), WAYS)
def test_gradcheck_of_every_reduction(batch, rule, soft, reduction, case):
    rows, labels, references, reference_labels, way = batch(case)
    loss = ShadowLoss(MARGIN, rule[0], reduction, soft=soft, fallback=rule[1], **way)
    check(loss, rows, references, labels=labels, ref_labels=reference_labels)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("case", ["labels", "general form, references"])
def test_gradcheck_of_a_miners_list(batch, case, pairs):
    rows, labels, references, reference_labels, way = batch(case)
    a, p, n = semihard(
        rows,
        labels,
        margin=MARGIN,
        references=references,
        reference_labels=reference_labels,
        normalize=way["normalize"],
    )
    listed = (a, p, a, n) if pairs else (a, p, n)
    check(ShadowLoss(MARGIN, **way), rows, references, indices_tuple=listed)


@pytest.mark.parametrize(("rule", "soft"), WAYS)
def test_gradcheck_where_the_references_hold_the_batch(batch, draw, rule, soft):
    rows, labels, *_ = batch("labels")
    others = draw(4, 3, seed=77)
    own = torch.zeros(8, 12, dtype=torch.bool)
    own.diagonal(4).fill_(True)
    assert nearest_choice(shadow_deviation(rows, torch.cat([others, rows])), own) > APART
    known = torch.cat([labels[:4], labels])
    loss = ShadowLoss(MARGIN, rule[0], soft=soft, fallback=rule[1])

    def value(anchors: Tensor) -> Tensor:
        return loss(
            anchors, labels, ref_emb=torch.cat([others, anchors]), ref_labels=known, own_at=4
        )

    assert torch.autograd.gradcheck(value, rows.clone().requires_grad_(), **CLOSE)
