"""How sure a number is: the subjects drawn anew, and the labels of two models exchanged.

The subject is the unit: pixels and images of one brain are not independent. All models of a dataset meet the same
draws, so that the difference of two has an interval too.
"""

import hashlib

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

__all__ = ["draws", "holm", "interval", "mean_ranks", "sign_flip"]

CONFIDENCE = 0.95
FEWEST_DEFINED = 0.9  # of the draws; a draw may hold no lesion at all


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


def interval(value: float, replicates: np.ndarray, subjects: int) -> tuple[float, float]:
    """Bounds of the 95 % interval of one number: the bias-corrected percentiles of its resamples (Efron, 1981).

    Half of the resamples lie below a number without bias; the percentiles are shifted by what this one departs from it.
    They are taken further out for few subjects, as Student's quantiles are (the expanded percentile interval of
    Hesterberg, 2015): plain percentiles are too narrow then.

    Args:
        value: the number.
        replicates: its values over the draws.
        subjects: how many were drawn from.

    Returns:
        Both NaN if the number is undefined, if fewer than nine tenths of the resamples are defined, or if there is one
        subject only.
    """
    known = replicates[~np.isnan(replicates)]
    if subjects < 2 or np.isnan(value) or known.size == 0 or known.size < FEWEST_DEFINED * replicates.size:
        return np.nan, np.nan
    below = (np.sum(known < value) + np.sum(known == value) / 2) / known.size
    bias = ndtri(np.clip(below, 0.5 / known.size, 1 - 0.5 / known.size))
    reach = np.sqrt(subjects / (subjects - 1)) * stdtrit(subjects - 1, (1 + CONFIDENCE) / 2)
    low, high = np.quantile(known, ndtr([2 * bias - reach, 2 * bias + reach]))
    return float(low), float(high)


def sign_flip(differences: np.ndarray, flips: int = 9999, seed: int = 0) -> np.ndarray:
    """Paired permutation test of each column: between two like models each subject's difference could be turned about.

    Args:
        differences: (subjects, pairs).
        flips: how many of the possible exchanges to draw; all of them are made where there are no more.
        seed: of the draws.

    Returns:
        Two-sided p-values of the mean difference (pairs,), never 0; NaN without subjects.
    """
    subjects = len(differences)
    if subjects == 0:
        return np.full(differences.shape[1], np.nan)
    observed = np.abs(differences.sum(axis=0))
    exact = subjects < 63 and 2**subjects <= flips + 1
    if exact:
        signs = 1 - 2 * ((np.arange(2**subjects)[:, None] >> np.arange(subjects)) & 1)
    else:
        signs = np.random.default_rng(seed).choice(np.array([-1, 1], np.int8), size=(flips, subjects))
    reached = np.abs(signs.astype(float) @ differences) >= observed * (1 - 1e-9)
    return reached.mean(axis=0) if exact else (reached.sum(axis=0) + 1) / (flips + 1)


def holm(p: np.ndarray) -> np.ndarray:
    """P-values after Holm's correction (1979) for as many tests as there are; NaN stays and is not counted."""
    adjusted, known = np.full(len(p), np.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * (known.size - np.arange(known.size))), 1)
    return adjusted


def mean_ranks(values: np.ndarray, weights: np.ndarray, higher_is_better: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean rank of each model over the subjects, 1 for the best; equal values share a rank.

    Args:
        values: (subjects, models).
        weights: draws of the subjects, (resamples, subjects).
        higher_is_better: the direction of the values.

    Returns:
        Mean ranks (models,) and those of each resample (resamples, models).
    """
    from scipy.stats import rankdata

    ranks = rankdata(-values if higher_is_better else values, axis=1)
    return ranks.mean(axis=0), weights @ ranks / weights.sum(axis=1, keepdims=True)
