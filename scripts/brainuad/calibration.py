"""Anomaly maps of healthy validation subjects → what is usual in each voxel, and z-scores of other maps.

A folder of a calibration holds, on the template's grid, ``mean.nii.gz`` and ``std.nii.gz`` (of the anomaly map over the
subjects, one value each) and ``count.nii.gz`` (how many subjects have brain there), and ``calibration.json``: how they
were made, the settings by which another scan becomes comparable, and the range of the quality measures of the scans
that the model learnt from. It names nobody.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from brainuad.cohort import Cohort
from brainuad.grids import Frame
from brainuad.provenance import commit, digest
from brainuad.sample_set import SampleSet
from brainuad.thresholds import NOBODY

__all__ = ["MEASURES", "Calibration", "calibration", "scan_stack", "smooth"]

MEASURES = ("correlation", "overlap", "brain_volume_ml", "bias_range")
IMAGES = {"mean": np.float32, "std": np.float32, "count": np.int16}
RECORD = "calibration.json"
FWHM = 2 * np.sqrt(2 * np.log(2))  # of a Gaussian, in standard deviations


def calibration(
    scores: Sequence[Path],
    samples: Sequence[Path],
    scans: Sequence[Path],
    quality: Sequence[Path],
    model: Path,
    folder: Path,
    settings: dict,
) -> None:
    """Write the calibration of one model and seed.

    Subjects with a lesion are not healthy and are left out, and so are, of a dataset whose groups are compared, all but
    the reference group; of several sessions of a subject the mean counts.

    Args:
        scores: its score folders of the training datasets.
        samples: folders of their sample sets, in the same order; so the following.
        scans: folders of the preprocessed scans.
        quality: quality tables.
        model: weights, their description beside them.
        folder: where the calibration goes.
        settings: the sections ``samples``, ``maps``, ``scoring`` and ``quality``; ``simulated``; ``references``: of
            each training dataset the group that is healthy, or None where all are.
    """
    folder = Path(folder)
    sets = [SampleSet(name) for name in samples]
    grid = grid_of(sets, scans)
    frame = Frame(settings["samples"], grid.shape, grid.affine)
    count, mean, squares = np.zeros(frame.shape, np.int16), np.zeros(frame.shape), np.zeros(frame.shape)
    subjects = 0
    smoothing = settings["maps"]["smoothing"]
    for score, known, reference in zip(scores, sets, settings["references"], strict=True):
        cohort = Cohort(Path(score), known, "validation")
        for value, present in healthy_subjects(cohort, frame, smoothing, reference):
            subjects += 1
            count += present
            change = np.where(present, value - mean, 0)
            mean += change / np.maximum(count, 1)
            squares += change * np.where(present, value - mean, 0)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in (("mean", mean), ("std", std), ("count", count)):
        nibabel.save(nifti(array.astype(IMAGES[name]), frame.affine), folder / f"{name}.nii.gz")
    description = json.loads(Path(model).with_suffix(".json").read_text(encoding="utf-8"))
    record = {
        "model": Path(model).parent.parent.name,
        "class": description["class"],
        "seed": description["metadata"].get("seed"),
        "weights_sha256": digest(model),
        "subjects": subjects,
        "reason": "" if subjects else NOBODY,
        **{name: settings[name] for name in ("maps", "samples", "scoring", "quality", "simulated")},
        "preprocessing": description["metadata"].get("preprocessing"),
        "ranges": ranges(sets, quality),
        "commit": commit(Path(__file__)),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    usable = Calibration(folder).covered.sum()
    print(f"{record['model']}, seed {record['seed']}: {subjects} subjects, {usable} voxels can be judged")


class Calibration:
    """A calibration on disk."""

    def __init__(self, folder: Path | str):
        """Read it.

        Raises:
            ValueError: a file is missing.
        """
        self.folder = Path(folder)
        missing = [
            name for name in (RECORD, *(f"{name}.nii.gz" for name in IMAGES)) if not (self.folder / name).is_file()
        ]
        if missing:
            raise ValueError(
                f"{self.folder} has no {missing[0]}: make the calibration of a study's model by the target "
                f"`snakemake results/calibration/<model>/<seed>/{RECORD}`."
            )
        self.record = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        image = nibabel.load(self.folder / "mean.nii.gz")
        self.shape, self.affine = image.shape, image.affine
        self.mean, self.std, self.count = (
            np.asarray(nibabel.load(self.folder / f"{name}.nii.gz").dataobj) for name in IMAGES
        )
        #: Voxels that can be judged: enough subjects, who differ.
        self.covered = (self.count >= self.record["maps"]["minimum_subjects"]) & (self.std > 0)
        typical = np.median(self.std[self.covered]) if self.covered.any() else 0
        self.floor = float(self.record["maps"]["std_floor"] * typical)

    def frame(self) -> Frame:
        """Where samples lie on its grid."""
        return Frame(self.record["samples"], self.shape, self.affine)

    def z(self, volume: np.ndarray, brain: np.ndarray) -> np.ndarray:
        """(map - mean) / std in each voxel, in standard deviations; higher is more abnormal.

        A standard deviation below ``std_floor`` times the median of all voxels that can be judged is raised to that: a
        few subjects who happen to agree would make anything abnormal.

        Args:
            volume: an anomaly map on the template's grid, smoothed as the calibration's were.
            brain: bool, where the scan has brain.

        Returns:
            float32; 0 where there is no brain or the voxel cannot be judged.
        """
        judged = brain & self.covered
        std = np.where(judged, np.maximum(self.std, self.floor), 1)
        return np.where(judged, (volume - self.mean) / std, 0).astype(np.float32)


def healthy_subjects(
    cohort: Cohort, frame: Frame, smoothing: float, reference: str | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each subject of a cohort that is healthy its anomaly map on the template's grid, and where it has brain."""
    table = cohort.table.assign(place=cohort.places, sample=cohort.rows, owner=cohort.owner)
    maps = cohort.array("map")
    for _, rows in table[cohort.healthy(reference)].groupby("owner"):
        total, times = np.zeros(frame.shape), np.zeros(frame.shape, np.int16)
        for _, scan in rows.groupby("scan", sort=True):
            volume, brain = scan_stack(scan, maps, cohort.samples, frame, smoothing)
            total += np.where(brain, volume, 0)
            times += brain
        yield total / np.maximum(times, 1), times > 0


def scan_stack(
    rows: pd.DataFrame, maps: np.ndarray, samples: SampleSet, frame: Frame, smoothing: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """The map of one scan on the template's grid, and where it has brain.

    Args:
        rows: of its samples: ``place`` in the score folder, ``sample`` in the sample set, ``position``.
        maps: array of the score folder.
        smoothing: full width at half maximum in mm, see `smooth`.
    """
    positions = rows["position"].to_numpy()
    brain = frame.stack(positions, samples.brain[rows["sample"].to_numpy()]).astype(np.float32)
    values = smooth(frame.stack(positions, maps[rows["place"].to_numpy()]), brain, smoothing, frame)
    return frame.place(values), frame.place(brain) > 0.5


def smooth(stack: np.ndarray, brain: np.ndarray, width: float, frame: Frame) -> np.ndarray:
    """An array of samples with a Gaussian mean over the brain alone; slices are smoothed within themselves.

    Args:
        width: full width at half maximum in mm; 0 leaves the array as it is.
    """
    if width == 0:
        return stack
    sigma = width / FWHM / frame.settings["spacing"]
    sigma = (sigma, sigma, sigma if frame.volumes else 0)
    weights = gaussian_filter(brain.astype(np.float64), sigma)
    known = weights > 1e-6
    return np.where(known, gaussian_filter(stack * brain, sigma, output=np.float64) / np.where(known, weights, 1), 0)


def ranges(sets: Sequence[SampleSet], quality: Sequence[Path]) -> dict[str, dict]:
    """Smallest, median and largest value of each quality measure over the scans that are learnt from."""
    tables = []
    for samples, path in zip(sets, quality, strict=True):
        learnt = set(samples.table["scan"][samples.table["split"] == "train"])
        table = pd.read_csv(path, sep="\t", dtype={"scan": str})
        tables.append(table[table["scan"].isin(learnt)])
    table = pd.concat(tables)
    return {
        name: {"low": values.min(), "median": values.median(), "high": values.max(), "scans": len(values)}
        for name in MEASURES
        if len(values := table[name].dropna().astype(float))
    }


def grid_of(sets: Sequence[SampleSet], scans: Sequence[Path]) -> nibabel.Nifti1Image:
    """A preprocessed scan of those that were cut; all lie on one grid."""
    scan = sets[0].table["scan"].iloc[0]
    return nibabel.load(Path(scans[0]) / scan / "mask.nii.gz")


def nifti(array: np.ndarray, affine: np.ndarray, space: str = "mni") -> nibabel.Nifti1Image:
    """An image whose header holds the grid and nothing else; `space` is NIfTI's name of what the affine leads to."""
    image = nibabel.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.set_sform(affine, code=space)
    image.set_qform(affine, code=space)
    if not np.allclose(image.get_qform(), affine, atol=1e-3):  # shears, which a qform cannot hold
        image.set_qform(None, code=0)
    return image
