"""Synthetic cohorts: copies of healthy test samples, each with one anomaly of known place.

By default as in the paper (Malé et al., "Synthetic anomalies"): a rectangle or an ellipse, 20–30 pixels wide and high,
of one intensity, at a random centre; half of the samples hold rectangles, half ellipses. ``brainuad.anomalies`` has the
other kinds. A grid of kind × size × intensity puts the same samples into each of its cells.
"""

import hashlib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from brainuad.anomalies import OVERWRITING, Anomaly, change
from brainuad.sample_set import SampleSet, SampleWriter, hold_lesion

__all__ = ["draw", "grid", "kinds", "spread", "synthetic"]


def synthetic(samples: Path, output: Path, settings: dict, reference: str | None = None) -> None:
    """Write a sample set of the healthy test samples of another, each with one anomaly.

    Subjects with a lesion in any scan are left out and, with a reference, those of another group or of none.

    Args:
        samples: the healthy sample set.
        output: folder of the new one; its ``lesion`` is the mask of the anomaly, its column ``source`` the row of the
            healthy original. With a grid, a column ``size`` holds the cell's.
        settings: ``kinds``, ``size`` (pixels, smallest and largest), ``intensity`` (range), ``centre`` (``brain`` or
            ``frame``), ``seed``, and ``grid``: None, or a dict of ``size`` (pixels), ``intensity`` and ``samples``.
        reference: the group that is healthy; None takes all.

    Raises:
        ValueError: the healthy set has no test samples.
    """
    healthy = SampleSet(samples)
    table = healthy_samples(healthy, reference)
    if table.empty:
        raise ValueError(
            f"{samples} has no healthy test samples to put anomalies into: give its dataset a `split.test` above 0."
        )
    names = table["scan"] + ":" + table["position"].astype(str)
    planned = grid(names, table["subject"], settings) if settings["grid"] else one_each(names, settings)
    writer = SampleWriter(output, len(planned), healthy.size)
    for row, kind, cell in planned:
        brain, generator = healthy.brain[row, 0], sample_generator(names[row], settings["seed"])
        anomaly = draw(kind, brain, settings | cell, generator)
        image, mask = change(healthy.images[row, 0], brain, anomaly, generator)
        record = {**anomaly._asdict(), "centre": joined(anomaly.centre), "axes": joined(anomaly.axes)}
        if cell:
            record |= {key: cell[key][0] for key in ("size", "intensity")}
        writer.add(image, brain, mask, {**table.loc[row].to_dict(), **record, "source": row})
    writer.close()
    print(f"{len(planned)} samples with anomalies in {output}")


def healthy_samples(samples: SampleSet, reference: str | None) -> pd.DataFrame:
    """The rows of test samples of subjects who are healthy in all of them."""
    table = samples.table.iloc[samples.rows("test")]
    ill = hold_lesion(table) | np.array([samples.lesion[row].any() for row in table.index], dtype=bool)
    if reference is not None:
        ill |= table["group"].ne(reference).to_numpy()
    return table[~table["subject"].isin(table["subject"][ill])]


def one_each(names: pd.Series, settings: dict) -> list[tuple[int, str, dict]]:
    """Row and kind of each sample, which holds one anomaly; size and intensity are drawn."""
    drawn = kinds(names, settings["seed"], settings["kinds"])
    return [(row, kind, {}) for row, kind in zip(names.index, drawn, strict=True)]


def grid(names: pd.Series, subjects: pd.Series, settings: dict) -> list[tuple[int, str, dict]]:
    """Row, kind and settings of each sample of a grid, cell by cell.

    Args:
        names: of the healthy samples, by row.
        subjects: whose they are, by row.
        settings: see :func:`synthetic`; each cell has one size and one intensity in place of their ranges.
    """
    cells = settings["grid"]
    chosen = spread(names, subjects, cells["samples"], settings["seed"])
    return [
        (row, kind, {"size": [size, size], "intensity": [intensity, intensity]})
        for kind, size, intensity in itertools.product(settings["kinds"], cells["size"], cells["intensity"])
        for row in chosen
    ]


def spread(names: pd.Series, subjects: pd.Series, count: int, seed: int) -> list[int]:
    """Rows of up to ``count`` samples, ascending: one of every subject before a second of any.

    Samples are drawn by the hash of their names: of new ones each pushes out one at most, and the others stay.
    """
    order = names.map(lambda name: digest(f"grid:{seed}:{name}")).sort_values()
    turns = subjects[order.index].groupby(subjects).cumcount()
    return sorted(turns.sort_values(kind="stable").index[:count])


def sample_generator(name: str, seed: int) -> np.random.Generator:
    """A generator that depends on the sample alone: not on its place in the set, nor on the cell of a grid."""
    return np.random.default_rng(int.from_bytes(digest(f"{seed}:{name}")[:8], "big"))


def kinds(names: Sequence[str], seed: int, known: Sequence[str]) -> list[str]:
    """Assign each kind to an equal share of the samples; where they do not divide, the first kinds get one more.

    The samples are drawn by the hash of their names, so the order in which they stand does not matter.
    """
    order = sorted(names, key=lambda name: digest(f"kind:{seed}:{name}"))
    parts = np.array_split(order, len(known))
    drawn = {name: kind for kind, part in zip(known, parts, strict=True) for name in part}
    return [drawn[name] for name in names]


def digest(text: str) -> bytes:
    """A hash that is the same on every machine."""
    return hashlib.sha256(text.encode()).digest()


def draw(kind: str, brain: np.ndarray, settings: dict, generator: np.random.Generator) -> Anomaly:
    """Draw axes, centre and intensity of one anomaly.

    Args:
        kind: see ``brainuad.anomalies``; one that changes the brain alone has its centre there, whatever ``centre`` is.
        brain: mask of shape *size*.
        settings: see :func:`synthetic`.
        generator: source of all randomness.
    """
    low, high = settings["size"]
    axes = generator.integers(low, high, size=brain.ndim, endpoint=True)
    anywhere = settings["centre"] == "frame" and kind in OVERWRITING
    places = np.argwhere(np.ones_like(brain) if anywhere else brain)
    centre = places[generator.integers(len(places))]
    intensity = float(np.float32(generator.uniform(*settings["intensity"])))
    return Anomaly(kind, centre, axes, intensity)


def joined(values: Sequence[int]) -> str:
    """Write whole numbers as one field of a table."""
    return ",".join(str(int(value)) for value in values)
