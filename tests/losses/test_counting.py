from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medshadow.losses.counting import Workspace, count_below, count_violations, sort_rows

# On CPUs, and as on GPUs: by torch's sort and searchsorted.
pytestmark = [
    pytest.mark.usefixtures("way_of_counting"),
    pytest.mark.parametrize("way_of_counting", ["torch", "as on GPUs"], indirect=True),
]
# A slow machine is no failure of the loss.
BUSY_MACHINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [1, 2, 17, 600])
def test_rows_are_sorted_as_torch_sorts_them(width, dtype):
    generator = torch.Generator().manual_seed(width)
    rows = torch.randint(-6, 6, (5, width), generator=generator).to(dtype) / 4
    rows[0] = torch.randn(width, generator=generator, dtype=dtype) * 1e-30
    rows[1, : width // 2] = torch.inf
    rows[2, width // 2 :] = -torch.inf
    rows[3] = -0.0
    rows[3, ::2] = 0.0
    before = rows.clone()
    values, places = sort_rows(rows)
    assert torch.equal(rows, before)
    assert torch.equal(values, rows.sort(1).values)
    assert torch.equal(values, rows.gather(1, places))
    assert torch.equal(places.sort(1).values, torch.arange(width).expand(5, width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("positives", [1, 5, 40])
@pytest.mark.parametrize("grid", [4, 2**20])
def test_counts_equal_every_pair_compared(grid, positives, dtype):
    # Multiples of a quarter tie with the margin of a quarter all the time; the fine grid hardly.
    rows, width, margin = 6, 90, 0.25
    generator = torch.Generator().manual_seed(positives)
    closeness = torch.randint(-grid, grid, (rows, width), generator=generator).to(dtype) / grid
    closeness[0] = 0.5
    closeness[1, ::2] = -0.0
    given = closeness.clone()
    columns = torch.argsort(torch.rand(rows, width, generator=generator), 1)[:, :positives]
    valid = torch.rand(rows, positives, generator=generator) < 0.8
    valid[2] = False
    negative = torch.ones(rows, width, dtype=torch.bool).scatter_(1, columns, False)

    weights = torch.full_like(closeness, torch.nan)
    counts = count_violations(
        closeness,
        columns,
        valid,
        lambda matrix: matrix.masked_fill_(~negative, torch.finfo(dtype).min),
        torch.tensor(margin, dtype=dtype),
        weights,
        Workspace(closeness.device),
    )

    thresholds = given.gather(1, columns) - margin
    violates = (given[:, None, :] > thresholds[:, :, None]) & negative[:, None] & valid[..., None]
    expected = violates.sum(1).to(dtype).scatter_add_(1, columns, -violates.sum(2).to(dtype))
    hinges = torch.where(violates, given[:, None, :] - thresholds[:, :, None], 0).double().sum()
    assert torch.equal(weights, expected)
    assert counts.active == violates.sum()
    torch.testing.assert_close(counts.hinges, hinges, rtol=1e-6, atol=1e-4)


@settings(BUSY_MACHINE, max_examples=60)
@given(data=st.data())
def test_counting_equals_comparing_with_every_threshold(data):
    # A coarse grid makes ties between values and thresholds common; -0.0 must equal 0.0.
    number = st.sampled_from([-3e38, -1.0, -0.5, -0.0, 0.0, 1e-30, 0.25, 0.5, 1.0, 3e38])
    rows, width = 3, data.draw(st.integers(1, 40))
    some = data.draw(st.lists(number, min_size=rows * width, max_size=rows * width))
    thresholds = torch.tensor(some).view(rows, width)
    thresholds[0, data.draw(st.integers(0, width)) :] = torch.inf
    thresholds[2] = thresholds[2, 0]
    thresholds = thresholds.sort(1).values
    others = data.draw(st.lists(number, min_size=rows * 9, max_size=rows * 9))
    values = torch.tensor(others).view(rows, 9)
    counted = torch.full_like(values, torch.nan)
    count_below(thresholds, thresholds.isfinite().sum(1), values, counted, Workspace(values.device))
    expected = (thresholds[:, None, :] < values[:, :, None]).sum(2)
    assert torch.equal(counted, expected.to(values.dtype))
