"""Slices of simulated brains, for benchmarks whose result depends on what a model has learnt."""

import numpy as np
from scipy.ndimage import map_coordinates

from brainuad.anomalies import change
from brainuad.phantom import Site, simulate
from brainuad.samples import frame_coordinates
from brainuad.synthetic import draw

__all__ = ["abnormal", "slices"]

WIDTH = 192.0  # mm of a frame, as in the paper's study
CENTRE = (0.0, -18.0, 8.0)  # mm
HEIGHTS = (-10.0, 40.0)  # mm that slices lie between


def slices(subjects: range, each: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Axial slices: images (n, 1, side, side), float32 in [0, 1] with zeros outside the brain, and masks of the brains.

    Args:
        subjects: numbers of them; each brings an anatomy of its own, in its own pose.
        each: slices of a subject.
        side: pixels along each axis of the frame.
    """
    frame = {"size": (side, side), "spacing": WIDTH / side, "centre": CENTRE}
    images, brains = [], []
    for subject in subjects:
        phantom = simulate(f"benchmark{subject}", Site(), 0)
        volume = np.asarray(phantom.t1w.dataobj, np.float32)
        volume = (volume / np.percentile(volume[phantom.brain], 99)).clip(0, 1)
        for height in np.linspace(*HEIGHTS, each):
            voxels = frame_coordinates(frame, height, phantom.t1w.affine)
            image, brain = (map_coordinates(part, voxels, order=1) for part in (volume, phantom.brain.astype(float)))
            images.append(image * (brain > 0.5))
            brains.append(brain > 0.5)
    return np.stack(images)[:, None].astype(np.float32), np.stack(brains)[:, None]


def abnormal(images: np.ndarray, brains: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The images with a rectangle or an ellipse in each, so many pixels wide and high, and the masks of these."""
    settings, generator = {"size": size, "intensity": (0.0, 1.0), "centre": "brain"}, np.random.default_rng(0)
    changed, masks = [], []
    for number, (image, brain) in enumerate(zip(images[:, 0], brains[:, 0], strict=True)):
        anomaly = draw(("rectangle", "ellipse")[number % 2], brain, settings, generator)
        image, mask = change(image, brain, anomaly, generator)
        changed.append(image)
        masks.append(mask)
    return np.stack(changed)[:, None], np.stack(masks)[:, None]
