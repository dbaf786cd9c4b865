"""Probability from a score, against a slow fit, against the truth, and at other prevalences."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.optimize import minimize

from medshadow.evaluation.calibration import (
    LogOddsCalibration,
    calibration_error,
    share_score,
)


def drawn(cases, share, seed, apart=2.0):
    """Scores of two normal distributions: the true log likelihood ratio is known."""
    rng = np.random.default_rng(seed)
    positive = rng.random(cases) < share
    return rng.normal(size=cases) + apart * positive, positive


def fitted(cases=2000, share=0.2, seed=0, **options):
    scores, positive = drawn(cases, share, seed)
    options = {"rng": np.random.default_rng(1), **options}
    return LogOddsCalibration.fit(scores, positive, np.arange(cases), **options)


def test_fit_is_that_of_a_slow_minimiser():
    scores, positive = drawn(300, 0.3, 4)
    many, few = positive.sum(), (~positive).sum()
    target = np.where(positive, (many + 1) / (many + 2), 1 / (few + 2))

    def loss(beta):
        z = beta[0] + beta[1] * scores
        return np.sum(np.logaddexp(0, z) - target * z)

    slow = minimize(loss, [0.0, 0.0], tol=1e-10).x
    found = LogOddsCalibration.fit(
        scores, positive, np.arange(300), rng=np.random.default_rng(0)
    ).coefficients[0]
    prior = np.log((many + 1) / (few + 1))
    np.testing.assert_allclose(found, [slow[0] - prior, slow[1]], atol=1e-4)


def test_finds_the_true_log_likelihood_ratio():
    # Of two normals of variance 1 at 0 and 2 it is 2 x - 2.
    np.testing.assert_allclose(fitted(20000).coefficients[0], [-2, 2], atol=0.12)


@pytest.mark.parametrize("prevalence", [0.02, 0.2, 0.6])
def test_is_calibrated_at_a_prevalence_it_was_not_fitted_at(prevalence):
    known = fitted(5000, share=0.2)
    scores, positive = drawn(5000, prevalence, 9)
    stated = np.array([known.probability(score, prevalence).value for score in scores])
    assert abs(stated.mean() - prevalence) < 0.02
    assert calibration_error(stated, positive) < 0.02
    elsewhere = np.array([known.probability(score, 0.9).value for score in scores])
    assert calibration_error(elsewhere, positive) > 0.1


def test_the_interval_narrows_with_cases_and_holds_the_truth():
    few, many = fitted(150).probability(1.0, 0.2), fitted(5000).probability(1.0, 0.2)
    for found in (few, many):
        assert found.low <= found.value <= found.high
        assert found.low > 0
        assert found.high < 1
    assert few.high - few.low > 3 * (many.high - many.low)
    truth = 0.2  # a score of 1 lies midway: it tells nothing beyond the prevalence
    covered = [
        p.low <= truth <= p.high
        for p in (fitted(400, seed=seed).probability(1.0, 0.2) for seed in range(40))
    ]
    assert np.mean(covered) >= 0.85


def test_images_of_one_group_are_resampled_together():
    scores, positive = drawn(400, 0.4, 2)
    alone = LogOddsCalibration.fit(scores, positive, np.arange(400), rng=np.random.default_rng(0))
    copies = LogOddsCalibration.fit(
        np.tile(scores, 8), np.tile(positive, 8), np.tile(np.arange(400), 8),
        rng=np.random.default_rng(0),
    )  # fmt: skip
    ours, theirs = alone.probability(2.0, 0.3), copies.probability(2.0, 0.3)
    assert theirs.high - theirs.low > 0.8 * (ours.high - ours.low)
    assert (ours.cases, theirs.cases) == (400, 3200)


def test_refuses_to_say_anything_of_too_few_or_of_a_score_that_does_not_rise():
    scores, positive = drawn(100, 0.3, 0)
    rng = np.random.default_rng(0)
    few = np.flatnonzero(positive)[:19]
    kept = np.concatenate([few, np.flatnonzero(~positive)])
    assert LogOddsCalibration.fit(scores[kept], positive[kept], kept, rng=rng) is None
    one = np.where(positive, "one patient", "others")
    assert LogOddsCalibration.fit(scores, positive, one, rng=rng) is None
    assert LogOddsCalibration.fit(-scores, positive, np.arange(100), rng=rng) is None
    with pytest.raises(ValueError, match="one finite score"):
        LogOddsCalibration.fit(np.full(100, np.nan), positive, np.arange(100), rng=rng)


def test_wholly_separated_scores_still_give_finite_odds():
    positive = np.arange(60) < 30
    known = LogOddsCalibration.fit(
        np.where(positive, 3.5, -3.5), positive, np.arange(60), rng=np.random.default_rng(0)
    )
    assert 0.9 < known.probability(3.5, 0.5).value < 1
    assert np.isfinite(known.coefficients).all()


@pytest.mark.parametrize("prevalence", [0, 1, -0.1, 5, float("nan")])
def test_refuses_a_prevalence_that_is_none(prevalence):
    with pytest.raises(ValueError, match="prevalence must lie between 0 and 1"):
        fitted(200, resamples=2).probability(0.0, prevalence)


def test_survives_being_kept_as_json():
    known = fitted(300, resamples=20)
    again = LogOddsCalibration.from_dict(known.to_dict())
    assert again.probability(1.5, 0.1).to_dict() == known.probability(1.5, 0.1).to_dict()
    assert known.coefficients.shape == (21, 2)


def test_share_score_rises_with_the_share_and_is_finite():
    scores = share_score(np.arange(17), 16)
    assert np.isfinite(scores).all()
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(scores, -scores[::-1])


def test_calibration_error_is_the_mean_gap():
    stated = np.array([0.1] * 10 + [0.9] * 10)
    happened = np.array([1] * 3 + [0] * 7 + [1] * 6 + [0] * 4)
    assert calibration_error(stated, happened, bins=2) == pytest.approx((0.2 + 0.3) / 2)


def test_the_evaluation_room_does_not_load_monai():
    code = (
        "import sys, medshadow.evaluation.calibration, medshadow.evaluation.uncertainty; "
        "sys.exit('monai' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
