"""How sure a number is: its values over subjects drawn anew.

The subject is the unit: pixels and images of one brain are not independent. All models of a dataset meet the same
draws, so that the difference of two has an interval too.
"""

import hashlib

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

__all__ = ["draws", "interval", "no_interval"]

CONFIDENCE = 0.95
FEWEST_DEFINED = 0.9  # of the draws; a draw may hold no lesion at all

SAME = 1e-12


def draws(name: str, subjects: int, resamples: int) -> np.ndarray:
    """How often each subject is drawn in each resample: as many draws as subjects, with replacement.

    Args:
        name: of the dataset; the same draws for the same name, however many models there are.
        subjects: how many there are.
        resamples: how many to draw.

    Returns:
        (resamples, subjects), whole numbers whose rows sum to ``subjects``.
    """
    seed = int.from_bytes(hashlib.sha256(f"bootstrap:{name}".encode()).digest()[:8], "big")
    return np.random.default_rng(seed).multinomial(subjects, np.full(subjects, 1 / subjects), size=resamples)


def interval(value: float, replicates: np.ndarray, subjects: int, counted: int = 0) -> tuple[float, float]:
    """Bounds of the 95 % interval of one number: the bias-corrected percentiles of its resamples (Efron, 1981).

    Half of the resamples lie below a number without bias; the percentiles are shifted by what this one departs from it.
    They are taken further out for few subjects, as Student's quantiles are (the expanded percentile interval of
    Hesterberg, 2015): plain percentiles are too narrow then. A number lies within its own interval, also where nearly
    all resamples are on one side of it.

    Of a share of things counted see :func:`share_interval`: where few are found, or all, percentiles hold too rarely.

    Args:
        value: the number.
        replicates: its values over the draws.
        subjects: how many decide it: of a mean those that have a value, of what is found those with a lesion.
        counted: of a share of things counted, such as the lesions that are found, how many there are; 0 of others.

    Returns:
        Both NaN if there is no number, or where :func:`no_interval` has a reason.
    """
    if np.isnan(value) or no_interval(replicates, subjects, counted):
        return np.nan, np.nan
    known = replicates[~np.isnan(replicates)]
    if counted:
        return share_interval(value, known, subjects, counted)
    below = (np.sum(known < value) + np.sum(known == value) / 2) / known.size
    bias = ndtri(np.clip(below, 0.5 / known.size, 1 - 0.5 / known.size))
    reach = np.sqrt(subjects / (subjects - 1)) * student(subjects)
    low, high = np.quantile(known, ndtr([2 * bias - reach, 2 * bias + reach]))
    return min(float(low), float(value)), max(float(high), float(value))


def share_interval(value: float, replicates: np.ndarray, subjects: int, counted: int) -> tuple[float, float]:
    """Wilson's score interval (1927) of a share of things of which a subject may have several.

    They count for as many as would spread a share as much as the draws of subjects spread this one (the effective
    sample size of Kish, 1965, used so by Korn and Graubard, 1998), though never for more than there are; where draws do
    not spread at all, as where nothing is found, for one a subject. The quantile is Student's, for few subjects.

    Args:
        value: the share, 0 to 1.
        replicates: its values over the draws, none NaN.
        subjects: how many have such things.
        counted: how many things there are.
    """
    spread = np.var(replicates) * subjects / (subjects - 1)
    mean = np.mean(replicates)  # near the share, and no end of the scale where the draws spread
    number = min(mean * (1 - mean) / spread if spread > SAME**2 else subjects, counted)
    squared = student(subjects) ** 2 / number
    middle = (value + squared / 2) / (1 + squared)
    half = np.sqrt(squared * value * (1 - value) + squared**2 / 4) / (1 + squared)
    return min(max(float(middle - half), 0.0), float(value)), max(min(float(middle + half), 1.0), float(value))


def student(subjects: int) -> float:
    """The quantile of Student's distribution that bounds an interval."""
    return float(stdtrit(subjects - 1, (1 + CONFIDENCE) / 2))


def no_interval(replicates: np.ndarray, subjects: int, counted: int = 0) -> str:
    """Why a number has no interval; empty if it has one. Arguments as for :func:`interval`."""
    known = replicates[~np.isnan(replicates)]
    if subjects < 2 and known.size:
        return "no interval: one subject alone decides it"
    if known.size == 0 or known.size < FEWEST_DEFINED * replicates.size:
        return "no interval: undefined in more than one in ten draws of the subjects"
    if np.ptp(known) < SAME and not counted:  # as at the ends of a scale, where it would claim to be certain
        return "no interval: the same in all draws of the subjects"
    return ""
