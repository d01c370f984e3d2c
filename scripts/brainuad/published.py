"""Numbers that a paper printed, as a table to hold ours against."""

from collections.abc import Collection
from pathlib import Path

import pandas as pd

from brainuad.catalogue import PROTOCOLS

__all__ = ["check_published", "printed_numbers", "read_published"]

PUBLISHED_COLUMNS = ("model", "dataset", "metric", "value", "note")


def printed_numbers() -> list[tuple[str, str, str]]:
    """Metric, region and pooling of the numbers that a published cell may be held against."""
    return [number for group in PROTOCOLS["paper"].values() for number in group]


def read_published(path: Path) -> pd.DataFrame:
    """The published cells.

    Raises:
        ValueError: there is no such file, it lacks a column, names a metric that is not compared, or has a cell twice.
    """
    try:
        table = pd.read_csv(path, sep="\t", dtype={name: str for name in PUBLISHED_COLUMNS if name != "value"})
    except (OSError, ValueError) as error:
        raise ValueError(f"comparison.published: {path} cannot be read ({error}): name a TSV, or null.") from None
    missing = [name for name in PUBLISHED_COLUMNS if name not in table]
    if missing:
        raise ValueError(f"comparison.published: {path} lacks the column {missing[0]!r}: it has {', '.join(table)}.")
    known = [number[0] for number in printed_numbers()]
    for metric in table["metric"]:
        if metric not in known:
            raise ValueError(f"comparison.published: {path} names the metric {metric!r}: known are {', '.join(known)}.")
    if not pd.api.types.is_numeric_dtype(table["value"]):
        raise ValueError(f"comparison.published: {path} has a `value` that is no number.")
    cells = table[["model", "dataset", "metric"]]
    for row in cells[cells.duplicated()].itertuples(index=False):
        cell = ", ".join(map(str, row))
        raise ValueError(f"comparison.published: {path} has the cell {cell} twice: keep one line of it.")
    return table.fillna({"note": ""})


def check_published(path: Path, models: Collection[str], datasets: Collection[str]) -> str:
    """What of the published cells this study does not have, in a sentence; empty if it has all.

    Raises:
        ValueError: as :func:`read_published`, or if the study has none of the cells.
    """
    table = read_published(path)
    known = table["model"].isin(models) & table["dataset"].isin(datasets)
    other = [*dict.fromkeys(name for name in table["model"] if name not in models)]
    other += [*dict.fromkeys(name for name in table["dataset"] if name not in datasets)]
    if not known.any():
        raise ValueError(
            f"comparison.published: no cell of {path} is of a model and dataset of this study, which has not "
            f"{', '.join(other)}: set it to null, or name them as the study does."
        )
    return f"{path}: this study has not {', '.join(other)}; the cells stay without ours." if other else ""
