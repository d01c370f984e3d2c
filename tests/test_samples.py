import hashlib

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from brainuad.sample_set import COLUMNS, SampleSet, SampleWriter
from brainuad.samples import cut_lesions, frame_coordinates, samples

SETTINGS = {"size": [20, 24], "spacing": 2.0, "centre": [0.0, -4.0, 10.0], "positions": [6.0, 10.0]}
AFFINE = np.array([[2.0, 0, 0, -29], [0, 2, 0, -43], [0, 0, 2, -20], [0, 0, 0, 1]])  # a pixel of the frame is a voxel
SHAPE = (30, 40, 30)


def world(axis):
    """Each voxel's own position along an axis, in mm."""
    return np.broadcast_to(
        (np.arange(SHAPE[axis]) * 2 + AFFINE[axis, 3]).reshape([-1 if i == axis else 1 for i in range(3)]),
        SHAPE,
    ).astype(np.float32)


@pytest.fixture
def dataset(tmp_path):
    """A manifest of three scans, two sessions of one subject and one excluded scan, already preprocessed."""
    (tmp_path / "m.tsv").write_text(
        "subject\tsession\tt1w\tgroup\nA\t1\ta.nii\tcontrol\nA\t2\tb.nii\tcontrol\nB\t\tc.nii\tpatient\n"
    )
    for scan in ("sub-A_ses-1", "sub-A_ses-2"):
        folder = tmp_path / "scans" / scan
        folder.mkdir(parents=True)
        image = (world(0) + 29) / 60
        nib.save(nib.Nifti1Image(image, AFFINE), folder / "t1w.nii.gz")
        nib.save(nib.Nifti1Image((np.abs(world(1) + 4) < 15).astype(np.uint8), AFFINE), folder / "mask.nii.gz")
        if scan.endswith("2"):
            nib.save(nib.Nifti1Image((world(2) > 8).astype(np.uint8), AFFINE), folder / "lesion.nii.gz")
    status = {"scan": ["sub-A_ses-1", "sub-A_ses-2", "sub-B"], "status": ["included", "included", "excluded"]}
    status["lesion_volume_ml"] = ["", "12.5", ""]
    pd.DataFrame(status).to_csv(tmp_path / "quality.tsv", sep="\t", index=False)
    return tmp_path


def make(folder, settings=SETTINGS):
    entry = {
        "manifest": folder / "m.tsv",
        "pattern": None,
        "phantom": None,
        "split": {"train": 0.5, "validation": 0.0, "test": 0.5},
    }
    samples("d", entry, folder / "quality.tsv", folder / "scans", folder / "set", settings, 1)
    return SampleSet(folder / "set")


def test_slices_are_cut_where_the_configuration_says(dataset):
    made = make(dataset)
    assert made.images.shape == (4, 1, 20, 24)
    assert made.images.dtype == np.float32
    assert made.brain.dtype == made.lesion.dtype == bool
    x = (np.arange(20) - 9.5) * 2
    brain = made.brain[0, 0]
    assert np.array_equal(brain.any(0), np.abs((np.arange(24) - 11.5) * 2) < 15)
    expected = np.broadcast_to(((x + 29) / 60)[:, None], (20, 24))
    assert made.images[0, 0][brain] == pytest.approx(expected[brain], abs=1e-6)
    assert np.all(made.images[0, 0][~brain] == 0)


def test_the_lesion_lies_where_it_lay(dataset):
    made = make(dataset)
    assert list(made.table["position"]) == [6.0, 10.0, 6.0, 10.0]
    assert [bool(mask.any()) for mask in made.lesion] == [False, False, False, True]


def test_a_lesion_that_no_slice_shows_is_on_record(dataset):
    made = make(dataset, {**SETTINGS, "positions": [2.0, 6.0]})
    assert not made.lesion.any()
    assert list(made.table["scan_lesion"].astype(str)) == ["False", "False", "True", "True"]


@pytest.mark.parametrize(("volume", "holds"), [("0.002", True), ("0.0", False), ("", False)])
def test_a_scan_holds_a_lesion_by_its_own_mask(dataset, volume, holds):
    """Not by that in template space, which has lost what fills less than half of a voxel."""
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), dataset / "scans/sub-A_ses-2/lesion.nii.gz")
    quality = pd.read_csv(dataset / "quality.tsv", sep="\t", dtype=str, keep_default_na=False)
    quality["lesion_volume_ml"] = ["", volume, ""]
    quality.to_csv(dataset / "quality.tsv", sep="\t", index=False)
    made = make(dataset)
    assert not made.lesion.any()
    assert list(made.table["scan_lesion"].astype(str)) == ["False", "False", str(holds), str(holds)]


def test_the_table_has_all_columns_and_leaves_excluded_scans_out(dataset):
    table = make(dataset).table
    assert list(table.columns) == list(COLUMNS)
    assert list(table["scan"]) == ["sub-A_ses-1"] * 2 + ["sub-A_ses-2"] * 2
    assert set(table["group"]) == {"control"}
    assert table["split"].nunique() == 1  # sessions of one subject are never on two sides


def test_volumes_follow_from_three_sizes(dataset):
    made = make(dataset, {**SETTINGS, "size": [16, 20, 12]})
    assert made.images.shape == (2, 1, 16, 20, 12)
    z = 10 + (np.arange(12) - 5.5) * 2
    assert np.array_equal(made.lesion[1, 0].any((0, 1)), z > 8)


def test_a_slice_without_brain_names_scan_and_keys(dataset):
    with pytest.raises(ValueError, match=r"sub-A_ses-1 .* no brain at z = 200 mm within the frame: change"):
        make(dataset, {**SETTINGS, "positions": [200]})


def test_the_middle_of_the_frame_is_the_centre():
    voxels = frame_coordinates({"size": [21, 25], "spacing": 1.5, "centre": [3.0, -18.0, 0.0]}, 7.0, np.eye(4))
    assert voxels[:, 10, 12] == pytest.approx([3.0, -18.0, 7.0])
    assert voxels[:, 11, 12] - voxels[:, 10, 12] == pytest.approx([1.5, 0, 0])


def test_a_set_is_memory_mapped(make_sample_set):
    made = SampleSet(make_sample_set())
    assert isinstance(made.images, np.memmap)
    assert len(made) == 14
    assert list(made.rows("validation")) == [8, 9]
    assert len(made.rows("train", "test")) == 12


def test_a_set_with_fewer_samples_than_announced_is_refused(tmp_path):
    with pytest.raises(ValueError, match="0 samples added, 3 announced"):
        SampleWriter(tmp_path / "set", 3, (8, 8)).close()


def test_the_digest_is_that_of_the_file_of_images(make_sample_set):
    folder = make_sample_set()
    recorded, file = (folder / "images.sha256").read_text(), hashlib.sha256((folder / "images.npy").read_bytes())
    assert recorded == f"{file.hexdigest()}  images.npy\n"  # as sha256sum writes it
    assert SampleSet(folder).digest == file.hexdigest()


@pytest.mark.parametrize("row", range(14))
@pytest.mark.parametrize("record", ["there", "missing"])
def test_a_replaced_image_has_another_digest(make_sample_set, row, record):
    folder = make_sample_set()
    before = SampleSet(folder).digest
    if record == "missing":
        (folder / "images.sha256").unlink()
        assert SampleSet(folder).digest == before
    images = np.load(folder / "images.npy", mmap_mode="r+")
    images[row] = images[row, :, ::-1]
    images.flush()
    assert SampleSet(folder).digest != before


BALLS = np.random.default_rng(0).uniform(-0.5, 0.5, (8, 3))


def ball(radius, voxel, centre):
    """A mask of one ball in mm around the world's origin, and its affine."""
    affine = np.diag([voxel, voxel, voxel, 1.0])
    affine[:3, 3] = -20
    points = affine[:3, :3] @ np.indices([round(40 / voxel) + 1] * 3).reshape(3, -1) + affine[:3, 3:]
    inside = np.linalg.norm(points - np.reshape(centre, (3, 1)), axis=0) <= radius
    return inside.reshape([round(40 / voxel) + 1] * 3).astype(np.float32), affine


@pytest.mark.parametrize("spacing", [0.75, 1.0, 1.5, 2.0])
@pytest.mark.parametrize("radius", [3, 5])
def test_a_lesion_keeps_its_volume_on_pixels_of_another_size(spacing, radius):
    settings = {"size": [int(30 / spacing)] * 3, "spacing": spacing, "centre": [0.2, -0.3, 0.1]}
    for centre in BALLS:
        mask, affine = ball(radius, 1.0, centre)
        kept = cut_lesions(mask, settings, settings["centre"][2], affine).sum() * spacing**3 / mask.sum()
        assert 0.95 <= kept <= 1.05


@pytest.mark.parametrize("spacing", [0.75, 1.5, 2.0])
def test_a_lesion_keeps_its_area_in_a_slice(spacing):
    settings = {"size": [int(30 / spacing)] * 2, "spacing": spacing, "centre": [0.2, -0.3, 0.1]}
    for centre in BALLS:
        mask, affine = ball(6, 1.0, centre)
        area = mask[:, :, 20].sum()
        assert cut_lesions(mask, settings, 0.0, affine).sum() * spacing**2 == pytest.approx(area, rel=0.03)


def test_a_lesion_is_cut_where_its_scan_is():
    """At pixels that are voxels the mask itself; at others the pixels that lie in it."""
    mask, affine = ball(6, 1.0, (2, -3, 0))
    same = cut_lesions(mask, {"size": [41, 41], "spacing": 1.0, "centre": [0.0, 0.0, 0.0]}, 0.0, affine)
    assert np.array_equal(same, mask[:, :, 20] > 0)
    settings = {"size": [20, 20], "spacing": 1.5, "centre": [1.0, -2.0, 0.0]}
    x, y = (centre + (np.arange(20) - 9.5) * 1.5 for centre in (1, -2))
    distance = np.hypot(x[:, None] - 2, y[None] + 3)
    made = cut_lesions(mask, settings, 0.0, affine)
    assert made[distance < 5].all()
    assert not made[distance > 7].any()
