"""Thresholds that let a set share of healthy pixels pass, from validation subjects that no test image belongs to.

A pixel is called abnormal where its score is above the threshold. Taken from the test images themselves a threshold is
optimistic: how much so is the metric ``optimism``.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.sample_set import SampleSet

__all__ = ["COLUMNS", "RATES", "read_thresholds", "threshold_at", "thresholds"]

RATES = (0.01, 0.05)  # shares of healthy pixels called abnormal
COLUMNS = ("region", "rate", "threshold", "n", "reason")


def thresholds(scores: Sequence[Path], samples: Sequence[Path], table: Path) -> None:
    """Write the thresholds of one model and seed.

    Args:
        scores: its score folders of the training datasets.
        samples: folders of their sample sets, in the same order.
        table: TSV to write, columns ``COLUMNS``: for each region (``frame``, ``brain``) and false-positive rate the
            threshold and the number ``n`` of healthy validation pixels it comes from. Where there are none the
            threshold is empty and ``reason`` says why.
    """
    healthy = {"frame": [], "brain": []}
    for score, folder in zip(scores, samples, strict=True):
        scored = pd.read_csv(Path(score) / "table.tsv", sep="\t", usecols=["sample", "split"])
        maps, sample_set = np.load(Path(score) / "map.npy", mmap_mode="r"), SampleSet(folder)
        for place in np.flatnonzero(scored["split"] == "validation"):
            row = scored["sample"].iloc[place]
            normal = ~sample_set.lesion[row]
            healthy["frame"].append(maps[place][normal])
            healthy["brain"].append(maps[place][normal & sample_set.brain[row]])
    rows = []
    for region, parts in healthy.items():
        values = np.concatenate(parts) if parts else np.empty(0)
        broken = "the map holds NaN: score the model again" if np.isnan(values).any() else ""
        reason = broken if values.size else "no validation subjects: give a training dataset a `split.validation`"
        rows += [
            {
                "region": region,
                "rate": rate,
                "threshold": threshold_at(values, rate),
                "n": values.size,
                "reason": reason,
            }
            for rate in RATES
        ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    print(frame.to_string(index=False))


def threshold_at(healthy: np.ndarray, rate: float) -> float:
    """The smallest of the scores above which no more than a share ``rate`` of them lies.

    NaN if there are no scores, or if one of them is.

    Args:
        healthy: (n,) scores of healthy pixels.
        rate: 0 to 1.
    """
    if healthy.size == 0 or np.isnan(healthy).any():
        return np.nan
    return float(np.quantile(healthy, 1 - rate, method="inverted_cdf"))


def read_thresholds(table: Path) -> dict[tuple[str, float], float]:
    """The thresholds of a table by region and rate."""
    frame = pd.read_csv(table, sep="\t")
    return {(row.region, row.rate): row.threshold for row in frame.itertuples()}
