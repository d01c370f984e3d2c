"""The kinds of synthetic anomalies: functions that change one region of an image and say exactly which.

``rectangle``, ``ellipse`` and ``blob`` overwrite their region with one intensity. The others change what lies in an
ellipse, inside the brain alone, and ``intensity`` is how much: at 0 nothing changes, which makes a control. All work on
images of any dimension: ellipses become ellipsoids, rectangles cuboids.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

__all__ = ["ALTERING", "OVERWRITING", "Anomaly", "change", "region"]

BLUR = 4.0  # pixels: standard deviation of the Gaussian at intensity 1
TEXTURE = 0.25  # standard deviation of the noise at intensity 1, on the scale of the images
GRAIN = 1.0  # pixels: standard deviation of the Gaussian that the noise is smoothed with


class Anomaly(NamedTuple):
    """One anomaly.

    Attributes:
        kind: one of ``OVERWRITING`` or ``ALTERING``.
        centre: pixel in the middle.
        axes: full width of the region along each axis, in pixels (not semi-axes).
        intensity: 0 to 1, the value written by an overwriting kind and the strength of an altering one.
    """

    kind: str
    centre: Sequence[int]
    axes: Sequence[int]
    intensity: float


def change(
    image: np.ndarray, brain: np.ndarray, anomaly: Anomaly, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Put one anomaly into an image.

    Args:
        image: shape *size*, in [0, 1].
        brain: mask of shape *size*.
        anomaly: what to put where.
        generator: source of all randomness; what is drawn does not depend on the intensity.

    Returns:
        The changed image, in [0, 1], and the mask outside which nothing has changed: of an overwriting kind the region,
        of an altering one what of the ellipse lies in the brain.

    Raises:
        ValueError: the kind is unknown.
    """
    kind = anomaly.kind
    if kind in OVERWRITING:
        mask = OVERWRITING[kind](image.shape, anomaly, generator)
        return np.where(mask, np.float32(anomaly.intensity), image), mask
    if kind in ALTERING:
        mask = ellipse(image.shape, anomaly, generator) & brain
        altered = ALTERING[kind](image, brain, anomaly, generator)
        return np.where(mask, np.clip(altered, 0, 1), image).astype(np.float32), mask
    raise ValueError(f"{kind!r} is not a kind of anomaly: use one of {', '.join([*OVERWRITING, *ALTERING])}.")


def relative_offsets(size: Sequence[int], centre: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Offsets of all pixels from the centre, as shares of the half width along each axis: (dimensions, *size)."""
    # A pixel belongs to a region if its own centre does; an even width has its middle between two pixels.
    offsets = [
        (np.arange(length) - (middle - (0.5 if width % 2 == 0 else 0.0))) / (width / 2)
        for length, middle, width in zip(size, centre, axes, strict=True)
    ]
    return np.stack(np.meshgrid(*offsets, indexing="ij"))


def region(kind: str, size: Sequence[int], centre: Sequence[int], axes: Sequence[int]) -> np.ndarray:
    """Mask of a rectangle or an ellipse; what lies outside the frame is cut off.

    Args:
        kind: ``rectangle`` or ``ellipse``.
        size: pixels of the frame along each axis.
        centre: pixel in the middle.
        axes: full width of the region along each axis, in pixels (not semi-axes).
    """
    relative = relative_offsets(size, centre, axes)
    if kind == "rectangle":
        return np.max(np.abs(relative), axis=0) < 1
    if kind == "ellipse":
        return np.sum(np.square(relative), axis=0) < 1
    raise ValueError(f"{kind!r} is not a kind of region: use 'rectangle' or 'ellipse'.")


def rectangle(size: Sequence[int], anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """Mask of a rectangle."""
    return region("rectangle", size, anomaly.centre, anomaly.axes)


def ellipse(size: Sequence[int], anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """Mask of an ellipse."""
    return region("ellipse", size, anomaly.centre, anomaly.axes)


def blob(size: Sequence[int], anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """Mask with an irregular border, in one piece around its centre, inside the ellipse of the same axes.

    Where smooth noise is high the border lies near the centre, where it is low on the ellipse.
    """
    distance = np.sqrt(np.square(relative_offsets(size, anomaly.centre, anomaly.axes)).sum(0))
    noise = smooth_noise(size, np.asarray(anomaly.axes) / 5, generator)
    inside = (distance * np.exp(0.35 * noise) < 0.85) & (distance < 1)
    inside[tuple(anomaly.centre)] = True
    pieces, _ = ndimage.label(inside)
    return pieces == pieces[tuple(anomaly.centre)]


def deformation(image: np.ndarray, brain: np.ndarray, anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """Tissue pushed away from the centre (a source) or drawn towards it (a sink), each with probability one half.

    At a share r of the radius, tissue moves by intensity × r (1 - r²)² of the radius: by 0 at the centre and at the
    border, most at r = 0.45, by up to 0.29 of the radius. Nothing folds at any intensity up to 1. Linear interpolation.
    """
    direction = generator.choice([-1, 1])
    relative = relative_offsets(image.shape, anomaly.centre, anomaly.axes)
    weight = np.square(np.clip(1 - np.square(relative).sum(0), 0, 1))
    radii = np.reshape(anomaly.axes, (-1, *[1] * image.ndim)) / 2
    points = np.indices(image.shape) + direction * anomaly.intensity * weight * relative * radii
    return ndimage.map_coordinates(image, points, order=1, mode="nearest")


def blur(image: np.ndarray, brain: np.ndarray, anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """A Gaussian mean over the brain, with a standard deviation of intensity × 4 pixels whatever the region's size.

    The weights of pixels outside the brain are 0, so that its border is blurred and not darkened.
    """
    inside = brain.astype(np.float32)
    total, weight = (ndimage.gaussian_filter(array, BLUR * anomaly.intensity) for array in (image * inside, inside))
    return total / np.maximum(weight, 1e-6)


def texture(image: np.ndarray, brain: np.ndarray, anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """Fine-grained noise added, of mean 0 and standard deviation 0.25 × intensity, cut to [0, 1]."""
    return image + TEXTURE * anomaly.intensity * smooth_noise(image.shape, GRAIN, generator)


def copy_paste(image: np.ndarray, brain: np.ndarray, anomaly: Anomaly, generator: np.random.Generator) -> np.ndarray:
    """What lies elsewhere in the same brain, blended in with intensity as its weight.

    The middle of the source is drawn in the brain, at least one width away from the centre where the brain allows it.
    """
    places = np.argwhere(brain)
    distances = np.linalg.norm(places - np.asarray(anomaly.centre), axis=1)
    places = places[distances >= min(max(anomaly.axes), distances.max())]
    source = places[generator.integers(len(places))]
    pasted = ndimage.shift(image, np.asarray(anomaly.centre) - source, order=0)
    return (1 - anomaly.intensity) * image + anomaly.intensity * pasted


def smooth_noise(size: Sequence[int], sigma: float | np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise of mean 0 and variance 1 over the frame, smoothed by ``sigma`` pixels."""
    noise = ndimage.gaussian_filter(generator.standard_normal(size), sigma)
    return (noise - noise.mean()) / noise.std()


OVERWRITING = {"rectangle": rectangle, "ellipse": ellipse, "blob": blob}
ALTERING = {"deformation": deformation, "blur": blur, "texture": texture, "copy_paste": copy_paste}
