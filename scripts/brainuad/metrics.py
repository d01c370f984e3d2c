"""Anomaly maps and masks → numbers, in long format and on test samples only.

Every number names its region and its pooling, since both decide it: background that no model can get wrong
raises SSIM and AUROC, and average precision moves with the share of abnormal pixels (the prevalence, written
beside it). A region is one mask for both what is scored and what is true.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from skimage.metrics import structural_similarity

from brainuad.sample_set import SampleSet

__all__ = ["CATALOGUE", "COLUMNS", "Metric", "auroc", "average_precision", "metrics", "ssim_map"]


@dataclass(frozen=True)
class Metric:
    """What a metric is; ``docs/metrics.md`` is made of these."""

    name: str
    title: str
    formula: str
    range: str
    direction: str
    regions: str
    pooling: str
    citation: str


CATALOGUE = {
    metric.name: metric
    for metric in (
        Metric(
            name="ssim",
            title="SSIM",
            formula="mean over the region's pixels of (2 m_x m_y + C1) (2 s_xy + C2) / "
            "((m_x² + m_y² + C1) (s_x² + s_y² + C2)), with means m, sample variances s² and covariance s_xy "
            "of image x and reconstruction y, clamped to [0, 1], in a uniform window of 7 pixels an axis; "
            "C1 = 0.01², C2 = 0.03²; the border of 3 pixels, where windows are incomplete, is left out",
            range="-1 to 1; 1 for equal images",
            direction="higher is better",
            regions="frame (as scikit-image does), brain",
            pooling="images: mean over images of each one's mean",
            citation="Wang, Bovik, Sheikh, Simoncelli: Image quality assessment: from error visibility to "
            "structural similarity. IEEE Transactions on Image Processing 13 (2004)",
        ),
        Metric(
            name="auroc",
            title="AUROC",
            formula="P(score of an abnormal pixel > score of a normal one) + ½ P(both equal)",
            range="0 to 1; 0.5 for scores that know nothing",
            direction="higher is better",
            regions="frame, brain",
            pooling="pixels: those of all test images together",
            citation="Hanley, McNeil: The meaning and use of the area under a receiver operating "
            "characteristic (ROC) curve. Radiology 143 (1982)",
        ),
        Metric(
            name="average_precision",
            title="AUPRC",
            formula="average precision: Σ (R_k - R_(k-1)) P_k over the distinct scores in falling order, "
            "with precision P_k and recall R_k of the pixels that score at least as high; no interpolation",
            range="0 to 1; the prevalence for scores that know nothing",
            direction="higher is better",
            regions="frame, brain",
            pooling="pixels: those of all test images together",
            citation="Davis, Goadrich: The relationship between Precision-Recall and ROC curves. ICML 2006",
        ),
        Metric(
            name="lesion_outside_brain",
            title="Lesion outside brain",
            formula="abnormal pixels outside the brain mask / all abnormal pixels: what region brain misses",
            range="0 to 1",
            direction="lower is better",
            regions="frame",
            pooling="pixels: those of all test images together",
            citation="",
        ),
    )
}

KEYS = ("dataset", "model", "seed", "metric", "region", "pooling", "map")
COLUMNS = (*KEYS, "value", "low", "high", "n", "prevalence")

WINDOW = 7


def metrics(
    score: Path, samples: Path, table: Path, dataset: str, model: str, seed: int, maps: Sequence[str] = ("map",)
) -> None:
    """Evaluate the scores of one model and seed on one dataset.

    Args:
        score: its score folder.
        samples: folder of the sample set that was scored.
        table: the TSV to write, with the columns of ``COLUMNS``: ``n`` counts what ``pooling`` names,
            ``prevalence`` is the share of abnormal pixels in the region; what is undefined is empty (NaN),
            and so are ``low`` and ``high``, the bounds of an interval.
        dataset: name for the rows.
        model: name for the rows.
        seed: for the rows.
        maps: arrays of the score folder that are held against the masks, such as ``residual`` besides ``map``.

    Raises:
        ValueError: the scores hold no test samples.
    """
    score, samples = Path(score), SampleSet(samples)
    scored = pd.read_csv(score / "table.tsv", sep="\t", usecols=["sample", "split"])
    places = np.flatnonzero(scored["split"] == "test")
    if len(places) == 0:
        raise ValueError(f"{score / 'table.tsv'} has no test samples: give dataset {dataset} a `split.test` above 0.")
    rows = scored["sample"].to_numpy()[places]
    results = similarity(read(score, "reconstruction"), places, samples, rows)
    lesion, brain = samples.lesion[rows], samples.brain[rows]
    if lesion.any():
        results.append(lesion_outside_brain(lesion, brain))
        for name in maps:
            results += [{"map": name, **row} for row in detection(read(score, name)[places], lesion, brain)]
    keys = {"dataset": dataset, "model": model, "seed": seed}
    frame = pd.DataFrame([{**keys, **row} for row in results]).reindex(columns=list(COLUMNS))
    Path(table).parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(table, sep="\t", index=False)
    print(frame[["metric", "region", "map", "value", "n", "prevalence"]].to_string(index=False))


def read(score: Path, name: str) -> np.ndarray:
    """One array of a score folder, memory-mapped."""
    return np.load(score / f"{name}.npy", mmap_mode="r")


def similarity(reconstruction: np.ndarray, places: np.ndarray, samples: SampleSet, rows: np.ndarray) -> list[dict]:
    """SSIM rows: of the frame, and of the brain over the images that have any."""
    frame, brain = np.empty(len(rows)), np.full(len(rows), np.nan)
    for index, (place, row) in enumerate(zip(places, rows, strict=True)):
        similar = ssim_map(samples.images[row, 0], reconstruction[place, 0])
        inside = inner(samples.brain[row, 0])
        frame[index] = similar.mean()
        if inside.any():
            brain[index] = similar[inside].mean()
    return [
        {
            "metric": "ssim",
            "region": region,
            "pooling": "images",
            "map": "reconstruction",
            "value": values[defined].mean() if defined.any() else np.nan,
            "n": int(defined.sum()),
        }
        for region, values, defined in (
            ("frame", frame, ~np.isnan(frame)),
            ("brain", brain, ~np.isnan(brain)),
        )
    ]


def ssim_map(image: np.ndarray, reconstruction: np.ndarray) -> np.ndarray:
    """Local SSIM of two images of any dimension, clamped to [0, 1], without the border of 3 pixels.

    Its mean is scikit-image's ``structural_similarity``.

    Raises:
        ValueError: images are smaller than the window of 7 pixels.
    """
    x, y = (np.clip(np.asarray(array, dtype=np.float64), 0, 1) for array in (image, reconstruction))
    if min(x.shape) < WINDOW:
        raise ValueError(f"Images of shape {x.shape} are too small for SSIM: set `samples.size` to {WINDOW} or more.")
    return inner(structural_similarity(x, y, win_size=WINDOW, data_range=1, full=True)[1])


def inner(array: np.ndarray) -> np.ndarray:
    """An image without the border in which windows are incomplete."""
    return array[(slice(WINDOW // 2, -(WINDOW // 2)),) * array.ndim]


def detection(scores: np.ndarray, lesion: np.ndarray, brain: np.ndarray) -> list[dict]:
    """AUROC and average precision over the pixels of all images together, in the frame and in the brain."""
    rows = []
    for region, values, truth in (
        ("frame", scores.ravel(), lesion.ravel()),
        ("brain", scores[brain], lesion[brain]),
    ):
        common = {"region": region, "pooling": "pixels", "n": truth.size}
        common["prevalence"] = truth.mean() if truth.size else np.nan
        for function in (auroc, average_precision):
            rows.append({"metric": function.__name__, **common, "value": function(values, truth)})
    return rows


def lesion_outside_brain(lesion: np.ndarray, brain: np.ndarray) -> dict:
    """The share of abnormal pixels that the region ``brain`` leaves out."""
    total = int(lesion.sum())
    value = (lesion & ~brain).sum() / total if total else np.nan
    return {
        "metric": "lesion_outside_brain",
        "region": "frame",
        "pooling": "pixels",
        "value": value,
        "n": total,
    }


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
    positives, negatives = by_class(scores, truth)
    if not (positives.size and negatives.size):
        return np.nan
    values, counts = np.unique(positives, return_counts=True)
    below, not_above = (np.searchsorted(negatives, values, side) for side in ("left", "right"))
    return float(counts @ (below + not_above) / (2 * positives.size * negatives.size))


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
    positives, negatives = by_class(scores, truth)
    if not positives.size:
        return np.nan
    values, counts = (array[::-1] for array in np.unique(positives, return_counts=True))
    true = np.cumsum(counts)
    false = negatives.size - np.searchsorted(negatives, values, "left")
    return float(counts @ (true / (true + false)) / positives.size)


def by_class(scores: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorted scores of the positives and of the negatives.

    Both areas change only at scores of positives, which are few: each is a search in the sorted negatives,
    and no order of all pixels is needed.
    """
    classes = tuple(np.sort(scores[chosen]) for chosen in (truth, ~truth))
    if any(values.size and np.isnan(values[-1]) for values in classes):
        raise ValueError("Scores hold NaN: no threshold can rank them, so score the model again.")
    return classes
