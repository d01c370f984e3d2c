"""The figures of a study: what the models make of a healthy and an abnormal slice, and how they learned.

Slices are shown in radiological convention: anterior up, the subject's right on the left of the picture.
"""

import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from brainuad.sample_set import SampleSet

__all__ = ["Example", "axial", "figures", "learning_curves_figure", "qualitative_figure", "typical"]

rcParams["text.parse_math"] = False  # a label may hold a dollar

CELL = 1.25  # width of a slice in inches
COLOURS = {"image": "gray", "map": "inferno", "outline": "#39d5ff"}
PERCENTILE = 99.5
LINES = {
    "training loss": {"color": "#1f77b4", "linewidth": 1.2},
    "validation loss": {"color": "#d95f02", "linewidth": 1.2},
    "learning rate": {"color": "0.6", "linewidth": 0.9, "linestyle": "--"},
}


@dataclass(frozen=True)
class Example:
    """One slice and what the models make of it; all arrays (x, y).

    Attributes:
        title: what kind of slice it is.
        image: the input, in [0, 1].
        lesion: mask of what is abnormal; empty in healthy slices.
        reconstructions: by label of the model, in [0, 1].
        maps: anomaly maps by label of the model.
    """

    title: str
    image: np.ndarray
    lesion: np.ndarray
    reconstructions: dict[str, np.ndarray]
    maps: dict[str, np.ndarray]


def figures(
    score: list[Path],
    sample_set: list[Path],
    history: list[Path],
    qualitative: Path,
    learning_curves: Path,
    settings: dict,
) -> None:
    """Write both figures as PNG.

    Args:
        score: score folders ``…/{model}/{seed}/{dataset}``, or a file of each; of several seeds the first is shown.
        sample_set: folders ``…/{dataset}`` of the sample sets that were scored, or a file of each.
        history: training histories ``…/{model}/{seed}/history.tsv``.
        qualitative: PNG to write.
        learning_curves: PNG to write.
        settings: ``healthy`` and ``anomalous`` (names of datasets; None leaves the block out), ``models``
            (name to label, in order) and ``simulated``.
    """
    labels = settings["models"]
    scores: dict[str, dict[str, Path]] = {}
    for folder in map(folder_of, score):
        scores.setdefault(folder.name, {}).setdefault(labels[folder.parent.parent.name], folder)
    sets = {folder.name: SampleSet(folder) for folder in map(folder_of, sample_set)}
    datasets = dict.fromkeys(name for name in (settings["healthy"], settings["anomalous"]) if name is not None)
    examples = [example(dataset, sets[dataset], scores.get(dataset, {})) for dataset in datasets]
    save(qualitative_figure(examples, list(labels.values()), settings["simulated"]), qualitative)
    histories: dict[str, list[pd.DataFrame]] = {label: [] for label in labels.values()}
    for path in map(Path, history):
        histories[labels[path.parent.parent.name]].append(pd.read_csv(path, sep="\t"))
    save(learning_curves_figure(histories, settings["simulated"]), learning_curves)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that is the same each time."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=200, metadata={"Software": None})


def folder_of(path: Path) -> Path:
    """The folder itself: rules name a file in it, other callers may name the folder."""
    path = Path(path)
    return path if path.is_dir() else path.parent


def example(dataset: str, samples: SampleSet, folders: dict[str, Path]) -> Example:
    """The typical test sample of a set, with the scores of each model (label to score folder)."""
    row = typical(samples, samples.rows("test"))
    lesion = samples.lesion[row, 0]
    arrays: dict[str, dict[str, np.ndarray]] = {"reconstruction": {}, "map": {}}
    for label, folder in folders.items():
        places = pd.read_csv(folder / "table.tsv", sep="\t", usecols=["sample"])["sample"]
        place = int(np.flatnonzero(places == row)[0])
        for name, found in arrays.items():
            found[label] = axial(np.load(folder / f"{name}.npy", mmap_mode="r")[place, 0], lesion)
    image, mask = axial(samples.images[row, 0], lesion), axial(lesion, lesion)
    title = f"{'Abnormal' if lesion.any() else 'Healthy'}\n({dataset})"
    return Example(title, image, mask, arrays["reconstruction"], arrays["map"])


def typical(samples: SampleSet, rows: np.ndarray) -> int:
    """The row whose anomaly stands out by the median amount, a choice that flatters nobody.

    An anomaly stands out by its size times the difference of its mean intensity from that of the brain around it; in a
    healthy set the brain of median size is taken.
    """
    amounts = np.array([standing_out(samples.images[row], samples.brain[row], samples.lesion[row]) for row in rows])
    if not amounts.any():
        amounts = samples.brain[rows].reshape(len(rows), -1).sum(1)
    order = np.argsort(amounts, kind="stable")
    order = order[amounts[order] > 0]
    return int(rows[order[(len(order) - 1) // 2]])


def standing_out(image: np.ndarray, brain: np.ndarray, lesion: np.ndarray) -> float:
    """Pixels of an anomaly times its contrast with the rest of the brain; 0 without one."""
    around = brain & ~lesion
    if not lesion.any() or not around.any():
        return float(lesion.sum())
    return float(lesion.sum() * abs(image[lesion].mean() - image[around].mean()))


def axial(array: np.ndarray, lesion: np.ndarray) -> np.ndarray:
    """The slice (x, y) to show: of a volume the axial one with most lesion, the middle one of several."""
    if array.ndim == 2:
        return np.asarray(array)
    extent = lesion.sum((0, 1))
    most = np.flatnonzero(extent == extent.max())
    return np.asarray(array[..., most[len(most) // 2]])


def shown(array: np.ndarray) -> np.ndarray:
    """An array (x, y), x from left to right and y from posterior to anterior, as rows and columns of a picture.

    For ``origin="lower"``: anterior up, the subject's right on the left.
    """
    return array[::-1].T


def qualitative_figure(examples: list[Example], labels: list[str], simulated: bool) -> Figure:
    """Input and, per model, reconstruction and anomaly map of each example.

    Args:
        examples: the blocks from top to bottom.
        labels: the models from left to right; one without arrays has empty cells.
        simulated: say so in the title.
    """
    figure, axes = grid(examples, len(labels) + 1)
    limits = {label: limit_of(examples, label) for label in labels}
    for index, block in enumerate(examples):
        pair = axes[2 * index : 2 * index + 2]
        draw_input(pair[:, 0], block)
        for axis, label in zip(pair[:, 1:].T, labels, strict=True):
            draw_model(axis, block, label, limits[label])
    axes[0, 0].set_title("Input", fontsize=8)
    for axis, below, label in zip(axes[0, 1:], axes[-1, 1:], labels, strict=True):
        axis.set_title(textwrap.fill(label, 16), fontsize=8)
        draw_scale(below, limits[label])
    for row, axis in enumerate(axes[:, -1]):
        axis.yaxis.set_label_position("right")
        axis.set_ylabel(("reconstruction", "anomaly map")[row % 2], fontsize=7, color="0.3", labelpad=3)
    draw_sides(axes[0, 0])
    figure.suptitle("Reconstructions and anomaly maps" + " of simulated scans" * simulated, fontsize=10, y=0.985)
    note = f"Colours: per model, from 0 to the {PERCENTILE:g}th percentile of its maps here. Outline: true anomaly."
    figure.text(0.5, 0.05 / figure.get_figheight(), note, fontsize=6.5, ha="center", va="bottom")
    return figure


def grid(examples: list[Example], columns: int) -> tuple[Figure, np.ndarray]:
    """A figure with two rows of empty cells per example; all lengths in inches."""
    left, right, top, bottom, gap, block_gap = 0.5, 0.25, 0.65, 0.5, 0.04, 0.16
    shape = examples[0].image.shape
    height = CELL * shape[1] / shape[0]
    rows = 2 * len(examples)
    width = left + columns * CELL + (columns - 1) * gap + right
    total = top + rows * (height + gap) + (len(examples) - 1) * block_gap + bottom
    figure = Figure(figsize=(width, total))
    axes = np.empty((rows, columns), dtype=object)
    for row, column in np.ndindex(rows, columns):
        x = left + column * (CELL + gap)
        y = total - top - (row + 1) * (height + gap) - row // 2 * block_gap
        axis = figure.add_axes((x / width, y / total, CELL / width, height / total))
        axis.set(xticks=[], yticks=[], frame_on=False)
        axes[row, column] = axis
    return figure, axes


def limit_of(examples: list[Example], label: str) -> float:
    """Upper end of a model's colour scale, shared by its maps."""
    maps = [block.maps[label].ravel() for block in examples if label in block.maps]
    return float(np.percentile(np.concatenate(maps), PERCENTILE)) or 1.0 if maps else 1.0


def draw_input(axes: np.ndarray, block: Example) -> None:
    """The input above and, of an abnormal slice, the mask below; the block's title beside them."""
    draw(axes[0], block.image, "image", 1)
    outline(axes[0], block.lesion)
    if block.lesion.any():
        draw(axes[1], block.lesion, "image", 1)
        write(axes[1], 0.5, 0.92, "true anomaly")
    axes[0].set_ylabel(block.title, fontsize=8, y=-0.02, labelpad=4)


def draw_model(axes: np.ndarray, block: Example, label: str, limit: float) -> None:
    """The reconstruction above, the anomaly map below."""
    if label in block.maps:
        draw(axes[0], block.reconstructions[label], "image", 1)
        draw(axes[1], block.maps[label], "map", limit)
        outline(axes[1], block.lesion)


def draw(axis: Axes, array: np.ndarray, kind: str, limit: float) -> None:
    """One slice on a scale from 0 to ``limit``."""
    axis.imshow(shown(array), cmap=COLOURS[kind], vmin=0, vmax=limit, origin="lower", aspect="equal")


def outline(axis: Axes, lesion: np.ndarray) -> None:
    """The border of the true anomaly."""
    if lesion.any():
        axis.contour(shown(lesion).astype(float), levels=[0.5], colors=COLOURS["outline"], linewidths=0.8)


def draw_sides(axis: Axes) -> None:
    """Letters for the subject's right and left."""
    write(axis, 0.04, 0.5, "R")
    write(axis, 0.96, 0.5, "L")


def write(axis: Axes, x: float, y: float, text: str) -> None:
    """Small white text at a fraction of the cell."""
    axis.text(x, y, text, color="white", fontsize=6, ha="center", va="center", transform=axis.transAxes)


def draw_scale(below: Axes, limit: float) -> None:
    """A small colour bar under the last map of a column, marked at its ends."""
    bar = below.inset_axes((0.15, -0.09, 0.7, 0.045))
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=COLOURS["map"], aspect="auto", extent=(0, 1, 0, 1))
    bar.set(yticks=[], xticks=[0, 1], xticklabels=["0", f"{limit:.2g}"])
    bar.tick_params(length=0, labelsize=6, pad=1.5)
    bar.spines[:].set_visible(False)


def learning_curves_figure(histories: dict[str, list[pd.DataFrame]], simulated: bool) -> Figure:
    """A panel per trained model: losses and learning rate over the epochs of each seed.

    Args:
        histories: by label, one a seed: columns ``epoch``, ``lr`` (0 where no weights are trained), ``loss`` and
            ``validation_loss`` (empty where not computed).
        simulated: say so in the title.
    """
    trained = {label: runs for label, runs in histories.items() if any((run["lr"] > 0).any() for run in runs)}
    columns = min(max(len(trained), 1), 2 if len(trained) <= 4 else 3)
    rows = max(-(-len(trained) // columns), 1)
    figure = Figure(figsize=(max(3.4 * columns, 4.5), 2.3 * rows + 0.5), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat[len(trained) :]:
        axis.set_axis_off()
    for axis, (label, runs) in zip(axes.flat, trained.items(), strict=False):
        draw_losses(axis, runs)
        draw_rates(axis.twinx(), runs)
        axis.set_title(label, fontsize=9)
    if trained:
        handles = [Line2D([], [], label=name, **line) for name, line in LINES.items()]
        figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    else:
        axes[0, 0].text(0.5, 0.5, "No model of this study trains weights.", fontsize=9, ha="center")
    figure.suptitle("Learning curves" + " on simulated scans" * simulated, fontsize=10)
    return figure


def draw_losses(axis: Axes, runs: list[pd.DataFrame]) -> None:
    """Training and validation loss of each seed, on a logarithmic axis where that spreads them."""
    values = []
    for run in runs:
        for name, column in (("training loss", "loss"), ("validation loss", "validation_loss")):
            known = run.dropna(subset=[column]) if column in run else run.iloc[:0]
            marker = "." if len(known) < 3 else None
            axis.plot(known["epoch"], known.get(column, []), marker=marker, **LINES[name])
            values += list(known.get(column, []))
    if values and min(values) > 0 and max(values) > 5 * min(values):
        logarithmic(axis, subs=(1, 2, 5) if max(values) < 100 * min(values) else (1,))
    axis.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    axis.tick_params(which="both", labelsize=7)
    axis.set_xlabel("epoch", fontsize=8)
    axis.set_ylabel("loss", fontsize=8)


def draw_rates(axis: Axes, runs: list[pd.DataFrame]) -> None:
    """The learning rate on the right axis; the same for all seeds."""
    rate = runs[0][runs[0]["lr"] > 0]
    axis.plot(rate["epoch"], rate["lr"], **LINES["learning rate"])
    logarithmic(axis, subs=(1,))
    decades = np.log10([rate["lr"].min() * 0.99, rate["lr"].max() * 1.01])
    axis.set_ylim(10 ** np.floor(decades[0]), 10 ** np.ceil(decades[1]))
    axis.tick_params(labelsize=7, colors="0.45")
    axis.tick_params(which="minor", right=False, labelright=False)
    axis.set_ylabel("learning rate", fontsize=8, color="0.45")


def logarithmic(axis: Axes, subs: tuple[int, ...]) -> None:
    """Make the upright axis logarithmic, with plain numbers: matplotlib's own are notation, which is not parsed here.

    Args:
        axis: of the curves.
        subs: the multiples of each power of ten that have a number.
    """
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=subs))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
