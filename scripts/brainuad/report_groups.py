"""The report's section about groups of subjects: patients against controls."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd

from brainuad.page import (
    MINUS,
    Cell,
    Details,
    Heading,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
    embedded,
    number,
)
from brainuad.report_study import Study, read

__all__ = ["groups"]

MEANING = (
    "Calibrated anomaly maps of test subjects: z-scores in standard deviations of healthy validation subjects. Several "
    "sessions of a subject are one value. AUROC: how well one number a subject tells a group from the reference "
    "{reference}; 0.5 is chance, and the interval is that of the bootstrap. Higher and lower: voxels in which a group "
    "lies so after the correction for false discoveries ({rate:g}). The largest Hedges' g is that among them, or among "
    "all voxels where nothing is found."
)
CAPTION = (
    "Mean z-score of each group, then how far each lies from the reference (Hedges' g, red: more abnormal), on the "
    "template. Outlined: what is found. Anterior is up, the subject's right is on the left."
)
REGIONS = (
    "Hedges' g with its 95 % bootstrap interval; p of Welch's test, and q after Benjamini and Hochberg's correction "
    "for all regions. n counts subjects of the group and of the reference."
)


def groups(study: Study) -> Section:
    """Who differs from the reference, by which model, and what to know before believing it."""
    blocks: list = []
    jobs = list(comparisons(study))
    for dataset in dict.fromkeys(job[0] for job in jobs):
        own = [job for job in jobs if job[0] == dataset]
        settings = study.settings["configuration"]["datasets"][dataset]["groups"]
        text = MEANING.format(reference=settings["reference"], rate=settings["false_discoveries"])
        blocks += [Heading(f"Groups of {dataset}"), Paragraph(text), *notes(own), results(study, own), *balances(own)]
        for _, model, seed, folder in own:
            title = f"{study.look[model].label}, seed {seed}"
            parts = [Picture(embedded(folder / "groups.png"), CAPTION, f"{dataset}: {title}"), *regions(folder)]
            blocks.append(Details(f"Maps of {title}", parts))
    return Section("groups", "Groups", blocks)


def comparisons(study: Study) -> Iterator[tuple[str, str, str, Path]]:
    """Dataset, model, seed and folder of each comparison, in the study's order."""
    found = [(*path.parent.parts[-3:], path.parent) for path in study.paths("groups")]
    models, datasets = list(study.settings["models"]), study.settings["datasets"]
    return iter(sorted(found, key=lambda job: (datasets.index(job[0]), models.index(job[1]), int(job[2]))))


def notes(jobs: list) -> list:
    """What the comparisons warn of, each sentence once."""
    said = dict.fromkeys(note for *_, folder in jobs for note in read(folder / "notes.tsv")["note"])
    return [Paragraph(f"Mind: {note}") for note in said]


def results(study: Study, jobs: list) -> Table:
    """A row a model, seed and group."""
    rows, several = [], len({job[2] for job in jobs}) > 1
    for _, model, seed, folder in jobs:
        table = read(folder / "groups.tsv")
        reference = table[table["reference"]].iloc[0]
        for row in table[~table["reference"]].itertuples():
            cells = [study.name(model), *([Cell(seed, float(seed))] if several else []), Cell(row.group)]
            cells.append(Cell(f"{row.subjects} / {reference['subjects']}", float(row.subjects)))
            for score in ("mean_z", "share_above_3"):
                cells.append(number(*(getattr(row, f"{score}_{part}") for part in ("auroc", "low", "high"))))
            tested = f"of {row.voxels:,.0f} voxels"
            cells += [replace(count(row.higher), note=tested), replace(count(row.lower), note=tested), largest(row)]
            rows.append(Row(cells, study.look[model].floor))
    titles = ["Model", *(["Seed"] if several else []), "Group", "n / reference", "AUROC, mean z"]
    return Table([*titles, "AUROC, share of z > 3", "Higher", "Lower", "Largest g"], rows)


def largest(row: tuple) -> Cell:
    """The largest effect and where it is; why there is none the notes say."""
    if pd.isna(row.peak):
        return number(None)
    place = f"at {row.peak_x:.0f}, {row.peak_y:.0f}, {row.peak_z:.0f} mm".replace("-", MINUS)
    return replace(number(row.peak), note=place)


def count(value: float) -> Cell:
    """A number of things; a dash where it is unknown."""
    return number(None) if pd.isna(value) else Cell(f"{value:,.0f}", float(value))


def balances(jobs: list) -> list:
    """Site, age and sex of the groups; they are the same for all models of a dataset."""
    table = read(jobs[0][3] / "balance.tsv")
    rows = [
        Row(
            [
                *(Cell(str(value)) for value in (row.group, row.variable, f"{row.known} of {row.of}")),
                *(Cell("" if pd.isna(value) else str(value)) for value in (row.in_group, row.in_reference)),
                *(number(row.difference), small(row.p)),
            ]
        )
        for row in table.itertuples()
    ]
    titles = ["Group", "What", "Known", "In the group", "In the reference", "Difference", "p"]
    caption = (
        "Difference: Hedges' g of ages; between the shares of sexes and sites, from 0 to 1 (no site in common). p: "
        "Welch's, Fisher's or the chi-square test."
    )
    return [Details("Site, age and sex of the groups", [Table(titles, rows, caption)])]


def regions(folder: Path) -> list:
    """The regions of an atlas, those that differ most first; nothing without an atlas."""
    table = read(folder / "regions.tsv")
    if not len(table):
        return []
    rows = []
    for row in table.sort_values("p", kind="stable").itertuples():
        cells = [Cell(row.group), Cell(str(row.name)), count(row.voxels), Cell(f"{row.n} / {row.n_reference}")]
        cells += [number(row.mean), number(row.mean_reference), number(row.effect, row.low, row.high)]
        cells += [small(row.p), small(row.q), Cell(row.reason)]
        rows.append(Row(cells))
    titles = ["Group", "Region", "Voxels", "n", "Mean z", "Mean z, reference", "g", "p", "q", ""]
    return [Table(titles, rows, REGIONS)]


def small(value: float) -> Cell:
    """A probability to two digits."""
    return number(None) if pd.isna(value) else Cell(f"{value:.2g}", float(value))
