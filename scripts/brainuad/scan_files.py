"""Files and folders that a person names → the scans in them, and a name for each.

Whatever the command ``score`` wrote among them before is not scored again.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from brainuad.bids import SKIPPED
from brainuad.derivatives import is_map

__all__ = ["find", "names_of"]


def find(paths: Sequence[Path], out: Path | None = None) -> list[Path]:
    """The NIfTI files that are named, and those in folders; of a BIDS folder those named ``*_T1w``.

    Of what lies in a folder, maps of an earlier run are no scans, nor is anything in `out`, in hidden folders, or in
    those that BIDS has for what is derived.

    Raises:
        ValueError: there is none.
    """
    found = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(name for name in path.rglob("*.nii*") if is_scan(name, path, out))
            found += [name for name in inside if re.search(r"_T1w\.nii(\.gz)?$", name.name)] or inside
        else:
            found.append(path)
    if not found:
        raise ValueError(f"There is no .nii or .nii.gz file in {', '.join(map(str, paths))}.")
    return list(dict.fromkeys(found))


def is_scan(path: Path, root: Path, out: Path | None) -> bool:
    """Whether a file within the folder `root` is taken for a scan."""
    folder = path.parent.resolve()
    skipped = out is not None and out.resolve() != root.resolve() and root.resolve() in out.resolve().parents
    if skipped and (folder == out.resolve() or out.resolve() in folder.parents):
        return False
    parts = path.relative_to(root).parts
    named = path.name.endswith((".nii", ".nii.gz")) and not is_map(path.name)
    return named and not any(part.startswith(".") or part in SKIPPED for part in parts)


def names_of(paths: Sequence[Path]) -> dict[str, Path]:
    """A name ``sub-<subject>[_ses-<session>]`` for each file; those that share one get their folder's, too.

    Where even that does not tell them apart they are numbered.
    """
    shared = Counter(map(name_of, paths))
    named = {}
    for path in paths:
        name, number = name_of(path, folder=shared[name_of(path)] > 1), 2
        subject, *session = name.split("_")
        while name in named or (shared[name] and name != name_of(path)):
            name, number = "_".join([f"{subject}x{number}", *session]), number + 1
        named[name] = path
    return named


def name_of(path: Path, folder: bool = False) -> str:
    """The name that a file has by itself, or with the name of its folder; nothing else of the path is kept.

    Labels are those of the file's name, else of the nearest folder whose whole name is a label. Without one the subject
    is the file's name.
    """
    *folders, file = Path(os.path.abspath(path)).parts
    stem = re.sub(r"\.nii(\.gz)?$", "", file)
    matches = (re.fullmatch(r"(sub|ses)-([A-Za-z0-9]+)", part) for part in (*folders, *stem.split("_")))
    labels = dict(match.groups() for match in matches if match)  # the last ones stand
    plain = re.sub("[^A-Za-z0-9]", "", (folders[-1] if folder else "") + stem)
    subject = plain if folder else labels.get("sub", plain)
    return f"sub-{subject or 'scan'}" + (f"_ses-{labels['ses']}" if "ses" in labels else "")
