"""The pictures that the report draws itself; a model has the same colour in all of them.

Floors are grey and dashed. Text is drawn as it is: a label may hold the signs of mathematical notation.
"""

import functools
import itertools
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainuad.figures import PERCENTILE, draw, outline

__all__ = ["PANELS", "Case", "Look", "Panel", "cases", "curves", "differences", "forest", "looks", "rates"]

TRAINED = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#882255", "#999933", "#332288", "#44aa99")
FLOORS = ("#4d4d4d", "#808080", "#a3a3a3", "#666666", "#949494")
DASHES = ((0, (4, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (2, 2)), (0, (8, 3)))
MARKERS = ("D", "s", "^", "v", "P")
DRAWING = {
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.6",
    "xtick.color": "0.3",
    "ytick.color": "0.3",
}
WIDTH = 10.1  # of a picture in inches
PANELS = 12  # of a picture; what is beyond stands in the tables
CELL = 1.3  # width of a slice in inches


@dataclass(frozen=True)
class Look:
    """How a model is drawn wherever it appears."""

    label: str
    floor: bool
    colour: str
    line: object
    marker: str


def looks(models: dict[str, dict]) -> dict[str, Look]:
    """The look of each model, in order.

    Args:
        models: name to ``label`` and ``floor``.
    """
    trained, floors = itertools.count(), itertools.count()
    result = {}
    for name, entry in models.items():
        label = entry.get("label") or name
        if entry["floor"]:
            place = next(floors)
            look = Look(label, True, *(options[place % len(options)] for options in (FLOORS, DASHES, MARKERS)))
        else:
            look = Look(label, False, TRAINED[next(trained) % len(TRAINED)], "-", "o")
        result[name] = look
    return result


def drawn(function):
    """Draw with the report's settings, whatever those of the caller are."""

    @functools.wraps(function)
    def wrapped(*arguments, **options):
        with matplotlib.rc_context(DRAWING):
            return function(*arguments, **options)

    return wrapped


def panels(count: int, height: float, columns: int = 3, shared: bool = True) -> tuple[Figure, list[Axes]]:
    """A figure with that many axes of a height in inches, left to right and top to bottom."""
    columns = max(min(columns, count), 1)
    rows = -(-count // columns)
    width = WIDTH if columns > 1 else 6.2
    figure = Figure(figsize=(width, rows * height + 0.35), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False, sharey=shared).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def dots(axis: Axes, rows: pd.DataFrame, look: dict[str, Look], places: dict[str, int]) -> None:
    """A dot and its interval for each model, on the line of its place.

    Args:
        axis: to draw on.
        rows: columns ``model``, ``value``, ``low``, ``high``; bounds may be NaN.
        look: by model.
        places: height of each model.
    """
    for row in rows.dropna(subset=["value"]).itertuples():
        colour, place = look[row.model].colour, places[row.model]
        if not (pd.isna(row.low) or pd.isna(row.high)):
            axis.plot([row.low, row.high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axis.plot(
            row.value,
            place,
            look[row.model].marker,
            color=colour,
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.6,
        )


def name_lines(axis: Axes, look: dict[str, Look], places: dict[str, int]) -> None:
    """The models' labels on the left, floors in grey; the first is at the top."""
    axis.set_ylim(-0.6, len(places) - 0.4)
    axis.set_yticks(list(places.values()), [look[name].label for name in places])
    for text, name in zip(axis.get_yticklabels(), places, strict=False):  # none inside a row of panels
        text.set_color("0.5" if look[name].floor else "black")
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="0.92")
    axis.set_axisbelow(True)


@dataclass(frozen=True)
class Panel:
    """Numbers to draw beside each other.

    Attributes:
        title: of the panel.
        rows: columns ``model``, ``value``, ``low``, ``high``; bounds may be NaN.
        line: what a model has to exceed; NaN for nothing.
        lower: whether lower is better.
    """

    title: str
    rows: pd.DataFrame
    line: float = math.nan
    lower: bool = False


@drawn
def forest(parts: Sequence[Panel], look: dict[str, Look], ranks: bool = False) -> Figure:
    """Every model's value with its interval.

    Args:
        parts: the panels.
        look: by model.
        ranks: whether the values are ranks, which are whole numbers.
    """
    shown = [name for name in look if any(name in set(part.rows["model"]) for part in parts)]
    places = {name: len(shown) - 1 - index for index, name in enumerate(shown)}
    figure, axes = panels(len(parts), 0.21 * len(shown) + 0.7)
    for axis, part in zip(axes, parts, strict=True):
        dots(axis, part.rows, look, places)
        name_lines(axis, look, places)
        axis.set_title(textwrap.fill(part.title, 34), loc="left")
        if ranks:
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        values = np.append(part.rows[["value", "low", "high"]].to_numpy(float), part.line)
        values = values[np.isfinite(values)]
        if values.size and not math.isnan(part.line):
            margin = 0.06 * np.ptp(values) or 0.05
            low, high = values.min() - margin, values.max() + margin
            axis.axvline(part.line, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
            axis.axvspan(*((part.line, high) if part.lower else (low, part.line)), color="0.96", zorder=0)
            axis.set_xlim(low, high)
    return figure


@drawn
def differences(table: pd.DataFrame, look: dict[str, Look]) -> Figure:
    """Published numbers (hollow) and ours with their intervals (filled), a panel a dataset and metric.

    Args:
        table: columns ``title``, ``model``, ``published``, ``ours``, ``low``, ``high``.
        look: by model.
    """
    shown = [name for name in look if name in set(table["model"])]
    places = {name: len(shown) - 1 - index for index, name in enumerate(shown)}
    groups = list(table.groupby("title", sort=False))
    figure, axes = panels(len(groups), 0.21 * len(shown) + 0.7)
    for axis, (title, rows) in zip(axes, groups, strict=True):
        for row in rows.dropna(subset=["published", "ours"]).itertuples():
            axis.plot([row.published, row.ours], [places[row.model]] * 2, color="0.8", linewidth=0.8, zorder=0)
        dots(axis, rows.assign(value=rows["ours"]), look, places)
        for row in rows.itertuples():
            place = places[row.model]
            axis.plot(row.published, place, "o", markersize=6, color=look[row.model].colour, markerfacecolor="white")
        name_lines(axis, look, places)
        axis.set_title(title, loc="left")
    return figure


@drawn
def curves(runs: dict[str, list[pd.DataFrame]], look: dict[str, Look], prevalence: float) -> Figure:
    """ROC curve on the left, precision over recall on the right; a line a model and seed.

    Args:
        runs: by model, columns ``true_positive_rate``, ``false_positive_rate``, ``precision``.
        look: by model.
        prevalence: precision of a random score; NaN if unknown.
    """
    figure = Figure(figsize=(WIDTH, 4.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in sorted((name for name in look if name in runs), key=lambda name: not look[name].floor):
        style = {"color": look[name].colour, "linestyle": look[name].line, "linewidth": 1.4}
        for index, run in enumerate(runs[name]):
            label = look[name].label if index == 0 else None
            left.plot(run["false_positive_rate"], run["true_positive_rate"], **style)
            right.plot(run["true_positive_rate"], run["precision"], label=label, **style)
    left.plot([0, 1], [0, 1], color="0.8", linewidth=0.8, zorder=0)
    left.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    if not np.isnan(prevalence):
        right.axhline(prevalence, color="0.8", linewidth=0.8, zorder=0)
    right.set(xlabel="recall", ylabel="precision", title="Precision and recall")
    for axis in (left, right):
        axis.set(xlim=(0, 1), ylim=(0, 1.01))
        axis.grid(color="0.94")
    handles, labels = right.get_legend_handles_labels()
    order = [labels.index(look[name].label) for name in look if name in runs]
    handles, labels = [handles[i] for i in order], [labels[i] for i in order]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(order), 5), frameon=False)
    return figure


@drawn
def rates(table: pd.DataFrame, look: dict[str, Look], target: float) -> Figure:
    """A panel a grouping; on each line a group, in it a dot and interval a model.

    Args:
        table: columns ``grouping``, ``group``, ``model``, ``value``, ``low``, ``high``, ``n`` (subjects).
        look: by model.
        target: the rate that was aimed at, drawn as a line.
    """
    shown = [name for name in look if name in set(table["model"])]
    groupings = list(table.groupby("grouping", sort=False))
    sizes = [rows["group"].nunique() for _, rows in groupings]
    step = 0.085 * len(shown) + 0.12
    figure = Figure(figsize=(WIDTH, sum(sizes) * step + 0.55 * len(sizes) + 0.5), layout="constrained")
    axes = figure.subplots(len(sizes), 1, squeeze=False, sharex=True, height_ratios=sizes)[:, 0]
    offsets = dict(zip(shown, np.linspace(0.36, -0.36, len(shown)) if len(shown) > 1 else [0.0], strict=True))
    for axis, (grouping, rows) in zip(axes, groupings, strict=True):
        groups = list(dict.fromkeys(rows["group"]))[::-1]
        for place, group in enumerate(groups):
            dots(axis, rows[rows["group"] == group], look, {name: place + offsets[name] for name in shown})
        counts = rows.groupby("group")["n"].max()
        axis.set_yticks(range(len(groups)), [f"{group} (n = {counts[group]:.0f})" for group in groups])
        axis.set_ylim(-0.6, len(groups) - 0.4)
        axis.tick_params(axis="y", length=0)
        axis.hlines(np.arange(len(groups) - 1) + 0.5, 0, 1, color="0.92", transform=axis.get_yaxis_transform())
        axis.axvline(target, color="0.5", linewidth=0.8, linestyle=(0, (4, 2)))
        axis.set_title(f"By {grouping}", loc="left")
    axes[-1].set_xlabel("share of healthy pixels marked")
    axes[-1].set_xlim(left=0)
    handles = [axes[0].plot([], [], look[n].marker, color=look[n].colour, label=look[n].label)[0] for n in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(shown), 5), frameon=False)
    return figure


@dataclass(frozen=True)
class Case:
    """One slice of a scan and what a model makes of it; arrays (x, y). ``value`` is how well it does, in words."""

    scan: str
    value: str
    image: np.ndarray
    lesion: np.ndarray
    reconstruction: np.ndarray
    map: np.ndarray


@drawn
def cases(rows: dict[str, Sequence[Case]], heads: Sequence[str]) -> Figure:
    """Slices of one model: a line a dataset, in it input, reconstruction and map of each case.

    Args:
        rows: by title of the line, one case for each of ``heads``.
        heads: titles of the groups of three.
    """
    shape = next(iter(rows.values()))[0].image.shape
    height, left, top, gap, between = CELL * shape[1] / shape[0], 1.1, 0.3, 0.04, 0.35
    step = height + 0.24
    width = left + len(heads) * (3 * (CELL + gap) + between)
    total = top + step * len(rows) + 0.05
    figure = Figure(figsize=(width, total))
    maps = np.concatenate([case.map.ravel() for line in rows.values() for case in line])
    limit = float(np.percentile(maps, PERCENTILE)) or 1.0
    for row, (title, line) in enumerate(rows.items()):
        bottom = total - top - (row + 1) * step + 0.04
        figure.text(0, (bottom + height / 2) / total, broken(title), va="center", fontsize=8)
        for group, case in enumerate(line):
            start = left + group * (3 * (CELL + gap) + between)
            figure.text(
                start / width,
                (bottom + height + 0.05) / total,
                f"{case.scan}   {case.value}",
                fontsize=7.5,
                color="0.3",
            )
            arrays = ((case.image, "image", 1), (case.reconstruction, "image", 1), (case.map, "map", limit))
            for column, (array, kind, end) in enumerate(arrays):
                x = start + column * (CELL + gap)
                axis = figure.add_axes((x / width, bottom / total, CELL / width, height / total))
                axis.set(xticks=[], yticks=[], frame_on=False)
                draw(axis, array, kind, end)
                if kind == "map" or column == 0:
                    outline(axis, case.lesion)
    for group, head in enumerate(heads):
        start = left + group * (3 * (CELL + gap) + between)
        figure.text(start / width, (total - 0.17) / total, f"{head}: input, reconstruction, map", fontsize=9)
    return figure


def broken(name: str, width: int = 15) -> str:
    """A name on several lines, cut at its underscores where it can be."""
    words = name.replace("_", "_ ")
    return "\n".join(line.replace("_ ", "_") for line in textwrap.wrap(words, width))
