import importlib.util
import math
import subprocess
import sys

import pytest
import torch
from pytorch_metric_learning import losses as theirs
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor
from torch.nn.functional import normalize

from medshadow import losses
from medshadow.errors import OptionalDependencyError
from medshadow.losses import ShadowLoss
from medshadow.training import (
    OBJECTIVES,
    objective,
)
from medshadow.training.objectives import MinedObjective

EXACT = {"rtol": 1e-9, "atol": 1e-12}
MINED = ("semihard", "hardest_negative", "batch_hard")
TAKING_TRIPLETS = [name for name in OBJECTIVES if name != "soft_triple"]
LABELS = torch.arange(24) % 4


def draw(size: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, width, generator=generator, dtype=torch.float64).requires_grad_()


def unit(leaf: Tensor) -> Tensor:
    """What an embedder does at its end: gradients along an embedding come to nothing."""
    return normalize(leaf, dim=1)


def make(name: str, **options):
    needed = {"classes": 4, "embedding_dim": 6} if name == "soft_triple" else {}
    return objective(name, **needed, **options)


def same(one: Tensor, other: Tensor, leaf: Tensor) -> None:
    """Assert that two losses have one value and one gradient, neither of them nothing."""
    torch.testing.assert_close(one, other, **EXACT)
    first, second = (torch.autograd.grad(loss, leaf, retain_graph=True)[0] for loss in (one, other))
    assert first.abs().max() > 0
    torch.testing.assert_close(first, second, **EXACT)


def listed(rows: Tensor, labels: Tensor) -> list[tuple[int, int, int]]:
    n = range(len(labels))
    return [
        (a, p, q)
        for a in n
        for p in n
        for q in n
        if a != p and labels[a] == labels[p] and labels[a] != labels[q]
    ]


# What each objective is


@pytest.mark.parametrize("name", ["shadow", "shadow_unnormalized"])
def test_shadow_is_the_cosine_triplet_hinge_of_the_library(name):
    leaf = draw(24, 6)
    rows = unit(leaf)
    library = theirs.TripletMarginLoss(0.2, distance=CosineSimilarity(), reducer=MeanReducer())
    same(objective(name)(rows, LABELS), library(rows, LABELS), leaf)


def test_only_free_lengths_tell_the_unnormalized_form_apart():
    rows = unit(draw(24, 6)).detach() * torch.linspace(0.5, 3, 24, dtype=torch.float64)[:, None]
    plain, general = (objective(n)(rows, LABELS) for n in ("shadow", "shadow_unnormalized"))
    assert abs(plain - general) > 0.01
    torch.testing.assert_close(general, ShadowLoss(0.2, normalize=False)(rows, LABELS), **EXACT)


PEERS = {
    "triplet": theirs.TripletMarginLoss(0.05),
    "triplet_soft": theirs.TripletMarginLoss(0, smooth_loss=True),
    "angular": theirs.AngularLoss(),
    "multi_similarity": theirs.MultiSimilarityLoss(),
}


@pytest.mark.parametrize("name", list(PEERS))
def test_an_objective_is_the_librarys_own(name):
    leaf = draw(24, 6)
    rows = unit(leaf)
    same(objective(name)(rows, LABELS), PEERS[name](rows, LABELS), leaf)


def test_triplet_is_on_plain_euclidean_distance():
    leaf = draw(24, 6)
    rows = unit(leaf)
    distance = LpDistance(power=1)(rows)
    a, p, n = torch.tensor(listed(rows, LABELS)).T
    hinges = (distance[a, p] - distance[a, n] + 0.3).clamp_min(0)
    same(objective("triplet", margin=0.3, reduction="mean")(rows, LABELS), hinges.mean(), leaf)
    same(objective("triplet", margin=0.3)(rows, LABELS), hinges[hinges > 0].mean(), leaf)
    soft = torch.log1p((distance[a, p] - distance[a, n]).exp()).mean()
    same(objective("triplet_soft")(rows, LABELS), soft, leaf)
    assert abs(hinges.mean() - objective("shadow", margin=0.3)(rows, LABELS)) > 1e-3


def test_angular_and_multi_similarity_follow_their_formulas():
    leaf = draw(24, 6)
    rows = unit(leaf)
    cosines = rows @ rows.T
    alike = LABELS[:, None] == LABELS[None]
    tan = math.tan(math.radians(36)) ** 2
    terms = []
    for a, p in (alike & ~torch.eye(24, dtype=torch.bool)).nonzero().tolist():
        f = 4 * tan * (cosines[a] + cosines[p]) - 2 * (1 + tan) * cosines[a, p]
        terms.append(f[~alike[a]].exp().sum().log1p())
    same(objective("angular", alpha=36)(rows, LABELS), torch.stack(terms).mean(), leaf)

    terms = []
    for i in range(24):
        others = alike[i] & (torch.arange(24) != i)
        pull = (-2 * (cosines[i][others] - 1)).exp().sum().log1p() / 2
        push = (40 * (cosines[i][~alike[i]] - 1)).exp().sum().log1p() / 40
        terms.append(pull + push)
    ours = objective("multi_similarity", beta=40, base=1)
    same(ours(rows, LABELS), torch.stack(terms).mean(), leaf)


def test_soft_triple_follows_its_formula():
    rows = unit(draw(24, 6))
    loss = objective("soft_triple", classes=4, embedding_dim=6)
    value = loss(rows, LABELS)  # the library gives its proxies the embeddings' dtype
    centers = normalize(loss.fc, dim=0).T.view(4, 10, 6)
    similarity = torch.einsum("nd,ckd->nck", rows, centers)
    logits = ((similarity / 0.1).softmax(2) * similarity).sum(2)
    logits = 20 * (logits - 0.01 * torch.nn.functional.one_hot(LABELS, 4))
    upper = torch.ones(10, 10).triu(1).bool()
    alike = torch.einsum("ckd,cld->ckl", centers, centers)[:, upper]
    merging = (2 + torch.finfo(torch.float64).eps - 2 * alike).sqrt().sum() / (4 * 10 * 9)
    expected = torch.nn.functional.cross_entropy(logits, LABELS) + 0.2 * merging
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)
    without = objective("soft_triple", classes=4, embedding_dim=6, tau=0)
    assert (value - without(rows, LABELS)).item() == pytest.approx(0.2 * merging.item(), rel=1e-5)


def test_first_proxies_follow_the_seed_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = make("soft_triple", seed=1).fc
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert torch.equal(first, make("soft_triple", seed=1).fc)
    assert not torch.equal(first, make("soft_triple", seed=2).fc)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_without_negatives_is_finite(name):
    leaf = draw(6, 6)
    loss = make(name)(unit(leaf), torch.zeros(6, dtype=torch.int64))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_collapsed_batch_is_finite(name):
    leaf = draw(1, 6).detach().repeat(24, 1).requires_grad_()
    loss = make(name)(unit(leaf), LABELS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(leaf.grad).all()


# Mining


@pytest.mark.parametrize("name", TAKING_TRIPLETS)
@pytest.mark.parametrize("mining", MINED)
def test_every_objective_sees_the_same_mined_triplets(name, mining):
    leaf = draw(24, 6)
    rows = unit(leaf)
    window = {"margin": 0.2, "fallback": "hardest"} if mining == "semihard" else {}
    chosen = getattr(losses, mining)(rows.detach(), LABELS, **window)
    mined = objective(name, mining=mining)
    same(mined(rows, LABELS), objective(name)(rows, LABELS, chosen), leaf)
    assert mined.statistics["triplets"] == len(chosen[0])


def test_the_window_and_its_fallback_are_handed_on():
    rows = unit(draw(24, 6))
    counts = {}
    for width in (0.01, 0.5):
        mined = objective("triplet", mining="semihard", mining_margin=width, fallback="skip")
        assert mined.statistics == {}
        mined(rows, LABELS)
        counts[width] = mined.statistics["triplets"]
    assert 0 < counts[0.01] < counts[0.5]
    assert objective("shadow", mining="semihard", fallback="skip").fallback == "skip"


@pytest.mark.parametrize("name", TAKING_TRIPLETS)
def test_given_triplets_go_before_mining(name):
    leaf = draw(24, 6)
    rows = unit(leaf)
    chosen = tuple(torch.tensor(listed(rows, LABELS)[::7]).T)
    mined, plain = (objective(name, mining=m) for m in ("batch_hard", "batch_all"))
    same(mined(rows, LABELS, chosen), plain(rows, LABELS, chosen), leaf)


@pytest.mark.parametrize("name", TAKING_TRIPLETS)
def test_references_are_taken(name):
    rows, others = unit(draw(24, 6)), unit(draw(20, 6, seed=1)).detach()
    loss = objective(name)(rows, LABELS, None, others, torch.arange(20) % 4)
    assert abs(loss - objective(name)(rows, LABELS)) > 1e-6


@pytest.mark.parametrize("mining", MINED)
def test_mining_is_among_the_references_where_there_are_any(mining):
    rows, others, codes = unit(draw(24, 6)), unit(draw(20, 6, seed=1)), torch.arange(20) % 4
    ours, shadow = (objective(n, mining=mining) for n in ("triplet", "shadow"))
    loss = ours(rows, LABELS, None, others, codes)
    shadow(rows, LABELS, None, others, codes)
    assert isinstance(ours, MinedObjective)
    assert ours.statistics["triplets"] == shadow.statistics["triplets"]
    everything = objective("triplet")(rows, LABELS, None, others, codes)
    assert abs(loss - everything) > 1e-3


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("contrastive", {}, "known are shadow, shadow_unnormalized, triplet, triplet_soft"),
        ("triplet", {"mining": "hardest"}, "known are: batch_all, semihard"),
        ("triplet", {"alpha": 3}, "no option alpha; its options are margin, reduction"),
        ("triplet", {"reduction": "sum"}, "mean, mean_active"),
        ("triplet_soft", {"margin": 0.1}, "its options are none"),
        ("shadow", {"alpha": 3}, "its options are margin, reduction"),
        ("shadow", {"mining": "semihard", "mining_margin": 0.3}, "its own margin, 0.2"),
        ("shadow_unnormalized", {"normalize": True}, "no option normalize"),
        ("soft_triple", {}, r"classes \(found None\).*embedding_dim \(found None\)"),
        ("soft_triple", {"classes": 7}, r"embedding_dim \(found None\)"),
        ("soft_triple", {"mining": "semihard"}, "no triplets to mine"),
    ],
)
def test_what_does_not_fit_is_named(name, options, message):
    with pytest.raises(ValueError, match=message):
        objective(name, **options)


@pytest.mark.parametrize("name", [n for n in OBJECTIVES if not n.startswith("shadow")])
def test_a_missing_library_is_named_with_its_extra(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(OptionalDependencyError, match=r"medshadow\[compare\]"):
        make(name)
    assert objective("shadow").margin == 0.2


def test_the_library_loads_when_an_objective_needs_it():
    code = (
        "import sys; from medshadow.training import objective; objective('shadow'); "
        "assert 'pytorch_metric_learning' not in sys.modules"
    )
    assert importlib.util.find_spec("pytorch_metric_learning")
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", [name for name in OBJECTIVES if not name.startswith("shadow")])
def test_compared_losses_refuse_label_sets_by_name(name):
    sets = torch.eye(4, dtype=torch.int64)[LABELS]
    with pytest.raises(ValueError, match=rf"objective '{name}' takes one label a case.*\(24, 4\)"):
        make(name)(unit(draw(24, 6)), sets)
    with pytest.raises(ValueError, match="train on label sets"):
        make(name)(unit(draw(24, 6)), labels=sets)
