import os
import random
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from brainuad.configuration import check
from brainuad.manifest import (
    COLUMNS,
    ManifestError,
    chunks,
    listing,
    read_datasets,
    read_manifest,
    read_scans,
    split_of,
    splits,
    stamp,
)
from brainuad.patterns import find
from brainuad.sources import find_scans, list_files, summaries
from conftest import ROOT

SCHEMA = ROOT / "config/schema/config.schema.yaml"


def tree(folder, *names):
    """Make empty files."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def scan(folder, monkeypatch, **entry):
    """The scans and the summary of a dataset whose patterns start at a folder."""
    if "bids" in entry:
        entry["bids"] = {**entry["bids"], "root": str(folder / entry["bids"]["root"])}
    for key in ("pattern", "lesion"):
        if key in entry:
            given = [entry[key]] if isinstance(entry[key], str) else entry[key]
            entry[key] = [str(folder / pattern) for pattern in given]
    if "participants" in entry:
        entry["participants"] = str(folder / entry["participants"])
    study = {
        "datasets": {"cohort": entry},
        "models": {"mean": {"class": "floors.VoxelMean"}},
        "training": {"datasets": ["cohort"]},
    }
    entry.setdefault("split", {"train": 0.5, "validation": 0.0, "test": 0.5})
    datasets = check(study, SCHEMA)["datasets"]
    (folder / "study").mkdir(exist_ok=True)
    monkeypatch.chdir(folder / "study")
    found = find_scans(datasets)
    table = read_datasets(datasets)["cohort"]
    assert list(table.columns) == list(COLUMNS)
    return table, found["cohort"].text


def readme_examples():
    """The datasets that config/README.md shows, by name."""
    blocks = (ROOT / "config/README.md").read_text().split("```yaml\n")[1:]
    found = {}
    for block in blocks:
        found |= yaml.safe_load(block.split("```")[0]).get("datasets", {})
    return found


def example(name, folder):
    """An example of config/README.md with its data elsewhere."""
    text = yaml.safe_dump(readme_examples()[name]).replace("/data/", "")
    assert "/data/" in yaml.safe_dump(readme_examples()[name])
    return yaml.safe_load(text)


def test_the_layout_of_hcp_is_read_as_the_example_says(tmp_path, monkeypatch):
    for subject in ("100206", "100307", "100408"):
        tree(tmp_path, *(f"hcp/{subject}/T1w/{name}.nii.gz" for name in ("T1w_acpc_dc_restore_brain", "brainmask_fs")))
        tree(tmp_path, f"hcp/{subject}/MNINonLinear/T1w_restore_brain.nii.gz")
    tree(tmp_path, "hcp/100610/T1w/T1w_acpc_dc_restore.nii.gz", "hcp/README.txt", "hcp/.DS_Store")
    rows = ["Subject,Release,Gender,Age,Family_ID", "100206,S900,M,26-30,56037_85858", "100307,Q1,F,26-30,51488_81352"]
    (tmp_path / "hcp.csv").write_text("\n".join([*rows, "100408,Q3,M,31-35,51488_81352"]))
    table, text = scan(tmp_path, monkeypatch, **example("hcp", tmp_path))
    assert list(table["scan"]) == ["sub-100206", "sub-100307", "sub-100408"]
    assert table["t1w"].str.endswith("/T1w/T1w_acpc_dc_restore_brain.nii.gz").all()
    assert list(table["age"]) == ["26-30", "26-30", "31-35"]
    assert list(table["sex"]) == ["M", "F", "M"]
    assert list(table["family"]) == ["56037_85858", "51488_81352", "51488_81352"]
    assert "found 3 scans by its pattern, used 3, of 3 subjects" in text
    assert "left out 1 (subjects or sessions without such a file; the first is" in text
    assert "100610/T1w/T1w_acpc_dc_restore_brain.nii.gz)" in text
    assert "README" not in text


def test_the_layout_of_ixi_is_read_as_the_example_says(tmp_path, monkeypatch):
    names = ["IXI002-Guys-0828", "IXI012-HH-1211", "IXI035-IOP-0873"]
    tree(tmp_path, *(f"ixi/{name}-{contrast}.nii.gz" for name in names for contrast in ("T1", "T2", "PD")))
    tree(tmp_path, "ixi/._IXI002-Guys-0828-T1.nii.gz")
    # The table numbers its subjects, has more of them than scans, and one twice with two ages.
    rows = ["IXI_ID;SEX_ID (1=m, 2=f);AGE", "1;1;20,1", "2;2;35,80", "12;1;38,78", "12;1;39,1", "35;2;n/a", ";;"]
    (tmp_path / "ixi.csv").write_bytes("\r\n".join(rows).encode("utf-8-sig"))
    table, text = scan(tmp_path, monkeypatch, **example("ixi", tmp_path))
    assert list(table["scan"]) == ["sub-IXI002", "sub-IXI012", "sub-IXI035"]
    assert list(table["site"]) == ["Guys", "HH", "IOP"]
    assert list(table["sex"]) == ["2", "1", "2"]
    assert list(table["age"]) == ["35.80", "", ""]
    assert "found 3 scans by its pattern, used 3, of 3 subjects" in text
    assert "1 subject of several rows that differ" in text


def test_the_layout_of_oasis3_is_read_as_the_example_says(tmp_path, monkeypatch):
    session = "oasis3/OAS30001_MR_d0129"
    tree(tmp_path, f"{session}/anat2/sub-OAS30001_ses-d0129_run-02_T1w.nii.gz")
    tree(tmp_path, f"{session}/anat1/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz")
    tree(tmp_path, f"{session}/anat1/sub-OAS30001_ses-d0129_run-01_T1w.json")
    tree(tmp_path, f"{session}/anat3/sub-OAS30001_ses-d0129_T2w.nii.gz")
    tree(tmp_path, "oasis3/OAS30001_MR_d0757/anat2/NIFTI/sub-OAS30001_sess-d0757_T1w.nii.gz")
    tree(tmp_path, "oasis3/OAS30002_MR_d0371/anat1/sub-OAS30002_ses-d0371_T2w.nii.gz")
    tree(tmp_path, "oasis3/OAS30003_MR_d0558/anat1/sub-OAS30003_ses-d0558_T1w.nii.gz")
    (tmp_path / "oasis3.csv").write_text("OASISID,AgeatEntry,GENDER\nOAS30001,65.1,2\n")
    table, text = scan(tmp_path, monkeypatch, **example("oasis3", tmp_path))
    assert list(table["scan"]) == [
        "sub-OAS30001_ses-d0129",
        "sub-OAS30001_ses-d0757",
        "sub-OAS30003_ses-d0558",
    ]
    assert table["t1w"][0].endswith("anat1/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz")
    assert list(table["age"]) == ["65.1", "65.1", ""]
    assert "found 4 scans by its pattern, used 3, of 2 subjects" in text
    assert "left out 1 (further files of a session that has one; the first is" in text
    assert "left out 1 (subjects or sessions without such a file; the first is" in text
    assert "1 subject not in" in text


def test_lesion_masks_go_with_their_session(tmp_path, monkeypatch):
    tree(tmp_path, "c/01/1/t1.nii.gz", "c/01/2/t1.nii.gz", "c/02/1/t1.nii.gz", "c/01/2/mask.nii", "c/03/1/mask.nii")
    patterns = {"pattern": "c/{subject}/{session}/t1.nii.gz", "lesion": "c/{subject}/{session}/mask.nii"}
    table, text = scan(tmp_path, monkeypatch, **patterns)
    assert list(table["lesion"]) == ["", str(tmp_path / "c/01/2/mask.nii"), ""]
    assert "left out 1 (lesion masks without a scan; the first is" in text


def test_labels_are_cleaned_and_what_was_meant_by_a_prefix_is_known(tmp_path, monkeypatch):
    tree(tmp_path, "c/sub-002_S_0413/ses-1/sub-002_S_0413_T1w.nii", "c/sub-02/ses-1/sub-03_T1w.nii")
    (tmp_path / "people.tsv").write_text("participant_id\tage\tgroup\nsub-002_S_0413\t76\tCN\n")
    entry = {"pattern": "c/{subject}/{session}/{subject}_T1w.nii", "participants": "people.tsv"}
    table, _ = scan(tmp_path, monkeypatch, **entry)
    assert list(table["scan"]) == ["sub-002S0413_ses-1"], "a label that comes twice is the same twice"
    assert (table["age"][0], table["group"][0]) == ("76", "CN")


MISTAKES = [
    (["c/01_a/t1.nii", "c/01-a/t1.nii"], {}, "c/01-a/t1.nii and {}/c/01_a/t1.nii have different labels"),
    (["c/x..y/t1.nii"], {}, "the subject 'x..y'"),
    (["c/--/t1.nii"], {}, "the subject '--'"),
    ([], {}, "c does not exist"),
    (["c/readme"], {}, "has such a name"),
    (["c/01/t2.nii"], {}, "1 subjects or sessions have a folder, but none a file such as"),
    (["c/01/t1.nii"], {"lesion": "c/{subject}/m.nii"}, "`datasets.cohort.lesion` matches no file"),
    (["c/01/t1.nii"], {"lesion": "c/{subject}/t*.nii"}, "is matched both as a scan and as a lesion mask"),
    (["c/01/t1.nii", "c/02/m.nii"], {"lesion": "c/{subject}/m.nii"}, "no mask belongs to a scan"),
    (["c/01/t1.nii", "c/01/m.nii", "c/01/n.nii"], {"lesion": "c/{subject}/[mn].nii"}, "matches no file"),
    (["c/01/t1.nii", "c/01/m1.nii", "c/01/m2.nii"], {"lesion": "c/{subject}/m*.nii"}, "two masks of one scan"),
    (["c/01/t1.nii"], {"participants": "none.tsv"}, "The table of participants {}/none.tsv does not exist"),
    (["c/01/t1.nii"], {"participants": "c"}, "The table of participants {}/c cannot be read (Is a directory)"),
    (["c/01/t1.nii"], {"participants": "p.tsv", "columns": {"age": "Aeg"}}, "no column 'Aeg'; did you mean `Age`?"),
    (["c/02/t1.nii"], {"participants": "p.tsv"}, "none of the 1 subjects is in"),
]


@pytest.mark.parametrize(("names", "more", "says"), MISTAKES, ids=[says for *_, says in MISTAKES])
def test_what_is_ambiguous_or_missing_is_said(tmp_path, monkeypatch, names, more, says):
    tree(tmp_path, *names)
    (tmp_path / "p.tsv").write_text("subject\tAge\nA1\t20\n")
    with pytest.raises(ManifestError) as error:
        scan(tmp_path, monkeypatch, pattern="c/{subject}/t1.nii", **more)
    assert says.format(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_one_number_at_two_sites_is_refused(tmp_path, monkeypatch):
    tree(tmp_path, "c/A/01/1.nii", "c/B/01/1.nii")
    with pytest.raises(ManifestError, match=r"of the same subject and session, but of site 'A' and 'B'"):
        scan(tmp_path, monkeypatch, pattern="c/{site}/{subject}/{session}.nii")
    (tmp_path / "c/B/01/1.nii").rename(tmp_path / "c/B/01/2.nii")
    table, _ = scan(tmp_path, monkeypatch, pattern="c/{site}/{subject}/{session}.nii")
    assert list(table["site"]) == ["A", "B"], "one person may travel"


def test_numbers_that_two_subjects_share_join_nothing(tmp_path, monkeypatch):
    tree(tmp_path, "c/A01.nii", "c/B1.nii")
    (tmp_path / "p.csv").write_text("subject,age\n1,20\n")
    with pytest.raises(ManifestError, match="A01 and B1 end in the same number"):
        scan(tmp_path, monkeypatch, pattern="c/{subject}.nii", participants="p.csv")


def test_a_match_crosses_no_folder_and_follows_no_hidden_name(tmp_path):
    tree(tmp_path, "a/b/x_T1.nii", "ab_T1.nii", ".c_T1.nii", "d_T1.nii/e_T1.nii", "f_T1xnii")
    os.symlink(tmp_path / "nowhere", tmp_path / "g_T1.nii")
    files, _ = find(str(tmp_path / "{subject}_T1.nii"))
    assert [(Path(match.path).name, match.labels) for match in files] == [("ab_T1.nii", {"subject": "ab"})]
    assert not find(str(tmp_path / "{subject}.txt"))[0]


def test_an_order_of_creation_changes_nothing(tmp_path, monkeypatch):
    names = [f"c/{subject}/ses-{session}/t1.nii" for subject in ("b", "a10", "a2") for session in (2, 1)]
    random.Random(1).shuffle(names)
    tree(tmp_path, *names)
    table, _ = scan(tmp_path, monkeypatch, pattern="c/{subject}/{session}/t1.nii")
    assert list(table["scan"]) == sorted(table["scan"])
    assert len(table) == 6


def test_jobs_read_the_list_and_never_search(tmp_path, monkeypatch):
    tree(tmp_path, "c/01.nii", "c/02.nii")
    table, _ = scan(tmp_path, monkeypatch, pattern="c/{subject}.nii")
    entry = {"manifest": None, "phantom": None, "bids": None, "pattern": "no/such/{subject}"}
    (tmp_path / "c/02.nii").unlink()
    pd.testing.assert_frame_equal(read_scans("cohort", entry), table)
    before = listing("cohort").stat().st_mtime_ns
    tree(tmp_path, "c/02.nii")
    scan(tmp_path, monkeypatch, pattern="c/{subject}.nii")
    assert listing("cohort").stat().st_mtime_ns == before, "what follows would be made anew"
    tree(tmp_path, "c/03.nii")
    assert len(scan(tmp_path, monkeypatch, pattern="c/{subject}.nii")[0]) == 3
    listing("cohort").unlink()
    with pytest.raises(ManifestError, match="start Snakemake itself"):
        read_scans("cohort", entry)


def test_the_files_of_a_job_are_listed_anew_when_one_of_them_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, "c/01.nii", "c/02.nii", "c/03.nii", "m/01.nii")
    columns = {"scan": ["sub-01", "sub-02", "sub-03"], "t1w": ["c/01.nii", "c/02.nii", "c/03.nii"]}
    table = pd.DataFrame({**columns, "lesion": ["m/01.nii", "", "m/missing.nii"]})
    datasets = {"cohort": {"phantom": None}, "simulated": {"phantom": {"subjects": 3}}}

    def listed():
        stamp.cache_clear()  # of the Snakemake before
        list_files({name: chunks(table, 2) for name in datasets}, datasets)
        return [(path.stat().st_mtime_ns, path.read_text()) for path in paths]

    paths = [listing("cohort", chunk) for chunk in ("0001", "0002")]
    first = listed()
    files = [[line.split("\t")[0] for line in text.splitlines()[1:]] for _, text in first]
    assert files == [["c/01.nii", "c/02.nii", "m/01.nii"], ["c/03.nii"]]
    assert not listing("simulated", "0001").exists()
    assert listed() == first, "what follows would be made anew"
    for change in (
        lambda: (tmp_path / "c/02.nii").write_text("another scan"),
        lambda: os.utime(tmp_path / "c/02.nii", (0, 0)),
        lambda: (tmp_path / "m/01.nii").unlink(),
    ):
        before = listed()
        change()
        after = listed()
        assert after[0] != before[0]
        assert after[1] == before[1], "of another job"
    tree(tmp_path, "m/missing.nii")
    assert "m/missing.nii" in (readable := listed())[1][1]
    allowed = os.access  # whatever the rights: who runs the tests may be allowed everything
    monkeypatch.setattr(os, "access", lambda path, mode: path != "c/03.nii" and allowed(path, mode))
    assert (forbidden := listed())[1][1] != readable[1][1], "once it is allowed, the scan is read after all"
    assert forbidden[0] == readable[0]


def test_a_long_manifest_is_read_cut_and_listed_as_row_by_row(tmp_path, monkeypatch):
    """What is done to whole columns of 5,000 rows in a moment, by the plainest loop over the rows."""
    monkeypatch.chdir(tmp_path)
    generator, fractions = random.Random(0), {"train": 0.6, "validation": 0.1, "test": 0.3}
    rows = []
    for number in range(5_000):
        subject, session = f"{number // 3:05d}", generator.choice(["a", "b"]) * (number % 3) * (number % 7 > 0)
        family = f"f{number // 3 // 4}" if number // 3 % 5 else ""
        path = generator.choice([f"raw/{number}.nii", f"./raw//{number}.nii", f"{tmp_path}/raw/{number}.nii"])
        lesion = generator.choice(["", f"mask/{number}.nii"])
        said = generator.choice(["", "", "test"])
        age = generator.choice(["", "70", "70.5", "70,5"])
        rows.append([subject, f"{session}{number % 3}", path, lesion, family, said, age])
        tree(tmp_path, *[f"config/{folder}/{number}.nii" for folder in ("raw", "mask") if generator.random() < 0.2])
    names = ["subject", "session", "t1w", "lesion", "family", "split", "age"]
    (tmp_path / "config/list.tsv").write_text("\n".join("\t".join(row) for row in [names, *rows]) + "\n")
    table = read_manifest(Path("config/list.tsv"))
    jobs = chunks(table, 16)
    stamp.cache_clear()
    list_files({"cohort": jobs}, {"cohort": {"phantom": None}})

    expected, drawn = [], []
    for subject, session, path, lesion, family, said, age in rows:
        paths = [str(Path("config") / name) if name else "" for name in (path, lesion)]
        found = dict(zip(names, [subject, session, *paths, family, said, age], strict=True))
        expected.append({"scan": f"sub-{subject}_ses-{session}", **found})
        drawn.append(said or split_of(family or subject, fractions, 3))
    columns = ["scan", *names]
    assert table[columns].to_dict("records") == expected
    assert not (table.drop(columns=columns) != "").any(axis=None)
    assert splits(table, fractions, 3) == drawn
    assert len(jobs) == 313
    for number, start in enumerate(range(0, 5_000, 16), start=1):
        part = expected[start : start + 16]
        assert jobs[f"{number:04d}"][columns].to_dict("records") == part
        lines = ["path\tbytes\tmodified_ns\treadable"]
        for path in [row[column] for column in ("t1w", "lesion") for row in part]:
            if path and Path(path).exists():
                status = Path(path).stat()
                lines.append(f"{path}\t{status.st_size}\t{status.st_mtime_ns}\t{os.access(path, os.R_OK)}")
        assert listing("cohort", f"{number:04d}").read_text().splitlines() == lines


def test_every_dataset_with_scans_has_its_line(tmp_path):
    tree(tmp_path, "a.nii")
    (tmp_path / "m.csv").write_text("subject,t1w\n01,a.nii\n02,b.nii\n")
    source = {"manifest": None, "phantom": None, "bids": None, "pattern": None, "from": None}
    datasets = {"one": {**source, "manifest": str(tmp_path / "m.csv")}, "two": {**source, "phantom": {"subjects": 1}}}
    scans = read_datasets(datasets)
    one, two = summaries(scans, scans, datasets, {})
    assert one.text.startswith(f"one: found 2 scans of 2 subjects in {tmp_path}/m.csv, used 1; left out 1 (files that")
    assert one.text.endswith("b.nii).")
    assert two.text == "two: 1 simulated scan of 1 subject, used 1."
    assert not two.notes


def test_what_a_person_left_out_is_not_used(tmp_path, monkeypatch):
    tree(tmp_path, "a.nii", "c/01.nii", "c/02.nii", "c/03.nii")
    (tmp_path / "m.csv").write_text("subject,t1w\n01,a.nii\n02,b.nii\n03,d.nii\n")
    monkeypatch.chdir(tmp_path)
    source = {"manifest": None, "phantom": None, "bids": None, "pattern": None, "from": None, "lesion": None}
    source |= {"participants": None, "columns": {}}
    datasets = {"one": {**source, "manifest": "m.csv"}, "two": {**source, "pattern": ["c/{subject}.nii"]}}
    found = find_scans(datasets)
    scans = read_datasets(datasets)
    kept = {name: table[~table["subject"].isin(["01", "02"])] for name, table in scans.items()}
    one, two = summaries(scans, kept, datasets, found)
    assert ", used 0; left out 2 (files that do not exist" in one.text, "of three scans two are missing"
    assert "; left out 2 (`exclude` in `config/exclusions.tsv`; the first is sub-01)." in one.text
    assert two.text.startswith("two: found 3 scans by its pattern, used 1, of 3 subjects (the first is sub-01, c/01")
    assert two.text.endswith("; left out 2 (`exclude` in `config/exclusions.tsv`; the first is sub-01).")


def test_a_name_that_is_not_utf8_is_a_sentence(tmp_path, monkeypatch):
    cafe = os.fsdecode(b"caf\xe9")
    bids_tree(tmp_path / "study", "sub-01_T1w", f"sub-02_acq-{cafe}_T1w")
    with pytest.raises(ManifestError, match=r"udce9_T1w\.nii\.gz' is not UTF-8: rename it\.$"):
        scan(tmp_path, monkeypatch, bids={"root": "study"})
    tree(tmp_path, "c/01.nii", f"c/{cafe}.nii")
    with pytest.raises(ManifestError, match=r"udce9\.nii' has a name with characters that cannot be printed: rename"):
        scan(tmp_path, monkeypatch, pattern="c/{subject}.nii")


def bids_tree(folder, *names):
    """Make a BIDS dataset: images of the names, each with its sidecar."""
    for name in names:
        subject, *rest = name.split("_")
        session = [rest[0]] if rest[0].startswith("ses-") else []
        tree(folder, "/".join([subject, *session, "anat", f"{name}.nii.gz"]))
        tree(folder, "/".join([subject, *session, "anat", f"{name}.json"]))
    (folder / "dataset_description.json").write_text('{"Name": "study", "BIDSVersion": "1.8.0"}')


def test_a_bids_dataset_is_read_as_the_example_says(tmp_path, monkeypatch):
    root = tmp_path / "study"
    bids_tree(root, "sub-01_T1w", "sub-02_run-10_T1w", "sub-02_run-02_T1w", "sub-03_T2w")
    tree(root, "sub-02/anat/._sub-02_run-01_T1w.nii.gz", "code/sub-04_T1w.nii.gz", "sub-02/func/sub-02_bold.nii.gz")
    tree(root, "sourcedata/sub-04/anat/sub-04_T1w.nii.gz", "derivatives/x/sub-04/anat/sub-04_T1w.nii.gz")
    tree(root, "sub-01/anat/sub-05_T1w.nii.gz")
    (root / "sub-06/anat").mkdir(parents=True)
    os.symlink("../../.git/annex/nowhere", root / "sub-06/anat/sub-06_T1w.nii.gz")
    (root / ".ancpbids-dataset.pickle").write_bytes(b"must not be opened")
    (root / "participants.tsv").write_text("participant_id\tage\tsex\nsub-01\t33\tF\nsub-02\tn/a\tM\n")
    table, text = scan(tmp_path, monkeypatch, **example("my_study", tmp_path))
    assert list(table["scan"]) == ["sub-01", "sub-02"]
    assert table["t1w"][1] == str(root / "sub-02/anat/sub-02_run-02_T1w.nii.gz")
    assert list(table["age"]) == ["33", ""]
    assert list(table["sex"]) == ["F", "M"]
    assert "found 5 scans in its BIDS dataset, used 2, of 2 subjects" in text
    assert "left out 1 (names that do not say what their folders say; the first is" in text
    assert "left out 1 (links to files that were not fetched; the first is" in text
    assert "left out 1 (further files of a session that has one; the first is" in text
    assert f"left out 2 (subjects or sessions without such a file; the first is {root}/sub-03)" in text


def test_sessions_and_entities_of_a_bids_dataset_are_chosen_as_the_example_says(tmp_path, monkeypatch):
    root = tmp_path / "clinic_bids"
    for session in ("baseline", "later"):
        bids_tree(root, *(f"sub-A_ses-{session}_acq-{name}_T1w" for name in ("mprage", "spgr", "mprage_rec-norm")))
    bids_tree(root, "sub-B_ses-baseline_acq-mprage_T1w", "sub-C_ses-later_acq-mprage_T1w", "sub-D_ses-baseline_T1w")
    tree(root, "derivatives/lesions/sub-B/ses-baseline/anat/sub-B_ses-baseline_label-lesion_mask.nii.gz")
    (root / "participants.tsv").write_text("participant_id\tdiagnosis\nsub-A\tcontrol\nsub-B\tstroke\n")
    table, text = scan(tmp_path, monkeypatch, **example("my_baseline", tmp_path))
    assert list(table["scan"]) == ["sub-A_ses-baseline", "sub-B_ses-baseline"]
    assert table["t1w"][0].endswith("sub-A_ses-baseline_acq-mprage_T1w.nii.gz")
    assert list(table["group"]) == ["control", "stroke"]
    assert [bool(path) for path in table["lesion"]] == [False, True]
    assert "left out 7 (sessions, runs or entities that are not asked for; the first is" in text
    assert f"left out 1 (subjects or sessions without such a file; the first is {root}/sub-D/ses-baseline)" in text


def test_runs_are_chosen_by_number_and_a_derivative_is_a_dataset(tmp_path, monkeypatch):
    root = tmp_path / "d/derivatives/prep"
    bids_tree(root, *(f"sub-01_run-{run}_desc-{name}_T1w" for run in ("1", "02", "3") for name in ("raw", "preproc")))
    settings = {"root": "d/derivatives/prep", "runs": [3, 2], "entities": {"desc": "preproc"}}
    table, _ = scan(tmp_path, monkeypatch, bids=settings)
    assert [Path(path).name for path in table["t1w"]] == ["sub-01_run-02_desc-preproc_T1w.nii.gz"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"root": "none"}, "none does not exist"),
        ({"root": "d", "suffix": "FLAIR"}, "d has no FLAIR image as asked for (none at all)"),
        ({"root": "d", "sessions": ["2"]}, "1 sessions, runs or entities that are not asked for, such as"),
        ({"root": "broken"}, "dataset_description.json is no description of a BIDS dataset"),
    ],
    ids=lambda value: str(value),
)
def test_a_bids_dataset_without_what_is_asked_for_is_refused(tmp_path, monkeypatch, settings, says):
    bids_tree(tmp_path / "d", "sub-01_ses-1_T1w")
    bids_tree(tmp_path / "broken", "sub-01_T1w")
    (tmp_path / "broken/dataset_description.json").write_text("{")
    with pytest.raises(ManifestError, match=r"^`datasets\.cohort\.bids`") as error:
        scan(tmp_path, monkeypatch, bids=settings)
    assert says in str(error.value)


def test_a_folder_that_may_not_be_read_stops_the_search(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    with pytest.raises(ManifestError, match="may not be read"):
        find(str(tmp_path / "{subject}/t1.nii"))


def test_an_environment_that_is_too_old_for_bids_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ancpbids", None)
    with pytest.raises(ManifestError, match="run `make install` again"):
        scan(tmp_path, monkeypatch, bids={"root": "d"})


def test_every_example_of_a_source_is_a_valid_study():
    examples = {name: entry for name, entry in readme_examples().items() if "from" not in entry}
    assert {"hcp", "ixi", "oasis3", "my_cohort", "my_patients", "my_study", "my_baseline"} <= set(examples)
    study = {"datasets": examples, "models": {"mean": {"class": "floors.VoxelMean"}}}
    name = next(iter(examples))
    examples[name]["split"] = {"train": 0.5, "validation": 0.0, "test": 0.5}
    check({**study, "training": {"datasets": [name]}}, SCHEMA)


def test_the_example_of_a_pattern_with_masks_is_read(tmp_path, monkeypatch):
    tree(tmp_path, "clinic/p1/1/t1.nii.gz", "clinic/p1/1/lesion.nii.gz", "clinic/p2/1/t1.nii.gz")
    (tmp_path / "clinic/participants.tsv").write_text("patient\tdiagnosis\tage\np1\tstroke\t70\np2\tcontrol\t60\n")
    table, text = scan(tmp_path, monkeypatch, **example("my_patients", tmp_path))
    assert table[["scan", "group", "age"]].to_numpy().tolist() == [
        ["sub-p1_ses-1", "stroke", "70"],
        ["sub-p2_ses-1", "control", "60"],
    ]
    assert [bool(path) for path in table["lesion"]] == [True, False]
    assert "left out" not in text
