"""Slices or volumes of preprocessed scans, cut into sample sets."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates

from brainuad.manifest import read_scans, splits
from brainuad.partial_volume import keep_volume
from brainuad.sample_set import SUBJECT_COLUMNS, SampleWriter

__all__ = ["frame_coordinates", "samples"]


def samples(dataset: str, entry: dict, quality: Path, scans: Path, output: Path, settings: dict, seed: int) -> None:
    """Cut the included scans of a dataset into a sample set.

    Args:
        dataset: its name.
        entry: of its configuration ``manifest``, ``phantom``, ``split`` and ``groups``.
        quality: the dataset's quality table; only scans with status ``included`` are used.
        scans: folder of the preprocessed scans.
        output: folder of the sample set.
        settings: the ``samples`` section: ``size`` (pixels), ``spacing`` (mm), ``centre`` (mm), ``positions`` (mm).
        seed: of the split.

    Raises:
        ValueError: what was cut holds no brain, although the scan does at that height.
    """
    known = pd.read_csv(quality, sep="\t", dtype=str, keep_default_na=False).set_index("scan")
    table = read_scans(dataset, entry)
    table = table[table["scan"].map(known["status"]).eq("included")]
    table["split"] = splits(table, entry["split"], seed)
    positions = settings["positions"] if len(settings["size"]) == 2 else [settings["centre"][2]]
    writer = SampleWriter(output, len(table) * len(positions), settings["size"])
    for row in table[list(SUBJECT_COLUMNS)].to_dict("records"):
        row["scan_lesion"] = float(known["lesion_volume_ml"][row["scan"]] or 0) > 0  # of the scan: no grid loses it
        for position, arrays in cut(scans / row["scan"], settings, positions):
            if not arrays[1].any():
                raise ValueError(
                    f"{row['scan']} of dataset {dataset} has no brain at z = {position} mm within the frame: "
                    "change `samples.centre` and `samples.size`, or exclude the scan."
                )
            writer.add(*arrays, {**row, "position": position})
    writer.close()
    counts = table["split"].value_counts().to_dict()
    print(f"{dataset}: {len(writer.rows)} samples of {len(table)} scans, {counts}")


def cut(folder: Path, settings: dict, positions: Sequence[float]) -> Iterator[tuple[float, tuple[np.ndarray, ...]]]:
    """Yield position and (image, brain, lesion) of each sample of one preprocessed scan."""
    scan = nib.load(folder / "t1w.nii.gz")
    lesion = folder / "lesion.nii.gz"
    image, mask = scan.get_fdata(dtype=np.float32), nib.load(folder / "mask.nii.gz").get_fdata(dtype=np.float32)
    lesions = nib.load(lesion).get_fdata(dtype=np.float32) if lesion.exists() else None
    for position in positions:
        voxels = frame_coordinates(settings, position, scan.affine)
        brain = map_coordinates(mask, voxels, order=0) > 0.5
        abnormal = np.zeros(brain.shape, bool)
        if lesions is not None:
            abnormal = cut_lesions(lesions, settings, position, scan.affine)
        yield position, (np.clip(map_coordinates(image, voxels, order=1), 0, 1) * brain, brain, abnormal)


def cut_lesions(mask: np.ndarray, settings: dict, position: float, affine: np.ndarray) -> np.ndarray:
    """The lesions of a volume (0 or 1) in one sample, bool: in a volume each keeps its volume, in a slice its area.

    The mask is interpolated linearly at points no further apart than its voxels, and averaged within each pixel.
    Arguments as of :func:`frame_coordinates`.
    """
    axes, voxel = len(settings["size"]), nib.affines.voxel_sizes(affine).min()
    count = max(1, math.ceil(settings["spacing"] / voxel - 0.05))
    steps = settings["spacing"] * ((np.arange(count) + 0.5) / count - 0.5)  # mm from the middle of a pixel
    shares = np.zeros(settings["size"], np.float32)
    for step in product(steps, repeat=axes):
        moved = {**settings, "centre": np.add(settings["centre"][:axes], step)}
        shares += map_coordinates(mask, frame_coordinates(moved, position, affine), order=1)
    return keep_volume(shares / len(steps) ** axes)


def frame_coordinates(settings: dict, position: float, affine: np.ndarray) -> np.ndarray:
    """Voxel coordinates of a sample's pixels.

    Args:
        settings: ``size``, ``spacing`` in mm and ``centre`` in mm of template space (x right, y anterior, z superior).
        position: z of the slice in mm; for volumes the centre's own.
        affine: voxel → mm of the volume that is sampled.

    Returns:
        (3, *size): coordinates in voxels; pixel (size − 1) / 2 lies at the centre.
    """
    size = settings["size"]
    axes = [
        centre + (np.arange(length) - (length - 1) / 2) * settings["spacing"]
        for length, centre in zip(size, settings["centre"], strict=False)
    ]
    if len(size) == 2:
        axes.append(np.array([float(position)]))
    world = np.stack(np.meshgrid(*axes, indexing="ij")).reshape(3, -1)
    inverse = np.linalg.inv(affine)
    return (inverse[:3, :3] @ world + inverse[:3, 3:]).reshape(3, *size)
