"""The slow, obvious Shadow Loss: lists every triplet and differentiates the list, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from medshadow.losses import all_triplet_hinge, counting, fused, one_tile


@dataclass(frozen=True)
class Listed:
    """What the list of triplets gives: loss, gradients and counts."""

    loss: Tensor
    by_embeddings: Tensor
    by_references: Tensor | None
    triplets: int
    active: int
    hardest: float


def relation_of(one: Tensor, other: Tensor, positive: str) -> str:
    """Return "positive", "negative" or "neither" for two labels or two label sets."""
    if one.ndim == 0:
        return "positive" if one == other else "negative"
    first, second = set(one.nonzero()[:, 0].tolist()), set(other.nonzero()[:, 0].tolist())
    if not first or not second:
        return "neither"
    if not first & second:
        return "negative"
    return "positive" if positive == "any" or first == second else "neither"


def all_triplets(
    labels: Tensor, reference_labels: Tensor | None, positive: str
) -> list[tuple[int, int, int]]:
    others = labels if reference_labels is None else reference_labels
    triplets = []
    for a in range(len(labels)):
        kinds = [relation_of(labels[a], other, positive) for other in others]
        if reference_labels is None:
            kinds[a] = "itself"
        for p, kind in enumerate(kinds):
            if kind == "positive":
                triplets += [(a, p, n) for n, other in enumerate(kinds) if other == "negative"]
    return triplets


def deviations_of(anchors: Tensor, others: Tensor, normalize: bool) -> Tensor:
    lengths, other_lengths = (x.square().sum(1) for x in (anchors, others))
    directed = (lengths > 0)[:, None] & (other_lengths > 0 if normalize else True)
    lengths = lengths.where(lengths > 0, 1).sqrt()[:, None]
    other_lengths = other_lengths.where(other_lengths > 0, 1).sqrt()
    products = (anchors[:, None] * others[None]).sum(2)
    if normalize:
        # A row without direction deviates by 1 from everything.
        return 1 - torch.where(directed, products / (lengths * other_lengths), 0)
    return torch.where(directed, (lengths - products / lengths).abs(), 0)


@pytest.fixture(scope="session")
def list_triplets() -> Callable[..., Listed]:
    """Return the loss over a listed set of triplets, every one that is valid by default."""

    def listed(
        embeddings: Tensor,
        labels: Tensor | None,
        *,
        margin: float,
        reduction: str = "mean",
        normalize: bool = True,
        positive: str = "any",
        references: Tensor | None = None,
        reference_labels: Tensor | None = None,
        triplets: list[tuple[int, int, int]] | None = None,
    ) -> Listed:
        rows = embeddings.detach().double().requires_grad_()
        others = rows if references is None else references.detach().double().requires_grad_()
        if triplets is None:
            triplets = all_triplets(labels, reference_labels, positive)
        deviations = deviations_of(rows, others, normalize)
        a, p, n = torch.tensor(triplets, dtype=torch.int64).view(-1, 3).T
        violations = deviations[a, p] - deviations[a, n] + margin
        active = int((violations > 0).sum())
        total = violations.clamp_min(0).masked_fill(violations <= 0, 0).sum()
        divisor = {"mean": len(triplets), "mean_active": active, "sum": 1}[reduction]
        loss = total / max(1, divisor)
        loss.backward(inputs=[rows] if references is None else [rows, others])
        return Listed(
            loss=loss.detach(),
            by_embeddings=rows.grad,
            by_references=None if references is None else others.grad,
            triplets=len(triplets),
            active=active,
            hardest=float(violations.detach().max()) if triplets else float("nan"),
        )

    return listed


@pytest.fixture(scope="session")
def draw() -> Callable[..., Tensor]:
    """Return a function that draws rows of this size and width in float64."""

    def rows(size: int, width: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(size, width, generator=generator, dtype=torch.float64)

    return rows


@pytest.fixture(scope="session")
def draw_labels() -> Callable[..., Tensor]:
    """Return a function that draws single labels."""

    def labels(size: int, classes: int, seed: int = 0) -> Tensor:
        return torch.randint(classes, (size,), generator=torch.Generator().manual_seed(seed))

    return labels


@pytest.fixture(scope="session")
def draw_sets() -> Callable[..., Tensor]:
    """Return a function that draws label sets, some of them empty."""

    def sets(size: int, labels: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return (torch.rand(size, labels, generator=generator) < 0.35).long()

    return sets


@pytest.fixture(scope="session")
def agree(list_triplets: Callable[..., Listed]) -> Callable[..., None]:
    """Return an assertion: value and gradients equal those of the list of triplets."""
    exact = {"rtol": 1e-9, "atol": 1e-12}

    def agree(embeddings: Tensor, labels: Tensor, **options) -> None:
        tile_bytes = options.pop("tile_bytes", 2**25)
        expected = list_triplets(embeddings, labels, **options)
        rows = embeddings.clone().requires_grad_()
        references = options.pop("references", None)
        if references is not None:
            references = references.clone().requires_grad_()
        loss = all_triplet_hinge(
            rows, labels, references=references, tile_bytes=tile_bytes, **options
        )
        loss.backward()
        torch.testing.assert_close(loss.detach(), expected.loss, **exact)
        torch.testing.assert_close(rows.grad, expected.by_embeddings, **exact)
        if references is not None:
            torch.testing.assert_close(references.grad, expected.by_references, **exact)

    return agree


@pytest.fixture(scope="session")
def relation() -> Callable[..., str]:
    """Return the rule of two labels or label sets: positive, negative or neither."""
    return relation_of


@pytest.fixture(scope="module", params=["torch", "compiled", "as on GPUs"])
def way_of_counting(request: pytest.FixtureRequest) -> Iterator[str]:
    """Count with torch's operations, with the compiled loops, and as on GPUs, whatever the size."""
    if request.param == "compiled":
        pytest.importorskip("numba")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fused, "FUSED_FROM", math.inf if request.param == "torch" else 0)
        patch.setattr(one_tile, "_ADDED_FROM", 0)  # tests have narrow rows
        if request.param == "as on GPUs":
            patch.setattr(counting, "OWN_WAYS", frozenset())
            patch.setattr(counting, "_COMPARE_EACH", 0)  # tests have few positives an anchor
        yield request.param
