"""Atlases on the grid of the maps: nearest neighbours in world coordinates, and what is no atlas."""

import nibabel
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from brainuad.manifest import ManifestError
from brainuad.regions import Atlas, means, nearest, read_atlas
from grouped import AFFINE, SHAPE, brain, region

GRID = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)


def save(path, values, affine=AFFINE):
    nibabel.save(nibabel.Nifti1Image(values, affine), path)
    return path


@pytest.fixture
def labels():
    """Labels 4 (left), 7 (right) and 9 (the region), none elsewhere."""
    values = np.zeros(SHAPE, np.int16)
    x = nibabel.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))[..., 0]
    values[brain() & (x < 0)] = 4
    values[brain() & (x >= 0)] = 7
    values[region()] = 9
    return values


def test_an_atlas_on_the_same_grid_stays_as_it_is(tmp_path, labels):
    names = tmp_path / "names.tsv"
    names.write_text("index\tname\n4\tleft\n9\tlost <b>\n11\tnot there\n")
    atlas = read_atlas(save(tmp_path / "a.nii.gz", labels), names, GRID)
    assert list(atlas.table["region"]) == [4, 7, 9]
    assert list(atlas.table["name"]) == ["left", "7", "lost <b>"]
    assert list(atlas.table["voxels"]) == [(labels == label).sum() for label in (4, 7, 9)]
    np.testing.assert_array_equal(atlas.places, np.select([labels == 4, labels == 7, labels == 9], [0, 1, 2], -1))


def test_a_finer_atlas_in_any_orientation_gives_the_same_regions(tmp_path, labels):
    fine = np.repeat(np.repeat(np.repeat(labels, 2, 0), 2, 1), 2, 2)
    affine = AFFINE @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] -= 2.0  # the middle of the first of eight voxels
    image = nibabel.Nifti1Image(fine, affine)
    turned = image.as_reoriented(nibabel.orientations.axcodes2ornt("PSL"))
    expected = read_atlas(save(tmp_path / "a.nii.gz", labels), None, GRID)
    for name, one in (("fine", image), ("turned", turned)):
        nibabel.save(one, tmp_path / f"{name}.nii.gz")
        found = read_atlas(tmp_path / f"{name}.nii.gz", None, GRID)
        # The centre of a coarse voxel lies on the border of eight fine ones, all of which have its label.
        np.testing.assert_array_equal(found.places, expected.places)


def test_a_coarse_atlas_is_looked_up_in_world_coordinates(tmp_path, labels):
    affine = AFFINE @ np.diag([3.0, 3.0, 3.0, 1])
    coarse = np.zeros((9, 10, 9), np.int16)
    inside = brain()[::3, ::3, ::3]
    coarse[: inside.shape[0], : inside.shape[1], : inside.shape[2]] = inside * (1 + np.arange(inside.size)).reshape(
        inside.shape
    )
    atlas = read_atlas(save(tmp_path / "a.nii.gz", coarse, affine), None, GRID)
    points = nibabel.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))
    for place in np.argwhere(atlas.places >= 0)[::17]:
        voxel = np.rint(nibabel.affines.apply_affine(np.linalg.inv(affine), points[tuple(place)]) + 1e-6).astype(int)
        assert atlas.table["region"][atlas.places[tuple(place)]] == coarse[tuple(voxel)]


def test_a_region_too_small_for_the_grid_has_no_voxels(tmp_path):
    fine = np.zeros((184, 218, 182), np.int16)
    affine = np.eye(4)
    affine[:3, 3] = [-92, -128, -72]
    fine[60:120, 60:120, 60:120] = 1
    fine[101, 101, 101] = 2  # mm, between the centres of voxels of 8 mm
    atlas = read_atlas(save(tmp_path / "a.nii.gz", fine, affine), None, GRID)
    assert list(atlas.table["voxels"] > 0) == [True, False]
    values = means(np.ones(SHAPE), np.ones(SHAPE, bool), atlas)
    assert values[0] == 1
    assert np.isnan(values[1])


def test_means_are_of_the_covered_voxels(rng, labels):
    places = np.select([labels == 4, labels == 7, labels == 9], [0, 1, 2], -1)
    atlas = Atlas(places, pd.DataFrame({"region": [4, 7, 9]}))
    values, covered = rng.normal(size=SHAPE), rng.random(SHAPE) < 0.5
    covered[labels == 9] = False
    found = means(values, covered, atlas)
    np.testing.assert_allclose(found[:2], [values[covered & (labels == label)].mean() for label in (4, 7)])
    assert np.isnan(found[2])


def somewhere(generator):
    """The affine of voxels of 1 to 4 mm that lie and are turned at random."""
    affine = np.eye(4)
    turned = Rotation.random(random_state=int(generator.integers(2**31))).as_matrix()
    affine[:3, :3], affine[:3, 3] = turned * generator.uniform(1, 4, 3), generator.uniform(-9, 9, 3)
    return affine


@settings(max_examples=40, deadline=None, derandomize=True)
@given(shape=st.tuples(*[st.integers(1, 8)] * 3), size=st.tuples(*[st.integers(1, 8)] * 3), seed=st.integers(0, 2**31))
def test_labels_are_looked_up_voxel_by_voxel(shape, size, seed):
    generator = np.random.default_rng(seed)
    values, affine, grid = generator.integers(1, 9, shape), somewhere(generator), somewhere(generator)
    expected = np.zeros(size, int)
    for voxel in np.ndindex(size):
        place = np.linalg.inv(affine) @ grid @ [*voxel, 1]
        nearby = np.floor(place[:3] + 0.5 + 1e-6).astype(int)  # halves are rounded up, as in slices
        if all(0 <= number < length for number, length in zip(nearby, shape, strict=True)):
            expected[voxel] = values[tuple(nearby)]
    found = nearest(values, affine, nibabel.Nifti1Image(np.zeros(size, np.uint8), grid))
    assert np.array_equal(found, expected)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(size=st.tuples(*[st.integers(1, 5)] * 3), regions=st.integers(1, 6), seed=st.integers(0, 2**31))
def test_means_are_those_of_each_region_alone(size, regions, seed):
    generator = np.random.default_rng(seed)
    places, values = generator.integers(-1, regions, size), generator.normal(size=size)
    covered = generator.random(size) < 0.5
    expected = []
    for place in range(regions):
        chosen = values[covered & (places == place)]
        expected.append(chosen.mean() if chosen.size else np.nan)
    found = means(values, covered, Atlas(places, pd.DataFrame({"region": range(regions)})))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def shifted():
    affine = AFFINE.copy()
    affine[:3, 3] += [60, 0, 50]
    return affine


@pytest.mark.parametrize(
    ("values", "affine", "said"),
    [
        (lambda labels: labels, shifted(), "is not in template space"),
        (lambda labels: labels * 0, AFFINE, "has no label but 0"),
        (lambda labels: (labels * 0.13).astype(np.float32), AFFINE, "values that are no whole numbers"),
        (lambda labels: np.where(labels, np.nan, 0).astype(np.float32), AFFINE, "values that are no whole numbers"),
        (lambda labels: np.stack([labels, labels], -1), AFFINE, "has 4 dimensions"),
        (
            lambda labels: np.arange(labels.size, dtype=np.int32).reshape(labels.shape),
            AFFINE,
            "labels: regions are whole",
        ),
    ],
)
def test_what_is_no_atlas_of_this_space_is_refused(tmp_path, labels, values, affine, said):
    with pytest.raises(ManifestError, match=said):
        read_atlas(save(tmp_path / "a.nii.gz", values(labels), affine), None, GRID)


def test_files_that_are_not_there_or_none_are_refused(tmp_path, labels):
    with pytest.raises(ManifestError, match=r"b\.nii\.gz do not exist"):
        read_atlas(tmp_path / "b.nii.gz", None, GRID)
    (tmp_path / "c.nii.gz").write_text("no image")
    with pytest.raises(ManifestError, match=r"c\.nii\.gz cannot be read"):
        read_atlas(tmp_path / "c.nii.gz", None, GRID)
    atlas, names = save(tmp_path / "a.nii.gz", labels), tmp_path / "names.tsv"
    for text, said in (
        ("label\tname\n4\tleft\n", "needs the columns index and name"),
        ("index\tname\n4\tleft\n4\tright\n", "names the label 4 more than once"),
        ("index\tname\n1\tleft\n", "names none of the 3 labels"),
    ):
        names.write_text(text)
        with pytest.raises(ManifestError, match=said):
            read_atlas(atlas, names, GRID)
