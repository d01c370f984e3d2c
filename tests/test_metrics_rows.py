"""Rows that ``metrics`` writes, computed once more as their words say: a plain formula each, and no shared code."""

import numpy as np
import pandas as pd
import pytest
import torch
from monai.metrics.regression import MultiScaleSSIMMetric
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from brainuad.metrics import metrics
from brainuad.sample_set import SampleSet, SampleWriter
from brainuad.thresholds import thresholds

SIZE, SUBJECTS = (64, 60), 4
RATES = {1: 0.01, 5: 0.05}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """What ``metrics`` writes of four subjects, one of them without a lesion, and the arrays that it was given."""
    folder, generator = tmp_path_factory.mktemp("rows"), np.random.default_rng(0)
    writer = SampleWriter(folder / "samples", 2 * SUBJECTS + 2, SIZE)
    for index in range(2 * SUBJECTS + 2):
        brain, lesion = np.zeros((2, *SIZE), bool)
        brain[6:58, 8:52] = True
        if index // 2 < SUBJECTS - 1:
            lesion[2 : 12 + index, 20:30] = lesion[40:44, 30 : 34 + index] = True
        split = "test" if index < 2 * SUBJECTS else "validation"
        row = {"scan": f"sub-{index // 2}", "subject": str(index // 2), "split": split, "position": float(index % 2)}
        writer.add(generator.random(SIZE) * brain, brain, lesion, row)
    writer.close()
    samples, score = SampleSet(folder / "samples"), folder / "score"
    score.mkdir()
    noise = generator.random(samples.images.shape, dtype=np.float32)
    reconstruction = np.clip(samples.images + 0.3 * noise - 0.15, 0, 1).astype(np.float32)
    arrays = {"reconstruction": reconstruction, "perceptual": noise**2, "map": noise + 0.4 * samples.lesion}
    for name, array in arrays.items():
        np.save(score / f"{name}.npy", array.astype(np.float32))
    samples.table.assign(sample=range(len(noise))).to_csv(score / "table.tsv", sep="\t", index=False)
    thresholds([score], [samples.folder], folder / "thresholds.tsv")
    paths = [folder / name for name in ("table.tsv", "subjects.tsv", "curves.tsv", "replicates.npz")]
    settings = {"resamples": 300, "spacing": 1.5}
    kept = {"dataset": "d", "model": "m", "seed": 1, "settings": settings}
    metrics(score, samples.folder, folder / "thresholds.tsv", *paths, **kept)
    table = pd.read_csv(paths[0], sep="\t").set_index(["metric", "region", "pooling"])
    assert not table.index.duplicated().any()
    return table, samples, {name: np.load(score / f"{name}.npy")[:, 0] for name in arrays}


def inside(samples, region, row):
    return samples.brain[row, 0] if region == "brain" else np.ones(SIZE, bool)


def naive_similarity(metric, image, made, distance, region):
    """One image's number from a library, or by its formula."""
    if metric == "ssim":
        local = structural_similarity(image, made, win_size=7, data_range=1, full=True)[1]
        core = (slice(3, -3),) * 2
        return local[core][region[core]].mean()
    if metric == "psnr":
        if region.all():
            return peak_signal_noise_ratio(image, made, data_range=1)
        return -10 * np.log10(mean_squared_error(image[region], made[region]))
    return {"mae": np.abs(image - made), "lpips": distance}[metric][region].mean()


@pytest.mark.parametrize("region", ["frame", "brain"])
@pytest.mark.parametrize("metric", ["ssim", "psnr", "mae", "lpips"])
def test_similarity(study, metric, region):
    table, samples, arrays = study
    values = [
        naive_similarity(
            metric,
            samples.images[row, 0].astype(float),
            arrays["reconstruction"][row].astype(float),
            arrays["perceptual"][row].astype(float),
            inside(samples, region, row),
        )
        for row in range(2 * SUBJECTS)
    ]
    found = table.loc[(metric, region, "images")]
    assert found["value"] == pytest.approx(np.mean(values), abs=1e-9)
    assert (found["n"], found["subjects"]) == (2 * SUBJECTS, SUBJECTS)


def test_multiscale_similarity(study):
    """MONAI's in double precision for the frame; in the brain another number."""
    table, samples, arrays = study
    weights = np.array([0.0448, 0.2856, 0.3001])  # the scales that fit into 60 pixels
    known = MultiScaleSSIMMetric(2, data_range=1, weights=list(weights / weights.sum()))
    rows = slice(0, 2 * SUBJECTS)
    pair = (torch.tensor(a[rows].astype(float))[:, None] for a in (arrays["reconstruction"], samples.images[:, 0]))
    frame = table.loc[("ms_ssim", "frame", "images"), "value"]
    assert frame == pytest.approx(known(*pair).mean().item(), abs=1e-6)
    assert abs(table.loc[("ms_ssim", "brain", "images"), "value"] - frame) > 1e-5
    assert abs(table.loc[("ssim", "frame", "images"), "value"] - frame) > 1e-3


def subjects_of(study, region):
    """Scores and truth of each subject's pixels together."""
    _, samples, arrays = study
    parts = []
    for subject in range(SUBJECTS):
        regions = [inside(samples, region, row) for row in (2 * subject, 2 * subject + 1)]
        pairs = list(zip(regions, (2 * subject, 2 * subject + 1), strict=True))
        scores = np.concatenate([arrays["map"][row][mask] for mask, row in pairs])
        parts.append((scores, np.concatenate([samples.lesion[row, 0][mask] for mask, row in pairs])))
    return parts


def naive_threshold(study, region, rate):
    """NumPy's quantile of the healthy validation pixels."""
    _, samples, arrays = study
    rows = range(2 * SUBJECTS, 2 * SUBJECTS + 2)
    values = np.concatenate([arrays["map"][row][inside(samples, region, row)] for row in rows])
    return np.quantile(values, 1 - rate, method="inverted_cdf")


def dice(marked, truth):
    return 2 * (marked & truth).sum() / (marked.sum() + truth.sum())


def best_dice(parts):
    """Largest mean Dice over the parts that one threshold gives."""
    levels = np.unique(np.concatenate([scores for scores, _ in parts]))
    return max(np.mean([dice(scores >= level, truth) for scores, truth in parts]) for level in levels[::7])


@pytest.mark.parametrize("region", ["frame", "brain"])
@pytest.mark.parametrize("pooling", ["pixels", "subjects"])
def test_detection(study, region, pooling):
    table = study[0]
    parts = subjects_of(study, region)
    everything = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
    if pooling == "pixels":
        parts = [everything]
    parts = [part for part in parts if part[1].any()]
    expected = {
        "auroc": np.mean([roc_auc_score(truth, scores) for scores, truth in parts]),
        "average_precision": np.mean([average_precision_score(truth, scores) for scores, truth in parts]),
    }
    for percent, rate in RATES.items():
        threshold = naive_threshold(study, region, rate)
        expected[f"dice_{percent}"] = np.mean([dice(scores > threshold, truth) for scores, truth in parts])
    prevalence = everything[1].mean()
    if pooling == "pixels":
        expected["precision_gain"] = expected["average_precision"] / prevalence
        false, true, _ = roc_curve(everything[1], everything[0], drop_intermediate=False)
        expected["fpr_at_95_tpr"] = false[np.argmax(true >= 0.95)]
    for metric, value in expected.items():
        found = table.loc[(metric, region, pooling)]
        assert found["value"] == pytest.approx(value, abs=1e-9), metric
        assert found["prevalence"] == pytest.approx(prevalence), metric
        assert found["n"] == (len(everything[0]) if pooling == "pixels" else SUBJECTS - 1), metric
        assert found["subjects"] == SUBJECTS - 1, "those with a lesion decide"
        assert found["low"] <= found["value"] <= found["high"], metric
    best = table.loc[("best_dice", region, pooling), "value"]
    assert best == pytest.approx(best_dice(parts), abs=2e-3)
    assert best >= best_dice(parts) - 1e-9, "of all thresholds, of which every seventh is tried here"
    gap = table.loc[("optimism", region, pooling), "value"]
    assert gap == pytest.approx(best - expected["dice_5"], abs=1e-9)


@pytest.mark.parametrize("percent", RATES)
def test_false_positives(study, percent):
    parts, threshold = subjects_of(study, "brain"), naive_threshold(study, "brain", RATES[percent])
    expected = np.mean([(scores > threshold)[~truth].mean() for scores, truth in parts])
    found = study[0].loc[(f"false_positive_rate_{percent}", "brain", "subjects")]
    assert found["value"] == pytest.approx(expected, abs=1e-9)
    assert found["subjects"] == SUBJECTS


def test_draws_are_those_of_the_numbers_themselves(study):
    """Each number of a few draws of subjects, computed anew from their pixels."""
    from brainuad.resampling import draws

    table, samples, _ = study
    with np.load(samples.folder.parent / "replicates.npz") as stored:
        replicates = pd.DataFrame(stored["replicates"], index=table.index)
    parts = subjects_of(study, "brain")
    for draw, weight in enumerate(draws("d", SUBJECTS, 300)[:8]):
        chosen = [part for part, times in zip(parts, weight, strict=True) for _ in range(times)]
        ill = [part for part in chosen if part[1].any()]
        if not ill:
            continue
        scores, truth = (np.concatenate(arrays) for arrays in zip(*chosen, strict=True))
        marked = naive_threshold(study, "brain", 0.05)
        expected = {
            ("auroc", "pixels"): roc_auc_score(truth, scores),
            ("average_precision", "pixels"): average_precision_score(truth, scores),
            ("dice_5", "pixels"): dice(scores > marked, truth),
            ("auroc", "subjects"): np.mean([roc_auc_score(t, s) for s, t in ill]),
            ("dice_5", "subjects"): np.mean([dice(s > marked, t) for s, t in ill]),
            ("best_dice", "subjects"): best_dice(ill),
        }
        for (metric, pooling), value in expected.items():
            bound = 8e-3 if metric == "best_dice" else 5e-4  # of which every seventh threshold is tried
            assert replicates.loc[(metric, "brain", pooling), draw] == pytest.approx(value, abs=bound), metric
