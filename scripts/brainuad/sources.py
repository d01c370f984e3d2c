"""The scans of datasets that are found on disk: searched once, by Snakemake's main process, and listed for all jobs.

What of several files of one session counts, lesion masks, and what is known of the subjects.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from brainuad import bids
from brainuad.configuration import PLACEHOLDERS, nearest
from brainuad.faults import FAULTS
from brainuad.manifest import COLUMNS, ManifestError, check_families, listing, read_table, scan_names, stamp
from brainuad.patterns import Match, clean, find, why_nothing

__all__ = ["Summary", "find_scans", "list_files", "summaries"]

DESCRIBING = PLACEHOLDERS[2:]  # all but subject and session


class Summary(NamedTuple):
    """What became of a dataset's scans."""

    found: str
    used: int
    subjects: str
    notes: list[str]  # what was left out, and why

    @property
    def text(self) -> str:
        """All of it in a sentence."""
        return "; ".join([f"{self.found}, used {self.used}{self.subjects}", *self.notes]) + "."


def find_scans(datasets: dict[str, dict]) -> dict[str, Summary]:
    """Search the disk for the scans of all datasets with a pattern or BIDS, and list them in ``results/sources/``.

    A list is written only if it differs from the one that is there, as what follows is made anew when it changes.

    Returns:
        A summary of each of these datasets.

    Raises:
        ManifestError: nothing was found, or what was found is ambiguous.
    """
    found = {}
    for name, entry in datasets.items():
        if entry["pattern"] is not None or entry["bids"] is not None:
            table, left, found[name] = scan(name, entry)
            write(text_of(table), listing(name))
            write(text_of(left), listing(name).with_suffix(".left_out.tsv"))
    return found


def list_files(jobs: dict[str, dict[str, pd.DataFrame]], datasets: dict[str, dict]) -> None:
    """List the raw files of each preprocessing job in ``results/sources/``: size, time and whether they may be read.

    So a job has one input in place of hundreds, each of which takes Snakemake a tenth of a millisecond. Still it is
    made anew when one of its files is replaced, comes, goes or becomes readable: its list is another then.

    Args:
        jobs: the tables of scans by dataset and chunk.
        datasets: their entries; those that are simulated have no files yet.
    """
    for name, chunks in jobs.items():
        for chunk, table in chunks.items() if datasets[name]["phantom"] is None else ():
            paths = [path for column in ("t1w", "lesion") for path in table[column] if path]
            found = [(path, *stamp(path), os.access(path, os.R_OK)) for path in paths if stamp(path)]
            rows = ["\t".join(map(str, row)) for row in found]
            write("\n".join(["path\tbytes\tmodified_ns\treadable", *rows, ""]), listing(name, chunk))


def text_of(table: pd.DataFrame) -> str:
    """A table as TSV."""
    return table.to_csv(sep="\t", index=False, lineterminator="\n")


def write(text: str, path: Path) -> None:
    """Write a list, whole or not at all, unless it is there already.

    Raises:
        ManifestError: the name of a file is not UTF-8, which no table could hold.
    """
    try:
        content = text.encode()
    except UnicodeEncodeError:
        name = next(cell for cell in re.split(r"[\t\n]", text) if cell != cell.encode(errors="replace").decode())
        raise ManifestError(f"The name of the file {name!a} is not UTF-8: rename it.") from None
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def scan(dataset: str, entry: dict) -> tuple[pd.DataFrame, pd.DataFrame, Summary]:
    """The scans that are found of a dataset, with the columns of ``COLUMNS``; what is not taken; a summary."""
    source = "pattern" if entry["pattern"] is not None else "bids"
    key = f"`datasets.{dataset}.{source}`"
    if source == "pattern":
        matches, without, others = *find(entry["pattern"]), {}
        if not matches:
            raise ManifestError(f"{key} matches no file: {why_nothing(without)}.")
    else:
        matches, without, others = bids.find(key, entry["bids"])
    check_labels(key, matches)
    check_persons(key, matches)
    matches.sort(key=lambda match: match.key)  # stable: of one session, the first stays first
    used: dict[tuple[str, str], Match] = {}
    for match in matches:
        used.setdefault(match.key, match)
    table = table_of(used)
    others["further"] = [match.path for match in matches if used[match.key] is not match]
    complete = {*used, *((subject, "") for subject, _ in used)}  # a folder that ends at the subject has no session
    alone = {match.key: match.path for match in reversed(without) if match.labels and match.key not in complete}
    others["absent"] = list(reversed(alone.values()))
    left = pd.DataFrame([(code, path) for code in others for path in others[code]], columns=["code", "path"])
    notes = [left_out(paths, FAULTS[code].meaning) for code, paths in others.items() if paths]
    if entry["lesion"] is not None:
        notes += add_lesions(dataset, entry, table)
    participants = entry["participants"] or (bids.participants(entry["bids"]) if source == "bids" else None)
    if participants is not None:
        notes += add_participants(dataset, entry["columns"], participants, table)
    check_families(key, table)
    where = {"pattern": "by its pattern", "bids": "in its BIDS dataset"}[source]
    text = f"{dataset}: found {count(len(table) + left['code'].ne('absent').sum(), 'scan')} {where}"
    first = f"(the first is {table['scan'][0]}, {table['t1w'][0]})"
    subjects = f", of {count(table['subject'].nunique(), 'subject')} {first}"
    return table, left, Summary(text, len(table), subjects, notes)


def table_of(used: dict[tuple[str, str], Match]) -> pd.DataFrame:
    """The table of scans by subject and session, with what their paths say about them."""
    table = pd.DataFrame([{**match.labels, "t1w": match.path} for match in used.values()])
    table["subject"], table["session"] = zip(*used, strict=True)
    table = table.fillna("").reindex(columns=list(COLUMNS), fill_value="")
    table["scan"] = scan_names(table)
    return table


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def left_out(paths: list[str], reason: str) -> str:
    """Say how many were left out and why."""
    return f"left out {len(paths)} ({reason}; the first is {paths[0]})"


def check_labels(key: str, matches: list[Match]) -> None:
    """Refuse labels of which nothing is left once they are clean, and different ones that become the same."""
    for names in (("subject",), ("subject", "session")):
        seen: dict[tuple[str, ...], Match] = {}
        for match in matches:
            for name in names:
                label = match.labels.get(name, "1")
                if ".." in label or not clean(name, label):
                    raise ManifestError(
                        f"{key}: the {name} {label!r} of {match.path} cannot be used as a label: rename it to letters "
                        "and digits."
                    )
            other = seen.setdefault(match.key[: len(names)], match)
            mine, theirs = ([one.labels.get(name) for name in names] for one in (match, other))
            if mine != theirs:
                raise ManifestError(
                    f"{key}: {other.path} and {match.path} have different labels, which both become "
                    f"{'_'.join(match.key[: len(names)])!r} as a {names[-1]} (letters and digits only): rename one."
                )


def check_persons(key: str, matches: list[Match]) -> None:
    """Refuse files of one subject and session at two sites, say: a number that each site gives anew is no label."""
    seen: dict[tuple[str, str], Match] = {}
    for match in matches:
        other = seen.setdefault(match.key, match)
        for name in DESCRIBING:
            mine, theirs = (one.labels.get(name) for one in (match, other))
            if mine is not None and theirs is not None and mine != theirs:
                raise ManifestError(
                    f"{key}: {other.path} and {match.path} are of the same subject and session, but of {name} "
                    f"{theirs!r} and {mine!r}: if they are two persons, their folders need labels of their own."
                )


def add_lesions(dataset: str, entry: dict, table: pd.DataFrame) -> list[str]:
    """Fill the column ``lesion`` by subject and session; returns what there is to say.

    Raises:
        ManifestError: a scan has two masks, a file is scan and mask, or no mask belongs to a scan.
    """
    key = f"`datasets.{dataset}.lesion`"
    masks: dict[tuple[str, str], str] = {}
    matches, without = find(entry["lesion"])
    if not matches:
        raise ManifestError(f"{key} matches no file: {why_nothing(without)}.")
    check_labels(key, matches)
    for match in matches:
        if match.key in masks:
            raise ManifestError(f"{key} matches two masks of one scan, {masks[match.key]} and {match.path}.")
        masks[match.key] = match.path
    shared = sorted(set(masks.values()) & set(table["t1w"]))
    if shared:
        raise ManifestError(f"{key}: {shared[0]} is matched both as a scan and as a lesion mask.")
    keys = list(zip(table["subject"], table["session"], strict=True))
    table["lesion"] = [masks.get(scan, "") for scan in keys]
    lonely = [path for scan, path in masks.items() if scan not in set(keys)]
    if len(lonely) == len(masks):
        raise ManifestError(f"{key}: no mask belongs to a scan that is used; the first is {lonely[0]}.")
    return [left_out(lonely, "lesion masks without a scan")] if lonely else []


def add_participants(dataset: str, chosen: dict, path: str, table: pd.DataFrame) -> list[str]:
    """Fill the columns that describe subjects from a table of participants; what a path says stands.

    Raises:
        ManifestError: a column that is named does not exist, or no subject is in the table.
    """
    key = f"`datasets.{dataset}.participants`"
    people = read_table(Path(path), "table of participants")
    columns = participant_columns(dataset, chosen, people)
    listed = people[columns.pop("subject")].map(lambda label: clean("subject", label))
    units, listed = join_keys(table["subject"], listed)
    if not units.isin(set(listed)).any():
        first = f", in the table {listed.iloc[0]!r}" if len(listed) else ""
        raise ManifestError(
            f"{key}: none of the {table['subject'].nunique()} subjects is in {path}; the first on disk is "
            f"{table['subject'].iloc[0]!r}{first}."
        )
    torn = set()
    for name, column in columns.items():
        values = people[column][people[column] != ""].groupby(listed).unique()
        torn |= set(values.index[values.map(len) > 1])
        single = values[values.map(len) == 1].map(lambda found: found[0])
        table[name] = table[name].where(table[name] != "", units.map(single).fillna("").astype(str))
    missing = sorted(set(table["subject"][~units.isin(set(listed))]))
    notes = [f"{count(len(missing), 'subject')} not in {path} (the first is {missing[0]})"] if missing else []
    torn &= set(units)
    if torn:
        notes.append(f"{count(len(torn), 'subject')} of several rows that differ in {path}: what differs is left empty")
    return notes


def participant_columns(dataset: str, chosen: dict[str, str | None], people: pd.DataFrame) -> dict[str, str]:
    """Which column of a table of participants holds what: as named, else those of the same name.

    Raises:
        ManifestError: a column that is named, or the one of the subjects, does not exist.
    """
    columns = {}
    for name in ("subject", *DESCRIBING):
        column = chosen[name] or name
        if name == "subject" and chosen[name] is None and name not in people:
            column = "participant_id"  # the name that BIDS gives it
        if column in people:
            columns[name] = column
        elif chosen[name] or name == "subject":
            raise ManifestError(
                f"`datasets.{dataset}.columns.{name}`: the table of participants has no column {column!r}"
                f"{nearest(column, people.columns[:20])}."
            )
    return columns


def join_keys(subjects: pd.Series, listed: pd.Series) -> tuple[pd.Series, pd.Series]:
    """What subjects found and subjects listed are joined by: their labels.

    Where no label is shared and the table only numbers its subjects (IXI's has 2 for IXI002), it is the number at the
    label's end.

    Raises:
        ManifestError: two subjects end in the same number.
    """
    if subjects.isin(set(listed)).any() or not listed.str.fullmatch(r"[0-9]+").all():
        return subjects, listed
    numbers = subjects.str.extract(r"0*([0-9]+)$")[0].fillna("")
    shared = pd.DataFrame({"subject": subjects, "number": numbers})[numbers != ""].drop_duplicates()
    twice = shared[shared["number"].duplicated(keep=False)]
    if len(twice):
        raise ManifestError(
            f"The subjects {twice['subject'].iloc[0]} and {twice['subject'].iloc[1]} end in the same number, by which "
            "the table of participants cannot tell them apart: give it a column with the whole labels."
        )
    return numbers, listed.str.replace(r"^0+(?=[0-9])", "", regex=True)


def summaries(
    scans: dict[str, pd.DataFrame],
    kept: dict[str, pd.DataFrame],
    datasets: dict[str, dict],
    found: dict[str, Summary],
) -> list[Summary]:
    """What was found, used and left out of each dataset that has scans of its own; looks at the disk.

    Args:
        scans: the scans by dataset.
        kept: those of them that nobody decided to leave out.
        datasets: their entries.
        found: what ``find_scans`` says of those that it searched for.
    """
    said = []
    for name, table in scans.items():
        summary = found.get(name) or listed(name, table, datasets[name])
        out = table[~table["scan"].isin(kept[name]["scan"])]
        if len(out):
            absent = sum(stamp(path) is None for path in out["t1w"]) if datasets[name]["manifest"] else 0
            notes = [*summary.notes, left_out(list(out["scan"]), FAULTS["excluded"].meaning)]
            summary = summary._replace(used=summary.used - len(out) + absent, notes=notes)
        said.append(summary)
    return said


def listed(dataset: str, table: pd.DataFrame, entry: dict) -> Summary:
    """The summary of a dataset that is not searched for: simulated, or with a manifest."""
    subjects = count(table["subject"].nunique(), "subject")
    if entry["phantom"] is not None:
        return Summary(f"{dataset}: {count(len(table), 'simulated scan')} of {subjects}", len(table), "", [])
    missing = [path for path in table["t1w"] if stamp(path) is None]
    text = f"{dataset}: found {count(len(table), 'scan')} of {subjects} in {entry['manifest']}"
    notes = [left_out(missing, "files that do not exist")] if missing else []
    return Summary(text, len(table) - len(missing), "", notes)
