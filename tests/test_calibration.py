"""What is usual in each voxel: in closed form, one value a subject, and nothing where nothing can be said."""

import json

import nibabel
import numpy as np
import pandas as pd
import pytest

from brainuad.calibration import Calibration, calibration, scan_stack, smooth
from brainuad.grids import Frame
from brainuad.sample_set import SampleSet, SampleWriter

SIZE, POSITIONS = (16, 18), (0.0, 4.0)
SAMPLES = {"size": list(SIZE), "spacing": 2.0, "centre": [0.0, 0.0, 0.0], "positions": list(POSITIONS)}
AFFINE = np.array([[2.0, 0, 0, -15], [0, 2, 0, -17], [0, 0, 2, -10], [0, 0, 0, 1]])  # a pixel is a voxel
SHAPE = (16, 18, 12)
PLANES = [5, 7]  # of the two slices
SETTINGS = {
    "samples": SAMPLES,
    "scoring": {"batch_size": 2, "smoothing": 2.0, "trunk": "alex"},
    "quality": {"min_correlation": 0.5, "min_overlap": 0.8},
    "maps": {"smoothing": 0.0, "minimum_subjects": 3, "std_floor": 0.0},
    "simulated": True,
    "references": [None],
}
# Subject, session, split, lesion. Subject D has two sessions; F has a lesion and is not healthy; G is learnt from.
SCANS = [
    *[(name, "", "validation", False) for name in "ABC"],
    ("D", "1", "validation", False),
    ("D", "2", "validation", False),
    ("E", "", "test", False),
    ("F", "", "validation", True),
    ("G", "", "train", False),
]


@pytest.fixture
def study(tmp_path, rng):
    """Random maps of eight scans; returns a function that calibrates on them."""
    writer, maps, rows = SampleWriter(tmp_path / "samples/d", len(SCANS) * 2, SIZE), [], []
    for subject, session, split, sick in SCANS:
        for position in POSITIONS:
            brain, lesion = np.zeros(SIZE, bool), np.zeros(SIZE, bool)
            brain[2:-2, 3:-3] = True
            brain[2:5] = subject in "AB"  # two subjects only
            lesion[8, 8] = sick
            row = {"scan": f"sub-{subject}" + f"_ses-{session}" * bool(session), "subject": subject, "session": session}
            row |= {"split": split, "position": position}
            writer.add(brain * 0.5, brain, lesion, row)
            if split != "train":
                maps.append(rng.gamma(2.0, 1.0, SIZE).astype(np.float32))
                maps[-1][10, 10] = 0.25  # the same in everybody
                rows.append({**row, "sample": len(writer.rows) - 1})
    writer.close()
    (tmp_path / "score/d").mkdir(parents=True)
    np.save(tmp_path / "score/d/map.npy", np.stack(maps)[:, None])
    pd.DataFrame(rows).to_csv(tmp_path / "score/d/table.tsv", sep="\t", index=False)
    (tmp_path / "preprocess/d/sub-A").mkdir(parents=True)
    nibabel.save(nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE), tmp_path / "preprocess/d/sub-A/mask.nii.gz")
    quality = {"scan": ["sub-G", "sub-A"], "correlation": [0.7, 0.9], "overlap": [0.9, 0.8]}
    quality |= {"brain_volume_ml": [1300.0, 900.0], "bias_range": [1.2, 3.0]}
    pd.DataFrame(quality).to_csv(tmp_path / "quality.tsv", sep="\t", index=False)
    weights = tmp_path / "train/vqvae/5/model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    weights.with_suffix(".json").write_text(json.dumps({"class": "vqvae.VQVAE", "metadata": {"seed": 5}}))

    def calibrate(**changes):
        settings = {**SETTINGS, "maps": {**SETTINGS["maps"], **changes}}
        folders = [[tmp_path / "score/d"], [tmp_path / "samples/d"], [tmp_path / "preprocess/d"]]
        calibration(*folders, [tmp_path / "quality.tsv"], weights, tmp_path / "calibration", settings)
        return Calibration(tmp_path / "calibration")

    calibrate.folder = tmp_path
    return calibrate


def volumes(folder, frame, smoothing=0.0):
    """The maps of each subject of the calibration, sessions averaged, and where it has brain."""
    scored = pd.read_csv(folder / "score/d/table.tsv", sep="\t", dtype=str)
    scored = scored.assign(place=range(len(scored)), sample=scored["sample"].astype(int))
    scored["position"] = scored["position"].astype(float)
    maps, samples = np.load(folder / "score/d/map.npy"), SampleSet(folder / "samples/d")
    found = {}
    for subject in "ABCD":
        scans = [rows for _, rows in scored[scored["subject"] == subject].groupby("scan")]
        each = [scan_stack(rows, maps, samples, frame, smoothing) for rows in scans]
        found[subject] = np.mean([volume for volume, _ in each], axis=0), each[0][1]
    return found


def test_z_scores_of_the_calibration_subjects_have_mean_0_and_deviation_1(study):
    known = study()
    found = volumes(study.folder, known.frame())
    z = np.stack([known.z(volume, brain) for volume, brain in found.values()])
    where = known.covered & (known.count == 4)
    assert where.sum() > 200
    np.testing.assert_allclose(z[:, where].mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(z[:, where].std(axis=0, ddof=1), 1, rtol=1e-5)


def test_mean_and_deviation_are_those_of_one_value_a_subject(study):
    known = study()
    values = np.stack([volume for volume, _ in volumes(study.folder, known.frame()).values()])
    inside = np.zeros(SHAPE, bool)
    inside[5:-2, 3:-3, PLANES] = True
    assert (known.count[inside] == 4).all(), "sessions of one subject count once, sick and unseen subjects not at all"
    np.testing.assert_allclose(known.mean[inside], values.mean(axis=0)[inside], rtol=1e-5)
    np.testing.assert_allclose(known.std[inside], values.std(axis=0, ddof=1)[inside], rtol=1e-4, atol=1e-7)
    assert known.record["subjects"] == 4
    for name, dtype in (("mean", np.float32), ("std", np.float32), ("count", np.int16)):
        image = nibabel.load(study.folder / f"calibration/{name}.nii.gz")
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, AFFINE)


def test_voxels_of_too_few_subjects_or_no_spread_have_no_z_score(study):
    known = study()
    assert (known.count[2:5, 3:-3, PLANES] == 2).all()
    assert not known.covered[2:5].any()
    assert not known.covered[10, 10].any(), "all subjects are equal there"
    z = known.z(np.full(SHAPE, 99, np.float32), np.ones(SHAPE, bool))
    assert not z[~known.covered].any()
    assert (z[known.covered] > 0).all()
    assert study(minimum_subjects=2).covered[2:5, 3:-3, PLANES].all()


def test_small_deviations_are_raised_to_the_floor(study):
    known = study(std_floor=2.0)
    assert known.floor == pytest.approx(2 * np.median(known.std[known.covered]))
    z = known.z(known.mean + known.floor, np.ones(SHAPE, bool))
    low = known.covered & (known.std <= known.floor)
    assert low.any()
    np.testing.assert_allclose(z[low], 1, rtol=1e-4)


def test_smoothing_is_that_of_calibration_and_map_alike_and_stays_in_the_brain(study):
    known = study(smoothing=6.0)
    found = volumes(study.folder, known.frame(), 6.0)
    z = np.stack([known.z(volume, brain) for volume, brain in found.values()])
    where = known.covered & (known.count == 4)
    np.testing.assert_allclose(z[:, where].std(axis=0, ddof=1), 1, rtol=1e-4)
    frame = Frame(SAMPLES, SHAPE, AFFINE)
    brain = np.zeros((*SIZE, 2), np.float32)
    brain[4:9, 4:9] = 1
    constant = smooth(np.where(brain > 0, 3.0, 100.0), brain, 8.0, frame)
    np.testing.assert_allclose(constant[4:9, 4:9], 3, rtol=1e-6)


def test_the_range_of_the_quality_measures_is_that_of_the_scans_learnt_from(study):
    known = study()
    assert known.record["ranges"]["brain_volume_ml"] == {"low": 1300, "median": 1300, "high": 1300, "scans": 1}
    assert (known.record["model"], known.record["seed"]) == ("vqvae", 5)
    text = (study.folder / "calibration/calibration.json").read_text()
    assert "sub-" not in text, "it goes along with the weights and names nobody"
    assert str(study.folder) not in text


def test_without_validation_subjects_nothing_is_judged_and_the_reason_is_said(study):
    path = study.folder / "score/d/table.tsv"
    path.write_text(path.read_text().replace("validation", "test"))
    known = study()
    assert known.record["subjects"] == 0
    assert "no healthy validation subjects" in known.record["reason"]
    assert not known.covered.any()
    assert not known.z(np.ones(SHAPE, np.float32), np.ones(SHAPE, bool)).any()


def test_of_a_dataset_with_groups_the_reference_alone_is_healthy(study, monkeypatch):
    """A is a control, B a patient, C of no group; D is a patient in the second of its sessions."""
    path = study.folder / "samples/d/table.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)
    groups = {"sub-A": "control", "sub-B": "patient", "sub-D_ses-1": "control", "sub-D_ses-2": "patient"}
    table.assign(group=table["scan"].map(groups).fillna("")).to_csv(path, sep="\t", index=False)
    assert study().record["subjects"] == 4, "nobody said who is healthy"
    monkeypatch.setitem(SETTINGS, "references", ["control"])
    known = study(minimum_subjects=1)
    assert known.record["subjects"] == 1
    expected, inside = volumes(study.folder, known.frame())["A"]
    np.testing.assert_allclose(known.mean[inside], expected[inside], rtol=1e-5)
    monkeypatch.setitem(SETTINGS, "references", ["nobody"])
    assert "no healthy validation subjects" in study().record["reason"]


def test_a_calibration_that_is_not_there_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="snakemake results/calibration/"):
        Calibration(tmp_path)
