"""Random archives with label sets, and the queries asked of them."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st

from medshadow.evaluation import EmbeddedCases

LABELS = ("C", "D", "G", "N", "O")
KEYWORDS = ("O: drusen", "O: laser spot")


def embedded(embeddings, groups, label_sets, findings=None, prefix="c"):
    """Cases with label sets; the alphabetically first label stands for each."""
    frame = pd.DataFrame(
        {
            "case_id": [f"{prefix}{i}" for i in range(len(groups))],
            "group": [str(g) for g in groups],
            "label": [min(labels) for labels in label_sets],
            "labels": [frozenset(labels) for labels in label_sets],
        }
    )
    if findings is not None:
        frame["findings"] = [frozenset(names) for names in findings]
    return EmbeddedCases(np.asarray(embeddings, dtype=np.float32), frame)


@st.composite
def _eyes(draw, prefix, groups, least):
    """A few eyes: whole-number vectors that often tie, label sets, keywords of those with O."""
    row = st.tuples(
        st.lists(st.integers(-1, 1), min_size=3, max_size=3),
        st.integers(*groups),
        st.frozensets(st.sampled_from(LABELS), min_size=1, max_size=3),
        st.frozensets(st.sampled_from(KEYWORDS), min_size=1),
    )
    rows = draw(st.lists(row, min_size=least, max_size=9))
    if least > 1:
        # Two groups that are always there: a gallery of one group is refused.
        rows += [([1, 0, 0], 98, {"N"}, set()), ([0, 1, 0], 99, {"D", "G"}, set())]
    vectors, of_group, labels, keywords = zip(*rows, strict=True)
    findings = [
        (own - {"O"}) | (more if "O" in own else frozenset())
        for own, more in zip(labels, keywords, strict=True)
    ]
    return embedded(vectors, of_group, labels, findings, prefix)


@st.composite
def _archives(draw):
    return draw(_eyes("g", (0, 4), 2)), draw(_eyes("q", (3, 8), 1))


@pytest.fixture(scope="session")
def eyes():
    """Make cases from vectors, groups, label sets and, if given, findings."""
    return embedded


@pytest.fixture(scope="session")
def label_set_archives():
    """A strategy for (gallery, queries)."""
    return _archives()
