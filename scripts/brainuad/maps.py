"""Scores of a dataset → a BIDS derivative with the maps of each of its scans, and pictures of them."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd

from brainuad.calibration import Calibration, scan_stack
from brainuad.derivatives import NAMES, ScanMaps, describe, origin_of, scan_maps, write_maps
from brainuad.grids import Frame, read_transform
from brainuad.map_pictures import draw_slices, write_page
from brainuad.provenance import commit
from brainuad.sample_set import SUBJECT_COLUMNS, SampleSet

__all__ = ["COLUMNS", "draw", "maps", "native_grid"]

COLUMNS = (*SUBJECT_COLUMNS, *NAMES, "covered", *(f"{name}_native" for name in (*NAMES, "covered")), "note")
BACK = "from_template.mat"


def maps(
    score: Path,
    samples: Path,
    scans: Path,
    calibration: Path,
    description: Path,
    tree: Path,
    sources: dict[str, str],
    settings: dict,
) -> None:
    """Write the maps of every scan that was scored, and ``table.tsv``, which lists them.

    A scan whose file is no longer there has maps in template space only; ``note`` says so.

    Args:
        score: score folder of one model, seed and dataset.
        samples: folder of the sample set.
        scans: folder of the preprocessed scans.
        calibration: folder of the model's calibration.
        description: the model's ``model.json``.
        tree: folder of the derivative; what it held of an earlier run is removed.
        sources: the file of each scan as it came from the scanner.
        settings: ``dataset``, ``model``, ``simulated``, and ``pages``: whether each scan gets one.
    """
    tree, known = Path(tree), Calibration(calibration)
    clear(tree)
    frame = known.frame()
    described = json.loads(Path(description).read_text(encoding="utf-8"))
    origin = origin_of(described, settings["model"], known, commit(Path(__file__)), settings["simulated"])
    describe(tree, f"Anomaly maps of {settings['dataset']} by {settings['model']}", frame, origin)
    rows = []
    for row, found, seen in scored_scans(Path(score), SampleSet(samples), known, frame):
        scan = row["scan"]
        folder = Path(scans) / scan
        native, note = native_grid(folder, sources.get(scan, ""))
        written = write_maps(tree, scan, found, frame, origin, native)
        # What the model saw: of a synthetic cohort with its anomalies.
        anatomy = np.where(frame.covered, seen, np.asarray(nibabel.load(folder / "t1w.nii.gz").dataobj))
        title = f"{scan} of {settings['dataset']}, {settings['model']}" + " (simulated)" * settings["simulated"]
        draw(tree, scan, found, anatomy, frame, title, settings["pages"])
        rows.append({**row, **written, "note": note})
        print(f"{scan}: {note or 'written'}", flush=True)
    pd.DataFrame(rows).reindex(columns=list(COLUMNS)).to_csv(tree / "table.tsv", sep="\t", index=False)


def scored_scans(
    score: Path, samples: SampleSet, known: Calibration, frame: Frame
) -> Iterator[tuple[dict, ScanMaps, np.ndarray]]:
    """Yield what is known of each scan, its maps, and its samples on the template's grid.

    Raises:
        ValueError: the samples of a scan are not one of each position.
    """
    labels = {name: str for name in SUBJECT_COLUMNS}
    table = pd.read_csv(score / "table.tsv", sep="\t", dtype=labels, keep_default_na=False)
    table = table.assign(place=range(len(table)))
    arrays = {name: np.load(score / f"{name}.npy", mmap_mode="r") for name in ("map", "reconstruction")}
    smoothing = known.record["maps"]["smoothing"]
    for scan, rows in table.groupby("scan", sort=False):
        try:
            anomaly, brain = scan_stack(rows, arrays["map"], samples, frame)
            smoothed = scan_stack(rows, arrays["map"], samples, frame, smoothing)[0] if smoothing else anomaly
            values = arrays["reconstruction"][rows["place"].to_numpy()]
            positions = rows["position"].to_numpy()
            reconstruction = frame.place(frame.stack(positions, values))
            seen = frame.place(frame.stack(positions, samples.images[rows["sample"].to_numpy()]))
        except ValueError as error:
            raise ValueError(f"{scan} in {score}: {error}: score the dataset again.") from error
        row = rows.iloc[0][list(SUBJECT_COLUMNS)].to_dict()
        yield row, scan_maps(frame, anomaly, brain, reconstruction, smoothed, known), seen


def native_grid(folder: Path, source: str) -> tuple[tuple[np.ndarray, tuple, np.ndarray] | None, str]:
    """The way from a scan's own millimetres to the template's, the scan's shape and affine; or None, and why.

    Args:
        folder: of the preprocessed scan.
        source: the file of the scan.
    """
    if not source or not Path(source).is_file():
        return None, "the scan's file is no longer there, so its own grid is not known: template space only"
    image = nibabel.load(source)
    return (read_transform(folder / BACK), tuple(image.shape[:3]), image.affine), ""


def draw(
    tree: Path, scan: str, found: ScanMaps, anatomy: np.ndarray, frame: Frame, title: str, page: bool = True
) -> None:
    """Write the pictures of a scan into the folder ``figures``: PNG, PDF and, if asked for, a page."""
    figures = Path(tree) / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    figure = draw_slices(found, anatomy, frame, title)
    figure.savefig(figures / f"{scan}.png", dpi=150)
    figure.savefig(figures / f"{scan}.pdf", metadata={"CreationDate": None})
    if page:
        write_page(figures / f"{scan}.html", found, anatomy, frame.affine, title)


def clear(tree: Path) -> None:
    """Remove what an earlier run left: scans that are no longer part of the dataset would stay."""
    for path in (*tree.glob("sub-*"), tree / "figures"):
        shutil.rmtree(path, ignore_errors=True)
