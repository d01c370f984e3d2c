"""What the scores of one model on one dataset are worth: similarity, detection, lesions, images."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd

from brainuad import detection, lesions, similarity
from brainuad.cohort import CONSTANT, Cohort, Number, mean_number, number_of, unusable, with_all
from brainuad.counts import Counts, count, count_exactly, count_together, pooled
from brainuad.sample_set import SampleSet
from brainuad.thresholds import RATES, Threshold

__all__ = [
    "count_regions",
    "curves",
    "detection_numbers",
    "false_positive_numbers",
    "image_numbers",
    "lesion_numbers",
    "similarity_numbers",
]

EXACT_PIXELS = 1 << 24  # values of no more pixels are exact, those of more to 1e-6 or so; draws are from bins
POOLED = ("auroc", "average_precision", "precision_gain", "best_dice", "dice_1", "dice_5", "optimism", "fpr_at_95_tpr")
BY_SUBJECT = ("auroc", "average_precision", "best_dice", "dice_1", "dice_5", "optimism")


def similarity_numbers(cohort: Cohort, weights: np.ndarray, originals: SampleSet | None) -> list[Number]:
    """How alike images and reconstructions are, and how well what lay under a synthetic anomaly is restored."""
    functions = {
        "ssim": similarity.ssim,
        "ms_ssim": similarity.ms_ssim,
        "psnr": similarity.psnr,
        "mae": similarity.mean_absolute_error,
    }
    values = {(name, region): [] for name in (*functions, "lpips") for region in ("frame", "brain")}
    errors = {name: [] for name in ("restoration_error_inside", "restoration_error_outside", "copy_error_inside")}
    reconstructions, distances = cohort.images("reconstruction"), cohort.images("perceptual")
    for row, made, distance, (brain, lesion) in zip(
        cohort.rows, reconstructions, distances, cohort.masks(), strict=True
    ):
        image = cohort.samples.images[row, 0]
        for region, inside in (("frame", np.ones_like(brain)), ("brain", brain)):
            for name, function in functions.items():
                values[name, region].append(function(image, made, inside))
            values["lpips", region].append(distance[inside].mean(dtype=float) if inside.any() else np.nan)
        if originals is not None:
            clean = originals.images[int(cohort.samples.table["source"].iloc[row]), 0]
            parts = (made, lesion & brain), (made, brain & ~lesion), (image, lesion & brain)
            for name, (other, inside) in zip(errors, parts, strict=True):
                errors[name].append(similarity.mean_absolute_error(clean, other, inside))
    restored = {} if originals is None else {(name, "brain"): numbers for name, numbers in errors.items()}
    named, broken = values | restored, unusable_reconstructions(cohort)
    return [
        similarity_number(np.array(numbers), broken, cohort, weights, metric=name, region=region)
        for (name, region), numbers in named.items()
    ]


def unusable_reconstructions(cohort: Cohort) -> str:
    """Why reconstructions cannot be held against their images; empty if they can."""
    for name in ("reconstruction", "perceptual"):
        bad = sum(not np.isfinite(image).all() for image in cohort.images(name))
        if bad:
            return f"{bad} of {len(cohort.rows)} images have NaN or infinity in {name}.npy: score the model again"
    return ""


def similarity_number(values: np.ndarray, broken: str, cohort: Cohort, weights: np.ndarray, **names) -> Number:
    """The mean over the images, unless one image makes it meaningless: it is then NaN, with the reason."""
    equal = np.count_nonzero(np.isinf(values))
    if equal and not broken:
        broken = f"infinite in {equal} of {len(values)} images, which their reconstructions equal"
    values = np.full(len(values), np.nan) if broken else values
    keys = {"pooling": "images", "map": "reconstruction"}
    return mean_number(values, cohort.owner, weights, broken or "undefined in every image", **names, **keys)


def count_regions(cohort: Cohort, name: str = "map") -> dict[str, Counts | str]:
    """The pixels of a map in each region, counted; or why nothing can be said of them."""
    reason = unusable(cohort.images(name))
    if reason:
        return dict.fromkeys(("frame", "brain"), reason)
    counted = {}
    for region in ("frame", "brain"):
        counts = count(partial(cohort.pixels, region, name), len(cohort.subjects))
        counted[region] = why(counts) or counts
    return counted


def why(counts: Counts) -> str:
    """Why nothing can be said of a region's pixels; empty if something can."""
    if counts.positives.sum() + counts.negatives.sum() == 0:
        return "the region has no pixels"
    if counts.positives.sum() == 0:
        return "the region has no abnormal pixel"
    if counts.negatives.sum() == 0:
        return "the region has no normal pixel"
    return CONSTANT if len(counts.tied) == 1 and counts.tied[0] else ""


def detection_numbers(
    cohort: Cohort,
    counted: dict[str, Counts | str],
    weights: np.ndarray,
    thresholds: dict[tuple[str, float], Threshold],
    name: str = "map",
) -> list[Number]:
    """What the pixels of a map say about the lesions, in the frame and in the brain, pooled and by subject."""
    numbers = []
    for region, counts in counted.items():
        if isinstance(counts, str):
            numbers += undefined(region, name, counts)
            continue
        pixels = int(counts.positives.sum() + counts.negatives.sum())
        above = {rate: above_threshold(cohort, region, name, thresholds[region, rate].value) for rate in RATES}
        missing = thresholds[region, RATES[0]].missing  # that of all rates, which are of the same pixels
        rows = pooled_numbers(counts, above, weights, region, name, missing)
        make_exact(rows, cohort, above, region, name, pixels)
        rows += subject_numbers(cohort, counts, above, weights, region, name, missing)
        for row in rows:
            row.prevalence = float(counts.positives.sum() / pixels)
            row.n = pixels if row.pooling == "pixels" else row.n
        numbers += rows
    return numbers


def undefined(region: str, name: str, reason: str) -> list[Number]:
    """The rows of a region about whose pixels nothing can be said."""
    keys = [(metric, "pixels") for metric in POOLED] + [("aupro", "lesions")]
    keys += [(metric, "subjects") for metric in BY_SUBJECT]
    return [Number(metric, region, pooling, name, np.nan, 0, reason=reason) for metric, pooling in keys]


def above_threshold(cohort: Cohort, region: str, name: str, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Abnormal and normal pixels of each subject whose score is above a threshold; NaN without threshold."""
    true, false = np.zeros(len(cohort.subjects)), np.zeros(len(cohort.subjects))
    for subject, scores, lesion in cohort.pixels(region, name):
        marked = scores > threshold
        true[subject] += np.count_nonzero(marked & (lesion > 0))
        false[subject] += np.count_nonzero(marked & (lesion == 0))
    return (true, false) if not np.isnan(threshold) else (true + np.nan, false + np.nan)


def pooled_numbers(
    counts: Counts, above: dict, weights: np.ndarray, region: str, name: str, missing: str = ""
) -> list[Number]:
    """The numbers of all pixels together, and of all lesions; ``missing`` says why there is no threshold."""
    everyone, parts = with_all(weights), []
    for positives, negatives, coverage, number in pooled(counts, everyone):
        ranked, precision = detection.areas(positives, negatives, counts.tied)
        abnormal, normal = positives.sum(axis=-1), negatives.sum(axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            gain = precision * (abnormal + normal) / abnormal
        best = detection.best_dice(positives, negatives)
        missed = detection.false_positive_rate_at(positives, negatives, counts.tied)
        overlap = detection.per_region_overlap(coverage, number, negatives)
        parts.append((ranked, precision, gain, best, missed, overlap, abnormal))
    ranked, precision, gain, best, missed, overlap, abnormal = map(np.concatenate, zip(*parts, strict=True))
    at_one, at_five = (detection.dice(everyone @ true, everyone @ false, abnormal) for true, false in above.values())
    values = (ranked, precision, gain, best, at_one, at_five, best - at_five, missed)
    deciding = np.count_nonzero(counts.positives.sum(axis=1))
    keys = {"region": region, "map": name, "reason": missing, "deciding": deciding}
    rows = [
        number_of(value, metric=metric, pooling="pixels", **keys) for metric, value in zip(POOLED, values, strict=True)
    ]
    return [*rows, number_of(overlap, metric="aupro", pooling="lesions", n=int(counts.lesions.sum()), **keys)]


def make_exact(rows: list[Number], cohort: Cohort, above: dict, region: str, name: str, pixels: int) -> None:
    """Put the exact values in the place of those from bins, or of many pixels nearly exact ones; their draws stay."""
    read = count_exactly if pixels <= EXACT_PIXELS else count_together
    counts = read(partial(cohort.pixels, region, name))
    together = {rate: (true.sum(keepdims=True), false.sum(keepdims=True)) for rate, (true, false) in above.items()}
    for row, exact in zip(rows, pooled_numbers(counts, together, np.empty((0, 1)), region, name), strict=True):
        row.value = row.value if np.isnan(exact.value) else exact.value  # lesions are not counted together


def subject_numbers(
    cohort: Cohort, counts: Counts, above: dict, weights: np.ndarray, region: str, name: str, missing: str
) -> list[Number]:
    """The means over subjects that have a lesion in the region; none if the map of one of them is constant."""
    owner, keys = np.arange(len(cohort.subjects)), {"region": region, "pooling": "subjects", "map": name}
    constant = constant_subjects(cohort, region, name)
    if constant:
        return [Number(metric=metric, value=np.nan, n=0, reason=constant, **keys) for metric in BY_SUBJECT]
    exact = np.array([subject_areas(*parts) for parts in cohort.by_subject(region, name)])
    reason = "no subject has both abnormal and normal pixels"
    rows = [
        mean_number(values, owner, weights, reason, metric=metric, **keys)
        for metric, values in zip(("auroc", "average_precision"), exact.T, strict=True)
    ]
    abnormal = counts.positives.sum(axis=1)
    overlap = detection.dice(
        *(np.cumsum(part, axis=1) for part in (counts.positives, counts.negatives)), abnormal[:, None]
    )
    everyone = with_all(weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (everyone @ np.nan_to_num(overlap)) / (everyone @ (abnormal > 0))[:, None]
    with_lesion = np.count_nonzero(abnormal)
    best = number_of(means.max(axis=1), metric="best_dice", n=with_lesion, deciding=with_lesion, **keys)
    best.subjects = overlap[:, int(np.argmax(means[0]))]
    if counts.positives.sum() + counts.negatives.sum() <= EXACT_PIXELS:
        best.value, best.subjects = detection.best_mean_dice(cohort.by_subject(region, name))
    at_one, at_five = (
        mean_number(
            detection.dice(true, false, abnormal),
            owner,
            weights,
            missing,
            metric=at_rate("dice", rate),
            **keys,
        )
        for rate, (true, false) in above.items()
    )
    gap = mean_number(best.subjects - at_five.subjects, owner, weights, missing, metric="optimism", **keys)
    gap.replicates = best.replicates - at_five.replicates  # the best threshold of each draw
    return [*rows, best, at_one, at_five, gap]


def at_rate(metric: str, rate: float) -> str:
    """Name of a metric at the threshold of a false-positive rate, in percent."""
    return f"{metric}_{rate * 100:.0f}"


def constant_subjects(cohort: Cohort, region: str, name: str) -> str:
    """Whose map is constant, though there is something to find; empty for nobody's."""
    constant = both = 0
    for scores, truth in cohort.by_subject(region, name):
        if truth.any() and not truth.all():
            both, constant = both + 1, constant + (scores.min() == scores.max())
    return f"{CONSTANT} in {constant} of {both} subjects" if constant else ""


def subject_areas(scores: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AUROC and average precision of one subject; NaN where it has one class only."""
    if not truth.any() or truth.all():
        return np.nan, np.nan
    return detection.exact_areas(scores, truth)


def false_positive_numbers(
    cohort: Cohort, weights: np.ndarray, thresholds: dict[tuple[str, float], Threshold], name: str = "map"
) -> list[Number]:
    """The share of each subject's normal pixels in the brain that a threshold from other healthy subjects lets pass."""
    inside = (scores[brain] for scores, (brain, _) in zip(cohort.images(name), cohort.masks(), strict=True))
    numbers, broken = [], unusable(cohort.images(name)) or unusable(inside)
    for rate in RATES:
        (threshold, missing), counts = thresholds["brain", rate], np.zeros((2, len(cohort.subjects)))
        for subject, scores, lesion in cohort.pixels("brain", name):
            normal = lesion == 0
            counts[:, subject] += np.count_nonzero((scores > threshold) & normal), np.count_nonzero(normal)
        with np.errstate(invalid="ignore", divide="ignore"):
            shares = counts[0] / counts[1]
        keys = {"metric": at_rate("false_positive_rate", rate), "region": "brain", "pooling": "subjects", "map": name}
        reason = "no subject has a normal pixel"
        if broken or np.isnan(threshold):
            shares, reason = np.full(len(shares), np.nan), broken or missing
        numbers.append(mean_number(shares, np.arange(len(shares)), weights, reason, **keys))
    return numbers


def lesion_numbers(
    cohort: Cohort, counts: Counts | str, weights: np.ndarray, spacing: float, name: str = "map"
) -> list[Number]:
    """Which lesions are found at how many false alarms, inside the brain.

    Args:
        cohort: the dataset.
        counts: its pixels in the brain, or why nothing can be said of them.
        weights: draws of the subjects.
        spacing: pixel size in mm.
        name: the map.
    """
    metrics = {"froc": "all", **{f"lesion_sensitivity_{size}": size for size in lesions.SIZES}}
    keys = {"region": "brain", "pooling": "lesions", "map": name}
    if isinstance(counts, str):
        return [Number(metric=metric, value=np.nan, n=0, reason=counts, **keys) for metric in metrics]

    def images() -> Iterator[tuple[int, np.ndarray, np.ndarray, np.ndarray]]:
        for subject, scores, (brain, lesion) in zip(cohort.owner, cohort.images(name), cohort.masks(), strict=True):
            yield subject, scores, lesions.label_lesions(lesion & brain), brain

    known = lesions.count_lesions(images(), len(cohort.subjects), lesions.levels(images), spacing)
    everyone = with_all(weights)
    alarms = (everyone @ known.alarms) / (everyone @ known.images)[:, None]
    numbers = []
    for metric, size in metrics.items():
        found, number = everyone @ known.found[size], everyone @ known.lesions[size]
        read = lesions.froc if metric == "froc" else partial(lesions.sensitivity_at, allowed=1.0)
        values, deciding = read(found, number, alarms), np.count_nonzero(known.lesions[size])
        reason = "no lesion of this size"
        numbers.append(number_of(values, reason, metric=metric, n=int(number[0]), deciding=deciding, **keys))
    return numbers


def image_numbers(cohort: Cohort, healthy: Cohort | None, weights: np.ndarray, name: str = "map") -> list[Number]:
    """Whether images and subjects with a lesion score higher than those without, by the mean of the map over the brain.

    A scan whose lesion no image shows is left out, and so is an original that is no image of a healthy scan.

    Args:
        cohort: the dataset.
        healthy: for a synthetic dataset, the images that its anomalies were put into.
        weights: draws of the subjects.
        name: the map.
    """
    truth, unclear = list(cohort.lesioned), list(cohort.unseen)
    owner, values = list(cohort.owner), list(brain_means(cohort, name))
    if healthy is not None:
        number = {subject: index for index, subject in enumerate(cohort.subjects)}
        means = zip(healthy.names, brain_means(healthy, name), healthy.diseased, strict=True)
        shared = [(number[who], value) for who, value, diseased in means if who in number and not diseased]
        owner, values = owner + [who for who, _ in shared], values + [value for _, value in shared]
        truth, unclear = truth + [False] * len(shared), unclear + [False] * len(shared)
    known = [value is not None and not left_out for value, left_out in zip(values, unclear, strict=True)]
    frame = pd.DataFrame({"owner": owner, "truth": truth, "value": values})[known].astype({"value": float})
    subjects = frame.groupby(["owner", "truth"], as_index=False)["value"].mean()
    if healthy is None:  # a subject with a lesion in any image has one
        subjects = frame.groupby("owner", as_index=False).agg({"truth": "any", "value": "mean"})
    broken = unusable(cohort.images(name)) or (unusable(healthy.images(name)) if healthy else "")
    return [
        ranking_number(table, weights, broken, f"{pooling[:-1]}_auroc", pooling, name)
        for table, pooling in ((frame, "images"), (subjects, "subjects"))
    ]


def brain_means(cohort: Cohort, name: str) -> Iterator[float | None]:
    """Mean of the map over the brain of each image; None for an image without brain, which is left out."""
    for scores, (brain, _) in zip(cohort.images(name), cohort.masks(), strict=True):
        yield scores[brain].mean(dtype=float) if brain.any() else None


def ranking_number(
    table: pd.DataFrame, weights: np.ndarray, broken: str, metric: str, pooling: str, name: str
) -> Number:
    """AUROC of few values, exact, with the draws of their subjects; none of a map that is ``broken``."""
    keys = {"metric": metric, "region": "brain", "pooling": pooling, "map": name, "n": len(table)}
    truth = table["truth"].to_numpy(dtype=bool)
    if broken:
        return Number(value=np.nan, reason=broken, **keys)
    if truth.all() or not truth.any():
        missing = "healthy" if len(truth) and truth.all() else "abnormal"
        return Number(value=np.nan, reason=f"no {pooling[:-1]} is {missing}", **keys)
    if table["value"].nunique() == 1:
        return Number(value=np.nan, reason=CONSTANT, **keys)
    levels, place = np.unique(-table["value"].to_numpy(), return_inverse=True)
    counts = np.zeros((2, weights.shape[1], len(levels)))
    np.add.at(counts, (truth.astype(int), table["owner"].to_numpy(), place), 1)
    everyone = with_all(weights)
    values = detection.areas(everyone @ counts[1], everyone @ counts[0], np.ones(len(levels), bool))[0]
    deciding = int(table.groupby("truth")["owner"].nunique().min())
    return number_of(values, deciding=deciding, **keys)


def curves(counted: dict[str, Counts | str], points: int = 200) -> pd.DataFrame:
    """Points of the ROC and of the precision-recall curve of the pixels of each region, thresholds falling.

    Returns:
        Columns ``region``, ``threshold``, ``true_positive_rate``, ``false_positive_rate`` and ``precision``, at most
        ``points`` rows a region and none where nothing can be said of it.
    """
    columns = ("threshold", "true_positive_rate", "false_positive_rate", "precision")
    parts = [pd.DataFrame(columns=["region", *columns])]
    for region, counts in counted.items():
        if isinstance(counts, str):
            continue
        true, false = np.cumsum(counts.positives.sum(axis=0)), np.cumsum(counts.negatives.sum(axis=0))
        rates = true / true[-1], false / false[-1]
        progress = np.maximum.accumulate(rates[0] + rates[1] + np.log1p(false) / np.log1p(false[-1]))
        chosen = np.unique(np.searchsorted(progress, np.linspace(0, progress[-1], points)).clip(max=len(true) - 1))
        values = counts.lower, *rates, true / (true + false)
        part = {name: value[chosen] for name, value in zip(columns, values, strict=True)}
        parts.append(pd.DataFrame({"region": region, **part}))
    return pd.concat(parts[1:] or parts, ignore_index=True)
