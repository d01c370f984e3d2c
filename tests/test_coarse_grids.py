"""What is computed on blocks of voxels, or by tables of distances, against loops over voxels."""

from unittest.mock import patch

import ants
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from brainuad import volumes
from brainuad.partial_volume import keep_volume

SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(*[st.integers(1, 13)] * 3)
FACTORS = st.tuples(*[st.integers(1, 6)] * 3)


def image_of(generator, shape, spacing):
    """Random voxels of at least 0.5, on a grid that lies somewhere and is turned."""
    return ants.from_numpy(
        (0.5 + generator.random(shape)).astype(np.float32),
        origin=generator.uniform(-50, 50, 3).tolist(),
        spacing=list(spacing),
        direction=Rotation.random(random_state=int(generator.integers(2**31))).as_matrix(),
    )


def place(image, voxel):
    """Where a voxel's centre lies, in LPS mm."""
    return np.asarray(image.origin) + image.direction @ (np.asarray(image.spacing) * voxel)


def block(number, factor):
    """The voxels of one block along an axis, whether they exist or not."""
    return list(range(number * factor, (number + 1) * factor))


def numbers(shape, factors):
    """Of all blocks, the incomplete ones at the ends among them."""
    return np.ndindex(*(-(-size // factor) for size, factor in zip(shape, factors, strict=True)))


def one_of_each_block(array, factors):
    """The middle voxel of each block (the later of two), or the last one that exists, block by block."""
    picked = {}
    for own in numbers(array.shape, factors):
        voxel = []
        for size, number, factor in zip(array.shape, own, factors, strict=True):
            until_middle = [place for place in block(number, factor)[: factor // 2 + 1] if place < size]
            voxel.append(until_middle[-1])
        picked[own] = array[tuple(voxel)]
    return np.reshape(list(picked.values()), np.add(max(picked), 1))


def looked_up(array, factors, shape, order):
    """A spline through the middles of blocks, which are constant beyond the outermost, at each voxel."""
    voxels = np.indices(shape).reshape(3, -1)
    places = (voxels + 0.5) / np.reshape(factors, (3, 1)) - 0.5
    return ndimage.map_coordinates(array, places, order=order, mode="nearest").reshape(shape)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=SHAPES,
    factors=st.tuples(*[st.integers(0, 6)] * 3),
    surplus=st.tuples(*[st.floats(0.05, 0.4)] * 3),
    share=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
    seed=SEEDS,
)
def test_bias_is_seen_by_one_voxel_of_each_block_and_put_back_on_all(shape, factors, surplus, share, seed):
    """N4 is stood in for: what it is given are the voxels of a loop, and what it says is a spline of it at each."""
    generator, seen = np.random.default_rng(seed), {}
    image = image_of(generator, shape, 8 / (np.array(factors) + surplus))
    factors = [max(1, factor) for factor in factors]  # voxels that are coarser than asked for stay
    mask = generator.random(shape) < share
    mask[tuple(generator.integers(shape))] = True

    def n4(few, mask, **options):
        seen.update(few=few, mask=mask, field=generator.uniform(0.5, 2, few.shape).astype(np.float32))
        return few.new_image_like(seen["field"])

    with patch.object(ants, "n4_bias_field_correction", n4):
        found = volumes.correct_bias(image, volumes.like(mask, image), spacing=8.0).numpy()
    inside = np.argwhere(mask)
    box = tuple(slice(low, high + 1) for low, high in zip(inside.min(0), inside.max(0), strict=True))
    assert np.array_equal(seen["few"].numpy(), one_of_each_block(image.numpy()[box], factors))
    assert np.array_equal(seen["mask"].numpy(), one_of_each_block(mask[box], factors))
    np.testing.assert_allclose(seen["few"].spacing, np.multiply(image.spacing, factors))
    field = np.exp(looked_up(np.log(seen["field"]), factors, mask[box].shape, order=3))
    expected = image.numpy()
    expected[box] /= field / field[mask[box]].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    sides=st.tuples(*[st.integers(33, 40)] * 3),
    factor=st.integers(2, 3),
    deviation=st.floats(0.05, 0.1),
    seed=SEEDS,
)
def test_a_field_is_that_of_n4_which_shrinks_by_itself(sides, factor, deviation, seed):
    """ITK's own shrinking, enlarged by its own spline: fields within 3 %, and hardly more bias is left."""
    generator = np.random.default_rng(seed)
    mask = np.linalg.norm(np.indices(sides).T / (np.array(sides) - 1) - 0.5, axis=-1).T < 0.46
    tissue = ndimage.gaussian_filter(generator.normal(size=sides), 3)
    tissue = np.choose(np.digitize(tissue, np.quantile(tissue, [0.35, 0.7])), [30.0, 70.0, 100.0])
    field = ndimage.zoom(generator.normal(size=(3, 3, 3)), np.divide(sides, 3), order=3)
    field = deviation * (field - field[mask].mean()) / field[mask].std()
    noisy = (tissue * np.exp(field) + generator.normal(0, 1, sides)).clip(1)
    image = ants.from_numpy(np.where(mask, noisy, 0).astype(np.float32), spacing=(2.0, 2.0, 2.0))
    inside = volumes.like(mask, image)
    own = image.numpy()[mask] / volumes.correct_bias(image, inside, 2.0 * factor).numpy()[mask]
    convergence = {"iters": [30] * 3, "tol": 1e-4}
    options = {"shrink_factor": factor, "convergence": convergence, "return_bias_field": True}
    theirs = ants.n4_bias_field_correction(image, mask=inside, **options).numpy()[mask]
    own, theirs = np.log(own), np.log(theirs / theirs.mean())
    assert np.std(own - theirs) < 0.03
    assert np.std(own - field[mask]) < np.std(theirs - field[mask]) + 0.01


@settings(max_examples=60, deadline=None, derandomize=True)
@given(shape=SHAPES, factors=FACTORS, spacing=st.tuples(*[st.floats(0.4, 5)] * 3), seed=SEEDS)
def test_means_of_blocks_are_those_of_a_loop_and_lie_in_their_middles(shape, factors, spacing, seed):
    image = image_of(np.random.default_rng(seed), shape, spacing)
    array, small = image.numpy(), volumes.shrink(image, factors)
    means = small.numpy()
    assert small.shape == tuple(np.add(list(numbers(shape, factors))[-1], 1))
    for own in numbers(shape, factors):
        voxels = np.array(np.meshgrid(*map(block, own, factors), indexing="ij")).reshape(3, -1).T
        values = [array[tuple(np.minimum(voxel, np.subtract(shape, 1)))] for voxel in voxels]
        np.testing.assert_allclose(means[own], np.mean(values, dtype=float), rtol=1e-6)
        middle = np.mean([place(image, voxel) for voxel in (voxels[0], voxels[-1])], axis=0)
        np.testing.assert_allclose(place(small, own), middle, atol=1e-4)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    blocks=st.tuples(*[st.integers(1, 5)] * 3),
    factors=FACTORS,
    cut=st.tuples(*[st.integers(0, 5)] * 3),
    order=st.sampled_from([1, 3]),
    seed=SEEDS,
)
def test_blocks_are_enlarged_as_a_spline_is_looked_up_at_each_voxel(blocks, factors, cut, order, seed):
    array = np.random.default_rng(seed).normal(size=blocks)
    shape = np.multiply(blocks, factors) - np.minimum(cut, np.subtract(factors, 1))  # the last blocks are incomplete
    found = volumes.enlarge(array, factors, shape, order)
    np.testing.assert_allclose(found, looked_up(array, factors, shape, order), atol=1e-5)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    spacing=st.tuples(*[st.floats(0.5, 5)] * 3),
    wanted=st.floats(1, 4),
    surplus=st.tuples(*[st.integers(0, 5)] * 3),
    seed=SEEDS,
)
def test_a_coarse_copy_shows_each_place_what_lies_there(spacing, wanted, surplus, seed):
    """What is linear in space stays that, by means of blocks and by interpolation between them."""
    generator = np.random.default_rng(seed)
    around = 2 * wanted / np.array(spacing)  # voxels at the borders, whose blocks are incomplete or have no next one
    shape = np.ceil(2.6 * around).astype(int) + 1 + surplus
    image, slope = image_of(generator, shape, spacing), generator.normal(size=3)
    ramp = slope @ places_of(image)
    small = volumes.coarse(volumes.like(ramp.reshape(shape), image), wanted)
    np.testing.assert_allclose(small.spacing, wanted, rtol=0.05)
    points = places_of(small)
    voxels = np.linalg.inv(image.direction * np.asarray(image.spacing)) @ (points - np.reshape(image.origin, (3, 1)))
    inner = (np.abs(voxels.T - (shape - 1) / 2) < (shape - 1) / 2 - around).all(1)
    assert inner.any()
    np.testing.assert_allclose(small.numpy().ravel()[inner], (slope @ points)[inner], atol=2e-3)


def places_of(image):
    """Where the centres of all voxels lie, in LPS mm, (3, n)."""
    offsets = np.indices(image.shape).reshape(3, -1) * np.reshape(image.spacing, (3, 1))
    return np.reshape(image.origin, (3, 1)) + image.direction @ offsets


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.one_of(st.tuples(*[st.integers(1, 24)] * 2), st.tuples(*[st.integers(1, 9)] * 3)),
    share=st.sampled_from([0.0, 0.1, 0.3, 1.0]),
    levels=st.sampled_from([1, 4, 1000]),
    seed=SEEDS,
)
def test_of_each_lesion_the_voxels_with_most_of_it_stay(shape, share, levels, seed):
    """Grown from voxel to voxel, and taken one by one until they hold what the shares sum to."""
    generator = np.random.default_rng(seed)
    shares = generator.integers(1, levels + 1, shape) / levels * (generator.random(shape) < share)
    kept, left = keep_volume(shares), {tuple(map(int, voxel)) for voxel in np.argwhere(shares)}
    assert not kept[shares == 0].any()
    while left:
        grown = lesion = {left.pop()}
        while grown:
            grown = {voxel for voxel in left if any(np.abs(np.subtract(voxel, other)).max() <= 1 for other in grown)}
            lesion, left = lesion | grown, left - grown
        values = sorted((shares[voxel] for voxel in lesion), reverse=True)
        stay = sorted((shares[voxel] for voxel in lesion if kept[voxel]), reverse=True)
        assert stay == values[: round(sum(values))] or abs(sum(values) % 1 - 0.5) < 1e-9


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    voxel=st.tuples(*[st.sampled_from([0.7, 1.0, 2.0, 3.1])] * 3),
    radius=st.sampled_from([0.9, 1.0, 2.0, 3.0, 6.0]),
    share=st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]),
    seed=SEEDS,
)
def test_balls_reach_as_far_as_the_distance_between_voxels(shape, voxel, radius, share, seed):
    mask = np.random.default_rng(seed).random(shape) < share
    margin = [int(radius / size) + 1 for size in voxel]
    near = by_distance(mask, radius, voxel)
    assert np.array_equal(volumes._dilate(mask, radius, voxel), near)
    assert np.array_equal(volumes._erode(mask, radius, voxel), ~by_distance(~mask, radius, voxel))
    wide = by_distance(np.pad(mask, [(size, size) for size in margin]), radius, voxel)
    closed = ~by_distance(~wide, radius, voxel)
    inner = tuple(slice(size, size + length) for size, length in zip(margin, shape, strict=True))
    assert np.array_equal(volumes._close(mask, radius, voxel), closed[inner])


def by_distance(mask, radius, voxel):
    """Voxels that lie no further from one of the mask than the radius, each held against all."""
    if not mask.any():
        return mask
    places = np.indices(mask.shape).reshape(3, -1).T * voxel
    return (cdist(places, places[mask.ravel()]).min(1) <= radius).reshape(mask.shape)
