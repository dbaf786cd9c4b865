"""The table of margins in docs/shadow-loss.md: what other libraries call the same margin."""

from __future__ import annotations

import os
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import pytest
import torch
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from medshadow.losses import ShadowLoss

EXACT = {"rtol": 1e-9, "atol": 1e-12}
needs_sentence_transformers = pytest.mark.skipif(
    find_spec("sentence_transformers") is None
    and os.environ.get("MEDSHADOW_REQUIRE_INTEGRATIONS") != "1",
    reason="sentence-transformers is not installed: its rows of the table are NOT checked here",
)


def metric_learning(distance=None):
    options = {} if distance is None else {"distance": distance}
    return lambda rows, labels, margin: TripletMarginLoss(margin, **options)(rows, labels)


def of_torch(distance=None):
    def loss(rows, labels, margin):
        alike = labels[:, None] == labels[None]
        pulled = alike & ~torch.eye(len(rows), dtype=torch.bool)
        a, p, n = (pulled[:, :, None] & ~alike[:, None, :]).nonzero().T
        if distance is None:
            chosen = torch.nn.TripletMarginLoss(margin, eps=0)
        else:
            chosen = torch.nn.TripletMarginWithDistanceLoss(
                distance_function=distance, margin=margin
            )
        return chosen(rows[a], rows[p], rows[n])

    return loss


def their_losses() -> ModuleType:
    try:
        return import_module("sentence_transformers.sentence_transformer.losses")
    except ImportError:  # where they were before version 6
        return import_module("sentence_transformers.losses")


def sentence_transformers(name: str, distance: str = "cosine_distance", **options):
    def loss(rows, labels, margin):
        losses = their_losses()
        metric = getattr(losses.BatchHardTripletLossDistanceFunction, distance)
        chosen = getattr(losses, name)(None, partial(metric, **options), margin)
        return chosen.compute_loss_from_embeddings([rows], labels)

    return loss


def tensorflow_addons(distances_of):
    """TripletSemiHardLoss as documented: the nearest negative beyond the positive, or the last."""

    def loss(rows, labels, margin):
        distances, hinges = distances_of(rows), []
        for a, row in enumerate(distances):
            apart = row[labels != labels[a]]
            for p in (labels == labels[a]).nonzero()[:, 0]:
                if p != a:
                    beyond = apart[apart > row[p]]
                    negative = beyond.min() if len(beyond) else apart.max()
                    hinges.append((row[p] - negative + margin).clamp_min(0))
        return torch.stack(hinges).mean()

    return loss


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return 1 - cosine_similarity(one, other)


def plain(rows: Tensor) -> Tensor:
    return (rows[:, None] - rows[None]).norm(dim=2)


def squared(rows: Tensor) -> Tensor:
    return (rows[:, None] - rows[None]).square().sum(2)


ALL = {"reduction": "mean"}
ACTIVE = {"reduction": "mean_active"}
HARD = {"mining": "batch_hard"}
SEMIHARD = {"mining": "semihard", "fallback": "easiest"}
# loss, our way of choosing and averaging, times our margin, times our value
SAME = {
    "pytorch-metric-learning, cosine": (metric_learning(CosineSimilarity()), ACTIVE, 1, 1),
    "pytorch-metric-learning, squared": (metric_learning(LpDistance(power=2)), ACTIVE, 2, 2),
    "torch, cosine": (of_torch(cosine), ALL, 1, 1),
    "tensorflow-addons, squared-L2": (tensorflow_addons(squared), SEMIHARD, 2, 2),
    "tensorflow-addons, angular": (tensorflow_addons(lambda r: 1 - r @ r.T), SEMIHARD, 1, 1),
}
THEIRS = {
    "all, cosine": (sentence_transformers("BatchAllTripletLoss"), ACTIVE, 1, 1),
    "hard, cosine": (sentence_transformers("BatchHardTripletLoss"), HARD, 1, 1),
    "semi-hard, cosine": (sentence_transformers("BatchSemiHardTripletLoss"), SEMIHARD, 1, 1),
    "all, squared": (
        sentence_transformers("BatchAllTripletLoss", "euclidean_distance", squared=True),
        ACTIVE,
        2,
        2,
    ),
}
OTHER = {
    "pytorch-metric-learning, by default": metric_learning(),
    "torch, by default": of_torch(),
    "tensorflow-addons, by default": tensorflow_addons(plain),
}
THEIR_OTHERS = {
    f"{name}, by default": sentence_transformers(name, "euclidean_distance")
    for name in ("BatchAllTripletLoss", "BatchHardTripletLoss", "BatchSemiHardTripletLoss")
}


def marked(ours: dict, theirs: dict) -> list:
    rows = [pytest.param(row, id=name) for name, row in ours.items()]
    return rows + [
        pytest.param(row, id=f"sentence-transformers, {name}", marks=needs_sentence_transformers)
        for name, row in theirs.items()
    ]


@pytest.mark.parametrize("margin", [0.05, 0.3])
@pytest.mark.parametrize("row", marked(SAME, THEIRS))
def test_a_margin_in_other_units_is_the_same_loss(draw, row, margin):
    other, ours, times, value = row
    rows = normalize(draw(24, 4)).requires_grad_()
    labels = torch.arange(24) % 3
    mine = value * ShadowLoss(margin, **ours)(rows, labels)
    theirs = other(rows, labels, times * margin)
    assert mine > 0
    torch.testing.assert_close(mine, theirs.to(mine.dtype), **EXACT)
    # On the sphere: what pushes a unit vector along itself is nobody's business.
    gradients = [torch.autograd.grad(loss, rows)[0] for loss in (mine, theirs)]
    mine, theirs = (g - (g * rows).sum(1, keepdim=True) * rows for g in gradients)
    torch.testing.assert_close(mine, theirs, **EXACT)


def triangle(to_positive: float, to_negative: float) -> Tensor:
    """Anchor and positive, at this deviation, and a negative at one deviation from both."""
    half = torch.tensor(
        1 - to_positive / 2, dtype=torch.float64
    ).sqrt()  # cosine of half the angle between them
    along = (1 - to_negative) / half
    side = (1 - half**2).sqrt()
    rows = [[half, side, 0], [half, -side, 0], [along, 0, (1 - along**2).sqrt()]]
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("loss", marked(OTHER, THEIR_OTHERS))
def test_plain_distance_is_another_loss_whatever_its_margin(loss):
    # The same step in deviations, once between close rows and once between distant ones.
    labels = torch.tensor([0, 0, 1])
    close, distant = triangle(0.1, 0.3), triangle(0.9, 1.1)
    for margin in (0.4, 0.7, 1.0, 5.0):
        shadow = ShadowLoss(margin)
        torch.testing.assert_close(shadow(close, labels), shadow(distant, labels))
        assert abs(loss(distant, labels, margin) - loss(close, labels, margin)) > 0.04


@pytest.mark.parametrize("distance", [0.2, 0.9, 1.6])
def test_a_plain_margin_asks_for_about_its_distance_times_as_much(distance):
    margin = 1e-3
    step = ((distance + margin) ** 2 - distance**2) / 2
    assert step == pytest.approx(margin * distance, rel=5e-3)
    rows = triangle(distance**2 / 2, (distance + margin) ** 2 / 2)
    labels = torch.tensor([0, 0, 1])
    assert ShadowLoss(margin * distance * 0.99)(rows, labels) == 0
    assert ShadowLoss(margin * distance * 1.01)(rows, labels) > 0
    assert metric_learning()(rows, labels, margin * 1.01) > 0
