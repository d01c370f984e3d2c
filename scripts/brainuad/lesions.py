"""Lesions as wholes: which are found, and how many regions that are none are marked beside them (FROC).

A lesion is a connected region of abnormal pixels, neighbours by face, edge or corner. It is found by a threshold above
which at least a tenth of its pixels score. A false alarm is a connected region of pixels above the threshold that
touches no lesion.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import generate_binary_structure, label

__all__ = ["FOUND_SHARE", "SIZES", "LesionCounts", "count_lesions", "froc", "label_lesions", "sensitivity_at"]

FOUND_SHARE = 0.1
SIZES = {"small": (0, 10), "medium": (10, 20), "large": (20, np.inf)}  # equivalent diameter in mm
FALSE_ALARMS = (0.25, 0.5, 1.0, 2.0, 4.0)  # per image, at which the FROC curve is read
LEVELS = 40  # thresholds at which false alarms are counted


@dataclass(frozen=True)
class LesionCounts:
    """What each subject's images show at each threshold.

    Attributes:
        found: lesions found, by size (``all`` and those of ``SIZES``), each (subjects, thresholds).
        lesions: how many there are, by size, each (subjects,).
        alarms: false alarms, (subjects, thresholds).
        images: images of each subject, (subjects,).
    """

    found: dict[str, np.ndarray]
    lesions: dict[str, np.ndarray]
    alarms: np.ndarray
    images: np.ndarray


def label_lesions(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions of a mask from 1; 0 elsewhere."""
    return label(mask, generate_binary_structure(mask.ndim, mask.ndim))[0]


def count_lesions(
    images: Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]],
    subjects: int,
    thresholds: np.ndarray,
    spacing: float,
) -> LesionCounts:
    """Hold each image against each threshold.

    Args:
        images: for each the number of its subject, the scores (*size), the numbered lesions and the region that counts.
        subjects: how many there are.
        thresholds: in falling order.
        spacing: pixel size in mm.
    """
    shape = (subjects, len(thresholds))
    found = {size: np.zeros(shape) for size in ("all", *SIZES)}
    lesions = {size: np.zeros(subjects) for size in found}
    alarms, number = np.zeros(shape), np.zeros(subjects)
    for subject, scores, numbered, region in images:
        number[subject] += 1
        for lesion in range(1, numbered.max() + 1):
            values = np.sort(scores[numbered == lesion])
            needed = values[-int(np.ceil(FOUND_SHARE * values.size))]  # a tenth of the pixels score this or more
            for size in ("all", size_of(values.size, scores.ndim, spacing)):
                lesions[size][subject] += 1
                found[size][subject] += needed > thresholds
        for place, threshold in enumerate(thresholds):
            marked = label_lesions((scores > threshold) & region)
            alarms[subject, place] += marked.max() - np.unique(marked[(numbered > 0) & (marked > 0)]).size
    return LesionCounts(found, lesions, alarms, number)


def size_of(pixels: int, dimensions: int, spacing: float) -> str:
    """Class of a lesion by the diameter of the circle or ball of its area or volume."""
    extent = pixels * spacing**dimensions
    diameter = 2 * (np.sqrt(extent / np.pi) if dimensions == 2 else (3 * extent / (4 * np.pi)) ** (1 / 3))
    return next(size for size, (low, high) in SIZES.items() if low <= diameter < high)


def sensitivity_at(found: np.ndarray, lesions: np.ndarray, alarms: np.ndarray, allowed: float) -> np.ndarray:
    """The largest share of lesions found by a threshold with no more false alarms per image than allowed.

    Args:
        found: lesions found, (..., thresholds).
        lesions: their number, (...).
        alarms: false alarms per image, (..., thresholds).
        allowed: false alarms per image.

    Returns:
        (...), 0 where every threshold has more, NaN without lesions.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        share = found / lesions[..., None]
    return np.where(lesions > 0, np.where(alarms <= allowed, share, 0).max(axis=-1), np.nan)


def froc(found: np.ndarray, lesions: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Mean sensitivity at ¼, ½, 1, 2 and 4 false alarms per image; arguments as for :func:`sensitivity_at`."""
    return np.mean([sensitivity_at(found, lesions, alarms, allowed) for allowed in FALSE_ALARMS], axis=0)


def levels(negatives: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """Thresholds of the FROC curve: above them no normal pixel, then one in 100,000, and so on to one in 10.

    Args:
        negatives: normal pixels of all subjects in bins of falling scores, (bins,).
        lower: smallest score of each bin.
    """
    rate = np.cumsum(negatives) / max(negatives.sum(), 1)
    places = np.searchsorted(rate, np.geomspace(1e-5, 0.1, LEVELS)).clip(max=len(lower) - 1)
    free = np.flatnonzero(rate == 0)[-1:]  # the lowest threshold that no normal pixel exceeds
    # A bin is marked whole, with the smallest score it may hold.
    return np.nextafter(lower[np.unique(np.concatenate([free, places]))], np.float32(-np.inf))
