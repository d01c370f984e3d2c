"""Pixels counted by subject and score, for any number of pixels: what pooled numbers and their draws are made from.

The counts hold, for each subject, how many abnormal and how many normal pixels fall into each bin of scores; their size
does not depend on the number of pixels, and a resample of subjects is a weighted sum of their rows. Bins are made for
the data at hand (see :func:`make_bins`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

__all__ = [
    "KEY_BITS",
    "REST_BITS",
    "Counts",
    "Pixels",
    "count",
    "count_exactly",
    "count_together",
    "keys_of",
    "pooled",
    "scores_of",
]

KEY_BITS = 20  # of the 32 of a float: sign, exponent and 11 of the mantissa, a relative width of 1 in 2048
REST_BITS = 32 - KEY_BITS  # tell scores of one key apart
PART_BITS = REST_BITS // 2  # told apart in one step
PARTS = (1 << PART_BITS) - 1
SIGN, INFINITY = np.uint32(1 << 31), np.uint32(0x7F800000)  # of the bits of a float
ZERO_KEY = 1 << (KEY_BITS - 1)  # of zero, and of numbers below 6e-42, which count as zero
MANY = 2  # of what a bin holds on average, for a key to be told apart; those of smooth scores hold less
BINS = 8192  # aimed at: the error of areas falls, memory and time grow with it

BROKEN = "Scores hold NaN: no threshold can rank them, so score the model again."

Pixels = Iterator[tuple[int, np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Counts:
    """Pixels by subject and score, bins in falling order of scores.

    Attributes:
        positives: abnormal pixels, (subjects, bins).
        negatives: normal pixels, (subjects, bins).
        coverage: sum over a subject's lesions (connected regions of abnormal pixels) of the share of the lesion in
            each bin, (subjects, bins).
        lesions: number of lesions, (subjects,).
        tied: bins whose pixels are to be taken for equal, (bins,).
        lower: smallest score of each bin, to the width of a key, (bins,).
    """

    positives: np.ndarray
    negatives: np.ndarray
    coverage: np.ndarray
    lesions: np.ndarray
    tied: np.ndarray
    lower: np.ndarray


def count(pixels: Callable[[], Pixels], subjects: int, bins: int = BINS) -> Counts:
    """Count pixels in two to four passes, of which each holds one image at a time.

    Args:
        pixels: begins a pass over the images; of each it gives the number of its subject, the scores of its pixels
            and, in an array of the same shape, the number of the lesion that each belongs to (0: none).
        subjects: how many there are.
        bins: about how many bins to make.

    Raises:
        ValueError: scores hold NaN.
    """
    index_of = Index(pixels, bins)
    bin_of, tied, lower = make_bins(index_of, bins)
    shape = (subjects, len(tied))
    classes, coverage, lesions = np.zeros((*shape, 2)), np.zeros(shape), np.zeros(subjects)
    for subject, scores, lesion in pixels():
        places, inside = bin_of[index_of(scores)], lesion > 0
        classes[subject] += np.bincount(2 * places + inside, minlength=2 * shape[1]).reshape(-1, 2)
        if inside.any():
            numbers = lesion[inside]
            sizes = np.bincount(numbers)
            coverage[subject] += np.bincount(places[inside], weights=1 / sizes[numbers], minlength=shape[1])
            lesions[subject] += np.count_nonzero(sizes[1:])
    negatives, positives = np.ascontiguousarray(np.moveaxis(classes, 2, 0))
    return Counts(positives, negatives, coverage, lesions, tied, lower)


def count_together(pixels: Callable[[], Pixels]) -> Counts:
    """Count the pixels of all subjects together, in one pass where no key has to be told apart.

    Bins are as fine as keys, a relative width of 1 in 2048, so that areas differ from exact ones by 1e-6 or so.

    Args:
        pixels: see :func:`count`.

    Returns:
        Counts of one subject, without its lesions.

    Raises:
        ValueError: scores hold NaN.
    """
    index_of = Index(pixels)
    used = np.flatnonzero(index_of.positives + index_of.negatives)[::-1]
    positives, negatives = (part[None, used].astype(float) for part in (index_of.positives, index_of.negatives))
    unknown = np.zeros_like(positives), np.zeros(1)
    return Counts(positives, negatives, *unknown, index_of.equal[used], index_of.smallest(used))


def count_exactly(pixels: Callable[[], Pixels]) -> Counts:
    """Count the pixels of all subjects together, in bins that lose nothing.

    Rates and overlaps change at the scores of abnormal pixels alone: each of those has a bin, and what lies between two
    of them another. The abnormal ones are few, and are searched for among the normal ones, which are sorted once: both
    are held at once.

    Args:
        pixels: see :func:`count`.

    Returns:
        Counts of one subject.

    Raises:
        ValueError: scores hold NaN.
    """
    abnormal, shares, normal, lesions = [], [], [], 0
    for _, scores, lesion in pixels():
        inside = np.flatnonzero(lesion > 0)
        sizes = np.bincount(lesion[inside])
        abnormal.append(scores[inside])
        shares.append(1 / sizes[lesion[inside]])
        normal.append(scores[lesion == 0])
        lesions += np.count_nonzero(sizes)
    levels, places = np.unique(joined(abnormal), return_inverse=True)
    rest = joined(normal)
    rest.sort()
    if any(values.size and np.isnan(values[-1]) for values in (levels, rest)):
        raise ValueError(BROKEN)
    # Even places are gaps, odd ones levels.
    ends = np.column_stack([np.searchsorted(rest, levels, side) for side in ("left", "right")]).ravel()
    negatives = np.diff(ends, prepend=0, append=rest.size).astype(float)
    positives, coverage = np.zeros((2, len(negatives)))
    positives[1::2] = np.bincount(places, minlength=len(levels))
    coverage[1::2] = np.bincount(places, weights=joined(shares), minlength=len(levels))
    lower = np.full(len(positives), -np.inf, np.float32)
    lower[1::2] = levels
    lower[2::2] = np.nextafter(levels, np.float32(np.inf))
    falling = [array[None, ::-1] for array in (positives, negatives, coverage)]
    return Counts(*falling, np.array([float(lesions)]), np.ones(len(lower), bool), lower[::-1])


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """All in one, of float32 where there is none."""
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


class Index:
    """Numbers scores in rising order: by their keys, and more finely where a key holds many pixels of unequal scores.

    Such a key is that of an overwritten region in a map that follows the image: one score many times among others. In
    two steps, each of ``PART_BITS``, it is told apart to the single score, as far as its parts have many pixels still.

    Attributes:
        positives: abnormal pixels of each number, (numbers,).
        negatives: normal pixels of each number, (numbers,).
        equal: whether all scores of a number are known to be the same, (numbers,).
    """

    def __init__(self, pixels: Callable[[], Pixels], bins: int = BINS):
        """Find the keys to tell apart, in one pass over the images for each step.

        Args:
            pixels: see :func:`count`.
            bins: a number with more than ``MANY`` of this part of a class's pixels has many.
        """
        self.steps: list[tuple[np.ndarray, np.ndarray, int]] = []
        self.positives, self.negatives = self.tally(pixels, 1 << KEY_BITS)
        self.equal = np.zeros(1 << KEY_BITS, bool)
        self.equal[ZERO_KEY] = True  # in a pass of its own it would always be told apart, for what it hardly ever holds
        for shift in range(REST_BITS - PART_BITS, -1, -PART_BITS):
            shares = (part / max(part.sum(), 1) for part in (self.positives, self.negatives))
            split = (np.maximum(*shares) > MANY / bins) & ~self.equal
            if not split.any():
                break
            spans = np.where(split, 1 << PART_BITS, 1)
            self.steps.append((np.cumsum(spans) - spans, split, shift))
            self.positives, self.negatives = self.tally(pixels, int(spans.sum()))
            self.equal = np.repeat(self.equal | (split & (shift == 0)), spans)

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """The number of each score."""
        ordered = ordered_bits(scores)
        numbers = (ordered >> np.uint32(REST_BITS)).astype(np.intp)
        for first, split, shift in self.steps:
            parts = ordered >> np.uint32(shift) & np.uint32(PARTS)
            numbers = first[numbers] + np.where(split[numbers], parts, 0)
        return numbers

    def tally(self, pixels: Callable[[], Pixels], size: int) -> tuple[np.ndarray, np.ndarray]:
        """Abnormal and normal pixels of each number, two arrays (size,)."""
        counts = np.zeros(2 * size, np.int64)
        for _, scores, lesion in pixels():
            places = self(scores)
            places <<= 1
            places |= lesion > 0
            np.add.at(counts, places, 1)
        return counts[1::2], counts[::2]

    def smallest(self, numbers: np.ndarray) -> np.ndarray:
        """The smallest score that may have each number."""
        rest = np.zeros(numbers.size, np.int64)
        for first, _, shift in reversed(self.steps):
            keys = np.searchsorted(first, numbers, side="right") - 1
            rest |= (numbers - first[keys]) << shift
            numbers = keys
        return scores_of(numbers, rest)


def ordered_bits(scores: np.ndarray) -> np.ndarray:
    """Whole numbers (uint32) that order scores, taken as float32, as the scores do; zeros of either sign are one."""
    scores = np.asarray(scores, dtype=np.float32)
    bits = scores.view(np.uint32)
    if bits.max(initial=0) <= INFINITY:  # as all maps: nothing negative, and no NaN
        return bits | SIGN
    if np.isnan(scores).any():
        raise ValueError(BROKEN)
    bits = (scores + np.float32(0)).view(np.uint32)  # -0.0 becomes 0.0
    return np.where(bits & SIGN, ~bits, bits | SIGN)


def keys_of(scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers that order scores as the scores do, and what tells scores of one key apart, from 0 to 4095."""
    ordered = ordered_bits(scores)
    return (ordered >> np.uint32(REST_BITS)).astype(np.intp), ordered & np.uint32((1 << REST_BITS) - 1)


def scores_of(keys: np.ndarray, rest: np.ndarray | int = 0) -> np.ndarray:
    """The score of each key and rest, by default the smallest that has the key."""
    ordered = (np.asarray(keys).astype(np.uint32) << np.uint32(REST_BITS)) | np.asarray(rest).astype(np.uint32)
    return np.where(ordered >> 31, ordered & np.uint32(0x7FFFFFFF), ~ordered).view(np.float32)


def make_bins(index_of: Index, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join numbers into bins within which abnormal and normal pixels may be taken for evenly mixed.

    Rates change with the shares of abnormal and normal pixels that score higher, precision with the logarithm of the
    latter's number, so a bin ends where one of the three has grown by a set step. A number with more pixels than a bin
    should hold, such as that of the exact zeros around a brain, stands alone.

    Args:
        index_of: the numbers, with their pixels.
        bins: about how many bins to make; few numbers are not joined.

    Returns:
        The bin of each number (falling scores), whether all pixels of a bin have the same score, and the smallest score
        of each.
    """
    positives, negatives = index_of.positives, index_of.negatives
    used = np.flatnonzero(positives + negatives)[::-1]
    begins = np.ones(used.size, bool)
    if used.size > bins:
        true, false = np.cumsum(positives[used]), np.cumsum(negatives[used])
        progress = [part / part[-1] for part in (true, false, np.log1p(false)) if part[-1] > 0]
        measure = np.sum(progress, axis=0) / len(progress)
        steps = np.diff(measure, prepend=0)
        begins = np.diff(np.floor((measure - steps) * bins), prepend=-1) > 0
        heavy = steps > 1 / bins
        begins |= heavy | np.append(False, heavy[:-1])
    number = np.cumsum(begins) - 1
    bin_of = np.zeros(positives.size, np.int32)
    bin_of[used] = number
    ends = np.append(begins[1:], True)[: used.size]
    last = used[ends]
    return bin_of, (np.bincount(number) == 1) & index_of.equal[last], index_of.smallest(last)


def pooled(counts: Counts, weights: np.ndarray, block: int = 64) -> Iterator[tuple[np.ndarray, ...]]:
    """Positives, negatives, coverage and lesions of resamples, a block of them at a time.

    Args:
        counts: of the subjects.
        weights: how often each subject is drawn, (resamples, subjects).
        block: resamples held at once.
    """
    for start in range(0, len(weights), block):
        chosen = np.asarray(weights[start : start + block], dtype=np.float64)
        yield chosen @ counts.positives, chosen @ counts.negatives, chosen @ counts.coverage, chosen @ counts.lesions
