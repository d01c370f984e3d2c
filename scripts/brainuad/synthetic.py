"""Synthetic anomalies: copies of healthy samples with one region overwritten.

As in the paper (Malé et al., "Synthetic anomalies"): a rectangle or an ellipse, 20–30 pixels wide and high, of one
intensity, at a random centre; half of the samples hold rectangles, half ellipses. In volumes: cuboids and ellipsoids.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from brainuad.sample_set import SampleSet, SampleWriter

__all__ = ["anomaly", "kinds", "region", "synthetic"]


def synthetic(samples: Path, output: Path, settings: dict) -> None:
    """Write a sample set of the test samples of another, each with one anomaly.

    Args:
        samples: the healthy sample set.
        output: folder of the new one; its ``lesion`` is the region overwritten, its column ``source`` the row of the
            healthy original.
        settings: ``size`` (pixels, smallest and largest), ``intensity`` (range), ``centre`` (``brain`` or ``frame``),
            ``seed``.

    Raises:
        ValueError: the healthy set has no test samples.
    """
    healthy = SampleSet(samples)
    rows = healthy.rows("test")
    if len(rows) == 0:
        raise ValueError(
            f"{samples} has no test samples to put anomalies into: give its dataset a `split.test` above 0."
        )
    table = healthy.table.iloc[rows]
    names = [f"{scan}:{position}" for scan, position in zip(table["scan"], table["position"], strict=True)]
    writer = SampleWriter(output, len(rows), healthy.size)
    for row, name, kind in zip(rows, names, kinds(names, settings["seed"]), strict=True):
        brain = healthy.brain[row, 0]
        mask, record = anomaly(kind, brain, settings, sample_generator(name, settings["seed"]))
        image = np.where(mask, np.float32(record["intensity"]), healthy.images[row, 0])
        writer.add(image, brain, mask, {**healthy.table.iloc[row].to_dict(), **record, "source": row})
    writer.close()


def sample_generator(name: str, seed: int) -> np.random.Generator:
    """A generator that depends on the sample alone, not on its place in the set."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big"))


def kinds(names: Sequence[str], seed: int) -> list[str]:
    """Assign ``rectangle`` to exactly half of the samples (rounded up) and ``ellipse`` to the others.

    The samples are drawn by the hash of their names, so the order in which they stand does not matter.
    """
    order = sorted(names, key=lambda name: hashlib.sha256(f"kind:{seed}:{name}".encode()).digest())
    rectangles = set(order[: (len(order) + 1) // 2])
    return ["rectangle" if name in rectangles else "ellipse" for name in names]


def anomaly(kind: str, brain: np.ndarray, settings: dict, generator: np.random.Generator) -> tuple[np.ndarray, dict]:
    """Draw one anomaly.

    Args:
        kind: ``rectangle`` or ``ellipse``.
        brain: mask of shape *size*.
        settings: see :func:`synthetic`.
        generator: source of all randomness.

    Returns:
        The mask of the region, and its record: ``kind``, ``centre`` and ``axes`` (pixels, one a dimension, joined by
        commas) and ``intensity``.
    """
    low, high = settings["size"]
    axes = generator.integers(low, high, size=brain.ndim, endpoint=True)
    places = np.argwhere(brain) if settings["centre"] == "brain" else np.argwhere(np.ones_like(brain))
    centre = places[generator.integers(len(places))]
    intensity = float(np.float32(generator.uniform(*settings["intensity"])))
    record = {"kind": kind, "centre": joined(centre), "axes": joined(axes), "intensity": intensity}
    return region(kind, brain.shape, centre, axes), record


def joined(values: np.ndarray) -> str:
    """Write whole numbers as one field of a table."""
    return ",".join(str(int(value)) for value in values)


def region(kind: str, size: Sequence[int], centre: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Mask of a rectangle or an ellipse; what lies outside the frame is cut off.

    Args:
        size: pixels of the frame along each axis.
        centre: pixel in the middle.
        axes: full width of the region along each axis, in pixels (not semi-axes).
    """
    # A pixel belongs to the region if its own centre does; an even width has its middle between two pixels.
    offsets = [
        np.arange(length) - (middle - (0.5 if width % 2 == 0 else 0.0))
        for length, middle, width in zip(size, centre, axes, strict=True)
    ]
    relative = [
        np.abs(offset) / (width / 2) for offset, width in zip(np.meshgrid(*offsets, indexing="ij"), axes, strict=True)
    ]
    if kind == "rectangle":
        return np.max(relative, axis=0) < 1
    if kind == "ellipse":
        return np.sum(np.square(relative), axis=0) < 1
    raise ValueError(f"{kind!r} is not a kind of anomaly: use 'rectangle' or 'ellipse'.")
