import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score

from brainuad.metrics import CATALOGUE, COLUMNS, auroc, average_precision, metrics, ssim_map
from brainuad.sample_set import SampleWriter

SIZE = (24, 20)
MAPS = ("map", "residual")


def scores_with_ties(generator, count=5000, prevalence=0.05):
    """Scores like those of a masked map: most exactly zero, some equal, higher in lesions."""
    truth = generator.random(count) < prevalence
    scores = np.round(generator.random(count), 2) + 0.3 * truth
    return (scores * (generator.random(count) > 0.6)).astype(np.float32), truth


@pytest.mark.parametrize("seed", range(5))
def test_detection_equals_scikit_learn(seed):
    scores, truth = scores_with_ties(np.random.default_rng(seed))
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_negative_scores_and_zeros_of_either_sign_are_ranked():
    scores = np.array([-3, -0.0, 0.0, 2, -1, -0.0], dtype=np.float32)
    truth = np.array([False, True, False, True, False, False])
    assert auroc(scores, truth) == pytest.approx(roc_auc_score(truth, scores))
    assert average_precision(scores, truth) == pytest.approx(average_precision_score(truth, scores))


def test_detection_in_closed_form():
    truth = np.arange(100) >= 90
    ramp = np.arange(100, dtype=np.float32)
    assert (auroc(ramp, truth), average_precision(ramp, truth)) == (1, 1)
    assert auroc(-ramp, truth) == 0
    assert average_precision(-ramp, truth) == pytest.approx(np.mean([k / (90 + k) for k in range(1, 11)]))
    constant = np.zeros(100, dtype=np.float32)
    assert auroc(constant, truth) == 0.5
    assert average_precision(constant, truth) == pytest.approx(0.1), "the prevalence"


def test_random_scores_reach_the_prevalence():
    generator = np.random.default_rng(1)
    truth = generator.random(200_000) < 0.034
    scores = generator.random(200_000, dtype=np.float32)
    assert auroc(scores, truth) == pytest.approx(0.5, abs=0.01)
    assert average_precision(scores, truth) == pytest.approx(truth.mean(), rel=0.05)


def test_average_precision_is_not_the_trapezoid():
    scores, truth = scores_with_ties(np.random.default_rng(2), count=200)
    precision, recall, _ = precision_recall_curve(truth, scores)
    assert abs(auc(recall, precision) - average_precision(scores, truth)) > 1e-3


def test_scores_keep_their_precision():
    """In half precision these scores are equal, and the ranking is lost."""
    truth = np.array([False, True] * 50)
    scores = np.where(truth, 0.50001, 0.5).astype(np.float32)
    assert auroc(scores, truth) == 1
    assert auroc(scores.astype(np.float16), truth) == 0.5


def test_what_is_undefined_is_nan():
    scores = np.arange(4, dtype=np.float32)
    assert np.isnan(auroc(scores, np.zeros(4, bool)))
    assert np.isnan(auroc(scores, np.ones(4, bool)))
    assert np.isnan(average_precision(scores, np.zeros(4, bool)))
    assert average_precision(scores, np.ones(4, bool)) == 1
    with pytest.raises(ValueError, match="Scores hold NaN"):
        auroc(np.array([0, np.nan, 1]), np.array([True, False, True]))


@pytest.mark.parametrize("size", [(40, 30), (7, 9), (12, 11, 10)])
def test_ssim_of_the_frame_is_that_of_scikit_image(size):
    x, y = np.random.default_rng(0).random((2, *size))
    assert ssim_map(x, y).mean() == pytest.approx(structural_similarity(x, y, win_size=7, data_range=1), abs=1e-14)


def test_ssim_in_closed_form():
    x = np.random.default_rng(0).random((30, 30))
    assert ssim_map(x, x).mean() == pytest.approx(1)
    a, b = np.full((30, 30), 0.6), np.full((30, 30), 0.2)
    shifted = (2 * 0.6 * 0.2 + 0.01**2) / (0.6**2 + 0.2**2 + 0.01**2)
    assert ssim_map(a, b).mean() == pytest.approx(shifted), "flat images differ in the luminance term only"
    assert ssim_map(x, np.clip(x, 0, 1) + 3).mean() == ssim_map(x, np.ones_like(x)).mean(), "clamped to [0, 1]"
    assert ssim_map(x, 1 - x).mean() < 0, "inverted contrast"


def test_an_empty_image_has_the_ssim_of_the_background():
    image = np.zeros((60, 60))
    image[20:40, 20:40] = np.random.default_rng(0).uniform(0.4, 0.8, (20, 20))
    similar = ssim_map(image, np.zeros_like(image))
    assert similar.mean() > 0.75, "the frame of a small brain cannot tell"
    assert similar[17:37, 17:37].mean() < 0.01


def test_ssim_of_images_below_the_window_is_refused():
    with pytest.raises(ValueError, match=r"Images of shape \(6, 30\) are too small"):
        ssim_map(np.zeros((6, 30)), np.zeros((6, 30)))


@pytest.fixture
def study(tmp_path):
    """A function that writes a sample set and its scores, then evaluates them."""

    def evaluated(splits=("validation", "test", "test", "test"), lesions=True, maps=MAPS, brain=None):
        generator = np.random.default_rng(0)
        writer = SampleWriter(tmp_path / "samples", len(splits) + 1, SIZE)
        for index, split in enumerate(("train", *splits)):
            inside = np.zeros(SIZE, bool)
            inside[4:20, 4:16] = True
            inside = inside if brain is None else np.full(SIZE, brain)
            lesion = np.zeros(SIZE, bool)
            lesion[2 : 8 + index, 8:12] = lesions and split == "test"
            image = generator.random(SIZE, dtype=np.float32) * inside
            row = {"scan": f"sub-{index}", "subject": str(index), "split": split, "position": 0.0}
            writer.add(image, inside, lesion, row)
        writer.close()
        arrays = {name: np.array(writer.arrays[name][1:]) for name in ("images", "brain", "lesion")}
        residual = generator.random(arrays["images"].shape, dtype=np.float32)
        arrays["reconstruction"] = np.clip(arrays["images"] + 0.2 * residual, 0, 1)
        arrays["residual"] = residual
        arrays["map"] = residual + 0.5 * arrays["lesion"].astype(np.float32)
        score = tmp_path / "score"
        score.mkdir()
        for name in ("reconstruction", "residual", "map"):
            np.save(score / f"{name}.npy", arrays[name])
        table = pd.DataFrame(writer.rows[1:])
        table.to_csv(score / "table.tsv", sep="\t", index=False)
        metrics(score, tmp_path / "samples", tmp_path / "out/ixi.tsv", "ixi", "rae", 3, maps)
        test = np.array([split == "test" for split in splits])
        return pd.read_csv(tmp_path / "out/ixi.tsv", sep="\t"), {name: a[test] for name, a in arrays.items()}

    return evaluated


def value(table, metric, region, map_="map", column="value"):
    chosen = table[(table["metric"] == metric) & (table["region"] == region)]
    chosen = chosen if metric == "lesion_outside_brain" else chosen[chosen["map"] == map_]
    assert len(chosen) == 1
    return chosen[column].item()


def test_rows_are_in_long_format(study):
    table, arrays = study()
    assert table.columns.tolist() == list(COLUMNS)
    assert set(zip(table["dataset"], table["model"], table["seed"], strict=True)) == {("ixi", "rae", 3)}
    assert set(table["metric"]) == set(CATALOGUE)
    assert not table.duplicated(["metric", "region", "map"]).any()
    assert table[["low", "high"]].isna().all(axis=None)
    assert set(table.loc[table["metric"] == "ssim", "n"]) == {3}, "images of the test split"
    assert value(table, "auroc", "frame", column="n") == arrays["map"].size, "pixels of the test split"


@pytest.mark.parametrize("map_", ["map", "residual"])
def test_pixels_of_all_test_images_are_pooled(study, map_):
    table, arrays = study()
    scores, lesion, brain = arrays[map_], arrays["lesion"], arrays["brain"]
    for region, inside in (("frame", np.ones_like(brain)), ("brain", brain)):
        truth, values = lesion[inside], scores[inside]
        assert value(table, "auroc", region, map_) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
        expected = average_precision_score(truth, values)
        assert value(table, "average_precision", region, map_) == pytest.approx(expected, abs=1e-12)
        assert value(table, "average_precision", region, map_, "prevalence") == pytest.approx(truth.mean())
    each = [average_precision_score(t.ravel(), s.ravel()) for t, s in zip(lesion, scores, strict=True)]
    assert abs(np.mean(each) - value(table, "average_precision", "frame", map_)) > 1e-4, "not the mean over images"


def test_region_is_one_mask_for_prediction_and_truth(study):
    """Lesion outside the brain is no missed positive of the region, and its share is told."""
    table, arrays = study()
    lesion, brain = arrays["lesion"], arrays["brain"]
    share = (lesion & ~brain).sum() / lesion.sum()
    assert 0 < share < 1
    assert value(table, "lesion_outside_brain", "frame") == pytest.approx(share)
    assert value(table, "auroc", "brain", column="n") == brain.sum()
    masked = roc_auc_score(lesion.ravel(), (arrays["map"] * brain).ravel())
    assert abs(masked - value(table, "auroc", "brain")) > 0.01


def test_ssim_is_the_mean_over_test_images(study):
    table, arrays = study()
    frame, brain = [], []
    triples = zip(*(arrays[name][:, 0] for name in ("images", "reconstruction", "brain")), strict=True)
    for image, reconstruction, inside in triples:
        pair = image.astype(float), reconstruction.astype(float)
        mean, full = structural_similarity(*pair, win_size=7, data_range=1, full=True)
        inside = inside.copy()
        inside[[0, 1, 2, -3, -2, -1]] = inside[:, [0, 1, 2, -3, -2, -1]] = False
        frame.append(mean)
        brain.append(full[inside].mean())
    assert value(table, "ssim", "frame", "reconstruction") == pytest.approx(np.mean(frame), abs=1e-12)
    assert value(table, "ssim", "brain", "reconstruction") == pytest.approx(np.mean(brain), abs=1e-12)


def test_a_brain_that_fills_the_frame_gives_equal_regions(study):
    table, _ = study(brain=True)
    for metric, map_ in (("ssim", "reconstruction"), ("auroc", "map"), ("average_precision", "map")):
        assert value(table, metric, "brain", map_) == pytest.approx(value(table, metric, "frame", map_), abs=1e-12)
    assert value(table, "lesion_outside_brain", "frame") == 0


def test_samples_without_brain_have_no_brain_ssim(study):
    table, _ = study(brain=False)
    assert np.isnan(value(table, "ssim", "brain", "reconstruction"))
    assert value(table, "ssim", "brain", "reconstruction", "n") == 0
    assert np.isnan(value(table, "auroc", "brain"))
    assert np.isfinite(value(table, "ssim", "frame", "reconstruction"))


def test_healthy_datasets_have_ssim_only(study):
    table, _ = study(lesions=False)
    assert table["metric"].tolist() == ["ssim", "ssim"]
    assert table["prevalence"].isna().all()


def test_scores_without_test_samples_are_refused(study):
    with pytest.raises(ValueError, match=r"has no test samples: give dataset ixi a `split.test` above 0"):
        study(splits=("validation", "validation"))


@pytest.mark.parametrize("name", ["metrics", "comparison", "figures"])
def test_light_jobs_import_nothing_heavy(name):
    heavy = {"torch", "monai", "ants", "lpips", "sklearn"}
    code = f"import sys, brainuad.{name}; print(*({heavy} & set(sys.modules)))"
    path = str(Path(__file__).parents[1] / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == ""


def test_catalogue_describes_every_metric():
    for name, metric in CATALOGUE.items():
        assert metric.name == name
        assert metric.direction in ("higher is better", "lower is better")
        assert all((metric.title, metric.formula, metric.range, metric.regions, metric.pooling))
