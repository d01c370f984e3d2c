import numpy as np
import pytest

from brainuad.sample_set import SampleSet
from brainuad.synthetic import anomaly, kinds, region, synthetic

SETTINGS = {"size": [6, 9], "intensity": [0.0, 1.0], "centre": "brain", "seed": 1}


@pytest.mark.parametrize(("width", "height"), [(20, 30), (21, 25), (29, 24)])
def test_a_rectangle_has_exactly_its_width_and_height(width, height):
    mask = region("rectangle", (128, 128), (60, 70), (width, height))
    assert mask.sum() == width * height
    assert mask.any(1).sum() == width
    assert mask.any(0).sum() == height


@pytest.mark.parametrize(("axes", "volume"), [((20, 30), np.pi / 4 * 600), ((24, 20, 26), np.pi / 6 * 24 * 20 * 26)])
def test_an_ellipse_has_full_axes(axes, volume):
    mask = region("ellipse", (64,) * len(axes), (32,) * len(axes), axes)
    assert mask.sum() == pytest.approx(volume, rel=0.03)
    for axis, width in enumerate(axes):
        other = tuple(i for i in range(len(axes)) if i != axis)
        assert abs(mask.any(other).sum() - width) <= 1


def test_a_region_at_the_border_is_cut_off():
    assert region("rectangle", (50, 50), (0, 0), (21, 21)).sum() == 11 * 11


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'star' is not a kind"):
        region("star", (8, 8), (4, 4), (2, 2))


@pytest.mark.parametrize("count", [1, 10, 11])
def test_exactly_half_are_rectangles_whatever_the_order(count):
    names = [f"sub-{i}:8.0" for i in range(count)]
    drawn = kinds(names, 1)
    assert drawn.count("rectangle") == (count + 1) // 2
    assert drawn.count("ellipse") == count // 2
    assert kinds(names[::-1], 1) == drawn[::-1]


def test_centres_lie_in_the_brain_or_anywhere(rng):
    brain = np.zeros((40, 40), bool)
    brain[18:22, 18:22] = True
    draws = [anomaly("ellipse", brain, SETTINGS, rng)[1]["centre"] for _ in range(50)]
    assert all(brain[tuple(map(int, centre.split(",")))] for centre in draws)
    draws = [anomaly("ellipse", brain, {**SETTINGS, "centre": "frame"}, rng)[1]["centre"] for _ in range(50)]
    assert not all(brain[tuple(map(int, centre.split(",")))] for centre in draws)


def test_axes_and_intensities_cover_their_ranges_uniformly(rng):
    brain = np.ones((40, 40), bool)
    records = [anomaly("rectangle", brain, SETTINGS, rng)[1] for _ in range(2000)]
    axes = np.array([[int(axis) for axis in record["axes"].split(",")] for record in records])
    assert set(axes.ravel()) == {6, 7, 8, 9}
    assert np.bincount(axes.ravel())[6:] / axes.size == pytest.approx(0.25, abs=0.03)
    intensities = np.array([record["intensity"] for record in records])
    assert np.histogram(intensities, 4, (0, 1))[0] / 2000 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("size", [(32, 32), (24, 20, 16)])
def test_a_synthetic_set_differs_from_its_source_inside_the_mask_only(tmp_path, make_sample_set, size):
    healthy = SampleSet(make_sample_set(size=size))
    synthetic(healthy.folder, tmp_path / "synthetic", SETTINGS)
    made = SampleSet(tmp_path / "synthetic")
    assert len(made) == len(healthy.rows("test")) == 4
    for i, row in made.table.iterrows():
        mask = made.lesion[i, 0]
        assert mask.any()
        assert np.array_equal(made.images[i, 0][~mask], healthy.images[row["source"], 0][~mask])
        assert np.all(made.images[i, 0][mask] == np.float32(row["intensity"]))
        centre = tuple(map(int, row["centre"].split(",")))
        axes = tuple(map(int, row["axes"].split(",")))
        assert np.array_equal(mask, region(row["kind"], size, centre, axes))
    assert sorted(made.table["kind"]) == ["ellipse", "ellipse", "rectangle", "rectangle"]


def test_an_anomaly_does_not_depend_on_the_other_samples(tmp_path, make_sample_set):
    long, short = (make_sample_set(f"{n}", splits=("test",) * n) for n in (8, 3))
    for folder in (long, short):
        synthetic(folder, tmp_path / f"{folder.name}_synthetic", SETTINGS)
    first, second = (SampleSet(tmp_path / f"{folder.name}_synthetic").table for folder in (long, short))
    assert list(first["centre"][:3]) == list(second["centre"])
    assert list(first["intensity"][:3]) == list(second["intensity"])


def test_a_source_without_test_samples_is_refused(tmp_path, make_sample_set):
    with pytest.raises(ValueError, match="no test samples"):
        synthetic(make_sample_set(splits=("train",) * 3), tmp_path / "out", SETTINGS)
