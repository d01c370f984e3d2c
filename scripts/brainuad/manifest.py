"""Datasets as tables of scans, and the split of their subjects.

Every dataset, whatever its source, becomes a table with one row a scan and the columns of ``COLUMNS``. A scan is named
``sub-<subject>[_ses-<session>]``. The subject is the unit of every split.

Imports pandas and nothing heavier: each job of a cluster parses the workflow anew.
"""

import functools
import hashlib
import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from brainuad.spreadsheet import ManifestError, is_csv, read_table

__all__ = [
    "COLUMNS",
    "LABEL",
    "ManifestError",
    "check_splits",
    "chunks",
    "listing",
    "read_datasets",
    "read_manifest",
    "read_scans",
    "read_table",
    "scan_names",
    "split_of",
    "splits",
    "stamp",
]

REQUIRED = ("subject", "t1w")
OPTIONAL = ("session", "lesion", "group", "age", "sex", "site", "family", "split")
COLUMNS = ("scan", *REQUIRED, *OPTIONAL)
SPLITS = ("train", "validation", "test")
LABEL = re.compile(r"[A-Za-z0-9]+")  # what BIDS allows in a subject or session label


def read_scans(dataset: str, entry: dict) -> pd.DataFrame:
    """Read the scans of a dataset that has scans of its own (``manifest``, ``bids``, ``pattern`` or ``phantom``).

    The disk is not searched: what was found by BIDS or a pattern is read from the list that ``sources`` wrote of it.

    Args:
        dataset: its name in the configuration.
        entry: its validated configuration.

    Returns:
        One row a scan, the columns of ``COLUMNS``, missing values as empty strings; relative paths of a manifest are
        resolved against the manifest's folder.

    Raises:
        ManifestError: the manifest is missing, malformed or empty; or no list was written.
    """
    if entry["phantom"] is not None:
        table = phantom_scans(dataset, entry["phantom"])
    elif entry["manifest"] is None:
        table = read_listing(dataset)
    else:
        table = read_manifest(Path(entry["manifest"]))
    # Some spreadsheets write decimals with a comma.
    table["age"] = table["age"].str.replace(r"^(\d+),(\d+)$", r"\1.\2", regex=True)
    return patients_tested(table, entry["groups"]["reference"]) if entry.get("groups") else table


def patients_tested(table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """A copy in which no model learns from patients, nor takes them for healthy.

    Who is of another group than the reference in any session falls, with the family, into the split ``test``, where
    the column ``split`` says nothing else.
    """
    if not table["group"].eq(reference).any():
        return table  # a wrong name, which the check of the groups tells
    units = table["family"].where(table["family"] != "", table["subject"])
    ill = units.isin(units[table["group"].ne(reference)])
    return table.assign(split=table["split"].mask(ill & table["split"].eq(""), "test"))


def listing(dataset: str, chunk: str = "") -> Path:
    """Where, in the study's folder, the scans that were found are listed, or the raw files of one job."""
    return Path(f"results/sources/{dataset}/chunk-{chunk}.tsv" if chunk else f"results/sources/{dataset}.tsv")


def read_listing(dataset: str) -> pd.DataFrame:
    """Read the scans that Snakemake's main process found: jobs do not search the disk again."""
    try:
        table = pd.read_csv(listing(dataset), sep="\t", dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise ManifestError(f"{listing(dataset)} does not exist: start Snakemake itself, which writes it.") from None
    return table[list(COLUMNS)]


def phantom_scans(dataset: str, phantom: dict) -> pd.DataFrame:
    """List the scans of a simulated dataset. Labels carry the dataset's name: no two datasets share a subject.

    Ages and sexes are drawn from the labels and change nothing of the anatomy: they stand where those of people would.
    Patients, if any are asked for, come as evenly as their share lets them: one more subject makes none a patient.
    """
    subjects, patients = phantom["subjects"], phantom.get("patients")
    prefix = re.sub(r"[^A-Za-z0-9]", "", dataset)
    width = max(3, len(str(subjects)))
    table = pd.DataFrame({"subject": [f"{prefix}{i + 1:0{width}d}" for i in range(subjects)]})
    table["scan"] = "sub-" + table["subject"]
    table["t1w"] = [f"results/phantom/{dataset}/{scan}/t1w.nii.gz" for scan in table["scan"]]
    table["site"] = dataset
    drawn = [hashlib.sha256(scan.encode()).digest() for scan in table["scan"]]
    table["age"] = [str(20 + digest[0] % 60) for digest in drawn]
    table["sex"] = ["FM"[digest[1] % 2] for digest in drawn]
    if patients:
        due = [math.floor(patients["share"] * i + 1e-9) for i in range(subjects + 1)]
        table["group"] = ["patient" if due[i + 1] > due[i] else "control" for i in range(subjects)]
    return table.reindex(columns=list(COLUMNS), fill_value="")


def read_manifest(path: Path) -> pd.DataFrame:
    """Read and check a TSV or CSV with the columns ``subject`` and ``t1w`` and, if it has them, those of ``OPTIONAL``.

    Raises:
        ManifestError: with one sentence that names the file, the row, and what to do.
    """
    table = read_table(path)
    check_columns(path, table)
    if table.empty:
        raise ManifestError(f"{path} lists no scan: add one row for each T1 volume.")
    check_labels(path, table)
    table = table.reindex(columns=[*REQUIRED, *OPTIONAL], fill_value="")
    table["scan"] = scan_names(table)
    check_unique(path, table)
    check_files(path, table)
    check_families(path, table)
    check_split_names(path, table)
    for column in ("t1w", "lesion"):
        table[column] = resolve(path, table[column])
    return table[list(COLUMNS)]


def scan_names(table: pd.DataFrame) -> pd.Series:
    """Name each scan ``sub-<subject>[_ses-<session>]``."""
    return "sub-" + table["subject"] + table["session"].where(table["session"] == "", "_ses-" + table["session"])


def check_columns(path: Path, table: pd.DataFrame) -> None:
    """Refuse a manifest whose first line is not a header with known names."""
    missing = [name for name in REQUIRED if name not in table.columns]
    if missing:
        raise ManifestError(
            f"{path} has no column {missing[0]!r}: its first line must be a header with at least 'subject' and 't1w', "
            f"separated by a {'comma' if is_csv(path) else 'tab'}; found {list(table.columns)[:5]}."
        )
    unknown = [name for name in table.columns if name not in (*REQUIRED, *OPTIONAL)]
    if unknown:
        known = ", ".join((*REQUIRED, *OPTIONAL))
        raise ManifestError(f"{path} has a column {unknown[0]!r} that is not known; known columns are {known}.")


def check_labels(path: Path, table: pd.DataFrame) -> None:
    """Refuse labels that cannot be part of a file name: they name the folders of the results."""
    for column in ("subject", "session"):
        if column not in table:
            continue
        fine = table[column].str.fullmatch(LABEL) | ((table[column] == "") & (column == "session"))
        for row, label in table[column][~fine].items():
            raise ManifestError(
                f"{path}, line {row + 2}: the {column} {label!r} must be letters and digits only (01b for 01_b)."
            )


def check_unique(path: Path, table: pd.DataFrame) -> None:
    """Refuse two rows for one scan."""
    repeated = table["scan"][table["scan"].duplicated()]
    if len(repeated):
        lines = [str(i + 2) for i in table.index[table["scan"] == repeated.iloc[0]]]
        raise ManifestError(
            f"{path}, lines {' and '.join(lines)}: {repeated.iloc[0]} is listed more than once; "
            "give each scan its own 'session' or delete the extra row."
        )


def check_files(path: Path, table: pd.DataFrame) -> None:
    """Refuse one scan under two names: it could be trained on and tested on."""
    files = table["t1w"][table["t1w"] != ""]
    repeated = files[files.duplicated()]
    if len(repeated):
        lines = [str(i + 2) for i in files.index[files == repeated.iloc[0]]]
        raise ManifestError(
            f"{path}, lines {' and '.join(lines)}: {repeated.iloc[0]} is the scan of both; list it once."
        )


def check_families(path: Path | str, table: pd.DataFrame) -> None:
    """Refuse a subject of two families, or with a family in some of its rows only: its sessions could be split."""
    families = table.groupby("subject")["family"].nunique()
    torn = families[families > 1]
    if len(torn):
        given = sorted(set(table["family"][table["subject"] == torn.index[0]]))
        raise ManifestError(
            f"{path}: the sessions of subject {torn.index[0]!r} have different families "
            f"({', '.join(family or 'none' for family in given)}); give all of them the same."
        )


def check_split_names(path: Path, table: pd.DataFrame) -> None:
    """Refuse a split of another name; an empty one is decided by the hash."""
    for row, name in table["split"][~table["split"].isin([*SPLITS, ""])].items():
        raise ManifestError(
            f"{path}, line {row + 2}: the split {name!r} is none of {', '.join(SPLITS)}; an empty one is drawn."
        )


def resolve(manifest: Path, names: pd.Series) -> list[str]:
    """Resolve the paths of a column against the manifest's folder, ``~`` as a user's home.

    Plain text, as ``Path`` takes five times as long.
    """
    folder, paths = str(manifest.parent), []
    for row, name in names.items():
        if name == "" and names.name == "t1w":
            raise ManifestError(f"{manifest}, line {row + 2}: the path in column 't1w' is empty.")
        if ".." in name and ".." in Path(name).parts:
            raise ManifestError(
                f"{manifest}, line {row + 2}: {name} leads out of the manifest's folder; "
                "write an absolute path if it is meant."
            )
        name = os.path.expanduser(name)
        paths.append(os.path.normpath(os.path.join(folder, name)) if name else "")
    return paths


def split_of(subject: str, fractions: dict[str, float], seed: int) -> str:
    """Assign a subject to ``train``, ``validation`` or ``test``.

    A hash of seed and subject alone decides: adding, removing or reordering subjects moves no other, and a subject with
    several sessions, or in several datasets of equal fractions, stays on one side. ``splits`` keeps families together.

    Args:
        fractions: shares of the three splits, summing to 1.
    """
    digest = hashlib.sha256(f"{seed}:{subject}".encode()).digest()
    position = int.from_bytes(digest[:8], "big") / 2**64
    if position < fractions["test"]:
        return "test"
    return "validation" if position < fractions["test"] + fractions["validation"] else "train"


def splits(table: pd.DataFrame, fractions: dict[str, float], seed: int) -> list[str]:
    """The split of each row of a table of scans: as its column ``split`` says, or drawn for the subject.

    A family, where one is given, is drawn as a whole.
    """
    return list(drawn(table, fractions, seed))


def drawn(table: pd.DataFrame, fractions: dict[str, float], seed: int) -> Iterator[str]:
    """The same one by one, for who needs a few."""
    units = table["subject"]
    if "family" in table:
        units = table["family"].where(table["family"] != "", units)
    given = table["split"] if "split" in table else [""] * len(table)
    for said, unit in zip(given, units, strict=True):
        yield said or split_of(unit, fractions, seed)


def chunks(scans: pd.DataFrame, scans_per_job: int) -> dict[str, pd.DataFrame]:
    """Cut a table of scans into consecutive jobs, keyed ``0001``, ``0002``, …"""
    scans = scans.astype(object)  # read cell by cell, which the text type of pandas makes slow
    starts = range(0, len(scans), scans_per_job)
    return {f"{i:04d}": scans.iloc[first : first + scans_per_job] for i, first in enumerate(starts, start=1)}


def read_datasets(datasets: dict[str, dict]) -> dict[str, pd.DataFrame]:
    """Read the scans of all datasets that have scans of their own.

    Raises:
        ManifestError: a manifest is missing (all that are missing are named at once) or malformed.
    """
    own = {name: entry for name, entry in datasets.items() if entry["from"] is None}
    missing = [
        f"  {name}: {entry['manifest']}"
        for name, entry in own.items()
        if entry["manifest"] is not None and not Path(entry["manifest"]).is_file()
    ]
    if missing:
        raise ManifestError(
            "These datasets have no manifest yet:\n" + "\n".join(missing) + "\n"
            "A manifest is a TSV or CSV with the columns subject and t1w, one row a scan; config/README.md shows one, "
            "says how to do without, and where the scans of the paper are asked for. To see everything run without any "
            "data, on simulated scans: "
            "make demo"
        )
    return {name: read_scans(name, entry) for name, entry in own.items()}


@functools.cache
def stamp(path: str) -> tuple[int, int] | None:
    """Size in bytes and time in ns of a raw scan, None if there is none; each is looked for once, as a file server
    takes its time for 50,000."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns


def check_splits(scans: dict[str, pd.DataFrame], datasets: dict[str, dict], training: list[str], seed: int) -> None:
    """Refuse a training dataset without training subjects and any dataset without test subjects.

    Raises:
        ManifestError: with the dataset and what to change.
    """
    needed = [(name, "train", "`training.datasets`") for name in training]
    needed += [(name, "test", f"`datasets.{name}`") for name in scans]
    needed += [(entry["from"], "test", f"`datasets.{name}.from`") for name, entry in datasets.items() if entry["from"]]
    for name, split, key in needed:
        entry = datasets[name]
        if split not in drawn(scans[name], entry["split"], seed):
            raise ManifestError(
                f"{key}: of dataset {name!r} none of the {scans[name]['subject'].nunique()} subjects falls into the "
                f"split {split!r}: raise `datasets.{name}.split.{split}` or add subjects."
            )
