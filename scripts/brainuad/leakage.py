"""Whether anybody is on two sides: a subject, a family or a scan that is both learnt from and tested on.

Labels are compared as Snakemake starts, before any job; voxels when all scans are preprocessed, before any training.
"""

import pandas as pd

from brainuad.manifest import ManifestError, splits

__all__ = ["check_people", "check_voxels", "people"]

SHOWN = 5  # labels that a message names


def people(scans: dict[str, pd.DataFrame], datasets: dict[str, dict], seed: int) -> pd.DataFrame:
    """The scans of all datasets in one table: ``dataset``, ``scan``, ``subject``, ``family``, ``people``, ``split``.

    Labels mean the same person, or family, where ``people`` is the same.
    """
    columns = ["dataset", "scan", "subject", "family"]
    tables = [
        table.assign(dataset=name)[columns].assign(
            people=datasets[name]["people"] or "", split=splits(table, datasets[name]["split"], seed)
        )
        for name, table in scans.items()
    ]
    return pd.concat(tables, ignore_index=True)


def check_people(table: pd.DataFrame) -> None:
    """Refuse a subject of two datasets that do not say so, and a subject or a family in two splits.

    Args:
        table: what :func:`people` gives, without scans that are left out by decision.

    Raises:
        ManifestError: with the labels and what to do.
    """
    check_undeclared(table[table["people"] == ""])
    check_sides(table, "subject")
    check_sides(table[table["family"] != ""], "family")


def check_undeclared(table: pd.DataFrame) -> None:
    """Refuse a label of two datasets of which neither says whose labels these are."""
    pairs = table[["subject", "dataset"]].drop_duplicates()
    shared = pairs[pairs["subject"].duplicated(keep=False)]
    if len(shared):
        one, two = shared["dataset"][shared["subject"] == shared["subject"].iloc[0]].iloc[:2]
        both = shared["subject"][shared["dataset"].isin([one, two])]
        common = list(both[both.duplicated()])
        raise ManifestError(
            f"The datasets {one!r} and {two!r} share {some(common, 'subject')}. If these are the same people, give "
            f"`datasets.{one}.people` and `datasets.{two}.people` the same name, and each is kept on one side; if they "
            f"are not, give `datasets.{two}.people` a name of its own."
        )


def check_sides(table: pd.DataFrame, unit: str) -> None:
    """Refuse a subject or a family (``unit``) whose scans fall into two splits."""
    sides = table[["people", unit, "split"]].drop_duplicates()
    torn = sides[sides.duplicated(["people", unit])].drop_duplicates(["people", unit])
    if not len(torn):
        return
    labels = list(torn[unit])
    rows = table[(table["people"] == torn["people"].iloc[0]) & (table[unit] == labels[0])]
    first, second = list(rows.drop_duplicates("split").itertuples())[:2]
    falls = "falls" if len(labels) == 1 else "fall"
    others = f" If these are other people, give `datasets.{second.dataset}.people` a name of its own."
    raise ManifestError(
        f"T{some(labels, unit)[1:]} {falls} into two splits: {first.scan} of dataset {first.dataset!r} is in "
        f"{first.split!r}, {second.scan} of {second.dataset!r} in {second.split!r}. Give both the same `split` "
        "and `groups`, or the same value in a column 'split', or leave one out by `exclude` in config/exclusions.tsv."
        + others
        * (first.dataset != second.dataset)
    )


def check_voxels(table: pd.DataFrame) -> None:
    """Refuse a scan that is there twice: under two names or in two datasets, or in two splits.

    Args:
        table: what :func:`people` gives, of the scans that are used, with their digests in ``voxels``.

    Raises:
        ManifestError: with the scans and what to do.
    """
    known = table[table["voxels"] != ""].assign(person=table["people"] + "/" + table["subject"])
    kinds = ["dataset", "person", "people", "split"]
    counts = known.groupby("voxels")[kinds].nunique().assign(declared=known.groupby("voxels")["people"].min() != "")
    elsewhere = (counts["dataset"] > 1) & ((counts["person"] > 1) | ~counts["declared"])
    shared = counts.index[elsewhere | (counts["split"] > 1)]
    if not len(shared):
        return
    pairs = [pair for _, pair in known[known["voxels"].isin(shared)].groupby("voxels", sort=False)]
    texts = [" = ".join(f"{row.scan} of {row.dataset!r} ({row.split})" for row in pair.itertuples()) for pair in pairs]
    said = "; ".join(texts[:SHOWN]) + (f"; and {len(texts) - SHOWN} more" if len(texts) > SHOWN else "")
    raise ManifestError(
        f"{len(texts)} {'scan is' if len(texts) == 1 else 'scans are'} there twice, voxel for voxel: {said}. Leave one "
        "of each out by `exclude` in config/exclusions.tsv, or remove it from its dataset."
    )


def some(labels: list[str], noun: str) -> str:
    """The first labels, and how many more there are."""
    noun = noun if len(labels) == 1 else {"family": "families"}.get(noun, f"{noun}s")
    more = f" and {len(labels) - SHOWN} more" if len(labels) > SHOWN else ""
    return f"the {noun} {', '.join(map(repr, labels[:SHOWN]))}{more}"
