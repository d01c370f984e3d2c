"""The ICBM152 brain that nilearn ships, on the grid of a picture, without nilearn's imports.

These take a second of a job that draws for a few. What scans are registered to is `volumes.template`.
"""

from collections.abc import Sequence
from importlib import resources

import nibabel
import numpy as np
from scipy import ndimage

__all__ = ["standard_brain", "standard_mask"]

FILE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
BRAIN = 0.2  # of the highest value: where nilearn's mask begins


def standard_brain(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """The brain by cubic interpolation, float32 in [0, 1]; as ``nilearn.image.resample_img`` has it.

    Args:
        shape: of the grid, three axes.
        affine: voxel → mm of the grid.
    """
    return on_grid(*read(), shape, affine, order=3).clip(0, 1)


def standard_mask(shape: Sequence[int], affine: np.ndarray) -> np.ndarray:
    """Where the brain is, bool, by the nearest voxel; the grid as of :func:`standard_brain`."""
    array, own = read()
    return on_grid((array > BRAIN).astype(np.float32), own, shape, affine, order=0) > 0


def read() -> tuple[np.ndarray, np.ndarray]:
    """The brain at 1 mm, float32 in [0, 1], and its affine."""
    image = nibabel.load(str(resources.files("nilearn") / "datasets" / "data" / FILE))
    array = np.asarray(image.dataobj, np.float32)
    return array / array.max(), image.affine


def on_grid(array: np.ndarray, own: np.ndarray, shape: Sequence[int], affine: np.ndarray, order: int) -> np.ndarray:
    """An array of the affine ``own`` on another grid, 0 beyond its edge."""
    matrix = np.linalg.solve(own, affine)
    return ndimage.affine_transform(array, matrix[:3, :3], matrix[:3, 3], output_shape=tuple(shape), order=order)
