"""The report's sections about the numbers beside its tables: published ones, ranks and tests, responses, curves."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd

from brainuad import report_figures
from brainuad.page import (
    MISSING,
    Cell,
    Details,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
    embedded,
    number,
)
from brainuad.report_figures import PANELS, Panel
from brainuad.report_study import Study, read, title_of

__all__ = ["curves", "published", "ranks", "responses"]

FEW = 10  # subjects of whom a paired test says little


def published(study: Study) -> Section:
    """The numbers that the paper printed beside ours."""
    table, blocks = study.table("paper_difference"), []
    if table is not None:
        table = table[table["model"].isin(study.look)]
        table = table.assign(title=table["dataset"] + " " + table["metric"].map(title_of))
        caption = (
            "Hollow: published. Filled: ours, with its 95 % interval. Where the protocols differ, so may the "
            "numbers: the notes beneath the table say how."
        )
        picture = embedded(report_figures.differences(table, study.look))
        blocks = [Picture(picture, caption, "Published and measured"), *difference_table(study, table)]
    return Section("published", "Beside the published numbers", blocks)


def difference_table(study: Study, table: pd.DataFrame) -> list[Table | Paragraph]:
    """A row a published number, and beneath them what differs in their protocols: the same of many numbers."""
    notes = {note: f"{place}" for place, note in enumerate(dict.fromkeys(filter(None, table["note"])), start=1)}
    rows = []
    for row in table.itertuples():
        inside = row.low <= row.published <= row.high
        sign = Cell(MISSING if pd.isna(row.low) else "yes" if inside else "no")
        cells = [study.name(row.model), Cell(row.dataset), Cell(title_of(row.metric)), number(row.published)]
        ours = number(row.ours, row.low, row.high)
        ours = ours if ours.note else replace(ours, note=row.reason)
        cells += [ours, number(row.difference), sign, Cell(notes.get(row.note, MISSING))]
        rows.append(Row(cells))
    titles = ["Model", "Dataset", "Metric", "Published", "Ours", "Difference", "In our interval?", "Note"]
    caption = "Each published number beside ours; the difference is ours minus published."
    return [Table(titles, rows, caption), *(Paragraph(f"Note {place}: {note}.") for note, place in notes.items())]


def ranks(study: Study) -> Section:
    """Ranks with their intervals, and the paired tests."""
    blocks, table = [], study.table("ranks")
    if table is not None:
        table = table.rename(columns={"rank": "value"})
        panels = [Panel(title, rows) for title, rows in by_number(table)][:PANELS]
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
    table = study.table("summary")
    if table is None:
        return np.nan
    rows = table[(table["dataset"] == dataset) & (table["region"] == region) & (table["pooling"] == "pixels")]
    return float(rows["prevalence"].mean())
