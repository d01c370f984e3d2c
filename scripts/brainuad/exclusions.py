"""What a person decided about scans: ``config/exclusions.tsv``, which overrides what the checks say, both ways."""

from pathlib import Path

import pandas as pd

from brainuad.configuration import nearest
from brainuad.manifest import ManifestError, read_table
from brainuad.patterns import clean

__all__ = ["FILE", "counted", "read_decisions", "without_excluded"]

FILE = Path("config/exclusions.tsv")  # in the folder of the study
COLUMNS = ("dataset", "subject", "session", "decision", "reason")
DECISIONS = ("exclude", "include")


def read_decisions(path: Path, scans: dict[str, pd.DataFrame]) -> dict[str, dict[str, dict]]:
    """Read the decisions about scans; none if there is no such file.

    Args:
        path: TSV with the columns of ``COLUMNS``; without a session a row is for all sessions of the subject.
        scans: the scans of all datasets.

    Returns:
        ``decision`` and ``reason`` by dataset and scan.

    Raises:
        ManifestError: the table is malformed, names what is not there, or decides twice.
    """
    decided: dict[str, dict[str, dict]] = {name: {} for name in scans}
    if not path.is_file():
        return decided
    for number, row in rows_of(path).iterrows():
        line = f"{path}, line {number + 2}"
        for scan in named(line, row, scans):
            entry = {"decision": row["decision"], "reason": " ".join(row["reason"].split())}
            if decided[row["dataset"]].setdefault(scan, entry)["decision"] != row["decision"]:
                raise ManifestError(f"{line}: another line decides otherwise about {scan} of {row['dataset']!r}.")
    return decided


def rows_of(path: Path) -> pd.DataFrame:
    """The rows of the table, checked one by one."""
    table = read_table(path, "table of decisions")
    for name in COLUMNS:
        if name not in table and name not in ("session", "reason"):
            raise ManifestError(f"{path} has no column {name!r}: its first line must be {' '.join(COLUMNS)}, by tabs.")
    for name in set(table) - set(COLUMNS):
        raise ManifestError(f"{path} has a column {name!r} that is not known{nearest(name, COLUMNS)}.")
    table = table.reindex(columns=list(COLUMNS), fill_value="")
    for number, decision in table["decision"][~table["decision"].isin(DECISIONS)].items():
        raise ManifestError(f"{path}, line {number + 2}: the decision {decision!r} must be exclude or include.")
    return table


def named(line: str, row: pd.Series, scans: dict[str, pd.DataFrame]) -> list[str]:
    """The scans that a row is about."""
    if row["dataset"] not in scans:
        raise ManifestError(
            f"{line}: there are no scans of a dataset {row['dataset']!r}{nearest(row['dataset'], scans)}."
        )
    table = scans[row["dataset"]]
    mine = table[table["subject"] == clean("subject", row["subject"])]
    if row["session"]:
        mine = mine[mine["session"] == clean("session", row["session"])]
    if mine.empty:
        session = f" with a session {row['session']!r}" if row["session"] else ""
        raise ManifestError(f"{line}: the dataset {row['dataset']!r} has no subject {row['subject']!r}{session}.")
    return list(mine["scan"])


def counted(decided: dict[str, dict[str, dict]]) -> str:
    """How many scans of each dataset a person decided about, in a sentence; empty for none."""
    said = []
    for name, entries in decided.items():
        decisions = [entry["decision"] for entry in entries.values()]
        said += [f"{decisions.count(which)} of {name} {which}d" for which in DECISIONS if which in decisions]
    return f"By {FILE}: {', '.join(said)}." if said else ""


def decided(dataset: str, decisions: dict[str, dict]) -> tuple[set[str], set[str]]:
    """The scans to take in spite of doubts, and those not even to read.

    One that is left out after it was preprocessed is not among the latter: its record stands, and no job changes.
    """
    by = {which: {scan for scan, entry in decisions.items() if entry["decision"] == which} for which in DECISIONS}
    done = {scan for scan in by["exclude"] if Path(f"results/preprocess/{dataset}/{scan}/quality.json").is_file()}
    return by["include"], by["exclude"] - done


def without_excluded(scans: dict[str, pd.DataFrame], decided: dict[str, dict[str, dict]]) -> dict[str, pd.DataFrame]:
    """The scans that nobody decided to leave out."""
    kept = {}
    for name, table in scans.items():
        out = [scan for scan, entry in decided[name].items() if entry["decision"] == "exclude"]
        kept[name] = table[~table["scan"].isin(out)]
    return kept
