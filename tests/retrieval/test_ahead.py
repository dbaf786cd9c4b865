import threading
import time

import pytest

from medshadow.retrieval.ahead import ahead


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_keeps_the_order(workers):
    def slow_for_early_ones(i):
        time.sleep(0.002 * (10 - i))
        return i * i

    assert list(ahead(slow_for_early_ones, range(10), workers=workers, depth=4)) == [
        i * i for i in range(10)
    ]


@pytest.mark.parametrize("depth", [1, 3])
def test_takes_no_more_items_than_its_depth_allows(depth):
    taken = []

    def items():
        for i in range(20):
            taken.append(i)
            yield i

    results = ahead(str, items(), workers=2, depth=depth)
    assert next(results) == "0"
    assert len(taken) == depth + 1
    results.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_comes_at_its_own_place(workers):
    def refuse_three(i):
        if i == 3:
            raise OSError("number three")
        return i

    results = ahead(refuse_three, range(9), workers=workers, depth=8)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="number three"):
        next(results)


def test_leaves_no_thread_behind():
    before = threading.active_count()
    results = ahead(str, range(100), workers=3, depth=5)
    next(results)
    results.close()
    assert threading.active_count() == before
