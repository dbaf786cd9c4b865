"""P x K batches of label sets against the rule spelt out."""

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medshadow.data import PKSampler
from medshadow.errors import DataError


def classes_slowly(sets):
    """Images of each class, image by image and label by label."""
    count = Counter(name for names in sets for name in names)
    classes = defaultdict(set)
    for row, names in enumerate(sets):
        paired = [name for name in names if count[name] > 1] or list(names)
        classes[min(paired, key=lambda name: (count[name], name))].add(row)
    for name in count:
        carriers = {row for row, names in enumerate(sets) if name in names}
        if len(carriers) > 1 and len(classes[name]) < 2:
            classes[name] = carriers
    return {name: rows for name, rows in classes.items() if rows}


@st.composite
def tables(draw):
    letters = st.frozensets(st.sampled_from("NDGCAH"), min_size=1, max_size=3)
    sets = draw(st.lists(letters, min_size=4, max_size=20))
    classes = classes_slowly(sets)
    assume(len(classes) > 1 and all(len(rows) > 1 for rows in classes.values()))
    groups = draw(st.lists(st.integers(0, 5), min_size=len(sets), max_size=len(sets)))
    return sets, groups, classes, draw(st.integers(2, 6))


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 2**16))
def test_every_label_is_served_from_its_own_images(table, seed):
    sets, groups, classes, K = table
    sampler = PKSampler(sets, groups, None, K, batches_per_epoch=2, seed=seed)
    assert sampler.classes_per_batch == len(classes)
    for batch in sampler:
        served = [sets[draw] for draw in batch]
        assert len(served) == K * len(classes)
        # Classes overlap, so Hall's condition: any of them together have K images each.
        for name in classes:
            assert sum(name in names for names in served) >= K
        assert set(map(int, batch)) <= set().union(*classes.values())
    times = Counter(int(draw) for batch in sampler for draw in batch)
    once = [name for name in classes if not any(classes[name] & classes[other]
                                                for other in classes if other != name)]  # fmt: skip
    for name in once:
        counts = [times[row] for row in classes[name]]
        assert sum(counts) == 2 * K
        by_group = defaultdict(list)
        for row in classes[name]:
            by_group[groups[row]].append(times[row])
        for same in by_group.values():
            assert max(same) - min(same) <= 1
        if len(by_group) >= K:
            whole = [sum(same) for same in by_group.values()]
            assert max(whole) - min(whole) <= 1


@settings(max_examples=60, deadline=None)
@given(tables(), st.integers(0, 2**16))
def test_a_batch_holds_the_classes_of_the_rule(table, seed):
    """Two classes a batch: all its images are of two classes, K of each, groups first."""
    sets, groups, classes, K = table
    for batch in PKSampler(sets, groups, 2, K, batches_per_epoch=4, seed=seed):
        rows = Counter(int(draw) for draw in batch)
        pairs = [
            (one, other)
            for one in classes
            for other in classes
            if one < other and splits_into(rows, classes[one], classes[other], groups, K)
        ]
        assert pairs


def splits_into(rows, one, other, groups, K):
    """Whether these draws can be K of each of two classes, each class's groups first."""
    if not set(rows) <= one | other:
        return False
    own = Counter({row: n for row, n in rows.items() if row not in other})
    both = [row for row, n in rows.items() if row in other and row in one for _ in range(n)]
    missing = K - sum(own.values())
    if not 0 <= missing <= len(both):
        return False
    return any(
        groups_first(own + Counter(chosen), one, groups, K)
        and groups_first(rows - (own + Counter(chosen)), other, groups, K)
        for chosen in {tuple(sorted(c)) for c in choices(both, missing)}
    )


def choices(items, count):
    if count == 0:
        return [()]
    return [
        (item, *rest) for i, item in enumerate(items) for rest in choices(items[i + 1 :], count - 1)
    ]


def groups_first(rows, members, groups, K):
    if sum(rows.values()) != K or max(rows.values()) > -(-K // len(members)):
        return False
    if len(members) < K:
        return set(rows) == members
    return len({groups[row] for row in rows}) == min(K, len({groups[row] for row in members}))


def test_an_image_is_filed_under_its_rarest_label():
    sets = [frozenset(names) for names in ["D", "D", "DH", "DH", "N", "N", "N", "N", "ND"]]
    sampler = PKSampler(sets, range(9), 3, 2, batches_per_epoch=30)
    served = Counter(int(draw) for batch in sampler for draw in batch)
    assert served[2] == served[3] == 30  # the two of H, in every batch
    # D and N are carried by five each: "ND" is filed under D, by name.
    assert sum(served[row] for row in (0, 1, 8)) == 60
    assert sum(served[row] for row in (4, 5, 6, 7)) == 60


@pytest.mark.parametrize("alone", ["", "D"])
def test_a_label_filed_under_rarer_ones_is_served_too(alone):
    """All of D's images have a rarer label, or all but one: the class of D is all of them."""
    sets = [frozenset(names) for names in ["DG", "DG", "DH", "DH", "N", "N", *alone]]
    sampler = PKSampler(sets, range(len(sets)), None, 4, batches_per_epoch=2)
    assert sampler.classes_per_batch == 4
    for batch in sampler:
        served = Counter("".join(sorted(sets[draw])) for draw in batch)
        # Of G, H and N there are two images, each twice; D adds four of its own four or five.
        assert served["N"] == 4
        assert served["DG"] + served["DH"] + served["D"] == 12
        assert served["DG"] >= 4 <= served["DH"]


def test_single_labels_and_sets_of_one_are_the_same_batches():
    labels = list(np.random.default_rng(0).choice(list("NDG"), 40))
    plain = PKSampler(labels, range(40), 3, 4, seed=3)
    sets = PKSampler([frozenset(label) for label in labels], range(40), 3, 4, seed=3)
    assert list(plain) == list(sets)


def test_batches_do_not_depend_on_the_order_within_sets():
    sets = [frozenset(names) for names in ["DG", "GH", "DH", "ND", "NH", "NG"] * 4]
    again = [frozenset(sorted(names, reverse=True)) for names in sets]
    assert list(PKSampler(sets, range(24), 4, 3)) == list(PKSampler(again, range(24), 4, 3))


def test_a_label_of_a_single_image_is_left_out_and_named(caplog):
    sets = [frozenset(names) for names in ["NX", "N", "D", "DY", "D"]]
    sampler = PKSampler(sets, range(5), None, 2)
    assert "labels of a single image make no pair and are left out: ['X', 'Y']" in caplog.text
    assert sampler.classes_per_batch == 2
    assert {int(d) for batch in sampler for d in batch} <= set(range(5))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["N", "N", "D", "D", "H"], r"no positive pair: \['H'\]"),
        (["N", "N", "D", "D", "HG"], r"no positive pair: \['G'\]"),
        (["N", "N", "", "D", "D"], "image 2 has an empty label set"),
    ],
)
def test_sets_without_a_pair_are_refused(names, message):
    with pytest.raises(DataError, match=message):
        PKSampler([frozenset(letters) for letters in names], range(5), 2, 2)


@settings(max_examples=20, deadline=None)
@given(tables(), st.integers(0, 2**16))
def test_ranks_share_out_the_joint_batch(table, seed):
    sets, groups, _, K = table
    if K % 2:
        K += 1
    joint = PKSampler(sets, groups, None, K, batches_per_epoch=2, seed=seed)
    shares = [
        PKSampler(sets, groups, None, K, batches_per_epoch=2, seed=seed, rank=rank, world_size=2)
        for rank in range(2)
    ]
    for whole, *parts in zip(joint, *shares, strict=True):
        assert sorted(d.position for part in parts for d in part) == [d.position for d in whole]
        assert {len(part) for part in parts} == {len(whole) // 2}
