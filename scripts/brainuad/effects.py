"""Two groups of subjects held against each other at many places at once: effect size, test, false discoveries.

A place is a voxel or a region; a subject counts where it is covered. Nothing here knows of images.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import gammaln, stdtr
from statsmodels.stats.multitest import multipletests

from brainuad import detection
from brainuad.resampling import interval

__all__ = ["Moments", "Ranking", "adjusted", "correction", "effect_interval", "hedges", "ranking", "welch"]

FLAT = 1e-12  # share of the squared mean below which a sum of squares is rounding


class Moments:
    """Number, mean and sum of squared deviations of the subjects at each place, in one pass (Welford, 1962).

    Attributes:
        number: subjects that are covered there, (places,).
        mean: of their values; 0 where there are none.
        squares: sum of the squared deviations from the mean.
    """

    def __init__(self, places: int):
        self.number = np.zeros(places, np.int32)
        self.mean = np.zeros(places)
        self.squares = np.zeros(places)

    def add(self, values: np.ndarray, covered: np.ndarray) -> None:
        """Add a subject: its values (places,) and where they are known."""
        self.number += covered
        difference = np.where(covered, values - self.mean, 0)
        self.mean += difference / np.maximum(self.number, 1)
        self.squares += difference * np.where(covered, values - self.mean, 0)

    @classmethod
    def of(cls, values: np.ndarray) -> "Moments":
        """Those of values (subjects, places), of which NaN are not known."""
        moments = cls(values.shape[1])
        for row in np.asarray(values, float):
            moments.add(np.nan_to_num(row), ~np.isnan(row))
        return moments

    @property
    def variance(self) -> np.ndarray:
        """Unbiased variance; NaN of fewer than two subjects, 0 of equal values."""
        flat = self.squares <= FLAT * np.square(self.mean) * self.number
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.number > 1, np.where(flat, 0, self.squares / (self.number - 1)), np.nan)


def correction(freedom: np.ndarray) -> np.ndarray:
    """Hedges' exact correction of the bias of a standardised difference (1981), below 1, by degrees of freedom."""
    known = np.maximum(freedom, 2)
    factor = np.exp(gammaln(known / 2) - gammaln((known - 1) / 2)) / np.sqrt(known / 2)
    return np.where(freedom > 1, factor, np.nan)


def hedges(group: Moments, reference: Moments) -> np.ndarray:
    """Hedges' g: the difference of the means by the pooled standard deviation, corrected for few subjects.

    Returns:
        (places,), positive where the group is above the reference; NaN where fewer than two subjects of either are
        covered or nobody differs from the others.
    """
    freedom = group.number + reference.number - 2
    with np.errstate(invalid="ignore", divide="ignore"):
        pooled = ((group.number - 1) * group.variance + (reference.number - 1) * reference.variance) / freedom
        value = correction(freedom) * (group.mean - reference.mean) / np.sqrt(pooled)
    return np.where(pooled > 0, value, np.nan)


class Welch(NamedTuple):
    """Welch's t, its degrees of freedom and the two-sided p-value, each (places,)."""

    t: np.ndarray
    freedom: np.ndarray
    p: np.ndarray


def welch(group: Moments, reference: Moments) -> Welch:
    """Welch's test: patients vary more than controls do, so variances are not taken for equal. NaN as in `hedges`."""
    parts = [moments.variance / np.maximum(moments.number, 1) for moments in (group, reference)]
    total = parts[0] + parts[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        t = np.where(total > 0, (group.mean - reference.mean) / np.sqrt(total), np.nan)
        each = [np.square(part) / (moments.number - 1) for part, moments in zip(parts, (group, reference), strict=True)]
        freedom = np.where(total > 0, np.square(total) / (each[0] + each[1]), np.nan)
        return Welch(t, freedom, 2 * stdtr(freedom, -np.abs(t)))


def adjusted(p: np.ndarray) -> np.ndarray:
    """P-values after Benjamini and Hochberg (1995): of those found (below 0.05) one in twenty is false on average.

    Args:
        p: of any shape; NaN stays and is not counted as a test.
    """
    found, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        found[known] = multipletests(p[known], method="fdr_bh")[1]
    return found


def effect_interval(
    group: np.ndarray, reference: np.ndarray, drawn: tuple[np.ndarray, np.ndarray], effect: np.ndarray
) -> np.ndarray:
    """Bounds of the 95 % bootstrap interval of Hedges' g at each place.

    Args:
        group: values (subjects, places), of which NaN are not known.
        reference: the same of the reference.
        drawn: how often each subject is drawn, (resamples, subjects), of both.
        effect: the value itself, (places,).

    Returns:
        (places, 2), NaN where there is no interval.
    """
    parts = [weighted(weights, values) for weights, values in zip(drawn, (group, reference), strict=True)]
    replicates = hedges(*parts)
    fewest = np.minimum(*(np.isfinite(values).sum(axis=0) for values in (group, reference)))
    bounds = [
        interval(value, each, int(number)) for value, each, number in zip(effect, replicates.T, fewest, strict=True)
    ]
    return np.reshape(bounds, (len(effect), 2))


def weighted(weights: np.ndarray, values: np.ndarray) -> Moments:
    """Moments of drawn subjects, (resamples, places)."""
    known = np.isfinite(values)
    middle = np.where(known, values, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    centred = np.where(known, values - middle, 0)  # so that squares do not cancel
    moments = Moments(0)
    moments.number = (weights @ known).astype(int)
    count = np.maximum(moments.number, 1)
    mean = weights @ centred / count
    moments.squares = np.maximum(weights @ np.square(centred) - count * np.square(mean), 0)
    moments.squares[moments.squares <= FLAT * np.square(centred).sum(axis=0)] = 0
    moments.mean = np.where(moments.number > 0, mean + middle, 0)
    return moments


class Ranking(NamedTuple):
    """How well scores tell one group from the other: AUROC, 0.5 by chance, and its 95 % bootstrap interval."""

    auroc: float
    low: float
    high: float


def ranking(group: np.ndarray, reference: np.ndarray, drawn: Sequence[np.ndarray]) -> Ranking:
    """AUROC of the scores of a group, higher than those of the reference if it is above 0.5.

    Args:
        group: scores, (subjects,); NaN are left out.
        reference: those of the reference.
        drawn: how often each subject is drawn, (resamples, subjects), of both.
    """
    scores, truth = np.concatenate([group, reference]), np.repeat([True, False], [len(group), len(reference)])
    known = ~np.isnan(scores)
    value = detection.auroc(scores[known], truth[known])
    if np.isnan(value):
        return Ranking(np.nan, np.nan, np.nan)
    levels, place = np.unique(-scores[known], return_inverse=True)
    weights = np.concatenate(drawn, axis=1)[:, known]
    sides = []
    for side in (truth[known], ~truth[known]):
        counts = np.zeros((len(weights), len(levels)))
        np.add.at(counts.T, place[side], weights[:, side].T)
        sides.append(counts)
    replicates = detection.areas(*sides, np.ones(len(levels), bool))[0]
    fewest = min(int(truth[known].sum()), int((~truth[known]).sum()))
    return Ranking(value, *interval(value, replicates, fewest))
