"""Files of scans, whole, odd and broken: each becomes a finite 3-D volume, or is refused by code and sentence."""

import gzip

import nibabel
import numpy as np
import pytest

from brainuad.reading import read_lesion, read_scan


def save(array, path, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([3.0, 3, 3, 1]) if affine is None else affine), path)
    return path


def volume(shape=(60, 70, 60)):
    return np.indices(shape).sum(0).astype(np.float32)


def with_voxel(value):
    array = volume()
    array[5, 6, 7] = value
    return array


@pytest.mark.parametrize(
    ("array", "affine", "message"),
    [
        (np.stack([volume()] * 2, -1), None, "4 axes"),
        (volume()[0], None, "2 axes"),
        (with_voxel(np.nan), None, "1 voxels that are NaN"),
        (with_voxel(np.inf), None, "1 voxels that are NaN"),
        (np.zeros((60, 60, 60), np.float32), None, "0 in every voxel"),
        (np.full((60, 60, 60), 7, np.float32), None, "7 in every voxel"),
        (volume(), np.diag([3000.0, 3, 3, 1]), "voxels of 3e\\+03 x 3 x 3 mm"),
        (volume((20, 60, 60)), None, "field of view of 60 x 180 x 180 mm"),
    ],
)
def test_implausible_scans_are_refused_by_name(tmp_path, array, affine, message):
    path = save(array, tmp_path / "scan.nii", affine)
    with pytest.raises(ValueError, match=f"scan.nii .*{message}.*: .+"):
        read_scan(path)


def test_a_singular_affine_is_refused(tmp_path):
    path = save(volume(), tmp_path / "scan.nii")
    content = bytearray(path.read_bytes())
    content[280:296] = bytes(16)  # srow_x of the NIfTI header
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"scan\.nii has an affine that cannot be inverted"):
        read_scan(path)


def test_unreadable_files_are_refused_by_name(tmp_path):
    whole = save(volume(), tmp_path / "whole.nii")
    (tmp_path / "short.nii").write_bytes(whole.read_bytes()[:5000])
    (tmp_path / "text.nii.gz").write_text("no image")
    (tmp_path / "packed.nii.gz").write_bytes(gzip.compress(b"no image"))
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "scan.png").write_bytes(b"\x89PNG")
    nibabel.save(nibabel.MGHImage(volume(), np.eye(4)), tmp_path / "scan.mgz")
    for name in ("short.nii", "text.nii.gz", "packed.nii.gz", "empty.nii.gz", "scan.png"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            read_scan(tmp_path / name)
    with pytest.raises(ValueError, match=r"scan\.mgz is not a NIfTI"):
        read_scan(tmp_path / "scan.mgz")


def test_a_trailing_axis_and_a_few_negative_voxels_are_forgiven(tmp_path):
    array = with_voxel(-2)
    scan = read_scan(save(array[..., None], tmp_path / "scan.nii.gz"))
    assert scan.shape == array.shape
    assert np.array_equal(scan.get_fdata(), array.clip(0))
    standardised = read_scan(save(array - 90, tmp_path / "z.nii.gz"))
    assert np.array_equal(standardised.get_fdata(), array + 2)


def test_lesions_must_lie_on_the_scans_grid(tmp_path):
    scan = read_scan(save(volume(), tmp_path / "scan.nii.gz"))
    with pytest.raises(ValueError, match=r"small\.nii\.gz is a lesion mask of .* another grid"):
        read_lesion(save(volume((50, 70, 60)), tmp_path / "small.nii.gz"), scan)
    with pytest.raises(ValueError, match=r"moved\.nii\.gz is a lesion mask of .* another grid"):
        read_lesion(save(volume(), tmp_path / "moved.nii.gz", np.diag([-3.0, 3, 3, 1])), scan)
    labels = read_lesion(save((volume() % 3).astype(np.uint8), tmp_path / "labels.nii.gz"), scan)
    assert np.array_equal(labels.get_fdata(), volume() % 3 > 0)
