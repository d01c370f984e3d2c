"""The response of all models to a grid of synthetic anomalies: heat maps size × intensity, by kind and model."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from brainuad.figures import save
from brainuad.lesions import FOUND_SHARE
from brainuad.response import CELL, RATE

__all__ = ["response_surface", "surface_figure"]

WIDTH, HEIGHT = 0.3, 0.19  # of a cell, in inches
COLOURS = "viridis"
TITLES = {"average_precision": "Average precision inside the brain", "detection": "Anomalies detected"}
NOTES = {
    "average_precision": "Pixels of a cell's images together. A random score gets the prevalence, first row: "
    "compare along intensities and between models, not between sizes or kinds.",
    "detection": f"Share of the anomalies of whose pixels inside the brain at least {FOUND_SHARE:.0%} lie above the "
    f"threshold that {RATE:.0%} of the pixels of healthy validation scans exceed.",
}
SCALE = "Intensity: the value written by rectangle, ellipse and blob; the strength of the others, 0 being no change."


def response_surface(tables: Sequence[Path], average_precision: Path, detection: Path, settings: dict) -> None:
    """Draw both figures of one grid as PNG.

    Args:
        tables: what rule ``response`` wrote, one a model and seed.
        average_precision: PNG to write.
        detection: PNG to write.
        settings: ``models`` (name to label, in order) and ``simulated``.
    """
    table = pd.concat([pd.read_csv(path, sep="\t", dtype={"model": str}) for path in tables])
    for measure, path in (("average_precision", average_precision), ("detection", detection)):
        save(surface_figure(table, measure, settings), path)


def surface_figure(table: pd.DataFrame, measure: str, settings: dict) -> Figure:
    """Heat maps size × intensity, a column a kind, a row a model; of several seeds the mean.

    Args:
        table: rows of all models and seeds, columns as in ``response.COLUMNS``.
        measure: ``average_precision``, which has a row for the prevalence, or ``detection``.
        settings: see :func:`response_surface`.
    """
    means = table.groupby(["model", *CELL])[["prevalence", measure]].agg(pd.Series.mean, skipna=False)
    kinds = list(dict.fromkeys(table["kind"]))
    sizes, intensities = (sorted(set(table[name])) for name in ("size", "intensity"))
    rows = {label: means[measure].get(name) for name, label in settings["models"].items()}
    if measure == "average_precision":
        rows = {"Random score": table.groupby(list(CELL))["prevalence"].mean(), **rows}
    figure, axes = grid(len(rows), len(kinds), len(sizes), len(intensities))
    for place, (label, values) in enumerate(rows.items()):
        for axis, kind in zip(axes[place], kinds, strict=True):
            known = values is not None and kind in values
            cells = values[kind].unstack().reindex(sizes, columns=intensities) if known else np.nan
            draw(axis, np.broadcast_to(cells, (len(sizes), len(intensities))))
        label_row(axes[place, 0], label, sizes)
    for top, bottom, kind in zip(axes[0], axes[-1], kinds, strict=True):
        top.set_title(kind.replace("_", "-"), fontsize=8, pad=4)
        bottom.set_xticks(range(len(intensities)), [f"{value:g}" for value in intensities])
        bottom.set_xlabel("intensity", fontsize=6.5, labelpad=1)
    annotate(figure, axes, measure, table, settings["simulated"])
    return figure


def grid(rows: int, columns: int, sizes: int, intensities: int) -> tuple[Figure, np.ndarray]:
    """A figure of empty heat maps; all lengths in inches."""
    left, right, top, bottom, gap = 1.35, 0.55, 0.62, 0.8, 0.09
    map_width, map_height = max(intensities * WIDTH, 0.75), max(sizes * HEIGHT, 0.34)
    width = max(left + columns * (map_width + gap) + right, 6.5)
    height = top + rows * (map_height + gap) + bottom
    figure = Figure(figsize=(width, height))
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        x, y = left + column * (map_width + gap), height - top - map_height - row * (map_height + gap)
        axis = figure.add_axes((x / width, y / height, map_width / width, map_height / height))
        axis.set(xticks=[], yticks=[])
        axis.tick_params(length=0, labelsize=6, pad=2)
        axis.spines[:].set_visible(False)
        axes[row, column] = axis
    return figure, axes


def draw(axis: Axes, values: np.ndarray) -> None:
    """One heat map (sizes, intensities), the largest size on top, each with its value; a dash where there is none."""
    axis.set_facecolor("0.88")
    axis.imshow(values, cmap=COLOURS, vmin=0, vmax=1, origin="lower", aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        text = "\N{EN DASH}" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
        colour = "black" if np.isnan(value) or value > 0.6 else "white"
        axis.text(column, row, text, fontsize=6, ha="center", va="center_baseline", color=colour)


def label_row(axis: Axes, label: str, sizes: Sequence[int]) -> None:
    """The model and the sizes beside the first heat map of a row."""
    axis.set_yticks(range(len(sizes)), [f"{size} px" for size in sizes])
    lines = textwrap.fill(label, 14)
    place = {"xycoords": "axes fraction", "textcoords": "offset points", "ha": "right", "va": "center"}
    axis.annotate(lines, (0, 0.5), (-30, 0), **place, fontsize=7.5, parse_math=False)  # a label may hold a dollar


def annotate(figure: Figure, axes: np.ndarray, measure: str, table: pd.DataFrame, simulated: bool) -> None:
    """Title, colour scale, and what a reader has to know."""
    width, height = figure.get_size_inches()
    first, last = axes[0, -1].get_position(), axes[-1, -1].get_position()
    bar = figure.add_axes((first.x1 + 0.14 / width, last.y0, 0.1 / width, first.y1 - last.y0))
    bar.imshow(np.linspace(0, 1, 256)[:, None], cmap=COLOURS, aspect="auto", origin="lower", extent=(0, 1, 0, 1))
    bar.set(xticks=[], yticks=[0, 0.5, 1])
    bar.yaxis.tick_right()
    bar.tick_params(length=0, labelsize=6, pad=2)
    bar.spines[:].set_visible(False)
    dataset, samples, seeds = table["dataset"].iloc[0], table["n"].max(), table["seed"].nunique()
    title = f"{TITLES[measure]}: {dataset}" + " (simulated scans)" * simulated
    figure.suptitle(title, fontsize=10, y=1 - 0.1 / height, va="top")
    counted = f"{samples} samples in each cell" + f", mean of {seeds} seeds" * (seeds > 1)
    parts = (NOTES[measure], f"{SCALE} {counted}.")
    lines = [line for part in parts for line in textwrap.wrap(part, int(width * 20))]
    figure.text(0.5, 0.08 / height, "\n".join(lines), fontsize=6.5, ha="center", va="bottom", linespacing=1.3)
