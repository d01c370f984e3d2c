import pandas as pd
import pytest

from brainuad.exclusions import counted, decided, read_decisions, without_excluded
from brainuad.manifest import ManifestError, scan_names
from conftest import ROOT

HEADER = "dataset\tsubject\tsession\tdecision\treason\n"


def scans(*labels):
    """A table of scans; labels are subject and session."""
    table = pd.DataFrame(labels, columns=["subject", "session"])
    return table.assign(scan=scan_names(table))


@pytest.fixture
def study():
    return {"site": scans(("01", "1"), ("01", "2"), ("02", "")), "ixi": scans(("IXI012", ""))}


def decide(tmp_path, study, text):
    path = tmp_path / "exclusions.tsv"
    path.write_text(text)
    return read_decisions(path, study)


def test_what_was_preprocessed_before_it_was_left_out_changes_no_job(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = tmp_path / "results/preprocess/site/sub-02/quality.json"
    record.parent.mkdir(parents=True)
    record.touch()
    decisions = {f"sub-0{i}": {"decision": which} for i, which in enumerate(["include", "exclude", "exclude"])}
    assert decided("site", decisions) == ({"sub-00"}, {"sub-01"})


def test_a_line_is_for_a_session_or_for_all(tmp_path, study):
    text = "site\t01\t\texclude\tmoved\nsite\tsub-02\t\tinclude\tn/a\nixi\tIXI012\t\texclude\t\n"
    known = decide(tmp_path, study, HEADER + text)
    excluded = {"decision": "exclude", "reason": "moved"}
    assert known["site"] == {
        "sub-01_ses-1": excluded,
        "sub-01_ses-2": excluded,
        "sub-02": {"decision": "include", "reason": ""},
    }
    assert [len(table) for table in without_excluded(study, known).values()] == [1, 0]
    assert counted(known) == "By config/exclusions.tsv: 2 of site excluded, 1 of site included, 1 of ixi excluded."
    known = decide(tmp_path, study, "dataset\tsubject\tsession\tdecision\nsite\t01\tses-2\texclude\n")
    assert list(known["site"]) == ["sub-01_ses-2"]


def test_without_the_file_nothing_is_decided(tmp_path, study):
    assert read_decisions(tmp_path / "none.tsv", study) == {"site": {}, "ixi": {}}
    assert counted({"site": {}}) == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("dataset\tsubject\n", "has no column 'decision'"),
        (HEADER.replace("reason", "reasn") + "", "column 'reasn' that is not known; did you mean `reason`?"),
        (HEADER + "site\t02\t\tdrop\t\n", "line 2: the decision 'drop' must be exclude or include"),
        (HEADER + "sit\t02\t\texclude\t\n", "line 2: there are no scans of a dataset 'sit'; did you mean `site`?"),
        (HEADER + "site\t03\t\texclude\t\n", "line 2: the dataset 'site' has no subject '03'"),
        (HEADER + "site\t01\t3\texclude\t\n", "no subject '01' with a session '3'"),
        (HEADER + "site\t01\t\texclude\t\nsite\t01\t1\tinclude\t\n", "line 3: another line decides otherwise"),
    ],
)
def test_mistakes_name_file_and_line(tmp_path, study, text, says):
    with pytest.raises(ManifestError, match=r"exclusions\.tsv") as error:
        decide(tmp_path, study, text)
    assert says in str(error.value)


def test_the_example_is_one(study):
    study = {"ixi": scans(("IXI012", "")), "oasis3": scans(("OAS30001", "d0129"))}
    decided = read_decisions(ROOT / "config/exclusions.example.tsv", study)
    assert [entry["decision"] for part in decided.values() for entry in part.values()] == ["exclude", "include"]
