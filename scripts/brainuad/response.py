"""What a model finds in each cell of a grid of synthetic anomalies: kind × size × intensity.

All numbers are of the pixels inside the brain. Cells of one size and kind hold the same samples and masks, so that they
compare along the intensities; average precision moves with the prevalence, which changes with size and kind.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.cohort import mean_number, open_scores, unusable
from brainuad.counts import count, pooled
from brainuad.detection import areas, average_precision
from brainuad.lesions import FOUND_SHARE
from brainuad.resampling import draws, interval, no_interval
from brainuad.sample_set import SampleSet

__all__ = ["CELL", "COLUMNS", "measures", "response", "threshold_of"]

RATE = 0.05  # share of healthy validation pixels above the threshold
CELL = ("kind", "size", "intensity")
MEASURES = [f"{name}{end}" for name in ("average_precision", "detection") for end in ("", "_low", "_high")]
COLUMNS = ("dataset", "model", "seed", *CELL, "n", "prevalence", *MEASURES, "reason")
KEYS = {"region": "brain", "pooling": "images", "map": "map"}
BINS = 512  # for the draws; values are exact


def response(
    score: Path,
    samples: Path,
    thresholds: Path,
    table: Path,
    dataset: str,
    model: str,
    seed: int | str,
    resamples: int,
) -> None:
    """Measure one model and seed on one grid.

    Args:
        score: its score folder.
        samples: folder of the sample set with the grid.
        thresholds: the model's thresholds, columns ``region``, ``rate``, ``threshold`` and ``reason``.
        table: TSV to write, a row a cell: ``n`` samples, their ``prevalence`` of abnormal pixels, which is the average
            precision of a random score, and :func:`measures`; what is undefined is empty, and ``reason`` says why.
        dataset: name for the rows.
        model: name for the rows.
        seed: for the rows.
        resamples: draws of subjects for the intervals.

    Raises:
        ValueError: the scores are not those of a grid.
    """
    score, samples = Path(score), SampleSet(samples)
    scored = pd.read_csv(score / "table.tsv", sep="\t")
    if not set(CELL) <= set(scored):
        raise ValueError(f"{score / 'table.tsv'} has no cells of a grid: dataset {dataset} needs `anomalies.grid`.")
    maps = open_scores(score / "map.npy")
    threshold, missing = threshold_of(thresholds)
    unfit, rows = unusable(maps), []
    for cell, group in scored.groupby(list(CELL), sort=False):
        names = samples.table.iloc[group["sample"]]
        owner = names["subject"].where(names["subject"].ne(""), names["scan"]).to_numpy()
        lesion, brain = (array[group["sample"]] for array in (samples.lesion, samples.brain))
        weights = draws(dataset, len(set(owner)), resamples)
        scores = maps[group.index]
        broken = unfit or unusable([scores[brain]])
        found = {} if broken else measures(scores, lesion, brain, threshold, owner, weights)
        share = lesion[brain].mean() if brain.any() else np.nan
        reason = broken or (missing if np.isfinite(share) else "no brain in the samples of this cell")
        if share == 0:
            reason = "no anomaly of this cell has a pixel inside the brain"
        keys = {"dataset": dataset, "model": model, "seed": seed, **dict(zip(CELL, cell, strict=True))}
        rows.append({**keys, "n": len(group), "prevalence": share, **found})
        rows[-1]["reason"] = reason or found.get("reason", "")
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    print(frame.drop(columns=["dataset", "model", "seed"]).to_string(index=False))


def measures(
    scores: np.ndarray,
    lesion: np.ndarray,
    brain: np.ndarray,
    threshold: float,
    owner: np.ndarray,
    weights: np.ndarray,
) -> dict:
    """The numbers of one cell.

    Args:
        scores: anomaly maps (n, 1, *size).
        lesion: masks of the anomalies, as ``scores``.
        brain: masks of the brain, as ``scores``.
        threshold: above which a pixel is called abnormal; NaN leaves ``detection`` undefined.
        owner: name of the subject of each map, (n,).
        weights: draws of the subjects, (resamples, subjects).

    Returns:
        ``average_precision`` of the pixels of all samples together, and ``detection``: the share of the anomalies of
        whose pixels at least a tenth lies above the threshold. Both 0 to 1, higher is better; NaN where undefined. An
        anomaly without a pixel inside the brain does not count. ``…_low`` and ``…_high`` bound the intervals;
        ``reason`` says why one is missing.
    """
    names, place = np.unique(owner, return_inverse=True)
    inside, known = lesion & brain, np.isfinite(threshold)
    found = [
        (image[part] > threshold).mean() >= FOUND_SHARE if part.any() and known else np.nan
        for image, part in zip(scores, inside, strict=True)
    ]
    detection = mean_number(np.array(found, float), place, weights, metric="detection", **KEYS)
    numbers = {
        "average_precision": (
            average_precision(scores[brain], lesion[brain]),
            drawn_precision(scores, lesion, brain, place, weights),
            len(names),
        ),
        "detection": (detection.value, detection.replicates, detection.deciding, detection.n),  # a share of n
    }
    row, missing = {}, []
    for name, (value, *evidence) in numbers.items():
        row[name] = value
        row[f"{name}_low"], row[f"{name}_high"] = interval(value, *evidence)
        missing += [f"{name}: {reason}" for reason in [no_interval(*evidence)] if reason]
    return row | {"reason": "; ".join(missing)}


def drawn_precision(
    scores: np.ndarray, lesion: np.ndarray, brain: np.ndarray, place: np.ndarray, weights: np.ndarray
) -> np.ndarray:
    """Average precision of each draw of the subjects, whose numbers are ``place``, from counts."""

    def pixels():
        return (
            (who, image[part], mask[part].astype(int))
            for who, image, mask, part in zip(place, scores, lesion, brain, strict=True)
        )

    counts = count(pixels, weights.shape[1], BINS)
    return np.concatenate([areas(true, false, counts.tied)[1] for true, false, *_ in pooled(counts, weights)])


def threshold_of(table: Path) -> tuple[float, str]:
    """The threshold of the brain's pixels at ``RATE``, or NaN and the reason why there is none."""
    known = pd.read_csv(table, sep="\t")
    known = known[(known["region"] == "brain") & np.isclose(known["rate"], RATE)]
    if known.empty:
        return np.nan, f"{table} has no threshold for the brain at a rate of {RATE:g}"
    threshold, reason = known.iloc[0][["threshold", "reason"]]
    missing = "the threshold is empty" if pd.isna(reason) else reason
    return (float(threshold), "") if pd.notna(threshold) else (np.nan, missing)
