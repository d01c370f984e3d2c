import shutil
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from skimage.metrics import structural_similarity
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from brainuad import measures
from brainuad.catalogue import CATALOGUE
from brainuad.cohort import Cohort, unusable
from brainuad.counts import count
from brainuad.metrics import COLUMNS, metrics
from brainuad.resampling import draws, interval
from brainuad.sample_set import SampleSet, SampleWriter
from brainuad.thresholds import RATES, Threshold, thresholds
from test_detection import area_up_to

SIZE = (24, 20)
MAPS = ("map", "residual")
SETTINGS = {"resamples": 200, "spacing": 4.0}


@pytest.fixture
def study(tmp_path):
    """A function that writes a sample set and its scores, then evaluates them."""

    def evaluated(splits=("validation", "test", "test", "test"), lesions=True, maps=MAPS, brain=None, change=None):
        generator = np.random.default_rng(0)
        writer = SampleWriter(tmp_path / "samples", len(splits) + 1, SIZE)
        for index, split in enumerate(("train", *splits)):
            inside = np.zeros(SIZE, bool)
            inside[4:20, 4:16] = True
            inside = inside if brain is None else np.full(SIZE, brain)
            lesion = np.zeros(SIZE, bool)
            some = index > len(splits) - lesions if lesions in (2, 3) else bool(lesions)
            lesion[2 : 8 + index, 8:12] = some and split == "test"
            lesion |= lesions == "everywhere" and split == "test"
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
        arrays["perceptual"] = residual**2
        arrays |= {name: changed(arrays[name]) for name, changed in (change or {}).items()}
        for name in ("reconstruction", "residual", "perceptual", "map"):
            np.save(score / f"{name}.npy", arrays[name])
        table = pd.DataFrame(writer.rows[1:])
        table.to_csv(score / "table.tsv", sep="\t", index=False)
        kept = {"dataset": "ixi", "model": "rae", "seed": 3, "settings": SETTINGS, "maps": maps}
        out = tmp_path / "out"
        paths = [out / name for name in ("ixi.tsv", "subjects.tsv", "curves.tsv", "replicates.npz")]
        thresholds([score], [tmp_path / "samples"], out / "thresholds.tsv")
        metrics(score, tmp_path / "samples", out / "thresholds.tsv", *paths, **kept)
        test = np.array([split == "test" for split in splits])
        return pd.read_csv(tmp_path / "out/ixi.tsv", sep="\t"), {name: a[test] for name, a in arrays.items()}

    evaluated.folder = tmp_path / "out"
    return evaluated


def value(table, metric, region, map_="map", column="value", pooling=None):
    chosen = table[(table["metric"] == metric) & (table["region"] == region)]
    pooling = pooling or ("images" if map_ == "reconstruction" else "pixels")
    chosen = chosen[chosen["pooling"] == pooling]
    chosen = chosen if metric == "lesion_outside_brain" else chosen[chosen["map"] == map_]
    assert len(chosen) == 1
    return chosen[column].item()


def test_rows_are_in_long_format(study):
    table, arrays = study()
    assert table.columns.tolist() == list(COLUMNS)
    assert set(zip(table["dataset"], table["model"], table["seed"], strict=True)) == {("ixi", "rae", 3)}
    restored = {"restoration_error_inside", "restoration_error_outside", "copy_error_inside"}
    assert set(table["metric"]) == set(CATALOGUE) - restored, "no clean original is known of these lesions"
    assert not table.duplicated(["metric", "region", "pooling", "map"]).any()
    assert set(table.loc[table["metric"] == "ssim", "n"]) == {3}, "images of the test split"
    known = table.dropna(subset=["low"])
    assert (known["low"] <= known["high"]).all()
    assert table["low"].isna().equals(table["reason"].notna()), "what is undefined or has no interval says why"
    assert table.loc[table["value"].notna(), "reason"].dropna().str.startswith("no interval: ").all()
    assert value(table, "auroc", "frame", column="n") == arrays["map"].size, "pixels of the test split"


@pytest.mark.parametrize("name", ["map", "residual", "perceptual", "reconstruction"])
def test_scores_of_half_precision_are_refused(study, name):
    """Ties that are none in the map would change every area."""
    with pytest.raises(ValueError, match=rf"{name}.npy holds float16, not float32: score the model again"):
        study(change={name: lambda array: array.astype(np.float16)})


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
        for pooling in ("subjects", "pixels") if map_ == "map" else ("images",):
            values = (value(table, metric, region, map_, pooling=pooling) for region in ("brain", "frame"))
            assert next(values) == pytest.approx(next(values), abs=1e-12)
    assert value(table, "lesion_outside_brain", "frame") == 0


def test_samples_without_brain_have_no_brain_ssim(study):
    table, _ = study(brain=False)
    assert np.isnan(value(table, "ssim", "brain", "reconstruction"))
    assert value(table, "ssim", "brain", "reconstruction", "n") == 0
    assert np.isnan(value(table, "auroc", "brain"))
    assert np.isfinite(value(table, "ssim", "frame", "reconstruction"))


def test_healthy_datasets_have_no_detection(study):
    table, _ = study(lesions=False)
    expected = {"ssim", "ms_ssim", "psnr", "mae", "lpips", "false_positive_rate_1", "false_positive_rate_5"}
    assert set(table["metric"]) == expected
    assert table["prevalence"].isna().all()


def test_scores_without_test_samples_are_refused(study):
    with pytest.raises(ValueError, match=r"has no test samples: give dataset ixi a `split.test` above 0"):
        study(splits=("validation", "validation"))


@pytest.mark.parametrize("region", ["frame", "brain"])
def test_the_mean_over_subjects_is_of_each_ones_own_pixels(study, region):
    table, arrays = study()
    each = []
    for scores, lesion, brain in zip(arrays["map"], arrays["lesion"], arrays["brain"], strict=True):
        inside = brain if region == "brain" else np.ones_like(brain)
        each.append(
            (roc_auc_score(lesion[inside], scores[inside]), average_precision_score(lesion[inside], scores[inside]))
        )
    for metric, expected in zip(("auroc", "average_precision"), np.mean(each, axis=0), strict=True):
        assert value(table, metric, region, pooling="subjects") == pytest.approx(expected, abs=1e-12)
        assert value(table, metric, region, pooling="subjects", column="n") == 3


@pytest.mark.parametrize("rate", [1, 5])
def test_dice_at_a_threshold_has_no_say_of_test_images(study, rate):
    table, arrays = study()
    scores, lesion, brain = arrays["map"], arrays["lesion"], arrays["brain"]
    threshold = pd.read_csv(study.folder / "thresholds.tsv", sep="\t").query(
        "region == 'brain' and rate == @rate / 100"
    )
    marked, truth = (scores > threshold["threshold"].item())[brain], lesion[brain]
    expected = 2 * (marked & truth).sum() / (marked.sum() + truth.sum())
    assert value(table, f"dice_{rate}", "brain") == pytest.approx(expected)
    wrong = [
        ((s > threshold["threshold"].item()) & b & ~t).sum() / (b & ~t).sum()
        for s, t, b in zip(scores, lesion, brain, strict=True)
    ]
    found = value(table, f"false_positive_rate_{rate}", "brain", pooling="subjects")
    assert found == pytest.approx(np.mean(wrong)), "false positives over normal pixels, not over all that is marked"


def test_thresholds_of_the_map_are_no_other_maps(study):
    table, _ = study(maps=("residual", "map"))
    for name, pooling in (("dice_5", "pixels"), ("optimism", "subjects"), ("false_positive_rate_5", "subjects")):
        assert np.isnan(value(table, name, "brain", "residual", pooling=pooling))
        reason = value(table, name, "brain", "residual", "reason", pooling)
        assert reason == "no threshold: those of rule thresholds are of the anomaly map, not of residual"
        assert np.isfinite(value(table, name, "brain", pooling=pooling))
    assert np.isfinite(value(table, "best_dice", "brain", "residual"))


def test_optimism_is_the_gap_between_both_thresholds(study):
    table, _ = study()
    for pooling in ("pixels", "subjects"):
        best, kept, gap = (value(table, name, "brain", pooling=pooling) for name in ("best_dice", "dice_5", "optimism"))
        assert gap == pytest.approx(best - kept)
        assert gap >= 0


def test_without_validation_subjects_there_is_no_threshold(study):
    table, _ = study(splits=("test", "test", "test"))
    for name, pooling in (("dice_5", "pixels"), ("optimism", "subjects"), ("false_positive_rate_5", "subjects")):
        assert np.isnan(value(table, name, "brain", pooling=pooling))
        reason = value(table, name, "brain", pooling=pooling, column="reason")
        assert reason.startswith("no threshold: no healthy validation subjects")
    assert np.isfinite(value(table, "best_dice", "brain"))


def test_a_broken_validation_map_is_named_as_what_leaves_no_threshold(study):
    """Outside the brain it spoils the threshold of the frame alone."""

    def broken(maps):
        maps = maps.copy()
        maps[0, 0, 0, 0] = np.nan
        return maps

    table, _ = study(change={"map": broken}, maps=("map",))
    for name in ("dice_1", "dice_5", "optimism"):
        assert np.isnan(value(table, name, "frame"))
        reason = value(table, name, "frame", column="reason")
        assert reason == "no threshold: the map of a validation subject holds NaN or infinity: score the model again"
        assert np.isfinite(value(table, name, "brain"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"map": lambda array: np.full_like(array, 0.3)}, "the map is constant"),
        ({"map": lambda array: np.where(array > 0.9, np.nan, array)}, "the map holds NaN or infinity"),
        ({"map": lambda array: np.where(array > 0.9, np.inf, array)}, "the map holds NaN or infinity"),
    ],
)
def test_maps_that_say_nothing_give_a_reason_and_no_number(study, change, reason):
    table, _ = study(change=change, maps=("map",))
    detected = table[table["metric"].isin(["auroc", "average_precision", "best_dice", "dice_5", "aupro", "froc"])]
    assert len(detected) == 19
    wrong = table[table["metric"].str.startswith("false_positive_rate")]
    assert wrong["value"].isna().all()
    assert wrong["reason"].str.contains(reason).all(), "no alarm at all is no merit of a map that says nothing"
    assert detected["value"].isna().all()
    assert detected["reason"].str.contains(reason).all()


def test_a_map_that_is_constant_inside_the_brain_alone_has_no_false_positives(study):
    """That none of its pixels is above a threshold is no merit."""

    def constant_inside(array):
        array = array.copy()
        array[..., 4:20, 4:16] = 0.3
        return array

    table, _ = study(change={"map": constant_inside}, maps=("map",))
    wrong = table[table["metric"].str.startswith("false_positive_rate")]
    assert wrong["value"].isna().all()
    assert set(wrong["reason"]) == {"the map is constant"}
    assert np.isfinite(value(table, "auroc", "frame"))


def test_maps_without_a_pixel_are_not_constant():
    assert unusable([np.empty(0, np.float32)]) == unusable([]) == ""
    assert unusable([np.empty(0, np.float32), np.ones(2, np.float32)]) == "the map is constant"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["reconstruction", "perceptual"])
def test_one_broken_reconstruction_leaves_no_mean_of_the_others(study, name, bad):
    def broken(array):
        array = array.copy()
        array[2, 0, 10, 10] = bad
        return array

    table, _ = study(change={name: broken})
    alike = table[table["map"] == "reconstruction"]
    assert len(alike) == 10
    assert alike["value"].isna().all()
    assert alike["low"].isna().all()
    assert set(alike["reason"]) == {f"1 of 3 images have NaN or infinity in {name}.npy: score the model again"}
    assert np.isfinite(value(table, "auroc", "brain")), "the map is whole"


def test_an_image_that_is_copied_has_no_peak_signal_to_noise_ratio(study):
    """It is infinite: left out of the mean, a copy would make a model worse."""

    def copied(images):
        return lambda array: np.concatenate([array[:1], images["images"][1:2], array[2:]])

    arrays = study()[1]
    images = {"images": np.concatenate([arrays["images"][:1], arrays["images"]])}
    shutil.rmtree(study.folder.parent / "score")
    table, _ = study(change={"reconstruction": copied(images)})
    for region in ("frame", "brain"):
        assert np.isnan(value(table, "psnr", region, "reconstruction"))
        reason = value(table, "psnr", region, "reconstruction", "reason")
        assert reason == "infinite in 1 of 3 images, which their reconstructions equal"
        assert np.isfinite(value(table, "ssim", region, "reconstruction"))


@pytest.mark.parametrize("region", ["frame", "brain"])
def test_every_threshold_counts(study, region):
    """Best Dice, optimism, the rate at 95 % and AUPRO are those of all thresholds, pooled and with one for all."""
    table, arrays = study()
    brain = arrays["brain"] if region == "brain" else np.ones_like(arrays["brain"])
    subjects = [(s[b], t[b]) for s, t, b in zip(arrays["map"], arrays["lesion"], brain, strict=True)]
    scores, truth = (np.concatenate(parts) for parts in zip(*subjects, strict=True))

    def dice(scores, truth, threshold):
        return 2 * (truth & (scores >= threshold)).sum() / (truth.sum() + (scores >= threshold).sum())

    levels = np.unique(scores)
    best = max(dice(scores, truth, level) for level in levels)
    assert value(table, "best_dice", region) == pytest.approx(best, abs=1e-12)
    mean = max(np.mean([dice(*subject, level) for subject in subjects]) for level in levels)
    assert value(table, "best_dice", region, pooling="subjects") == pytest.approx(mean, abs=1e-12)
    false, true, _ = roc_curve(truth, scores, drop_intermediate=False)
    assert value(table, "fpr_at_95_tpr", region) == pytest.approx(false[np.argmax(true >= 0.95)], abs=1e-12)
    rates, overlap = [0.0], [0.0]
    for level in levels[::-1]:
        rates.append((~truth & (scores >= level)).sum() / (~truth).sum())
        overlap.append(np.mean([(s >= level)[t].mean() for s, t in subjects]))  # one lesion a subject
    expected = area_up_to(0.3, np.array(rates), np.array(overlap))
    assert value(table, "aupro", region, pooling="lesions") == pytest.approx(expected, abs=1e-12)


def large_cohort(folder, subjects=3, scale=1):
    """Test images with so many pixels that abnormal and normal ones share bins."""
    generator, shape, maps = np.random.default_rng(0), (200 * scale, 160 * scale), []
    writer = SampleWriter(folder / "samples", subjects, shape)
    for index in range(subjects):
        brain, lesion = np.zeros((2, *shape), bool)
        brain[20:180, 20:140], lesion[10:90, 30 : 60 + 10 * (index % 3)], lesion[120:130, 100:110] = True, True, True
        writer.add(generator.random(shape), brain, lesion, {"scan": f"sub-{index}", "subject": index, "split": "test"})
        maps.append(np.float32(generator.random((1, *shape)) + 0.3 * lesion))
    writer.close()
    (folder / "score").mkdir()
    np.save(folder / "score/map.npy", maps)
    pd.DataFrame(writer.rows).to_csv(folder / "score/table.tsv", sep="\t", index=False)
    return Cohort(folder / "score", SampleSet(folder / "samples"))


@pytest.fixture
def large(tmp_path):
    """Three of them."""
    return large_cohort(tmp_path)


def test_memory_does_not_grow_with_the_pixels_of_all_subjects(tmp_path, monkeypatch):
    """But for the bins of each subject, it is that of one subject's pixels; kept, those of all would be 154 MB."""
    monkeypatch.setattr(measures, "EXACT_PIXELS", 0)
    peaks = {}
    for subjects in (2, 60):
        (tmp_path / str(subjects)).mkdir()
        large = large_cohort(tmp_path / str(subjects), subjects, 4)
        counted = {"frame": count(partial(large.pixels, "frame"), subjects, bins=64)}
        rates, weights = {("frame", rate): Threshold(0.95) for rate in RATES}, draws("ixi", subjects, 5)
        tracemalloc.start()
        measures.detection_numbers(large, counted, weights, rates)
        peaks[subjects] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[60] < 1.1 * peaks[2]


@pytest.mark.filterwarnings("error")
def test_beyond_so_many_pixels_values_are_nearly_exact(large, monkeypatch):
    """Of pixels counted together; AUPRO keeps to the bins of the draws, and draws are the same either way."""
    rates, weights = (
        {(region, rate): Threshold(0.95) for region in ("frame", "brain") for rate in RATES},
        draws("ixi", 3, 50),
    )
    counted, both = measures.count_regions(large), []
    for most in (measures.EXACT_PIXELS, 0):
        monkeypatch.setattr(measures, "EXACT_PIXELS", most)
        rows = measures.detection_numbers(large, counted, weights, rates)
        both.append({(row.metric, row.region, row.pooling): row for row in rows})
    exact, nearly = both
    assert list(exact) == list(nearly)
    differences = {key: abs(row.value - nearly[key].value) for key, row in exact.items()}
    assert 0 < max(differences[key] for key in differences if key[0] in ("auroc", "average_precision")) < 1e-5
    assert 0 < max(differences.values()) < 1e-3
    for (metric, region, pooling), row in nearly.items():
        np.testing.assert_array_equal(row.replicates, exact[metric, region, pooling].replicates)
        if metric in ("dice_1", "dice_5") or (metric, pooling) == ("auroc", "subjects"):
            assert differences[metric, region, pooling] == 0, "not counted in bins"
        if metric == "aupro":
            marked = {rate: np.ones((2, 3)) for rate in RATES}  # no matter to lesions
            kept = measures.pooled_numbers(counted[region], marked, weights, region, "map")
            assert row.value == kept[-1].value


def test_lesion_outside_the_brain_has_an_interval(study):
    table, arrays = study()
    outside = (arrays["lesion"] & ~arrays["brain"]).sum() / arrays["lesion"].sum()
    assert value(table, "lesion_outside_brain", "frame") == pytest.approx(outside)
    low, high = (value(table, "lesion_outside_brain", "frame", column=name) for name in ("low", "high"))
    assert low <= outside <= high
    assert low < high


def test_a_map_that_is_constant_in_one_subject_has_no_mean_over_the_others(study):
    """Left out, its worst cases would not count against it."""

    def constant_in_one(array):
        array = array.copy()
        array[2] = 0.4
        return array

    table, _ = study(change={"map": constant_in_one}, maps=("map",))
    own = table[(table["pooling"] == "subjects") & table["metric"].isin(["auroc", "average_precision", "dice_5"])]
    assert len(own) == 6
    assert own["value"].isna().all()
    assert set(own["reason"]) == {"the map is constant in 1 of 3 subjects"}
    assert np.isfinite(value(table, "auroc", "brain")), "pooled pixels are of all"


def test_a_map_that_is_broken_outside_the_brain_ranks_no_image(study):
    def broken(array):
        array = array.copy()
        array[2, 0, 0, 0] = np.nan
        return array

    table, _ = study(change={"map": broken}, maps=("map",))
    for pooling in ("images", "subjects"):
        assert "NaN or infinity" in value(table, f"{pooling[:-1]}_auroc", "brain", pooling=pooling, column="reason")


def test_subjects_that_decide_are_those_with_a_lesion(study):
    table, _ = study(lesions=2)
    assert value(table, "auroc", "brain", column="subjects") == 2
    assert value(table, "average_precision", "brain", pooling="subjects", column="subjects") == 2
    assert value(table, "froc", "brain", pooling="lesions", column="subjects") == 2
    assert value(table, "image_auroc", "brain", pooling="images", column="subjects") == 1
    assert value(table, "ssim", "brain", "reconstruction", column="subjects") == 3


def test_lesions_that_fill_the_region_leave_nothing_normal(study):
    table, _ = study(lesions="everywhere", brain=True)
    assert np.isnan(value(table, "auroc", "brain"))
    assert value(table, "auroc", "brain", column="reason") == "the region has no normal pixel"


def test_images_without_healthy_ones_beside_them_are_not_ranked(study):
    table, _ = study()
    assert np.isnan(value(table, "image_auroc", "brain", pooling="images"))
    assert value(table, "image_auroc", "brain", pooling="images", column="reason") == "no image is healthy"


def test_subjects_stand_with_what_is_known_of_them(study):
    _, _ = study()
    table = pd.read_csv(study.folder / "subjects.tsv", sep="\t", dtype={"subject": str})
    assert table["subject"].tolist() == ["2", "3", "4"]
    assert {"group", "age", "sex", "site", "ssim/brain/images", "average_precision/brain/subjects"} <= set(
        table.columns
    )
    long = pd.read_csv(study.folder / "ixi.tsv", sep="\t")
    mean = value(long, "average_precision", "brain", pooling="subjects")
    assert table["average_precision/brain/subjects"].mean() == pytest.approx(mean)


def test_draws_belong_to_the_rows_of_the_table(study):
    table, _ = study()
    with np.load(study.folder / "replicates.npz") as stored:
        replicates = stored["replicates"]
    assert replicates.shape == (len(table), SETTINGS["resamples"])
    for row, drawn in zip(table.itertuples(), replicates, strict=True):
        if not np.isnan(row.low):
            counted = row.n if CATALOGUE[row.metric].share else 0
            assert (row.low, row.high) == pytest.approx(interval(row.value, drawn, row.subjects, counted), abs=1e-5)
            assert drawn.min() - 1e-6 <= row.value <= drawn.max() + 1e-6


def test_curves_rise_from_nothing_to_everything(study):
    study()
    curves = pd.read_csv(study.folder / "curves.tsv", sep="\t")
    assert set(curves["region"]) == {"frame", "brain"}
    for _, part in curves.groupby("region"):
        assert len(part) <= 200
        assert part["threshold"].is_monotonic_decreasing
        for name in ("true_positive_rate", "false_positive_rate"):
            assert part[name].is_monotonic_increasing
            assert part[name].iloc[-1] == 1


@pytest.mark.parametrize("name", ["metrics", "comparison", "figures", "response", "response_surface"])
def test_light_jobs_import_nothing_heavy(name):
    heavy = {"torch", "monai", "ants", "lpips", "sklearn"}
    code = f"import sys, brainuad.{name}; print(*({heavy} & set(sys.modules)))"
    path = str(Path(__file__).parents[1] / "scripts")
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": path}
    )
    assert done.stdout.strip() == ""
