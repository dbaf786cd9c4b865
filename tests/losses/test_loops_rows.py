"""Compiled loops over rows: unit vectors and gradients against float64, whatever the norms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("numba")

from medshadow.losses import loops_rows
from medshadow.losses.walk import ZERO_NORM

EPS = {np.float32: 3e-7, np.float64: 1e-15}


def directed(rows, order):
    units, inverse = np.empty_like(rows), np.empty(len(rows))
    return loops_rows.directions(rows, order, ZERO_NORM, units, inverse), units, inverse


@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    powers=st.lists(st.integers(-45, 37), min_size=9, max_size=9),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_rows_of_any_norm_get_their_directions(seed, shape, powers, dtype):
    generator = np.random.default_rng(seed)
    powers = np.array(powers[: shape[0]])
    if dtype == np.float64:
        powers = powers * 8
    rows = generator.uniform(-1, 1, shape) * 10.0 ** powers[:, None]
    rows = rows.astype(dtype)
    order = generator.permutation(shape[0])
    finite, units, inverse = directed(rows, order)
    assert finite
    exact = rows[order].astype(np.longdouble)
    norms = np.sqrt((exact**2).sum(1))
    long = norms > ZERO_NORM * (1 + 1e-6)
    short = norms < ZERO_NORM * (1 - 1e-6)
    np.testing.assert_allclose(
        units[long], exact[long] / norms[long, None], rtol=0, atol=EPS[dtype]
    )
    np.testing.assert_allclose(inverse[long] * norms[long], 1, rtol=3 * EPS[dtype])
    assert not units[short].any()
    assert not inverse[short].any()


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-300, 1, 1e38])
def test_an_entry_that_is_not_finite_is_found_beside_any_other(value, dtype, size):
    rows = np.full((3, 20), size, dtype)
    assert directed(rows, np.arange(3))[0]
    rows[1, 13] = value
    assert not directed(rows, np.arange(3))[0]


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 40])
def test_a_transpose_is_added(size):
    matrix = np.random.default_rng(0).normal(size=(size, size))
    expected = matrix + matrix.T
    loops_rows.add_transposed(matrix)
    assert (matrix == expected).all()


def test_a_gradient_goes_back_through_the_directions():
    rows = torch.randn(12, 5, dtype=torch.float64).requires_grad_()
    by_units = torch.randn(12, 5, dtype=torch.float64)
    (torch.nn.functional.normalize(rows) * by_units).sum().backward()
    order = np.random.default_rng(0).permutation(12)
    _, units, inverse = directed(rows.detach().numpy(), order)
    by_rows = np.empty_like(units)
    loops_rows.through_directions(by_units[order].numpy(), units, inverse, 0.5, order, by_rows)
    np.testing.assert_allclose(by_rows, 0.5 * rows.grad.numpy(), rtol=1e-12)
