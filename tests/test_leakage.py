import pandas as pd
import pytest

from brainuad.leakage import check_people, check_voxels, people
from brainuad.manifest import ManifestError, scan_names

HALVES = {"train": 0.5, "validation": 0.0, "test": 0.5}
TEST = {"train": 0.0, "validation": 0.0, "test": 1.0}


def scans(*subjects, **columns):
    table = pd.DataFrame({"subject": subjects, "session": "", "family": "", "split": ""} | columns)
    return table.assign(scan=scan_names(table))


def entry(split=TEST, people=None):
    return {"split": split, "people": people}


def refusal(tables, entries, seed=1):
    with pytest.raises(ManifestError) as error:
        check_people(people(tables, entries, seed))
    assert "\n" not in str(error.value)
    return str(error.value)


LABELS = [f"{i:02d}" for i in range(20)]


def test_two_datasets_share_no_label_unless_they_say_so():
    tables = {"a": scans("01", "02", "03"), "b": scans("02", "03", "04")}
    said = refusal(tables, {"a": entry(), "b": entry()})
    assert "The datasets 'a' and 'b' share the subjects '02', '03'." in said
    assert "`datasets.b.people`" in said
    check_people(people(tables, {"a": entry(), "b": entry(people="others")}, 1))
    check_people(people(tables, {"a": entry(people="same"), "b": entry(people="same")}, 1))


def test_a_dataset_that_was_trained_on_is_not_tested_on():
    tables = {"trained": scans(*LABELS), "retest": scans(*LABELS)}
    entries = {"trained": entry(HALVES, "hcp"), "retest": entry(TEST, "hcp")}
    said = refusal(tables, entries)
    assert said.startswith("The subjects ")
    assert "of dataset 'trained' is in 'train', " in said
    assert "of 'retest' in 'test'" in said
    assert "exclusions.tsv" in said
    entries["retest"] = entry(HALVES, "hcp")
    check_people(people(tables, entries, 1))


def test_the_sessions_of_a_subject_are_on_one_side():
    table = scans("01", "01", "02", session=["1", "2", ""], split=["train", "test", ""])
    said = refusal({"a": table}, {"a": entry(HALVES)})
    assert "The subject '01' falls into two splits: sub-01_ses-1 of dataset 'a' is in 'train', sub-01_ses-2" in said
    check_people(people({"a": table.assign(split="train")}, {"a": entry(HALVES)}, 1))


def test_a_family_is_on_one_side_across_datasets_and_given_splits():
    table = scans("01", "02", family="F1", split=["train", "test"])
    assert "The family 'F1' falls into two splits" in refusal({"a": table}, {"a": entry(HALVES)})
    twins = {"a": scans("A01", family="F1", split="train"), "b": scans("B01", family="F1")}
    said = refusal(twins, {"a": entry(HALVES), "b": entry()})
    assert (
        "The family 'F1' falls into two splits: sub-A01 of dataset 'a' is in 'train', sub-B01 of 'b' in 'test'" in said
    )
    check_people(people(twins, {"a": entry(HALVES), "b": entry(people="others")}, 1))
    check_people(people({"b": twins["b"]}, {"b": entry()}, 1))


def test_many_labels_are_not_all_named():
    tables = {"a": scans(*LABELS), "b": scans(*LABELS)}
    assert "'00', '01', '02', '03', '04' and 15 more" in refusal(tables, {"a": entry(), "b": entry()})


def used(*rows):
    return pd.DataFrame(rows, columns=["dataset", "subject", "people", "split", "voxels"]).assign(
        scan=lambda table: "sub-" + table["subject"]
    )


def test_a_scan_under_two_names_is_found_by_its_voxels():
    fine = [("a", "01", "", "train", "x"), ("a", "02", "", "test", "y"), ("b", "03", "", "test", "")]
    check_voxels(used(*fine, ("b", "04", "", "test", "")))
    with pytest.raises(ManifestError) as error:
        check_voxels(used(*fine, ("b", "99", "other", "test", "x")))
    assert str(error.value).startswith(
        "1 scan is there twice, voxel for voxel: sub-01 of 'a' (train) = sub-99 of 'b' (test). Leave one of each out"
    )


def test_declared_people_may_share_a_scan_on_one_side():
    one = ("a", "01", "hcp", "test", "x")
    check_voxels(used(one, ("b", "01", "hcp", "test", "x")))
    for other in (("b", "01", "hcp", "train", "x"), ("b", "02", "hcp", "test", "x"), ("a", "02", "hcp", "train", "x")):
        with pytest.raises(ManifestError, match="there twice"):
            check_voxels(used(one, other))
