"""Thresholds that let a set share of healthy pixels pass, from validation subjects that no test image belongs to.

A pixel is called abnormal where its score is above the threshold. Taken from the test images themselves a threshold is
optimistic: how much so is the metric ``optimism``.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from brainuad.cohort import Cohort
from brainuad.counts import KEY_BITS, REST_BITS, keys_of, scores_of
from brainuad.sample_set import SampleSet

__all__ = ["COLUMNS", "NOBODY", "RATES", "Threshold", "read_thresholds", "thresholds", "thresholds_at"]

RATES = (0.01, 0.05)  # shares of healthy pixels called abnormal
NOBODY = "no healthy validation subjects: give a training dataset a `split.validation`, and controls with `groups`"
BROKEN = "the map of a validation subject holds NaN or infinity: score the model again"
COLUMNS = ("region", "rate", "threshold", "n", "reason")


class Threshold(NamedTuple):
    """A score above which a pixel is called abnormal, or NaN and why there is none."""

    value: float
    missing: str = ""


def thresholds(
    scores: Sequence[Path], samples: Sequence[Path], table: Path, references: Sequence[str | None] | None = None
) -> None:
    """Write the thresholds of one model and seed.

    Subjects with a lesion are not healthy and are left out whole, and so are, of a dataset whose groups are compared,
    all but the reference group: the same as of a calibration.

    Args:
        scores: its score folders of the training datasets.
        samples: folders of their sample sets, in the same order.
        table: TSV to write, columns ``COLUMNS``: for each region (``frame``, ``brain``) and false-positive rate the
            threshold and the number ``n`` of healthy validation pixels it comes from. Where there are none the
            threshold is empty and ``reason`` says why.
        references: of each training dataset the group that is healthy, or None where all are.
    """
    cohorts = [
        Cohort(Path(score), SampleSet(folder), "validation") for score, folder in zip(scores, samples, strict=True)
    ]
    chosen = [
        (cohort, cohort.healthy(reference))
        for cohort, reference in zip(cohorts, references or [None] * len(cohorts), strict=True)
    ]
    rows = []
    for region in ("frame", "brain"):
        known, number, reason = thresholds_at(partial(healthy_pixels, chosen, region), RATES)
        rows += [
            {"region": region, "rate": rate, "threshold": threshold, "n": number, "reason": reason}
            for rate, threshold in zip(RATES, known, strict=True)
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    print(frame.to_string(index=False))


def healthy_pixels(chosen: Sequence[tuple[Cohort, np.ndarray]], region: str) -> Iterator[np.ndarray]:
    """Scores of the pixels of a region of each image that is chosen of a cohort."""
    for cohort, healthy in chosen:
        maps = cohort.array("map")
        for place, row in zip(cohort.places[healthy], cohort.rows[healthy], strict=True):
            yield maps[place][cohort.samples.brain[row]] if region == "brain" else maps[place].ravel()


def thresholds_at(pixels: Callable[[], Iterator[np.ndarray]], rates: Sequence[float]) -> tuple[list[float], int, str]:
    """Of each rate the smallest of the scores above which no more than that share of them lies.

    Scores are float32, whose 32 bits order them: a first pass over the images counts the upper bits, a second the lower
    ones of those scores that share the upper bits of a threshold. Memory is that of one image, however many there are.

    Args:
        pixels: begins a pass over the images, of each of which it gives the scores.
        rates: 0 to 1, of which 1 is not one.

    Returns:
        The thresholds, NaN if there are no scores or some are not finite; the number of scores; why they are NaN.
    """
    counts, number = np.zeros(1 << KEY_BITS, np.int64), 0
    for scores in pixels():
        number += scores.size
        counts += np.bincount(keys_of(scores[np.isfinite(scores)])[0], minlength=counts.size)
    below = np.cumsum(counts)
    if number == 0 or below[-1] < number:
        return [np.nan] * len(rates), number, BROKEN if number else NOBODY
    # The rank of the score in rising order, from 1; rounding must not lift a whole number.
    ranks = [max(math.ceil((1 - rate) * number - 1e-6), 1) for rate in rates]
    keys = np.searchsorted(below, ranks)
    rests = np.zeros((len(keys), 1 << REST_BITS), np.int64)
    for scores in pixels():
        known, rest = keys_of(scores)
        for line, key in zip(rests, keys, strict=True):
            line += np.bincount(rest[known == key], minlength=line.size)
    inside = [
        np.searchsorted(below[key] - counts[key] + np.cumsum(line), rank)
        for key, line, rank in zip(keys, rests, ranks, strict=True)
    ]
    return [float(value) for value in scores_of(keys, np.array(inside))], number, ""


def read_thresholds(table: Path) -> dict[tuple[str, float], Threshold]:
    """The thresholds of a table by region and rate."""
    frame = pd.read_csv(table, sep="\t", dtype={"reason": str}).fillna({"reason": ""})
    return {
        (row.region, row.rate): Threshold(row.threshold, row.reason and f"no threshold: {row.reason}")
        for row in frame.itertuples()
    }
