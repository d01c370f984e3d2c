"""The report: one page that opens without internet, for people who would rather look than read.

Each section is there only when its files are.
"""

import datetime
import json
from pathlib import Path

import pandas as pd
import yaml

from brainuad import report_groups, report_results, report_scans, report_tables
from brainuad.costs import COLUMNS, EXPLANATION
from brainuad.page import (
    Cell,
    Details,
    Listing,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
    embedded,
    listed,
    number,
    render,
)
from brainuad.provenance import commit, digest, machine, versions
from brainuad.report_study import Study, read, title_of, without_paths

__all__ = ["report"]

SIMULATED = "All scans of this study are simulated: nothing on this page is a result about people."
# Columns of the comparison that say what a training cost, with their titles.
COSTS = {
    "cost/wall_seconds": "Time",
    "cost/cpu_seconds": "Processor time",
    "cost/peak_memory_mb": "Peak memory, MB",
    "cost/images_per_second": "Images a second",
    "cost/epochs": "Epochs",
    "cost/parameters": "Parameters",
    "cost/processes": "Processes",
    "cost/starts": "Starts",
}
ALONE = ("cost/processes", "cost/starts")  # shown only where a training had several
REMARKS = {"cost/device": "Device", "cost/precision": "Precision", "cost/peak_memory_meaning": "Memory is that"}


def report(page: Path, files: dict[str, list[Path]], settings: dict) -> None:
    """Write the report.

    Args:
        page: HTML to write.
        files: paths by name, any of which may be missing: the tables ``comparison``, ``table2``, ``strict``,
            ``summary``, ``ranks``, ``significance``, ``paper_difference``, ``costs``, ``intake``; per dataset
            ``quality``, ``quality_pages``, ``montages`` and ``samples`` (``…/{dataset}/table.tsv``); per model and seed
            ``descriptions``
            (``model.json``); per model, seed and dataset ``score`` (``…/{model}/{seed}/{dataset}/map.npy``),
            ``subjects`` and ``curves`` (``…/{model}/{seed}/{dataset}.….tsv``); pictures ``qualitative``,
            ``learning_curves`` and ``responses``; ``manifests``; ``digests`` of
            the samples' images (``…/{dataset}/images.sha256``); ``maps``
            (``…/{dataset}/{model}/seed-{seed}/table.tsv``, ``figures`` of the scans beside it); ``groups``
            (``…/{dataset}/{model}/{seed}/groups.tsv``, the other files of the comparison beside it).
        settings: see :class:`brainuad.report_study.Study`.
    """
    study = Study(
        settings, {name: [paths] if isinstance(paths, (str, Path)) else list(paths) for name, paths in files.items()}
    )
    results, scans = report_results, report_scans
    sections = [
        report_tables.comparison(study),
        results.published(study),
        results.ranks(study),
        results.responses(study),
        results.curves(study),
        learning_curves(study),
        scans.quality(study),
        qualitative(study),
        scans.best_and_worst(study),
        scans.false_positives(study),
        scans.images(study),
        report_groups.groups(study),
        costs(study),
        provenance(study),
    ]
    now = datetime.datetime.now(datetime.UTC)
    date = f"{now:%Y-%m-%d %H:%M} UTC"
    notice = SIMULATED if settings["simulated"] else ""
    html = render(settings["study"], notice, summary(study), date, sections)
    Path(page).parent.mkdir(parents=True, exist_ok=True)
    Path(page).write_text(html, encoding="utf-8")
    print(f"{page}: {len(html) / 2**20:.1f} MiB, sections {', '.join(part.anchor for part in sections if part.blocks)}")


def summary(study: Study) -> list[str]:
    """What the page says, in three sentences."""
    return [scan_sentence(study), model_sentence(study), floor_sentence(study)]


def scan_sentence(study: Study) -> str:
    """How many scans there are and how many were left out."""
    tables = [read(path) for path in study.paths("quality")]
    scans, left = sum(map(len, tables)), sum(int(table["status"].ne("included").sum()) for table in tables)
    synthetic = len(study.settings["datasets"]) - len(tables)
    text = f"{count(scans, 'scan')} of {count(len(tables), 'dataset')}, {left or 'none'} of them left out"
    text += " by quality control"
    return text + (f", and {count(synthetic, 'dataset')} with synthetic anomalies made of them." if synthetic else ".")


def model_sentence(study: Study) -> str:
    """How many models were trained."""
    floors = sum(look.floor for look in study.look.values())
    seeds = count(len(study.settings["seeds"]), "seed")
    text = f"{count(len(study.look) - floors, 'trained model')} ({seeds} each)"
    return f"{text} and {count(floors, 'floor')}, which train no weights: a model is of use only above them."


def floor_sentence(study: Study) -> str:
    """Whether any trained model clears the floor, by the strictest table at hand."""
    for name, (protocol, _) in report_tables.PROTOCOLS.items():
        columns = [] if study.table(name) is None else report_tables.columns_of(study, name)
        gaps = [column for column in columns if column.gap]
        if gaps:
            return verdict(study, gaps, protocol)
    return "Whether a trained model clears a floor cannot be said: no table holds one against the other."


def verdict(study: Study, gaps: list, protocol: str) -> str:
    """Who is above a floor, in how many of the columns that ask."""
    winners = [report_tables.above(study, column) for column in gaps]
    models = [model for model in study.look if any(model in column for column in winners)]
    metrics = listed(sorted({title_of(gap.metric) for gap in gaps}))
    floors = listed(sorted({gap.floor for gap in gaps}))
    where = f"above the floor {floors} at finding anomalies ({metrics}, {protocol[0].lower()}{protocol[1:]})"
    if not models:
        return f"No trained model is {where}, by the interval of the difference."
    counts = [
        f"{study.look[name].label} ({sum(name in column for column in winners)} of {len(gaps)})" for name in models
    ]
    verb = "is" if len(models) == 1 else "are"
    other = "" if len(models) == len(trained(study)) else "; no other trained model is"
    return (
        f"{listed(counts)} {verb} {where}, by the interval of the difference{confirmed(study, gaps, winners)}{other}."
    )


def confirmed(study: Study, gaps: list, winners: list[list[str]]) -> str:
    """How many of these differences the paired tests confirm; empty if none was tested."""
    table, corrected = study.table("significance"), []
    if table is None:
        return ""
    for gap, models in zip(gaps, winners, strict=True):
        same = table["dataset"].eq(gap.dataset) & table["metric"].eq(gap.metric)
        rows = table[same & (table["region"] + ", " + table["pooling"]).eq(gap.place)]
        against = {name for name, look in study.look.items() if look.floor and look.label == gap.floor}
        for row in rows.itertuples():
            pair = {row.model_a, row.model_b}
            corrected += [row.p_holm] if pair & against and pair & set(models) else []
    if not corrected:
        return ""
    return f" (paired tests, corrected by Holm, confirm {sum(p < 0.05 for p in corrected)} of {len(corrected)})"


def trained(study: Study) -> list[str]:
    """The models that are no floors."""
    return [name for name, look in study.look.items() if not look.floor]


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def learning_curves(study: Study) -> Section:
    """Losses over the epochs."""
    caption = (
        "Training (blue) and validation (orange) loss of each trained model, one line a seed, and the learning rate "
        "(dashed, right axis). Training has converged where both are flat; it overfits where the orange line turns "
        "upwards."
    )
    paths = study.paths("learning_curves")
    return Section("training", "Learning curves", [Picture(embedded(path), caption, "Losses") for path in paths])


def qualitative(study: Study) -> Section:
    """The paper's Figure 2."""
    caption = (
        "Input, then each model's reconstruction and anomaly map, for a typical healthy sample and a typical one "
        "with an anomaly (outlined). Colours compare the two samples of a model, not two models. Anterior is up, "
        "the subject's right is on the left."
    )
    paths = study.paths("qualitative")
    return Section(
        "maps", "Typical cases", [Picture(embedded(path), caption, "Reconstructions and maps") for path in paths]
    )


def costs(study: Study) -> Section:
    """What each row of the comparison and each rule took."""
    blocks, table = [], study.table("comparison")
    if table is not None and any(name in table for name in COSTS):
        blocks.append(training_costs(study, table))
    table = study.table("costs")
    if table is not None:
        rows = [
            Row([Cell(row["rule"]), *(measure(row[name]) for name in list(COLUMNS)[1:])]) for _, row in table.iterrows()
        ]
        blocks.append(Table(list(COLUMNS.values()), rows, f"What the jobs of each rule took. {EXPLANATION}"))
    return Section("costs", "Costs", blocks)


def training_costs(study: Study, table: pd.DataFrame) -> Table:
    """A row a model and seed; what is the same in all rows is said in the caption."""
    known = {name: title for name, title in COSTS.items() if name in table}
    known = {name: title for name, title in known.items() if name not in ALONE or table[name].ne(1).any()}
    remarks = {name: title for name, title in REMARKS.items() if name in table}
    common = {name: table[name].iloc[0] for name in remarks if table[name].nunique(dropna=False) == 1}
    remarks = {name: title for name, title in remarks.items() if name not in common}
    rows = []
    for _, row in table.iterrows():
        cells = [study.name(row["model"]), Cell(str(row["seed"]), row["seed"])]
        cells += [duration(row[name]) if name.endswith("seconds") else measure(row[name]) for name in known]
        cells += [Cell("" if pd.isna(row[name]) else str(row[name])) for name in remarks]
        rows.append(Row(cells, study.look[row["model"]].floor))
    caption = "What the training of each row of the comparison took."
    caption += "".join(f" {REMARKS[name]}: {value}." for name, value in common.items() if not pd.isna(value))
    return Table(["Model", "Seed", *known.values(), *remarks.values()], rows, caption)


def duration(seconds: float) -> Cell:
    """A time in the two units that suit it."""
    if pd.isna(seconds):
        return number(None)
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    long = f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
    return Cell(long if seconds >= 60 else f"{seconds:.2g} s", float(seconds))


def measure(value: float) -> Cell:
    """A count or an amount to three digits."""
    if pd.isna(value):
        return number(None)
    return Cell(f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}", float(value))


def provenance(study: Study) -> Section:
    """Code, configuration, packages, inputs and machine."""
    facts = {
        "Code": f"commit {commit(Path(__file__))}",
        "Page made on": machine(),
        "Trained on": ", ".join(devices(study)),
        "Seed of the split": str(study.settings["configuration"].get("seed", "")),
        "Training seeds": ", ".join(map(str, study.settings["seeds"])),
    }
    rows = [Row([Cell(name), Cell(text)]) for name, text in facts.items() if text]
    blocks = [Table(["What", "Where from"], rows, sortable=False)]
    configuration = without_paths(study.settings["configuration"])
    listing = Listing(yaml.safe_dump(configuration, sort_keys=False, allow_unicode=True))
    blocks.append(Details("Configuration as used, with its defaults, without paths and command lines", [listing]))
    blocks.append(Details("Versions of the packages", [package_table(study)]))
    digests = [
        (study.file(path), digest(path)) for name in ("manifests", "quality", "samples") for path in study.paths(name)
    ]
    if digests:
        digests += [
            (study.file(path.with_name("images.npy")), path.read_text().split()[0]) for path in study.paths("digests")
        ]
        note = Paragraph("Manifests, preprocessed scans (with a hash of the voxels of each), samples and their images.")
        table = Table(["File", "SHA-256"], [Row([Cell(name), Cell(value)]) for name, value in digests])
        blocks.append(Details("Digests of the inputs", [note, table]))
    return Section("provenance", "Provenance", blocks)


def devices(study: Study) -> list[str]:
    """What models were trained on, each once."""
    table = study.table("comparison")
    return [] if table is None or "cost/device" not in table else sorted(set(table["cost/device"].dropna()))


def package_table(study: Study) -> Table:
    """Versions where this page was made and, where they were written down, where models were trained."""
    here, trained = versions(), {}
    for path in study.paths("descriptions"):
        for name, value in (json.loads(path.read_text()).get("metadata", {}).get("versions") or {}).items():
            trained.setdefault(name, set()).add(value or "not installed")
    names = sorted({*here, *trained})
    rows = [
        Row([Cell(name), Cell(here.get(name, "")), Cell(", ".join(sorted(trained.get(name, ()))))]) for name in names
    ]
    return Table(["Package", "Here", "In the trainings"], rows, sortable=False)
