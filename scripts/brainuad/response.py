"""What a model finds in each cell of a grid of synthetic anomalies: kind × size × intensity.

All numbers are of the pixels inside the brain. Cells of one size and kind hold the same samples and masks, so that they
compare along the intensities; average precision moves with the prevalence, which changes with size and kind.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.detection import average_precision
from brainuad.lesions import FOUND_SHARE
from brainuad.sample_set import SampleSet

__all__ = ["CELL", "COLUMNS", "measures", "response", "threshold_of"]

RATE = 0.05  # share of healthy validation pixels above the threshold
CELL = ("kind", "size", "intensity")
COLUMNS = ("dataset", "model", "seed", *CELL, "n", "prevalence", "average_precision", "detection", "reason")


def response(
    score: Path, samples: Path, thresholds: Path, table: Path, dataset: str, model: str, seed: int | str
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

    Raises:
        ValueError: the scores are not those of a grid.
    """
    score, samples = Path(score), SampleSet(samples)
    scored = pd.read_csv(score / "table.tsv", sep="\t")
    if not set(CELL) <= set(scored):
        raise ValueError(f"{score / 'table.tsv'} has no cells of a grid: dataset {dataset} needs `anomalies.grid`.")
    maps = np.load(score / "map.npy", mmap_mode="r")
    threshold, reason = threshold_of(thresholds)
    rows = []
    for cell, group in scored.groupby(list(CELL), sort=False):
        lesion, brain = (array[group["sample"]] for array in (samples.lesion, samples.brain))
        found = measures(maps[group.index], lesion, brain, threshold)
        unknown = reason if np.isfinite(found["prevalence"]) else "no brain in the samples of this cell"
        if found["prevalence"] == 0:
            unknown = "no anomaly of this cell has a pixel inside the brain"
        keys = {"dataset": dataset, "model": model, "seed": seed, **dict(zip(CELL, cell, strict=True))}
        rows.append({**keys, "n": len(group), **found, "reason": unknown})
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    print(frame.drop(columns=["dataset", "model", "seed"]).to_string(index=False))


def measures(scores: np.ndarray, lesion: np.ndarray, brain: np.ndarray, threshold: float) -> dict:
    """The numbers of one cell.

    Args:
        scores: anomaly maps (n, 1, *size).
        lesion: masks of the anomalies, as ``scores``.
        brain: masks of the brain, as ``scores``.
        threshold: above which a pixel is called abnormal; NaN leaves ``detection`` undefined.

    Returns:
        ``prevalence`` and ``average_precision`` of the pixels of all samples together, and ``detection``: the share of
        the anomalies of whose pixels at least a tenth lies above the threshold. All 0 to 1, higher is better; NaN where
        undefined. An anomaly without a pixel inside the brain does not count.
    """
    truth = lesion[brain]
    pixels = [image[inside] for image, inside in zip(scores, lesion & brain, strict=True) if inside.any()]
    found = [(values > threshold).mean() >= FOUND_SHARE for values in pixels]
    return {
        "prevalence": truth.mean() if truth.size else np.nan,
        "average_precision": average_precision(scores[brain], truth),
        "detection": np.mean(found) if found and np.isfinite(threshold) else np.nan,
    }


def threshold_of(table: Path) -> tuple[float, str]:
    """The threshold of the brain's pixels at ``RATE``, or NaN and the reason why there is none."""
    known = pd.read_csv(table, sep="\t")
    known = known[(known["region"] == "brain") & np.isclose(known["rate"], RATE)]
    if known.empty:
        return np.nan, f"{table} has no threshold for the brain at a rate of {RATE:g}"
    threshold, reason = known.iloc[0][["threshold", "reason"]]
    missing = "the threshold is empty" if pd.isna(reason) else reason
    return (float(threshold), "") if pd.notna(threshold) else (np.nan, missing)
