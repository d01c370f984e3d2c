"""The page of a dataset's quality control: who is left out, what is odd, and the line that decides otherwise."""

import datetime
from pathlib import Path

import matplotlib
import nibabel
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainuad.faults import FAULTS, public
from brainuad.page import (
    MINUS,
    Cell,
    Details,
    Listing,
    Paragraph,
    Picture,
    Row,
    Section,
    Table,
    embedded,
    number,
    render,
)
from brainuad.quality import (
    EXCLUDED,
    MEASURES,
    ODD,
    OWN,
    SMALLEST_COHORT,
    THRESHOLDS,
    beside,
    deviations,
    is_odd,
    own_brain,
    slices,
    spread,
)
from brainuad.standard_brain import standard_brain

__all__ = ["quality_page"]

HEAD = "dataset\tsubject\tsession\tdecision\treason"  # of config/exclusions.tsv

TITLES = {
    "correlation": "Correlation",
    "overlap": "Overlap",
    "brain_volume_ml": "Brain volume, ml",
    "bias_range": "Bias range",
}
MEANINGS = {
    "correlation": "Pearson's r with the template in its brain, voxels of 4 mm: contrast, orientation, registration",
    "overlap": "Dice of the scan's brain mask and the template's: brain extraction, registration",
    "brain_volume_ml": "volume of the brain mask in the scan's own space: brain extraction, voxel size",
    "bias_range": "ratio of the 99th and 1st percentile of the bias field that was removed: uneven coils",
}
SIDES = {-1: f"z below {MINUS}{{:g}}", 0: "z beyond ±{:g}", 1: "z above {:g}"}
IN, QUIET = "#1f5f99", "0.6"
NAMED = 6  # scans that have their names beside their points
SIMULATED = "The scans of this dataset are simulated."


def quality_page(scans: pd.DataFrame, page: Path, montage: Path, dataset: str, settings: dict) -> None:
    """Write the page.

    Args:
        scans: what `brainuad.quality.quality` returned.
        page: HTML to write; it needs no other file.
        montage: the picture of all scans.
        dataset: its name.
        settings: the ``quality`` section; with ``simulated`` the page says so.
    """
    sections = [
        decisions(scans, dataset, settings),
        measures(scans, settings),
        masks(scans),
        Section("montage", "Scan by scan", [Picture(embedded(montage), MONTAGE, f"Scans of {dataset}")]),
    ]
    notice = SIMULATED if settings.get("simulated") else ""
    date = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC"
    html = render(f"Quality control of {dataset}", notice, summary(scans), date, sections)
    page.write_text(html, encoding="utf-8")


MONTAGE = (
    "Axial, coronal and sagittal slice of each scan in template space; blue: the outline of the template's brain, "
    "amber: that of the scan's own brain mask. r: correlation with the template; Dice: overlap of the two brains. The "
    "subject's right is on the left. Outliers come first, excluded scans (red) last."
)


def summary(scans: pd.DataFrame) -> list[str]:
    """What the page says, in two sentences."""
    used, odd = scans["status"].eq("included").sum(), scans["outlier"].ne("").sum()
    overruled = scans["overruled"].ne("").sum()
    text = f"{used} of {len(scans)} scans are used, {len(scans) - used or 'none'} left out"
    text += f", {overruled} taken in spite of a doubt" if overruled else ""
    few = f"; below {SMALLEST_COHORT} scans nothing can be called odd" if used < SMALLEST_COHORT else ""
    return [f"{text}.", f"{odd or 'None'} of those used {'is' if odd <= 1 else 'are'} odd in a measure{few}."]


def decisions(scans: pd.DataFrame, dataset: str, settings: dict) -> Section:
    """Who is left out or odd, why, and the line that decides otherwise; then all others."""
    z = deviations(scans)
    special = scans["status"].ne("included") | scans["outlier"].ne("") | scans["overruled"].ne("")
    how = (
        "To decide otherwise, copy the line in the last column into config/exclusions.tsv in the folder of the study "
        "(a click selects it, with its tabs), put your reason at its end, and run Snakemake again: what follows from "
        "this table is made anew, and no other scan is preprocessed again. A new file begins with this line:"
    )
    blocks: list = [Paragraph(how), Listing(HEAD)]
    columns = ["Scan", *TITLES.values(), "Why, and the line to decide otherwise"]
    rows = [decision_row(row, z.loc[row.Index], dataset, settings) for row in scans[special].itertuples()]
    if rows:
        blocks.append(
            Table(columns, rows, "Scans that are left out, taken in spite of a doubt, or odd in a measure (bold).")
        )
    else:
        blocks.append(Paragraph("No scan is left out, and none is odd."))
    rest = [decision_row(row, z.loc[row.Index], dataset, settings) for row in scans[~special].itertuples()]
    if rest:
        blocks.append(Details(f"The {len(rest)} other scans", [Table(columns, rest)]))
    return Section("decisions", "Left out and odd", blocks)


def decision_row(row: tuple, z: pd.Series, dataset: str, settings: dict) -> Row:
    """One scan: what is decided about it, why, its measures with their robust z, and the line to decide otherwise."""
    included = row.status == "included"
    colour = EXCLUDED if not included else ODD if row.outlier or row.overruled else IN
    decision = "left out" if not included else "taken in spite of" if row.overruled else "used"
    why = public(row.code, row.reason) if not included else said(row)
    cells = [Cell(row.scan, note=": ".join(filter(None, [decision, row.code or row.overruled])), colour=colour)]
    cells += [measure(name, getattr(row, name), z[name], settings) for name in MEASURES]
    instead, reason = otherwise(row)
    if instead:
        return Row([*cells, Cell(why, line="\t".join((dataset, row.subject, row.session, instead, reason)))])
    return Row([*cells, Cell(f"{why.rstrip('.')}; {reason}")])


def measure(name: str, value: float, z: float, settings: dict) -> Cell:
    """A measure with its robust z beneath; bold if it is too low or odd."""
    if np.isnan(value):
        return number(None)
    text = f"{value:.0f}" if value >= 100 else f"{value:.2f}"
    note = "" if np.isnan(z) else f"z {round(z, 1) + 0.0:+.1f}".replace("-", MINUS)
    return Cell(text, float(value), note, strong=stands_out(name, value, z, settings))


def stands_out(name: str, value: float, z: float, settings: dict) -> bool:
    """Whether a measure is too low or odd."""
    low = name in THRESHOLDS and value < settings[THRESHOLDS[name]]
    return bool(low or is_odd(name, z, settings))


def said(row: tuple) -> str:
    """What there is to say about a scan that is used."""
    doubt = "; ".join(FAULTS[code].meaning for code in row.overruled.split())
    return "; ".join(filter(None, [doubt, f"odd: {row.outlier}" if row.outlier else ""]))


def otherwise(row: tuple) -> tuple[str, str]:
    """The decision that would change what becomes of a scan, with a reason; or none, and what else to do."""
    if row.status == "included":
        if row.overruled:
            return "", "delete its line, and it is left out again"
        return "exclude", row.outlier
    if row.code == "excluded":
        return "", "delete its line, and it is judged anew"
    if FAULTS[row.code].judged:
        return "include", "looked at"
    return "", "no decision helps: repair or replace the file"


def measures(scans: pd.DataFrame, settings: dict) -> Section:
    """What is measured, what is too low or odd, and where each scan lies."""
    included, rows = scans["status"].eq("included"), []
    z = deviations(scans)
    for name, title in TITLES.items():
        median, scale = spread(scans[name][included].to_numpy())
        least = settings[THRESHOLDS[name]] if name in THRESHOLDS else None
        beyond = (is_odd(name, z[name], settings) & included).sum()
        cells = [Cell(title), Cell(f"{median:.4g}", median), Cell(f"{scale:.3g}", scale)]
        cells += [Cell("") if least is None else Cell(f"below {least:g}")]
        cells += [
            Cell(SIDES[MEASURES[name]].format(settings["outlier_z"])),
            Cell(str(beyond), float(beyond)),
        ]
        rows.append(Row([*cells, Cell(MEANINGS[name])]))
    columns = ["Measure", "Median", "Spread", "Left out if", "Odd if", "Odd scans", "What it is"]
    caption = (
        "Median and spread (1.4826 times the median absolute deviation) of the scans that are used; z is the distance "
        f"from the median in spreads, where there are {SMALLEST_COHORT} scans or more. An odd scan is used: look at it."
    )
    picture = (
        "One point a scan: used (blue), odd or taken in spite of a doubt (amber), left out (red). Grey: the median. "
        "Dashed: the limit below which a scan is left out; dotted: beyond it a scan is odd."
    )
    blocks = [
        Picture(embedded(strips(scans, settings)), picture, "Measures of all scans"),
        Table(columns, rows, caption),
    ]
    return Section("measures", "Measures", blocks)


def strips(scans: pd.DataFrame, settings: dict) -> Figure:
    """A strip of points for each measure."""
    with matplotlib.rc_context({"font.size": 8, "text.parse_math": False}):
        figure = Figure(figsize=(10.1, 1.05 * len(MEASURES) + 0.2), layout="constrained")
        for axis, name in zip(figure.subplots(len(MEASURES), 1), MEASURES, strict=True):
            strip(axis, scans[scans[name].notna()], name, settings)
    return figure


def strip(axis: Axes, scans: pd.DataFrame, name: str, settings: dict) -> None:
    """The points of one measure; those that stand out have their names."""
    included = scans["status"].eq("included")
    colours = np.where(~included, EXCLUDED, np.where(scans["outlier"].ne("") | scans["overruled"].ne(""), ODD, IN))
    heights = (np.arange(len(scans)) * 0.618) % 1  # spread evenly, the same each time
    axis.scatter(scans[name], heights, s=14, c=colours, alpha=0.8, linewidths=0)
    median, scale = spread(scans[name][included].to_numpy())
    axis.axvline(median, color=QUIET, linewidth=0.8)
    if included.sum() >= SMALLEST_COHORT and scale:
        for side in (-1, 1):
            if MEASURES[name] in (0, side):
                axis.axvline(median + side * settings["outlier_z"] * scale, color=ODD, linewidth=0.8, linestyle=":")
    if name in THRESHOLDS:
        axis.axvline(settings[THRESHOLDS[name]], color=EXCLUDED, linewidth=0.8, linestyle="--")
    pairs = zip(scans[name], deviations(scans)[name], strict=True)
    named = [stands_out(name, value, z, settings) for value, z in pairs]
    for place in (scans[name] - median).abs()[named].nlargest(NAMED).index:
        height = heights[scans.index.get_loc(place)]
        axis.annotate(
            scans.loc[place, "scan"],
            (scans.loc[place, name], height),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color="0.25",
        )
    axis.set_title(TITLES[name], loc="left", fontsize=8.5)
    axis.set_yticks([])
    axis.set_ylim(-0.25, 1.25)
    axis.margins(x=0.08)
    axis.spines[["top", "right", "left"]].set_visible(False)


def masks(scans: pd.DataFrame) -> Section:
    """The brain outlines of all scans on the template."""
    registered = scans[scans["correlation"].notna()]
    registered = registered[[(folder / "mask.nii.gz").is_file() for folder in registered["folder"]]]
    if registered.empty:
        return Section("masks", "Brains on the template")
    caption = (
        f"The outline of each scan's brain mask on the template's brain, {len(registered)} in all: used (blue), odd or "
        "taken in spite of a doubt (amber), left out (red). Lines that leave the bundle are masks or registrations "
        "that went wrong. Axial, coronal and sagittal; the subject's right is on the left."
    )
    picture = Picture(embedded(outlines(registered), ".png"), caption, "Brain masks")
    return Section("masks", "Brains on the template", [picture])


def outlines(scans: pd.DataFrame) -> Figure:
    """The outlines of brain masks on three slices of the template; those that stand out are drawn last."""
    image = nibabel.load(scans["folder"].iloc[0] / "mask.nii.gz")
    figure = Figure(figsize=(10.1, 3.9), layout="constrained", facecolor="black")
    axis = figure.subplots()
    axis.set_axis_off()
    axis.imshow(beside(slices(template_image(image), image.affine)), origin="lower", cmap="gray", vmin=0, vmax=1.2)
    ranks = {colour: rank for rank, colour in enumerate((IN_DARK, OWN, RED_DARK))}
    colours = [
        RED_DARK if row.status != "included" else OWN if row.outlier or row.overruled else IN_DARK
        for row in scans.itertuples()
    ]
    for colour, folder in sorted(zip(colours, scans["folder"], strict=True), key=lambda pair: ranks[pair[0]]):
        shape = beside(slices(own_brain(folder), image.affine))
        axis.contour(shape, [0.5], colors=colour, linewidths=0.7, alpha=0.5 if colour == IN_DARK else 0.9)
    return figure


IN_DARK, RED_DARK = "#39a0ff", "#ff4d3d"  # on black


def template_image(image: nibabel.Nifti1Image) -> np.ndarray:
    """The template's brain on the grid of a preprocessed scan, [0, 1]."""
    return standard_brain(image.shape, image.affine)
