"""Simulated scans: reproducible, invertible, true to their own truth, and as different as scanners are."""

from dataclasses import replace
from functools import cache

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from brainuad.phantom import CENTRE, Site, anatomy, phantom, simulate, template, voxel_grid

COARSE = Site(spacing=(2.9, 2.9, 2.9))
OTHER = {"contrast": (0.4, 0.8, 1.0), "noise": 0.05, "bias": 0.2, "blur": 4.0}
OBLIQUE = {"spacing": (3.0, 3.0, 5.0), "oblique": 15.0}


@cache
def scan(subject="001", seed=7, **changes):
    return simulate(subject, replace(COARSE, **changes), seed)


def raw(result):
    return np.asarray(result.t1w.dataobj)


def points(result):
    """World coordinates of the voxels, (3, x, y, z)."""
    voxels = np.indices(result.brain.shape).reshape(3, -1)
    return nibabel.affines.apply_affine(result.t1w.affine, voxels.T).T.reshape(3, *result.brain.shape)


def centre(mask, affine):
    return nibabel.affines.apply_affine(affine, ndimage.center_of_mass(mask))


def test_job_writes_the_same_bytes_twice(tmp_path):
    site = {"spacing": [2.9, 2.9, 2.9], "orientation": "PSR"}
    files = [(tmp_path / run / "t1w.nii.gz", tmp_path / run / "truth.npz") for run in "ab"]
    for run, (t1w, _) in zip("ab", files, strict=True):
        other = tmp_path / run / "other" / "t1w.nii.gz"  # who else is in the job does not matter
        rows = [{"subject": "001", "t1w": str(t1w)}, {"subject": "002", "t1w": str(other)}]
        phantom(rows if run == "a" else rows[::-1], tmp_path / run / "table.tsv", site, seed=7)
        assert other.with_name("truth.npz").exists()
    assert (tmp_path / "a/table.tsv").read_text().splitlines() == [
        "subject\tt1w",
        f"001\t{files[0][0]}",
        f"002\t{tmp_path / 'a/other/t1w.nii.gz'}",
    ]
    (t1w, truth), (t1w_again, truth_again) = files
    assert t1w.read_bytes() == t1w_again.read_bytes()
    assert truth.read_bytes() == truth_again.read_bytes()
    image, stored = nibabel.load(t1w), np.load(truth)
    assert image.get_data_dtype() == np.int16
    assert {name: stored[name].shape[-3:] for name in stored} == dict.fromkeys(
        ("clean", "bias", "tissues", "brain", "deformation"), image.shape
    )
    np.testing.assert_array_equal(raw(scan(orientation="PSR")), image.dataobj)


def test_subjects_and_seeds_differ_whatever_the_order():
    first = raw(scan("001"))
    assert not np.array_equal(first, raw(scan("002")))
    np.testing.assert_array_equal(first, raw(simulate("001", COARSE, 7)))
    assert anatomy("001", 7).layers.tolist() != anatomy("001", 8).layers.tolist()


def test_site_changes_the_scan_but_not_the_anatomy():
    here, there = scan(), scan(**OTHER)
    np.testing.assert_array_equal(here.tissues, there.tissues)
    np.testing.assert_array_equal(here.deformation, there.deformation)
    assert np.corrcoef(raw(here)[here.brain], raw(there)[here.brain])[0, 1] < 0.95
    turned = scan(orientation="PSR")
    codes = nibabel.orientations.axcodes2ornt("PSR")
    np.testing.assert_allclose(
        nibabel.orientations.apply_orientation(turned.tissues[1], codes), here.tissues[1], atol=1e-3
    )


@pytest.mark.parametrize("subject", ["001", "002", "003"])
def test_deformation_is_invertible_in_the_brain(subject):
    result = scan(subject)
    gradient = np.stack([np.stack(np.gradient(u, 2.9)) for u in result.deformation])
    jacobian = np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3))
    assert jacobian[result.brain].min() > 0.1
    moved = result.deformation[:, result.brain]
    assert moved.std(axis=1).min() > 1, "the anatomy hardly differs from the template"


def test_a_patient_is_the_same_person_with_wider_ventricles():
    healthy, ill, worse = (simulate("001", COARSE, 7, lost) for lost in (0.0, 4.0, 6.0))
    np.testing.assert_array_equal(healthy.t1w.dataobj, raw(scan()))
    assert abs(int(ill.brain.sum()) - int(healthy.brain.sum())) < 0.002 * healthy.brain.sum(), "the head is the same"
    deep = np.linalg.norm(points(healthy) - CENTRE[:, None, None, None], axis=0) < 40  # mm
    fluid = [float(result.tissues[0][deep].sum()) * 2.9**3 / 1000 for result in (healthy, ill, worse)]  # ml
    assert fluid[0] + 8 < fluid[1] < fluid[2] - 4
    gradient = np.stack([np.stack(np.gradient(u, 2.9)) for u in worse.deformation])
    jacobian = np.linalg.det(np.moveaxis(gradient, (0, 1), (-2, -1)) + np.eye(3))
    assert jacobian[worse.brain].min() > 0, "no fold"


def test_jobs_simulate_patients_by_their_group(tmp_path):
    rows = [
        {"subject": "001", "t1w": str(tmp_path / f"{name}/t1w.nii.gz"), "group": name}
        for name in ("patient", "control")
    ]
    phantom(rows, tmp_path / "table.tsv", {"spacing": [2.9] * 3}, seed=7, patients={"share": 0.5, "ventricles": 4.0})
    found = [np.asarray(nibabel.load(row["t1w"]).dataobj) for row in rows]
    np.testing.assert_array_equal(found[0], raw(simulate("001", COARSE, 7, 4.0)))
    np.testing.assert_array_equal(found[1], raw(scan()))


def test_tissues_are_the_template_seen_through_the_deformation():
    result, atlas = scan(), template()
    targets = (points(result) + result.deformation).reshape(3, -1)
    voxels = nibabel.affines.apply_affine(np.linalg.inv(atlas.affine), targets.T).T
    for truth, map_ in zip(result.tissues, atlas.tissues, strict=True):
        expected = ndimage.map_coordinates(map_, voxels, order=1).reshape(truth.shape)
        np.testing.assert_allclose(truth, expected, atol=2e-3)


def test_bias_times_clean_is_the_scan_within_its_noise():
    result = scan()
    error = raw(result) - result.bias * result.clean
    white = result.tissues[2] > 0.95
    sigma = COARSE.noise * result.clean[white].mean()
    assert error[white].std() == pytest.approx(sigma, rel=0.1)
    assert abs(error[white].mean()) < 0.2 * sigma
    assert (raw(result)[~result.brain] == 0).all(), "not skull-stripped"


def test_air_around_a_head_is_noisy():
    result = scan(head=True, bias=0.0)
    sigma = COARSE.noise * result.clean[result.tissues[2] > 0.95].mean()
    air = raw(result)[result.clean < 0.01 * sigma]
    assert air.mean() == pytest.approx(sigma * np.sqrt(np.pi / 2), rel=0.1), "noise of air is not Rayleigh's"


def test_bias_field_is_as_strong_as_asked_and_smooth():
    result = scan(**OTHER)
    log = np.log(result.bias)
    assert log[result.brain].mean() == pytest.approx(0, abs=1e-4)
    assert log[result.brain].std() == pytest.approx(0.2, rel=1e-3)
    assert max(np.abs(g).max() for g in np.gradient(log, 2.9)) < 0.03, "per mm"
    assert (scan(head=True, bias=0.0).bias == 1).all()


@pytest.mark.parametrize(("orientation", "zooms"), [("RAS", (2.5, 3, 4)), ("LPS", (2.5, 3, 4)), ("PSR", (3, 4, 2.5))])
def test_voxels_are_as_asked(orientation, zooms):
    affine, shape = voxel_grid(replace(COARSE, spacing=(2.5, 3, 4), orientation=orientation))
    assert "".join(nibabel.aff2axcodes(affine)) == orientation
    np.testing.assert_allclose(nibabel.affines.voxel_sizes(affine), zooms)
    middle = nibabel.affines.apply_affine(affine, (np.array(shape) - 1) / 2)
    np.testing.assert_allclose(middle, CENTRE, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"orientation": "PSR"}, OBLIQUE])
def test_brain_lies_whole_at_the_template_s_place(changes):
    result, atlas = scan(**changes), template()
    found = centre(result.brain, result.t1w.affine)
    expected = centre(atlas.tissues.sum(0) > 0.5, atlas.affine)
    shift = points(result)[:, result.brain].mean(1) + result.deformation[:, result.brain].mean(1) - expected
    assert np.linalg.norm(found - expected) < 15
    assert np.linalg.norm(shift) < 5, "the deformation does not lead to the template"
    for axis in range(3):
        assert not result.brain.take([0, -1], axis).any(), "the field of view cuts the brain"
    volume = result.brain.sum() * abs(np.linalg.det(result.t1w.affine)) / 1000
    assert 1100 < volume < 2100, "ml"


def test_oblique_scan_shows_the_same_brain():
    straight, tilted = scan(), scan(**OBLIQUE)
    assert nibabel.affines.obliquity(tilted.t1w.affine).max() == pytest.approx(np.radians(15))
    distance = centre(straight.brain, straight.t1w.affine) - centre(tilted.brain, tilted.t1w.affine)
    assert np.linalg.norm(distance) < 0.5


def test_white_matter_outshines_grey_outshines_csf():
    for changes in ({}, OTHER):
        result = scan(**changes)
        flat = raw(result) / result.bias
        csf, grey, white = (flat[p > 0.85].mean() for p in result.tissues)
        assert white > 1.15 * grey
        assert grey > 1.3 * csf


def test_blur_takes_detail_away():
    sharp, blurred = scan(), scan(blur=6.0)
    roughness = [np.square(np.diff(result.clean / result.clean.max(), axis=0)).sum() for result in (sharp, blurred)]
    assert roughness[1] < 0.6 * roughness[0]


def test_head_has_a_dark_skull_and_a_bright_scalp_outside_the_brain():
    result, bare = scan(head=True, bias=0.0), scan()
    distance = ndimage.distance_transform_edt(
        ~ndimage.binary_closing(result.brain, iterations=3), result.t1w.header.get_zooms()
    )
    distance[points(result)[2] < 20] = 0  # the vault: below are base and neck
    white = result.clean[result.tissues[2] > 0.95].mean()
    shells = [
        result.clean[(distance > low) & (distance <= low + 2.9)].mean() / white for low in np.arange(0.1, 30, 2.9)
    ]
    assert min(shells[:4]) < 0.35, "no skull"
    assert max(shells[2:]) > 0.6, "no scalp"
    assert shells[-1] < 0.05, "no air"
    assert bare.clean[ndimage.binary_dilation(bare.brain, iterations=2) == 0].max() < 0.05 * bare.clean.max()
    assert result.brain.sum() == pytest.approx(bare.brain.sum(), rel=0.01)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"contrsat": [1, 2, 3]}, "unknown key 'contrsat'"),
        ({"spacing": [2, 2]}, "three positive numbers"),
        ({"contrast": [0.2, -1, 1]}, "three positive numbers"),
        ({"orientation": "RAR"}, "orientation"),
        ({"noise": -0.1}, "noise must lie between"),
        ({"oblique": 40}, "oblique must lie between"),
    ],
)
def test_impossible_sites_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Site.from_settings(settings)


def test_site_takes_the_lists_of_a_configuration():
    site = Site.from_settings({"spacing": [1, 1, 2], "contrast": [0.2, 0.6, 1]})
    assert site == Site(spacing=(1.0, 1.0, 2.0), contrast=(0.2, 0.6, 1.0))
