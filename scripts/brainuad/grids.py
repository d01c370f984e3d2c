"""Values of samples → the template's voxels → the voxels of the scan itself: the way back from what `samples` cut.

Beside each volume goes a mask of what is covered: voxels that the samples say something about. What is not covered is
0, and never mixed into what is.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.io import loadmat
from scipy.ndimage import map_coordinates

__all__ = ["Frame", "read_transform", "to_native"]

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts millimetres towards left and posterior, NIfTI right and anterior
AFFINE = "AffineTransform_double_3_3"  # ITK's name of the twelve numbers of one: rows of its matrix, then an offset
EDGE = 1e-6  # of a voxel: rounding must not decide on which side of a border a voxel lies


class Frame:
    """Where the samples of a study lie on the template's grid.

    Voxels along x and y are interpolated linearly between pixels; so are those along z in volumes. A slice stands for
    the voxels along z that are nearest to it and not further than half a pixel or half a voxel, whichever is more: so
    no slice is lost, and none speaks for what lies between it and the next.
    """

    def __init__(self, settings: dict, shape: Sequence[int], affine: np.ndarray):
        """Find the voxels of a grid.

        Args:
            settings: the ``samples`` section: ``size`` (pixels), ``spacing`` (mm), ``centre`` (mm), ``positions`` (mm).
            shape: of the template's grid.
            affine: voxel → mm of that grid.

        Raises:
            ValueError: the grid's axes do not run to the right, anterior and superior.
        """
        linear = np.asarray(affine, float)[:3, :3]
        if not np.allclose(linear, np.diag(np.diag(linear))) or np.diag(linear).min() <= 0:
            raise ValueError("The grid of the preprocessed scans is not that of the template: preprocess them again.")
        self.shape, self.affine, self.settings = tuple(shape), np.asarray(affine, float), settings
        self.volumes = len(settings["size"]) == 3
        self.positions = [settings["centre"][2]] if self.volumes else sorted(settings["positions"])
        self.thickness = max(settings["spacing"], float(linear[2, 2]))
        places = [self.affine[axis, 3] + np.arange(length) * linear[axis, axis] for axis, length in enumerate(shape)]
        spans = zip(places, settings["size"], settings["centre"], strict=False)
        self.weights = [between_pixels(place, size, centre, settings["spacing"]) for place, size, centre in spans]
        if not self.volumes:
            self.weights.append(nearest_slice(places[2], self.positions, self.thickness))

    @property
    def covered(self) -> np.ndarray:
        """What was cut out of the template: bool, on its grid."""
        x, y, z = (weights.any(axis=1) for weights in self.weights)
        return x[:, None, None] & y[:, None] & z

    def stack(self, positions: Sequence[float], values: np.ndarray) -> np.ndarray:
        """Samples of one scan as one array (x, y, z), slices from below to above.

        Args:
            positions: z of each sample in mm.
            values: (n, 1, *size).

        Raises:
            ValueError: the samples are not one of each position.
        """
        order = np.argsort(positions, kind="stable")
        if not np.array_equal(np.asarray(positions, float)[order], np.asarray(self.positions, float)):
            raise ValueError(
                f"the samples of a scan lie at z = {', '.join(f'{p:g}' for p in positions)} mm, where one at each of "
                f"{', '.join(f'{p:g}' for p in self.positions)} is needed"
            )
        return values[0, 0] if self.volumes else np.moveaxis(values[order, 0], 0, 2)

    def place(self, stack: np.ndarray) -> np.ndarray:
        """The array of a scan on the template's grid: float32, 0 where nothing was cut."""
        volume = np.asarray(stack, np.float64)
        for axis, weights in enumerate(self.weights):
            volume = np.moveaxis(np.tensordot(weights, volume, (1, axis)), 0, axis)
        return np.ascontiguousarray(volume, np.float32)

    def extent(self) -> dict:
        """What was cut, in millimetres of template space, for people and programs to read."""
        settings = self.settings
        halves = [size * settings["spacing"] / 2 for size in settings["size"]]
        spans = [[centre - half, centre + half] for centre, half in zip(settings["centre"], halves, strict=False)]
        known = dict(zip(("XRange", "YRange", "ZRange"), spans, strict=False))
        return known if self.volumes else {**known, "SlicesAtZ": self.positions, "SliceThickness": self.thickness}


def between_pixels(places: np.ndarray, size: int, centre: float, spacing: float) -> np.ndarray:
    """Weights (voxels, pixels) of linear interpolation along one axis; none beyond the outer edges of the pixels."""
    pixels = (places - centre) / spacing + (size - 1) / 2
    inside = (pixels >= -0.5 - EDGE) & (pixels < size - 0.5 - EDGE)
    pixels = pixels.clip(0, size - 1)
    distance = np.abs(pixels[:, None] - np.arange(size))
    return (1 - distance).clip(0) * inside[:, None]


def nearest_slice(places: np.ndarray, positions: Sequence[float], thickness: float) -> np.ndarray:
    """Weights (voxels, slices), 0 or 1: the slice that is nearest to each voxel, if the voxel lies within it."""
    offset = places[:, None] - np.asarray(positions, float)
    nearest = np.abs(offset).argmin(axis=1)[:, None] == np.arange(len(positions))
    return (nearest & (offset >= -thickness / 2 - EDGE) & (offset < thickness / 2 - EDGE)).astype(float)


def to_native(
    volume: np.ndarray,
    covered: np.ndarray,
    affine: np.ndarray,
    back: np.ndarray,
    shape: Sequence[int],
    native_affine: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """A volume of template space on the grid of the scan itself.

    A voxel gets the mean of the volume over its own extent, as far as it is covered; it counts as covered if any point
    of it is (points a template voxel apart, interpolated linearly, half of the weight on covered voxels). So thick
    slices lose nothing, and the border of what is covered does not fade.

    Args:
        volume: on the template's grid.
        covered: bool, on the template's grid; values elsewhere are not used.
        affine: voxel → mm of that grid.
        back: mm of the scan → mm of template space, (4, 4), both RAS.
        shape: of the scan, three axes.
        native_affine: voxel → mm of the scan, whatever its orientation.

    Returns:
        float32 values, 0 where not covered; bool, what is covered.
    """
    values, inside = np.zeros(shape, np.float32), np.zeros(shape, bool)
    if not covered.any():
        return values, inside
    matrix = np.linalg.inv(affine) @ back @ native_affine
    steps = [max(1, math.ceil(length - 0.05)) for length in np.linalg.norm(matrix[:3, :3], axis=0)]
    offsets = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) / n - 0.5 for n in steps], indexing="ij")).reshape(3, -1)
    box = bounds(covered, matrix, shape)
    weight, weighted = covered.astype(np.float32), np.where(covered, volume, 0).astype(np.float32)
    rows, columns = np.meshgrid(*[np.arange(side.start, side.stop) for side in box[:2]], indexing="ij")
    for plane in range(box[2].start, box[2].stop):
        voxels = np.stack([rows, columns, np.full(rows.shape, plane)]).reshape(3, -1)
        total, most, summed = (np.zeros(voxels.shape[1]) for _ in range(3))
        for offset in offsets.T:
            points = matrix[:3, :3] @ (voxels + offset[:, None]) + matrix[:3, 3:]
            share = map_coordinates(weight, points, order=1)
            summed += map_coordinates(weighted, points, order=1)
            total, most = total + share, np.maximum(most, share)
        found = most >= 0.5 - EDGE
        here = (box[0], box[1], plane)
        values[here] = np.where(found, summed / np.where(found, total, 1), 0).reshape(rows.shape)
        inside[here] = found.reshape(rows.shape)
    return values, inside


def bounds(covered: np.ndarray, matrix: np.ndarray, shape: Sequence[int]) -> tuple[slice, ...]:
    """The box of a scan's voxels beyond which nothing is covered; `matrix` takes them to voxels of the template."""
    spans = [(where.min() - 1, where.max() + 1) for where in np.nonzero(covered)]
    corners = np.stack(np.meshgrid(*spans, indexing="ij")).reshape(3, -1)
    back = np.linalg.inv(matrix)
    corners = back[:3, :3] @ corners + back[:3, 3:]
    low, high = np.floor(corners.min(axis=1)).astype(int) - 1, np.ceil(corners.max(axis=1)).astype(int) + 2
    return tuple(slice(*np.clip(span, 0, length)) for *span, length in zip(low, high, shape, strict=True))


def read_transform(path: Path) -> np.ndarray:
    """The affine of a file as a matrix (4, 4): mm → mm, both towards right, anterior and superior.

    That of ``from_template.mat`` takes points of the scan to points of the template: images go the other way. Read
    without ANTs, whose import takes a job longer than all else that it imports.

    Raises:
        ValueError: the file is not what ANTs and ITK write of an affine.
    """
    try:
        stored = loadmat(path)
    except (IndexError, ValueError):  # text, for one
        stored = {}
    if AFFINE not in stored:
        found = ", ".join(name for name in stored if not name.startswith("__")) or "nothing that is known"
        raise ValueError(f"{path} holds {found} in place of an affine ({AFFINE}): preprocess the scan again.")
    linear, offset = np.split(stored[AFFINE].ravel(), [9])
    centre = stored["fixed"].ravel()  # that stays where it is but for the offset
    matrix = np.eye(4)
    matrix[:3, :3] = linear.reshape(3, 3)
    matrix[:3, 3] = offset + centre - matrix[:3, :3] @ centre
    return LPS @ matrix @ LPS
