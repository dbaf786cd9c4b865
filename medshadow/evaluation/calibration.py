"""Probability from a score: log-odds fitted on validation cases, moved to a stated prevalence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medshadow.evaluation.uncertainty import group_resamples

# Of positive and of negative groups each: with fewer the intervals are not to be believed.
LEAST_GROUPS = 20
_NEWTON_STEPS = 50


@dataclass(frozen=True)
class Probability:
    """A calibrated probability at a stated prevalence.

    Args:
        value: the probability, in (0, 1).
        low: lower end of its 95 % interval.
        high: upper end.
        prevalence: the share of positives that it supposes among images like the query, in (0, 1).
        cases: how many validation images it was calibrated on.
    """

    value: float
    low: float
    high: float
    prevalence: float
    cases: int

    def to_dict(self) -> dict[str, float | int]:
        """In JSON's own types, rounded to four places."""
        return {
            "value": round(self.value, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "prevalence": self.prevalence,
            "cases": self.cases,
        }


@dataclass(frozen=True, eq=False)
class LogOddsCalibration:
    """The evidence that a score is, as log likelihood ratio: intercept + slope * score.

    Fitted by logistic regression of the outcome on the score (Platt 1999, with his smoothed
    targets), from whose intercept the log-odds of the validation cases' own prevalence are taken
    away. A probability at another prevalence adds that prevalence's log-odds (Elkan, IJCAI 2001;
    Saerens, Latinne and Decaestecker, Neural Computation 14, 2002). This supposes that positives
    look as the validation cases' positives do and negatives as its negatives, only in other
    numbers: another camera, or a clinic that sends only doubtful cases, breaks it.

    Args:
        coefficients: float64 (1 + B) x 2, intercept and slope: of the fit, then of B bootstrap
            resamples of the lesions or patients, from which intervals come.
        cases: validation images.
        positives: of them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> positive = np.arange(400) < 100
        >>> score = rng.normal(size=400) + 2 * positive
        >>> fitted = LogOddsCalibration.fit(score, positive, np.arange(400), rng=rng)
        >>> rare, common = fitted.probability(2.0, 0.01), fitted.probability(2.0, 0.5)
        >>> round(rare.value, 1), round(common.value, 1), rare.low < rare.value < rare.high
        (0.1, 0.9, True)
    """

    coefficients: np.ndarray
    cases: int
    positives: int

    @classmethod
    def fit(
        cls,
        scores: np.ndarray,
        positive: np.ndarray,
        groups: np.ndarray,
        *,
        resamples: int = 200,
        rng: np.random.Generator,
    ) -> LogOddsCalibration | None:
        """Fit to validation cases.

        Args:
            scores: float Q, finite; higher should mean that a positive is likelier.
            positive: bool Q.
            groups: Q, the lesion or patient of each; resampled whole.
            resamples: B, of the bootstrap.
            rng: where the resamples come from.

        Returns:
            The calibration; None where fewer than 20 groups hold a positive, or fewer than 20 a
            negative, or where the scores do not rise with the outcome: nothing can be said then.

        Raises:
            ValueError: lengths differ, or a score is not finite.
        """
        scores, positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
        groups = np.asarray(groups).astype(str)
        if not len(scores) == len(positive) == len(groups) or not np.isfinite(scores).all():
            raise ValueError(
                "a calibration needs one finite score, one outcome and one group a case; found "
                f"{len(scores)}, {len(positive)} and {len(groups)}"
            )
        fewest = min(len(set(groups[positive])), len(set(groups[~positive])))
        if fewest < LEAST_GROUPS:
            return None
        fitted = _log_likelihood_ratio(scores, positive, np.ones((1, len(scores))))
        if fitted[0, 1] <= 0:
            return None
        drawn = [
            _log_likelihood_ratio(scores, positive, weights)
            for weights in group_resamples(groups, resamples, rng)
        ]
        return cls(np.concatenate([fitted, *drawn]), len(scores), int(positive.sum()))

    def probability(self, score: float, prevalence: float, level: float = 0.95) -> Probability:
        """The probability that a case of this score is positive, where this share of cases is.

        The interval is the bootstrap's (percentiles): it covers which validation cases there
        happened to be, not whether the stated prevalence or the assumption above holds.

        Raises:
            ValueError: the prevalence is not between 0 and 1.
        """
        if not 0 < prevalence < 1:
            raise ValueError(f"prevalence must lie between 0 and 1, both excluded; {prevalence!r}")
        prior = np.log(prevalence / (1 - prevalence))
        values = _logistic(prior + self.coefficients @ [1.0, score])
        low, high = np.quantile(values[1:], [(1 - level) / 2, (1 + level) / 2])
        value = float(values[0])
        return Probability(
            value, min(float(low), value), max(float(high), value), prevalence, self.cases
        )

    def to_dict(self) -> dict[str, Any]:
        """In JSON's own types; :meth:`from_dict` reads it."""
        return {
            "coefficients": self.coefficients.round(6).tolist(),
            "cases": self.cases,
            "positives": self.positives,
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> LogOddsCalibration:
        """What :meth:`to_dict` made."""
        return cls(np.asarray(kept["coefficients"], float), kept["cases"], kept["positives"])


def share_score(chosen: int | np.ndarray, available: int | np.ndarray) -> Any:
    """The log-odds of a share of neighbours, half a neighbour added on both sides.

    Args:
        chosen: neighbours of the kind.
        available: neighbours.

    Returns:
        float64, ln((chosen + 1/2) / (available - chosen + 1/2)): finite for none and for all.

    Example:
        >>> share_score(np.array([0, 8, 16]), 16).round(2).tolist()
        [-3.5, 0.0, 3.5]
    """
    return np.log((chosen + 0.5) / (np.asarray(available) - chosen + 0.5))


def calibration_error(probabilities: np.ndarray, positive: np.ndarray, bins: int = 10) -> float:
    """Mean distance between stated and observed share over bins of equally many cases.

    The expected calibration error with adaptive bins (Nixon et al., CVPR workshops 2019). It is
    never 0 for a finite sample, however well calibrated.

    Args:
        probabilities: float Q in [0, 1].
        positive: bool Q.
        bins: at least 1.

    Example:
        >>> calibration_error(np.array([0.0, 0.0, 1.0, 1.0]), np.array([0, 0, 1, 0]), bins=2)
        0.25
    """
    order = np.argsort(probabilities, kind="stable")
    parts = zip(
        np.array_split(np.asarray(probabilities, float)[order], bins),
        np.array_split(np.asarray(positive, float)[order], bins),
        strict=True,
    )
    return float(
        sum(len(p) * abs(p.mean() - y.mean()) for p, y in parts if len(p)) / len(probabilities)
    )


def _log_likelihood_ratio(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Intercept less the log-odds of the prevalence, and slope, for each of B weightings: B x 2.

    Newton's method on the logistic likelihood, all weightings at once.
    """
    many = weights @ positive
    few = weights.sum(axis=1) - many
    # Platt's targets: a class that the score separates wholly still has finite odds.
    target = np.where(positive, ((many + 1) / (many + 2))[:, None], (1 / (few + 2))[:, None])
    centre, spread = scores.mean(), scores.std() or 1.0
    x = (scores - centre) / spread
    beta = np.zeros((len(weights), 2))
    for _ in range(_NEWTON_STEPS):
        p = _logistic(beta[:, :1] + beta[:, 1:] * x)
        left, w = weights * (target - p), weights * p * (1 - p)
        gradient = np.stack([left.sum(1), left @ x], axis=1)
        a, b, d = w.sum(1) + 1e-9, w @ x, w @ (x * x) + 1e-9
        step = (
            np.stack(
                [d * gradient[:, 0] - b * gradient[:, 1], a * gradient[:, 1] - b * gradient[:, 0]],
                1,
            )
            / (a * d - b * b)[:, None]
        )
        beta += np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    slope = beta[:, 1] / spread
    prior = np.log((many + 1) / (few + 1))
    return np.stack([beta[:, 0] - slope * centre - prior, slope], axis=1)


def _logistic(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -700, 700)))
