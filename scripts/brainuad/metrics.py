"""Anomaly maps and masks → numbers in long format, on test samples only, each with its interval.

Every number names its region and its pooling, since both decide it: background that no model can get wrong
raises SSIM and AUROC, and average precision moves with the share of abnormal pixels (the prevalence, written
beside it). A region is one mask for both what is scored and what is true.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainuad import measures
from brainuad.catalogue import CATALOGUE, column
from brainuad.cohort import Cohort, Number, number_of, with_all
from brainuad.resampling import draws, interval, no_interval
from brainuad.sample_set import SampleSet
from brainuad.thresholds import Threshold, read_thresholds

__all__ = ["COLUMNS", "metrics"]

KEYS = ("dataset", "model", "seed", "metric", "region", "pooling", "map")
COLUMNS = (*KEYS, "value", "low", "high", "n", "subjects", "prevalence", "reason")
SUBJECT_COLUMNS = ("subject", "group", "age", "sex", "site")


def metrics(
    score: Path,
    samples: Path,
    thresholds: Path,
    table: Path,
    subjects: Path,
    curves: Path,
    replicates: Path,
    dataset: str,
    model: str,
    seed: int,
    settings: dict,
    healthy: Sequence[Path] = (),
    maps: Sequence[str] = ("map",),
) -> None:
    """Evaluate the scores of one model and seed on one dataset.

    Args:
        score: its score folder.
        samples: folder of the sample set that was scored.
        thresholds: the model's table of thresholds.
        table: TSV to write, with the columns of ``COLUMNS``: ``n`` counts what ``pooling`` names, ``subjects`` those
            that decide it, ``prevalence`` is the share of abnormal pixels in the region, ``low`` and ``high`` bound the
            interval; what is undefined is empty (NaN) and has a ``reason``, as has a missing interval.
        subjects: TSV to write: a row a subject, its group, age, sex and site, whether it has a ``lesion`` (be it where
            no sample is cut), and its own value of each number that has one, in columns ``metric/region/pooling``.
        curves: TSV to write: points of the ROC and precision-recall curves.
        replicates: NPZ to write: ``replicates`` (numbers, resamples), the values of each row over the draws.
        dataset: name for the rows, and for the draws.
        model: name for the rows.
        seed: for the rows.
        settings: ``resamples`` and ``spacing`` (pixel size in mm).
        healthy: of a synthetic dataset, score folder and sample set of the images its anomalies were put into.
        maps: arrays of the score folder that are held against the masks, such as ``residual`` besides ``map``, whose
            thresholds are no other's.

    Raises:
        ValueError: the scores hold no test samples.
    """
    cohort = Cohort(Path(score), SampleSet(samples))
    if len(cohort.places) == 0:
        raise ValueError(
            f"{Path(score) / 'table.tsv'} has no test samples: give dataset {dataset} a `split.test` above 0."
        )
    originals = Cohort(Path(healthy[0]), SampleSet(healthy[1])) if healthy else None
    weights = draws(dataset, len(cohort.subjects), settings["resamples"])
    known = read_thresholds(thresholds)
    numbers = measures.similarity_numbers(cohort, weights, originals.samples if originals else None)
    points = measures.curves({})
    for name in maps:
        other = Threshold(np.nan, f"no threshold: those of rule thresholds are of the anomaly map, not of {name}")
        own = known if name == "map" else dict.fromkeys(known, other)
        numbers += measures.false_positive_numbers(cohort, weights, own, name)
        if cohort.lesioned.any():
            counted = measures.count_regions(cohort, name)
            numbers += measures.detection_numbers(cohort, counted, weights, own, name)
            numbers += measures.lesion_numbers(cohort, counted["brain"], weights, settings["spacing"], name)
            numbers += measures.image_numbers(cohort, originals, weights, name)
            points = measures.curves(counted) if name == "map" else points
    numbers += lesion_outside_brain(cohort, weights)
    for path in (table, subjects, curves, replicates):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    keys = {"dataset": dataset, "model": model, "seed": seed}
    frame = long_table(numbers, keys)
    frame.to_csv(table, sep="\t", index=False)
    subject_table(cohort, numbers).to_csv(subjects, sep="\t", index=False)
    points.to_csv(curves, sep="\t", index=False)
    np.savez_compressed(replicates, replicates=stacked(numbers, settings["resamples"]))
    print(frame[["metric", "region", "pooling", "value", "low", "high", "n", "reason"]].to_string(index=False))


def long_table(numbers: list[Number], keys: dict) -> pd.DataFrame:
    """One row a number, with the bounds of its interval."""
    rows = []
    for number in numbers:
        drawn = np.empty(0) if number.replicates is None else number.replicates
        evidence = drawn, number.deciding, number.n if CATALOGUE[number.metric].share else 0
        low, high = interval(number.value, *evidence)
        reason = number.reason or no_interval(*evidence)
        names = ("metric", "region", "pooling", "map", "value", "n", "prevalence")
        bounds = {"low": low, "high": high, "subjects": number.deciding, "reason": reason}
        rows.append({**keys, **{name: getattr(number, name) for name in names}, **bounds})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def stacked(numbers: list[Number], resamples: int) -> np.ndarray:
    """The values of each number over the draws, float32 (numbers, resamples)."""
    nothing = np.full(resamples, np.nan)
    rows = [nothing if number.replicates is None else number.replicates for number in numbers]
    return np.array(rows, dtype=np.float32)


def subject_table(cohort: Cohort, numbers: list[Number]) -> pd.DataFrame:
    """One row a subject, as its first image has it."""
    first = [cohort.names.index(subject) for subject in cohort.subjects]
    labels = cohort.table.iloc[first].reset_index(drop=True).assign(subject=cohort.subjects)
    columns = {
        column(number.metric, number.region, number.pooling): number.subjects
        for number in numbers
        if number.subjects is not None and number.map in ("map", "reconstruction")
    }
    lesion = np.zeros(len(cohort.subjects), bool)
    np.logical_or.at(lesion, cohort.owner, cohort.diseased)
    labels = labels.reindex(columns=list(SUBJECT_COLUMNS)).assign(lesion=lesion)
    return pd.concat([labels, pd.DataFrame(columns)], axis=1)


def lesion_outside_brain(cohort: Cohort, weights: np.ndarray) -> list[Number]:
    """The share of abnormal pixels that the region ``brain`` leaves out; nothing for a dataset without any."""
    total, outside = (
        np.bincount(cohort.owner, weights=part, minlength=len(cohort.subjects))
        for part in zip(*((lesion.sum(), (lesion & ~brain).sum()) for brain, lesion in cohort.masks()), strict=True)
    )
    if not total.any():
        return []
    everyone = with_all(weights)
    with np.errstate(invalid="ignore"):
        shares = (everyone @ outside) / (everyone @ total)
    keys = {"metric": "lesion_outside_brain", "region": "frame", "pooling": "pixels", "map": ""}
    return [number_of(shares, n=int(total.sum()), deciding=np.count_nonzero(total), **keys)]
