"""The regions of an atlas on the grid of the maps: a NIfTI of labels in template space, and their names."""

from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np
import pandas as pd

from brainuad.manifest import ManifestError, read_table
from brainuad.quality import template_brain

__all__ = ["Atlas", "means", "read_atlas"]

INSIDE = 0.75  # of the labelled voxels lie in the template's brain, or the labels are in another space
MOST = 10_000  # regions; more are no labels but intensities


class Atlas(NamedTuple):
    """Regions on the grid of the maps.

    Attributes:
        places: for each voxel of the grid the place of its region in the table, -1 without one; (x, y, z).
        table: ``region`` (the label), ``name``, ``voxels`` on the grid: 0 of a region that is too small for it or
            outside it; one row a region, by label.
    """

    places: np.ndarray
    table: pd.DataFrame


def read_atlas(labels: Path, names: Path | None, grid: nibabel.Nifti1Image) -> Atlas:
    """Bring labels to the grid of the maps: each voxel has the label of the voxel that its centre lies in.

    Args:
        labels: NIfTI of whole numbers, 0 for no region, in the space of the template; its grid may be another.
        names: TSV or CSV with the columns ``index`` and ``name``; None names regions by their labels.
        grid: an image on the grid of the maps.

    Raises:
        ManifestError: the file is no such image, or lies in another space; the names are not those of the labels.
    """
    image, values = read_labels(Path(labels))
    known = np.unique(values)
    known = known[known != 0]
    if not 0 < len(known) <= MOST:
        found = "no label but 0" if not len(known) else f"{len(known)} labels"
        raise ManifestError(f"{labels} has {found}: regions are whole numbers, one a region, 0 outside all of them.")
    check_space(labels, image, values)
    resampled = nearest(values, image.affine, grid)
    places = np.searchsorted(known, resampled).astype(np.int32)
    places[resampled == 0] = -1
    counts = np.bincount(places[places >= 0], minlength=len(known))
    titles = region_names(names, labels, known) if names else [str(label) for label in known]
    return Atlas(places, pd.DataFrame({"region": known, "name": titles, "voxels": counts}))


def read_labels(path: Path) -> tuple[nibabel.Nifti1Image, np.ndarray]:
    """The image and its voxels as whole numbers."""
    try:
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise ManifestError(f"The regions {path} do not exist.") from None
    except Exception as error:  # nibabel raises whatever a broken file makes it stumble over
        raise ManifestError(f"The regions {path} cannot be read ({type(error).__name__}): is it a NIfTI?") from None
    values = values[..., 0] if values.ndim == 4 and values.shape[3] == 1 else values
    if values.ndim != 3:
        raise ManifestError(f"{path} has {values.ndim} dimensions: regions are one volume of labels, no probabilities.")
    if abs(np.linalg.det(image.affine)) < 1e-6 or not np.isfinite(image.affine).all():
        raise ManifestError(f"{path} has no usable affine, so that nobody knows where its regions are.")
    whole = np.rint(values)
    if not np.isfinite(values).all() or np.abs(values - whole).max() > 1e-3:
        raise ManifestError(f"{path} holds values that are no whole numbers: labels are needed, not probabilities.")
    return image, whole.astype(np.int64)


def check_space(path: Path, image: nibabel.Nifti1Image, values: np.ndarray) -> None:
    """Refuse labels of which many lie outside the template's brain: their space is not its."""
    inside = template_brain(nibabel.Nifti1Image(np.zeros(values.shape, np.uint8), image.affine))
    share = inside[values != 0].mean()
    if share < INSIDE:
        raise ManifestError(
            f"{path}: {share:.0%} of its labelled voxels lie in the brain of the template. It is not in template space "
            "(MNI, the ICBM 152 template): bring it there, or take an atlas of that space."
        )


def nearest(values: np.ndarray, affine: np.ndarray, grid: nibabel.Nifti1Image) -> np.ndarray:
    """The values of the voxels in which the centres of the grid's voxels lie, 0 outside the image."""
    matrix = np.linalg.solve(affine, grid.affine)
    shape = grid.shape[:3]
    result = np.zeros(shape, values.dtype)
    plane = np.indices(shape[:2]).reshape(2, -1)
    for height in range(shape[2]):  # slice by slice, as coordinates take more memory than labels
        points = np.vstack([plane, np.full(plane.shape[1], height), np.ones(plane.shape[1])])
        # Halfway between two voxels rounding must not decide anew in each slice.
        voxels = np.floor(matrix[:3] @ points + 0.5 + 1e-6).astype(int)
        valid = ((voxels >= 0) & (voxels < np.array(values.shape)[:, None])).all(axis=0)
        result[..., height][tuple(plane[:, valid])] = values[tuple(voxels[:, valid])]
    return result


def region_names(path: Path, labels: Path, known: np.ndarray) -> list[str]:
    """The name of each label; those that the table lacks are named by their number."""
    table = read_table(Path(path), "table of names")
    if not {"index", "name"} <= set(table):
        raise ManifestError(f"{path} needs the columns index and name; found {', '.join(table.columns[:5])}.")
    named = dict(zip(table["index"], table["name"], strict=True))
    if len(named) < len(table):
        twice = table["index"][table["index"].duplicated()].iloc[0]
        raise ManifestError(f"{path} names the label {twice} more than once.")
    if not set(named) & {str(label) for label in known}:
        raise ManifestError(
            f"{path} names none of the {len(known)} labels of {labels}, the first of which is {known[0]}."
        )
    return [named.get(str(label)) or str(label) for label in known]


def means(values: np.ndarray, covered: np.ndarray, atlas: Atlas) -> np.ndarray:
    """Mean of the covered voxels of each region, (regions,); NaN of a region without any."""
    chosen = covered & (atlas.places >= 0)
    places, number = atlas.places[chosen], len(atlas.table)
    counts, sums = np.bincount(places, minlength=number), np.bincount(places, values[chosen], number)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
