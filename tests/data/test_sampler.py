import logging
import random
from collections import Counter, defaultdict
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.data.sampler import PKSampler
from medshadow.errors import DataError


@st.composite
def tables(draw):
    """Labels and groups of 2 to 5 classes with 1 to 6 groups of 1 to 4 images each, mixed."""
    rows = []
    for label in range(draw(st.integers(2, 5))):
        sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
        sizes[0] = max(sizes[0], 2 if len(sizes) == 1 else 1)
        rows += [(f"class{label}", (label, g)) for g, size in enumerate(sizes) for _ in range(size)]
    rows = draw(st.permutations(rows))
    labels, groups = zip(*rows, strict=True)
    P = draw(st.integers(2, len(set(labels))))
    K = draw(st.integers(2, 8))
    return labels, groups, P, K


def served_by_class(batch, labels):
    served = defaultdict(list)
    for draw in batch:
        served[labels[draw]].append(int(draw))
    return served


def fair_shares(sizes, total):
    """How many images each group gives when they are taken one by one from the group that gave
    least of those that still have some: the rule, spelt out."""
    given = [0] * len(sizes)
    for _ in range(total):
        able = [g for g in range(len(sizes)) if given[g] < sizes[g]]
        given[min(able, key=lambda g: given[g])] += 1
    return sorted(given)


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 2**16))
def test_every_batch_is_p_classes_of_k_images_lesions_first(table, seed):
    labels, groups, P, K = table
    rows_of = {c: [i for i, label in enumerate(labels) if label == c] for c in set(labels)}
    sampler = PKSampler(labels, groups, P, K, batches_per_epoch=6, seed=seed)
    for batch in sampler:
        assert len(batch) == P * K
        served = served_by_class(batch, labels)
        assert len(served) == P
        for label, rows in served.items():
            assert len(rows) == K
            times = Counter(rows)
            passes, rest = divmod(K, len(rows_of[label]))
            assert sorted(times[row] for row in rows_of[label]) == (
                [passes] * (len(rows_of[label]) - rest) + [passes + 1] * rest
            )
            last_pass = Counter(groups[row] for row in times if times[row] > passes)
            sizes = Counter(groups[row] for row in rows_of[label])
            found = sorted(last_pass[group] for group in sizes)
            assert found == fair_shares(list(sizes.values()), rest)


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 2**16))
def test_over_an_epoch_no_class_group_or_image_is_favoured(table, seed):
    labels, groups, P, K = table
    classes, images = Counter(), Counter()
    for batch in PKSampler(labels, groups, P, K, batches_per_epoch=12, seed=seed):
        classes.update(served_by_class(batch, labels).keys())
        images.update(int(draw) for draw in batch)
        counts = [classes[label] for label in set(labels)]
        assert max(counts) - min(counts) <= 1
    by_lesion, lesions_of = defaultdict(list), defaultdict(set)
    for row, key in enumerate(zip(labels, groups, strict=True)):
        by_lesion[key].append(images[row])
        lesions_of[labels[row]].add(key)
    for counts in by_lesion.values():
        assert max(counts) - min(counts) <= 1
    for lesions in lesions_of.values():
        if len(lesions) >= K:
            counts = [sum(by_lesion[lesion]) for lesion in lesions]
            assert max(counts) - min(counts) <= 1


@settings(max_examples=40, deadline=None)
@given(tables(), st.integers(0, 2**16), st.integers(0, 5))
def test_ranks_share_out_the_joint_batch(table, seed, epoch):
    labels, groups, P, K = table
    joint = PKSampler(labels, groups, P, K, batches_per_epoch=3, seed=seed)
    joint.set_epoch(epoch)
    for W in [w for w in range(1, K + 1) if P * K % w == 0]:
        shares = [
            PKSampler(labels, groups, P, K, batches_per_epoch=3, seed=seed, rank=rank, world_size=W)
            for rank in range(W)
        ]
        for share in shares:
            share.set_epoch(epoch)
        for whole, *parts in zip(joint, *shares, strict=True):
            assert {len(part) for part in parts} == {P * K // W}
            dealt = sorted((d.position, int(d), d.epoch) for part in parts for d in part)
            assert dealt == [(d.position, int(d), d.epoch) for d in whole]
            for part in parts:
                counts = Counter(labels[draw] for draw in part)
                assert len(counts) == P
                assert set(counts.values()) <= {K // W, -(-K // W)}


def small(**options):
    labels = ["mel"] * 12 + ["nv"] * 30 + ["bkl"] * 18
    groups = [i // 2 for i in range(60)]
    return PKSampler(labels, groups, 3, 4, **options), labels


def listed(sampler):
    return [[(int(d), d.epoch, d.position) for d in batch] for batch in sampler]


def test_same_seed_and_epoch_same_batches_whatever_the_global_generators_do():
    first, _ = small(seed=5)
    before = listed(first)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    torch.manual_seed(1)
    states = np.random.get_state()[1].tolist(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    assert listed(first) == before
    resumed, _ = small(seed=5)
    resumed.set_epoch(3)
    first.set_epoch(3)
    assert listed(resumed) == listed(first) != before
    assert np.random.get_state()[1].tolist() == states[0]  # noqa: NPY002
    assert random.getstate() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert listed(small(seed=6)[0]) != before


def test_positions_count_the_draws_of_the_epoch():
    sampler, _ = small(batches_per_epoch=4)
    sampler.set_epoch(2)
    draws = [draw for batch in sampler for draw in batch]
    assert [d.position for d in draws] == list(range(4 * 12))
    assert {d.epoch for d in draws} == {2}


def test_batches_are_not_in_class_order():
    sampler, labels = small(batches_per_epoch=30)
    runs = []
    for batch in sampler:
        classes = [labels[draw] for draw in batch]
        runs.append(sum(a != b for a, b in pairwise(classes)))
    assert np.mean(runs) == pytest.approx(11 * 8 / 11, abs=1.0)  # 12 cards, 4 of each of 3 kinds


def test_default_epoch_covers_the_number_of_images_once():
    assert len(small()[0]) == 5  # 60 images in batches of 12
    assert len(PKSampler([0, 0, 1, 1, 1], [0, 1, 2, 3, 4], 2, 2)) == 2
    assert len(small(batches_per_epoch=7)[0]) == len(list(small(batches_per_epoch=7)[0])) == 7


def test_a_class_that_is_too_small_gives_all_its_images_and_is_logged_once(caplog):
    labels, groups = ["df"] * 3 + ["nv"] * 9, [1, 1, 2, *range(3, 12)]
    with caplog.at_level(logging.WARNING):
        sampler = PKSampler(labels, groups, 2, 8)
        batches = list(sampler) + list(sampler)
    assert [record.getMessage() for record in caplog.records] == [
        "class 'df' has 3 images of 2 groups, fewer than its 8 in a batch: "
        "it takes all of them and repeats some"
    ]
    for batch in batches:
        assert sorted(Counter(d for d in batch if labels[d] == "df").values()) == [2, 3, 3]


def test_nothing_is_logged_when_every_class_is_large_enough(caplog):
    list(small()[0])
    assert not caplog.records


def test_works_as_the_batch_sampler_of_a_data_loader():
    sampler, _ = small()
    loader = torch.utils.data.DataLoader(
        list(range(60)), batch_sampler=sampler, collate_fn=list, num_workers=0
    )
    assert len(loader) == 5
    assert [list(map(int, batch)) for batch in sampler] == list(loader)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"classes_per_batch": 4}, ValueError, r"found 4 for 3 classes: \['bkl', 'mel', 'nv'\]"),
        ({"classes_per_batch": 1}, ValueError, "from 2 to the number of classes; found 1"),
        ({"images_per_class": 1}, ValueError, "at least 2 for a positive pair; found 1"),
        ({"labels": ["mel"] * 2 + ["nv"] * 3 + ["df"]}, DataError, r"no positive pair: \['df'\]"),
        ({"groups": [1, 2]}, ValueError, "found 6 labels and 2 groups"),
        ({"seed": -1}, ValueError, "seed must be >= 0; found -1"),
        ({"batches_per_epoch": 0}, ValueError, "batches_per_epoch must be at least 1; found 0"),
        ({"world_size": 3}, ValueError, r"world_size must divide P\*K = 2\*2 .* found 3"),
        ({"world_size": 4}, ValueError, "from 1 to K, .* found 4"),
        ({"world_size": 0}, ValueError, "found 0"),
        ({"world_size": 2, "rank": 2}, ValueError, "rank must be from 0 to world_size - 1 = 1"),
    ],
)
def test_mistakes_are_refused(change, error, message):
    options = {
        "labels": ["mel", "mel", "nv", "nv", "bkl", "bkl"],
        "groups": list(range(6)),
        "classes_per_batch": 2,
        "images_per_class": 2,
    }
    with pytest.raises(error, match=message):
        PKSampler(**(options | change))


def test_negative_epoch_is_refused():
    with pytest.raises(ValueError, match="epoch must be >= 0; found -1"):
        small()[0].set_epoch(-1)


def test_set_batch_changes_p_and_k_but_not_the_number_of_batches():
    labels = [i % 4 for i in range(48)]
    changed = PKSampler(labels, range(48), 4, 3)
    drawn = list(changed)
    changed.set_batch(2, 6)
    assert len(changed) == len(drawn) == 4
    anew = PKSampler(labels, range(48), 2, 6, batches_per_epoch=4)
    assert list(changed) == list(anew)
    assert [d.position for batch in changed for d in batch] == [
        d.position for batch in anew for d in batch
    ]
    changed.set_batch(None, 3)
    assert list(changed) == drawn


def test_an_iteration_under_way_keeps_its_p_and_k():
    sampler = PKSampler([0, 1] * 8, range(16), 2, 2, batches_per_epoch=3)
    sizes = []
    for batch in sampler:
        sizes.append(len(batch))
        sampler.set_batch(2, 5)
    assert sizes == [4, 4, 4]
    assert len(next(iter(sampler))) == 10


def test_set_batch_refuses_what_the_sampler_refuses_and_stays_as_it_was():
    sampler = PKSampler([0, 0, 1, 1], range(4), 2, 2)
    before = list(sampler)
    for P, K in ((3, 2), (1, 2), (2, 1)):
        with pytest.raises(ValueError, match=r"classes_per_batch|images_per_class"):
            sampler.set_batch(P, K)
    assert list(sampler) == before


def test_repeats_are_logged_once_for_the_largest_k(caplog):
    sampler = PKSampler([0] * 3 + [1] * 9, range(12), 2, 2)
    for K in (5, 4, 5):
        sampler.set_batch(None, K)
    assert len(caplog.records) == 1
    assert "class 0 has 3 images" in caplog.text


@settings(max_examples=40, deadline=None)
@given(tables(), st.floats(0, 1), st.integers(0, 2**16))
def test_a_batch_is_shared_by_the_power_of_the_classes_numbers(table, balance, seed):
    labels, groups, P, K = table
    count = Counter(labels)
    sampler = PKSampler(labels, groups, P, K, batches_per_epoch=4, balance=balance, seed=seed)
    for batch in sampler:
        held = {label: len(rows) for label, rows in served_by_class(batch, labels).items()}
        assert sum(held.values()) == P * K
        assert len(held) == P
        weight = {label: count[label] ** (1 - balance) for label in held}
        for label, places in held.items():
            exact = 2 + P * (K - 2) * weight[label] / sum(weight.values())
            assert abs(places - exact) < 1 + 1e-6
        for one in held:
            for other in held:
                assert held[one] >= held[other] - 1 or count[one] < count[other]


def test_full_balance_is_k_of_each_and_none_is_as_they_occur():
    labels = ["nv"] * 80 + ["mel"] * 15 + ["df"] * 5
    held = []
    for balance in (1.0, 0.5, 0.0):
        batch = next(iter(PKSampler(labels, range(100), 3, 10, balance=balance)))
        held.append(Counter(labels[draw] for draw in batch))
    assert held[0] == {"nv": 10, "mel": 10, "df": 10}
    assert held[1] == {"nv": 16, "mel": 8, "df": 6}
    assert held[2] == {"nv": 21, "mel": 6, "df": 3}


def test_an_unbalanced_joint_batch_does_not_depend_on_the_number_of_ranks():
    labels = ["nv"] * 80 + ["mel"] * 15 + ["df"] * 5
    alone = [sorted(batch) for batch in PKSampler(labels, range(100), 3, 8, balance=0.0)]
    ranks = [
        list(PKSampler(labels, range(100), 3, 8, balance=0.0, rank=rank, world_size=4))
        for rank in range(4)
    ]
    assert [sorted(chain(*shares)) for shares in zip(*ranks, strict=True)] == alone
    assert {len(share) for shares in ranks for share in shares} == {6}


@pytest.mark.parametrize("balance", [-0.1, 1.5, float("nan")])
def test_balance_out_of_range(balance):
    with pytest.raises(ValueError, match="balance must be from 0 to 1"):
        PKSampler(["a", "a", "b", "b"], range(4), 2, 2, balance=balance)
