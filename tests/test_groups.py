"""Patients against controls: what differs is found and what does not is not; and input that cannot be compared."""

import subprocess
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel.processing import resample_from_to

from brainuad.effects import Moments
from brainuad.grouping import ALONE, check_all_groups, check_groups
from brainuad.groups import Cohort, compared, groups
from brainuad.manifest import ManifestError
from brainuad.phantom import template as phantom_template
from conftest import ROOT
from grouped import AFFINE, CENTRE, SHAPE, brain, maps_folder, people, region, simulated_map
from miniature import miniature, write

GRID = nibabel.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINE)
SETTINGS = {
    "dataset": "clinic",
    "reference": "control",
    "regions": None,
    "names": None,
    "false_discoveries": 0.05,
    "resamples": 200,
    "model": "Voxel z-score",
    "simulated": True,
}
TABLES = ("groups", "regions", "subjects", "balance", "notes")


def run(folder, table, make, **settings):
    """Compare fabricated maps; returns the tables by name."""
    files = {name: folder / f"{name}.tsv" for name in TABLES} | {"picture": folder / "maps.png"}
    groups(maps_folder(folder / "made", table, make), folder / "maps", files, SETTINGS | settings)
    text = dict.fromkeys(("group", "subject", "site", "sex", "name", "reason", "note", "warning"), str)
    return {name: pd.read_csv(files[name], sep="\t", dtype=text, keep_default_na=True) for name in TABLES}


def load(folder, name):
    return np.asarray(nibabel.load(folder / f"maps/{name}.nii.gz").dataobj)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory):
    """Left, right, the lost region, and one that no map covers."""
    folder = tmp_path_factory.mktemp("atlas")
    x = nibabel.affines.apply_affine(AFFINE, np.moveaxis(np.indices(SHAPE), 0, -1))[..., 0]
    labels = np.where(brain(), 1 + (x > 0), 0).astype(np.int16)
    labels[region()] = 3
    labels[tuple(np.argwhere(brain())[0])] = 4
    nibabel.save(nibabel.Nifti1Image(labels, AFFINE), folder / "atlas.nii.gz")
    (folder / "names.tsv").write_text("index\tname\n1\tleft\n2\tright\n3\tlost\n4\tuncovered\n")
    return {"regions": folder / "atlas.nii.gz", "names": folder / "names.tsv"}


@pytest.fixture(scope="module")
def found(tmp_path_factory, atlas):
    """The comparison of patients who lack a region; the first voxel of the brain is covered in nobody."""
    folder, generator, hidden = tmp_path_factory.mktemp("found"), np.random.default_rng(1), brain()
    hidden[tuple(np.argwhere(brain())[0])] = False

    def make(row):
        return simulated_map(generator, 3 * (row.group == "patient")) * hidden

    return folder, run(folder, people(20, 18), make, **atlas)


def test_the_lost_region_is_found_and_little_else(found):
    folder, tables = found
    marked = load(folder, "found_patient")
    assert (marked[region()] == 1).all()
    assert np.count_nonzero(marked[~region()]) <= 0.1 * region().sum()
    patients = tables["groups"].iloc[1]
    assert patients["higher"] == (marked > 0).sum()
    assert np.linalg.norm(patients[["peak_x", "peak_y", "peak_z"]].to_numpy(float) - CENTRE) < 15
    effect = load(folder, "effect_patient")
    assert effect.flat[np.abs(effect).argmax()] == pytest.approx(patients["peak"], rel=1e-4)
    assert not effect[~brain()].any()


def test_images_are_in_template_space_and_say_nothing_else(found):
    folder, _ = found
    names = {path.name.removesuffix(".nii.gz") for path in (folder / "maps").iterdir()}
    assert names == {"mean_control", "mean_patient", "effect_patient", "found_patient"}
    for name in names:
        image = nibabel.load(folder / f"maps/{name}.nii.gz")
        np.testing.assert_allclose(image.affine, AFFINE)
        assert image.header["sform_code"] == image.header["qform_code"] == 4
        assert not any(image.header[key].item() for key in ("descrip", "aux_file", "intent_name", "db_name"))


def test_means_are_those_of_the_subjects(found):
    folder, _ = found
    table = pd.read_csv(folder / "made/table.tsv", sep="\t")
    for name in ("control", "patient"):
        maps = [nibabel.load(folder / "made" / path).get_fdata() for path in table["zscore"][table["group"] == name]]
        np.testing.assert_allclose(load(folder, f"mean_{name}"), np.mean(maps, axis=0), atol=1e-5)


def test_regions_are_tested_and_named(found):
    rows = found[1]["regions"].set_index("name")
    assert list(rows.index) == ["left", "right", "lost", "uncovered"]
    assert rows.loc["lost", "q"] < 1e-6
    assert rows.loc["lost", "low"] > 1
    assert rows.loc[["left", "right"], "q"].gt(0.05).all()
    assert rows.loc["uncovered", "reason"] == "covered in fewer than two subjects of a group"
    assert np.isnan(rows.loc["uncovered", ["effect", "p", "q"]].to_numpy(float)).all()


def test_subjects_are_ranked_with_an_interval(found):
    _, tables = found
    patients = tables["groups"].set_index("group").loc["patient"]
    assert patients["share_above_3_low"] > 0.5
    assert patients["share_above_3_low"] < patients["share_above_3_auroc"] <= patients["share_above_3_high"]
    assert len(tables["subjects"]) == 38
    assert tables["notes"].empty


def test_the_picture_shows_every_group(found):
    from matplotlib.image import imread

    picture = imread(found[0] / "maps.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1


def test_where_nothing_differs_nothing_is_found(tmp_path, atlas):
    generator = np.random.default_rng(5)
    tables = run(tmp_path, people(20, 18), lambda row: simulated_map(generator), **atlas)
    assert not load(tmp_path, "found_patient").any()
    assert tables["regions"]["q"].dropna().gt(0.05).all()
    patients = tables["groups"].iloc[1]
    assert patients["mean_z_low"] < 0.5 < patients["mean_z_high"]


def simulated(generator, effect):
    """Two cohorts of ten, in memory; noise in the brain, over which the region is raised in patients."""
    cohorts = []
    for name, size in (("patient", effect), ("control", 0.0)):
        cohort = Cohort(name, Moments(int(np.prod(SHAPE))))
        for index in range(10):
            values = simulated_map(generator, size)
            cohort.moments.add(values.ravel(), values.ravel() != 0)
            scores = {"mean_z": values.mean(), "share_above_3": (values > 3).mean()}
            cohort.subjects.append({"subject": str(index), "sessions": 1, **scores})
        cohorts.append(cohort)
    return cohorts


def test_false_discoveries_stay_below_their_rate():
    """100 cohorts without an effect and 100 with one.

    Without an effect every discovery is false: at most 5 in 100 cohorts may have any, of which chance makes up to 11
    (one time in two hundred more). With one, the false ones are at most 5 % of what is found, on average.
    """
    generator, false, shares, power = np.random.default_rng(11), 0, [], []
    for _ in range(100):
        false += bool(compared(*simulated(generator, 0.0), GRID, None, SETTINGS).found.any())
        marked = compared(*simulated(generator, 4.0), GRID, None, SETTINGS).found != 0
        shares.append((marked & ~region()).sum() / max(marked.sum(), 1))
        power.append(marked[region()].mean())
    print(f"false in {false} of 100 cohorts; of what is found {np.mean(shares):.1%} false; {np.mean(power):.0%} found")
    assert false <= 11
    assert np.mean(shares) <= 0.05 + 3 * np.std(shares) / 10
    assert np.mean(power) > 0.8


def test_sessions_are_one_value_a_subject(tmp_path):
    table = people(6, 6)
    again = table[table["subject"] == "p00"].assign(session="2", age="80.5")
    maps = {"": 1.0, "2": 3.0}
    table = pd.concat([table, again], ignore_index=True)
    tables = run(tmp_path, table, lambda row: (brain() * (maps[row.session] + 0.01 * len(row.subject))).astype("f4"))
    row = tables["subjects"].set_index("subject").loc["p00"]
    assert (row["sessions"], row["age"]) == (2, 70.25)
    assert row["mean_z"] == pytest.approx(2.03)
    assert list(tables["groups"]["subjects"]) == [6, 6]
    assert list(tables["groups"]["scans"]) == [6, 7]


def test_voxels_that_few_cover_are_not_tested(tmp_path, rng):
    hidden = np.argwhere(brain())[100]

    def make(row):
        values = simulated_map(rng)
        if row.subject in ("p00", "p01"):  # of six patients: 67 % are left
            values[tuple(hidden)] = 0
        return values

    tables = run(tmp_path, people(6, 6), make)
    assert load(tmp_path, "effect_patient")[tuple(hidden)] == 0
    assert tables["groups"].iloc[1]["voxels"] == brain().sum() - 1


def test_who_is_not_compared_is_said(tmp_path, rng):
    table = people(8, 8)
    table.loc[0, "split"] = "train"
    table.loc[1, "group"] = ""
    changed = table.iloc[[2]].assign(session="2", group="patient")
    tables = run(tmp_path, pd.concat([table, changed], ignore_index=True), lambda row: simulated_map(rng))
    notes = " ".join(tables["notes"]["note"])
    assert (
        "1 subject is left out: not of the split test, so that models have seen them or were calibrated on them"
        in notes
    )
    assert "of no group (the first is c01)" in notes
    assert "of another group in another session (the first is c02)" in notes
    assert list(tables["groups"]["subjects"]) == [5, 8]


def test_a_session_of_no_group_does_not_lose_the_others(tmp_path, rng):
    table = people(6, 6)
    further = table.iloc[[6, 7]].assign(session="2", group=["", "control"], split=["test", "train"])
    tables = run(tmp_path, pd.concat([table, further], ignore_index=True), lambda row: simulated_map(rng))
    assert list(tables["groups"]["subjects"]) == [6, 6]
    notes = " ".join(tables["notes"]["note"])
    assert "1 scan is left out: of no group, unlike others of the subject (the first is sub-p00_ses-2)" in notes
    assert "in another session" not in notes


def test_one_patient_has_a_map_and_a_rank_but_no_test(tmp_path, rng, atlas):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tables = run(tmp_path, people(8, 1), lambda row: simulated_map(rng), **atlas)
    row = tables["groups"].iloc[1]
    assert row["reason"] == ALONE
    assert row["voxels"] == 0
    assert 0 <= row["mean_z_auroc"] <= 1
    assert np.isnan(row["mean_z_low"])
    assert not load(tmp_path, "found_patient").any()
    assert f"patient: {ALONE}" in " ".join(tables["notes"]["note"])
    assert load(tmp_path, "mean_patient").any()


def test_missing_ages_do_not_stop_the_comparison(tmp_path, rng):
    tables = run(tmp_path, people(6, 6).assign(age="", site="", sex="n/a"), lambda row: simulated_map(rng))
    assert tables["subjects"]["age"].isna().all()
    assert "cannot be told" in " ".join(tables["notes"]["note"])


def test_three_groups_are_each_held_against_the_reference(tmp_path, rng):
    table = people(8, 8)
    table.loc[12:, "group"] = "mild (MCI)"
    tables = run(tmp_path, table, lambda row: simulated_map(rng))
    assert list(tables["groups"]["group"]) == ["control", "mild (MCI)", "patient"]
    assert (tmp_path / "maps/effect_mildMCI.nii.gz").exists()
    assert set(tables["balance"]["group"]) == {"mild (MCI)", "patient"}


def test_groups_of_other_scanners_are_warned_of(tmp_path, rng):
    table = people(6, 6)
    table["site"] = table["group"]
    assert "share no site" in " ".join(run(tmp_path, table, lambda row: simulated_map(rng))["notes"]["note"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda table: table.assign(group="control"), "'control' is the only group of its test subjects"),
        (lambda table: table.assign(group=""), "no test subject of clinic has a group"),
        (
            lambda table: table.replace({"group": {"control": "healthy"}}),
            "reference is 'control', but the groups of the test subjects are healthy, patient",
        ),
        (lambda table: table[table["subject"].isin(["c00", "p00", "p01"])], "has one test subject"),
        (lambda table: table.assign(split="train"), "no test subject of clinic"),
    ],
)
def test_cohorts_that_cannot_be_compared_are_refused_by_a_sentence(tmp_path, rng, change, said):
    with pytest.raises(ManifestError, match=said):
        run(tmp_path, change(people(6, 6)), lambda row: simulated_map(rng))


def test_a_map_that_holds_no_numbers_is_refused_by_a_sentence(tmp_path, rng):
    def make(row):
        values = simulated_map(rng)
        values[12, 14, 12] = np.nan if row.subject == "p03" else 1
        return values

    with pytest.raises(ManifestError, match=r"sub-p03_z\.nii\.gz holds 1 values that are no finite numbers"):
        run(tmp_path, people(6, 6), make)


def test_scans_without_a_z_score_do_not_stop_the_others(tmp_path, rng):
    def without(*subjects):
        return lambda row: simulated_map(rng) * (row.subject not in subjects)

    tables = run(tmp_path / "some", people(6, 6), without("p03", "c01"))
    assert "2 scans are left out: no voxel has a z-score (the first is sub-c01)" in " ".join(tables["notes"]["note"])
    assert list(tables["groups"]["subjects"]) == [5, 5]
    for place, number in (("c", 5), ("p", 6)):
        lost = [f"{place}0{index}" for index in range(number)]
        with pytest.raises(ManifestError, match="give the training datasets more validation subjects"):
            run(tmp_path / place, people(6, 6), without(*lost))


def test_groups_are_checked_before_any_job():
    table = pd.DataFrame({"subject": list("abc"), "group": ["A-1", "A1", "control"]})
    for groups_of, reference, said in (
        (table, "control", "the group 'A1' needs letters or digits of its own.*'A-1' has the same"),
        (table.assign(group=["??", "A1", "control"]), "control", r"the group '\?\?' needs letters or digits"),
        (table, "healthy", "`datasets.x.groups`: the reference is 'healthy', but the groups"),
        (table.assign(group=""), "control", "no test subject of x has a group"),
    ):
        with pytest.raises(ManifestError, match=said):
            check_groups("x", {"reference": reference}, groups_of)


def test_only_test_subjects_of_datasets_with_groups_are_checked():
    table = people(4, 4)
    entry = {"groups": {"reference": "control"}, "split": {"train": 0.0, "validation": 0.0, "test": 1.0}}
    check_all_groups({"a": table, "b": table.assign(group="")}, {"a": entry, "b": entry | {"groups": None}}, 1)
    table.loc[table["group"] == "patient", "split"] = "train"
    with pytest.raises(ManifestError, match="'control' is the only group of its test subjects"):
        check_all_groups({"a": table}, {"a": entry}, 1)


@pytest.mark.slow
def test_simulated_patients_are_found_from_raw_scans_to_the_map(tmp_path):
    """Ten subjects with wider ventricles against ten without, scanned, preprocessed, scored by the voxel-wise z-score.

    The anatomy of every subject is another. What is found lies at the ventricles, and tells patients from controls.
    """
    config = miniature(tmp_path)
    config["datasets"] = {name: config["datasets"][name] for name in ("phantom_a", "phantom_b")}
    config["datasets"]["phantom_a"]["phantom"]["subjects"] = 16
    config["datasets"]["phantom_b"]["phantom"] = {
        "subjects": 20,
        "patients": {"share": 0.5, "ventricles": 6.0},
        "site": config["datasets"]["phantom_a"]["phantom"]["site"],
    }
    config["models"] = {"voxel_z": config["models"]["voxel_z"]}
    config["samples"]["positions"] = [4.0, 8.0, 12.0, 16.0, 20.0]
    config["maps"] = {"minimum_subjects": 3, "smoothing": 8.0, "pages": False}
    write(tmp_path, config)
    command = [Path(sys.executable).parent / "snakemake", "--snakefile", ROOT / "Snakefile", "--directory", tmp_path]
    target = "results/groups/phantom_b/voxel_z/1/groups.tsv"
    subprocess.run([*command, "--cores", "2", "--quiet", "all", "--", target], check=True, cwd=ROOT)
    folder = (tmp_path / target).parent
    patients = pd.read_csv(folder / "groups.tsv", sep="\t").set_index("group").loc["patient"]
    found = nibabel.load(folder / "maps/found_patient.nii.gz")
    atlas = phantom_template()
    near = nibabel.Nifti1Image((atlas.ventricles > 0.05).astype(np.float32), atlas.grid_affine)
    near = resample_from_to(near, (found.shape, found.affine), order=0).get_fdata() > 0
    marked = np.asarray(found.dataobj) > 0
    print(patients.to_string(), f"{marked.sum()} voxels, {(marked & near).sum()} at the ventricles", sep="\n")
    assert marked.any()
    assert (marked & near).sum() > 0.5 * marked.sum()
    assert patients["mean_z_auroc"] > 0.8  # 1 has no interval
