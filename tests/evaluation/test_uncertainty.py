"""Bootstrap intervals: by group, repeatable, and as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from medshadow.evaluation import uncertainty
from medshadow.evaluation.uncertainty import group_bootstrap


def mean_of(values):
    return lambda weights: {"mean": weights @ values / weights.sum(axis=1)}


def slow_bootstrap(groups, values, resamples, rng):
    """The same draws, with the resampled queries really put together."""
    names = sorted(set(groups))
    means = []
    for row in rng.integers(len(names), size=(resamples, len(names))):
        sample = [
            v for g in row for v, name in zip(values, groups, strict=True) if name == names[g]
        ]
        means.append(sum(sample) / len(sample))
    return np.percentile(means, 2.5), np.percentile(means, 97.5)


def test_matches_resamples_written_out():
    rng = np.random.default_rng(0)
    groups = rng.choice(list("abcdefg"), 20)
    values = rng.normal(size=20)
    found = group_bootstrap(groups, mean_of(values), resamples=80, rng=np.random.default_rng(5))
    expected = slow_bootstrap(groups.tolist(), values.tolist(), 80, np.random.default_rng(5))
    assert found["mean"] == pytest.approx(expected, rel=1e-12)


def test_same_seed_same_interval_whatever_the_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    groups, values = np.arange(30), rng.normal(size=30)
    whole = group_bootstrap(groups, mean_of(values), resamples=50, rng=np.random.default_rng(2))
    monkeypatch.setattr(uncertainty, "_BLOCK_VALUES", 30 * 8)
    parts = group_bootstrap(groups, mean_of(values), resamples=50, rng=np.random.default_rng(2))
    other = group_bootstrap(groups, mean_of(values), resamples=50, rng=np.random.default_rng(3))
    assert whole == parts
    assert whole != other


def test_width_follows_the_number_of_groups_not_of_images():
    rng = np.random.default_rng(2)
    lesion = rng.normal(size=100)
    values, groups = np.repeat(lesion, 9), np.repeat(np.arange(100), 9)
    low, high = group_bootstrap(groups, mean_of(values), rng=rng)["mean"]
    standard_error = lesion.std() / 10
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.15)
    assert low < lesion.mean() < high


def test_resamples_without_the_class_are_left_out():
    def statistics(weights):
        drawn = weights[:, 0] > 0
        return {
            "sometimes": np.where(drawn, 1.0, np.nan),
            "never": np.full(len(weights), np.nan),
        }

    found = group_bootstrap(np.arange(5), statistics, resamples=40, rng=np.random.default_rng(0))
    assert found["sometimes"] == (1.0, 1.0)
    assert np.isnan(found["never"]).all()


@pytest.mark.parametrize(
    ("groups", "options", "message"),
    [
        (["a"], {"resamples": 0}, "resamples 0"),
        (["a"], {"level": 1.0}, "level 1.0"),
        ([], {}, "0 queries"),
    ],
)
def test_refuses(groups, options, message):
    with pytest.raises(ValueError, match=message):
        group_bootstrap(
            np.array(groups), mean_of(np.ones(len(groups))), rng=np.random.default_rng(0), **options
        )
