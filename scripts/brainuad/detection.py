"""Scores and truth of pixels → areas under curves, Dice, rates: exactly, or from counts of any number of pixels.

The exact functions sort all scores. Those of counts take arrays whose last axis runs over bins of falling scores (see
``counts``), of one subject, of all, or of a draw of subjects. Their areas are exact where the abnormal pixels are fewer
than a third of the bins. Of more, those of all subjects differ from the exact ones by less than 1e-4, and those of a
draw by less than 5e-4, from 20,000 abnormal pixels on by less than 1e-4, too.
"""

from collections.abc import Iterable

import numpy as np

from brainuad.counts import BROKEN

__all__ = [
    "areas",
    "auroc",
    "average_precision",
    "best_dice",
    "best_mean_dice",
    "dice",
    "false_positive_rate_at",
    "per_region_overlap",
]


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Area under the ROC curve, exact with ties, equal to scikit-learn's ``roc_auc_score``.

    Args:
        scores: (n,), higher is more abnormal; any finite or infinite numbers.
        truth: (n,) bool.

    Returns:
        0 to 1, higher is better; NaN where either class is empty.

    Raises:
        ValueError: scores hold NaN.
    """
    return exact_areas(scores, truth)[0]


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Average precision, exact with ties, equal to scikit-learn's ``average_precision_score``.

    Not the trapezoidal area under the precision-recall curve, which interpolates and is optimistic.

    Args:
        scores: (n,), higher is more abnormal; any finite or infinite numbers.
        truth: (n,) bool.

    Returns:
        0 to 1, higher is better; NaN without positives.

    Raises:
        ValueError: scores hold NaN.
    """
    return exact_areas(scores, truth)[1]


def exact_areas(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """``auroc`` and ``average_precision`` of the same pixels, which are sorted once for both."""
    positives, negatives = by_class(scores, truth)
    if not positives.size:
        return np.nan, np.nan
    values, counts = np.unique(positives, return_counts=True)
    below, not_above = (np.searchsorted(negatives, values, side) for side in ("left", "right"))
    true, false = np.cumsum(counts[::-1]), negatives.size - below[::-1]
    precision = float(counts[::-1] @ (true / (true + false)) / positives.size)
    if not negatives.size:
        return np.nan, precision
    return float(counts @ (below + not_above) / (2 * positives.size * negatives.size)), precision


def by_class(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted scores of the positives and of the negatives.

    Both areas change only at scores of positives, which are few: each is a search in the sorted negatives,
    and no order of all pixels is needed.
    """
    classes = tuple(np.sort(scores[chosen]) for chosen in (truth, ~truth))
    if any(values.size and np.isnan(values[-1]) for values in classes):
        raise ValueError(BROKEN)
    return classes


def areas(positives: np.ndarray, negatives: np.ndarray, tied: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROC and average precision from counts in bins of falling scores.

    In tied bins the pixels share one score. In others abnormal and normal ones are taken for evenly mixed: the j-th of
    p abnormal pixels comes after j / (p + 1) of the bin's normal ones.

    Args:
        positives: abnormal pixels, (..., bins).
        negatives: normal pixels, (..., bins).
        tied: (bins,).

    Returns:
        Both of shape (...), NaN where a class is empty.
    """
    true, false = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    total_true, total_false = true[..., -1], false[..., -1]
    ranked = (positives * (total_false[..., None] - false + negatives / 2)).sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = positives * true / (true + false)
        if not tied.all():
            precision = np.where(tied, precision, mixed_precision(positives, negatives, true, false))
        both = np.where((total_true > 0) & (total_false > 0), ranked / (total_true * total_false), np.nan)
        return both, np.where(total_true > 0, np.nansum(precision, axis=-1) / total_true, np.nan)


def mixed_precision(positives: np.ndarray, negatives: np.ndarray, true: np.ndarray, false: np.ndarray) -> np.ndarray:
    """The sum over the abnormal pixels of bins of the precision at each, where both classes are evenly mixed.

    The sum over j = 1 ... p of (before + j) / (above + r j), r = 1 + n / (p + 1), is taken for the integral from 1/2 to
    p + 1/2.

    Args:
        positives: p, see :func:`areas`.
        negatives: n.
        true: abnormal pixels of a bin and of all before it.
        false: normal ones.
    """
    before, above = true - positives, true - positives + false - negatives
    ratio = 1 + negatives / (positives + 1)
    slope = (before - above / ratio) / ratio
    growth = np.log1p(ratio * positives / (above + ratio / 2))
    return positives / ratio + slope * growth


def dice(true: np.ndarray, false: np.ndarray, abnormal: np.ndarray) -> np.ndarray:
    """Dice overlap 2 TP / (TP + FP + abnormal pixels); NaN where nothing is abnormal.

    Args:
        true: abnormal pixels above the threshold.
        false: normal pixels above it.
        abnormal: all abnormal pixels.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(abnormal > 0, 2 * true / (true + false + abnormal), np.nan)


def best_dice(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """The largest Dice that any threshold between bins gives; arguments as for :func:`areas`."""
    true, false = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    return dice(true, false, true[..., -1:]).max(axis=-1)


def best_mean_dice(subjects: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray]:
    """The largest mean Dice over subjects that one threshold for all of them gives, exactly.

    Args:
        subjects: of each the scores (n,) of its pixels, without NaN, and their truth (n,) bool.

    Returns:
        The mean over the subjects with abnormal pixels, and each subject's Dice at that threshold, NaN for the others.
    """
    classes = [by_class(*parts) for parts in subjects]
    levels = np.unique(np.concatenate([positives for positives, _ in classes]))
    total = np.zeros(len(levels))
    for positives, negatives in classes:
        if positives.size:
            total += dice_at(levels, positives, negatives)
    if not len(levels):
        return np.nan, np.full(len(classes), np.nan)
    best = levels[total.argmax() : total.argmax() + 1]
    each = np.concatenate([dice_at(best, *parts) for parts in classes])
    return float(np.nanmean(each)), each


def dice_at(levels: np.ndarray, positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Dice where each of the levels is the smallest score called abnormal; scores of both classes are sorted."""
    true, false = (scores.size - np.searchsorted(scores, levels, "left") for scores in (positives, negatives))
    return dice(true, false, np.full(len(levels), positives.size))


def false_positive_rate_at(
    positives: np.ndarray, negatives: np.ndarray, tied: np.ndarray, true_positive_rate: float = 0.95
) -> np.ndarray:
    """Share of normal pixels called abnormal by the threshold that finds that share of the abnormal ones.

    Arguments as for :func:`areas`; NaN where a class is empty.
    """
    true, false = np.cumsum(positives, axis=-1), np.cumsum(negatives, axis=-1)
    wanted = true_positive_rate * true[..., -1:]
    place = (true < wanted * (1 - 1e-12)).sum(axis=-1, keepdims=True).clip(max=positives.shape[-1] - 1)
    inside, mixed, reached, passed = (
        np.take_along_axis(array, place, -1)[..., 0] for array in (positives, negatives, true, false)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        share = np.where(tied[place[..., 0]], 1.0, 1 - (reached - wanted[..., 0]) / inside)
        rate = (passed - mixed * (1 - share)) / false[..., -1]
        return np.where((true[..., -1] > 0) & (false[..., -1] > 0), rate, np.nan)


def per_region_overlap(
    coverage: np.ndarray, lesions: np.ndarray, negatives: np.ndarray, limit: float = 0.3
) -> np.ndarray:
    """AUPRO: mean over lesions of the share found, integrated over false-positive rates up to a limit, divided by it.

    Args:
        coverage: (..., bins), see :class:`brainuad.counts.Counts`.
        lesions: (...), their number.
        negatives: (..., bins).
        limit: largest false-positive rate.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        overlap = np.cumsum(coverage, axis=-1) / lesions[..., None]
        false = np.cumsum(negatives, axis=-1)
        rate = false / false[..., -1:]
    overlap, rate = (np.concatenate([np.zeros((*array.shape[:-1], 1)), array], axis=-1) for array in (overlap, rate))
    width = np.diff(rate, axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        used = np.clip((limit - rate[..., :-1]) / width, 0, 1)
    used = np.where(width > 0, used, 0.0)
    ends = overlap[..., :-1] + used * np.diff(overlap, axis=-1)
    area = (used * width * (overlap[..., :-1] + ends) / 2).sum(axis=-1)
    defined = (lesions > 0) & (false[..., -1] > 0)
    return np.where(defined, area / limit, np.nan)
