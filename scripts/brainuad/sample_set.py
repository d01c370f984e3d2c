"""Sample sets: images with their masks and a table, memory-mapped.

A sample set is a folder with

* ``images.npy``  (n, 1, *size) float32 in [0, 1], 0 outside the brain
* ``brain.npy``   (n, 1, *size) bool
* ``lesion.npy``  (n, 1, *size) bool, all False in healthy samples
* ``table.tsv``   one row a sample, the columns of ``COLUMNS`` and, in a grid of anomalies, ``size``
* ``images.sha256``  SHA-256 of the file ``images.npy``, as ``sha256sum --check`` takes it

``scan_lesion`` says whether the scan holds a lesion at all, which no sample of it may show (older tables lack it).

All is in template space: axis 0 of ``size`` runs from left to right, axis 1 from posterior to anterior, axis 2 (volumes
only) from inferior to superior.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

__all__ = ["COLUMNS", "SUBJECT_COLUMNS", "Images", "SampleSet", "SampleWriter", "hold_lesion", "split_batches"]

SUBJECT_COLUMNS = ("scan", "subject", "session", "split", "group", "age", "sex", "site")
ANOMALY_COLUMNS = ("source", "kind", "centre", "axes", "intensity")
COLUMNS = ("sample", *SUBJECT_COLUMNS, "position", "scan_lesion", *ANOMALY_COLUMNS)
GRID_COLUMN = "size"
ARRAYS = {"images": np.float32, "brain": bool, "lesion": bool}


def hold_lesion(table: pd.DataFrame) -> np.ndarray:
    """Whether the scan of each row is known to hold a lesion, (rows,): never in tables without ``scan_lesion``."""
    return table.reindex(columns=["scan_lesion"])["scan_lesion"].astype(str).eq("True").to_numpy()


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
    def digest(self) -> str:
        """SHA-256 of the file of images: the one on record or, unless that is newer than the images, computed anew."""
        images, record = self.folder / "images.npy", self.folder / "images.sha256"
        if record.exists() and images.stat().st_mtime_ns < record.stat().st_mtime_ns:
            return record.read_text(encoding="ascii").split()[0]
        with images.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

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
        with (self.folder / "images.npy").open("rb") as file:
            self.digest = hashlib.sha256(file.read(self.arrays["images"].offset))  # the header, then image by image
        self.rows: list[dict] = []

    def add(self, image: np.ndarray, brain: np.ndarray, lesion: np.ndarray, row: dict) -> None:
        """Append one sample; arrays of shape *size*, ``row`` with the columns that apply."""
        index = len(self.rows)
        for name, array in (("images", image), ("brain", brain), ("lesion", lesion)):
            self.arrays[name][index, 0] = array
        self.digest.update(self.arrays["images"][index].tobytes())
        self.rows.append({**row, "sample": index})

    def close(self) -> None:
        """Write the table and the digest and flush the arrays.

        Raises:
            ValueError: fewer samples were added than announced.
        """
        if len(self.rows) != len(self.arrays["images"]):
            raise ValueError(f"{self.folder}: {len(self.rows)} samples added, {len(self.arrays['images'])} announced.")
        for array in self.arrays.values():
            array.flush()
        table = pd.DataFrame(self.rows)
        columns = [*COLUMNS, GRID_COLUMN] if GRID_COLUMN in table else list(COLUMNS)
        table.reindex(columns=columns).to_csv(self.folder / "table.tsv", sep="\t", index=False)
        record = f"{self.digest.hexdigest()}  images.npy\n"
        (self.folder / "images.sha256").write_text(record, encoding="ascii")  # last: it is to be newer than the images


class Images:
    """The images of one split of several sample sets, numbered through; read from disk when asked for."""

    def __init__(self, sets: list[SampleSet], split: str):
        """Find the rows of the split.

        Raises:
            ValueError: the sample sets differ in image size.
        """
        self.sets, self.size = sets, sets[0].size
        for other in sets[1:]:
            if other.size != self.size:
                raise ValueError(
                    f"{other.folder} holds images of {other.size} and {sets[0].folder} of {self.size}: "
                    "training.datasets must share one size."
                )
        self.rows = [samples.rows(split) for samples in sets]
        self.starts = np.cumsum([0, *map(len, self.rows)])

    def __len__(self) -> int:
        """Number of images."""
        return int(self.starts[-1])

    def __getitem__(self, numbers: np.ndarray) -> np.ndarray:
        """Images (b, 1, *size), float32, in ascending order of their numbers."""
        numbers, parts = np.sort(numbers), []
        for samples, rows, start in zip(self.sets, self.rows, self.starts, strict=False):
            own = numbers[(numbers >= start) & (numbers < start + len(rows))] - start
            if len(own):
                parts.append(np.asarray(samples.images[rows[own]], dtype=np.float32))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)  # which copies once more

    def batches(self, batch_size: int, order: np.ndarray | None = None) -> Iterator[np.ndarray]:
        """All images once, in batches of which the last may be smaller.

        A single image left over joins the batch before it: batch normalisation cannot learn from one.
        """
        for numbers in split_batches(np.arange(len(self)) if order is None else order, batch_size):
            yield self[numbers]


def split_batches(order: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """Cut an order of images into batches; a single one left over joins the batch before it."""
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < 2:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches
