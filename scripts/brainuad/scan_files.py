"""Files and folders that a person names → the scans in them, and a name for each.

Whatever the command ``score`` wrote among them before is not scored again.
"""

import re
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
    """A name ``sub-<subject>[_ses-<session>]`` for each file: of labels in its path, else its name; numbered if needed.

    Nothing else of the path is kept.
    """
    named = {}
    for path in paths:
        stem = re.sub(r"\.nii(\.gz)?$", "", path.name)
        labels = dict(re.findall(r"(?:^|[_/])(sub|ses)-([A-Za-z0-9]+)", path.as_posix()))  # the last ones stand
        subject = labels.get("sub") or re.sub("[^A-Za-z0-9]", "", stem) or "scan"
        session = f"_ses-{labels['ses']}" if "ses" in labels else ""
        name, number = f"sub-{subject}{session}", 2
        while name in named:
            name, number = f"sub-{subject}x{number}{session}", number + 1
        named[name] = path
    return named
