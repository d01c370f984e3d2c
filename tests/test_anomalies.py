"""Each kind of anomaly: what it changes, where, and nothing else."""

import numpy as np
import pytest

from brainuad.anomalies import ALTERING, OVERWRITING, Anomaly, change, region

KINDS = [*OVERWRITING, *ALTERING]
SIZES = [(48, 40), (24, 22, 20)]


def a_brain(size):
    """A smooth image with an edge, 0 outside an ellipsoid; and that ellipsoid."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, length) for length in size], indexing="ij"))
    brain = np.square(grid).sum(0) < 0.8
    image = 0.5 + 0.2 * np.sin(7 * grid[0]) * np.cos(5 * grid[1]) + 0.2 * (grid[1] > 0.1)
    return (image * brain).astype(np.float32), brain


def changed(kind, size, intensity, width=11, centre=None, seed=3):
    image, brain = a_brain(size)
    centre = centre or tuple(length // 2 for length in size)
    anomaly = Anomaly(kind, centre, (width,) * len(size), intensity)
    after, mask = change(image, brain, anomaly, np.random.default_rng(seed))
    return image, brain, after, mask, anomaly


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


def test_an_unknown_kind_of_anomaly_is_refused():
    with pytest.raises(ValueError, match="'star' is not a kind of anomaly: use one of rectangle, "):
        changed("star", (20, 20), 0.5)


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("where", ["inside", "border"])
def test_the_mask_is_what_changes(kind, size, where):
    centre = None if where == "inside" else (size[0] // 2, *(length // 12 + 1 for length in size[1:]))
    image, brain, after, mask, anomaly = changed(kind, size, 0.9, centre=centre)
    assert after.dtype == np.float32
    assert mask.dtype == bool
    assert np.array_equal(after[~mask], image[~mask]), "nothing changes outside"
    assert (after[mask] != image[mask]).mean() > 0.9, "nearly everything changes inside"
    assert after.min() >= 0
    assert after.max() <= 1
    ellipse = region("ellipse", size, anomaly.centre, anomaly.axes)
    if kind in ALTERING:
        assert np.array_equal(mask, ellipse & brain)
    else:
        assert np.all(after[mask] == np.float32(0.9))
        assert kind == "rectangle" or not mask[~ellipse].any()


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_generator_decides_everything_and_the_intensity_no_place(kind, size):
    first, again = (changed(kind, size, 0.6) for _ in range(2))
    assert np.array_equal(first[2], again[2])
    assert np.array_equal(first[3], changed(kind, size, 0.2)[3])


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
@pytest.mark.parametrize("kind", ALTERING)
def test_more_intensity_changes_more_and_none_changes_nothing(kind, size):
    amounts = []
    for intensity in (0.0, 0.25, 0.5, 1.0):
        image, _, after, mask, _ = changed(kind, size, intensity)
        amounts.append(np.abs(after - image)[mask].mean())
    assert amounts[0] < 1e-6
    assert np.all(np.diff(amounts) > 0)


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
def test_blobs_are_irregular_and_in_one_piece(size):
    from scipy.ndimage import label

    shares = []
    for seed in range(8):
        mask, anomaly = changed("blob", size, 0.5, seed=seed)[3:]
        assert label(mask)[1] == 1
        assert mask[tuple(anomaly.centre)]
        shares.append(mask.sum() / region("ellipse", size, anomaly.centre, anomaly.axes).sum())
    assert 0.3 < np.mean(shares) < 0.9
    assert np.std(shares) > 0.01


def test_a_deformation_moves_tissue_as_far_as_documented():
    """On a ramp the change of intensity is the displacement itself."""
    size, width, intensity = (81, 81), 60, 0.8
    ramp = np.broadcast_to(np.linspace(0.1, 0.9, 81)[:, None], size).astype(np.float32)
    anomaly = Anomaly("deformation", (40, 40), (width, width), intensity)
    directions = set()
    for seed in range(8):
        after, mask = change(ramp, np.ones(size, bool), anomaly, np.random.default_rng(seed))
        moved = (after - ramp) / 0.01  # pixels along the ramp
        r = (np.arange(81) - 39.5) / 30
        expected = intensity * r * (1 - r**2) ** 2 * 30 * mask[:, 40]
        sign = np.sign(moved[50, 40])
        assert moved[:, 40] == pytest.approx(sign * expected, abs=0.02)
        assert np.abs(moved).max() == pytest.approx(0.286 * intensity * 30, rel=0.02)
        assert np.all(np.diff(after[:, 40]) > 0), "nothing folds"
        directions.add(sign)
    assert directions == {-1, 1}, "sources and sinks"


def test_blur_is_a_gaussian_of_the_documented_width_and_darkens_no_border():
    size = (61, 61)
    anomaly = Anomaly("blur", (30, 30), (50, 50), 0.75)
    point = np.zeros(size, np.float32)
    point[30, 30] = 1
    after, _ = change(point, np.ones(size, bool), anomaly, np.random.default_rng(0))
    assert after[30, 30] == pytest.approx(1 / (2 * np.pi * 3**2), rel=0.01)
    _, brain = a_brain(size)
    flat = 0.7 * brain.astype(np.float32)
    after, _ = change(flat, brain, anomaly._replace(centre=(30, 5)), np.random.default_rng(0))
    assert after == pytest.approx(flat, abs=1e-5)


def test_texture_has_the_documented_deviation_and_no_mean():
    size = (200, 200)
    flat, anomaly = np.full(size, 0.5, np.float32), Anomaly("texture", (100, 100), (190, 190), 0.4)
    after, mask = change(flat, np.ones(size, bool), anomaly, np.random.default_rng(0))
    difference = (after - flat)[mask]
    assert difference.std() == pytest.approx(0.1, rel=0.05)
    assert difference.mean() == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("size", SIZES, ids=["2d", "3d"])
def test_copy_paste_brings_what_lies_elsewhere_in_the_brain(size):
    image, brain = a_brain(size)
    places = np.argwhere(brain)
    for seed in range(5):
        _, _, after, mask, anomaly = changed("copy_paste", size, 1.0, width=7, seed=seed)
        inside = np.argwhere(mask)
        matches = [
            place
            for place in places[np.linalg.norm(places - anomaly.centre, axis=1) >= 7]
            if fits(image, after, inside, place - anomaly.centre)
        ]
        assert matches
    half = changed("copy_paste", size, 0.5, width=7, seed=4)[2]
    assert half == pytest.approx((image + after) / 2, abs=1e-6)


def fits(image, after, inside, offset):
    """Whether the pixels ``inside`` show what lies at an offset; 0 beyond the frame."""
    source = inside + offset
    known = np.all((source >= 0) & (source < image.shape), axis=1)
    values = np.where(known, image[tuple(np.clip(source, 0, np.array(image.shape) - 1).T)], 0)
    return np.allclose(values, after[tuple(inside.T)], atol=1e-6)
