import numpy as np
import pandas as pd
import pytest
from matplotlib.image import imread

from brainuad.figures import (
    Example,
    axial,
    figures,
    learning_curves_figure,
    limit_of,
    qualitative_figure,
    shown,
    typical,
)
from brainuad.sample_set import SampleSet, SampleWriter

SIZE = (20, 24)
LABELS = ["VQ-VAE", "Reversed AE", "Voxel mean"]


def an_example(title="Healthy", lesion=False, labels=LABELS, scale=1.0):
    generator = np.random.default_rng(0)
    mask = np.zeros(SIZE, bool)
    mask[4:9, 10:16] = lesion
    image = generator.random(SIZE)
    maps = {label: scale * (index + 1) * generator.random(SIZE) for index, label in enumerate(labels)}
    return Example(title, image, mask, {label: image * 0.9 for label in labels}, maps)


def cells(figure):
    """The cells that hold an image, by their place from the top left: (row, column) → axes."""
    axes = [axis for axis in figure.axes if axis.images]
    lefts = sorted({round(axis.get_position().x0, 3) for axis in figure.axes})
    tops = sorted({round(axis.get_position().y0, 3) for axis in figure.axes}, reverse=True)
    place = {id(axis): axis.get_position() for axis in axes}
    return {(tops.index(round(p.y0, 3)), lefts.index(round(p.x0, 3))): a for a in axes for p in [place[id(a)]]}


def test_grid_is_that_of_the_paper():
    blocks = [an_example("Healthy"), an_example("Abnormal", lesion=True)]
    figure = qualitative_figure(blocks, LABELS, simulated=False)
    grid = cells(figure)
    models = [(row, column) for row in range(4) for column in (1, 2, 3)]
    assert sorted(grid) == sorted([(0, 0), (2, 0), (3, 0), *models]), "no mask under the healthy input"
    assert [figure.axes[column].get_title() for column in range(4)] == ["Input", *LABELS]
    np.testing.assert_array_equal(grid[0, 0].images[0].get_array(), shown(blocks[0].image))
    np.testing.assert_array_equal(grid[2, 1].images[0].get_array(), shown(blocks[1].reconstructions["VQ-VAE"]))
    np.testing.assert_array_equal(grid[3, 3].images[0].get_array(), shown(blocks[1].maps["Voxel mean"]))
    np.testing.assert_array_equal(grid[3, 0].images[0].get_array(), shown(blocks[1].lesion))


def test_true_anomaly_is_outlined_where_there_is_one():
    grid = cells(qualitative_figure([an_example(), an_example(lesion=True)], LABELS, simulated=False))
    outlined = {place for place, axis in grid.items() if axis.collections}
    assert outlined == {(2, 0), (3, 1), (3, 2), (3, 3)}
    x, y = grid[2, 0].collections[0].get_paths()[0].vertices.T
    assert (x.min(), x.max()) == (20 - 9 - 0.5, 20 - 5 + 0.5), "left and right change sides"
    assert (y.min(), y.max()) == (9.5, 15.5)


def test_anterior_is_up_and_right_is_left():
    array = np.zeros((3, 4))
    array[2, 3] = 1  # right and anterior
    assert shown(array).shape == (4, 3)
    assert shown(array)[3, 0] == 1
    figure = qualitative_figure([an_example()], LABELS, simulated=False)
    assert cells(figure)[0, 0].images[0].origin == "lower"
    assert [text.get_text() for text in figure.axes[0].texts] == ["R", "L"]


def test_maps_of_a_model_share_one_scale():
    blocks = [an_example(), an_example(lesion=True, scale=3.0)]
    grid = cells(qualitative_figure(blocks, LABELS, simulated=False))
    for column, label in enumerate(LABELS, start=1):
        limits = {grid[row, column].images[0].get_clim() for row in (1, 3)}
        assert limits == {(0, limit_of(blocks, label))}
    both = np.concatenate([block.maps["VQ-VAE"].ravel() for block in blocks])
    assert limit_of(blocks, "VQ-VAE") == np.percentile(both, 99.5)
    assert limit_of([an_example(scale=0.0)], "VQ-VAE") == 1, "an empty map is drawn, too"
    assert {grid[row, 1].images[0].get_clim() for row in (0, 2)} == {(0, 1)}, "images are shown as they are"


def test_models_without_scores_have_empty_cells():
    figure = qualitative_figure([an_example(labels=LABELS[:2])], LABELS, simulated=False)
    assert sorted(cells(figure)) == [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2)]


@pytest.mark.parametrize("simulated", [True, False])
def test_simulated_scans_are_called_simulated(simulated):
    figure = qualitative_figure([an_example()], LABELS, simulated)
    assert ("simulated" in figure.get_suptitle()) == simulated
    assert ("simulated" in learning_curves_figure({"VQ-VAE": [history()]}, simulated).get_suptitle()) == simulated


def test_volumes_are_shown_where_most_lesion_is():
    volume = np.arange(2 * 3 * 9).reshape(2, 3, 9)
    lesion = np.zeros(volume.shape, bool)
    np.testing.assert_array_equal(axial(volume, lesion), volume[..., 4])
    lesion[0, 0, 5:8] = lesion[0, 1, 6] = True
    np.testing.assert_array_equal(axial(volume, lesion), volume[..., 6])
    lesion[0, 1, 5:8] = True
    np.testing.assert_array_equal(axial(volume, lesion), volume[..., 6])
    np.testing.assert_array_equal(axial(volume[..., 0], lesion[..., 0]), volume[..., 0])


def history(epochs=20, lr=1e-3, loss=None):
    epoch = np.arange(1, epochs + 1)
    loss = np.exp(-epoch / 4) if loss is None else loss
    validation = np.where(epoch % 5 == 0, loss * 1.1, np.nan)
    return pd.DataFrame({"epoch": epoch, "lr": lr, "loss": loss, "validation_loss": validation})


def test_learning_curves_have_a_panel_per_trained_model():
    runs = {"VQ-VAE": [history(), history()], "Reversed AE": [history(loss=np.linspace(1, -1, 20))]}
    figure = learning_curves_figure({**runs, "Voxel mean": [history(1, lr=0.0)], "Idle": []}, simulated=False)
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(panels) == ["VQ-VAE", "Reversed AE"]
    lines = panels["VQ-VAE"].lines
    assert len(lines) == 4, "two losses of two seeds"
    assert lines[1].get_xdata().tolist() == [5, 10, 15, 20], "gaps of the validation loss are bridged"
    assert panels["VQ-VAE"].get_yscale() == "log"
    assert panels["Reversed AE"].get_yscale() == "linear", "losses below zero"
    assert [text.get_text() for text in figure.legends[0].texts] == [
        "training loss",
        "validation loss",
        "learning rate",
    ]


def test_logarithmic_axes_have_plain_numbers():
    """Labels are not parsed, since a model's may hold a dollar: nothing may ask for notation either."""
    figure = learning_curves_figure({"VQ-VAE": [history()]}, simulated=False)
    figure.draw_without_rendering()
    losses, rates = figure.axes
    assert (losses.get_yscale(), rates.get_yscale()) == ("log", "log")
    for axis in (losses, rates):
        words = [label.get_text() for label in axis.get_yticklabels(which="both")]
        assert sum(map(bool, words)) >= 2
        assert all(float(word) > 0 for word in words if word), words


def test_learning_curves_without_validation_or_without_models():
    figure = learning_curves_figure({"VQ-VAE": [history().drop(columns="validation_loss")]}, simulated=False)
    assert figure.axes[0].lines[0].get_xdata().size == 20
    nothing = learning_curves_figure({"Voxel mean": [history(1, lr=0.0)]}, simulated=False)
    assert "No model of this study trains weights." in [text.get_text() for text in nothing.axes[0].texts]


@pytest.fixture
def study(tmp_path):
    """Folders of a healthy and an abnormal dataset, scored by two models; the healthy scores lack training rows."""
    generator = np.random.default_rng(0)
    for dataset, lesions in (("ixi", False), ("hcp_synthetic", True)):
        writer = SampleWriter(tmp_path / "samples" / dataset, 4, SIZE)
        for index, side in enumerate((9, 3, 8, 6)):
            mask = np.zeros(SIZE, bool)
            mask[5 : 5 + side, 5:15] = True
            row = {"scan": f"sub-{index}", "subject": str(index), "split": "test" if index else "train", "position": 0}
            writer.add(generator.random(SIZE), mask, mask & lesions, row)
        writer.close()
        table = pd.DataFrame(writer.rows[1:])
        for model in ("vqvae", "rae"):
            for seed in ("1", "2"):
                folder = tmp_path / "score" / model / seed / dataset
                folder.mkdir(parents=True)
                for name in ("reconstruction", "map"):
                    np.save(folder / f"{name}.npy", generator.random((3, 1, *SIZE), dtype=np.float32))
                table.to_csv(folder / "table.tsv", sep="\t", index=False)
                run = tmp_path / "train" / model / seed
                run.mkdir(parents=True, exist_ok=True)
                history().to_csv(run / "history.tsv", sep="\t", index=False)
    return tmp_path


def test_typical_sample_is_that_of_median_amount(study):
    for dataset in ("ixi", "hcp_synthetic"):
        samples = SampleSet(study / "samples" / dataset)
        assert typical(samples, samples.rows("test")) == 3, "test rows 1 to 3 have sides 3, 8 and 6"


def test_an_anomaly_as_bright_as_its_surroundings_is_not_typical(tmp_path):
    writer = SampleWriter(tmp_path, 3, SIZE)
    for intensity in (0.55, 0.5, 0.9):
        lesion = np.zeros(SIZE, bool)
        lesion[4:10, 4 : 4 + round(10 * intensity)] = True
        image = np.where(lesion, intensity, 0.5)
        row = {"scan": "sub-1", "subject": "1", "session": "", "split": "test", "position": 0.0}
        writer.add(image.astype(np.float32), np.ones(SIZE, bool), lesion, row)
    writer.close()
    assert typical(SampleSet(tmp_path), np.arange(3)) == 0


@pytest.mark.parametrize("anomalous", ["hcp_synthetic", "ixi", None])
def test_both_figures_are_written(study, anomalous):
    settings = {
        "healthy": "ixi",
        "anomalous": anomalous,
        "models": {"vqvae": "VQ-VAE", "rae": "rae", "swin_mae": "Swin MAE"},
        "simulated": True,
    }
    patterns = {True: ("score/*/*/*/map.npy", "samples/*/table.tsv"), False: ("score/*/*/*", "samples/*")}
    patterns = (*patterns[anomalous is None], "train/*/*/history.tsv")
    inputs = [[str(path) for path in sorted(study.glob(pattern))] for pattern in patterns]
    for attempt in ("a", "b"):
        figures(*inputs, study / attempt / "qualitative.png", study / attempt / "curves.png", settings)
    for name in ("qualitative.png", "curves.png"):
        picture = imread(study / "a" / name)
        assert min(picture.shape[:2]) > 300
        assert picture[..., :3].std() > 0.05
        assert (study / "a" / name).read_bytes() == (study / "b" / name).read_bytes()
