"""The report's sections about scans: who was left out, best and worst cases, false positives by group."""

from pathlib import Path

import numpy as np
import pandas as pd

from brainuad import report_figures
from brainuad.faults import public
from brainuad.figures import axial
from brainuad.page import Cell, Details, Links, Paragraph, Picture, Row, Section, Table, embedded, number
from brainuad.report_figures import Case
from brainuad.report_study import Study, read
from brainuad.resampling import draws, interval
from brainuad.sample_set import SampleSet

__all__ = ["best_and_worst", "false_positives", "images", "quality"]

DETECTION, SIMILARITY = "average_precision/brain/subjects", "ssim/brain/images"
FALSE_POSITIVES, TARGET = "false_positive_rate_5/brain/subjects", 0.05
BAND = 20  # years of age
LINES = 6  # anomalous datasets of which cases are shown
CASES = (
    "On the left the best test scan of a model, on the right its worst: by the average precision of that scan where "
    "it has an anomaly (outlined), by SSIM among all healthy scans. Of several slices of a scan, that with most "
    "anomaly or the middle one is shown. Maps of one picture share their colours, from 0 to the "
    f"{report_figures.PERCENTILE:g}th percentile."
)
IMAGES = (
    "Anomaly map, reconstruction and z-score of each scan as NIfTI, in template space and on the grid of the scan "
    "itself. Pages and pictures lie beside this report."
)
RESAMPLES = 1000  # unless the study has other


def quality(study: Study) -> Section:
    """Counts, who is left out and why, and page and montage of each dataset, which lie beside the report."""
    tables = {path.stem: read(path) for path in study.paths("quality")}
    montages = {path.stem: path for path in study.paths("montages")}
    blocks = [quality_counts(tables), *became(study), *left_out(tables)] if tables else []
    caption = (
        "Axial, coronal and sagittal slice of each scan in template space; blue: the outline of the template's brain, "
        "amber: that of the scan's own. r: correlation with the template; Dice: overlap of the brain masks. Outliers "
        "come first, excluded scans (red) last."
    )
    pages = [(path.stem, f"quality/{path.name}") for path in study.paths("quality_pages")]
    if pages:
        blocks.append(Links("Pages with the measures of every scan, and the line that decides otherwise:", pages))
    for dataset in study.settings["datasets"]:
        if dataset in montages:
            picture = Picture(embedded(montages[dataset]), caption, f"Scans of {dataset}")
            blocks.append(Details(picture.title, [picture]))
    return Section("quality", "Quality control", blocks)


def quality_counts(tables: dict[str, pd.DataFrame]) -> Table:
    """A row a dataset."""
    rows = []
    for dataset, table in tables.items():
        counts = [len(table), table["status"].eq("included").sum(), table["status"].ne("included").sum()]
        counts.append(table["outlier"].ne("").sum())
        rows.append(Row([Cell(dataset), *(Cell(str(count), float(count)) for count in counts)]))
    return Table(["Dataset", "Scans", "Included", "Left out", "Flagged as odd"], rows)


def became(study: Study) -> list:
    """How many scans were found and used, and by which code the others were left out."""
    table = study.table("intake")
    if table is None:
        return []
    rows = [
        Row([Cell(row.dataset), Cell(row.code), Cell(str(row.scans), float(row.scans)), Cell(row.meaning)])
        for row in table.itertuples()
    ]
    return [Details("What became of the scans, by code", [Table(["Dataset", "Code", "Scans", "Meaning"], rows)])]


def left_out(tables: dict[str, pd.DataFrame]) -> list:
    """Who is left out and why, and who is in though a measure is odd."""
    out, odd = [], []
    for dataset, table in tables.items():
        for row in table.itertuples():
            if row.status != "included":
                out.append(Row([Cell(dataset), Cell(row.scan), Cell(row.code), Cell(public(row.code, row.reason))]))
            elif row.outlier:
                odd.append(Row([Cell(dataset), Cell(row.scan), Cell(row.outlier)]))
    blocks = (
        [Table(["Dataset", "Scan", "Code", "Left out because"], out)] if out else [Paragraph("No scan was left out.")]
    )
    if odd:
        table = Table(["Dataset", "Scan", "Odd measures (robust z)"], odd)
        blocks.append(Details(f"{len(odd)} scans that are in though a measure is odd", [table]))
    return blocks


def images(study: Study) -> Section:
    """What leads to the maps that were written as images: of each scan its page or picture, beside the report."""
    blocks: list = []
    for path in study.paths("maps"):
        dataset, model, seed = path.parts[-4:-1]
        folder, links = "/".join(("maps", dataset, model, seed, "figures")), []
        for scan in sorted(read(path)["scan"]):
            kinds = [kind for kind in ("html", "png") if (path.parent / "figures" / f"{scan}.{kind}").is_file()]
            links += [(scan, f"{folder}/{scan}.{kind}") for kind in kinds[:1]]
        title = f"{dataset} by {study.look[model].label}, {seed.replace('-', ' ')}"
        if links:
            blocks.append(Details(f"{title}: {len(links)} scans", [Links(f"In {Path(folder).parent}:", links)]))
    return Section("images", "Maps of each scan", [Paragraph(IMAGES), *blocks] if blocks else [])


def best_and_worst(study: Study) -> Section:
    """For each model the best and the worst test scan: of every anomalous dataset, and of all healthy ones together."""
    values: dict[str, list[pd.DataFrame]] = {}
    for model, seed, dataset, path in study.jobs("subjects"):
        if seed == str(study.settings["seeds"][0]):
            values.setdefault(model, []).append(read(path).assign(dataset=dataset, model=model))
    sets = {path.parent.name: SampleSet(path.parent) for path in study.paths("samples")}
    folders = {(path.parents[2].name, path.parent.name): path.parent for path in study.paths("score")}
    blocks: list = [Paragraph(CASES)]
    for model, tables in values.items():
        lines = case_lines(pd.concat(tables), sets, folders)
        if lines:
            figure = report_figures.cases(lines, ("Best", "Worst"))
            said = "; ".join(f"{name}: from {worst.value} up to {best.value}" for name, (best, worst) in lines.items())
            blocks.append(Picture(embedded(figure, ".png"), f"{said}.", study.look[model].label))
    return Section("cases", "Best and worst cases", blocks if len(blocks) > 1 else [])


def case_lines(values: pd.DataFrame, sets: dict[str, SampleSet], folders: dict) -> dict[str, tuple[Case, Case]]:
    """Best and worst case by title of the line; of one subject alone both are the same."""
    lines = {}
    jobs = zip(values["model"], values["dataset"], strict=True)
    known = values[[job in folders and job[1] in sets for job in jobs]]
    anomalous = known.dropna(subset=[DETECTION]) if DETECTION in known else known.iloc[:0]
    for dataset, rows in list(anomalous.groupby("dataset", sort=False))[:LINES]:
        lines[dataset] = extremes(rows, DETECTION, "AP", sets, folders)
    healthy = known[~known["dataset"].isin(anomalous["dataset"])]
    healthy = healthy.dropna(subset=[SIMILARITY]) if SIMILARITY in known else known.iloc[:0]
    if len(healthy):
        lines["healthy scans"] = extremes(healthy, SIMILARITY, "SSIM", sets, folders)
    return lines


def extremes(rows: pd.DataFrame, column: str, measure: str, sets: dict, folders: dict) -> tuple[Case, Case]:
    """The cases of the highest and of the lowest value of a column."""
    order = rows.sort_values([column, "subject"], ascending=[False, True], kind="stable")
    cases = []
    for _, row in order.iloc[[0, -1]].iterrows():
        value, folder = f"{measure} {row[column]:.2f}", folders[row["model"], row["dataset"]]
        cases.append(case(row["subject"], value, sets[row["dataset"]], folder))
    return tuple(cases)


def case(subject: str, value: str, samples: SampleSet, folder: Path) -> Case:
    """The slice of a subject to show: that with most anomaly, the middle one of several."""
    table = pd.read_csv(folder / "table.tsv", sep="\t", dtype={"subject": str, "scan": str})
    places = np.flatnonzero((table["subject"] == subject) & (table["split"] == "test"))
    amounts = [int(samples.lesion[table["sample"].iloc[place]].sum()) for place in places]
    most = places[np.array(amounts) == max(amounts)]
    place = most[len(most) // 2]
    row = table["sample"].iloc[place]
    lesion = np.asarray(samples.lesion[row, 0])
    arrays = [np.load(folder / f"{name}.npy", mmap_mode="r")[place, 0] for name in ("reconstruction", "map")]
    shown = [axial(np.asarray(array), lesion) for array in (samples.images[row, 0], lesion, *arrays)]
    return Case(table["scan"].iloc[place], value, *shown)


def false_positives(study: Study) -> Section:
    """Share of healthy pixels that the 5 % threshold marks, by dataset, group, age, sex and site."""
    parts = [read(path).assign(model=model, dataset=dataset) for model, _, dataset, path in study.jobs("subjects")]
    if not parts or FALSE_POSITIVES not in (table := pd.concat(parts)):
        return Section("false-positives", "False positives on healthy scans")
    resamples = study.settings["configuration"].get("comparison", {}).get("resamples", RESAMPLES)
    result = pd.DataFrame(group_rows(table[~table["lesion"]], references(study), resamples))
    if not len(result):
        return Section("false-positives", "False positives on healthy scans")
    caption = (
        "Mean over subjects with its 95 % bootstrap interval. Dashed: the 5 % that the threshold lets pass on "
        "healthy validation scans. A group further right has more false alarms; n counts subjects: those without a "
        "lesion and, where a dataset compares groups, of its reference group, but in the panel by group of all."
    )
    figure = report_figures.rates(result, study.look, TARGET)
    blocks = [Picture(embedded(figure), caption, "Pixels marked on healthy scans")]
    blocks += [
        Details(f"Numbers by {name}", [rate_table(study, rows)])
        for name, rows in result.groupby("grouping", sort=False)
    ]
    return Section("false-positives", "False positives on healthy scans", blocks)


def references(study: Study) -> dict[str, str]:
    """The healthy group of each dataset that compares groups."""
    entries = study.settings["configuration"].get("datasets", {})
    return {name: entry["groups"]["reference"] for name, entry in entries.items() if entry.get("groups")}


def group_rows(table: pd.DataFrame, references: dict[str, str], resamples: int = RESAMPLES) -> list[dict]:
    """A row for each grouping, group and model: mean over subjects, interval, number of subjects.

    A subject of whom nothing has a value is left out, and a model of which a seed lacks one that others have: what is
    left of it is not its mean. Groups that are not the reference of their dataset are in the grouping ``group`` alone.
    Subjects of a dataset stay in their order and are drawn by its name, so that its intervals are those of the tables
    where all are healthy.
    """
    table = table[table.groupby(["dataset", "subject"])[FALSE_POSITIVES].transform("count") > 0]
    healthy = table["dataset"].map(references).isna() | table["group"].eq(table["dataset"].map(references))
    groupings = {"dataset": table["dataset"], "group": table.get("group")}
    groupings |= {"age": bands(table.get("age")), "sex": table.get("sex"), "site": table.get("site")}
    rows = []
    for grouping, labels in groupings.items():
        if labels is None or (grouping != "dataset" and not informative(labels, table["dataset"])):
            continue
        named = table.assign(label=labels.replace("", np.nan))[healthy | (grouping == "group")].dropna(subset=["label"])
        order = sorted(named["label"].unique()) if grouping != "dataset" else named["label"].unique()
        for label in order:
            for model, own in named[named["label"] == label].groupby("model", sort=False):
                values = (
                    own.groupby(["dataset", "subject"], sort=False)[FALSE_POSITIVES]
                    .agg(pd.Series.mean, skipna=False)
                    .to_numpy()
                )
                if np.isnan(values).any():
                    continue
                weights = draws(label if grouping == "dataset" else "report", len(values), resamples)
                low, high = interval(values.mean(), weights @ values / len(values), len(values))
                entry = {"grouping": grouping, "group": label, "model": model, "value": values.mean()}
                rows.append({**entry, "low": low, "high": high, "n": len(values)})
    return rows


def informative(labels: pd.Series, datasets: pd.Series) -> bool:
    """Whether there are two or more groups, and others than the datasets themselves."""
    pairs = pd.DataFrame({"label": labels.replace("", np.nan), "dataset": datasets}).dropna().drop_duplicates()
    one_to_one = pairs["label"].is_unique and pairs["dataset"].is_unique
    return pairs["label"].nunique() > 1 and not one_to_one


def bands(age: pd.Series | None) -> pd.Series | None:
    """Ages in years as bands such as 20-39, padded so that they sort; empty where unknown."""
    if age is None:
        return None
    starts = (pd.to_numeric(age, errors="coerce") // BAND * BAND).astype("Int64")
    return starts.map(lambda start: f"{start:>2}\N{EN DASH}{start + BAND - 1}", na_action="ignore").astype(object)


def rate_table(study: Study, rows: pd.DataFrame) -> Table:
    """A row a model, a column a group."""
    groups = list(dict.fromkeys(rows["group"]))
    counts = rows.groupby("group")["n"].max()
    found = rows.set_index(["model", "group"])
    result = []
    for model in (name for name in study.look if name in set(rows["model"])):
        cells = [study.name(model)]
        for group in groups:
            known = (model, group) in found.index
            cells.append(number(*found.loc[(model, group), ["value", "low", "high"]]) if known else number(None))
        result.append(Row(cells, study.look[model].floor))
    return Table(["Model", *(f"{group} (n = {counts[group]:.0f})" for group in groups)], result)
