"""Conventions of the affine maps against torchvision and scipy; batches of images."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.transforms import Affine, RandAffineGrid
from scipy.ndimage import affine_transform, gaussian_filter
from scipy.stats import ks_2samp
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine

from brainuad.augmentation import RandomAffine, affine_grid, rotation_in_plane, warp
from brainuad.sample_set import Images, SampleSet, split_batches

STILL = {"rotation": 0, "translation": 0, "scaling": 0}


def pictures(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("size", [(24, 17), (12, 9, 14)])
def test_nothing_to_do_changes_nothing(size):
    x = pictures(3, 1, *size)
    assert torch.equal(RandomAffine(**STILL, flip=0)(x, generator()), x)
    eye = torch.eye(len(size)).repeat(3, 1, 1)
    torch.testing.assert_close(warp(x, eye, torch.zeros(3, len(size))), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(24, 17), (12, 9, 14)])
def test_flip_is_left_to_right(size):
    x = pictures(2, 1, *size)
    assert torch.equal(RandomAffine(**STILL, flip=1)(x, generator()), x.flip(2))
    mirror = torch.diag(torch.tensor([-1.0] + [1.0] * (len(size) - 1))).repeat(2, 1, 1)
    torch.testing.assert_close(warp(x, mirror, torch.zeros(2, len(size))), x.flip(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(24, 17), (12, 9, 14)])
def test_shift_moves_by_whole_pixels_and_brings_zeros(size):
    x = pictures(1, 1, *size)
    shift = torch.tensor([[3.0, -2.0] + [0.0] * (len(size) - 2)])
    moved = warp(x, torch.eye(len(size))[None], shift)
    torch.testing.assert_close(moved[:, :, 3:, :-2], x[:, :, :-3, 2:], atol=1e-5, rtol=0)
    assert moved[:, :, :3].abs().max() < 1e-5
    assert moved[:, :, :, -2:].abs().max() < 1e-5


def test_probability_leaves_the_others_where_they_are():
    x = pictures(200, 1, 12, 10)
    moved = RandomAffine(flip=0, probability=0.3)(x, generator())
    still = ((moved - x).flatten(1).abs().amax(1) < 1e-5).float().mean().item()
    assert still == pytest.approx(0.7, abs=0.1)


def test_agrees_with_torchvision():
    # torchvision turns clockwise on a screen, whose second axis points right and first axis down: from the
    # second towards the first. It lists shifts with the second axis first.
    x = pictures(1, 1, 32, 24)
    angle, scale = 7.0, 1.08
    theirs = affine(
        x, angle=angle, translate=[2, -3], scale=scale, shear=[0.0], interpolation=InterpolationMode.BILINEAR
    )
    matrix = scale * rotation_in_plane((1, 0), torch.tensor([math.radians(angle)]), 2)
    ours = warp(x, matrix, torch.tensor([[-3.0, 2.0]]))
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("size", [(20, 26), (12, 9, 14)])
def test_agrees_with_scipy(size):
    axes = len(size)
    source = np.random.default_rng(1)
    x = pictures(1, 1, *size)
    matrix = np.eye(axes) + source.uniform(-0.2, 0.2, (axes, axes))
    shift = source.uniform(-2, 2, axes)
    centre = (np.array(size) - 1) / 2
    inverse = np.linalg.inv(matrix)
    theirs = affine_transform(
        x[0, 0].numpy(), inverse, centre - inverse @ (centre + shift), order=1, mode="grid-constant"
    )
    ours = warp(x, torch.tensor(matrix[None]).float(), torch.tensor(shift[None]).float())
    np.testing.assert_allclose(ours[0, 0], theirs, atol=2e-5)


@pytest.mark.parametrize("size", [(24, 17), (1, 5), (12, 9, 14)])
def test_grid_equals_that_of_torch(size):
    theta = torch.randn(3, len(size), len(size) + 1, generator=generator())
    theirs = torch.nn.functional.affine_grid(theta, [3, 1, *size], align_corners=False)
    matrix, offset = theta.split([len(size), 1], dim=2)
    torch.testing.assert_close(affine_grid(matrix.flip(2), offset, size), theirs, atol=2e-6, rtol=0)


SIZES = st.one_of(st.tuples(*[st.integers(1, 40)] * 2), st.tuples(*[st.integers(1, 12)] * 3))
SEEDS = st.integers(0, 2**31)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(size=SIZES, count=st.integers(1, 5), seed=SEEDS, reach=st.floats(0, 4))
def test_grid_is_a_product_of_matrices(size, count, seed, reach):
    """In double precision pixel by pixel; in single precision to its rounding, as torch's function is."""
    axes = len(size)
    theta = reach * (2 * torch.rand(count, axes, axes + 1, generator=generator(seed), dtype=torch.float64) - 1)
    middles = np.stack(np.meshgrid(*[(2 * np.arange(side) + 1) / side - 1 for side in size], indexing="ij"), -1)
    points = np.concatenate([middles[..., ::-1], np.ones((*size, 1))], -1)
    expected = torch.from_numpy(np.einsum("bij,...j->b...i", theta.numpy(), points))
    for dtype, error in ((torch.float64, 1e-14), (torch.float32, 4e-7)):
        matrix, offset = theta.to(dtype).split([axes, 1], dim=2)
        found = affine_grid(matrix.flip(2), offset, size)
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), expected, atol=error * (axes + 1) * max(reach, 1), rtol=0)
        theirs = torch.nn.functional.affine_grid(theta.to(dtype), [count, 1, *size], align_corners=False)
        torch.testing.assert_close(found, theirs, atol=2 * error * (axes + 1) * max(reach, 1), rtol=0)


def plain_maps(transform, size, count, source):
    """Matrix and shift of each image of a batch from the same random numbers, in double precision, one by one."""
    axes = len(size)
    planes = [(0, 1)] if axes == 2 else [(0, 1), (0, 2), (1, 2)]
    flipped = (torch.rand(count, generator=source) < transform.flip).numpy()
    angles, scales, shifts = (
        2 * torch.rand(count, number, generator=source).double().numpy() - 1 for number in (len(planes), 1, axes)
    )
    moved = np.ones(count)
    if transform.probability < 1:
        moved = (torch.rand(count, generator=source) < transform.probability).numpy()
    for i in range(count):
        matrix = np.diag([-1.0 if flipped[i] else 1.0, *[1.0] * (axes - 1)])
        for (first, second), angle in zip(planes, np.radians(moved[i] * angles[i] * transform.rotation), strict=True):
            turn = np.eye(axes)
            turn[first, first] = turn[second, second] = np.cos(angle)
            turn[second, first], turn[first, second] = np.sin(angle), -np.sin(angle)
            matrix = turn @ matrix
        scale = 1 + moved[i] * scales[i, 0] * transform.scaling
        yield scale * matrix, moved[i] * shifts[i] * transform.translation * np.array(size)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    size=SIZES,
    count=st.integers(1, 4),
    seed=SEEDS,
    ranges=st.tuples(st.floats(0.1, 60), st.floats(0, 0.5), st.floats(0, 0.5), st.floats(0, 1)),
    probability=st.sampled_from([0.0, 0.5, 1.0]),
    start=st.integers(0, 3),
)
def test_batches_are_moved_as_scipy_moves_each_image_by_plain_matrices(size, count, seed, ranges, probability, start):
    """The images may be the last ones of a batch that others hold the first of."""
    x, transform = torch.rand(count, 1, *size, generator=generator(seed)), RandomAffine(*ranges, probability)
    moved = transform(x, generator(seed), start + count, start)
    maps = list(plain_maps(transform, size, start + count, generator(seed)))[start:]
    centre = (np.array(size) - 1) / 2
    for image, found, (matrix, shift) in zip(x[:, 0].double().numpy(), moved[:, 0], maps, strict=True):
        inverse = np.linalg.inv(matrix)
        expected = affine_transform(image, inverse, centre - inverse @ (centre + shift), order=1, mode="grid-constant")
        np.testing.assert_allclose(found, expected, atol=5e-5)


@pytest.mark.parametrize("size", [(32, 20), (10, 12, 14)])
def test_draws_lie_in_their_ranges_and_follow_the_seed(size):
    transform = RandomAffine(rotation=10, translation=0.1, scaling=0.1, flip=0.5)
    flipped = torch.rand(500, generator=generator(3)) < 0.5
    matrix, shift = transform.draw(torch.Size(size), flipped, generator(1))
    volume = torch.linalg.det(matrix)
    scale = volume.abs() ** (1 / len(size))
    assert torch.equal(volume < 0, flipped)
    assert 0.9 - 1e-5 < scale.min() < 0.91
    assert 1.09 < scale.max() < 1.1 + 1e-5
    assert (shift.abs() <= 0.1 * torch.tensor(size)).all()
    assert (shift.abs().amax(0) > 0.09 * torch.tensor(size)).all()
    x = pictures(4, 1, *size)
    assert torch.equal(transform(x, generator(5)), transform(x, generator(5)))
    assert not torch.equal(transform(x, generator(5)), transform(x, generator(6)))


def test_the_maps_that_are_drawn_move_images_as_monai_does(rng):
    x = torch.from_numpy(rng.random((20, 1, 16, 20), dtype=np.float32))
    generator, augment = torch.Generator().manual_seed(0), RandomAffine()
    matrix, shift = augment.draw(x.shape[2:], torch.arange(20) % 2 == 0, generator)
    for image, moved, *own in zip(x, warp(x, matrix, shift), matrix, shift, strict=True):
        full = np.eye(3)
        full[:2] = np.column_stack([part.numpy() for part in own])
        by_monai = Affine(affine=np.linalg.inv(full), mode="bilinear", padding_mode="zeros", image_only=True)
        assert torch.allclose(moved, torch.as_tensor(by_monai(image)), atol=1e-5)


def test_angles_and_shifts_are_distributed_as_those_of_monai():
    """It draws a scale for each axis, where ours is one for all: that of an axis has the same distribution."""
    count, side, reach = 2000, 100, math.radians(10)
    by_monai = RandAffineGrid([reach], [], [0.1 * side] * 2, [0.1] * 2)
    by_monai.set_random_state(0)
    theirs = []
    for _ in range(count):
        by_monai.randomize()
        theirs.append([*by_monai.rotate_params, *by_monai.translate_params, *by_monai.scale_params])
    draw = RandomAffine(10, 0.1, 0.1, 0).draw((side, side), torch.zeros(count, dtype=bool), torch.Generator())
    matrix, shift = (part.double().numpy() for part in draw)
    scale = np.sqrt(np.linalg.det(matrix))
    angle = np.arctan2(matrix[:, 1, 0], matrix[:, 0, 0])
    ours = [angle, *shift.T, scale, scale]
    for own, other in zip(ours, np.transpose(theirs), strict=True):
        assert ks_2samp(own, other).pvalue > 0.01


def test_draws_are_distributed_as_those_of_torchvision():
    size, count = (60, 40), 4000
    matrix, shift = RandomAffine(10, 0.1, 0.1).draw(size, torch.zeros(count, dtype=torch.bool), generator())
    scale = torch.linalg.det(matrix).sqrt()
    degrees = torch.rad2deg(torch.atan2(matrix[:, 0, 1], matrix[:, 1, 1]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        draw = transforms.RandomAffine.get_params
        theirs = [draw([-10.0, 10.0], [0.1, 0.1], [0.9, 1.1], None, list(size[::-1])) for _ in range(count)]
    angles, shifts, scales, _ = zip(*theirs, strict=True)
    # torchvision shifts by whole pixels and lists the second axis first.
    pairs = [(degrees, angles), (scale, scales)]
    pairs += [(shift[:, axis].round(), np.array(shifts)[:, 1 - axis]) for axis in (0, 1)]
    for ours, other in pairs:
        assert ks_2samp(np.asarray(ours), np.asarray(other)).pvalue > 0.01


def test_images_are_distributed_as_those_of_torchvision():
    """Pixel by pixel: their means and spreads over many draws, on a side of 25, where whole shifts are uniform."""
    x = torch.from_numpy(gaussian_filter(np.random.default_rng(2).random((1, 17, 17)), (0, 2, 2))).float()
    x, count = (x - x.min()) / (x.max() - x.min()), 3000
    x = torch.nn.functional.pad(x, (4, 4, 4, 4))  # theirs weighs pixels at the border once more
    ours = RandomAffine(10, 0.1, 0.1, 0.5)(x.repeat(count, 1, 1, 1), generator())[:, 0]
    ranges = {"translate": (0.1, 0.1), "scale": (0.9, 1.1), "interpolation": InterpolationMode.BILINEAR}
    # Theirs flips the second axis, ours the first.
    steps = transforms.Compose([transforms.RandomAffine(10, **ranges), transforms.RandomHorizontalFlip()])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.stack([steps(x.mT)[0].T for _ in range(count)])
    assert (ours.mean(0) - theirs.mean(0)).abs().max() < 0.03
    assert (ours.std(0) - theirs.std(0)).abs().max() < 0.03
    assert (ours.mean(0) - x[0]).abs().max() > 0.1  # what is compared is not the image as it was


def test_rotation_range():
    transform = RandomAffine(rotation=10, translation=0, scaling=0, flip=0)
    matrix, _ = transform.draw(torch.Size((8, 8)), torch.zeros(500, dtype=torch.bool), generator())
    degrees = torch.rad2deg(torch.atan2(matrix[:, 1, 0], matrix[:, 0, 0])).abs()
    assert 9.8 < degrees.max() <= 10.0001


def test_values_stay_in_range():
    moved = RandomAffine(30, 0.3, 0.3, 0.5)(pictures(8, 1, 16, 16), generator())
    assert moved.min() >= 0
    assert moved.max() <= 1 + 1e-6


def test_split_batches_never_leaves_one_image():
    assert [len(b) for b in split_batches(np.arange(10), 4)] == [4, 4, 2]
    assert [len(b) for b in split_batches(np.arange(9), 4)] == [4, 5]
    assert [len(b) for b in split_batches(np.arange(1), 4)] == [1]
    np.testing.assert_array_equal(np.concatenate(split_batches(np.arange(9), 4)), np.arange(9))


def write_set(folder, splits, size, value):
    folder.mkdir()
    images = np.full((len(splits), 1, *size), value, dtype=np.float32) + np.arange(len(splits)).reshape(-1, 1, 1, 1)
    np.save(folder / "images.npy", images)
    pd.DataFrame({"split": splits}).to_csv(folder / "table.tsv", sep="\t", index=False)
    return SampleSet(folder)


def test_images_of_a_split_over_two_sets(tmp_path):
    one = write_set(tmp_path / "one", ["train", "test", "train"], (4, 4), 0)
    two = write_set(tmp_path / "two", ["validation", "train", "train"], (4, 4), 10)
    images = Images([one, two], "train")
    assert len(images) == 4
    np.testing.assert_array_equal(images[np.array([3, 0, 2])][:, 0, 0, 0], [0, 11, 12])
    batches = list(images.batches(2))
    np.testing.assert_array_equal(np.concatenate(batches)[:, 0, 0, 0], [0, 2, 11, 12])
    assert batches[0].dtype == np.float32
    assert len(Images([one], "validation")) == 0


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    sets=st.lists(st.lists(st.sampled_from(["train", "validation", "test"]), min_size=1, max_size=12), min_size=1),
    size=st.one_of(st.tuples(*[st.integers(1, 9)] * 2), st.tuples(*[st.integers(1, 5)] * 3)),
    batch_size=st.integers(1, 9),
    seed=SEEDS,
)
def test_batches_from_disk_are_those_of_a_list_in_memory(tmp_path_factory, sets, size, batch_size, seed):
    source, folder, kept = np.random.default_rng(seed), tmp_path_factory.mktemp("sets"), []
    for number, splits in enumerate(sets):
        images = source.random((len(splits), 1, *size), np.float32)
        (folder / str(number)).mkdir()
        np.save(folder / str(number) / "images.npy", images)
        pd.DataFrame({"split": splits}).to_csv(folder / str(number) / "table.tsv", sep="\t", index=False)
        kept += [image for image, split in zip(images, splits, strict=True) if split == "train"]
    images = Images([SampleSet(folder / str(number)) for number in range(len(sets))], "train")
    order = source.permutation(len(images))
    assert len(images) == len(kept)
    expected, left = [], order.tolist()
    while left:
        number = batch_size + (len(left) == batch_size + 1)  # a single one left over joins
        batch, left = left[:number], left[number:]
        expected.append([kept[i] for i in sorted(batch)])
    for found, batch in zip(images.batches(batch_size, order), expected, strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.stack(batch))


def test_sets_of_different_sizes_are_refused(tmp_path):
    one = write_set(tmp_path / "one", ["train"], (4, 4), 0)
    two = write_set(tmp_path / "two", ["train"], (4, 8), 0)
    with pytest.raises(ValueError, match="must share one size"):
        Images([one, two], "train")


@pytest.mark.parametrize("name", ["rotation", "translation", "scaling", "flip"])
def test_still_means_that_nothing_moves(name):
    none = dict.fromkeys(("rotation", "translation", "scaling", "flip"), 0.0)
    x = torch.rand(2, 1, 8, 8)
    assert RandomAffine(**none).still
    assert torch.equal(RandomAffine(**none)(x, torch.Generator()), x)
    assert not RandomAffine(**none | {name: 0.1}).still
    assert RandomAffine(**none | {name: 0.1}, probability=0.0).still == (name != "flip")
