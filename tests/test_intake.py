import pandas as pd
import pytest

from brainuad.intake import intake
from brainuad.manifest import ManifestError


@pytest.fixture
def study(tmp_path):
    """A function that counts two datasets, of which one was searched for; the arguments are the voxels of its scans."""

    def run(*voxels):
        entries, quality = {}, []
        for name, digests, codes in (("a", ["x", "y", ""], ["", "", "missing"]), ("b", voxels, [""] * len(voxels))):
            labels = [f"{name}{i}" for i in range(len(digests))]
            rows = "".join(f"{label}\t{label}.nii\n" for label in labels)
            (tmp_path / f"{name}.manifest.tsv").write_text(f"subject\tt1w\n{rows}")
            split = {"train": 0.0, "validation": 0.0, "test": 1.0}
            entries[name] = {"manifest": str(tmp_path / f"{name}.manifest.tsv"), "phantom": None, "from": None}
            entries[name] |= {"people": None, "split": split}
            table = pd.DataFrame({"scan": [f"sub-{label}" for label in labels], "subject": labels, "code": codes})
            table["status"] = table["code"].map(lambda code: "excluded" if code else "included")
            quality.append(tmp_path / f"{name}.tsv")
            table.assign(voxels=digests).to_csv(quality[-1], sep="\t", index=False)
        entries["s"] = {"manifest": None, "phantom": None, "from": "a"}
        left = tmp_path / "b.left_out.tsv"
        left.write_text("code\tpath\nabsent\t/data/1\nfurther\t/data/2\nfurther\t/data/3\n")
        intake(quality, [left], tmp_path / "intake.tsv", entries, 1)
        table = pd.read_csv(tmp_path / "intake.tsv", sep="\t")
        return {(row.dataset, row.code): row.scans for row in table.itertuples()}

    return run


def test_found_is_used_and_left_out(study):
    assert study("u", "v") == {
        ("a", "found"): 3,
        ("a", "used"): 2,
        ("a", "missing"): 1,
        ("b", "found"): 4,
        ("b", "used"): 2,
        ("b", "further"): 2,
        ("b", "absent"): 1,
    }


def test_a_scan_of_two_datasets_stops_the_run(study, tmp_path):
    with pytest.raises(ManifestError, match=r"sub-a1 of 'a' \(test\) = sub-b0 of 'b' \(test\)"):
        study("y", "z")
    assert not (tmp_path / "intake.tsv").exists()
