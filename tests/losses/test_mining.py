import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.losses import ShadowLoss, batch_hard, hardest_negative, semihard, shadow_deviation

# Only the count of nearer positives has ways of its own; no rule is counted by compiled loops.
pytestmark = [
    pytest.mark.usefixtures("way_of_counting"),
    pytest.mark.parametrize("way_of_counting", ["torch", "as on GPUs"], indirect=True),
]
MARGIN = 0.3
CASES = {
    "labels": {},
    "references": {"references": 9},
    "general form": {"normalize": False},
    "label sets": {"sets": "any"},
    "equal label sets": {"sets": "equal"},
    "label sets, references": {"sets": "any", "references": 11},
    "some alone": {"alone": True},
}
RULES = [
    ("semihard", "hardest"),
    ("semihard", "easiest"),
    ("semihard", "skip"),
    ("hardest_negative", "hardest"),
    ("batch_hard", "hardest"),
]


def batch(case, size=14, width=3, seed=0):
    """Embeddings, labels, references or None, their labels or None, and the way of comparing."""
    generator = torch.Generator().manual_seed(seed)
    settings = CASES[case]

    def labels_of(count):
        if "sets" in settings:
            return torch.randint(0, 2, (count, 3), generator=generator)
        return torch.randint(0, 3, (count,), generator=generator)

    rows = torch.randn(size, width, generator=generator, dtype=torch.float64)
    labels = labels_of(size)
    if settings.get("alone"):
        labels[0] = 77
    references = reference_labels = None
    if count := settings.get("references"):
        references = torch.randn(count, width, generator=generator, dtype=torch.float64)
        reference_labels = labels_of(count)
    way = {"normalize": settings.get("normalize", True), "positive": settings.get("sets", "any")}
    return rows, labels, references, reference_labels, way


@pytest.fixture(scope="session")
def listed_by_hand(relation):
    """Return the rules' definition, one anchor and one positive after the other."""

    def by_hand(mining, fallback, rows, labels, references, reference_labels, way):
        deviations = shadow_deviation(rows, references, normalize=way["normalize"]).tolist()
        others = labels if references is None else reference_labels
        triplets = []
        for a, delta in enumerate(deviations):
            kinds = [relation(labels[a], other, way["positive"]) for other in others]
            if references is None:
                kinds[a] = "itself"
            negatives = [n for n, kind in enumerate(kinds) if kind == "negative"]
            positives = [p for p, kind in enumerate(kinds) if kind == "positive"]
            if not negatives or not positives:
                continue
            hardest = min(negatives, key=lambda n: delta[n])
            if mining == "batch_hard":
                triplets.append((a, max(positives, key=lambda p: delta[p]), hardest))
                continue
            for p in positives:
                if mining == "hardest_negative":
                    triplets.append((a, p, hardest))
                    continue
                inside = [n for n in negatives if delta[p] < delta[n] < delta[p] + MARGIN]
                if inside:
                    triplets.append((a, p, min(inside, key=lambda n: delta[n])))
                elif fallback == "hardest":
                    triplets.append((a, p, hardest))
                elif fallback == "easiest":
                    triplets.append((a, p, max(negatives, key=lambda n: delta[n])))
        return sorted(triplets)

    return by_hand


def mine(mining, fallback, rows, labels, references, reference_labels, way, **more):
    function = {"semihard": semihard, "hardest_negative": hardest_negative}.get(mining, batch_hard)
    if mining == "semihard":
        more |= {"margin": MARGIN, "fallback": fallback}
    found = function(
        rows, labels, references=references, reference_labels=reference_labels, **way, **more
    )
    return list(zip(*(index.tolist() for index in found), strict=True))


@pytest.mark.parametrize("tile_bytes", [1, 2**20])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("mining", "fallback"), RULES)
def test_miners_take_what_their_rule_says(listed_by_hand, mining, fallback, case, tile_bytes):
    for seed in range(4):
        given_batch = batch(case, seed=seed)
        expected = listed_by_hand(mining, fallback, *given_batch)
        assert expected
        assert mine(mining, fallback, *given_batch, tile_bytes=tile_bytes) == expected


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("mining", "fallback"), RULES)
def test_loss_and_gradient_are_those_of_the_mined_list(
    listed_by_hand, mining, fallback, case, soft
):
    rows, labels, references, reference_labels, way = batch(case)
    a, p, n = torch.tensor(
        listed_by_hand(mining, fallback, rows, labels, references, reference_labels, way)
    ).T
    slow_rows = rows.clone().requires_grad_()
    deviations = shadow_deviation(slow_rows, references, normalize=way["normalize"])
    difference = deviations[a, p] - deviations[a, n]
    each = torch.nn.functional.softplus(difference) if soft else (difference + MARGIN).clamp_min(0)
    each.mean().backward()

    fast_rows = rows.clone().requires_grad_()
    loss = ShadowLoss(MARGIN, mining, soft=soft, fallback=fallback, **way)
    value = loss(fast_rows, labels, ref_emb=references, ref_labels=reference_labels)
    value.backward()
    torch.testing.assert_close(value, each.mean().detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(fast_rows.grad, slow_rows.grad, rtol=1e-9, atol=1e-12)
    active = len(a) if soft else int((difference + MARGIN > 0).sum())
    assert loss.statistics["triplets"] == len(a)
    assert loss.statistics["active_fraction"] == active / len(a)
    hardest = (difference + MARGIN).max().item()
    assert loss.statistics["hardest_violation"] == pytest.approx(hardest, rel=1e-9)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("soft", [False, True])
def test_a_miners_list_gives_the_same_loss_as_mining_inside(soft, normalize):
    rows, labels, *_ = batch("labels")
    rows *= 37
    way = {"normalize": normalize}
    mined = semihard(rows, labels, margin=MARGIN, **way)
    inside = ShadowLoss(MARGIN, "semihard", soft=soft, **way)(rows, labels)
    listed = ShadowLoss(MARGIN, soft=soft, mining="batch_hard", **way)(rows, indices_tuple=mined)
    torch.testing.assert_close(inside, listed, rtol=1e-12, atol=0)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize(("mining", "fallback"), RULES)
def test_ties_change_no_value(listed_by_hand, mining, fallback, data):
    """Directions of a coarse grid, so that many deviations are equal."""
    size = data.draw(st.integers(2, 12))
    grid = st.lists(st.integers(-1, 1), min_size=2, max_size=2)
    rows = data.draw(st.lists(grid, min_size=size, max_size=size))
    labels = data.draw(st.lists(st.integers(0, 2), min_size=size, max_size=size))
    rows, labels = torch.tensor(rows, dtype=torch.float64), torch.tensor(labels)
    way = {"normalize": False, "positive": "any"}
    triplets = listed_by_hand(mining, fallback, rows, labels, None, None, way)
    deviations = shadow_deviation(rows, normalize=False)
    expected = sum(max(0.0, deviations[a, p] - deviations[a, n] + MARGIN) for a, p, n in triplets)
    loss = ShadowLoss(MARGIN, mining, "sum", fallback=fallback, normalize=False)
    assert loss(rows, labels).item() == pytest.approx(float(expected), abs=1e-12)
    assert loss.statistics["triplets"] == len(triplets)


@pytest.mark.parametrize(("mining", "fallback"), RULES)
@pytest.mark.parametrize(
    "labels", [[], [0], [0, 0, 0], [0, 1, 2]], ids=["empty", "one", "one class", "all alone"]
)
def test_without_a_triplet_loss_and_gradient_are_zero(mining, fallback, labels):
    rows = torch.randn(len(labels), 4, requires_grad=True)
    loss = ShadowLoss(mining=mining, fallback=fallback)
    value = loss(rows, torch.tensor(labels, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert not rows.grad.any()
    assert loss.statistics["triplets"] == 0
    assert math.isnan(loss.statistics["hardest_violation"])


@pytest.mark.parametrize(("mining", "fallback"), RULES[:2] + RULES[3:])
def test_identical_rows_sit_at_the_collapse_value_without_gradient(mining, fallback):
    rows = torch.ones(8, 4, dtype=torch.float64, requires_grad=True)
    labels = torch.arange(8) % 2
    for soft, collapsed in ((False, MARGIN), (True, math.log(2))):
        rows.grad = None
        value = ShadowLoss(MARGIN, mining, soft=soft, fallback=fallback)(rows, labels)
        value.backward()
        assert value.item() == pytest.approx(collapsed, rel=1e-12)
        assert rows.grad.abs().max() < 1e-12


def test_half_precision_is_computed_in_float32():
    rows, labels, *_ = batch("labels")
    for dtype in (torch.float16, torch.bfloat16):
        half = rows.to(dtype).requires_grad_()
        loss = ShadowLoss(mining="semihard")(half, labels)
        loss.backward()
        assert loss.dtype == torch.float32
        assert half.grad.dtype == dtype
        full = ShadowLoss(mining="semihard")(half.detach().float(), labels)
        torch.testing.assert_close(loss.detach(), full)


def test_a_curriculum_may_change_the_settings_between_batches():
    rows, labels, *_ = batch("labels")
    loss = ShadowLoss(mining="batch_hard")
    loss(rows, labels)
    loss.mining, loss.margin = "hardest_negative", 0.5
    changed = loss(rows, labels)
    torch.testing.assert_close(changed, ShadowLoss(0.5, "hardest_negative")(rows, labels))
    loss.mining = "hardest"
    with pytest.raises(ValueError, match=r"mining='hardest'; known are: batch_all, semihard"):
        loss(rows, labels)


def test_settings_that_do_not_go_together_are_refused():
    rows, labels, *_ = batch("labels")
    with pytest.raises(ValueError, match="fallback='random'; expected one of hardest, easiest"):
        ShadowLoss(fallback="random")
    with pytest.raises(ValueError, match="soft=True with mining='batch_all'"):
        ShadowLoss(soft=True)(rows, labels)
    pairs = tuple(torch.tensor([0]) for _ in range(4))
    with pytest.raises(ValueError, match="soft margin needs triplets"):
        ShadowLoss(mining="batch_hard", soft=True)(rows, indices_tuple=pairs)
    with pytest.raises(ValueError, match="own_at=3 with 14 references"):
        ShadowLoss()(rows, labels, ref_emb=rows.clone(), ref_labels=labels, own_at=3)


@pytest.mark.parametrize("case", ["labels", "label sets"])
@pytest.mark.parametrize(("mining", "fallback"), RULES)
def test_references_that_hold_the_batch_leave_each_anchor_itself_out(mining, fallback, case):
    rows, labels, _, _, _ = batch(case)
    alone = rows.clone().requires_grad_()
    expected = ShadowLoss(MARGIN, mining, fallback=fallback)(alone, labels)
    expected.backward()
    held = rows.clone().requires_grad_()
    loss = ShadowLoss(MARGIN, mining, fallback=fallback)
    found = loss(held, labels, ref_emb=held * 1, ref_labels=labels.clone(), own_at=0)
    found.backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(held.grad, alone.grad, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("case", ["labels", "label sets", "some alone"])
def test_the_batch_may_stand_anywhere_among_the_references(relation, case):
    rows, labels, _, _, way = batch(case)
    around, around_labels, *_ = batch(case, size=20, seed=5)
    around[6:20], around_labels[6:20] = rows, labels
    kinds = [[relation(one, other, way["positive"]) for other in around_labels] for one in labels]
    triplets = [
        (a, p, n)
        for a, row in enumerate(kinds)
        for p, pulled in enumerate(row)
        for n, pushed in enumerate(row)
        if (pulled, pushed) == ("positive", "negative") and p != 6 + a
    ]
    listed = tuple(torch.tensor(triplets).T)
    expected = ShadowLoss()(rows, indices_tuple=listed, ref_emb=around)
    found = ShadowLoss()(rows, labels, ref_emb=around, ref_labels=around_labels, own_at=6)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
