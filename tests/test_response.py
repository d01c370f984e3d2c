import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread
from sklearn.metrics import average_precision_score

from brainuad.resampling import draws
from brainuad.response import COLUMNS, MEASURES, measures, response, threshold_of
from brainuad.response_surface import response_surface, surface_figure
from brainuad.sample_set import SampleSet
from brainuad.synthetic import synthetic

GRID = {"size": [4, 8], "intensity": [0.0, 0.5, 1.0], "samples": 3}
KINDS = ["ellipse", "copy_paste"]
SETTINGS = {"kinds": KINDS, "size": [1, 2], "intensity": [0, 1], "centre": "brain", "seed": 1, "grid": GRID}


def write_thresholds(path, threshold=0.5, reason=""):
    """Thresholds of which one alone is meant: the brain's at five percent."""
    rows = [
        {"region": region, "rate": rate, "threshold": 1e9, "n": 100, "reason": ""}
        for region in ("frame", "brain")
        for rate in (0.01, 0.05)
    ]
    rows[-1] |= {"threshold": threshold, "reason": reason}
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False)
    return path


def cell(scores, lesion, brain, owner=None):
    """The numbers of one cell, by default with a subject for each sample, at a threshold of one half."""
    owner = np.arange(len(scores)).astype(str) if owner is None else np.array(owner)
    return measures(scores.astype(np.float32), lesion, brain, 0.5, owner, draws("grid", len(set(owner)), 200))


@pytest.fixture
def respond(tmp_path, make_sample_set):
    """A function that scores a grid by a function of its masks and measures the response."""
    synthetic(make_sample_set(), tmp_path / "grid", SETTINGS)
    samples = SampleSet(tmp_path / "grid")

    def responded(scores, threshold=0.5, reason=""):
        folder = tmp_path / "score"
        folder.mkdir(exist_ok=True)
        np.save(folder / "map.npy", scores(samples).astype(np.float32))
        samples.table.to_csv(folder / "table.tsv", sep="\t", index=False)
        thresholds = write_thresholds(tmp_path / "thresholds.tsv", threshold, reason)
        response(folder, samples.folder, thresholds, tmp_path / "out/grid.tsv", "grid", "rae", "3", 200)
        return pd.read_csv(tmp_path / "out/grid.tsv", sep="\t", keep_default_na=True)

    return responded


def test_a_perfect_map_finds_everything(respond):
    table = respond(lambda samples: samples.lesion)
    assert list(table.columns) == list(COLUMNS)
    assert len(table) == 2 * 2 * 3
    assert set(zip(table["dataset"], table["model"], table["seed"], table["n"], strict=True)) == {("grid", "rae", 3, 3)}
    assert table["average_precision"].eq(1).all()
    assert table["detection"].eq(1).all()
    assert table["detection_high"].eq(1).all()
    assert table["detection_low"].lt(0.5).all(), "three of three are few"
    assert table["reason"].str.startswith("average_precision: no interval: the same in all draws").all()
    assert table["prevalence"].between(0.001, 0.2).all()


@pytest.mark.parametrize(
    ("value", "reason"), [(0.6, "the map is constant"), (np.nan, "NaN or infinity"), (np.inf, "NaN or infinity")]
)
def test_a_map_that_says_nothing_has_a_reason_and_no_number(respond, value, reason):
    """A map that is the same everywhere would "detect" everything, or nothing, by where the threshold lies."""
    table = respond(lambda samples: np.full(samples.lesion.shape, value))
    assert table[MEASURES].isna().all(axis=None)
    assert table["reason"].str.contains(reason).all()
    assert table["prevalence"].between(0.001, 0.2).all()


def test_a_map_that_is_constant_inside_the_brain_alone_says_nothing(respond):
    """Its background differs, which no number of a cell is of."""
    table = respond(lambda samples: np.where(samples.brain, 0.6, 0.1))
    assert table[MEASURES].isna().all(axis=None)
    assert set(table["reason"]) == {"the map is constant"}


def test_intervals_are_over_subjects(respond):
    """Three samples of a cell are of three subjects, two of which are found."""

    def two_of_three(samples):
        known = samples.table.groupby(["kind", "size", "intensity"]).cumcount() < 2
        return samples.lesion * known.to_numpy()[:, None, None, None] + 0.1 * samples.brain

    table = respond(two_of_three)
    assert table["detection"].tolist() == pytest.approx([2 / 3] * len(table))
    assert table["detection_low"].between(0, 0.1).all()
    assert table["detection_high"].between(0.95, 1).all(), "of three subjects nothing is certain"
    assert (table["average_precision_low"] <= table["average_precision"]).all()
    assert (table["average_precision_high"] > table["average_precision"]).all()
    assert table["reason"].isna().all()


def test_one_subject_alone_has_no_interval():
    brain = np.ones((2, 1, 8, 8), bool)
    lesion = np.zeros_like(brain)
    lesion[:, :, :3] = True
    found = cell(lesion + 0.1, lesion, brain, owner=("a", "a"))
    assert found["average_precision"] == 1
    assert np.isnan([found["average_precision_low"], found["detection_high"]]).all()


def test_cells_are_kept_apart(respond):
    """Scores that know the large ones at full intensity alone."""

    def known(samples):
        rows = (samples.table["size"] == 8) & (samples.table["intensity"] == 1)
        return samples.lesion * rows.to_numpy()[:, None, None, None]

    table = respond(known)
    meant = (table["size"] == 8) & (table["intensity"] == 1)
    assert table.loc[meant, ["average_precision", "detection"]].eq(1).all(axis=None)
    assert table.loc[~meant, MEASURES].isna().all(axis=None)
    assert set(table.loc[~meant, "reason"]) == {"the map is constant"}


def test_a_missing_threshold_leaves_detection_empty_and_says_why(respond, tmp_path):
    table = respond(lambda samples: samples.lesion, np.nan, "no validation subjects")
    assert table["detection"].isna().all()
    assert set(table["reason"]) == {"no validation subjects"}
    assert table["average_precision"].eq(1).all()
    pd.DataFrame(columns=["region", "rate", "threshold", "n", "reason"]).to_csv(tmp_path / "t.tsv", sep="\t")
    threshold, reason = threshold_of(tmp_path / "t.tsv")
    assert np.isnan(threshold)
    assert reason.endswith("has no threshold for the brain at a rate of 0.05")


def test_a_tenth_of_the_pixels_inside_the_brain_is_a_detection():
    brain = np.ones((3, 1, 10, 10), bool)
    brain[:, :, 5:] = False
    lesion = np.zeros_like(brain)
    lesion[:, :, 3:7] = True  # 20 pixels inside, 20 outside
    scores = np.zeros(brain.shape, np.float32)
    scores[0, 0, 3, :2] = 1  # a tenth of those inside
    scores[1, 0, 3, :1] = 1
    scores[2, 0, 5:] = 1  # all of those outside
    found = cell(scores, lesion, brain)
    assert found["detection"] == pytest.approx(1 / 3)
    assert found["average_precision"] == pytest.approx(average_precision_score(lesion[brain], scores[brain]))


def test_anomalies_outside_the_brain_do_not_count():
    brain, lesion = np.zeros((2, 2, 1, 8, 8), bool)
    brain[:, :, :4] = True
    lesion[0, 0, 5:] = True
    scores = np.zeros(brain.shape, np.float32)
    nothing = cell(scores, lesion, brain)
    assert np.isnan([nothing["average_precision"], nothing["detection"]]).all()
    lesion[1, 0, 2:6] = True
    assert cell(lesion, lesion, brain)["detection"] == 1


def test_scores_without_cells_are_refused(tmp_path, make_sample_set):
    samples = SampleSet(make_sample_set())
    samples.table.drop(columns="kind").to_csv(tmp_path / "table.tsv", sep="\t", index=False)
    with pytest.raises(ValueError, match=r"dataset odd needs `anomalies\.grid`"):
        response(tmp_path, samples.folder, tmp_path, tmp_path / "out.tsv", "odd", "rae", 1, 10)


LABELS = {"rae": "Reversed AE", "vqvae": "VQ-VAE", "absent": "Not scored"}


def responses(models=("vqvae", "rae"), seeds=(1,), kinds=("ellipse", "blur"), sizes=(6, 12), intensities=(0.0, 0.5, 1)):
    rows = [
        {"dataset": "suite", "model": model, "seed": seed, "kind": kind, "size": size, "intensity": intensity, "n": 4}
        | {"prevalence": 0.01 * size, "average_precision": intensity * seed / 2, "detection": size / 12}
        for model in models
        for seed in seeds
        for kind in kinds
        for size in sizes
        for intensity in intensities
    ]
    return pd.DataFrame(rows)


def maps(figure):
    """The heat maps: row → column → array, from the top left."""
    axes = [axis for axis in figure.axes if axis.texts and axis.images]
    tops = sorted({round(axis.get_position().y0, 4) for axis in axes}, reverse=True)
    return [[axis for axis in axes if round(axis.get_position().y0, 4) == top] for top in tops]


def test_heat_maps_have_a_row_a_model_and_a_column_a_kind():
    figure = surface_figure(responses(seeds=(1, 2)), "average_precision", {"models": LABELS, "simulated": False})
    rows = maps(figure)
    assert [len(row) for row in rows] == [2, 2, 2, 2]
    assert [axis.get_title() for axis in rows[0]] == ["ellipse", "blur"]
    assert [row[0].texts[-1].get_text() for row in rows] == ["Random score", "Reversed AE", "VQ-VAE", "Not scored"]
    assert rows[1][1].images[0].get_array().tolist() == [[0, 0.375, 0.75]] * 2, "the mean of the seeds"
    assert rows[0][0].images[0].get_array().tolist() == [[0.06] * 3, [0.12] * 3], "the prevalence"
    assert [text.get_text() for text in rows[1][1].texts] == [".00", ".38", ".75"] * 2
    assert {text.get_text() for text in rows[3][1].texts} == {"\N{EN DASH}"}
    assert {axis.images[0].get_clim() for row in rows for axis in row} == {(0, 1)}, "one colour scale"
    assert [label.get_text() for label in rows[1][0].get_yticklabels()] == ["6 px", "12 px"]
    assert "mean of 2 seeds" in " ".join(text.get_text() for text in figure.texts).replace("\n", " ")


def test_a_broken_seed_leaves_no_mean_of_the_others():
    table = responses(seeds=(1, 2))
    table.loc[(table["model"] == "rae") & (table["seed"] == 2), ["average_precision", "detection"]] = np.nan
    for measure, first in (("average_precision", 1), ("detection", 0)):
        rows = maps(surface_figure(table, measure, {"models": LABELS, "simulated": False}))[first:]
        assert {text.get_text() for text in rows[0][0].texts[:6]} == {"\N{EN DASH}"}
        assert "\N{EN DASH}" not in {text.get_text() for text in rows[1][0].texts[:6]}


@pytest.mark.parametrize("simulated", [True, False])
def test_detection_has_no_prevalence_and_simulated_scans_are_called_so(simulated):
    figure = surface_figure(responses(), "detection", {"models": LABELS, "simulated": simulated})
    assert [row[0].texts[-1].get_text() for row in maps(figure)] == list(LABELS.values())
    assert ("simulated" in figure.get_suptitle()) == simulated


def test_both_figures_are_written_and_the_same_each_time(tmp_path):
    for model in ("vqvae", "rae"):
        responses((model,)).to_csv(tmp_path / f"{model}.tsv", sep="\t", index=False)
    settings = {"models": LABELS, "simulated": True}
    for attempt in ("a", "b"):
        outputs = tmp_path / attempt / "average_precision.png", tmp_path / attempt / "detection.png"
        response_surface([tmp_path / "vqvae.tsv", tmp_path / "rae.tsv"], *outputs, settings)
    for path in outputs:
        assert imread(path)[..., :3].std() > 0.05
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_thirteen_models_and_seven_kinds_fit_without_overlap():
    models = {f"model_{i}": f"A rather long label {i}" for i in range(13)}
    table = responses(tuple(models), kinds=tuple("abcdefg"), sizes=(6, 12, 24), intensities=(0, 0.25, 0.5, 0.75, 1))
    figure = surface_figure(table, "average_precision", {"models": models, "simulated": True})
    rows = maps(figure)
    assert [len(row) for row in rows] == [7] * 14
    for first, second in itertools.pairwise(rows):
        assert first[0].get_position().y0 > second[0].get_position().y1
        assert first[0].get_position().x1 < first[1].get_position().x0
    assert max(figure.get_size_inches()) < 16
