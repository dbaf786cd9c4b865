"""Rows of ones and zeros, and findings in common, against plain set arithmetic."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medshadow.evaluation.labelsets import Sharing, multi_hot

NAMES = ["C", "D", "G", "N"]


@given(st.lists(st.frozensets(st.sampled_from([*NAMES, "unknown"])), max_size=6))
def test_a_one_stands_where_the_set_holds_the_name(sets):
    expected = [[name in own for name in NAMES] for own in sets]
    assert multi_hot(sets, NAMES).tolist() == expected
    assert multi_hot(sets, NAMES).shape == (len(sets), 4)


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_sharing_is_a_common_finding_of_every_pair(label_set_archives, data):
    gallery, queries = data.draw(label_set_archives)
    everyone = np.tile(np.arange(-1, len(gallery)), (len(queries), 1))
    found = Sharing(queries, gallery)(np.arange(len(queries)), everyone)
    for q in range(len(queries)):
        common = [bool(queries.findings[q] & theirs) for theirs in gallery.findings]
        assert found[q].tolist() == [False, *common]


def test_other_alone_is_nothing_in_common(eyes):
    labels = [{"O"}, {"O"}, {"O", "D"}]
    findings = [{"O: drusen"}, {"O: laser spot"}, {"O: drusen", "D"}]
    some = eyes(np.eye(3), "abc", labels, findings)
    everyone = np.tile(np.arange(3), (3, 1))
    assert Sharing(some, some)(slice(0, 3), everyone).astype(int).tolist() == [
        [1, 0, 1],
        [0, 1, 0],
        [1, 0, 1],
    ]
