"""Lesions as wholes: which are found, and how many regions that are none are marked beside them (FROC).

A lesion is a connected region of abnormal pixels, neighbours by face, edge or corner. It is found by a threshold above
which at least a tenth of its pixels score. A false alarm is a connected region of pixels above the threshold that
touches no lesion.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import generate_binary_structure, label

__all__ = ["FOUND_SHARE", "SIZES", "LesionCounts", "count_lesions", "froc", "label_lesions", "sensitivity_at"]

FOUND_SHARE = 0.1
SIZES = {"small": (0, 10), "medium": (10, 20), "large": (20, np.inf)}  # equivalent diameter in mm
FALSE_ALARMS = (0.25, 0.5, 1.0, 2.0, 4.0)  # per image, at which the FROC curve is read
LEVELS = 200  # thresholds at which false alarms are counted, at the most
MARKED = 0.1  # largest share of normal pixels above a threshold


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
            values = scores[numbered == lesion]
            for size in ("all", size_of(values.size, scores.ndim, spacing)):
                lesions[size][subject] += 1
                found[size][subject] += found_below(values) > thresholds
        for place, threshold in enumerate(thresholds):
            marked = label_lesions((scores > threshold) & region)
            alarms[subject, place] += marked.max() - np.unique(marked[(numbered > 0) & (marked > 0)]).size
    return LesionCounts(found, lesions, alarms, number)


def found_below(values: np.ndarray) -> float:
    """The score of a lesion's pixels below which a threshold finds it: a tenth of them score it or more."""
    return np.sort(values)[-int(np.ceil(FOUND_SHARE * values.size))]


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
    return np.where(lesions > 0, np.where(alarms <= allowed, share, 0).max(axis=-1, initial=0), np.nan)


def froc(found: np.ndarray, lesions: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """Mean sensitivity at ¼, ½, 1, 2 and 4 false alarms per image; arguments as for :func:`sensitivity_at`."""
    return np.mean([sensitivity_at(found, lesions, alarms, allowed) for allowed in FALSE_ALARMS], axis=0)


def levels(images: Callable[[], Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]]) -> np.ndarray:
    """Thresholds of the FROC curve, falling: just below each score at which one more lesion is found.

    Those that more than a tenth of the normal pixels exceed are left out: a map that marks everything finds everything,
    in one region that is no false alarm. Of more than ``LEVELS`` that many are kept, evenly over their ranks.

    Args:
        images: begins a pass over the images, see :func:`count_lesions`.
    """
    scores = [
        found_below(scores[numbered == lesion])
        for _, scores, numbered, _ in images()
        for lesion in range(1, numbered.max() + 1)
    ]
    thresholds = np.nextafter(np.unique(np.float32(scores))[::-1], np.float32(-np.inf))
    if len(thresholds) > LEVELS:
        thresholds = thresholds[np.linspace(0, len(thresholds) - 1, LEVELS).round().astype(int)]
    above, normal = np.zeros(len(thresholds)), 0
    for _, scores, numbered, region in images():
        values = np.sort(scores[region & (numbered == 0)])
        above += values.size - np.searchsorted(values, thresholds, "right")
        normal += values.size
    return thresholds[above <= MARKED * normal]
