"""Whether the groups of a dataset can be held against each other: what the main process asks before any job runs."""

import pandas as pd

from brainuad.manifest import ManifestError, splits
from brainuad.patterns import clean

__all__ = ["ALONE", "check_all_groups", "check_groups", "file_label"]

ALONE = "one subject alone has no spread to hold a difference against"


def file_label(group: str) -> str:
    """The letters and digits of a group's name, by which its files are named."""
    return clean("subject", group)


def check_all_groups(scans: dict[str, pd.DataFrame], datasets: dict[str, dict], seed: int) -> None:
    """Check the test subjects of each dataset whose entry has ``groups``.

    Args:
        scans: the scans of each dataset that has some of its own, without those that are excluded.
        datasets: their entries.
        seed: of the split.

    Raises:
        ManifestError: see :func:`check_groups`.
    """
    for name, table in scans.items():
        if datasets[name]["groups"] is not None:
            tested = [split == "test" for split in splits(table, datasets[name]["split"], seed)]
            check_groups(name, datasets[name]["groups"], table[tested])


def check_groups(dataset: str, settings: dict, table: pd.DataFrame) -> None:
    """Refuse groups that cannot be compared.

    Args:
        dataset: its name.
        settings: ``reference``, a group.
        table: its test scans, columns ``subject`` and ``group``.

    Raises:
        ManifestError: in one sentence.
    """
    key, names = f"`datasets.{dataset}.groups`", sorted(set(table["group"]) - {""})
    reference = settings["reference"]
    if not names:
        raise ManifestError(f"{key}: no test subject of {dataset} has a group; fill the column 'group' of its table.")
    if reference not in names:
        raise ManifestError(
            f"{key}: the reference is {reference!r}, but the groups of the test subjects are {', '.join(names)}."
        )
    if len(names) < 2:
        raise ManifestError(
            f"{key}: {names[0]!r} is the only group of its test subjects; there is nothing to hold it against."
        )
    labels: dict[str, str] = {}
    for name in names:
        other = labels.setdefault(file_label(name), name)
        if other != name or not file_label(name):
            raise ManifestError(
                f"{key}: the group {name!r} needs letters or digits of its own, by which its files are named"
                + (f"; {other!r} has the same." if other != name else ".")
            )
    if table["subject"][table["group"] == reference].nunique() < 2:
        raise ManifestError(
            f"{key}: the reference {reference!r} has one test subject, and {ALONE}: raise "
            f"`datasets.{dataset}.split.test`, or choose another reference."
        )
