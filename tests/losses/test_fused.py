"""The compiled loops, and the ways of GPUs, against torch's operations on batches worth them."""

from __future__ import annotations

import math
import os
import subprocess
import sys

import pytest
import torch

from medshadow.losses import ShadowLoss, counting, fused, one_tile, walk
from medshadow.losses.counting import Workspace
from medshadow.losses.selection import Tile, select_by_labels

numba = pytest.importorskip("numba")


@pytest.fixture(params=["compiled", "as on GPUs"])
def both_ways(monkeypatch, request):
    """Return a function that gives loss, gradients and statistics by torch and by another way."""

    others_ways = {"cpu"} if request.param == "compiled" else set()

    def counted(embeddings, labels, references=None, reference_labels=None, **options):
        found = []
        # Counts equal to the last digit, of closeness that both round alike: one tile does not.
        monkeypatch.setattr(walk, "fits_one_tile", lambda *_: False)
        for limit, own_ways in ((math.inf, {"cpu"}), (0, others_ways)):
            monkeypatch.setattr(fused, "FUSED_FROM", limit)
            monkeypatch.setattr(counting, "OWN_WAYS", own_ways)
            leaves = [
                rows.clone().requires_grad_()
                for rows in (embeddings, references)
                if rows is not None
            ]
            loss = ShadowLoss(0.25, **options)
            value = loss(
                leaves[0],
                labels,
                ref_emb=leaves[-1] if references is not None else None,
                ref_labels=reference_labels,
            )
            value.backward()
            found.append((value.detach(), [leaf.grad for leaf in leaves], loss.statistics))
        return found

    return counted


def rows_of(size, width, kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(size, width, generator=generator)
    if kind == "ties":  # directions of a coarse grid: most cosines occur many times
        rows = (rows * 1.2).round()
    elif kind == "crowded":  # one far positive stretches the table; all others share a cell
        rows = 1 + 1e-4 * rows
        rows[:2] = -1
    elif kind == "collapsed":
        rows[:] = rows[0]
    return rows


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("sets", [False, True])
@pytest.mark.parametrize("kind", ["plain", "ties", "crowded", "collapsed"])
def test_both_ways_of_counting_agree(both_ways, kind, sets, normalize):
    rows, labels = rows_of(230, 3, kind), torch.arange(230) ** 2 % 7
    if not sets:
        # Classes of 33, 66 and 131: the last is too large for comparing each with each.
        labels = labels.clamp(max=2)
    else:
        labels = torch.nn.functional.one_hot(labels, 70) + torch.nn.functional.one_hot(
            labels // 3, 70
        )
        labels = labels.clamp(max=1)
        labels[5] = 0
    (value, grads, told), (fast, fast_grads, fast_told) = both_ways(
        rows, labels, normalize=normalize
    )
    torch.testing.assert_close(fast, value, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(fast_grads[0], grads[0], rtol=1e-4, atol=1e-7)
    assert fast_told == told
    assert told["triplets"] > 0


@pytest.mark.parametrize("kind", ["plain", "ties", "collapsed"])
@pytest.mark.parametrize("references", [None, 150])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_of_every_size_equal_the_list(kind, references, dtype):
    labels = torch.repeat_interleave(torch.tensor([1, 2, 7, 8, 9, 16, 17, 95, 96, 97, 130]))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    rows = rows_of(len(labels), 4, kind)
    anchors = slice(references)
    other = None if references is None else labels
    selection = select_by_labels(labels[anchors], other, None, "any", rows.device)
    ordered, known = rows[selection.reference_order], labels[selection.reference_order]
    firsts, own = rows[anchors][selection.anchor_order], labels[anchors][selection.anchor_order]
    closeness = (firsts[:, None] * ordered[None]).sum(2).to(dtype)
    margin = torch.tensor(0.2, dtype=dtype)
    weights = closeness.clone()
    tile = Tile(0, weights, weights, margin, torch.ones((), dtype=dtype), Workspace(rows.device))
    counts = selection.count(tile)

    hinges, active, hardest = 0.0, 0, -math.inf
    for i, row in enumerate(closeness):
        positive, negative = known == own[i], known != own[i]
        if references is None:
            positive[i] = False
        above = row[negative] > (row[positive] - margin)[:, None]
        violations = row[negative].double() - (row[positive] - margin)[:, None].double()
        expected = torch.zeros_like(row)
        expected[positive], expected[negative] = -above.sum(1).to(dtype), above.sum(0).to(dtype)
        assert torch.equal(weights[i], expected)
        hinges += violations[above].sum().item()
        active += above.sum().item()
        hardest = max([hardest, *violations.flatten().tolist()])
    assert counts.active.item() == active > 0
    assert counts.hinges.item() == pytest.approx(hinges, rel=1e-9)
    assert counts.hardest.item() == pytest.approx(hardest, rel=1e-6)


@pytest.mark.parametrize("kind", ["labels", "sets"])
def test_one_tile_equals_several(monkeypatch, kind):
    monkeypatch.setattr(fused, "FUSED_FROM", 0)
    labels = torch.arange(300) % 9
    if kind == "sets":
        labels = torch.nn.functional.one_hot(labels)
    found = []
    for tile_bytes, added_from in ((2**25, 0), (2**25, math.inf), (2**14, 0)):
        monkeypatch.setattr(one_tile, "_ADDED_FROM", added_from)
        rows = rows_of(300, 6, "plain").double().requires_grad_()
        loss = ShadowLoss(0.25, tile_bytes=tile_bytes)
        value = loss(rows, labels)
        value.backward()
        found.append((value.detach(), rows.grad, loss.statistics))
    for value, gradient, told in found[1:]:
        torch.testing.assert_close(value, found[0][0], rtol=1e-12, atol=0)
        torch.testing.assert_close(gradient, found[0][1], rtol=1e-9, atol=1e-15)
        assert told == pytest.approx(found[0][2])


@pytest.mark.parametrize("kind", ["plain", "ties", "crowded", "collapsed"])
def test_one_tile_agrees_with_the_walk_in_float32(monkeypatch, kind):
    monkeypatch.setattr(fused, "FUSED_FROM", 0)
    labels, found = (torch.arange(230) ** 2 % 7).clamp(max=2), []
    for fits in (one_tile.fits_one_tile, lambda *_: False):
        monkeypatch.setattr(walk, "fits_one_tile", fits)
        rows = rows_of(230, 3, kind).requires_grad_()
        loss = ShadowLoss(0.25)
        value = loss(rows, labels)
        value.backward()
        found.append((value.detach(), rows.grad, loss.statistics))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-7)
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-6)
    assert found[0][2]["triplets"] == found[1][2]["triplets"] > 0


def test_references_and_more_labels_than_a_word_holds(both_ways):
    rows, others = rows_of(90, 4, "plain"), rows_of(140, 4, "plain", seed=1)
    generator = torch.Generator().manual_seed(2)
    sets, other_sets = (torch.rand(n, 150, generator=generator) < 0.012 for n in (90, 140))
    for positive in ("any", "equal"):
        one, two = both_ways(rows, sets, others, other_sets, positive=positive)
        torch.testing.assert_close(two[0], one[0], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(two[1], one[1], rtol=1e-4, atol=1e-7)
        assert two[2] == one[2]
        assert one[2]["triplets"] > 0


def test_many_thresholds_in_one_cell_are_found_among_each_other(both_ways):
    # Two classes of 1500: more thresholds than a cell can tell apart without a search.
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3000, 2, generator=generator)
    rows[1::3] = rows[1] + 1e-5 * rows[1::3]
    (value, grads, told), (fast, fast_grads, fast_told) = both_ways(rows, torch.arange(3000) % 2)
    torch.testing.assert_close(fast, value, rtol=1e-5, atol=0)
    torch.testing.assert_close(fast_grads, grads, rtol=1e-3, atol=1e-8)
    assert fast_told == told


@pytest.mark.parametrize("sets", [False, True])
def test_the_number_of_threads_changes_no_digit(monkeypatch, sets):
    monkeypatch.setattr(fused, "_ENTRIES_A_THREAD", 1)
    labels = torch.arange(700) % 9
    if sets:
        labels = torch.nn.functional.one_hot(labels)
    rows = rows_of(700, 8, "plain")
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(counts_of(rows, labels))
    finally:
        torch.set_num_threads(before)
    for weights, counts in found[1:]:
        assert torch.equal(weights, found[0][0])
        assert counts == found[0][1]


def counts_of(rows, labels):
    """Weights and counts of one tile, without the products, which torch divides in its own way."""
    selection = select_by_labels(labels, None, None, "any", rows.device)
    assert selection.fused
    ordered = rows if selection.anchor_order is None else rows[selection.anchor_order]
    closeness = (ordered[:, None] * ordered[None]).sum(2)
    margin = torch.tensor(0.2)
    tile = Tile(0, closeness, closeness, margin, torch.ones(()), Workspace(rows.device))
    return closeness, selection.count(tile)


@pytest.mark.parametrize(("device", "expected"), [("cpu", True), ("cuda", False), ("mps", False)])
def test_only_batches_on_the_cpu_are_counted_by_the_loops(device, expected):
    assert fused.counts_fused(torch.device(device), 2**10, 2**10) is expected
    assert counting.has_own_ways(torch.device(device)) is expected


def test_small_batches_do_not_load_the_loops():
    code = (
        "import sys, torch\n"
        "from medshadow.losses import ShadowLoss\n"
        "ShadowLoss()(torch.randn(112, 8), torch.arange(112) % 7)\n"
        "assert 'numba' not in sys.modules\n"
        "ShadowLoss(mining='semihard')(torch.randn(300, 8), torch.arange(300) % 7)\n"
        "assert 'numba' not in sys.modules\n"
        "ShadowLoss()(torch.randn(300, 8), torch.arange(300) % 7)\n"
        "assert 'numba' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_numba_torch_counts():
    code = (
        "import sys, torch\n"
        "sys.modules['numba'] = None\n"
        "from medshadow.losses import ShadowLoss, fused\n"
        "value = ShadowLoss()(torch.eye(300), torch.arange(300) % 7)\n"
        "assert fused.loops() is None\n"
        "assert abs(value.item() - 0.2) < 1e-6, value\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_where_nothing_can_be_written_the_loops_are_compiled_all_the_same(monkeypatch):
    from numba.core import caching

    from medshadow.losses import compiling

    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])

    def double(x: float) -> float:
        return 2 * x

    with pytest.raises(RuntimeError, match="no locator available"):
        numba.njit(cache=True)(double)
    assert compiling.compiled()(double)(1.5) == 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that fork")
def test_a_forked_process_counts_with_threads_of_its_own():
    code = (
        "import os, torch\n"
        "from medshadow.losses import all_triplet_hinge, fused\n"
        "fused._ENTRIES_A_THREAD = 1\n"
        "torch.set_num_threads(2)\n"
        "rows, labels = torch.eye(300), torch.arange(300) % 7\n"
        "all_triplet_hinge(rows, labels, margin=0.2)\n"
        "assert fused._workers.cache_info().currsize == 1\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(fused._workers.cache_info().currsize)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
