from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from brainuad.manifest import (
    COLUMNS,
    ManifestError,
    check_splits,
    chunks,
    read_datasets,
    read_manifest,
    read_scans,
    resolve,
    split_of,
    splits,
)
from brainuad.spreadsheet import read_table

FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}


def write(folder, text):
    path = folder / "manifest.tsv"
    path.write_text(text)
    return path


def entry(**source):
    return {
        "manifest": None,
        "bids": None,
        "pattern": None,
        "phantom": None,
        "from": None,
        "split": FRACTIONS,
        **source,
    }


def test_paths_are_resolved_against_the_manifest(tmp_path):
    path = write(
        tmp_path,
        "subject\tt1w\tsession\tlesion\tage\n01\tscans/a.nii.gz\t2\t\t33\n02\t/data/b.nii\t\tl.nii\tn/a\n",
    )
    table = read_manifest(path)
    assert list(table.columns) == list(COLUMNS)
    assert list(table["scan"]) == ["sub-01_ses-2", "sub-02"]
    assert list(table["t1w"]) == [str(tmp_path / "scans/a.nii.gz"), "/data/b.nii"]
    assert list(table["lesion"]) == ["", str(tmp_path / "l.nii")]
    assert list(table["age"]) == ["33", ""]


PARTS = st.lists(st.sampled_from(["a", " b c", ".", "", "d.nii.gz", "..e", "é~"]), min_size=1, max_size=5).map("/".join)
NAMES = st.builds(str.__add__, st.sampled_from(["", "~/", "/"]), PARTS).filter(bool)  # pathlib takes ./~ for a home


@settings(deadline=None, derandomize=True)
@given(folder=st.sampled_from(["/data/study", "study", ".", "a b"]), names=st.lists(NAMES, max_size=5))
def test_paths_are_those_of_pathlib(folder, names):
    expected = [str(Path(folder) / Path(name).expanduser()) for name in names]
    assert resolve(Path(folder) / "manifest.tsv", pd.Series(names, name="lesion", dtype=str)) == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("01\ta.nii.gz\n02\tb.nii.gz\n", "has no column 'subject'"),
        ("subject,t1w\n01,a.nii.gz\n", "separated by a tab"),
        ("subject\tt1w\n", "lists no scan"),
        ("", "is not a tab-separated table"),
        ("subject\tt1w\tcolour\n01\ta.nii\tred\n", "column 'colour' that is not known"),
        ("subject\tt1w\n01\ta.nii\n02\tb.nii\n01\tc.nii\n", "lines 2 and 4: sub-01 is listed more than once"),
        ("subject\tt1w\n01\ta.nii\n02\ta.nii\n", "lines 2 and 3: a.nii is the scan of both"),
        ("subject\tt1w\n../x\ta.nii\n", "line 2: the subject '../x' must be letters and digits"),
        ("subject\tt1w\n01\t../../secret/a.nii\n", "leads out of the manifest's folder"),
        ("subject\tt1w\n01\t\n", "line 2: the path in column 't1w' is empty"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, text, says):
    path = write(tmp_path, text)
    with pytest.raises(ManifestError, match=r"manifest\.tsv") as error:
        read_manifest(path)
    assert says in str(error.value)


def test_all_missing_manifests_are_named_at_once():
    with pytest.raises(ManifestError) as error:
        read_datasets({"a": entry(manifest="no/a.tsv"), "b": entry(manifest="no/b.tsv"), "s": entry(**{"from": "a"})})
    assert "no/a.tsv" in str(error.value)
    assert "no/b.tsv" in str(error.value)
    assert "make demo" in str(error.value)


def test_a_csv_is_read_as_spreadsheets_write_it(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("subject,t1w,age\n01,a.nii,33\n")
    commas = read_manifest(path)
    path.write_bytes("subject;t1w;age;\r\n01;a.nii;33;\r\n;;;\r\n".encode("utf-8-sig"))
    assert read_manifest(path).equals(commas)
    assert list(commas["t1w"]) == [str(tmp_path / "a.nii")]
    path.write_text("subject,t1w\n01,a.nii\n,\n01,b.nii\n")
    with pytest.raises(ManifestError, match="lines 2 and 4"):
        read_manifest(path)
    path.write_text("subject\tt1w\n01\ta.nii\n")
    with pytest.raises(ManifestError, match="separated by a comma"):
        read_manifest(path)
    path.write_bytes("subject,t1w\n01,\xe9.nii\n".encode("latin-1"))
    with pytest.raises(ManifestError, match=r"is not text in UTF-8 .* save it from the spreadsheet as CSV UTF-8"):
        read_manifest(path)


def test_an_age_may_have_a_decimal_comma(tmp_path):
    path = tmp_path / "manifest.csv"
    path.write_text("subject;t1w;age\n01;a.nii;71,5\n02;b.nii;64\n03;c.nii;n/a\n")
    assert list(read_scans("site", entry(manifest=str(path)))["age"]) == ["71.5", "64", ""]


def test_nothing_is_learnt_from_patients(tmp_path):
    path = write(
        tmp_path,
        "subject\tsession\tt1w\tgroup\tfamily\tsplit\n"
        "01\t1\ta\tcontrol\t\t\n01\t2\tb\tpatient\t\t\n02\t\tc\tcontrol\tf1\t\n03\t\td\tpatient\tf1\t\n"
        "04\t\te\tcontrol\t\t\n05\t\tf\t\t\t\n06\t\tg\tpatient\t\ttrain\n",
    )
    split = {"train": 1.0, "validation": 0.0, "test": 0.0}

    def drawn(groups):
        return splits(read_scans("site", entry(manifest=str(path), groups=groups)), split, 1)

    assert drawn({"reference": "control"}) == ["test", "test", "test", "test", "train", "test", "train"]
    assert drawn(None) == drawn({"reference": "healthy"}) == ["train"] * 7


@pytest.mark.parametrize(("ending", "mark"), [("tsv", "\t"), ("csv", ","), ("csv", ";")])
def test_an_uneven_row_is_refused_by_its_line(tmp_path, ending, mark):
    """A cell too many or too few would move the others under another header: an age of 71 becomes a sex."""
    path = tmp_path / f"manifest.{ending}"

    def read(*rows):
        path.write_text("\n".join(["subject,t1w,age,sex,site", *rows, ""]).replace(",", mark))
        return read_manifest(path)

    even = read("01,/d/a.nii,71,F,mu1", "02,/d/b.nii,,,")
    assert even.loc[0, ["age", "sex", "site"]].tolist() == ["71", "F", "mu1"]
    assert read("01,/d/a.nii,71,F,mu1,,", "02,/d/b.nii,,,,").equals(even), "a spreadsheet's empty cells"
    for row, cells in (("01,/d/a.nii,71,5,F,mu1", 6), ("01,/d/a.nii,71,F,mu1,,x", 7), ("01,/d/a.nii,71,F", 4)):
        with pytest.raises(ManifestError, match=rf"line 4 has {cells} cells, but the header has 5"):
            read("02,/d/b.nii,,,", "", row)


def test_lines_are_counted_as_an_editor_does(tmp_path):
    """Also after empty lines, and after a quoted cell of two."""
    path = write(tmp_path, 'subject\tt1w\tsite\n\n01\ta.nii\t"one\ntwo"\n0_2\tb.nii\t\n')
    with pytest.raises(ManifestError, match="line 5: the subject '0_2'"):
        read_manifest(path)
    with pytest.raises(ManifestError, match="is not a tab-separated table"):
        read_manifest(write(tmp_path, 'subject\tt1w\tsite\n01\ta.nii\t"one\n02\tb.nii\ttwo\n'))


def test_columns_of_one_name_stay_apart(tmp_path):
    (tmp_path / "scans.tsv").write_text("subject\tscore\tscore\tscore\t\n01\t1\t2\t3\t\n")
    table = read_table(tmp_path / "scans.tsv")
    assert table.iloc[0].to_dict() == {"subject": "01", "score": "1", "score.1": "2", "score.2": "3"}


def test_a_tilde_is_the_home_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    table = read_manifest(write(tmp_path, "subject\tt1w\tlesion\n01\t~/scans/a.nii\t~/scans/l.nii\n02\tb~.nii\t\n"))
    assert list(table["t1w"]) == ["/home/somebody/scans/a.nii", str(tmp_path / "b~.nii")]
    assert list(table["lesion"]) == ["/home/somebody/scans/l.nii", ""]


def test_a_family_is_kept_in_one_split(tmp_path):
    rows = [f"{i:03d}\t{i}.nii\t{f'F{i // 4}' if i < 200 else ''}" for i in range(400)]
    table = read_manifest(write(tmp_path, "\n".join(["subject\tt1w\tfamily", *rows])))
    table["split"] = splits(table, FRACTIONS, 1)
    families = table[table["family"] != ""].groupby("family")["split"]
    assert (families.nunique() == 1).all()
    assert len(set(families.first())) == 3
    alone = table[table["family"] == ""]
    assert list(alone["split"]) == [split_of(subject, FRACTIONS, 1) for subject in alone["subject"]]


def test_a_subject_of_two_families_is_refused(tmp_path):
    path = write(tmp_path, "subject\tsession\tt1w\tfamily\n01\t1\ta.nii\tF1\n01\t2\tb.nii\t\n")
    with pytest.raises(ManifestError, match=r"'01' have different families \(none, F1\)"):
        read_manifest(path)


def test_phantoms_of_two_datasets_share_no_subject():
    one, two = (read_scans(name, entry(phantom={"subjects": 5})) for name in ("site_a", "site_b"))
    assert len(one) == 5
    assert not set(one["subject"]) & set(two["subject"])
    assert one["t1w"][0] == "results/phantom/site_a/sub-sitea001/t1w.nii.gz"


def test_split_depends_on_subject_and_seed_alone():
    subjects = [f"{i:05d}" for i in range(20_000)]
    splits = pd.Series([split_of(subject, FRACTIONS, 1) for subject in subjects])
    shares = splits.value_counts(normalize=True)
    for name, fraction in FRACTIONS.items():
        assert abs(shares[name] - fraction) < 0.015  # four standard errors of a share of 0.7 among 20,000
    other = pd.Series([split_of(subject, FRACTIONS, 2) for subject in subjects])
    assert 0.3 < (splits == other).mean() < 0.7  # 0.54 for independent splits


def test_a_larger_test_share_keeps_the_test_subjects():
    wider = {"train": 0.5, "validation": 0.1, "test": 0.4}
    for subject in map(str, range(500)):
        if split_of(subject, FRACTIONS, 1) == "test":
            assert split_of(subject, wider, 1) == "test"


def test_chunks_hold_every_scan_once_in_order():
    table = pd.DataFrame({"scan": [f"sub-{i}" for i in range(10)]})
    cut = chunks(table, 4)
    assert list(cut) == ["0001", "0002", "0003"]
    assert [len(part) for part in cut.values()] == [4, 4, 2]
    assert pd.concat(cut.values()).equals(table.astype(object))


def test_a_training_dataset_needs_training_subjects():
    scans = {"a": pd.DataFrame({"subject": ["01", "02"]})}
    datasets = {"a": entry(manifest="a.tsv", split={"train": 0.0, "validation": 0.0, "test": 1.0})}
    with pytest.raises(ManifestError, match=r"none of the 2 subjects .* 'train'"):
        check_splits(scans, datasets, ["a"], 1)
    check_splits(scans, datasets, [], 1)
    datasets["a"]["split"] = {"train": 1.0, "validation": 0.0, "test": 0.0}
    with pytest.raises(ManifestError, match=r"`datasets\.a`: .* 'test'"):
        check_splits(scans, datasets, ["a"], 1)
