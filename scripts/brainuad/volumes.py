"""The four steps that bring a T1-weighted scan into template space, and the grids that they work on.

A scan is masked (`brain_mask`), freed of its bias field (`correct_bias`), registered (`register`, `warp`) and scaled
(`normalize`). Images are `ants.ANTsImage`s in RAS voxel order. With one ITK thread, set below, and an explicit seed
the same scan gives the same bytes each time on the same machine.
"""

import math
import os

# ITK reads this when it is first used: two threads make registration differ between runs (ANTsPy #86, #707).
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import ants
import nibabel
import numpy as np
from scipy import ndimage

from brainuad.faults import BadScan
from brainuad.partial_volume import keep_volume

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK counts millimetres towards left and posterior, NIfTI right and anterior
STRIPPED_VOLUME = 2300.0  # ml: what is not background in a stripped scan; heads, even cropped ones, hold more
PLAUSIBLE_VOLUME = (500.0, 2600.0)  # ml: outside it, a "brain" is none
BRAIN_VOLUME = 2000.0  # ml: above the largest brains, below any brain still attached to its head
MASK_SPACING = 2.0  # mm: the grid on which the brain of a head is searched


class Template(NamedTuple):
    """A skull-stripped brain and its mask on one grid.

    Attributes:
        brain: float32, [0, 1], 0 outside the mask.
        mask: float32, 0 or 1.
    """

    brain: ants.ANTsImage
    mask: ants.ANTsImage


@lru_cache(maxsize=2)
def template(resolution: float) -> Template:
    """The ICBM152 2009 brain that nilearn ships, on a grid of `resolution` mm (no download)."""
    from nilearn.datasets import load_mni152_brain_mask, load_mni152_template
    from nilearn.image import resample_img

    brain, mask = load_mni152_template(1), load_mni152_brain_mask(1)
    if resolution != 1:
        grid = np.eye(3) * resolution
        brain = resample_img(brain, grid, interpolation="continuous", force_resample=True, copy_header=True)
        mask = resample_img(mask, grid, interpolation="nearest", force_resample=True, copy_header=True)
    image = from_nifti(brain)
    inside = mask.get_fdata(dtype=np.float32) > 0
    return Template(like(np.where(inside, image.numpy().clip(0, 1), 0), image), like(inside, image))


def from_nifti(nifti: nibabel.Nifti1Image) -> ants.ANTsImage:
    """The 3-D volume as a float32 image whose voxels are stored nearest to RAS, whatever order the file has."""
    canonical = nibabel.as_closest_canonical(nifti)
    affine = LPS @ canonical.affine
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    array = np.ascontiguousarray(canonical.get_fdata(dtype=np.float32, caching="unchanged"))
    return ants.from_numpy(
        array, origin=affine[:3, 3].tolist(), spacing=spacing.tolist(), direction=affine[:3, :3] / spacing
    )


def to_nifti(image: ants.ANTsImage, dtype: type) -> nibabel.Nifti1Image:
    """The image as NIfTI of `dtype`, with equal sform and qform."""
    affine = np.eye(4)
    affine[:3, :3] = image.direction * np.asarray(image.spacing)
    affine[:3, 3] = image.origin
    nifti = nibabel.Nifti1Image(image.numpy().astype(dtype), LPS @ affine, dtype=dtype)
    nifti.set_sform(nifti.affine, code="aligned")
    nifti.set_qform(nifti.affine, code="aligned")
    return nifti


def like(array: np.ndarray, image: ants.ANTsImage) -> ants.ANTsImage:
    """The array as float32 on the grid of `image`; ANTs crashes on masks of unsigned characters."""
    return image.new_image_like(np.ascontiguousarray(array, dtype=np.float32))


def foreground_volume(image: ants.ANTsImage) -> float:
    """The volume of what stands out from the background, in ml."""
    return _millilitres(_foreground(image), image.spacing)


def is_skull_stripped(image: ants.ANTsImage) -> bool:
    """Whether what stands out from the background has the volume of a brain (0.5 to 2.3 l) and not of a head."""
    return bool(PLAUSIBLE_VOLUME[0] < foreground_volume(image) < STRIPPED_VOLUME)


def brain_mask(
    image: ants.ANTsImage, template: Template, skull_stripped: bool, spacing: float = 3.0, seed: int = 7
) -> ants.ANTsImage:
    """Where the brain is: float32, 0 or 1, one filled component on the grid of the image.

    A skull-stripped scan keeps its own mask. In a head, the brain is found by thresholding and morphology, checked
    against the template registered to it (`spacing` mm and `seed` as in `register`), and refined.

    Raises:
        BadScan: what was found can not be a brain.
    """
    if skull_stripped:
        remedy = "look at it, and set skull_stripped to false if it shows a head"
        return plausible(_foreground(image), image, "skull-stripped scan", remedy)
    remedy = "name another program in preprocessing.brain_extraction, or strip the skull and set skull_stripped to true"
    return plausible(_brain_of_head(image, template, spacing, seed), image, "head", remedy)


def plausible(mask: np.ndarray, image: ants.ANTsImage, kind: str, remedy: str) -> ants.ANTsImage:
    """The mask as float32 on the grid of `image`.

    Raises:
        BadScan: its volume is none of a brain; the message says in what `kind` of scan, and the `remedy`.
    """
    volume = _millilitres(mask, image.spacing)
    if not PLAUSIBLE_VOLUME[0] <= volume <= PLAUSIBLE_VOLUME[1]:
        said = f"the brain mask found in this {kind} has {volume:.0f} ml, which no brain has"
        raise BadScan("brain_mask", f"{said}; {remedy}")
    return like(mask, image)


def _foreground(image: ants.ANTsImage) -> np.ndarray:
    """What differs from a constant background, or stands out from a noisy one, filled."""
    array = image.numpy()
    corners = array[:: array.shape[0] - 1, :: array.shape[1] - 1, :: array.shape[2] - 1]
    difference = np.abs(array - np.median(corners))
    mask = largest_filled(difference > 0.002 * difference.max())
    if _millilitres(mask, image.spacing) < STRIPPED_VOLUME:
        return mask
    factors = _factors(image, MASK_SPACING)
    small = shrink(image, factors)
    mask = small.numpy() > 0.75 * _otsu(small.numpy())
    if _millilitres(mask, small.spacing) < STRIPPED_VOLUME:
        mask = largest_filled(_close(largest_filled(mask), 6, small.spacing))
    return enlarge(mask.astype(np.float32), factors, image.shape, order=1) > 0.5


def _brain_of_head(image: ants.ANTsImage, template: Template, spacing: float, seed: int) -> np.ndarray:
    """Otsu's foreground without thin bridges → template mask by affine → Otsu again near that mask, smoothed.

    Works on a copy of `MASK_SPACING` with a first bias correction: a strong field cuts brains at Otsu's threshold.
    """
    factors = _factors(image, MASK_SPACING)
    small = shrink(image, factors)
    small = correct_bias(small, like(largest_filled(small.numpy() > _otsu(small.numpy())), small))
    array, voxel = small.numpy(), small.spacing
    threshold = _otsu(array)
    rough = _without_bridges(array > threshold, voxel)
    transform = register(small, like(rough, small), template, spacing=spacing, seed=seed)
    prior = warp(template.mask, transform.invert(), small, "nearestNeighbor").numpy() > 0
    refined = (array > 1.1 * threshold) & _dilate(prior, 3, voxel)
    refined = _dilate(largest_filled(_erode(refined, 3, voxel)), 3, voxel)
    refined = largest_filled(_close(refined, 6, voxel))
    return enlarge(refined.astype(np.float32), factors, image.shape, order=1) > 0.5


def _without_bridges(mask: np.ndarray, voxel: Sequence[float]) -> np.ndarray:
    """The largest component after the weakest erosion (2 to 8 mm) that leaves at most a brain, dilated back."""
    depth = ndimage.distance_transform_edt(mask, sampling=voxel)
    for radius in range(2, 9):
        component = _dilate(largest_filled(depth > radius), radius + 1, voxel)
        if _millilitres(component, voxel) < BRAIN_VOLUME:
            break
    return largest_filled(component)


def _otsu(array: np.ndarray) -> float:
    """Otsu's threshold between air and head; the brightest .5 % (fat, vessels) do not stretch the histogram."""
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(array.clip(None, np.percentile(array, 99.5))))


def _erode(mask: np.ndarray, radius: float, voxel: Sequence[float]) -> np.ndarray:
    """Erosion by a ball of `radius` mm; beyond the edge of the grid counts as inside."""
    return ~_dilate(~mask, radius, voxel)


def _dilate(mask: np.ndarray, radius: float, voxel: Sequence[float]) -> np.ndarray:
    """Dilation by a ball of `radius` mm."""
    return ndimage.distance_transform_edt(~mask, sampling=voxel) <= radius if mask.any() else mask


def _close(mask: np.ndarray, radius: float, voxel: Sequence[float]) -> np.ndarray:
    """Dilation and erosion by a ball of `radius` mm, with room around the grid for the first."""
    width = [(int(radius / size) + 1,) * 2 for size in voxel]
    closed = _erode(_dilate(np.pad(mask, width), radius, voxel), radius, voxel)
    return closed[tuple(slice(before, -after) for before, after in width)]


def largest_filled(mask: np.ndarray) -> np.ndarray:
    """The largest component (faces touching), its cavities filled."""
    labels, count = ndimage.label(mask)
    if count == 0:
        return mask
    return ndimage.binary_fill_holes(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


def _millilitres(mask: np.ndarray, voxel: Sequence[float]) -> float:
    return float(np.count_nonzero(mask) * np.prod(voxel) / 1000)


def correct_bias(
    image: ants.ANTsImage,
    mask: ants.ANTsImage,
    spacing: float = 8.0,
    iterations: Sequence[int] = (30, 30, 30),
    tolerance: float = 1e-4,
) -> ants.ANTsImage:
    """The image divided by its bias field, whose mean inside the mask is 1 (N4, Tustison 2010).

    The field is smooth: it is estimated inside the mask on one voxel in `spacing` mm, cropped to the mask, and
    enlarged. Not on means over blocks: they mix tissues, and blur the peaks of the histogram that N4 sharpens. Voxels
    outside the bounding box of the mask stay as they are. The image must not be negative.

    Args:
        iterations: the most iterations on each level of the B-spline.
        tolerance: a level ends when the field changes by less.
    """
    array, inside = image.numpy(), mask.numpy() > 0
    (box,) = ndimage.find_objects(inside.astype(np.int8))
    shape, factors = array[box].shape, _factors(image, spacing)
    middles = np.ix_(*(_middles(size, factor) for size, factor in zip(shape, factors, strict=True)))
    few = ants.from_numpy(array[box][middles], spacing=(np.asarray(image.spacing) * factors).tolist())
    field = ants.n4_bias_field_correction(
        few,
        mask=like(inside[box][middles], few),
        shrink_factor=1,
        convergence={"iters": list(iterations), "tol": tolerance},
        return_bias_field=True,
    )
    field = np.exp(enlarge(np.log(field.numpy()), factors, shape, order=3))
    field /= field[inside[box]].mean()
    array[box] /= field
    return like(array, image)


def _middles(size: int, factor: int) -> np.ndarray:
    """The voxel in the middle of each block of `factor`; of an incomplete one at the end its last, at the most.

    Of an even number it is the later of two, half a voxel beside the middle, for which it is taken afterwards: put back
    exactly, the field left 2 % less bias in six simulated brains, in which other choices of the voxel change it by 5 %.
    """
    return np.minimum(np.arange(0, size, factor) + factor // 2, size - 1)


def register(
    image: ants.ANTsImage,
    mask: ants.ANTsImage,
    template: Template,
    transform: str = "affine",
    spacing: float = 3.0,
    seed: int = 7,
) -> ants.ANTsTransform:
    """The linear transform that takes the brain of `image` onto the template, for `warp`.

    It starts at the centres of mass and maximises mutual information between copies of `spacing` mm.

    Args:
        transform: "affine" (12 parameters) or "rigid" (6).
        seed: of the voxels that the metric samples.
    """
    brain = like(image.numpy() * mask.numpy(), image)
    with TemporaryDirectory() as folder:
        files = ants.registration(
            coarse(template.brain, spacing),
            coarse(brain, spacing),
            type_of_transform=transform.capitalize(),
            outprefix=f"{folder}/",
            random_seed=seed,
        )
        return ants.read_transform(files["fwdtransforms"][0])


def warp(
    image: ants.ANTsImage, transform: ants.ANTsTransform, grid: ants.ANTsImage, interpolation: str = "linear"
) -> ants.ANTsImage:
    """The image resampled once, onto `grid`; 0 where it has nothing.

    Args:
        interpolation: "linear", or "nearestNeighbor" for masks, which it neither grows nor shrinks on average.
    """
    return ants.apply_ants_transform_to_image(transform, image, grid, interpolation=interpolation.lower())


def warp_lesions(mask: ants.ANTsImage, transform: ants.ANTsTransform, grid: ants.ANTsImage) -> ants.ANTsImage:
    """The mask (0 or 1) resampled once, onto `grid`, so that each lesion keeps its volume: float32, 0 or 1.

    That is the volume of the transformed lesion: the native one over the determinant of `transform`. The mask is
    interpolated linearly, at points no further apart than its own voxels, and averaged within those of `grid`: what
    stays is decided by `keep_volume`.
    """
    factors = [max(1, math.ceil(size / min(mask.spacing) - 0.05)) for size in grid.spacing]
    shares = shrink(warp(mask, transform, divided(grid, factors)), factors).numpy()
    return like(keep_volume(shares), grid)


def divided(grid: ants.ANTsImage, factors: Sequence[int]) -> ants.ANTsImage:
    """An empty image whose blocks of `factors` voxels are the voxels of `grid`."""
    step = grid.direction * np.asarray(grid.spacing)
    return ants.from_numpy(
        np.zeros(np.multiply(grid.shape, factors), np.float32),
        origin=(np.asarray(grid.origin) - step @ (0.5 - 0.5 / np.asarray(factors))).tolist(),
        spacing=(np.asarray(grid.spacing) / factors).tolist(),
        direction=grid.direction,
    )


def lesions_of_scan(mask: nibabel.Nifti1Image, from_template: Path, scan: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The mask (0 or 1) of template space on the voxels of the scan, in their order: uint8.

    Each lesion keeps its volume, as by `warp_lesions`.

    Args:
        from_template: file of the affine, as preprocessing writes it for that scan.
        scan: its shape and affine count.
    """
    grid = from_nifti(nibabel.Nifti1Image(np.zeros(scan.shape[:3], np.uint8), scan.affine))
    back = to_nifti(warp_lesions(from_nifti(mask), ants.read_transform(str(from_template)), grid), np.uint8)
    axes = [nibabel.io_orientation(image.affine) for image in (back, scan)]
    back = back.as_reoriented(nibabel.orientations.ornt_transform(*axes))
    return nibabel.Nifti1Image(np.asarray(back.dataobj), scan.affine)


def write_transform(transform: ants.ANTsTransform, path: Path) -> None:
    """Write an affine file that ANTs and ITK read (`antsApplyTransforms -t`)."""
    ants.write_transform(transform, str(path))


def normalize(array: np.ndarray, mask: np.ndarray, low: float = 1.0, high: float = 99.0) -> np.ndarray:
    """Float32 in [0, 1]: percentile `low` of the brain becomes 0, percentile `high` 1; 0 outside the mask.

    Raises:
        BadScan: the mask is empty, or the brain has one intensity only.
    """
    if not mask.any():
        raise BadScan("registration", "the registered brain lies outside the template; check the header's orientation")
    inside, scaled = array[mask], np.zeros(array.shape, np.float32)
    bottom, top = np.percentile(inside, [low, high])
    if not top > bottom:
        raise BadScan("contrast", "all intensities inside the brain are equal; check that this is the T1-weighted scan")
    scaled[mask] = ((inside - bottom) / (top - bottom)).clip(0, 1)
    return scaled


def coarse(image: ants.ANTsImage, spacing: float) -> ants.ANTsImage:
    """A copy of `spacing` mm: averaged over whole voxels, then resampled linearly if that does not meet it."""
    small = shrink(image, [max(1, int(spacing / voxel + 0.05)) for voxel in image.spacing])
    if np.allclose(small.spacing, spacing, rtol=0.05):
        return small
    return ants.resample_image(small, [spacing] * 3, use_voxels=False, interp_type=0)


def shrink(image: ants.ANTsImage, factors: Sequence[int]) -> ants.ANTsImage:
    """Means over blocks of `factors` voxels; incomplete blocks at the end are filled with the last voxel."""
    array = image.numpy()
    array = np.pad(array, [(0, -size % factor) for size, factor in zip(array.shape, factors, strict=True)], mode="edge")
    for axis, factor in enumerate(factors):
        shape = (*array.shape[:axis], -1, factor, *array.shape[axis + 1 :])
        array = array.reshape(shape).mean(axis + 1, dtype=np.float64)
    step = image.direction * np.asarray(image.spacing)
    return ants.from_numpy(
        array.astype(np.float32),
        origin=(np.asarray(image.origin) + step @ (np.asarray(factors) - 1) / 2).tolist(),
        spacing=(np.asarray(image.spacing) * factors).tolist(),
        direction=image.direction,
    )


def enlarge(array: np.ndarray, factors: Sequence[int], shape: Sequence[int], order: int) -> np.ndarray:
    """The inverse of `shrink`, by a spline of `order`; separable, hence one small matrix per axis."""
    for axis, (factor, size) in enumerate(zip(factors, shape, strict=True)):
        weights = ndimage.zoom(np.eye(array.shape[axis]), (factor, 1), order=order, grid_mode=True, mode="nearest")
        array = np.moveaxis(np.tensordot(weights[:size], array, (1, axis)), 0, axis)
    return array.astype(np.float32)


def _factors(image: ants.ANTsImage, spacing: float) -> list[int]:
    return [max(1, round(spacing / voxel)) for voxel in image.spacing]
