"""Sample sets: slices or volumes of preprocessed scans as memory-mapped arrays.

A sample set is a folder with

* ``images.npy``  (n, 1, *size) float32 in [0, 1], 0 outside the brain
* ``brain.npy``   (n, 1, *size) bool
* ``lesion.npy``  (n, 1, *size) bool, all False in healthy samples
* ``table.tsv``   one row a sample, the columns of ``COLUMNS``

in template space: axis 0 of ``size`` runs from left to right, axis 1 from posterior to anterior, axis 2 (volumes only)
from inferior to superior.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from scipy.ndimage import map_coordinates

from brainuad.manifest import read_scans, split_of

__all__ = ["COLUMNS", "SampleSet", "SampleWriter", "frame_coordinates", "samples"]

SUBJECT_COLUMNS = ("scan", "subject", "session", "split", "group", "age", "sex", "site")
ANOMALY_COLUMNS = ("source", "kind", "centre", "axes", "intensity")
COLUMNS = ("sample", *SUBJECT_COLUMNS, "position", *ANOMALY_COLUMNS)
ARRAYS = {"images": np.float32, "brain": bool, "lesion": bool}


class SampleSet:
    """A sample set on disk; arrays are memory-mapped and never loaded whole."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)

    @cached_property
    def images(self) -> np.ndarray:
        """Images (n, 1, *size), float32 in [0, 1]."""
        return np.load(self.folder / "images.npy", mmap_mode="r")

    @cached_property
    def brain(self) -> np.ndarray:
        """Brain masks (n, 1, *size)."""
        return np.load(self.folder / "brain.npy", mmap_mode="r")

    @cached_property
    def lesion(self) -> np.ndarray:
        """Masks of what is abnormal (n, 1, *size)."""
        return np.load(self.folder / "lesion.npy", mmap_mode="r")

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a sample; labels are text."""
        return pd.read_csv(
            self.folder / "table.tsv",
            sep="\t",
            dtype={name: str for name in SUBJECT_COLUMNS},
            keep_default_na=False,
        )

    @property
    def size(self) -> tuple[int, ...]:
        """Pixels along each axis."""
        return tuple(self.images.shape[2:])

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, *splits: str) -> np.ndarray:
        """Indices of the samples whose subject is in one of the splits, ascending."""
        return np.flatnonzero(self.table["split"].isin(splits))


class SampleWriter:
    """Writes a sample set one sample at a time, for sets larger than the memory."""

    def __init__(self, folder: Path, count: int, size: Sequence[int]):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.arrays = {
            name: open_memmap(self.folder / f"{name}.npy", mode="w+", dtype=dtype, shape=(count, 1, *size))
            for name, dtype in ARRAYS.items()
        }
        self.rows: list[dict] = []

    def add(self, image: np.ndarray, brain: np.ndarray, lesion: np.ndarray, row: dict) -> None:
        """Append one sample; arrays of shape *size*, ``row`` with the columns of ``COLUMNS`` that apply."""
        index = len(self.rows)
        for name, array in (("images", image), ("brain", brain), ("lesion", lesion)):
            self.arrays[name][index, 0] = array
        self.rows.append({**row, "sample": index})

    def close(self) -> None:
        """Write the table and flush the arrays.

        Raises:
            ValueError: fewer samples were added than announced.
        """
        if len(self.rows) != len(self.arrays["images"]):
            raise ValueError(f"{self.folder}: {len(self.rows)} samples added, {len(self.arrays['images'])} announced.")
        for array in self.arrays.values():
            array.flush()
        table = pd.DataFrame(self.rows).reindex(columns=list(COLUMNS))
        table.to_csv(self.folder / "table.tsv", sep="\t", index=False)


def samples(dataset: str, entry: dict, quality: Path, scans: Path, output: Path, settings: dict, seed: int) -> None:
    """Cut the included scans of a dataset into a sample set.

    Args:
        dataset: its name.
        entry: its configuration (source and split).
        quality: the dataset's quality table; only scans with status ``included`` are used.
        scans: folder of the preprocessed scans.
        output: folder of the sample set.
        settings: the ``samples`` section: ``size`` (pixels), ``spacing`` (mm), ``centre`` (mm), ``positions`` (mm).
        seed: of the split.

    Raises:
        ValueError: a slice holds no brain.
    """
    status = pd.read_csv(quality, sep="\t", dtype=str, keep_default_na=False).set_index("scan")["status"]
    table = read_scans(dataset, entry)
    table = table[table["scan"].map(status).eq("included")]
    table["split"] = [split_of(subject, entry["split"], seed) for subject in table["subject"]]
    positions = settings["positions"] if len(settings["size"]) == 2 else [settings["centre"][2]]
    writer = SampleWriter(output, len(table) * len(positions), settings["size"])
    for row in table[list(SUBJECT_COLUMNS)].to_dict("records"):
        for position, arrays in cut(scans / row["scan"], settings, positions):
            if not arrays[1].any():
                raise ValueError(
                    f"{row['scan']} of dataset {dataset} has no brain at z = {position} mm: "
                    "change `samples.positions` or exclude the scan."
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
