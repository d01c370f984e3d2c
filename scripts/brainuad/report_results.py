"""The report's sections about the numbers: tables, the published ones, ranks and tests, responses, curves."""

import itertools
import math
from collections.abc import Iterator
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
from brainuad.report_figures import Panel
from brainuad.report_study import Study, read, title_of

__all__ = ["PROTOCOLS", "above", "columns_of", "comparison", "curves", "published", "ranks", "responses"]

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
SUFFIXES = ("sd", "low", "high")
LOWER = {metric.title for metric in CATALOGUE.values() if metric.direction == "lower is better"}
FEW = 10  # subjects of whom a paired test says little
FIRST = 12  # panels of a picture; what is beyond stands in the tables


@dataclass(frozen=True)
class Column:
    """A number of each model.

    Attributes:
        dataset: that it is of.
        title: of the metric; in a gap followed by a minus sign and the floor that it is held against.
        rows: columns ``model``, ``value``, ``low``, ``high``; bounds are NaN where there is no interval.
    """

    dataset: str
    title: str
    rows: pd.DataFrame

    @property
    def metric(self) -> str:
        """Title of the metric."""
        return self.title.split(f" {MINUS} ")[0]

    @property
    def floor(self) -> str:
        """Label of the floor that it is held against; empty unless it is a gap."""
        return self.title.partition(f" {MINUS} ")[2]

    @property
    def gap(self) -> bool:
        """Whether it is a difference to a floor."""
        return f" {MINUS} " in self.title

    @property
    def question(self) -> str:
        """What a gap answers."""
        return f"Above {self.floor} in {self.metric}?"

    @property
    def lower(self) -> bool:
        """Whether lower is better."""
        return self.metric in LOWER


def comparison(study: Study) -> Section:
    """The tables of both protocols, each with its picture."""
    blocks = []
    for name, (title, explanation) in PROTOCOLS.items():
        if study.table(name) is not None:
            columns = columns_of(study, name)
            blocks += [Heading(title), Paragraph(explanation), forest(study, columns, title), numbers(study, columns)]
    return Section("comparison", "Comparison", blocks)


def columns_of(study: Study, name: str) -> list[Column]:
    """The columns of a table in numbers, as :func:`brainuad.tables.numbers` writes it; gaps first: they decide."""
    table, known = study.table(name), sorted(study.settings["datasets"], key=len, reverse=True)
    empty, found = pd.Series(np.nan, index=table.index), []
    for column in table.columns[3:]:
        dataset = next((name for name in known if column.startswith(f"{name} ")), None)
        if dataset and column.rsplit(" ", 1)[-1] not in SUFFIXES:
            parts = {"value": table[column], **{end: table.get(f"{column} {end}", empty) for end in ("low", "high")}}
            rows = table[["model"]].assign(**parts).astype(dict.fromkeys(parts, float))
            found.append(Column(dataset, column.removeprefix(f"{dataset} "), rows))
    return sorted(found, key=lambda column: not column.gap)


def above(study: Study, column: Column) -> list[str]:
    """The trained models whose difference to the floor has an interval on the better side of 0."""
    rows = column.rows[[not study.look[model].floor for model in column.rows["model"]]]
    return list(rows.loc[rows["high"] < 0 if column.lower else rows["low"] > 0, "model"])


def best(study: Study, column: Column) -> list[str]:
    """The trained models with the best value, to the digits shown; none where only one has a value."""
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
            _, value, low, high = column.rows.iloc[index]
            floor = study.look[model].floor
            cell = gap_cell(value, low, high, column.lower, floor) if column.gap else number(value, low, high)
            cells.append(replace(cell, strong=model in bold))
        rows.append(Row(cells, study.look[model].floor))
    titles = ["Model", *(column.question if column.gap else column.title for column in columns)]
    return Table(titles, rows, note(columns), [("", 1), *spans([column.dataset for column in columns])])


def gap_cell(value: float, low: float, high: float, lower: bool, floor: bool) -> Cell:
    """A difference to a floor, with what its interval says."""
    if np.isnan(value) or floor:
        return Cell(MISSING, np.nan)
    text = f"{value:+.3f}".replace("-", MINUS)
    if np.isnan(low):
        return Cell(text, value)
    better, worse = (high < 0, low > 0) if lower else (low > 0, high < 0)
    said = "above" if better else "below" if worse else "not told apart"
    return Cell(said, value, f"{text} ({number(value, low, high).note})")


def note(columns: list[Column]) -> str:
    """What a reader must know to read the numbers."""
    lower = sorted({column.title for column in columns if column.lower and not column.gap})
    text = f"Higher is better{', except in ' + listed(lower) if lower else ''}. Bold: the best trained model. "
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


def forest(study: Study, columns: list[Column], title: str) -> Picture:
    """The table as a picture."""
    panels = []
    for column in columns[:FIRST]:
        floors = column.rows.loc[[study.look[model].floor for model in column.rows["model"]], "value"]
        line = 0.0 if column.gap else math.nan if column.lower else floors.max()
        panels.append(Panel(f"{column.dataset} {column.title}", column.rows, line, column.gap and column.lower))
    caption = (
        "A dot a model, with its 95 % interval where there is one. Grey: what is no better than the best floor "
        f"(dashed); a title with {MINUS} is the difference to the floor that it names."
    )
    return Picture(embedded(report_figures.forest(panels, study.look)), caption, f"{title}, as a picture")


def published(study: Study) -> Section:
    """The numbers that the paper printed beside ours."""
    table, blocks = study.table("paper_difference"), []
    if table is not None:
        table = table[table["model"].isin(study.look)]
        table = table.assign(title=table["dataset"] + " " + table["metric"].map(title_of))
        caption = (
            "Hollow: published. Filled: ours, with its 95 % interval. Where the protocols differ, so may the "
            "numbers: the last column of the table says how."
        )
        picture = embedded(report_figures.differences(table, study.look))
        blocks = [Picture(picture, caption, "Published and measured"), difference_table(study, table)]
    return Section("published", "Beside the published numbers", blocks)


def difference_table(study: Study, table: pd.DataFrame) -> Table:
    """A row a published number."""
    rows = []
    for row in table.itertuples():
        inside = row.low <= row.published <= row.high
        sign = Cell("\N{EN DASH}" if pd.isna(row.low) else "yes" if inside else "no")
        cells = [study.name(row.model), Cell(row.dataset), Cell(title_of(row.metric)), number(row.published)]
        cells += [number(row.ours, row.low, row.high), number(row.difference), sign, Cell(row.note)]
        rows.append(Row(cells))
    titles = ["Model", "Dataset", "Metric", "Published", "Ours", "Difference", "In our interval?", "Differs in"]
    return Table(titles, rows, "Each published number beside ours; the difference is ours minus published.")


def ranks(study: Study) -> Section:
    """Ranks with their intervals, and the paired tests."""
    blocks, table = [], study.table("ranks")
    if table is not None:
        table = table.rename(columns={"rank": "value"})
        panels = [Panel(title, rows) for title, rows in by_number(table)][:FIRST]
        caption = (
            "Mean rank over subjects with its 95 % interval; 1, on the left, is best. Two models may differ though "
            "their intervals overlap, since both are of the same subjects: the paired tests say whether they do."
        )
        blocks.append(Picture(embedded(report_figures.forest(panels, study.look, ranks=True)), caption, "Ranks"))
    tests = study.table("significance")
    if tests is not None:
        tables = [Details(title, [test_table(study, rows)]) for title, rows in by_number(tests)]
        blocks += [Paragraph(TESTS), *tables]
    return Section("ranks", "Ranks and paired tests", blocks)


TESTS = (
    "Each pair of models on the same subjects: mean difference with its 95 % interval, and the p-value of a paired "
    "test, as it is and corrected by Holm for the number of pairs. A small p says that two models differ, not that "
    "either is of use."
)


def by_number(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of each dataset, metric, region and pooling, with a title."""
    keys = ["dataset", "metric", "region", "pooling"]
    several = [key for key in keys[2:] if table.groupby(["dataset", "metric"])[key].nunique().max() > 1]
    for values, rows in table.groupby(keys, sort=False):
        named = dict(zip(keys, values, strict=True))
        yield " ".join([named["dataset"], title_of(named["metric"]), *(f"({named[key]})" for key in several)]), rows


def test_table(study: Study, tests: pd.DataFrame) -> Table:
    """A row a pair of models."""
    rows = []
    for row in tests.sort_values("p", kind="stable").itertuples():
        cells = [study.name(row.model_a), study.name(row.model_b), number(row.difference, row.low, row.high)]
        cells += [probability(row.p), replace(probability(row.p_holm), strong=row.p_holm < 0.05)]
        cells.append(Cell(f"{row.n:.0f}", row.n))
        rows.append(Row(cells))
    fewest = int(tests["n"].min())
    least = 2.0 ** (1 - fewest)
    caption = f"Bold: below 0.05. Of {fewest} subjects no p can be below {least:.2g}, however clear the case."
    return Table(["Model A", "Model B", "A minus B", "p", "p (Holm)", "Subjects"], rows, caption * (fewest <= FEW))


def probability(p: float) -> Cell:
    """A p-value."""
    return number(p) if np.isnan(p) or p >= 0.001 else Cell("< 0.001", p)


def responses(study: Study) -> Section:
    """Detection against size, intensity and kind of the anomaly."""
    caption = (
        "What each model finds, by kind, size and intensity of the synthetic anomaly. Where an anomaly is as bright "
        "as the tissue around it lies the blind spot of models that look at intensity alone."
    )
    blocks = []
    for path in study.paths("responses"):
        name = path.stem.removeprefix("response_")
        dataset = next((known for known in study.settings["datasets"] if name.endswith(f"_{known}")), "")
        measure = name.removesuffix(f"_{dataset}").replace("_", " ")
        blocks.append(Picture(embedded(path), caption, f"{dataset}: {measure}" if dataset else measure.capitalize()))
    return Section("responses", "Response surfaces", blocks)


def curves(study: Study) -> Section:
    """ROC and precision over recall of each dataset with anomalies, in the brain and, on demand, in the frame."""
    runs: dict[str, dict[str, list[pd.DataFrame]]] = {}
    for model, _, dataset, path in study.jobs("curves"):
        table = read(path)
        if len(table):
            runs.setdefault(dataset, {}).setdefault(model, []).append(table)
    blocks = []
    for dataset in (name for name in study.settings["datasets"] if name in runs):
        pictures = [curve_picture(study, dataset, region, runs[dataset]) for region in ("brain", "frame")]
        pictures = [picture for picture in pictures if picture is not None]
        blocks += pictures[:1] + [Details(picture.title, [picture]) for picture in pictures[1:]]
    return Section("curves", "ROC and precision\N{EN DASH}recall curves", blocks)


def curve_picture(study: Study, dataset: str, region: str, runs: dict[str, list[pd.DataFrame]]) -> Picture | None:
    """The curves of one dataset and region; None without any."""
    parts = {model: [table[table["region"] == region] for table in tables] for model, tables in runs.items()}
    parts = {model: tables for model, tables in parts.items() if any(len(table) for table in tables)}
    if not parts:
        return None
    share = prevalence(study, dataset, region)
    random = "" if np.isnan(share) else f" A random score follows the thin grey lines (precision {share:.3f})."
    caption = f"Pixels of the {region}, all test images together; floors are grey and dashed.{random}"
    picture = embedded(report_figures.curves(parts, study.look, share))
    return Picture(picture, caption, f"{dataset}, pixels of the {region}")


def prevalence(study: Study, dataset: str, region: str) -> float:
    """Share of abnormal pixels; NaN where it is not known."""
    table = study.table("numbers")
    if table is None:
        return np.nan
    rows = table[(table["dataset"] == dataset) & (table["region"] == region) & (table["pooling"] == "pixels")]
    return float(rows["prevalence"].mean())
