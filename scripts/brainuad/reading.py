"""The file of a scan → one finite 3-D volume, or why there is none: a ``BadScan`` with its code.

The header is judged before a voxel is read: it may announce more voxels than there is memory for.
"""

import errno
import gzip
import hashlib
import os
import stat
from pathlib import Path

import nibabel
import numpy as np
from nibabel.affines import voxel_sizes

from brainuad.faults import FAULTS, BadScan

__all__ = ["digest", "doubts", "read_lesion", "read_scan"]

VOXEL_SIZE = (0.2, 6.0)  # mm
FIELD_OF_VIEW = (80.0, 600.0)  # mm
MOST_VOXELS = 512**3  # a head at 0.5 mm; with the copies of it that a job holds, what the job may ask for
LARGEST = 1e37  # of a voxel: single precision must hold differences and sums of a few
LEAST_VOLUME = 0.5  # of a voxel, as a share of that of a box with its edges; a tilted gantry shears to 0.85
NEGATIVE = 0.05  # of the sum of positive voxels: what negative ones sum to where they are not of interpolation
AGREEMENT = 0.1  # largest difference between sform and qform that claim the same space: 6 degrees, or 10 % of a length
# Errors of a disk or its network, which say nothing of the file: the job fails, and the next run does what is left.
OF_THE_DISK = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EMFILE, errno.ENFILE)
AGAIN = "copy or convert the scan again"


def read_scan(path: str | Path, include: bool = False) -> nibabel.Nifti1Image:
    """The T1-weighted scan of a file as 3-D float32 without negative values.

    Trailing axes of length 1 are dropped. Interpolation leaves a few negative voxels, which are cut to 0; standardised
    intensities (negative ones that sum to over 5 % of the positive ones) are shifted, however much air is around them.

    Args:
        include: take the scan in spite of `doubts`.

    Raises:
        BadScan: the file is missing, unreadable or no plausible 3-D scan.
    """
    image = load(path)
    for fault in () if include else doubts(path):
        raise fault
    sizes = voxel_sizes(image.affine)
    extents = sizes * volume_shape(image)
    for code, what, values, (low, high) in (
        ("voxel_size", "voxels", sizes, VOXEL_SIZE),
        ("field_of_view", "a field of view", extents, FIELD_OF_VIEW),
    ):
        if min(values) < low or max(values) > high:
            text = " x ".join(f"{value:.3g}" for value in values)
            raise BadScan(code, f"{path} has {what} of {text} mm, outside {low:g} to {high:g}: correct its header.")
    array = voxels(path, image)
    bad = np.count_nonzero(~(np.abs(array) < LARGEST))
    if bad:
        raise BadScan(
            "non_finite",
            f"{path} has {bad} voxels that are NaN, infinite or beyond single precision: replace them, or export the "
            "scan again.",
        )
    lowest, highest = array.min(), array.max()
    if lowest == highest:
        raise BadScan("constant", f"{path} is {lowest:g} in every voxel: replace the file by the T1-weighted scan.")
    if lowest < 0:
        positive = array.clip(0)
        negative = positive.sum(dtype=float) - array.sum(dtype=float)
        array = array - lowest if negative > NEGATIVE * positive.sum(dtype=float) else positive
    return nibabel.Nifti1Image(array, image.affine)


def read_lesion(path: str | Path, t1w: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The lesion mask of a file (voxels above 0.5) as 0 and 1; all 0 is a scan without lesion.

    Raises:
        BadScan: the file is missing, unreadable or not on the scan's grid.
    """
    try:
        image = load(path)
        shape = volume_shape(image)
        if shape != t1w.shape or not np.allclose(image.affine, t1w.affine, atol=0.01):
            raise BadScan(
                "lesion_grid",
                f"{path} is a lesion mask of {shape} voxels on another grid than its scan of {t1w.shape}: "
                "resample it to the scan with nearest neighbour.",
            )
        array = voxels(path, image)
    except BadScan as fault:
        code = fault.code if fault.code == "lesion_grid" else "lesion"
        raise BadScan(code, fault) from fault
    if not np.isfinite(array).all():
        raise BadScan("lesion", f"{path} is a lesion mask with NaN or infinite voxels: replace them by 0.")
    return nibabel.Nifti1Image((array > 0.5).astype(np.uint8), t1w.affine)


def digest(scan: nibabel.Nifti1Image) -> str:
    """A hash of the voxels, the same in whatever order and type they are stored: equal scans are the same scan."""
    array = np.ascontiguousarray(nibabel.as_closest_canonical(scan).get_fdata(dtype=np.float32, caching="unchanged"))
    whole = hashlib.sha256(str(array.shape).encode())
    whole.update(array)
    return whole.hexdigest()[:32]


def doubts(path: str | Path) -> list[BadScan]:
    """What is doubtful about a scan's header, so that a person may decide."""
    header = load(path).header
    sform, sform_code = header.get_sform(coded=True)
    qform_code = int(header["qform_code"])
    if not sform_code and not qform_code:
        return [
            BadScan(
                "no_affine",
                f"{path} has neither an sform nor a qform, so left and right are unknown: convert the scan again, from "
                f"DICOM, or take it by `include` in config/exclusions.tsv ({FAULTS['no_affine'].judged}).",
            )
        ]
    if sform_code and qform_code and not agree(sform, header, sform_code == qform_code):
        return [
            BadScan(
                "sform_qform",
                f"{path} has an sform and a qform that contradict each other: find out which is right and copy it over "
                "the other, or take the sform by `include` in config/exclusions.tsv.",
            )
        ]
    return []


def agree(sform: np.ndarray, header: nibabel.Nifti1Header, same_space: bool) -> bool:
    """Whether sform and qform agree on directions: closely in one space, on no reversed one in different spaces.

    Where they place the head is left aside: registration begins at its centre of mass.
    """
    try:
        with np.errstate(all="ignore"):
            between = sform[:3, :3] @ np.linalg.inv(header.get_qform()[:3, :3])
    except (ValueError, np.linalg.LinAlgError, nibabel.spatialimages.HeaderDataError):
        return False
    return np.abs(between - np.eye(3)).max() < AGREEMENT if same_space else np.diag(between).min() > 0


def load(path: str | Path) -> nibabel.Nifti1Image:
    """The image of a file, its voxels not yet read: a 3-D NIfTI of real numbers with an affine that can be inverted."""
    if not is_file(path):
        raise BadScan("missing", f"{path} does not exist: correct its path in the manifest, or restore the file.")
    image = whole(path, nibabel.load, path)
    if not isinstance(image, nibabel.Nifti1Pair) or image.get_data_dtype().kind not in "iuf":
        raise BadScan("format", f"{path} is not a NIfTI file of real numbers: convert the scan to NIfTI.")
    if said := contradiction(image):
        raise BadScan("unreadable", f"{path} cannot be read ({said}): {AGAIN}.")
    shape = volume_shape(image)
    if len(shape) != 3:
        raise BadScan("dimensions", f"{path} has {image.ndim} axes {image.shape}: give one 3-D T1-weighted volume.")
    if min(shape) < 2:
        raise BadScan("dimensions", f"{path} has {shape} voxels, which no scan of a head has: {AGAIN}.")
    if np.prod(shape, dtype=float) > MOST_VOXELS:
        text = f"{path} has {shape} voxels, more than 512 x 512 x 512, for which a job has no memory: resample it"
        raise BadScan("dimensions", f"{text}, or, if its header errs, {AGAIN}.")
    affine = image.affine
    with np.errstate(all="ignore"):
        share = abs(np.linalg.det(affine[:3, :3].astype(float))) / np.prod(voxel_sizes(affine))
    if not np.isfinite(affine).all() or not share > LEAST_VOLUME:
        raise BadScan(
            "affine", f"{path} has an affine that cannot be inverted: repair the sform or qform in its header."
        )
    return image


def is_file(path: str | Path) -> bool:
    """Whether there is such a file; one in a folder that may not be entered is a bad scan."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError as error:
        if error.errno in OF_THE_DISK:
            raise
        said = "you may not read it" if isinstance(error, PermissionError) else error.strerror
        raise BadScan("unreadable", f"{path} cannot be read ({said}): {AGAIN}.") from error


def contradiction(image: nibabel.Nifti1Image) -> str:
    """What a header says of its voxels that cannot be so; nibabel logs it, and reads other voxels than were saved."""
    with image.file_map["header" if "header" in image.file_map else "image"].get_prepare_fileobj("rb") as file:
        header = image.header_class.from_fileobj(file, check=False)
    offset, first = float(header["vox_offset"]), header.single_vox_offset if header.is_single else 0
    if offset < first or not offset.is_integer():
        return f"its voxels are said to begin at byte {offset:g}"
    bits, said = 8 * image.get_data_dtype().itemsize, int(header["bitpix"])
    return f"its voxels are said to have {said} bits, and {bits} by their type" if said not in (0, bits) else ""


def volume_shape(image: nibabel.Nifti1Image) -> tuple[int, ...]:
    """The shape without trailing axes of length 1."""
    shape = image.shape
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def voxels(path: str | Path, image: nibabel.Nifti1Image) -> np.ndarray:
    """All voxels as float32; what single precision cannot hold becomes infinite."""
    if str(path).endswith(".gz"):
        whole(path, unpack, path)
    return whole(path, image.get_fdata, dtype=np.float32, caching="unchanged").reshape(volume_shape(image))


def unpack(path: str | Path) -> None:
    """Read a compressed file up to the checksum at its end: without it, flipped bits would pass for voxels."""
    with gzip.open(path) as file:
        while file.read(2**22):
            pass


def whole(path: str | Path, read, *arguments, **options):
    """What a function reads from a file; whatever it raises is the file's fault, unless it is the machine's."""
    try:
        with np.errstate(all="ignore"):
            return read(*arguments, **options)
    except MemoryError:
        raise
    except Exception as error:
        if getattr(error, "errno", None) in OF_THE_DISK:
            raise
        raise BadScan("unreadable", f"{path} cannot be read ({why(path, error)}): {AGAIN}.") from error


def why(path: str | Path, error: Exception) -> str:
    """What is wrong with a file, where its first bytes say more than the error."""
    if isinstance(error, PermissionError):
        return "you may not read it"
    with open(path, "rb") as file:
        start = file.read(2)
    if not start:
        return "it is empty"
    compressed, named = start == b"\x1f\x8b", str(path).endswith(".gz")
    if compressed != named and str(path).endswith((".nii", ".gz")):
        return "it is compressed, its name says it is not" if compressed else "its name says compressed, but it is not"
    return " ".join(str(error).split()) or type(error).__name__
