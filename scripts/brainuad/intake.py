"""What became of all scans: how many are used, why the others are not, and whether one is there twice."""

from pathlib import Path

import pandas as pd

from brainuad.faults import FAULTS, counted
from brainuad.leakage import check_voxels, people
from brainuad.manifest import read_datasets

__all__ = ["intake"]


def intake(quality: list[Path], left_out: list[Path], output: Path, datasets: dict[str, dict], seed: int) -> None:
    """Count what is used of each dataset, and stop if a scan that is used is there twice.

    Args:
        quality: the quality table of each dataset with scans.
        left_out: of datasets that are searched for on disk, ``<dataset>.left_out.tsv``: what was not taken.
        output: TSV to write: ``dataset``, ``code``, ``scans``, ``subjects`` and ``meaning``; the codes are ``found``,
            ``used`` and those of ``faults``. Found is the sum of the others but ``absent``, which are no files.
        datasets: their entries.
        seed: of the split.

    Raises:
        ManifestError: a scan is in two datasets, or in two splits.
    """
    tables = {path.stem: read(path) for path in quality}
    searched = {path.name.split(".")[0]: read(path) for path in left_out}
    known = people(read_datasets(datasets), datasets, seed)
    judged = pd.concat([table.assign(dataset=name) for name, table in tables.items()])
    used = judged[judged["status"].eq("included")][["dataset", "scan", "voxels"]]
    check_voxels(known.merge(used, on=["dataset", "scan"]))
    rows = [row for name, table in tables.items() for row in counts(name, table, searched.get(name))]
    result = pd.DataFrame(rows)
    result.to_csv(output, sep="\t", index=False)
    print(result.to_string(index=False))


def read(path: Path) -> pd.DataFrame:
    """A table of texts."""
    return pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False)


def counts(dataset: str, table: pd.DataFrame, searched: pd.DataFrame | None) -> list[dict]:
    """The rows of a dataset."""
    others = counted([] if searched is None else searched["code"])
    files = sum(number for code, number in others.items() if code != "absent")
    used = table[table["status"].eq("included")]
    row = {"dataset": dataset, "code": "found", "scans": len(table) + files, "subjects": table["subject"].nunique()}
    rows = [{**row, "meaning": "files that could be scans, and subjects in the list of scans"}]
    row = {**row, "code": "used", "scans": len(used), "subjects": used["subject"].nunique()}
    rows.append({**row, "meaning": "scans that models meet"})
    for code, number in (others | counted(table["code"])).items():
        subjects = table["subject"][table["code"] == code].nunique() if code not in others else ""
        rows.append({**row, "code": code, "scans": number, "subjects": subjects, "meaning": FAULTS[code].meaning})
    return rows
