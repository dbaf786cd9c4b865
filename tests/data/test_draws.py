import pickle
from copy import deepcopy

import numpy as np
import pytest

from medshadow.data.draws import Draw


def test_is_an_integer_wherever_one_is_wanted():
    draw = Draw(2, epoch=3, position=5)
    assert draw == 2
    assert hash(draw) == hash(2)
    assert "abc"[draw] == "c"
    assert np.arange(4)[draw] == 2
    assert repr(draw) == "Draw(2, epoch=3, position=5)"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_survives_pickling_and_copying(protocol):
    draw = Draw(2, epoch=3, position=5)
    for other in (pickle.loads(pickle.dumps(draw, protocol)), deepcopy(draw)):
        assert (type(other), int(other), other.epoch, other.position) == (Draw, 2, 3, 5)


def test_seed_depends_on_base_epoch_and_position_and_not_on_the_index():
    seeds = {
        Draw(0, epoch, position).seed(base)
        for base in range(3)
        for epoch in range(4)
        for position in range(50)
    }
    assert len(seeds) == 3 * 4 * 50
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert Draw(0, 1, 2).seed(7) == Draw(9, 1, 2).seed(7)


def test_seed_never_changes_between_versions():
    assert Draw(0, epoch=2, position=40).seed(0) == 751238784


@pytest.mark.parametrize("numbers", [(-1, 0, 0), (0, -1, 0), (0, 0, -1)])
def test_negative_numbers_are_refused(numbers):
    with pytest.raises(ValueError, match=r"must be >= 0; found .*-1"):
        Draw(*numbers)


def test_negative_base_seed_is_refused():
    with pytest.raises(ValueError, match="seed must be >= 0; found -4"):
        Draw(0).seed(-4)
