"""Maps as images and scans of no study, from a small study of simulated scans in three orientations."""

import ast
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel.affines import apply_affine

from brainuad.__main__ import main
from brainuad.advice import reworded
from brainuad.calibration import calibration
from brainuad.extractors import missing
from brainuad.faults import FAULTS, NotInstalled
from brainuad.grids import read_transform, to_native
from brainuad.maps import COLUMNS, maps
from brainuad.own_scan import OwnScans, calibration_of
from brainuad.phantom import Site, simulate
from brainuad.preprocessing import preprocess
from brainuad.quality import quality
from brainuad.samples import samples
from brainuad.scan_files import find, names_of

ROOT = Path(__file__).parents[1]
TRUNK = ROOT / "resources/lpips/alexnet_features.safetensors"
SECRET = b"DOE^JANE"
SITES = {"RAS": {}, "LAS": {"orientation": "LAS"}, "oblique": {"orientation": "PSR", "oblique": 12.0}}
SPLITS = {"a1": "train", "a2": "train", "b1": "validation", "b2": "validation", "b3": "validation"}
SPLITS |= {name: "test" for name in SITES}
PREPROCESSING = {
    "resolution": 4.0,
    "brain_extraction": {"method": "template", "command": None},
    "bias_correction": {"spacing": 8.0, "iterations": [30, 30, 30], "tolerance": 1e-4},
    "registration": {"transform": "affine", "spacing": 4.0},
    "normalization": {"low": 1.0, "high": 99.0},
    "seed": 7,
}
SAMPLES = {"size": [48, 56], "spacing": 4.0, "centre": [0.0, -18.0, 8.0], "positions": [-4.0, 8.0, 20.0]}
VOLUMES = {**SAMPLES, "size": [48, 56, 48], "positions": []}
SCORING = {"batch_size": 4, "smoothing": 2.0, "trunk": "alex"}
QUALITY = {"min_correlation": 0.1, "min_overlap": 0.5, "outlier_z": 3.5}
MAPS = {"smoothing": 0.0, "minimum_subjects": 3, "std_floor": 0.1}
BALL, RADIUS = np.array([26.0, -22.0, 18.0]), 11.0  # mm of the scan


def balls(image):
    points = apply_affine(image.affine, np.indices(image.shape).reshape(3, -1).T)
    return (np.linalg.norm(points - BALL, axis=1) < RADIUS).reshape(image.shape)


@pytest.fixture(scope="module")
def preprocessed(tmp_path_factory):
    """Eight scans in template space, those of the test split with a ball whose place is known."""
    folder = tmp_path_factory.mktemp("study")
    rows = []
    for subject in SPLITS:
        scan = simulate(subject, Site(spacing=(3.0, 3.0, 3.0), **SITES.get(subject, {})), seed=3).t1w
        image = nibabel.Nifti1Image(scan.get_fdata(dtype=np.float32), scan.affine)
        for field in ("descrip", "aux_file", "intent_name", "db_name"):
            image.header[field] = SECRET
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET))
        raw = folder / f"raw_{SECRET.decode()}/{subject}.nii.gz"
        raw.parent.mkdir(exist_ok=True)
        nibabel.save(image, raw)
        lesion = ""
        if subject in SITES:
            lesion = raw.with_name(f"{subject}_lesion.nii.gz")
            nibabel.save(nibabel.Nifti1Image(balls(image).astype(np.uint8), image.affine), lesion)
        row = {"scan": f"sub-{subject}", "subject": subject, "session": "", "t1w": str(raw), "lesion": str(lesion)}
        rows.append({**row, "skull_stripped": None, "split": SPLITS[subject], "group": "control"})
    chunk = folder / "results/preprocess/d/chunk-0001.tsv"
    preprocess(rows, chunk.parent, chunk, PREPROCESSING)
    pd.DataFrame(rows).drop(columns=["scan", "skull_stripped"]).to_csv(folder / "m.tsv", sep="\t", index=False)
    kinds = folder / "results/quality/d.tsv", folder / "results/quality/d.png"
    quality([chunk], *kinds, dataset="d", settings=QUALITY, decisions={})
    return folder


def finish(folder, settings, pages=True):
    """Cut, train (no step), score, calibrate and write the maps of the study in a folder."""
    import torch

    from brainuad.models import create, provenance, save
    from brainuad.models.dae import DenoisingAE
    from brainuad.scoring import score

    results = folder / "results"
    entry = {"manifest": folder / "m.tsv", "bids": None, "pattern": None, "phantom": None, "from": None}
    entry["split"] = {"train": 0.5, "validation": 0.25, "test": 0.25}
    table, scans = results / "quality/d.tsv", results / "preprocess/d"
    samples("d", entry, table, scans, results / "samples/d", settings, 1)
    torch.manual_seed(0)
    model = results / "train/dae/1/model.safetensors"
    model.parent.mkdir(parents=True)
    detector = create("dae.DenoisingAE", settings["size"], DenoisingAE.tiny)
    described = provenance({"samples": settings, "preprocessing": PREPROCESSING}, 1)
    save(detector, model, model.with_suffix(".json"), described)
    score(model, results / "samples/d", TRUNK, results / "score/dae/1/d", {**SCORING, "device": "cpu"})
    known = {
        "samples": settings,
        "scoring": SCORING,
        "quality": QUALITY,
        "maps": MAPS,
        "simulated": True,
        "references": [None],
    }
    places = [results / "score/dae/1/d"], [results / "samples/d"], [scans]
    calibration(*places, [table], model, results / "calibration/dae/1", known)
    write(folder, pages=pages)
    return folder


def write(folder, **changes):
    results = folder / "results"
    raw = sorted(folder.glob("raw_*/*[!n].nii.gz"))
    sources = {f"sub-{path.name.removesuffix('.nii.gz')}": str(path) for path in raw if "lesion" not in path.name}
    maps(
        results / "score/dae/1/d",
        results / "samples/d",
        results / "preprocess/d",
        results / "calibration/dae/1",
        results / "train/dae/1/model.json",
        results / "maps/d/dae/seed-1",
        sources,
        {"dataset": "d", "model": "dae", "simulated": True, "pages": True, **changes},
    )
    return results / "maps/d/dae/seed-1"


@pytest.fixture(scope="module")
def study(preprocessed):
    return finish(preprocessed, SAMPLES)


@pytest.fixture(scope="module")
def tree(study):
    return study / "results/maps/d/dae/seed-1"


def read(tree, scan, name, space):
    kind = "mask" if name == "covered" else "T1w"
    space = "scanner" if space == "scanner" else "MNI152NLin2009aSym_res-4"
    return nibabel.load(tree / scan / "anat" / f"{scan}_space-{space}_desc-{name}_{kind}.nii.gz")


@pytest.mark.parametrize("site", SITES)
def test_what_is_known_in_template_space_lands_on_the_scan(study, site):
    """The lesion that preprocessing took to the template comes back to where it was, by from_template.mat."""
    folder = study / f"results/preprocess/d/sub-{site}"
    there = nibabel.load(folder / "lesion.nii.gz")
    scan = nibabel.load(next(study.glob(f"raw_*/{site}.nii.gz")))
    back = read_transform(folder / "from_template.mat")
    np.testing.assert_allclose(back @ read_transform(folder / "to_template.mat"), np.eye(4), atol=1e-4)
    volume = there.get_fdata(dtype=np.float32)
    values, _ = to_native(volume, np.ones(volume.shape, bool), there.affine, back, scan.shape, scan.affine)
    centre = apply_affine(scan.affine, np.average(np.argwhere(values > 0), axis=0, weights=values[values > 0]))
    assert np.linalg.norm(centre - BALL) < 3.0  # a voxel
    true = balls(scan)
    assert 2 * ((values > 0.5) & true).sum() / ((values > 0.5).sum() + true.sum()) > 0.75
    assert values.sum() * 27 == pytest.approx(true.sum() * 27, rel=0.1)


@pytest.mark.parametrize("site", SITES)
def test_native_maps_lie_on_the_grid_of_the_scan(study, tree, site):
    scan = nibabel.load(next(study.glob(f"raw_*/{site}.nii.gz")))
    images = {name: read(tree, f"sub-{site}", name, "scanner") for name in ("anomaly", "zscore", "covered")}
    for image in images.values():
        assert image.shape == scan.shape
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)
    covered = images["covered"].get_fdata() > 0
    anomaly = images["anomaly"].get_fdata()
    assert 0 < covered.mean() < 0.5
    assert not anomaly[~covered].any()
    # What is covered are three slabs of the brain: in template space their heights are those of the slices.
    back = read_transform(study / f"results/preprocess/d/sub-{site}/from_template.mat")
    z = apply_affine(back @ scan.affine, np.argwhere(covered))[:, 2]
    assert np.abs(z[:, None] - SAMPLES["positions"]).min(axis=1).max() < 4.5
    assert {SAMPLES["positions"][i] for i in np.abs(z[:, None] - SAMPLES["positions"]).argmin(axis=1)} == {-4, 8, 20}


def test_maps_in_template_space_are_the_scores_put_back(study, tree):
    scored = pd.read_csv(study / "results/score/dae/1/d/table.tsv", sep="\t")
    place = scored.index[(scored["scan"] == "sub-LAS") & (scored["position"] == 8.0)][0]
    score = np.load(study / "results/score/dae/1/d/map.npy")[place, 0]
    image = read(tree, "sub-LAS", "anomaly", "template")
    k = round((8.0 - image.affine[2, 3]) / image.affine[2, 2])
    plane = np.asarray(image.dataobj)[:, :, k]
    peak = np.unravel_index((plane).argmax(), plane.shape)
    x, y, _ = apply_affine(image.affine, [*peak, k])
    i, j = x / 4 + 23.5, (y + 18) / 4 + 27.5
    a, b = int(np.floor(i)), int(np.floor(j))
    s, t = i - a, j - b
    near = score[a : a + 2, b : b + 2]
    assert plane[peak] == pytest.approx(np.array([1 - s, s]) @ near @ np.array([1 - t, t]), rel=1e-5)
    empty = np.asarray(image.dataobj).any(axis=(0, 1))
    assert np.flatnonzero(empty).size == 3, "0 outside of what was cut"


def test_z_scores_in_the_images_are_those_of_the_formula(study, tree):
    folder = study / "results/calibration/dae/1"
    mean, std, count = (nibabel.load(folder / f"{name}.nii.gz").get_fdata() for name in ("mean", "std", "count"))
    covered = (count >= 3) & (std > 0)
    floor = 0.1 * np.median(std[covered])
    z = read(tree, "sub-oblique", "zscore", "template").get_fdata()
    anomaly = read(tree, "sub-oblique", "anomaly", "template").get_fdata()
    judged = covered & (read(tree, "sub-oblique", "covered", "template").get_fdata() > 0)
    expected = (anomaly - mean) / np.maximum(std, floor)
    np.testing.assert_allclose(z[judged], expected[judged], rtol=1e-3, atol=1e-3)
    assert not z[~judged].any()
    calibrated = [read(tree, f"sub-{name}", "zscore", "template").get_fdata() for name in ("b1", "b2", "b3")]
    everybody = covered & (count == 3) & (std > floor)
    np.testing.assert_allclose(np.mean(calibrated, axis=0)[everybody], 0, atol=1e-3)
    np.testing.assert_allclose(np.std(calibrated, axis=0, ddof=1)[everybody], 1, rtol=1e-3)


def test_the_table_lists_scored_scans_with_paths_that_exist(tree):
    table = pd.read_csv(tree / "table.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert set(table["subject"]) == {name for name, split in SPLITS.items() if split != "train"}
    assert set(table["group"]) == {"control"}
    for column in ("zscore", "anomaly", "reconstruction", "zscore_native", "covered_native"):
        assert all((tree / path).is_file() for path in table[column])


def test_sidecars_say_what_is_covered_in_which_units_by_which_model(tree):
    for path in tree.rglob("*_T1w.json"):
        side = json.loads(path.read_text())
        assert side["Covered"]["SlicesAtZ"] == SAMPLES["positions"]
        assert side["Covered"]["SliceThickness"] == 4.0
        assert (side["Model"], side["Seed"], side["ModelClass"]) == ("dae", 1, "dae.DenoisingAE")
        assert side["CodeVersion"]
        assert side["Units"]
        assert side["SimulatedScans"] is True
    side = json.loads(next(tree.rglob("*zscore_T1w.json")).read_text())
    assert side["Calibration"]["Subjects"] == 3
    assert "(map - mean) / std" in side["Description"]
    assert "All scans are simulated" in (tree / "README").read_text()


def everything(folder):
    """The bytes of all files, unpacked where they are packed."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = path.read_bytes()
            yield path, gzip.decompress(content) if path.suffix == ".gz" else content


def test_nothing_of_headers_and_paths_gets_into_what_is_written(study, tree):
    for path, content in everything(tree):
        assert SECRET not in content, path
        assert str(study).encode() not in content, path
        if path.name.endswith(".nii.gz"):
            header = nibabel.load(path).header
            for field in ("descrip", "aux_file", "intent_name"):
                assert not bytes(header[field]).strip(b"\0"), path
            assert not header.extensions


def test_pages_load_nothing_and_open_where_the_map_is_highest(tree):
    pages = sorted((tree / "figures").glob("*.html"))
    assert len(pages) == 6
    for page in pages:
        text = page.read_text()
        assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
        assert "https://" not in text.replace("https://www.w3.org", "")
    image = read(tree, "sub-LAS", "zscore", "template")
    peak = np.unravel_index(np.asarray(image.dataobj).argmax(), image.shape)
    params = json.loads(re.search(r"brainsprite\((\{.*?\})\);", (tree / "figures/sub-LAS.html").read_text(), re.S)[1])
    assert [params["numSlice"][axis] for axis in "XYZ"] == pytest.approx(peak), "the slices that are drawn"
    # The viewer says of the slice k that it lies where the affine takes k + 1.
    shown = apply_affine(np.array(params["affine"]), np.array(peak) + 1)
    np.testing.assert_allclose(shown, apply_affine(image.affine, peak), atol=1e-4)


def test_slices_are_printed_as_png_and_pdf(tree):
    from matplotlib.image import imread

    for scan in ("sub-RAS", "sub-oblique"):
        picture = imread(tree / f"figures/{scan}.png")[..., :3]
        assert min(picture.shape[:2]) > 500
        assert np.ptp(picture, axis=2).max() > 0.5, "nothing is coloured"
        assert (tree / f"figures/{scan}.pdf").read_bytes().startswith(b"%PDF")


VALIDATOR = Path(sys.executable).parent / "bids-validator-deno"
NPM = shutil.which(
    "bids-validator", path=f"{ROOT / '.venv/bids-validator/package/bin'}{os.pathsep}{os.environ['PATH']}"
)
REQUIRED = os.environ.get("BRAINUAD_REQUIRE_BIDS_VALIDATOR") == "1"


def errors(tree):
    """What the schema's validator calls an error."""
    done = subprocess.run([VALIDATOR, "--json", "--ignoreWarnings", tree], capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)["issues"]["issues"]
    return [issue for issue in found if issue.get("severity") == "error"]


def test_the_tree_is_valid_bids(tree, tmp_path):
    assert errors(tree) == []
    broken = shutil.copytree(tree, tmp_path / "tree")
    path = next(broken.rglob("*desc-zscore_T1w.nii.gz"))
    path.rename(path.with_name(path.name.replace("_desc-", "_wrong-")))
    assert errors(broken), "this validator would pass anything"


@pytest.mark.skipif(
    not REQUIRED and not (NPM and shutil.which("node")), reason="no BIDS validator of npm's: make validator"
)
def test_the_tree_passes_the_validator_from_npm(tree, tmp_path):
    """It knows no names of derivatives, but description, headers and JSON."""
    done = subprocess.run(["node", NPM, tree], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = shutil.copytree(tree, tmp_path / "tree")
    path = broken / "dataset_description.json"
    path.write_text(path.read_text().replace("GeneratedBy", "MadeBy"))
    assert subprocess.run(["node", NPM, broken], capture_output=True, check=False).returncode != 0


def test_another_run_leaves_nothing_of_the_one_before(study):
    copy = shutil.copytree(study, study.parent / "again", ignore=shutil.ignore_patterns("figures"))
    tree = copy / "results/maps/d/dae/seed-1"
    (tree / "sub-gone/anat").mkdir(parents=True)
    next(copy.glob("raw_*/LAS.nii.gz")).unlink()
    write(copy, pages=False)
    assert not (tree / "sub-gone").exists()
    assert not list(tree.rglob("*.html"))
    table = pd.read_csv(tree / "table.tsv", sep="\t", keep_default_na=False).set_index("scan")
    assert "no longer there" in table.loc["sub-LAS", "note"]
    assert table.loc["sub-LAS", "zscore_native"] == ""
    assert (tree / table.loc["sub-LAS", "zscore"]).is_file()
    assert table.loc["sub-RAS", "note"] == ""


@pytest.fixture(scope="module")
def volumes(preprocessed, tmp_path_factory):
    """The same study, with volumes in place of slices."""
    folder = tmp_path_factory.mktemp("volumes")
    for path in preprocessed.glob("raw_*"):
        shutil.copytree(path, folder / path.name)
    shutil.copy2(preprocessed / "m.tsv", folder)
    for name in ("preprocess", "quality"):
        shutil.copytree(preprocessed / "results" / name, folder / "results" / name)
    return finish(folder, VOLUMES, pages=False)


def test_volumes_go_the_same_way(volumes):
    tree = volumes / "results/maps/d/dae/seed-1"
    assert errors(tree) == []
    covered = read(tree, "sub-oblique", "covered", "scanner").get_fdata() > 0
    scan = nibabel.load(next(volumes.glob("raw_*/oblique.nii.gz")))
    brain = scan.get_fdata() > 0
    assert 2 * (covered & brain).sum() / (covered.sum() + brain.sum()) > 0.9
    side = json.loads(next(tree.rglob("*anomaly_T1w.json")).read_text())
    assert side["Covered"]["ZRange"] == [-88.0, 104.0]


@pytest.fixture(scope="module")
def own(study, tmp_path_factory):
    """What the command makes of two scans of the study, a broken file and a brain that is too large."""
    folder = tmp_path_factory.mktemp("own")
    scans = folder / "scans"
    scans.mkdir()
    for site in ("RAS", "oblique"):
        shutil.copy2(next(study.glob(f"raw_*/{site}.nii.gz")), scans / f"{site}.nii.gz")
    (scans / "cut.nii.gz").write_bytes((scans / "RAS.nii.gz").read_bytes()[:5000])
    volumes = pd.read_csv(study / "results/quality/d.tsv", sep="\t").set_index("subject")["brain_volume_ml"]
    factor = np.cbrt(1.1 * volumes[["a1", "a2"]].max() / volumes["RAS"])  # a tenth above those that are learnt from
    scan = nibabel.load(scans / "RAS.nii.gz")
    larger = np.diag([factor, factor, factor, 1]) @ scan.affine
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata(dtype=np.float32), larger), scans / "big.nii.gz")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")} | {
        p: p.stat().st_mtime_ns for p in study.rglob("*")
    }
    command = [sys.executable, "-m", "brainuad", "score", scans, "--model", study / "results/train/dae/1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "scripts"), "TMPDIR": str(folder / "none")}
    done = subprocess.run(
        [*command, "--out", folder / "out"], capture_output=True, text=True, check=False, env=environment, cwd=scans
    )
    done.folder, done.before = folder, before
    return done


def test_one_command_scores_scans_of_no_study_as_the_study_did(study, tree, own):
    assert own.returncode == 1, own.stdout + own.stderr  # one of the scans is broken
    assert "Traceback" not in own.stdout + own.stderr
    assert "3 of 4 scans scored" in own.stdout
    for site in ("RAS", "oblique"):
        for name in ("anomaly", "reconstruction", "zscore", "covered"):
            for space in ("scanner", "template"):
                a, b = (read(where, f"sub-{site}", name, space) for where in (tree, own.folder / "out"))
                assert a.shape == b.shape
                np.testing.assert_array_equal(a.affine, b.affine)
                # The study scored other images in the same batch: sums are rounded in another order.
                tolerance = 1e-3 if name == "zscore" else 1e-6
                np.testing.assert_allclose(a.get_fdata(), b.get_fdata(), atol=tolerance, rtol=1e-4)
    assert errors(own.folder / "out") == []


def test_a_bad_scan_is_named_and_stops_no_other(own):
    assert re.search(r"cut\.nii\.gz → sub-cut: failed \(unreadable\): .* copy or convert the scan again", own.stdout)
    table = pd.read_csv(own.folder / "out/scores.tsv", sep="\t", keep_default_na=False).set_index("scan")
    assert table["status"].to_dict() == {
        "sub-RAS": "scored",
        "sub-big": "scored",
        "sub-cut": "failed",
        "sub-oblique": "scored",
    }
    assert table.loc["sub-cut", "code"] == "unreadable"
    assert str(own.folder) not in (own.folder / "out/scores.tsv").read_text()
    assert table.loc["sub-RAS", "z_max"] != ""


def test_a_scan_unlike_those_of_the_training_is_warned_of(own):
    table = pd.read_csv(own.folder / "out/scores.tsv", sep="\t", keep_default_na=False).set_index("scan")
    found = re.search(
        r"brain_volume_ml (\S+) ml is above the range of the 2 training scans, (\S+) to (\S+) ml, by (\S+) ml",
        table.loc["sub-big", "warnings"],
    )
    value, _, high, by = map(float, found.groups())
    assert value == pytest.approx(float(table.loc["sub-big", "brain_volume_ml"]), rel=1e-3)
    assert by == pytest.approx(value - high, abs=2)
    assert "warning: brain_volume_ml" in own.stdout


def test_what_nobody_knows_is_not_claimed(study, own):
    side = json.loads(next((own.folder / "out").rglob("*anomaly_T1w.json")).read_text())
    assert side["TrainedOnSimulatedScans"] is True
    assert "SimulatedScans" not in side, "nobody knows of somebody's own scan"


def test_a_folder_is_searched_for_scans_and_not_for_what_was_made_of_them(tree, tmp_path):
    scan = tmp_path / "sub-1/anat/sub-1_T1w.nii.gz"
    others = [tmp_path / f"{name}/sub-1/anat/sub-1_T1w.nii.gz" for name in ("derivatives/other", "sourcedata", "out")]
    for path in (scan, *others):
        path.parent.mkdir(parents=True)
        path.touch()
    shutil.copytree(tree / "sub-RAS", tmp_path / "earlier/sub-RAS")
    assert find([tmp_path], tmp_path / "out") == [scan]
    assert find([tmp_path / "derivatives"], tmp_path / "out") == others[:1], "who names the folder means it"
    assert find([tmp_path], tmp_path) == [*others[2:], scan]
    shutil.rmtree(tmp_path / "out")
    scan.rename(tmp_path / "plain.nii.gz")
    assert find([tmp_path]) == [tmp_path / "plain.nii.gz"], "maps of an earlier run bear the suffix of scans"


def paths_of(*paths):
    return {name: str(path) for name, path in names_of([Path(path) for path in paths]).items()}


def test_scans_are_told_apart_by_the_label_that_is_nearest():
    """Not by any `sub-` of a path: a project's folder is no subject."""
    project = "/data/sub-proj_x/anna.nii.gz", "/data/sub-proj_x/ben.nii.gz"
    assert paths_of(*project) == {"sub-anna": project[0], "sub-ben": project[1]}
    bids = "/sub-9/sub-1/ses-2/anat/sub-1_ses-3_T1w.nii", "/sub-1/ses-2/anat/t1.nii", "/sub-1/ses-4/sub-2_T1w.nii"
    assert list(paths_of(*bids)) == ["sub-1_ses-3", "sub-1_ses-2", "sub-2_ses-4"]
    assert list(paths_of("/a/sub-01-b.nii")) == ["sub-sub01b"], "no label, as BIDS has it"


def test_scans_that_share_a_name_are_named_by_their_folders():
    patients = "/anna/t1.nii.gz", "/ben/t1.nii.gz"
    assert paths_of(*patients) == {"sub-annat1": patients[0], "sub-bent1": patients[1]}
    runs = "/sub-1/anat/sub-1_run-1_T1w.nii", "/sub-1/anat/sub-1_run-2_T1w.nii"
    assert list(paths_of(*runs)) == ["sub-anatsub1run1T1w", "sub-anatsub1run2T1w"]
    assert len(paths_of("/a/x/t1.nii", "/b/x/t1.nii", "/c/xt1.nii", "/d/xt1x2.nii")) == 4


@pytest.fixture
def two(study, tmp_path):
    """Scan two of the study's scans; returns the status and the table."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for site in ("LAS", "RAS"):
        shutil.copy2(next(study.glob(f"raw_*/{site}.nii.gz")), scans / f"{site}.nii.gz")

    def score(*options):
        status = main(
            ["score", str(scans), "--model", str(study / "results/train/dae/1"), "--out", str(scans), *options]
        )
        return status, pd.read_csv(scans / "scores.tsv", sep="\t", keep_default_na=False).set_index("scan")

    score.folder = scans
    return score


def test_a_scan_that_fails_in_the_middle_keeps_no_old_maps_and_stops_no_other(two, monkeypatch, capsys):
    """The first run makes maps beside the scans; in the second, memory and disk fail in turn."""
    status, table = two()
    assert (status, list(table["status"])) == (0, ["scored"] * 2)
    assert not (two.folder / ".gitignore").exists(), "the folder is a user's own"
    made = {path for path in two.folder.rglob("sub-LAS*") if path.is_file()}
    assert len(made) == 9 * 2 + 3

    def full(self, name, path, *others, score=OwnScans.score):
        if name == "sub-LAS":
            raise OSError(28, "No space left on device", str(path))
        return score(self, name, path, *others)

    monkeypatch.setattr(OwnScans, "score", full)
    status, table = two()
    assert (status, table["status"].to_dict()) == (1, {"sub-LAS": "failed", "sub-RAS": "scored"})
    assert "No space left on device" in table.loc["sub-LAS", "reason"]
    assert not any(path.exists() for path in made)
    assert (two.folder / "LAS.nii.gz").is_file()
    assert list(two.folder.rglob("sub-RAS_*zscore_T1w.nii.gz"))

    def absent(scan, *_):
        raise (NotInstalled("hd-bet is not installed") if "LAS" in scan["scan"] else MemoryError)

    monkeypatch.setattr("brainuad.preprocessing.attempt", absent)
    status, table = two()
    assert (status, table["code"].to_dict()) == (1, {"sub-LAS": "not_installed", "sub-RAS": "memory"})
    assert "Traceback" not in "".join(capsys.readouterr())


def test_maps_of_another_scan_by_the_same_name_are_kept(study, tmp_path, capsys):
    """A folder a patient, one call each into one folder; the second scan, and none at all, by the first one's name."""
    scan, other = (next(study.glob(f"raw_*/{site}.nii.gz")) for site in ("RAS", "LAS"))
    paths = {name: tmp_path / name / "t1.nii.gz" for name in ("anna", "ben", "carl")}
    for name, source in (("anna", scan), ("ben", other)):
        paths[name].parent.mkdir()
        shutil.copy2(source, paths[name])
    out = tmp_path / "out"

    def score(path):
        status = main(["score", str(path), "--model", str(study / "results/train/dae/1"), "--out", str(out)])
        table = (out / "scores.tsv").read_text()
        assert str(tmp_path) not in table
        return status, table, {path: path.stat().st_mtime_ns for path in out.rglob("sub-*") if path.is_file()}

    status, table, made = score(paths["anna"])
    assert (status, hashlib.sha256(scan.read_bytes()).hexdigest() in table) == (0, True)
    assert score(paths["ben"]) == (1, table, made)
    said = capsys.readouterr().out
    assert re.search(r"→ sub-t1: failed \(taken\): .* choose another --out, or rename t1\.nii\.gz", said)
    assert "0 of 1 scans scored" in said
    assert score(paths["carl"]) == (1, table, made), "there is no such file"
    renamed = paths["ben"].rename(tmp_path / "ben/second.nii.gz")
    renamed.write_bytes(b"")
    _, table, _ = score(renamed)
    assert [line.split("\t")[:2] for line in table.splitlines()[1:]] == [["sub-t1", "scored"], ["sub-second", "failed"]]
    shutil.copy2(other, renamed)
    assert score(renamed)[0] == 0, "it failed before, so there is nothing of another scan to be lost"
    status, again, later = score(paths["anna"])
    assert (status, again.count("\tscored\t")) == (0, 2)
    assert {path for path in made if later[path] == made[path]} == set(), "its own maps are made anew"


def test_advice_is_not_that_for_a_study(two, monkeypatch, capsys):
    """A scan that a study would leave out for a doubt is told how it is taken here, and is taken so."""
    image = nibabel.load(two.folder / "LAS.nii.gz")
    (two.folder / "RAS.nii.gz").unlink()
    bare = nibabel.Nifti1Image(image.get_fdata(dtype=np.float32), image.affine)
    bare.set_sform(None, 0)
    bare.set_qform(None, 0)
    nibabel.save(bare, two.folder / "LAS.nii.gz")
    assert two()[1]["code"].to_dict() == {"sub-LAS": "no_affine"}
    said = capsys.readouterr().out
    assert "--include" in said
    assert "exclusions.tsv" not in said
    _, table = two("--include")
    assert table.loc["sub-LAS", "code"] != "no_affine"


def test_nothing_is_written_outside_the_folder(own):
    out = own.folder / "out"
    for path, time in own.before.items():
        assert path.stat().st_mtime_ns == time, path
    assert {path for path in own.folder.iterdir()} == {own.folder / "scans", out}
    assert not list(out.glob(".work*"))
    assert (out / ".gitignore").read_text() == "*\n", "--out may lie in the clone"
    for path, content in everything(out):
        assert SECRET not in content, path


def test_what_cannot_begin_says_why(study, tmp_path, capsys):
    model = ["--model", str(study / "results/train/dae/1"), "--out", str(tmp_path / "out")]
    assert main(["score", str(tmp_path), *model]) == 2
    assert "There is no .nii or .nii.gz file in" in capsys.readouterr().err
    scan = str(next(study.glob("raw_*/RAS.nii.gz")))
    assert main(["score", scan, "--model", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has no model.safetensors" in capsys.readouterr().err
    other = shutil.copytree(study / "results/calibration/dae/1", tmp_path / "calibration")
    record = json.loads((other / "calibration.json").read_text())
    (other / "calibration.json").write_text(json.dumps({**record, "weights_sha256": "0"}))
    assert main(["score", scan, *model, "--calibration", str(other)]) == 2
    assert "is the calibration of other weights" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_weights_alone_give_maps_without_z_scores(study, tmp_path, capsys):
    shutil.copytree(study / "results/train/dae/1", tmp_path / "weights")
    scan = str(next(study.glob("raw_*/LAS.nii.gz")))
    assert main(["score", scan, "--model", str(tmp_path / "weights"), "--out", str(tmp_path / "out")]) == 0
    assert "No calibration of this model is at hand" in capsys.readouterr().out
    assert list((tmp_path / "out/sub-LAS/anat").glob("*anomaly_T1w.nii.gz"))
    assert not list((tmp_path / "out").rglob("*zscore*"))
    assert "Simulated" not in next((tmp_path / "out").rglob("*anomaly_T1w.json")).read_text(), "nothing tells"
    assert errors(tmp_path / "out") == []


def test_the_calibration_is_found_from_within_the_study(study, tmp_path, monkeypatch):
    """However the model's folder is named: from where it lies, as the place one is at, by a link."""
    weights = study / "results/train/dae/1/model.safetensors"
    (tmp_path / "best").symlink_to(weights.parent)
    (tmp_path / "moved/results").mkdir(parents=True)
    (tmp_path / "moved/results/train").symlink_to(study / "results/train")
    shutil.copytree(study / "results/calibration", tmp_path / "moved/results/calibration")
    for place, model in (
        ("results/train", "dae/1"),
        ("results/train/dae/1", "."),
        ("results/train/dae", "1"),
        ("", tmp_path / "best"),
        ("", tmp_path / "moved/results/train/dae/1"),
    ):
        monkeypatch.chdir(study / place)
        found = calibration_of(Path(model), Path(model) / weights.name, None)
        assert found is not None, (place, model)
        assert found.record["model"] == "dae"


def sentences(module, without=()):
    """What the functions of a module may say, each gap of a text filled by either word that is written there."""
    for function in ast.walk(ast.parse((ROOT / f"scripts/brainuad/{module}.py").read_text())):
        if not isinstance(function, ast.FunctionDef) or function.name in without:
            continue
        nodes = [node for part in function.body for node in ast.walk(part)]
        inner = {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - set(
            map(id, (node for node in nodes if isinstance(node, ast.JoinedStr)))
        )
        for node in nodes:
            if isinstance(node, ast.JoinedStr | ast.Constant) and id(node) not in inner:
                parts = node.values if isinstance(node, ast.JoinedStr) else [node]
                for gap in ("true", "false"):
                    text = "".join(str(part.value) if isinstance(part, ast.Constant) else gap for part in parts)
                    if " " in text and text != ast.get_docstring(function, clean=False):
                        yield text


@pytest.mark.parametrize("module", ["reading", "volumes", "extraction", "preprocessing", "faults", "programs"])
def test_no_sentence_on_an_own_scan_speaks_of_a_study(module, monkeypatch):
    """Of whatever code: what is printed, what the table says, and what of it is missing on this machine."""
    monkeypatch.setattr("shutil.which", lambda _: None)
    judged_later = ("slices", "correlation", "overlap", "duplicate")  # by what quality control makes of a dataset
    stages = {"reading", "preprocessing"}
    methods = ({"method": "hd-bet", "command": None}, {"method": "command", "command": "no-such {input} {mask}"})
    known = {
        "faults": [
            fault.meaning for code, fault in FAULTS.items() if fault.stage in stages and code not in judged_later
        ],
        "programs": list(map(missing, methods)),
    }
    texts = known.get(module) or list(sentences(module, ["set_aside", "summary", "preprocess"]))
    assert texts
    for text in map(reworded, texts):
        found = re.search(
            r"config|exclusions|manifest|snakemake|the log|skull_stripped|`[a-z_.]+`|\w\.positions|brain_ex", text
        )
        assert not found, text


PAGE = (ROOT / "docs/maps.md").read_text()


def shape(lines):
    """Printed lines without the numbers, the names of measures and their units; several warnings are one."""
    said = [re.sub(r"warning: \w+", "warning: measure", line) for line in lines]
    said = [re.sub(r"\bis (above|below) the range", "is outside the range", line) for line in said]
    said = [re.sub(r"(?<=[\s(])\d+(\.\d+)?(e[+-]?\d+)?( ml)?(?=[\s,]|$)", "N", line) for line in said]
    said = [line for line in said if not re.search(r"would leave it out$", line)]
    return [line for line, before in zip(said, [None, *said], strict=False) if line != before]


def test_the_documented_commands_print_what_the_page_shows(study, own, tmp_path, monkeypatch, capsys):
    """Held against the page but for its numbers: those are the demonstration's."""
    command, *shown = re.search(r"```console\n\$ (.*?)```", PAGE, re.S)[1].splitlines()
    start = "PYTHONPATH=scripts .venv/bin/python -m brainuad "
    (short,) = re.findall(rf"^{re.escape(start)}(.*)$", (ROOT / "README.md").read_text(), re.M)
    assert command.startswith(start)
    words = shlex.split(command.removeprefix(start))
    scans = [word for word in words if word.endswith(".nii.gz")]
    for scan in scans:
        shutil.copy2(own.folder / "scans/big.nii.gz", tmp_path / scan)  # unlike those of the training
    (tmp_path / "broken.nii.gz").write_bytes(b"not compressed")
    (tmp_path / "demo").symlink_to(study)
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    printed = capsys.readouterr().out.splitlines()
    assert shape(printed) == shape(shown)
    (tmp_path / scans[0]).rename(tmp_path / "scan.nii.gz")
    assert main(shlex.split(short)) == 0, "the README's"
    assert "z-scores" not in capsys.readouterr().out, "the calibration is found"
