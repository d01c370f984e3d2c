"""The report's comparison: both protocols as tables and pictures, and all other numbers."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from brainuad import report_figures
from brainuad.catalogue import CATALOGUE
from brainuad.page import (
    MINUS,
    MISSING,
    Cell,
    Details,
    Heading,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
    embedded,
    listed,
    number,
)
from brainuad.report_figures import PANELS, Panel
from brainuad.report_study import Study, title_of

__all__ = ["PROTOCOLS", "above", "columns_of", "comparison"]

# Files of the tables, and what each counts.
PROTOCOLS = {
    "strict": (
        "The strict protocol",
        "Only pixels inside the brain mask count, subject by subject, so that neither the background nor one large "
        "anomaly decides; thresholds come from healthy validation subjects.",
    ),
    "table2": (
        "The paper's protocol",
        "The layout of the paper's Table 2: the whole frame counts, and the pixels of all test images are pooled, so "
        "that large anomalies weigh more.",
    ),
}
ALL_NUMBERS = (
    "Mean over the seeds. Beneath it: its 95 % interval over the test subjects, or why there is none. "
    "docs/metrics.md says what each number is."
)


@dataclass(frozen=True)
class Column:
    """A number of each model.

    Attributes:
        dataset: that it is of.
        metric: its name in the catalogue.
        place: its region and pooling.
        floor: label of the floor that it is held against; empty for a value.
        rows: columns ``model``, ``value``, ``low``, ``high``, ``reason``; bounds are NaN where there is no interval.
    """

    dataset: str
    metric: str
    place: str
    floor: str
    rows: pd.DataFrame

    @property
    def title(self) -> str:
        """Metric, region and pooling, and the floor."""
        return f"{title_of(self.metric)} ({self.place})" + (f" {MINUS} {self.floor}" if self.gap else "")

    @property
    def gap(self) -> bool:
        """Whether it is a difference to a floor."""
        return bool(self.floor)

    @property
    def question(self) -> str:
        """What a gap answers."""
        return f"Above {self.floor} in {title_of(self.metric)}?"

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return CATALOGUE[self.metric].direction == "lower is better"


def comparison(study: Study) -> Section:
    """The tables of both protocols, each with its picture, and all other numbers."""
    blocks = []
    for name, (title, explanation) in PROTOCOLS.items():
        if study.table(name) is not None:
            columns = columns_of(study, name)
            blocks += [Heading(title), Paragraph(explanation), forest(study, columns, title), numbers(study, columns)]
    return Section("comparison", "Comparison", blocks + everything(study))


def columns_of(study: Study, name: str) -> list[Column]:
    """The columns of a table in numbers, as :func:`brainuad.tables.numbers` writes it; gaps first: they decide."""
    keys = ["dataset", "metric", "region", "pooling", "against"]
    found = []
    for (dataset, metric, region, pooling, against), rows in study.table(name).groupby(keys, sort=False):
        floor = study.look[against].label if against else ""
        rows = rows[["model", "value", "low", "high", "reason"]].reset_index(drop=True)
        found.append(Column(dataset, metric, f"{region}, {pooling}", floor, rows))
    return sorted(found, key=lambda column: not column.gap)


def everything(study: Study) -> list[Heading | Details]:
    """All numbers of each dataset, a row a number and a column a model."""
    table = study.table("summary")
    if table is None:
        return []
    names, blocks = [name for name in study.look if name in set(table["model"])], [Heading("All numbers")]
    for dataset, part in table.groupby("dataset", sort=False):
        rows = []
        for (metric, region, pooling), group in part.groupby(["metric", "region", "pooling"], sort=False):
            found = group.set_index("model")
            cells = [number_or_reason(found.loc[name]) if name in found.index else number(None) for name in names]
            rows.append(Row([Cell(title_of(metric)), Cell(f"{region}, {pooling}"), *cells]))
        titles = ["Metric", "Region, pooling", *(study.name(name).text for name in names)]
        blocks.append(Details(dataset, [Table(titles, rows, ALL_NUMBERS, sortable=False)]))
    return blocks


def number_or_reason(row: pd.Series) -> Cell:
    """A number with its interval, or with why there is none."""
    cell = number(row["value"], row["low"], row["high"])
    return cell if cell.note else replace(cell, note=row["reason"])


def above(study: Study, column: Column) -> list[str]:
    """The trained models whose difference to the floor has an interval on the better side of 0."""
    rows = column.rows[[not study.look[model].floor for model in column.rows["model"]]]
    return list(rows.loc[rows["high"] < 0 if column.lower else rows["low"] > 0, "model"])


def best(study: Study, column: Column) -> list[str]:
    """The trained models with the best value, to the digits shown; none where one alone has a value or none is due."""
    if not CATALOGUE[column.metric].merit:
        return []
    rows = column.rows[[not study.look[model].floor for model in column.rows["model"]]].dropna(subset=["value"])
    values = rows["value"].round(3)
    wanted = values.min() if column.lower else values.max()
    return list(rows.loc[values == wanted, "model"]) if len(rows) > 1 else []


def numbers(study: Study, columns: list[Column]) -> Table:
    """A row a model: values with their intervals, and its differences to the floors."""
    strong = [above(study, column) if column.gap else best(study, column) for column in columns]
    rows = []
    for index, model in enumerate(columns[0].rows["model"]):
        cells = [study.name(model)]
        for column, bold in zip(columns, strong, strict=True):
            row, floor = column.rows.iloc[index], study.look[model].floor
            cell = gap_cell(row, column.lower, floor) if column.gap else number_or_reason(row)
            cells.append(replace(cell, strong=model in bold))
        rows.append(Row(cells, study.look[model].floor))
    titles = ["Model", *(column.question if column.gap else column.title for column in columns)]
    return Table(titles, rows, note(columns), [("", 1), *spans([column.dataset for column in columns])])


def gap_cell(row: pd.Series, lower: bool, floor: bool) -> Cell:
    """A difference to a floor, with what its interval says, or with why there is none."""
    value, low, high = row["value"], row["low"], row["high"]
    if np.isnan(value) or floor:
        return Cell(MISSING, np.nan, "" if floor else row["reason"])
    text = f"{value:+.3f}".replace("-", MINUS)
    if np.isnan(low):
        return Cell(text, value, row["reason"])
    better, worse = (high < 0, low > 0) if lower else (low > 0, high < 0)
    said = "above" if better else "below" if worse else "not told apart"
    return Cell(said, value, f"{text} ({number(value, low, high).note})")


def note(columns: list[Column]) -> str:
    """What a reader must know to read the numbers."""
    lower = sorted({title_of(column.metric) for column in columns if column.lower and not column.gap})
    text = f"Higher is better{', except in ' + listed(lower) if lower else ''}. "
    text += "Bold: the best trained model; false positives are no merit. "
    if any(column.rows["low"].notna().any() for column in columns):
        text += "Beneath a value: its 95 % interval over the test subjects. "
    text += "\N{DAGGER} Floor: a method that trains no weights."
    if any(column.gap for column in columns):
        text += (
            " The first columns hold each model against a floor, on the same draws of subjects: above it (bold) is a "
            "model whose whole interval of the difference lies on the better side of 0."
        )
    return text


def spans(names: list[str]) -> list[tuple[str, int]]:
    """Neighbours of one name: the name and how many."""
    return [(name, len(list(group))) for name, group in itertools.groupby(names)]


def ranked(column: Column) -> bool:
    """Whether more of it is better."""
    return CATALOGUE[column.metric].merit and not column.lower


def forest(study: Study, columns: list[Column], title: str) -> Picture:
    """The table as a picture."""
    panels = []
    for column in columns[:PANELS]:
        floors = column.rows.loc[[study.look[model].floor for model in column.rows["model"]], "value"]
        line = 0.0 if column.gap else floors.max() if ranked(column) else math.nan
        panels.append(Panel(f"{column.dataset} {column.title}", column.rows, line, column.gap and column.lower))
    caption = (
        "A dot a model, with its 95 % interval where there is one. Grey: what is no better than the best floor "
        f"(dashed); a title with {MINUS} is the difference to the floor that it names."
    )
    return Picture(embedded(report_figures.forest(panels, study.look)), caption, f"{title}, as a picture")
