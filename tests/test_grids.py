"""From samples back to the template, and from there to the scan: where things land, and what is left of them."""

import ants
import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations
from nibabel.affines import apply_affine
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from brainuad.grids import LPS, Frame, read_transform, to_native
from brainuad.samples import frame_coordinates

AFFINE = np.array([[2.0, 0, 0, -98], [0, 2, 0, -134], [0, 0, 2, -72], [0, 0, 0, 1]])
SHAPE = (99, 117, 95)
SLICES = {"size": [64, 72], "spacing": 3.0, "centre": [0.0, -18.0, 8.0], "positions": [20.0, 0.0, 11.0]}
VOLUME = {"size": [32, 36, 24], "spacing": 4.0, "centre": [0.0, -18.0, 8.0], "positions": []}
BACK = np.eye(4)  # mm of a scan → mm of the template: turned, 5 % larger, moved
BACK[:3, :3] = 1.05 * Rotation.from_euler("xyz", [12, -7, 9], degrees=True).as_matrix()
BACK[:3, 3] = [4.0, -11.0, 6.0]
GRIDS = {"RAS": (1.0, "RAS", 0), "LAS": (1.5, "LAS", 0), "PSR": (1.2, "PSR", 0), "oblique": (1.3, "LPS", 14)}


def world(axis):
    return (AFFINE[axis, 3] + 2 * np.arange(SHAPE[axis])).reshape([-1 if i == axis else 1 for i in range(3)])


def native(spacing, codes, tilt):
    """A scan's grid around the head: shape and affine."""
    shape = tuple(int(230 / size) for size in np.broadcast_to(spacing, 3))
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("x", tilt, degrees=True).as_matrix() * spacing
    affine[:3, 3] = [0, -15, 5] - affine[:3, :3] @ (np.array(shape) - 1) / 2
    image = nibabel.Nifti1Image(np.zeros(shape, np.uint8), affine)
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(codes))
    image = image.as_reoriented(turn)
    return image.shape, image.affine


@pytest.mark.parametrize("settings", [SLICES, VOLUME], ids=["slices", "volume"])
def test_what_is_linear_in_space_comes_back_exactly(settings):
    """Samples hold x + 2y + 3z at their own pixels; the template must hold it at its own voxels."""
    frame = Frame(settings, SHAPE, AFFINE)
    samples = []
    for position in settings["positions"] or [settings["centre"][2]]:
        x, y, z = frame_coordinates(settings, position, np.eye(4))
        samples.append(x + 2 * y + 3 * z)
    stack = frame.stack(settings["positions"] or [settings["centre"][2]], np.stack(samples)[:, None])
    placed = frame.place(stack)
    true = np.broadcast_to(world(0) + 2 * world(1) + 3 * world(2), SHAPE)
    inner = frame.covered.copy()
    for axis, (size, centre) in enumerate(zip(settings["size"], settings["centre"], strict=False)):
        inner &= np.abs(world(axis) - centre) < (size - 1) * settings["spacing"] / 2 - 1e-6
    # A slice stands for voxels beside it, too: those of z = 11 lie at 10 and 12 mm.
    tolerance = 1e-3 if frame.volumes else 3 * frame.thickness / 2 + 1e-3
    assert inner.any()
    assert np.abs(placed - true)[inner].max() < tolerance
    assert not placed[~frame.covered].any()


def test_slices_take_the_voxels_nearest_to_them_and_no_others():
    frame = Frame(SLICES, SHAPE, AFFINE)
    covered = np.flatnonzero(frame.covered.any(axis=(0, 1))) * 2 - 72
    assert frame.thickness == 3.0  # a pixel, which is more than a voxel
    assert covered.tolist() == [0, 10, 12, 20]
    extent = frame.extent()
    assert extent["SlicesAtZ"] == [0.0, 11.0, 20.0]
    assert extent["XRange"] == [-96.0, 96.0]


def test_no_slice_is_lost_between_thick_voxels():
    coarse = np.diag([2.0, 2, 7, 1])
    coarse[:3, 3] = [-98, -134, -70]
    covered = Frame(SLICES, (99, 117, 25), coarse).covered.any(axis=(0, 1))
    assert (np.flatnonzero(covered) * 7 - 70).tolist() == [0, 14, 21]


def test_samples_in_any_order_are_stacked_from_below():
    frame = Frame(SLICES, SHAPE, AFFINE)
    values = np.array([20.0, 0.0, 11.0]).reshape(3, 1, 1, 1) * np.ones((1, 1, 64, 72))
    assert frame.stack([20.0, 0.0, 11.0], values)[5, 5].tolist() == [0.0, 11.0, 20.0]
    with pytest.raises(ValueError, match=r"z = 20, 0 mm, where one at each of 0, 11, 20 is needed"):
        frame.stack([20.0, 0.0], values[:2])


def test_another_grid_than_the_templates_is_refused():
    with pytest.raises(ValueError, match="is not that of the template"):
        Frame(SLICES, SHAPE, np.diag([-1.0, 1, 1, 1]) @ AFFINE)


def ball(centre, radius):
    return np.sqrt(sum((world(axis) - centre[axis]) ** 2 for axis in range(3))) <= radius


@pytest.mark.parametrize("grid", GRIDS)
def test_a_ball_lands_where_it_belongs(grid):
    """Whatever the order and tilt of the scan's voxels: centre within half a voxel, volume within 5 %."""
    shape, affine = native(*GRIDS[grid])
    centre, radius = np.array([28.0, -40.0, 22.0]), 9.0  # not in the middle: left is not right
    values, inside = to_native(
        ball(centre, radius).astype(np.float32), np.ones(SHAPE, bool), AFFINE, BACK, shape, affine
    )
    found = apply_affine(affine, np.average(np.argwhere(values > 0), axis=0, weights=values[values > 0]))
    assert np.linalg.norm(found - apply_affine(np.linalg.inv(BACK), centre)) < GRIDS[grid][0] / 2
    volume = values.sum() * abs(np.linalg.det(affine[:3, :3])) * np.linalg.det(BACK[:3, :3])
    assert volume == pytest.approx(ball(centre, radius).sum() * 8, rel=0.05)
    assert inside.any()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("radius", "loss"), [(3.0, 0.2), (5.0, 0.11), (10.0, 0.03)])
def test_a_small_lesion_keeps_its_sum_and_loses_some_of_itself_to_a_threshold(grid, radius, loss):
    """Values are mixed at the border: above a half there is less of a small ball, by what docs/maps.md says."""
    shape, affine = native(*GRIDS[grid])
    true = ball(np.array([28.0, -40.0, 22.0]), radius)
    values, _ = to_native(true.astype(np.float32), np.ones(SHAPE, bool), AFFINE, BACK, shape, affine)
    voxel = abs(np.linalg.det(affine[:3, :3])) * np.linalg.det(BACK[:3, :3])
    assert values.sum() * voxel == pytest.approx(true.sum() * 8, rel=0.015)
    assert 1 - loss <= (values > 0.5).sum() * voxel / (true.sum() * 8) <= 1.02


@pytest.mark.parametrize("grid", GRIDS)
def test_one_voxel_lands_in_the_voxel_that_holds_its_point(grid):
    shape, affine = native(*GRIDS[grid])
    spike = np.zeros(SHAPE, np.float32)
    spike[62, 48, 50] = 1
    values, _ = to_native(spike, np.ones(SHAPE, bool), AFFINE, BACK, shape, affine)
    point = np.linalg.inv(BACK @ affine) @ AFFINE @ [62, 48, 50, 1]
    assert np.abs(np.unravel_index(values.argmax(), shape) - point[:3]).max() < 1
    assert np.count_nonzero(values) < 200


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 1.0, 5.0), (0.8, 6.0, 0.8)])
def test_thin_slices_of_the_template_are_not_lost_in_thick_slices_of_a_scan(spacing):
    """Covered values are 7 everywhere: they must arrive as 7, on every way through the slice."""
    frame = Frame({**SLICES, "positions": [11.0], "spacing": 2.0}, SHAPE, AFFINE)
    shape, affine = native(np.array(spacing), "RAS", 10)
    values, inside = to_native(np.full(SHAPE, 7, np.float32), frame.covered, AFFINE, np.eye(4), shape, affine)
    np.testing.assert_allclose(values[inside], 7, rtol=1e-5)
    assert not values[~inside].any()
    middle = [
        apply_affine(np.linalg.inv(affine), [x, y, 11])[:2].round().astype(int) for x in (-30, 0, 30) for y in (-50, 20)
    ]
    for i, j in middle:
        assert inside[i, j].any(), "a column of the scan that goes through the slice misses it"


def test_values_that_are_not_covered_are_never_mixed_in():
    volume = np.where(ball([0, -20, 20], 30), 5, np.nan).astype(np.float32)
    values, inside = to_native(volume, ball([0, -20, 20], 30), AFFINE, BACK, *native(1.5, "LAS", 5))
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[inside], 5, rtol=1e-5)


def test_a_scan_beside_the_maps_gets_nothing():
    shape, affine = native(2.0, "RAS", 0)
    affine[:3, 3] += 500
    values, inside = to_native(np.ones(SHAPE, np.float32), ball([0, 0, 0], 20), AFFINE, np.eye(4), shape, affine)
    assert not values.any()
    assert not inside.any()
    assert not to_native(np.ones(SHAPE, np.float32), np.zeros(SHAPE, bool), AFFINE, BACK, shape, affine)[1].any()


SEEDS = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    dimensions=st.sampled_from([2, 3]),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    spacing=st.sampled_from([1.0, 1.7, 3.0, 5.0]),
    voxel=st.tuples(*[st.sampled_from([1.0, 2.0, 3.5])] * 3),
    seed=SEEDS,
)
def test_samples_are_placed_voxel_by_voxel(dimensions, size, spacing, voxel, seed):
    """Each voxel by itself: between pixels linearly, of slices the nearest that is thick enough."""
    rng, size = np.random.default_rng(seed), size[:dimensions]
    heights = sorted(rng.uniform(-8, 8, rng.integers(1, 4)).round(2).tolist())
    sample = {"size": size, "spacing": spacing, "centre": rng.uniform(-3, 3, 3).round(2).tolist(), "positions": heights}
    shape, affine = (11, 9, 10), np.diag([*voxel, 1.0])
    affine[:3, 3] = -np.array(voxel) * (np.array(shape) - 1) / 2 + rng.uniform(-1, 1, 3)
    frame = Frame(sample, shape, affine)
    stack = rng.normal(size=size if dimensions == 3 else (*size, len(heights)))
    thickness, placed, inside = max(spacing, voxel[2]), np.zeros(shape), np.zeros(shape, bool)
    for place in np.ndindex(shape):
        point = apply_affine(affine, place)
        pixel = (point[:dimensions] - sample["centre"][:dimensions]) / spacing + (np.array(size) - 1) / 2
        last = []
        if dimensions == 2:
            nearest = int(np.abs(point[2] - heights).argmin())
            last = [nearest]
            inside[place] = -thickness / 2 - 1e-6 <= point[2] - heights[nearest] < thickness / 2 - 1e-6
        inside[place] |= dimensions == 3
        inside[place] &= ((pixel >= -0.5 - 1e-6) & (pixel < np.array(size) - 0.5 - 1e-6)).all()
        if inside[place]:
            placed[place] = map_coordinates(stack, [[p] for p in (*pixel, *last)], order=1, mode="nearest")[0]
    np.testing.assert_array_equal(frame.covered, inside)
    np.testing.assert_allclose(frame.place(stack), placed, atol=1e-5)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    spacing=st.tuples(*[st.sampled_from([0.8, 1.5, 3.0, 6.0])] * 3),
    turned=st.floats(0, 180),
    moved=st.sampled_from([2.0, 15.0, 40.0]),
    share=st.sampled_from([0.2, 1.0]),
    seed=SEEDS,
)
def test_values_of_a_scan_are_means_over_each_voxel_by_itself(spacing, turned, moved, share, seed):
    """Without the box beyond which nothing is covered: points of each voxel, looked up one voxel after another."""
    rng = np.random.default_rng(seed)
    template, shape, (own, back) = (9, 8, 7), (11, 10, 12), np.eye(4)[None].repeat(2, 0)
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = [-8, -7, -6]
    own[:3, :3] = Rotation.random(random_state=int(rng.integers(2**31))).as_matrix() * spacing
    own[:3, 3] = own[:3, :3] @ (0.5 - np.array(shape) / 2) + rng.uniform(-moved, moved, 3)
    back[:3, :3] = 1.1 * Rotation.from_euler("z", turned, degrees=True).as_matrix()
    covered, corners = np.zeros(template, bool), np.sort([rng.integers(0, length, 2) for length in template])
    some = tuple(slice(first, last + 1) for first, last in corners)
    covered[some] = rng.random(covered[some].shape) < share
    volume = np.where(covered, rng.normal(size=template), np.nan)
    values, inside = to_native(volume, covered, affine, back, shape, own)
    matrix = np.linalg.inv(affine) @ back @ own
    steps = [max(1, int(np.ceil(np.linalg.norm(matrix[:3, axis]) - 0.05))) for axis in range(3)]
    within = [(np.array(step) + 0.5) / steps - 0.5 for step in np.ndindex(*steps)]
    known = np.where(covered, volume, 0)
    for voxel in np.ndindex(shape):
        points = apply_affine(matrix, voxel + np.array(within)).T
        weights = map_coordinates(covered.astype(float), points, order=1)
        near = abs(weights.max() - 0.5) < 1e-5  # rounding decides
        assert near or inside[voxel] == (weights.max() >= 0.5)
        if inside[voxel] and not near:
            expected = map_coordinates(known, points, order=1).sum() / weights.sum()
            assert values[voxel] == pytest.approx(expected, abs=1e-5)
    assert not values[~inside].any()


def affine_by_ants(path):
    """What ANTs' reader makes of a file: where it takes the origin and a step along each axis."""
    transform = ants.read_transform(str(path), precision="double")
    origin = np.asarray(transform.apply_to_point((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([transform.apply_to_point(axis) - origin for axis in np.eye(3).tolist()], axis=1)
    matrix[:3, 3] = origin
    return LPS @ matrix @ LPS


def by_ants(path, kind="AffineTransform", **values):
    """A transform that ANTs has written."""
    ants.write_transform(ants.create_ants_transform(transform_type=kind, **values), str(path))
    return path


@given(seed=st.integers(0, 2**32 - 1), precision=st.sampled_from(["float", "double"]))
def test_affines_are_read_as_ants_reads_them(seed, precision, tmp_path_factory):
    rng = np.random.default_rng(seed)
    centre, offset = (rng.normal(0, 50, 3).tolist() for _ in range(2))
    values = {"matrix": np.eye(3) + rng.normal(0, 0.3, (3, 3)), "center": centre, "translation": offset}
    path = by_ants(tmp_path_factory.mktemp("transform") / "affine.mat", **values, precision=precision)
    np.testing.assert_allclose(read_transform(path), affine_by_ants(path), atol=1e-4)


def test_what_holds_no_affine_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"rigid.mat holds Euler3DTransform_double_3_3, fixed in place of an affine"):
        read_transform(by_ants(tmp_path / "rigid.mat", "Euler3DTransform"))
    (tmp_path / "text.mat").write_text("#Insight Transform File V1.0\n")
    with pytest.raises(ValueError, match=r"text.mat holds nothing that is known in place of an affine"):
        read_transform(tmp_path / "text.mat")
