"""The picture of a comparison of groups: mean maps and effects in axial slices, on the template."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from brainuad.figures import shown, write
from brainuad.standard_brain import standard_brain

__all__ = ["Panel", "group_figure"]

SLICES = 6
CELL, LEFT, RIGHT, TOP, BOTTOM, GAP, BETWEEN = 1.35, 1.45, 0.75, 0.5, 0.3, 0.03, 0.08  # inches; CELL is a slice's width
MINUS = "\N{MINUS SIGN}"
PERCENTILE = 99.5
OUTLINE = "#1fd655"
FAINTEST = 0.2  # opacity of a value of 0


@dataclass(frozen=True)
class Panel:
    """A row of slices.

    Attributes:
        title: at its left.
        values: (x, y, z), NaN where there is nothing to show.
        scale: rows of the same scale share their colours.
        outline: where something is found, or None.
    """

    title: str
    values: np.ndarray
    scale: str
    outline: np.ndarray | None = None


def group_figure(panels: Sequence[Panel], affine: np.ndarray, title: str, level: float) -> Figure:
    """Rows of slices on the template's brain: red is higher (more abnormal), blue is lower.

    Args:
        panels: from top to bottom.
        affine: of their grid.
        title: of the picture.
        level: of false discoveries, for the note beneath.
    """
    heights, shape = slices(panels), panels[0].values.shape
    background = standard_brain(shape, affine)
    height = CELL * shape[1] / shape[0]
    total = TOP + len(panels) * (height + BETWEEN) + BOTTOM
    figure = Figure(figsize=(max(LEFT + len(heights) * (CELL + GAP) + RIGHT, 5.2), total))
    for row, panel in enumerate(panels):
        limit = limit_of([other for other in panels if other.scale == panel.scale])
        axes = cells(figure, len(heights), total - TOP - row * (height + BETWEEN) - height, height)
        for axis, place in zip(axes, heights, strict=False):
            drawn = draw(axis, panel, background, place, limit)
        label(figure, axes, panel, drawn)
        if row == 0:
            for axis, place in zip(axes, heights, strict=False):
                axis.set_title(f"z = {(affine @ [0, 0, place, 1])[2]:.0f} mm".replace("-", MINUS), fontsize=7)
            write(axes[0], 0.04, 0.5, "R")
            write(axes[0], 0.96, 0.5, "L")
    figure.suptitle(title, fontsize=10, y=1 - 0.12 / total, va="top")
    note = f"Red: above zero, more abnormal. Outlined: what is found, at a false discovery rate of {level:g}."
    figure.text(0.5, 0.08 / total, note, fontsize=6.5, ha="center", va="bottom")
    return figure


def cells(figure: Figure, columns: int, bottom: float, height: float) -> list[Axes]:
    """A row of empty cells and the place of a colour bar after them; lengths in inches."""
    width, total = figure.get_size_inches()
    left = LEFT + (width - LEFT - columns * (CELL + GAP) - RIGHT) / 2  # few slices stand in the middle
    boxes = [(left + column * (CELL + GAP), bottom, CELL, height) for column in range(columns)]
    boxes.append((left + columns * (CELL + GAP) + 0.08, bottom + 0.15 * height, 0.1, 0.7 * height))
    axes = [figure.add_axes((x / width, y / total, w / width, h / total)) for x, y, w, h in boxes]
    for axis in axes[:-1]:
        axis.set(xticks=[], yticks=[], frame_on=False)
    return axes


def label(figure: Figure, axes: Sequence[Axes], panel: Panel, drawn: AxesImage) -> None:
    """The title beside a row and what its colours mean."""
    box = axes[0].get_position()
    x, y = box.x0 - 0.1 / figure.get_figwidth(), (box.y0 + box.y1) / 2
    title = "\n".join(line for part in panel.title.split("\n") for line in textwrap.wrap(part, 20))
    figure.text(x, y, title, fontsize=8, ha="right", va="center")
    bar = figure.colorbar(ScalarMappable(drawn.norm, drawn.cmap), cax=axes[-1])
    bar.ax.tick_params(labelsize=6, length=2)
    bar.ax.set_title(panel.scale, fontsize=7)


def slices(panels: Sequence[Panel]) -> list[int]:
    """Heights to show: evenly spread over those of which most is covered, and through what is found most."""
    extent = np.isfinite(panels[-1].values).sum(axis=(0, 1))
    extent = extent if extent.any() else np.isfinite(panels[0].values).sum(axis=(0, 1))
    covered = np.flatnonzero(extent >= 0.3 * extent.max())
    places = {int(covered[round(share)]) for share in np.linspace(0, len(covered) - 1, SLICES)}
    found = sum(panel.outline.sum(axis=(0, 1)) for panel in panels if panel.outline is not None)
    if np.any(found) and not places & {most := int(np.argmax(found))}:
        places.remove(min(places, key=lambda place: abs(place - most)))
        places.add(most)
    return sorted(places)


def limit_of(panels: Sequence[Panel]) -> float:
    """End of the colours of a scale, which begin at its negative."""
    values = np.concatenate([np.abs(panel.values[np.isfinite(panel.values)]) for panel in panels])
    return float(np.percentile(values, PERCENTILE)) or 1.0 if len(values) else 1.0


def draw(axis: Axes, panel: Panel, background: np.ndarray, place: int, limit: float) -> AxesImage:
    """One slice; returns what the colour bar is of."""
    axis.imshow(shown(background[..., place]), cmap="gray", vmin=0, vmax=1.6, origin="lower")
    values = np.ma.masked_invalid(shown(panel.values[..., place]))
    # The anatomy shows through where there is little to see.
    opacity = FAINTEST + (1 - FAINTEST) * np.clip(np.abs(values.filled(0)) / limit, 0, 1)
    drawn = axis.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, origin="lower", alpha=opacity)
    if panel.outline is not None and panel.outline[..., place].any():
        axis.contour(shown(panel.outline[..., place]).astype(float), [0.5], colors=OUTLINE, linewidths=0.8)
    return drawn
