"""The scans of a BIDS dataset: its T1 volumes, chosen by session, run and entities, and its table of participants.

ancpbids reads the folder; it needs nothing else and is imported where it is used, as jobs have no use for it.
"""

import json
import os
from collections import defaultdict
from pathlib import Path

from brainuad.faults import FAULTS
from brainuad.manifest import ManifestError
from brainuad.patterns import Match

__all__ = ["find", "participants"]

# Entities by which files of one session may be chosen: acquisition, contrast agent, reconstruction, and of derivatives
# the space, resolution and description.
ENTITIES = ("acq", "ce", "rec", "echo", "inv", "part", "space", "res", "desc")
# Nothing in these is a raw scan; in a folder of DataLad hidden ones hold more files than all others.
SKIPPED = ["derivatives", "sourcedata", "code", ".*", "*/.*"]


def find(key: str, settings: dict) -> tuple[list[Match], list[Match], dict[str, list[str]]]:
    """Find the scans of a BIDS dataset.

    Args:
        key: of the configuration, for messages.
        settings: its ``root``, ``suffix``, ``sessions``, ``runs`` and ``entities``.

    Returns:
        The scans, of each session the lowest run first and then by name; the folders in which some are expected;
        and by code the files that are left out.

    Raises:
        ManifestError: the root is no BIDS dataset, or no file is as asked for.
    """
    root = os.path.normpath(os.path.expanduser(settings["root"]))
    chosen, others = [], defaultdict(list)
    for path, entities in files_of(key, root, settings["suffix"]):
        if not agrees(os.path.relpath(path, root), entities):
            others["misnamed"].append(path)
        elif not is_asked_for(entities, settings):
            others["not_asked_for"].append(path)
        elif not os.path.isfile(path):
            others["not_fetched"].append(path)
        else:
            chosen.append((run_of(entities), path, entities))
    if not chosen:
        reasons = "; ".join(
            f"{len(paths)} {FAULTS[code].meaning}, such as {paths[0]}" for code, paths in others.items()
        )
        raise ManifestError(
            f"{key}: {root} has no {settings['suffix']} image as asked for ({reasons or 'none at all'})."
        )
    matches = [Match(path, labels_of(entities)) for _, path, entities in sorted(chosen, key=lambda one: one[:2])]
    without = [Match(str(folder), labels) for folder, labels in folders_of(Path(root), settings["sessions"])]
    return matches, without, dict(others)


def participants(settings: dict) -> str | None:
    """The path of the dataset's own table of participants, if it has one."""
    path = Path(settings["root"]).expanduser() / "participants.tsv"
    return str(path) if path.is_file() else None


def files_of(key: str, root: str, suffix: str) -> list[tuple[str, dict[str, str]]]:
    """Path and entities of all NIfTI files of a suffix, in folders of subjects, by path."""
    try:
        from ancpbids import DatasetOptions, load_dataset
    except ImportError:
        raise ManifestError(f"{key} is read by ancpbids, which is not installed: run `make install` again.") from None
    if not os.path.isdir(root):
        raise ManifestError(f"{key}: the folder {root} does not exist.")
    check_description(key, root)
    options = DatasetOptions()
    options.ignore = SKIPPED
    options.ignore_pickle_file = True  # a pickle that came with the data could run anything
    found = []
    try:
        dataset = load_dataset(root, options)
    except OSError as error:
        raise ManifestError(f"{key}: {error.filename} cannot be read ({error.strerror}).") from None
    for file in dataset.query(suffix=suffix, extension=[".nii", ".nii.gz"], return_type="object"):
        path = file.get_absolute_path()
        entities = {name: str(value) for name, value in file.get_entities().items()}
        if os.path.relpath(path, root).startswith("sub-"):
            found.append((path, entities))
    return sorted(found, key=lambda one: one[0])


def folders_of(root: Path, sessions: list[str] | None) -> list[tuple[Path, dict[str, str]]]:
    """The folders in which a scan is expected, with their labels: of the sessions, or of a subject without sessions."""
    found = []
    for subject in sorted(folder for folder in root.glob("sub-*") if folder.is_dir()):
        labels = {"subject": subject.name.removeprefix("sub-")}
        inner = sorted(folder for folder in subject.glob("ses-*") if folder.is_dir())
        named = [(folder, folder.name.removeprefix("ses-")) for folder in inner]
        found += [
            (folder, {**labels, "session": name}) for folder, name in named if sessions is None or name in sessions
        ]
        found += [] if inner else [(subject, labels)]
    return found


def agrees(path: str, entities: dict[str, str]) -> bool:
    """Whether the name of a file, relative to the root, is of the subject and session that its folders are of."""
    folders = [part for part in path.split("/")[:-1] if part.startswith(("sub-", "ses-"))]
    return folders == [f"{name}-{entities[name]}" for name in ("sub", "ses") if name in entities]


def check_description(key: str, root: str) -> None:
    """Refuse a root whose description cannot be read; it may be missing."""
    path = Path(root) / "dataset_description.json"
    try:
        if path.is_file() and not isinstance(json.loads(path.read_text(encoding="utf-8-sig")), dict):
            raise ValueError("not a JSON object")
    except ValueError as error:
        raise ManifestError(f"{key}: {path} is no description of a BIDS dataset ({error}).") from None


def is_asked_for(entities: dict[str, str], settings: dict) -> bool:
    """Whether a file is of a session, of a run and of the entities that were chosen; empty stands for having none."""
    if settings["sessions"] is not None and entities.get("ses", "") not in settings["sessions"]:
        return False
    if settings["runs"] is not None and run_of(entities) not in settings["runs"]:
        return False
    chosen = {name: settings["entities"][name] for name in ENTITIES}
    return all(entities.get(name, "") == value for name, value in chosen.items() if value is not None)


def run_of(entities: dict[str, str]) -> int:
    """The number of a run; 1 for a file that does not say."""
    return int(entities["run"]) if entities.get("run", "").isdecimal() else 1


def labels_of(entities: dict[str, str]) -> dict[str, str]:
    """Subject and, if it has one, session of a file."""
    names = {"subject": "sub", "session": "ses"}
    return {name: entities[short] for name, short in names.items() if short in entities}
