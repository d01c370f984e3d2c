"""Path patterns: which files on disk match, with the labels in their paths.

A pattern is a path with ``{subject}`` and, if it has them, ``{session}``, ``{site}`` and so on; ``*`` is any text. Both
stand for a part of one file's or folder's name and never cross a ``/``. ``configuration`` has checked the pattern.
"""

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from brainuad.manifest import ManifestError

__all__ = ["Match", "clean", "find", "why_nothing"]

TOKEN = re.compile(r"\{(\w+)\}|\*")
PREFIXES = {"subject": "sub-", "session": "ses-"}


class Match(NamedTuple):
    """A file, or a folder without the file that should lie in it, with the labels in its path as they are written."""

    path: str
    labels: dict[str, str]

    @property
    def key(self) -> tuple[str, str]:
        """Subject and session, cleaned."""
        return clean("subject", self.labels.get("subject", "")), clean("session", self.labels.get("session", ""))


def clean(name: str, label: str) -> str:
    """Reduce a subject or session to what may name a folder: without ``sub-`` or ``ses-``, letters and digits only."""
    return re.sub(r"[^A-Za-z0-9]", "", label.removeprefix(PREFIXES[name]))


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
            parts.append(".*?")
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
        folders = len({match.key for match in without if match.labels})
        return f"{folders} subjects or sessions have a folder, but none a file such as {first.path}"
    if not os.path.exists(first.path or "."):
        return f"{first.path} does not exist"
    return f"nothing in {first.path or 'the folder of the study'} has such a name"
