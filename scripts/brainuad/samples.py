"""Slices or volumes of preprocessed scans, cut into sample sets."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from scipy.ndimage import map_coordinates

from brainuad.manifest import read_scans, splits
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
    status = pd.read_csv(quality, sep="\t", dtype=str, keep_default_na=False).set_index("scan")["status"]
    table = read_scans(dataset, entry)
    table = table[table["scan"].map(status).eq("included")]
    table["split"] = splits(table, entry["split"], seed)
    positions = settings["positions"] if len(settings["size"]) == 2 else [settings["centre"][2]]
    writer = SampleWriter(output, len(table) * len(positions), settings["size"])
    for row in table[list(SUBJECT_COLUMNS)].to_dict("records"):
        row["scan_lesion"] = has_lesion(scans / row["scan"])
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
    volumes = [
        (scan.get_fdata(dtype=np.float32), 1),
        (nib.load(folder / "mask.nii.gz").get_fdata(dtype=np.float32), 0),
        (
            nib.load(lesion).get_fdata(dtype=np.float32) if lesion.exists() else np.zeros(scan.shape, np.float32),
            0,
        ),
    ]
    for position in positions:
        voxels = frame_coordinates(settings, position, scan.affine)
        image, brain, abnormal = (map_coordinates(volume, voxels, order=order) for volume, order in volumes)
        brain = brain > 0.5
        yield position, (np.clip(image, 0, 1) * brain, brain, abnormal > 0.5)


def has_lesion(folder: Path) -> bool:
    """Whether a preprocessed scan holds a lesion anywhere, also where no sample is cut."""
    lesion = folder / "lesion.nii.gz"
    return lesion.exists() and bool((nib.load(lesion).get_fdata(dtype=np.float32) > 0.5).any())


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
