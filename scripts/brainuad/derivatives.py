"""Maps of scans as a BIDS derivative: names, sidecars, and NIfTI files whose headers hold nothing but the grid.

A tree holds ``dataset_description.json``, ``README``, and for each scan ``sub-*/[ses-*/]anat/`` with

=========================  =====================================================================================
``desc-anomaly_T1w``       the model's anomaly map; 0 outside the brain and what was cut
``desc-reconstruction_T1w``  what the model holds for the healthy image, 0 to 1; 0 outside what was cut
``desc-zscore_T1w``        the anomaly map in standard deviations of healthy subjects; 0 where it cannot be judged
``desc-covered_mask``      where the anomaly map says something: brain, and cut
=========================  =====================================================================================

each in template space (``space-MNI152NLin2009aSym_res-*``) and on the grid of the scan itself (``space-scanner``), with
a sidecar that says what it is, what is covered, and which model made it.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel
import numpy as np

from brainuad.calibration import Calibration, nifti
from brainuad.grids import Frame, to_native

__all__ = ["NAMES", "TEMPLATE", "ScanMaps", "clear_maps", "describe", "is_map", "origin_of", "scan_maps", "write_maps"]

TEMPLATE = "MNI152NLin2009aSym"  # what BIDS calls the ICBM152 template that nilearn ships
BIDS_VERSION = "1.10.0"
NAMES = ("anomaly", "reconstruction", "zscore")
ANATOMY = "preproc"
IGNORED = ("figures", "table.tsv", "scores.tsv")  # what a BIDS validator is not to look at
# The validator from npm, up to 1.15, knows no names of derivatives: not to judge them (1), nor to miss raw scans (67).
FOR_NPM = {"ignore": [1, 67]}
Z_SCORE = (
    "Anomaly map in standard deviations: (map - mean) / std, mean and std voxel by voxel over healthy validation "
    "subjects of the training datasets, std at least {floor:g} times its median. 0 also where fewer than {least} "
    "subjects have brain, or where they do not differ."
)
DESCRIPTIONS = {
    "anomaly": "Anomaly map: higher is more abnormal. 0 outside the brain and outside what the model saw.",
    "reconstruction": "What the model holds for the healthy image of this scan. 0 outside what the model saw.",
    "covered": "Where the anomaly map says something: brain that the model saw.",
    ANATOMY: "The scan as it is preprocessed: bias field removed, brain alone, two percentiles scaled to 0 and 1.",
}
MADE = re.compile(
    rf"_space-(scanner|{TEMPLATE}_res-[0-9p]+)_desc-({'|'.join([*NAMES, 'covered', ANATOMY])})_(T1w|mask)\."
)
UNITS = {"anomaly": "arbitrary", "reconstruction": "arbitrary, 0 to 1", "zscore": "standard deviations"}

README = """{name}

{note}Maps of T1-weighted scans, made by brainuad with the model {model}
({kind}, seed {seed}; code {code}).

sub-*/[ses-*/]anat/ holds, of each scan, desc-anomaly, desc-reconstruction, desc-zscore and desc-covered, in template
space (space-{template}, ICBM152 2009a) and on the grid of the scan itself (space-scanner), where they can
be laid over the scan as it came from the scanner. The JSON file beside each says what it is and what it covers.

Maps are 0 outside what the model saw:
{extent}.
A 0 there is no finding, neither good nor bad. The z-scores compare with {subjects} healthy subjects; with few of them
they are coarse. figures/ has pictures, a table lists the scans.

These maps are research, not a medical device: nothing in them is a diagnosis.
"""


class ScanMaps(NamedTuple):
    """Maps of one scan on the template's grid.

    Attributes:
        images: anomaly, reconstruction, zscore (without a calibration it is not there); float32.
        covered: of each of them where it says something, and under ``covered`` the brain that was cut; bool.
    """

    images: dict[str, np.ndarray]
    covered: dict[str, np.ndarray]


def scan_maps(
    frame: Frame,
    anomaly: np.ndarray,
    brain: np.ndarray,
    reconstruction: np.ndarray,
    smoothed: np.ndarray,
    calibration: Calibration | None,
) -> ScanMaps:
    """The maps of one scan, put together.

    Args:
        frame: where its samples lie.
        anomaly: on the template's grid, as `scan_stack` gives it; so the following.
        brain: bool.
        reconstruction: on the template's grid.
        smoothed: the anomaly map smoothed as the calibration's were.
        calibration: None makes no z-scores.
    """
    images = {"anomaly": np.where(brain, anomaly, 0).astype(np.float32), "reconstruction": reconstruction}
    covered = {"anomaly": brain, "reconstruction": frame.covered, "covered": brain}
    if calibration is not None:
        images["zscore"] = calibration.z(smoothed, brain)
        covered["zscore"] = brain & calibration.covered
    return ScanMaps(images, covered)


def folder_of(scan: str) -> Path:
    """The folder of a scan ``sub-<subject>[_ses-<session>]`` in the tree."""
    return Path(*scan.split("_"), "anat")


def write_maps(
    tree: Path,
    scan: str,
    maps: ScanMaps,
    frame: Frame,
    origin: dict,
    native: tuple[np.ndarray, Sequence[int], np.ndarray] | None,
    anatomy: np.ndarray | None = None,
) -> dict[str, str]:
    """Write the maps of one scan in template space and, if it is known, on the scan's own grid.

    Args:
        tree: folder of the derivative.
        scan: ``sub-<subject>[_ses-<session>]``.
        maps: on the template's grid.
        frame: where its samples lie.
        origin: what the sidecars say of model and code, see `origin_of`.
        native: mm of the scan → mm of template space, the scan's shape and its affine.
        anatomy: the preprocessed scan, to be written beside the maps in template space.

    Returns:
        The paths of the images within the tree, by ``anomaly``, ``anomaly_native`` and so on.
    """
    folder = Path(tree) / folder_of(scan)
    folder.mkdir(parents=True, exist_ok=True)
    resolution = f"{frame.affine[0, 0]:g}"
    res = resolution.replace(".", "p")
    written = {}
    images = {name: (image, maps.covered[name]) for name, image in maps.images.items()}
    images["covered"] = (maps.covered["covered"].astype(np.uint8), maps.covered["covered"])
    if anatomy is not None:
        images[ANATOMY] = (anatomy.astype(np.float32), anatomy > 0)
    for name, (image, covered) in images.items():
        suffix = "mask" if name == "covered" else "T1w"
        side = sidecar(name, frame, origin)
        stem = f"{scan}_space-{TEMPLATE}_res-{res}_desc-{name}_{suffix}"
        space = {"SpatialReference": TEMPLATE, "Resolution": f"voxels of {resolution} mm, grid of the template"}
        written[name] = save(tree, folder, stem, nifti(image, frame.affine), {**side, **space})
        if native is None or name == ANATOMY:
            continue
        back, shape, affine = native
        values, inside = to_native(image, covered, frame.affine, back, shape, affine)
        image = nifti(inside.astype(np.uint8) if name == "covered" else values, affine, "scanner")
        stem = f"{scan}_space-scanner_desc-{name}_{suffix}"
        written[f"{name}_native"] = save(tree, folder, stem, image, {**side, "SpatialReference": "orig"})
    return written


def is_map(name: str) -> bool:
    """Whether a file's name is one that `write_maps` gives."""
    return MADE.search(name) is not None


def clear_maps(tree: Path, scan: str) -> None:
    """Remove maps and pictures of one scan, and nothing else: the folder may be one in which scans lie, too."""
    old = [path for path in (tree / folder_of(scan)).glob(f"{scan}_space-*") if is_map(path.name)]
    for path in (*old, *(tree / "figures" / f"{scan}.{kind}" for kind in ("png", "pdf", "html"))):
        path.unlink(missing_ok=True)


def save(tree: Path, folder: Path, stem: str, image: nibabel.Nifti1Image, side: dict) -> str:
    """Write an image with its sidecar; its path within the tree is returned."""
    nibabel.save(image, folder / f"{stem}.nii.gz")
    (folder / f"{stem}.json").write_text(json.dumps(side, indent=2) + "\n", encoding="utf-8")
    return (folder / f"{stem}.nii.gz").relative_to(tree).as_posix()


def origin_of(
    description: dict, model: str, calibration: Calibration | None, code: str, simulated: bool | None
) -> dict:
    """What is said of model, code and calibration beside each image.

    Args:
        description: content of the model's ``model.json``.
        model: its name in the study.
        calibration: None if there is none.
        code: version of the code that wrote the maps.
        simulated: whether the scans are; None if nobody knows.
    """
    said = {
        "Model": model,
        "ModelClass": description["class"],
        "Seed": description["metadata"].get("seed"),
        "CodeVersion": code,
        "SimulatedScans": simulated,
    }
    if calibration is not None:
        known = calibration.record
        said["Calibration"] = {
            "Subjects": known["subjects"],
            "MinimumSubjects": known["maps"]["minimum_subjects"],
            "FloorAsShareOfMedian": known["maps"]["std_floor"],
            "Floor": calibration.floor,
            "SmoothingInMillimetres": known["maps"]["smoothing"],
        }
    return said


def sidecar(name: str, frame: Frame, origin: dict) -> dict:
    """The content of a sidecar, without the space."""
    said = dict(origin)
    known = said.pop("Calibration", None)
    side = {"Description": DESCRIPTIONS.get(name, "")}
    if name == "zscore":
        text = Z_SCORE.format(floor=known["FloorAsShareOfMedian"], least=known["MinimumSubjects"])
        side = {"Description": text, "Calibration": known}
    if name == "covered":
        side["Type"] = "Brain"
    else:
        side |= {"SkullStripped": True, "Units": UNITS.get(name, "arbitrary, 0 to 1")}
    return {**side, "Covered": frame.extent(), **{key: value for key, value in said.items() if value is not None}}


def describe(tree: Path, name: str, frame: Frame, origin: dict) -> None:
    """Write what tells of the tree as a whole: ``dataset_description.json``, ``README``, ``.bidsignore``.

    Args:
        tree: folder of the derivative.
        name: its title.
        frame: where samples lie.
        origin: what `origin_of` gives.
    """
    tree = Path(tree)
    tree.mkdir(parents=True, exist_ok=True)
    what = f"model {origin['Model']} ({origin['ModelClass']}), seed {origin['Seed']}"
    description = {
        "Name": name + " (simulated scans)" * bool(origin["SimulatedScans"]),
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "brainuad", "Version": origin["CodeVersion"], "Description": what}],
    }
    (tree / "dataset_description.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    text = README.format(
        name=name,
        note="All scans are simulated. " * bool(origin["SimulatedScans"]),
        model=origin["Model"],
        kind=origin["ModelClass"],
        seed=origin["Seed"],
        code=origin["CodeVersion"],
        template=TEMPLATE,
        extent=in_words(frame),
        subjects=origin.get("Calibration", {}).get("Subjects", "no"),
    )
    (tree / "README").write_text(text, encoding="utf-8")
    (tree / ".bids-validator-config.json").write_text(json.dumps(FOR_NPM) + "\n", encoding="utf-8")
    (tree / ".bidsignore").write_text("\n".join(IGNORED) + "\n", encoding="utf-8")


def in_words(frame: Frame) -> str:
    """What was cut of the template."""
    known = frame.extent()
    if frame.volumes:
        return ", ".join(f"{axis[0].lower()} from {low:g} to {high:g} mm" for axis, (low, high) in known.items())
    heights = ", ".join(f"{z:g}" for z in known["SlicesAtZ"])
    return f"axial slices of {known['SliceThickness']:g} mm at z = {heights} mm of template space"
