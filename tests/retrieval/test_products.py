import threading

import numpy as np
import pytest

from medshadow.retrieval import products
from medshadow.retrieval.products import products_into


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("rows", [0, 1, 2, 1000])
def test_the_same_for_any_number_of_threads(monkeypatch, threads, rows):
    monkeypatch.setattr(products, "_NUMBERS_A_THREAD", 8)
    monkeypatch.setattr(products, "_usable_threads", lambda: threads)
    rng = np.random.default_rng(1)
    vectors, query = rng.normal(size=(rows, 16)).astype("f4"), rng.normal(size=16).astype("f4")
    vectors.flags.writeable = False  # as a mapped file is
    out = np.full(rows, np.nan, np.float32)
    products_into(out, vectors, query)
    assert np.abs(out - vectors.astype(float) @ query).max(initial=0) < 1e-5


def test_few_vectors_wake_no_thread():
    products_into(np.empty(10, np.float32), np.ones((10, 4), np.float32), np.ones(4, np.float32))
    before = threading.active_count()
    products_into(np.empty(10, np.float32), np.ones((10, 4), np.float32), np.ones(4, np.float32))
    assert threading.active_count() == before
