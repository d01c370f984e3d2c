"""Scans found on disk by a path pattern: searched once, by Snakemake's main process, and listed for all jobs.

A pattern is a path with ``{subject}`` and, if it has them, ``{session}``, ``{site}`` and so on; ``*`` is any text. Both
stand for a part of one file's or folder's name and never cross a ``/``. ``configuration`` has checked the pattern.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from brainuad.configuration import PLACEHOLDERS, nearest
from brainuad.manifest import COLUMNS, ManifestError, check_families, exists, listing, read_table, scan_names

__all__ = ["Match", "Summary", "clean", "find", "find_scans", "summaries"]

TOKEN = re.compile(r"\{(\w+)\}|\*")
DESCRIBING = PLACEHOLDERS[2:]  # all but subject and session
PREFIXES = {"subject": "sub-", "session": "ses-"}


class Match(NamedTuple):
    """A file, or a folder without the file that should lie in it, with the labels in its path as they are written."""

    path: str
    labels: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Subject and session, cleaned."""
        return clean("subject", self.labels.get("subject", "")), clean("session", self.labels.get("session", ""))


class Summary(NamedTuple):
    """What became of a dataset's scans, in a sentence, and whether none was left out."""

    text: str
    complete: bool


def clean(name: str, label: str) -> str:
    """Reduce a subject or session to what may name a folder: without ``sub-`` or ``ses-``, letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", label.removeprefix(PREFIXES[name]))


def find_scans(datasets: dict[str, dict]) -> dict[str, Summary]:
    """Search the disk for the scans of all datasets with a pattern, and list them in ``results/sources/``.

    A list is written only if it differs from the one that is there, as what follows is made anew when it changes.

    Returns:
        A summary of each of these datasets.

    Raises:
        ManifestError: nothing was found, or what was found is ambiguous.
    """
    found = {}
    for name, entry in datasets.items():
        if entry["pattern"] is not None:
            table, found[name] = scan_pattern(name, entry)
            write(table, listing(name))
    return found


def write(table: pd.DataFrame, path: Path) -> None:
    """Write a list of scans, whole or not at all, unless it is there already."""
    text = table.to_csv(sep="\t", index=False, lineterminator="\n")
    if path.exists() and path.read_bytes() == text.encode():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_bytes(text.encode())
    part.replace(path)


def scan_pattern(dataset: str, entry: dict) -> tuple[pd.DataFrame, Summary]:
    """The scans that a dataset's pattern matches, as a table with the columns of ``COLUMNS``, and a summary."""
    matches, without = find(entry["pattern"])
    key = f"`datasets.{dataset}.pattern`"
    if not matches:
        raise ManifestError(f"{key} matches no file: {why_nothing(without)}.")
    check_labels(key, matches)
    matches.sort(key=lambda match: match.key)  # stable: of one session, the first pattern and name stays first
    used: dict[tuple[str, str], Match] = {}
    for match in matches:
        used.setdefault(match.key, match)
    table = pd.DataFrame([{**match.labels, "t1w": match.path} for match in used.values()])
    table["subject"], table["session"] = zip(*used, strict=True)
    table = table.fillna("").reindex(columns=list(COLUMNS), fill_value="")
    table["scan"] = scan_names(table)
    further = [match.path for match in matches if used[match.key] is not match]
    notes = [left_out(further, "further files of a session that has one")] if further else []
    complete = {*used, *((subject, "") for subject, _ in used)}  # a folder that ends at the subject has no session
    alone = {match.key: match.path for match in without if match.labels and match.key not in complete}
    notes += [left_out(list(alone.values()), "subjects or sessions without such a file")] if alone else []
    if entry["lesion"] is not None:
        notes += add_lesions(dataset, entry, table)
    if entry["participants"] is not None:
        notes += add_participants(dataset, entry, table)
    check_families(key, table)
    text = (
        f"{dataset}: found {count(len(matches), 'scan')} by its pattern, used {len(table)} of "
        f"{count(table['subject'].nunique(), 'subject')} (the first is {table['scan'][0]}, {table['t1w'][0]})"
    )
    return table, Summary("; ".join([text, *notes]) + ".", not notes)


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def left_out(paths: list[str], reason: str) -> str:
    """Say how many were left out and why."""
    return f"left out {len(paths)} ({reason}; the first is {paths[0]})"


def find(patterns: str | list[str]) -> tuple[list[Match], list[Match]]:
    """Search the disk for the files that match a pattern, or the first of several that does.

    Returns:
        The files, in the order of the patterns and of their names, each once; and the folders that match as far as they
        go, but lack what should follow.
    """
    files: dict[str, Match] = {}
    without: list[Match] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        full = os.path.expanduser(pattern)
        segments = [segment for segment in full.split("/") if segment not in ("", ".")]
        for match in walk("/" if full.startswith("/") else "", segments, {}, without):
            files.setdefault(match.path, match)
    return list(files.values()), without


def walk(folder: str, segments: list[str], labels: dict[str, str], without: list[Match]) -> Iterator[Match]:
    """Yield the files below a folder that match; folders without any are added to ``without``."""
    segment, rest = segments[0], segments[1:]
    if all(token[1] in labels for token in TOKEN.finditer(segment)):
        path = os.path.join(folder, TOKEN.sub(lambda token: labels[token[1]], segment))
        if rest:
            yield from walk(path, rest, labels, without)
        elif os.path.isfile(path):
            yield Match(path, labels)
        else:
            without.append(Match(path, labels))
        return
    expression, matched = expression_of(segment, labels), False
    for entry in entries_of(folder):
        match = expression.fullmatch(entry.name)
        # Names with a leading point are hidden: macOS leaves such a companion beside each file that it copies.
        hidden = entry.name.startswith(".") and not segment.startswith(".")
        if match is None or hidden or not (entry.is_dir() if rest else entry.is_file()):
            continue
        matched, found = True, {**labels, **match.groupdict()}
        if not entry.name.isprintable():
            raise ManifestError(f"{entry.path!r} has a name with characters that cannot be printed: rename it.")
        path = os.path.join(folder, entry.name)
        if rest:
            yield from walk(path, rest, found, without)
        else:
            yield Match(path, found)
    if not matched:
        without.append(Match(folder, labels))


def entries_of(folder: str) -> list[os.DirEntry]:
    """What lies in a folder, by name; nothing if there is no such folder.

    Raises:
        ManifestError: the folder may not be read, so that scans would be missed.
    """
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except PermissionError:
        raise ManifestError(
            f"The folder {folder} may not be read: ask for permission, or narrow the pattern."
        ) from None


def expression_of(segment: str, labels: dict[str, str]) -> re.Pattern:
    """The regular expression of one part of a pattern; a label that is known must be met again."""
    parts, position, seen = [], 0, set()
    for token in TOKEN.finditer(segment):
        name = token[1]
        parts.append(re.escape(segment[position : token.start()]))
        if name is None:
            parts.append(".*")
        elif name in labels:
            parts.append(re.escape(labels[name]))
        else:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>.+?)")
            seen.add(name)
        position = token.end()
    return re.compile("".join([*parts, re.escape(segment[position:])]), re.DOTALL)


def why_nothing(without: list[Match]) -> str:
    """Say how far a search came that found nothing."""
    first = without[0]
    if first.labels:
        folders = count(len({match.key for match in without if match.labels}), "subject or session")
        return f"it meets {folders} as far as folders go, but no file such as {first.path}"
    if not os.path.exists(first.path or "."):
        return f"{first.path} does not exist"
    return f"nothing in {first.path or 'the folder of the study'} has such a name"


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


def add_participants(dataset: str, entry: dict, table: pd.DataFrame) -> list[str]:
    """Fill the columns that describe subjects from a table of participants; what a path says stands.

    Raises:
        ManifestError: a column that is named does not exist, or no subject is in the table.
    """
    key, path = f"`datasets.{dataset}.participants`", entry["participants"]
    people = read_table(Path(path), "table of participants")
    columns = participant_columns(dataset, entry["columns"], people)
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


def summaries(scans: dict[str, pd.DataFrame], datasets: dict[str, dict], found: dict[str, Summary]) -> list[Summary]:
    """What was found, used and left out of each dataset that has scans of its own; looks at the disk.

    Args:
        scans: the scans by dataset.
        datasets: their entries.
        found: what ``find_scans`` says of those with a pattern.
    """
    said = []
    for name, table in scans.items():
        if name in found:
            said.append(found[name])
            continue
        subjects = count(table["subject"].nunique(), "subject")
        if datasets[name]["phantom"] is not None:
            said.append(Summary(f"{name}: {count(len(table), 'simulated scan')} of {subjects}.", True))
            continue
        missing = [path for path in table["t1w"] if not exists(path)]
        text = (
            f"{name}: found {count(len(table), 'scan')} of {subjects} in {datasets[name]['manifest']}, "
            f"used {len(table) - len(missing)}"
        )
        notes = [left_out(missing, "files that do not exist")] if missing else []
        said.append(Summary("; ".join([text, *notes]) + ".", not notes))
    return said
