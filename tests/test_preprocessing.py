"""The preprocessing job: what it writes, what it sets aside, what it does not do twice."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest
from nibabel import orientations
from scipy import ndimage

from brainuad import preprocessing
from brainuad.faults import BadScan
from brainuad.phantom import Site, simulate
from brainuad.preprocessing import preprocess
from brainuad.quality import judge, read_chunk

SCRIPTS = Path(__file__).parents[1] / "scripts"
SETTINGS = {
    "resolution": 4.0,
    "scans_per_job": 16,
    "brain_extraction": {"method": "template", "command": None},
    "bias_correction": {"spacing": 8.0, "iterations": [30, 30, 30], "tolerance": 1e-4},
    "registration": {"transform": "affine", "spacing": 4.0},
    "normalization": {"low": 1.0, "high": 99.0},
    "seed": 7,
}
THRESHOLDS = {"min_correlation": 0.5, "min_overlap": 0.8, "outlier_z": 3.5}
SECRET = b"DOE^JANE"  # as a scanner writes it into headers
MEASURES = {"correlation": 0.8, "overlap": 0.9, "brain_volume_ml": 1400.0, "bias_range": 1.2}


def entry(subject, t1w, lesion="", skull_stripped=None):
    return {
        "scan": f"sub-{subject}",
        "subject": subject,
        "session": "",
        "t1w": str(t1w),
        "lesion": str(lesion),
        "skull_stripped": skull_stripped,
    }


def read_table(path):
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False).set_index("subject")


def save(array, path, affine=None):
    nibabel.save(nibabel.Nifti1Image(array, np.diag([3.0, 3, 3, 1]) if affine is None else affine), path)
    return path


def volume(shape=(60, 70, 60)):
    return np.indices(shape).sum(0).astype(np.float32)


def test_a_scan_that_is_left_out_is_not_even_read(tmp_path, capsys):
    rows = [entry("a", "x" * 300) | {"exclude": True}, entry("b", tmp_path / ("x" * 300))]
    preprocess(rows, tmp_path, tmp_path / "table.tsv", SETTINGS)
    table = read_table(tmp_path / "table.tsv")
    assert list(table["code"]) == ["excluded", "unreadable"]
    assert not (tmp_path / "sub-a").exists(), "to be read if somebody decides otherwise"
    assert "[1/2] sub-a excluded (excluded): By config/exclusions.tsv." in capsys.readouterr().out


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """One simulated anatomy stored as RAS (with a lesion) and PSR, between two broken files; preprocessed."""
    folder = tmp_path_factory.mktemp("cohort")
    scan = simulate("001", Site(spacing=(2.5, 2.5, 2.5)), seed=7)
    points = nibabel.affines.apply_affine(scan.t1w.affine, np.indices(scan.brain.shape).reshape(3, -1).T)
    ball = (np.linalg.norm(points - [25, -20, 25], axis=1) < 12).reshape(scan.brain.shape)
    codes = orientations.ornt_transform(*map(orientations.axcodes2ornt, ("RAS", "PSR")))
    named = nibabel.Nifti1Image(scan.t1w.get_fdata(dtype=np.float32), scan.t1w.affine)
    for field in ("descrip", "aux_file", "intent_name", "db_name"):
        named.header[field] = SECRET
    named.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET))
    nibabel.save(named, folder / "ras.nii.gz")
    nibabel.save(scan.t1w.as_reoriented(codes), folder / "psr.nii.gz")
    save(ball.astype(np.uint8), folder / "lesion.nii.gz", scan.t1w.affine)
    (folder / "cut.nii.gz").write_bytes((folder / "ras.nii.gz").read_bytes()[:9000])
    scans = [
        entry("cut", folder / "cut.nii.gz"),
        entry("ras", folder / "ras.nii.gz", folder / "lesion.nii.gz"),
        entry("gone", folder / "gone.nii.gz"),
        entry("psr", folder / "psr.nii.gz"),
    ]
    preprocess(scans, folder / "out", folder / "out/chunk-0.tsv", SETTINGS)
    return folder, scans


def test_bad_scans_are_set_aside_and_the_others_finished(cohort):
    folder, _ = cohort
    table = read_table(folder / "out/chunk-0.tsv")
    assert table.index.tolist() == ["cut", "ras", "gone", "psr"]
    assert table["status"].tolist() == ["excluded", "included", "excluded", "included"]
    assert "cut.nii.gz cannot be read" in table["reason"]["cut"]
    assert "gone.nii.gz does not exist" in table["reason"]["gone"]
    assert os.listdir(folder / "out/sub-cut") == ["quality.json"]


def test_outputs_lie_on_the_template_in_range(cohort):
    folder, _ = cohort
    t1w, mask, lesion = (nibabel.load(folder / f"out/sub-ras/{name}.nii.gz") for name in ("t1w", "mask", "lesion"))
    assert t1w.get_data_dtype() == np.float32
    assert mask.get_data_dtype() == lesion.get_data_dtype() == np.uint8
    assert t1w.shape == mask.shape == lesion.shape == (50, 59, 48)
    assert np.allclose(t1w.affine, [[4, 0, 0, -98], [0, 4, 0, -134], [0, 0, 4, -72], [0, 0, 0, 1]])
    array, inside = t1w.get_fdata(), mask.get_fdata() > 0
    assert array.min() == 0
    assert array.max() == 1
    assert not array[~inside].any()


def test_no_text_of_a_header_is_passed_on(cohort):
    folder, _ = cohort
    assert SECRET in gzip.decompress((folder / "ras.nii.gz").read_bytes())
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert len(written) > 10
    for path in written:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        assert SECRET not in content, path
        assert str(folder).encode() not in content or path.suffix in (".tsv", ".json"), path


def test_record_holds_the_measures(cohort):
    folder, _ = cohort
    record = json.loads((folder / "out/sub-ras/quality.json").read_text())
    assert record["correlation"] > 0.6
    assert record["overlap"] > 0.9
    assert 1300 < record["brain_volume_ml"] < 1900
    assert 1 < record["bias_range"] < 2
    assert record["skull_stripped"] is True
    assert (record["orientation"], record["spacing"]) == ("RAS", [2.5, 2.5, 2.5])
    ball = 4 / 3 * np.pi * 1.2**3
    assert record["lesion_volume_ml"] == pytest.approx(ball, rel=0.05)


def test_transforms_lead_there_and_back(cohort):
    import ants

    there, back = (ants.read_transform(str(cohort[0] / f"out/sub-ras/{way}_template.mat")) for way in ("to", "from"))
    point = (10.0, -20.0, 30.0)
    assert np.allclose(back.apply_to_point(there.apply_to_point(point)), point, atol=1e-3)
    lesion = nibabel.load(cohort[0] / "out/sub-ras/lesion.nii.gz")
    centre = nibabel.affines.apply_affine(lesion.affine, np.argwhere(lesion.get_fdata() > 0).mean(0))
    native = np.array(there.apply_to_point((centre * [-1, -1, 1]).tolist())) * [-1, -1, 1]
    assert np.allclose(native, [25, -20, 25], atol=1.0)


def test_storage_order_does_not_matter(cohort):
    ras, psr = (nibabel.load(cohort[0] / f"out/sub-{name}/t1w.nii.gz").get_fdata() for name in ("ras", "psr"))
    assert np.abs(ras - psr).mean() < 1e-3
    assert read_table(cohort[0] / "out/chunk-0.tsv")["orientation"]["psr"] == "PSR"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """One simulated brain stored in many ways, preprocessed; name → image, brain and transform in template space."""
    folder, code = tmp_path_factory.mktemp("stored"), orientations.axcodes2ornt
    scan = simulate("002", Site(spacing=(2.5, 2.5, 2.5), noise=0), seed=7).t1w
    array = scan.get_fdata(dtype=np.float32)
    ways = {"ras": scan, "oblique": simulate("002", Site(spacing=(2.5, 2.5, 2.5), noise=0, oblique=15), seed=7).t1w}
    ways |= {"las": scan.as_reoriented(orientations.ornt_transform(code("RAS"), code("LAS")))}
    ways |= {"sip": scan.as_reoriented(orientations.ornt_transform(code("RAS"), code("IPR")))}
    for name, dtype in (("scaled8", np.uint8), ("scaled16", ">i2")):  # nibabel chooses slope and intercept
        ways[name] = nibabel.Nifti1Image(array - 100 * (name == "scaled16"), scan.affine, dtype=dtype)
    ways["tiny"] = nibabel.Nifti1Image(array.astype(np.float64) * 1e-9, scan.affine)
    site = Site(spacing=(2.5, 2.5, 2.5), contrast=(1, 0.6, 0.4))
    ways["t2"] = simulate("002", site, seed=7).t1w
    ways["mislabelled"] = nibabel.Nifti1Image(array.transpose(2, 0, 1), scan.affine)  # right would be superior
    for name, image in ways.items():
        nibabel.save(image, folder / f"{name}.nii.gz")
    preprocess([entry(name, folder / f"{name}.nii.gz") for name in ways], folder, folder / "table.tsv", SETTINGS)
    return {name: results(folder / f"sub-{name}") for name in ways} | {"table": folder / "table.tsv"}


def results(folder):
    """Image, brain, and where points 60 mm around the middle of the template come from, in mm."""
    import ants

    transform = ants.read_transform(str(folder / "to_template.mat"))
    points = [transform.apply_to_point(point.tolist()) for point in np.indices((3, 3, 3)).reshape(3, -1).T * 60.0 - 60]
    arrays = [nibabel.load(folder / f"{name}.nii.gz").get_fdata() for name in ("t1w", "mask")]
    return arrays[0], arrays[1] > 0, np.array(points)


@pytest.mark.parametrize("name", ["las", "sip"])
def test_the_order_of_storage_changes_no_voxel(stored, name):
    assert np.array_equal(stored[name][0], stored["ras"][0])


@pytest.mark.parametrize("name", ["oblique", "scaled8", "scaled16", "tiny"])
def test_the_same_brain_in_any_form_gives_the_same_volume(stored, name):
    """Registration finds its place again to half a voxel of the scan; the rest is interpolation."""
    (t1w, brain, points), (reference, inside, expected) = stored[name], stored["ras"]
    assert np.linalg.norm(points - expected, axis=1).mean() < 1.25
    assert 2 * (brain & inside).sum() / (brain.sum() + inside.sum()) > 0.97
    assert np.corrcoef(t1w[inside], reference[inside])[0, 1] > 0.975
    assert np.abs(t1w - reference)[inside].mean() < 0.04


def test_a_wrong_contrast_and_a_wrong_header_are_left_out_by_name(stored):
    judged = judge(read_chunk(stored["table"]), THRESHOLDS, {})
    codes = judged.set_index("subject")["code"]
    assert codes["t2"] == "correlation"
    assert codes["mislabelled"] in ("correlation", "overlap")
    assert set(codes.drop(["t2", "mislabelled", "las", "sip"])) == {""}
    assert codes[["las", "sip"]].tolist() == ["duplicate"] * 2, "they are the same scan, stored otherwise"


def test_what_is_no_brain_is_left_out_by_name(tmp_path, rng):
    noise = rng.random((60, 70, 60)).astype(np.float32)
    distance = np.linalg.norm(np.indices(noise.shape).T - (30, 35, 30), axis=-1).T
    shapes = {"noise": noise, "spike": noise + 1e9 * (distance < 1), "ball": noise * (distance < 20)}
    scans = [
        entry(f"{name}{stripped}", save(array, tmp_path / f"{name}.nii"), skull_stripped=stripped)
        for name, array in shapes.items()
        for stripped in (True, False)
    ]
    preprocess(scans, tmp_path, tmp_path / "table.tsv", SETTINGS)
    judged = judge(read_chunk(tmp_path / "table.tsv"), THRESHOLDS, {}).set_index("subject")
    assert judged["code"].to_dict() == {
        "noiseTrue": "skull_stripped",  # as much as a head
        "noiseFalse": "brain_mask",
        "spikeTrue": "brain_mask",
        "spikeFalse": "brain_mask",
        "ballTrue": "correlation",
        "ballFalse": "skull_stripped",  # as much as a brain
    }


def test_another_process_writes_the_same_bytes(cohort, tmp_path):
    folder, scans = cohort
    code = (
        "import json, sys; from pathlib import Path; from brainuad.preprocessing import preprocess; "
        "preprocess(*json.loads(sys.argv[1]), Path('out'), Path('out/table.tsv'), json.loads(sys.argv[2]))"
    )
    arguments = [json.dumps([[scans[1]]]), json.dumps(SETTINGS)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, env=environment, check=True)
    for name in ("t1w.nii.gz", "mask.nii.gz", "lesion.nii.gz", "to_template.mat", "from_template.mat"):
        assert (tmp_path / "out/sub-ras" / name).read_bytes() == (folder / "out/sub-ras" / name).read_bytes(), name


def test_lesions_keep_their_volume_in_template_space(tmp_path):
    """Balls of 3, 5 and 10 mm in an oblique scan of 1 mm, in one mask; the affine changes all volumes by one factor."""
    import ants

    scan = simulate("001", Site(spacing=(2, 2, 2), oblique=12, orientation="PSR"), seed=7)
    affine = scan.t1w.affine @ np.diag([0.5, 0.5, 0.5, 1])
    affine[:3, 3] = nibabel.affines.apply_affine(scan.t1w.affine, [-0.25] * 3)
    t1w = scan.t1w.get_fdata(dtype=np.float32).repeat(2, 0).repeat(2, 1).repeat(2, 2)
    points = nibabel.affines.apply_affine(affine, np.indices(t1w.shape).reshape(3, -1).T)
    balls = {3: (25.3, -20.7, 25.2), 5: (-30.1, 10.4, 20.6), 10: (30.8, -60.2, 10.9)}
    inside = {r: (np.linalg.norm(points - at, axis=1) < r).reshape(t1w.shape) for r, at in balls.items()}
    lesion = np.any(list(inside.values()), axis=0).astype(np.uint8)
    scans = [entry("a", save(t1w, tmp_path / "t1w.nii", affine), save(lesion, tmp_path / "lesion.nii", affine))]
    preprocess(scans, tmp_path, tmp_path / "table.tsv", {**SETTINGS, "resolution": 1.0})
    warped = nibabel.load(tmp_path / "sub-a/lesion.nii.gz")
    regions, count = ndimage.label(warped.get_fdata())
    assert count == len(balls)
    to_template = ants.read_transform(str(tmp_path / "sub-a/to_template.mat"))
    determinant = np.linalg.det(np.reshape(to_template.parameters[:9], (3, 3)))
    assert abs(determinant - 1) > 0.05
    volumes = sorted(np.bincount(regions.ravel())[1:])
    for volume, radius in zip(volumes, balls, strict=True):
        assert volume * determinant / inside[radius].sum() == pytest.approx(1, abs=0.04)
        assert volume * determinant / (4 / 3 * np.pi * radius**3) == pytest.approx(1, abs=0.05)
    record = json.loads((tmp_path / "sub-a/quality.json").read_text())
    assert record["lesion_volume_template_ml"] * determinant == pytest.approx(record["lesion_volume_ml"], rel=0.01)


@pytest.fixture
def counted(monkeypatch):
    """Replaces the four steps by a list of the scans they would have been run on."""
    calls = []

    def run(scan, folder, settings):
        calls.append(scan["subject"])
        if scan["subject"] == "stop" and calls.count("stop") == 1:
            raise KeyboardInterrupt
        if scan["subject"] == "odd":
            raise RuntimeError("the library\nfailed")
        for name in (*preprocessing.IMAGES, *preprocessing.TRANSFORMS):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        return dict(MEASURES)

    monkeypatch.setattr(preprocessing, "run", run)
    monkeypatch.setattr(preprocessing, "isolated", here)
    return calls


def here(function, *arguments):
    """Calls a function in this process, whose lists can then be looked at."""
    return function(*arguments)


def job(folder, *subjects, **settings):
    for subject in subjects:
        if not (folder / subject).exists():
            (folder / subject).write_text(subject)
    scans = [entry(subject, folder / subject) for subject in subjects]
    preprocess(scans, folder / "out", folder / "table.tsv", SETTINGS | settings)
    return read_table(folder / "table.tsv")


def test_only_what_changed_is_done_again(counted, tmp_path):
    job(tmp_path, "a", "b")
    assert len(job(tmp_path, "a", "b", "c")) == 3
    assert counted == ["a", "b", "c"]
    os.utime(tmp_path / "b", ns=(1, 1))
    job(tmp_path, "c", "b", "a", scans_per_job=3)
    assert counted == ["a", "b", "c", "b"]
    (tmp_path / "out/sub-a/mask.nii.gz").unlink()
    job(tmp_path, "a")
    assert counted == ["a", "b", "c", "b", "a"]
    job(tmp_path, "a", seed=8)
    assert counted[5:] == ["a"]


def test_a_killed_job_repeats_no_finished_scan(counted, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        job(tmp_path, "a", "stop", "b")
    assert not (tmp_path / "table.tsv").exists()
    assert job(tmp_path, "a", "stop", "b")["status"].eq("included").all()
    assert counted == ["a", "stop", "stop", "b"]


def test_the_first_scan_does_not_pay_for_the_template(counted, monkeypatch, tmp_path):
    monkeypatch.setattr(preprocessing.volumes, "template", lambda resolution: time.sleep(0.5))
    assert job(tmp_path, "a")["seconds"].astype(float)["a"] < 0.5


def test_a_decision_about_a_doubt_is_followed_both_ways(monkeypatch, tmp_path):
    calls = []

    def run(scan, folder, settings):
        calls.append(scan["subject"])
        doubtful = scan["subject"] == "odd"
        if doubtful and not scan["include"]:
            raise BadScan("no_affine", "It has none.")
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*preprocessing.IMAGES, *preprocessing.TRANSFORMS):
            (folder / name).touch()
        return MEASURES | {"overruled": "no_affine" * doubtful}

    monkeypatch.setattr(preprocessing, "run", run)
    monkeypatch.setattr(preprocessing, "isolated", here)

    def codes(include):
        scans = [{**entry(name, tmp_path / name), "include": include} for name in ("odd", "plain")]
        preprocess(scans, tmp_path / "out", tmp_path / "table.tsv", SETTINGS)
        return read_table(tmp_path / "table.tsv")[["code", "overruled"]].to_numpy().tolist()

    for include, expected in ((False, ["no_affine", ""]), (True, ["", "no_affine"])) * 2:
        assert codes(include) == [expected, ["", ""]]
        assert codes(include) == [expected, ["", ""]]
    assert calls == ["odd", "plain", "odd", "odd", "odd"]


def test_an_unexpected_failure_excludes_and_is_tried_again(counted, tmp_path, capsys):
    table = job(tmp_path, "odd", "a")
    assert table["status"].tolist() == ["excluded", "included"]
    assert "odd failed unexpectedly (RuntimeError: the library failed)" in table["reason"]["odd"]
    printed = capsys.readouterr()
    assert "Traceback" in printed.err
    assert "[2/2] sub-a included" in printed.out
    job(tmp_path, "odd", "a")
    assert counted == ["odd", "a", "odd"]


@pytest.mark.parametrize("end", [signal.SIGSEGV, signal.SIGABRT, 3])
def test_a_scan_that_crashes_its_process_is_set_aside(monkeypatch, tmp_path, capfd, end):
    """As a fault in compiled code would: no exception, the process is gone. One of the scans is done for real."""
    save(volume(), tmp_path / "crash.nii")
    scan = simulate("001", Site(spacing=(3, 3, 3)), seed=7)
    nibabel.save(scan.t1w, tmp_path / "good.nii")
    done = preprocessing.run

    def run(scan, folder, settings):
        if scan["subject"] == "crash":
            save(volume(), folder / "t1w.nii.gz")  # half of what it would have written
            os.kill(os.getpid(), end) if isinstance(end, signal.Signals) else os._exit(end)
        return done(scan, folder, settings)

    monkeypatch.setattr(preprocessing, "run", run)
    (tmp_path / "out/sub-crash").mkdir(parents=True)
    scans = [entry("crash", tmp_path / "crash.nii"), entry("good", tmp_path / "good.nii")]
    preprocess(scans, tmp_path / "out", tmp_path / "table.tsv", SETTINGS)
    table = read_table(tmp_path / "table.tsv")
    assert table["code"].tolist() == ["crashed", ""]
    how = f"crashed its process, {end.name}" if isinstance(end, signal.Signals) else "ended its process with code 3"
    assert f"crash.nii: it {how}; the log says where." in table["reason"]["crash"]
    assert table["reason"]["crash"].endswith("snakemake --forcerun preprocess tries it as it is.")
    assert os.listdir(tmp_path / "out/sub-crash") == ["quality.json"]
    assert "in run" in capfd.readouterr().err or not isinstance(end, signal.Signals), "faulthandler says where"
    monkeypatch.setattr(preprocessing, "run", done)
    preprocess(scans, tmp_path / "out", tmp_path / "table.tsv", SETTINGS)
    again, other = capfd.readouterr().out.splitlines()[-2:]
    assert again.startswith("[1/2] sub-crash ")
    assert "finished before" not in again, "it is tried again"
    assert "finished before" in other, "the other is not repeated"


@pytest.mark.parametrize("error", [MemoryError("none left"), OSError(28, "No space left on device")])
def test_what_the_machine_lacks_stops_the_job_and_leaves_the_scan_in(monkeypatch, tmp_path, error):
    def run(scan, folder, settings):
        raise error

    monkeypatch.setattr(preprocessing, "run", run)
    with pytest.raises(type(error)):
        job(tmp_path, "a")
    assert not (tmp_path / "table.tsv").exists()
    assert not (tmp_path / "out/sub-a/quality.json").exists()


def test_a_traceback_reaches_the_log_from_the_process_of_the_scan(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(preprocessing, "run", fail_deep_down)
    assert job(tmp_path, "a")["code"].tolist() == ["failed"]
    assert "in fail_deep_down" in capsys.readouterr().err


def fail_deep_down(scan, folder, settings):
    raise RuntimeError("the library failed")


def test_what_is_declared_about_skulls_is_checked(tmp_path):
    """Of a head and of a brain alone, each declared to be the other."""
    for subject, head in (("head", True), ("brain", False)):
        scan = simulate("001", Site(spacing=(3, 3, 3), head=head), seed=7)
        nibabel.save(scan.t1w, tmp_path / f"{subject}.nii")

    def codes(include=False):
        scans = [
            {**entry(subject, tmp_path / f"{subject}.nii", skull_stripped=subject == "head"), "include": include}
            for subject in ("head", "brain")
        ]
        preprocess(scans, tmp_path / "out", tmp_path / "table.tsv", SETTINGS)
        return read_table(tmp_path / "table.tsv")

    table = codes()
    assert table["code"].tolist() == ["skull_stripped"] * 2
    assert "skull_stripped is true, but what stands out from its background has" in table["reason"]["head"]
    assert "as a brain alone has; set skull_stripped to true or null" in table["reason"]["brain"]
    table = codes(include=True)
    assert table["code"].tolist() == ["brain_mask", ""], "a head is no brain, whatever it is declared to be"
    assert table["overruled"]["brain"] == "skull_stripped"
    assert codes()["code"]["brain"] == "skull_stripped", "the decision was taken back"
